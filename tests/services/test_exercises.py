"""Every exercise: untouched it fails, wrong answers fail with a message that fits, right ones pass from fresh.

A MySQL server that starts from nothing costs seconds of a processor: two serve them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from docker.errors import NotFound

from labhelpers.course import mysql
from labhelpers.course.containers import store_value
from labhelpers.course.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.services import exercises, monitor

pytestmark = pytest.mark.usefixtures("temporary_state")
NAMES = ("shop-db", "door", "late", "mute-db", "mended-db", "watcher", "watched", "behind", "door-2")
Act = Callable[[Lab], Any]
FOREVER = ["sleep", "600"]


@pytest.fixture(scope="module")
def room(shared_lab: Lab) -> Iterator[Lab]:
    yield shared_lab
    gone(shared_lab, *NAMES)
    for name in ("half-made", "opened"):
        with suppress(NotFound):
            shared_lab.client.volumes.get(name).remove(force=True)


def gone(lab: Lab, *names: str) -> None:
    for name in names:
        with suppress(NotFound):
            lab.client.containers.get(name).remove(force=True, v=True)


def put(lab: Lab, name: str, image: str = "payload", command: Any = None, **options: Any) -> None:
    """A container of that name, as from a terminal, in place of one that is there."""
    gone(lab, name)
    ref = image if "/" in image else lab.image(image)
    lab.client.containers.run(
        ref, command, name=name, detach=True, labels=lab._labels("container"), **options
    )


def fails(exercise: Exercise, words: str) -> None:
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), verdict


def passes(exercise: Exercise, within_s: float = 0) -> None:
    """Within the time that a server takes for its first start."""
    end = time.monotonic() + within_s
    while not (verdict := exercise.check()).passed and time.monotonic() < end:
        time.sleep(0.3)
    assert verdict.passed, verdict


def here(lab: Lab) -> tuple[str, int]:
    return ("127.0.0.1", exercises.port_for(lab, "shop-db"))


def forwarder(lab: Lab) -> None:
    """`shop-db` passes every connection on to another container's server."""
    address = lab.client.api.inspect_container("behind")["NetworkSettings"]["IPAddress"]
    words = ["nc", "-ll", "-p", "3306", "-e", "nc", address, "3306"]
    put(lab, "shop-db", command=words, ports={"3306/tcp": here(lab)})


# --- the book's line, for today


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab: gone(lab, "shop-db"), "no container named shop-db", "variable `ref`"),
        (lambda lab: put(lab, "shop-db"), "its port 3306 is not published", "in this order"),
        (
            lambda lab: put(lab, "shop-db", ports={"3306/tcp": ("0.0.0.0", None)}),
            "other machines may come in",
            "three parts",
        ),
        (
            lambda lab: put(lab, "shop-db", ports={"3306/tcp": ("127.0.0.2", here(lab)[1])}),
            "and not on 127.0.0.1",
            "in this order",
        ),
        (
            lambda lab: put(lab, "shop-db", ports={"3306/tcp": ("127.0.0.1", None)}),
            f"not as {''}",
            "in this order",
        ),
        # MySQL's other protocol has the same accounts
        (
            lambda lab: put(lab, "shop-db", ports={"3306/tcp": here(lab), "33060/tcp": ("0.0.0.0", None)}),
            "its port 33060 is published on 0.0.0.0",
            "every port of the image",
        ),
        (
            lambda lab: put(lab, "shop-db", command=FOREVER, ports={"3306/tcp": here(lab)}),
            "does not accept connections",
            "takes some seconds",
        ),
        (
            lambda lab: put(
                lab,
                "shop-db",
                command=["nc", "-ll", "-p", "3306", "-e", "echo", "hello"],
                ports={"3306/tcp": here(lab)},
            ),
            "shop-db",
            "",
        ),
    ],
)
def test_repaired_wrong(room: Lab, wrong: Act, words: str, hint: str) -> None:
    wrong(room)
    exercise = exercises.repaired(room)
    fails(exercise, words)
    assert hint in exercise.hint()


def test_repaired_and_password(room: Lab) -> None:
    """Two exercises in one, with one server."""
    lab = room
    repaired, password = exercises.repaired(lab), exercises.password(lab)
    lab.client.containers.get("mute-db").wait()
    fails(password, "mute-db is not running")
    assert "names what it misses" in password.hint()
    put(lab, "mute-db", network="none", environment={"MYSQL_ROOT_PASSWORD": "x"})
    fails(password, "does not accept connections")
    word = exercises.password_for(lab, "shop-db")
    # an unusual way to the password: from a file, as a secret is given
    script = 'printf "%s" "$WORD" >/run/word; exec docker-entrypoint.sh mysqld'
    variables = {"WORD": word, "MYSQL_ROOT_PASSWORD_FILE": "/run/word"}
    put(lab, "shop-db", "mysql", ["sh", "-c", script], environment=variables, ports={"3306/tcp": here(lab)})
    passes(repaired, 300)
    passes(exercises.repaired(lab))
    assert repaired.hint().startswith("All tasks")

    gone(lab, "mute-db")
    server = lab.client.containers.get("shop-db")
    server.rename("mute-db")
    passes(password)
    passes(exercises.password(lab))
    with mysql.connect(lab, "mute-db", password=word) as connection:
        mysql.rows(connection, "alter user 'root'@'%' identified by ''")
        fails(password, "root gets in without a password")
        assert "opens the database to everybody" in password.hint()
        mysql.rows(connection, "alter user 'root'@'%' identified by 'another'")
        fails(password, "does not take this password")
        mysql.rows(connection, "alter user 'root'@'%%' identified by %s", word)
        mysql.rows(connection, "alter user 'root'@'localhost' identified by ''")
        fails(password, "from inside, through the server's socket")
        mysql.rows(connection, "alter user 'root'@'localhost' identified by %s", word)
    passes(password)

    # a container that is no server, in front of one
    server.rename("behind")
    # that server keeps its port: another one is drawn
    store_value(lab, "port of shop-db", exercises._free_port(lab))
    repaired = exercises.repaired(lab)
    forwarder(lab)
    deadline = time.monotonic() + 60
    while "does not accept" in str(repaired.check()) and time.monotonic() < deadline:
        time.sleep(0.3)
    fails(repaired, "shop-db passes the connection on")
    gone(lab, "behind", "shop-db")


# --- the port is taken


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab: gone(lab, "late"), "no container named late", "which one is free"),
        (
            lambda lab: lab.client.containers.create(
                lab.image("payload"), name="late", labels=lab._labels("container")
            ),
            "“created”",
            "could not be started",
        ),
        (lambda lab: put(lab, "late"), "its port 80 is not published", "in this order"),
        (
            lambda lab: put(lab, "late", ports={"80/tcp": ("0.0.0.0", None)}),
            "other machines may come in",
            "three parts",
        ),
        (
            lambda lab: put(lab, "late", "base", FOREVER, ports={"80/tcp": ("127.0.0.1", None)}),
            "runs another image",
            "which one is free",
        ),
        # the same number, at another address of loopback
        (
            lambda lab: put(lab, "late", ports={"80/tcp": ("127.0.0.2", exercises.port_for(lab, "door"))}),
            "and not on 127.0.0.1",
            "in this order",
        ),
        (
            lambda lab: put(
                lab,
                "late",
                ports={"80/tcp": [("127.0.0.1", None), ("127.0.0.2", exercises.port_for(lab, "door"))]},
            ),
            "its port is published as",
            "in this order",
        ),
    ],
)
def test_taken_wrong(room: Lab, wrong: Act, words: str, hint: str) -> None:
    gone(room, "late")
    exercise = exercises.taken(room)
    wrong(room)
    fails(exercise, words)
    assert hint in exercise.hint()


def test_taken_right(room: Lab) -> None:
    lab = room
    for ports in ({"80/tcp": ("127.0.0.1", None)}, {"80/tcp": [("127.0.0.1", None), ("127.0.0.1", None)]}):
        exercise = exercises.taken(lab)
        put(lab, "late", ports=ports)
        passes(exercise)
    lab.client.images.get(lab.image("payload")).tag("late-t/payload")
    put(lab, "late", "late-t/payload", ports={"80/tcp": ("127.0.0.1", None), "8080/tcp": ("127.0.0.1", None)})
    passes(exercise)
    lab.client.images.remove("late-t/payload", force=True)


def test_taken_leaves_the_other_alone(room: Lab) -> None:
    lab = room
    exercise = exercises.taken(lab)
    put(lab, "late", ports={"80/tcp": ("127.0.0.1", None)})
    door = lab.client.containers.get("door")
    door.pause()
    fails(exercise, "“paused”")
    door.unpause()
    passes(exercise)
    door.rename("door-2")
    fails(exercise, "no container named door")
    put(lab, "door", ports={"80/tcp": ("127.0.0.1", None)})
    fails(exercise, "door has been replaced")
    gone(lab, "door", "door-2")
    passes(exercises.taken(lab))


# --- half made


def test_half_made(room: Lab) -> None:
    lab = room
    exercise = exercises.half_made(lab)
    variables = {"MYSQL_ROOT_PASSWORD": exercises.password_for(lab, "mended-db")}
    server: dict[str, Any] = {"environment": variables, "network": "none"}
    mount = ["half-made:/var/lib/mysql"]
    fails(exercise, "no container named mended-db")
    assert "and read its log" in exercise.hint()
    put(lab, "mended-db", "mysql", volumes=mount, **server)
    lab.client.containers.get("mended-db").wait()
    fails(exercise, "mended-db is not running")
    assert "no data where files are" in exercise.hint()
    put(lab, "mended-db")
    fails(exercise, "is not the volume half-made")
    put(lab, "mended-db", volumes=["half-made:/var/lib/mysql2"])
    fails(exercise, "is not the volume half-made")
    put(lab, "mended-db", volumes=mount, network="none")
    fails(exercise, "does not accept connections")
    # an unusual way: what is in the volume is removed, and not the volume
    put(lab, "mended-db", command=["rm", "-f", "/data/ibdata1"], volumes=["half-made:/data"], network="none")
    lab.client.containers.get("mended-db").wait()
    put(lab, "mended-db", "mysql", volumes=mount, **server)
    passes(exercise, 300)
    passes(exercises.half_made(lab))  # the cell that is run again breaks nothing
    # the volume is mounted, and the server keeps its data elsewhere
    lab.client.containers.get("mended-db").stop(timeout=300)
    copy = "cp -a /var/lib/mysql /var/lib/elsewhere; exec setpriv --reuid=mysql --regid=mysql --init-groups"
    elsewhere = ["sh", "-c", f"{copy} mysqld --datadir=/var/lib/elsewhere"]
    put(lab, "mended-db", "mysql", elsewhere, volumes=mount, entrypoint="", **server)
    deadline = time.monotonic() + 120
    while "does not accept" in str(verdict := exercise.check()) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert "keeps its data in /var/lib/elsewhere/" in str(verdict)


def test_half_made_from_fresh(room: Lab) -> None:
    """The reference solution: the volume is removed, and a new one of that name is empty."""
    lab = room
    gone(lab, "mended-db")
    lab.client.volumes.get("half-made").remove()
    exercise = exercises.half_made(lab)
    fails(exercise, "no container named mended-db")
    lab.client.volumes.get("half-made").remove()
    variables = {"MYSQL_ROOT_PASSWORD": exercises.password_for(lab, "mended-db")}
    put(lab, "mended-db", "mysql", environment=variables, volumes=["half-made:/var/lib/mysql"])
    passes(exercise, 300)


# --- a monitor


def watch(lab: Lab, image: str = "netdata", **options: Any) -> None:
    port = {f"{monitor.PORT}/tcp": ("127.0.0.1", None)}
    put(lab, "watcher", image, **{"ports": port, "volumes": ["/sys:/sys:ro"], **options})


def liar(lab: Lab) -> None:
    """A page that says what a monitor would say, and knows nothing."""
    id = lab.client.containers.get("watched").id
    charts = f'{{"charts": {{"cgroup_{id}.cpu": {{}}, "cgroup_{id}.mem": {{}}}}}}'
    data = f'{{"labels": ["time", "rss"], "data": [[{time.time():.0f}, 1.0]]}}'
    script = (
        'mkdir -p /w/api/v1; printf "%s" "$1" >/w/api/v1/charts; printf "%s" "$2" >/w/api/v1/data; '
        f"exec httpd -f -p {monitor.PORT} -h /w"
    )
    watch(lab, "payload", command=["sh", "-c", script, "sh", charts, data], volumes=[])


def with_a_volume(lab: Lab) -> None:
    options = {"type": "none", "o": "bind", "device": "/"}
    lab.client.volumes.create("opened", driver_opts=options, labels=lab._labels("volume"))
    watch(lab, volumes=["/sys:/sys:ro", "opened:/host"])


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab: gone(lab, "watcher"), "no container named watcher", "variable `cadvisor`"),
        (
            lambda lab: watch(lab, "payload", command=FOREVER, volumes=["/sys:/sys"]),
            "of the host, writable",
            "needs its `ro`",
        ),
        (
            lambda lab: watch(lab, "payload", ports={f"{monitor.PORT}/tcp": ("0.0.0.0", None)}),
            "other machines may come in",
            "three parts",
        ),
        (
            lambda lab: watch(lab, "payload", volumes=["/:/rootfs:ro"]),
            "the whole disk of the host",
            "is no file to be read",
        ),
        (with_a_volume, "the whole disk of the host", "is no file to be read"),
        (lambda lab: watch(lab, "payload", pid_mode="host"), "a namespace with the host", "no right that"),
        (
            lambda lab: watch(lab, "payload", cap_add=["SYS_ADMIN"]),
            "the capability SYS_ADMIN",
            "no right that",
        ),
        (lambda lab: watch(lab, volumes=[]), "says nothing of watched", "counters of control groups"),
        (liar, "holds 1024 KiB; the kernel says", "counters of control groups"),
    ],
)
def test_watcher_wrong(room: Lab, wrong: Act, words: str, hint: str) -> None:
    gone(room, "watcher")
    exercise = exercises.watcher(room)
    wrong(room)
    fails(exercise, words)
    assert hint in exercise.hint()


@pytest.mark.parametrize(
    "options", [{"cap_drop": ["ALL"]}, {"volumes": ["/sys/fs/cgroup:/sys/fs/cgroup:ro"]}]
)
def test_watcher_right(room: Lab, options: dict[str, Any]) -> None:
    exercise = exercises.watcher(room)
    watch(room, **options)
    passes(exercise, 60)
    passes(exercises.watcher(room))


def test_cadvisor_without_the_socket_of_the_engine(room: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer as the project documents it (docs/api.md): the control group's path is the name."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime())
    stats = [{"timestamp": now, "cpu": {"usage": {"total": 5}}, "memory": {"rss": 7_000_000}}]
    groups = [{"name": "/"}, {"name": "/docker/abc", "stats": stats}]

    def answers(lab: Lab, container: Any, path: str, limit_s: float = 0) -> Any:
        return groups if path == "api/v1.3/subcontainers/" else {}

    monkeypatch.setattr(monitor, "_get", answers)
    assert monitor.memory_now(room, "any", "abc") == 7_000_000
    assert monitor.memory_now(room, "any", "def") is None
    stats[0]["timestamp"] = "2020-01-01T00:00:00.000000000Z"
    assert monitor.memory_now(room, "any", "abc") is None
