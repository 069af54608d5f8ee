"""Every exercise: untouched it fails, wrong answers fail with a message that fits, right ones pass from fresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from docker.errors import NotFound
from docker.types import Mount

from labhelpers.course.containers import stored_value
from labhelpers.course.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.volumes import common, exercises

pytestmark = pytest.mark.usefixtures("temporary_state")

STAY = ["sleep", "300"]
SERVE = ["httpd", "-f", "-h", "/www"]
MEMORY = {"type": "tmpfs", "device": "tmpfs"}
CONTAINERS = ("bookshelf", "bind-fix", "stays", "shop", "clerk", "t-holds")
VOLUMES = ("bookshelf", "archive-copy", "t-log", "t-www", "t-used", "t-nocopy", "t-desk", "t-memory")
Act = Callable[[Lab], Any]


@pytest.fixture(scope="module")
def room(shared_lab: Lab) -> Iterator[Lab]:
    """The lab of the room; what `-v` made for the exercises of this file carries no label."""
    yield shared_lab
    gone(shared_lab, *CONTAINERS)
    no_volume(shared_lab, *VOLUMES)


def gone(lab: Lab, *names: str) -> None:
    for name in names:
        with suppress(NotFound):
            lab.client.containers.get(name).remove(v=True, force=True)


def no_volume(lab: Lab, *names: str) -> None:
    for name in names:
        with suppress(NotFound):
            lab.client.volumes.get(name).remove(force=True)


def volume(lab: Lab, name: str, **options: str) -> None:
    """A new volume of that name; options are those of its driver."""
    no_volume(lab, name)
    lab.client.volumes.create(name, driver_opts=options, labels=lab._labels("volume"))


def put(lab: Lab, name: str, command: Any = STAY, image: str = "payload", **options: Any) -> None:
    """A container of that name, as from a terminal, in place of one that is there."""
    gone(lab, name)
    options = {"network_mode": "none", "labels": lab._labels("container"), **options}
    lab.client.containers.run(lab.image(image), command, name=name, detach=True, **options)


def once(lab: Lab, script: str, *volumes: str) -> None:
    """Run a shell script in a container that has these volumes, and wait for it."""
    common.output(lab, ["sh", "-c", script], volumes=list(volumes))


def says(exercise: Exercise, words: str) -> None:
    """It is not reached, and the verdict says so in these words."""
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), str(verdict)


def passes(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict


# --- 1: docker create volume


def shelf(lab: Lab, script: str, **options: str) -> None:
    volume(lab, "bookshelf", **options)
    if script:
        once(lab, script, "bookshelf:/d")


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab: None, "no volume called bookshelf", "here `volume`"),
        # `docker create`, with an image that is there
        (lambda lab: put(lab, "bookshelf"), "no volume called bookshelf", "is a container now"),
        (
            lambda lab: lab.client.volumes.create(labels=lab._labels("volume")),
            "no volume called bookshelf",
            "here `volume`",
        ),
        (lambda lab: shelf(lab, ""), "holds no file called title", "can write it"),
        (lambda lab: shelf(lab, "mkdir /d/title"), "it is a directory", "can write it"),
        (lambda lab: shelf(lab, "ln -s /etc/title /d/title"), "it is a link", "can write it"),
        # memory: the file was there as long as the container
        (lambda lab: shelf(lab, "echo > /d/title", **MEMORY), "holds no file called title", "can write it"),
    ],
)
def test_bookshelf_wrong(room: Lab, wrong: Act, words: str, hint: str) -> None:
    gone(room, "bookshelf")
    no_volume(room, "bookshelf")
    wrong(room)
    exercise = exercises.bookshelf(room)
    says(exercise, words)
    assert hint in exercise.hint()


def test_bookshelf_right(room: Lab) -> None:
    gone(room, "bookshelf")
    for point in ("/data", "/elsewhere/books"):
        no_volume(room, "bookshelf")
        exercise = exercises.bookshelf(room)
        says(exercise, "no volume called bookshelf")
        once(room, f"echo Emma > {point}/title", f"bookshelf:{point}")
        passes(exercise)
    # a container that never ran, and `docker cp`
    no_volume(room, "bookshelf")
    room.client.containers.create(
        room.image("payload"), name="t-holds", volumes=["bookshelf:/www"], labels=room._labels("container")
    )
    archive, _ = room.client.containers.get("t-holds").get_archive("/www/index.html")
    room.client.containers.get("t-holds").put_archive("/www", b"".join(archive))
    says(exercise, "holds no file called title")
    gone(room, "t-holds")


# --- 2: a dot for a comma


def bound(lab: Lab, desk: str, **options: Any) -> None:
    put(lab, "bind-fix", volumes=[f"{desk}:/var/log"], **options)


def hidden(lab: Lab, desk: str) -> None:
    """/var/log/hello is a mount of another file."""
    once(lab, "echo hello > /d/hello; echo other > /d/other", f"{desk}:/d")
    put(lab, "bind-fix", volumes=[f"{desk}:/var/log", f"{desk}/other:/var/log/hello"])


def written_by_another(lab: Lab, desk: str) -> None:
    once(lab, "echo > /d/hello", f"{desk}:/d")
    put(lab, "bind-fix", volumes=[f"{desk}:/var/log:ro"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab, desk: None, "no container named bind-fix"),
        (lambda lab, desk: put(lab, "bind-fix"), "nothing is mounted at /var/log"),
        (lambda lab, desk: put(lab, "bind-fix", volumes=[f"{desk}:/log"]), "there is something at /log"),
        # a name, not a path
        (lambda lab, desk: put(lab, "bind-fix", volumes=["t-desk:/var/log"]), "is a volume, and not a bind"),
        # -v and a slip of the pen: below a volume of the lab, so that nothing stays
        (lambda lab, desk: put(lab, "bind-fix", volumes=[f"{desk}/slip:/var/log"]), "another directory than"),
        (bound, "no file called hello"),
        (
            lambda lab, desk: (bound(lab, desk), lab.exec("bind-fix", ["mkdir", "/var/log/hello"])),
            "is no file, it is a directory",
        ),
        (written_by_another, "is mounted read-only"),
        (hidden, "is another file than"),
    ],
)
def test_comma_wrong(room: Lab, wrong: Callable[[Lab, str], Any], words: str) -> None:
    gone(room, "bind-fix")
    desk = exercises.desk(room)
    once(room, "rm -rf /d/*", f"{desk}:/d")
    exercise = exercises.comma(room)
    wrong(room, desk)
    says(exercise, words)


def test_comma_right(room: Lab) -> None:
    desk = exercises.desk(room)
    for options in (
        {"mounts": [Mount("/var/log", desk, type="bind")]},
        {"volumes": [f"{desk}/:/var/log/"]},
        {"mounts": [Mount("/var/log", f"{desk}/../_data", type="bind")], "user": "4321", "image": "base"},
    ):
        once(room, "rm -rf /d/*; chmod 777 /d", f"{desk}:/d")
        exercise = exercises.comma(room)
        put(room, "bind-fix", **options)
        says(exercise, "no file called hello")
        room.exec("bind-fix", ["touch", "/var/log/hello"])
        passes(exercise)
    assert exercises.desk(room) == desk


# --- 3: it exits at once

LOG = {"volumes": ["t-log:/var/log"]}


def ended(lab: Lab, command: Any, **options: Any) -> None:
    put(lab, "stays", command, **{**LOG, **options})
    lab.client.containers.get("stays").wait()


def again_and_again(lab: Lab) -> None:
    put(lab, "stays", ["sh", "-c", "sleep 0.5"], restart_policy={"Name": "always"}, **LOG)
    lab.wait_for("its next start", lambda: lab.inspect("stays")["RestartCount"] > 0, common.TIMEOUT_S)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab: None, "no container named stays"),
        (lambda lab: ended(lab, None, image="base"), "exit code 0"),
        (lambda lab: ended(lab, ["sh", "-c", "exit 3"]), "exit code 3"),
        (again_and_again, "stays"),  # it runs, or waits for its next start
        (lambda lab: put(lab, "stays"), "nothing is mounted at /var/log"),
        (lambda lab: put(lab, "stays", volumes=["/var/log"]), "no volume with a name"),
        (lambda lab: put(lab, "stays", volumes=[f"{exercises.desk(lab)}:/var/log"]), "no volume with a name"),
        (lambda lab: put(lab, "stays", ["sleep", "8"], **LOG), "s so far: wait until it is 10 s"),
        (
            lambda lab: (volume(lab, "t-memory", **MEMORY), put(lab, "stays", volumes=["t-memory:/var/log"])),
            "is memory",
        ),
    ],
)
def test_stays_wrong(room: Lab, wrong: Act, words: str) -> None:
    gone(room, "stays")
    exercise = exercises.stays(room)
    wrong(room)
    says(exercise, words)


def test_stays_hints(room: Lab) -> None:
    exercise = exercises.stays(room)
    ended(room, None, image="base")
    assert "end of its input" in exercise.hint()
    put(room, "stays", **LOG)
    assert "but to wait" in exercise.hint()


def test_stays_right(room: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "MIN_RUNTIME_S", 1)  # the number alone: the check is the same
    for options in ({"command": STAY}, {"command": None, "image": "base", "tty": True, "stdin_open": True}):
        put(room, "stays", **{**LOG, **options})
        room.wait_for("it to run for a second", lambda: exercises.stays(room).check().passed, 20)
    room.client.containers.get("stays").restart(timeout=0)
    says(exercises.stays(room), "started again by hand")


# --- 4: the page that vanished


def served(lab: Lab, command: Any = SERVE, **options: Any) -> None:
    put(lab, "shop", command, **options)


def listening(lab: Lab) -> None:
    container = lab.client.containers.get("shop")
    lab.wait_for("it to listen", lambda: bool(exercises._listening_ports(lab, container)), common.TIMEOUT_S)


def filled_before(lab: Lab, script: str) -> None:
    once(lab, script, "t-used:/d")
    served(lab, volumes=["t-used:/www"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab: None, "no container named shop"),
        (served, "nothing is mounted at /www"),
        (lambda lab: served(lab, volumes=[f"{exercises.desk(lab)}:/www"]), "is a bind mount, and not"),
        (lambda lab: served(lab, volumes=["/www"]), "has no name"),
        (lambda lab: served(lab, mounts=[Mount("/www", "t-nocopy", no_copy=True)]), "it sees nothing"),
        (lambda lab: filled_before(lab, "touch /d/old"), "it sees old"),
        (lambda lab: filled_before(lab, "echo mine > /d/index.html"), "is not the image's"),
        (lambda lab: served(lab, STAY, volumes=["t-www:/www"]), "nothing in shop listens"),
        (
            lambda lab: (
                served(lab, ["httpd", "-f", "-h", "/etc"], volumes=["t-www:/www"]),
                listening(lab),
            ),
            "does not send the image's page",
        ),
        (lambda lab: served(lab, STAY, image="base", volumes=["t-www:/www"]), "another image"),
        (
            lambda lab: (volume(lab, "t-memory", **MEMORY), served(lab, volumes=["t-memory:/www"])),
            "is memory",
        ),
    ],
)
def test_shop_wrong(room: Lab, wrong: Act, words: str) -> None:
    gone(room, "shop")
    no_volume(room, "t-www", "t-used", "t-nocopy", "t-memory")
    exercise = exercises.shop(room)
    wrong(room)
    says(exercise, words)


def test_shop_hints(room: Lab) -> None:
    gone(room, "shop")
    no_volume(room, "t-used", "t-nocopy")
    exercise = exercises.shop(room)
    served(room, mounts=[Mount("/www", "t-nocopy", no_copy=True)])
    assert "from filling it" in exercise.hint()
    filled_before(room, "touch /d/old")
    assert "Only an empty one is filled" in exercise.hint()


def test_shop_right(room: Lab) -> None:
    for command in (SERVE, ["httpd", "-f", "-p", "8081", "-h", "/www"]):
        gone(room, "shop")
        no_volume(room, "t-www")
        exercise = exercises.shop(room)
        says(exercise, "no container named shop")
        served(room, command, volumes=["t-www:/www"])
        room.wait_for("it to serve the page", lambda: exercises.shop(room).check().passed, common.TIMEOUT_S)
    gone(room, "shop")
    no_volume(room, "t-used")
    filled_before(room, "cp -a /www/. /d/")  # by hand
    room.wait_for("it to serve the page", lambda: exercises.shop(room).check().passed, common.TIMEOUT_S)


# --- 5: the clerk's ledger


def ledger_of(lab: Lab) -> tuple[str, int]:
    exercises.ledger(lab)
    name, user = stored_value(lab, "ledger")
    return name, user


def clerk(lab: Lab, prepared: str = "", **options: Any) -> None:
    name, user = ledger_of(lab)
    if prepared:
        once(lab, prepared.replace("USER", str(user)), f"{name}:/ledger")
    put(lab, "clerk", **{"user": str(user), "volumes": [f"{name}:/ledger"], **options})


def writes(lab: Lab) -> None:
    assert lab.exec("clerk", ["touch", "/ledger/entries"]).exit_code == 0


GIVEN = "chown USER /ledger; "
FRESH = "rm -rf /ledger/*; chmod 755 /ledger; chown 0:0 /ledger"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab: None, "no container named clerk"),
        (lambda lab: clerk(lab, user="0"), "belongs to user 0"),
        (lambda lab: clerk(lab, volumes=[]), "nothing is mounted at /ledger"),
        (lambda lab: clerk(lab, volumes=["/ledger"]), "is not the volume"),
        (clerk, "no file /ledger/entries"),
        # root writes in its place
        (lambda lab: clerk(lab, "touch /ledger/entries"), "/ledger/entries belongs to user 0"),
        # root gives it an empty file: it owns that, and can write nothing else
        (
            lambda lab: clerk(lab, "touch /ledger/entries; chown USER /ledger/entries"),
            "cannot write into the volume",
        ),
        (lambda lab: (clerk(lab, "chmod 777 /ledger"), writes(lab)), "everybody may write into it"),
        (
            lambda lab: clerk(
                lab,
                f"{GIVEN} touch /ledger/entries; chown USER /ledger/entries",
                volumes=[f"{ledger_of(lab)[0]}:/ledger:ro"],
            ),
            "cannot write into the volume",
        ),
        (
            lambda lab: clerk(lab, f"{GIVEN} mkdir /ledger/entries; chown USER /ledger/entries"),
            "is no file, it is a directory",
        ),
        (
            lambda lab: (
                clerk(lab, GIVEN),
                writes(lab),
                lab.exec("clerk", ["chmod", "666", "/ledger/entries"]),
            ),
            "everybody may write to",
        ),
    ],
)
def test_ledger_wrong(room: Lab, wrong: Act, words: str) -> None:
    clerk(room, FRESH)
    gone(room, "clerk")
    exercise = exercises.ledger(room)
    wrong(room)
    says(exercise, words)


def test_ledger_hints(room: Lab) -> None:
    exercise = exercises.ledger(room)
    clerk(room, FRESH)
    assert "belongs to root" in exercise.hint()
    clerk(room, "touch /ledger/entries; chown USER /ledger/entries")
    assert "not enough to make the next one" in exercise.hint()
    clerk(room, "chmod 777 /ledger")
    assert "and not its mode" in exercise.hint()


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (GIVEN, {}),
        ("chmod 775 /ledger", {"user": "USER:0"}),  # a right of root's group
        ("chgrp 77 /ledger; chmod 770 /ledger", {"group_add": ["77"]}),
    ],
)
def test_ledger_right(room: Lab, script: str, options: dict[str, Any]) -> None:
    exercise = exercises.ledger(room)
    name, user = ledger_of(room)
    options = {
        key: value.replace("USER", str(user)) if key == "user" else value for key, value in options.items()
    }
    clerk(room, FRESH, **options)
    says(exercise, "no file /ledger/entries")
    once(room, script.replace("USER", str(user)), f"{name}:/ledger")
    writes(room)
    passes(exercise)
    passes(exercises.ledger(room))  # the cell that is run again keeps all
    left = [entry.path for entry in room.host.directory(common.directory_of(room, name))]
    assert left == ["entries"], "the check removes what it tries with"


# --- 6: a copy of an archive


def archive_of(lab: Lab) -> str:
    exercises.archive(lab)
    return str(stored_value(lab, "archive")[0])


def copied(script: str) -> Act:
    return lambda lab: once(lab, script, f"{archive_of(lab)}:/from:ro", "archive-copy:/to")


def same_directory(lab: Lab) -> None:
    """Another name for the same files."""
    source = common.directory_of(lab, archive_of(lab))
    volume(lab, "archive-copy", type="none", o="bind", device=source)
    put(lab, "t-holds", volumes=["archive-copy:/to"])


def hard_links(lab: Lab) -> None:
    volume(lab, "archive-copy")
    above = common.directory_of(lab, archive_of(lab)).rsplit("/", 2)[0]
    tools = ["cp", "-al", f"/v/{archive_of(lab)}/_data/.", "/v/archive-copy/_data/"]
    common.output(lab, tools, image="tools", volumes=[f"{above}:/v"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab: None, "no volume called archive-copy"),
        (copied("true"), "archive-copy has no 2024"),
        (copied("cp -a /from /to/"), "archive-copy has no 2024"),  # the directory, not what is in it
        (copied("cp -r /from/. /to/"), "another owner"),
        (copied("cp -a /from/. /to/; touch /to/more"), "has more, which"),
        (copied("cp -a /from/. /to/; echo changed > /to/2024/January"), "another contents"),
        (copied("cp -a /from/. /to/; rm /to/latest; cp /from/latest /to/latest"), "another kind"),
        (copied("cp -a /from/. /to/; chmod 644 /to/key"), "another mode"),
        (same_directory, "the very files of"),
        (hard_links, "the very files of"),
    ],
)
def test_archive_wrong(room: Lab, wrong: Act, words: str) -> None:
    no_volume(room, "archive-copy")
    exercise = exercises.archive(room)
    wrong(room)
    says(exercise, words)
    gone(room, "t-holds")


@pytest.mark.parametrize("copy", ["cp -a /from/. /to/", "tar -C /from -cf - . | tar -C /to -xpf -"])
def test_archive_right(room: Lab, copy: str) -> None:
    no_volume(room, "archive-copy")
    exercise = exercises.archive(room)
    says(exercise, "no volume called archive-copy")
    copied(copy)(room)
    passes(exercise)


def test_archive_keeps_the_original(room: Lab) -> None:
    name = archive_of(room)
    once(room, "cp -p /data/key /data/keep; echo changed > /data/key", f"{name}:/data")
    says(exercises.archive(room), "is not as it was")
    once(room, "cp -p /data/keep /data/key; rm /data/keep", f"{name}:/data")
