"""Every exercise: untouched it fails, wrong answers fail with a message that fits, right ones pass from fresh."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from labhelpers.course.containers import container_named, not_running
from labhelpers.course.exercises import Exercise
from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.monitoring import exercises
from labhelpers.monitoring.engine_socket import SOCKET_PATH, EngineSocket

pytestmark = pytest.mark.usefixtures("temporary_state")

ALONE: dict[str, Any] = {"network": "none"}
STAY = ["sleep", "600"]
Act = Callable[[Lab], Any]


def gone(lab: Lab, *names: str) -> None:
    for name in names:
        with suppress(NotFound):
            lab.client.containers.get(name).remove(force=True, v=True)
    for name in names:
        with suppress(NotFound):
            lab.client.volumes.get(name).remove(force=True)


def volume(lab: Lab, name: str, **options: str) -> None:
    """A new volume of that name; options are those of its driver."""
    gone(lab, name)
    lab.client.volumes.create(name, driver_opts=options, labels=lab._labels("volume"))


def put(lab: Lab, name: str, command: Any = None, image: str = "payload", **options: Any) -> Any:
    """A container of that name, as from a terminal, in place of one that is there."""
    with suppress(NotFound):
        lab.client.containers.get(name).remove(force=True)
    options = {"network_mode": "none", "labels": lab._labels("container"), **options}
    return lab.client.containers.run(lab.image(image), command, name=name, detach=True, **options)


def once(lab: Lab, script: str, *volumes: str) -> None:
    """Run a shell script in a container that has these volumes, and wait for it."""
    put(lab, "once", ["sh", "-c", script], volumes=list(volumes)).wait()
    gone(lab, "once")


def fails(exercise: Exercise, words: str) -> None:
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), verdict


def passes_twice(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict
    assert exercise.check().passed


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def light_again(lab: Lab, before: int = 0) -> bool:
    return int(lab.client.containers.get("lighthouse").attrs["RestartCount"]) > before


def light_killed(lab: Lab, before: int = 0) -> bool:
    """Asked to end until it does: a process 1 that has set no handler yet does not see the signal (signal(7))."""
    with suppress(LabError):  # it is ending, or between two lives
        lab.exec("lighthouse", ["kill", "1"])
    return light_again(lab, before)


def kept_by(lab: Lab, **options: Any) -> None:
    volume(lab, "shelf_data")
    once(lab, "echo one >/d/book", "shelf_data:/d")
    put(lab, "keeps", STAY, **options)


def by_its_path(lab: Lab) -> None:
    volume(lab, "shelf_data")
    path = lab.client.volumes.get("shelf_data").attrs["Mountpoint"]
    kept_by(lab, volumes=[f"{path}:/d"])


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab: None, "no volume called shelf_data", "make a container from the image “volume”"),
        (lambda lab: put(lab, "shelf_data"), "no volume called shelf_data", "is a container here"),
        (lambda lab: volume(lab, "shelf_data"), "is empty", "is filled by a container"),
        (
            lambda lab: (volume(lab, "shelf_data"), once(lab, "touch /d/book", "shelf_data:/d")),
            "no file in shelf_data holds anything",
            "is filled by a container",
        ),
        (lambda lab: kept_by(lab, volumes=["shelf_data:/d:ro"]), "keeps still uses it", "`docker rm -v`"),
        (by_its_path, "keeps still uses it", "`docker rm -v`"),
        # memory is gone with its container
        (
            lambda lab: (
                volume(lab, "shelf_data", type="tmpfs", device="tmpfs"),
                once(lab, "echo one >/d/book", "shelf_data:/d"),
            ),
            "is empty",
            "is filled by a container",
        ),
    ],
)
def test_make_the_volume_wrong(shared_lab: Lab, wrong: Act, words: str, hint: str) -> None:
    gone(shared_lab, "keeps", "shelf_data")
    wrong(shared_lab)
    exercise = exercises.make_the_volume(shared_lab)
    fails(exercise, words)
    assert hint in exercise.hint()
    gone(shared_lab, "keeps", "shelf_data")


@pytest.mark.parametrize("script", ["echo one >/d/book", "mkdir -p /d/a/b; echo one >/d/a/b/book"])
def test_make_the_volume_right(shared_lab: Lab, script: str) -> None:
    gone(shared_lab, "shelf_data")
    exercise = exercises.make_the_volume(shared_lab)
    fails(exercise, "no volume called shelf_data")
    once(shared_lab, script, "shelf_data:/d")
    passes_twice(exercise)
    gone(shared_lab, "shelf_data")


@pytest.fixture
def till(shared_lab: Lab) -> Iterator[tuple[Exercise, str]]:
    """The exercise, fresh, and the directory where the first container's takings are."""
    exercise = exercises.name_not_path(shared_lab)
    (mount,) = shared_lab.client.containers.get("till").attrs["Mounts"]
    yield exercise, str(mount["Source"])
    gone(shared_lab, "till", "till_data")


def filled(script: str, *volumes: str) -> Callable[[Lab, str], Any]:
    def act(lab: Lab, old: str) -> None:
        mounts = [one.replace("OLD", old) for one in volumes]
        put(lab, "till", ["sh", "-c", f"{script}; touch /filled; exec sleep 600"], volumes=mounts)
        until(lambda: lab.exec("till", ["test", "-e", "/filled"]).exit_code == 0)

    return act


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (lambda lab, old: None, "a directory of the host (bind)", "Look first where its data is"),
        (filled("true", "OLD:/data"), "a directory of the host", "Look first"),
        (filled("true", "till_data:/date"), "nothing is mounted at /data", "Mounts"),
        (filled("true", "/data"), "/data of till is the volume", "Mounts"),
        (filled("true", "till_data:/data"), "no file /data/takings", "still where the path"),
        (filled("echo new >/data/takings", "till_data:/data"), "other takings", "still where the path"),
        # the old file is shown at that path, and is not in the volume
        (
            filled("true", "till_data:/data", "OLD/takings:/data/takings"),
            "holds other takings",
            "still where the path",
        ),
        (filled("ln -s /old/takings /data/takings", "till_data:/data", "OLD:/old"), "it is a link", "still"),
        (
            lambda lab, old: (
                filled("cp /old/takings /data/", "till_data:/data", "OLD:/old")(lab, old),
                until(lambda: lab.exec("till", ["test", "-s", "/data/takings"]).exit_code == 0),
                filled("true", "till_data:/data:ro")(lab, old),
            ),
            "may only read its /data",
            "Mounts",
        ),
    ],
)
def test_name_not_path_wrong(
    shared_lab: Lab, till: tuple[Exercise, str], wrong: Callable[[Lab, str], Any], words: str, hint: str
) -> None:
    exercise, old = till
    wrong(shared_lab, old)
    fails(exercise, words)
    assert hint in exercise.hint()


@pytest.mark.parametrize(
    "right",
    [
        filled("cp /old/takings /data/", "OLD:/old:ro", "till_data:/data"),
        filled("cat /old/takings >/data/takings", "OLD:/old", "till_data:/data/"),
    ],
)
def test_name_not_path_right(
    shared_lab: Lab, till: tuple[Exercise, str], right: Callable[[Lab, str], Any]
) -> None:
    exercise, old = till
    right(shared_lab, old)
    until(lambda: shared_lab.exec("till", ["test", "-s", "/data/takings"]).exit_code == 0)
    passes_twice(exercise)
    passes_twice(exercises.name_not_path(shared_lab))


def test_comes_back(shared_lab: Lab) -> None:
    lab = shared_lab
    exercise = exercises.comes_back(lab)
    assert "no container named lighthouse" in str(exercise.check())

    def again(policy: str) -> Any:
        if container_named(lab, "lighthouse"):
            lab.remove("lighthouse", force=True)
        return lab.run(lab.image("payload"), name="lighthouse", restart=policy, **ALONE)

    again("no")
    assert "its restart policy is “no”" in str(exercise.check())
    again("on-failure")
    assert "has not failed" in exercise.hint()
    again("unless-stopped")
    assert "“unless-stopped”" in str(exercise.check())
    assert "one case" in exercise.hint()
    light = again("always")
    assert "RestartCount is 0" in str(exercise.check())
    light.restart(timeout=5)
    # by hand, which is no proof
    assert "RestartCount is 0" in str(exercise.check())
    until(lambda: light_killed(lab))
    # counted first: a container that is about to end still runs
    until(lambda: light_again(lab) and not_running(lab, "lighthouse") is None)
    passes_twice(exercise)
    # proved under another policy, and changed afterwards
    light = again("unless-stopped")
    until(lambda: light_killed(lab))
    until(lambda: not_running(lab, "lighthouse") is None)
    light.update(restart_policy={"Name": "always"})
    fails(exercise, "changed after the engine had started it again")
    until(lambda: light_killed(lab, 1))
    until(lambda: not_running(lab, "lighthouse") is None)
    passes_twice(exercise)
    gone(lab, "lighthouse")


@pytest.fixture(scope="module")
def guarded(shared_lab: Lab) -> Iterator[Exercise]:
    """The exercise, whose guard costs some seconds."""
    yield exercises.watch_only(shared_lab)
    gone(shared_lab, "watchman", "guard", "guard-post", "opened", "other")


ASK = "curl -s --unix-socket /guard/list.sock http://x/containers/json >/seen"
POSTED = "guard-post:/guard"


def watchman(lab: Lab, *volumes: str, image: str = "tools", **options: Any) -> None:
    put(lab, "watchman", STAY, image, volumes=list(volumes), **options)


def asks(lab: Lab) -> None:
    assert lab.exec("watchman", ["sh", "-c", ASK]).exit_code == 0


def opened(lab: Lab, device: str) -> None:
    gone(lab, "watchman")
    volume(lab, "opened", type="none", o="bind", device=device)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda lab, door: gone(lab, "watchman"), "no container named watchman"),
        (lambda lab, door: watchman(lab, POSTED, f"{door}:{SOCKET_PATH}"), "the engine's socket"),
        (lambda lab, door: watchman(lab, POSTED, f"{door}:/x:ro"), "even read-only"),
        (lambda lab, door: watchman(lab, POSTED, f"{Path(str(door)).parent}:/x"), "the engine's socket"),
        (lambda lab, door: watchman(lab, POSTED, "/:/host:ro"), "the whole disk of the host"),
        (
            lambda lab, door: (opened(lab, "/"), watchman(lab, POSTED, "opened:/x")),
            "the whole disk of the host",
        ),
        (
            lambda lab, door: (
                opened(lab, str(Path(str(door)).parent)),
                watchman(lab, POSTED, "opened:/x:ro"),
            ),
            "the engine's socket",
        ),
        (lambda lab, door: watchman(lab, volumes_from=["guard"]), "the engine's socket"),
        (
            lambda lab, door: watchman(lab, POSTED, pid_mode="container:guard"),
            "shares a PID namespace with guard",
        ),
        (lambda lab, door: watchman(lab, POSTED, pid_mode="host"), "a namespace with the host"),
        (lambda lab, door: watchman(lab, POSTED, network_mode="host"), "a namespace with the host"),
        (lambda lab, door: watchman(lab, POSTED, cap_add=["SYS_ADMIN"]), "the capability SYS_ADMIN"),
        (
            lambda lab, door: watchman(lab, POSTED, devices=["/dev/null:/dev/disk:rwm"]),
            "can open devices of the host",
        ),
    ],
)
def test_watch_only_with_a_way_to_the_engine(
    shared_lab: Lab,
    guarded: Exercise,
    engine_socket: EngineSocket,
    wrong: Callable[[Lab, EngineSocket], Any],
    words: str,
) -> None:
    wrong(shared_lab, engine_socket)
    fails(guarded, words)


def test_watch_only_hints(shared_lab: Lab, guarded: Exercise, engine_socket: EngineSocket) -> None:
    gone(shared_lab, "watchman")
    assert "labhelpers/tools" in guarded.hint()
    watchman(shared_lab, f"{engine_socket}:{SOCKET_PATH}:ro")
    assert "written to a connection" in guarded.hint()
    watchman(shared_lab, f"{engine_socket}:{SOCKET_PATH}")
    assert "nothing of /var/run/docker.sock" in guarded.hint()
    watchman(shared_lab, pid_mode="container:guard")
    assert "process ids of its own" in guarded.hint()


def brought(lab: Lab) -> None:
    """The list is put into a container that sees nothing."""
    watchman(lab, POSTED)
    asks(lab)
    seen = lab.client.containers.get("watchman")
    seen.rename("other")
    watchman(lab)
    archive, _ = seen.get_archive("/seen")
    text = lab.exec("other", ["cat", "/seen"]).stdout
    lab.client.containers.get("watchman").put_archive("/", b"".join(archive))
    gone(lab, "other")
    # with its own id in it, as `docker ps` outside would have written it
    mine = text.replace(str(seen.id), str(lab.client.containers.get("watchman").id))
    lab.exec("watchman", ["sh", "-c", 'printf "%s" "$1" >/seen', "sh", mine])


def replaced(lab: Lab) -> None:
    watchman(lab, POSTED)
    asks(lab)
    lab.client.containers.get("guard").rename("other")
    put(lab, "guard", STAY)


def test_watch_only_sees(shared_lab: Lab, guarded: Exercise) -> None:
    lab = shared_lab

    def writes(script: str) -> None:
        lab.exec("watchman", ["sh", "-c", script])

    watchman(lab, POSTED)
    fails(guarded, "no file /seen")
    writes("echo guard >/seen")
    fails(guarded, "no list of containers")
    writes("echo '[]' >/seen")
    fails(guarded, "not in that list")
    guard = lab.client.containers.get("guard")
    writes(f'echo \'[{{"Id": "{guard.id}"}}]\' >/seen')
    fails(guarded, "watchman itself is not in that list")
    brought(lab)
    fails(guarded, "the list was brought to it")
    # the guard lets more through than it should
    watchman(lab, POSTED)
    asks(lab)
    passes_twice(guarded)
    forward = (
        "import socket, threading\n"
        "def copy(a, b):\n"
        "    while data := a.recv(65536): b.sendall(data)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('/proxied/all.sock'); s.listen()\n"
        "while True:\n"
        "    a, _ = s.accept(); b = socket.socket(socket.AF_UNIX); b.connect('/var/run/docker.sock')\n"
        "    [threading.Thread(target=copy, args=p, daemon=True).start() for p in ((a, b), (b, a))]\n"
    )
    guard.exec_run(["python3", "-c", forward], detach=True)
    until(lambda: lab.exec("watchman", ["test", "-S", "/guard/all.sock"]).exit_code == 0)
    fails(guarded, "forwards commands to the engine")
    lab.exec("guard", ["rm", "/proxied/all.sock"])
    passes_twice(guarded)
    # what it holds starts nothing
    post = "curl -s -X POST --unix-socket /guard/list.sock http://x/containers/create"
    assert "501" in lab.exec("watchman", post).stdout


def test_watch_only_by_another_route(shared_lab: Lab, guarded: Exercise) -> None:
    """Another path, read-only, no capability, and a list of all containers from a numbered version of the API."""
    watchman(shared_lab, "guard-post:/a/b:ro", cap_drop=["ALL"], read_only=True, tmpfs={"/run": ""})
    ask = "curl -s --unix-socket /a/b/list.sock 'http://x/v1.40/containers/json?all=1' >/run/seen"
    assert shared_lab.exec("watchman", ["sh", "-c", ask]).exit_code == 0
    fails(guarded, "no file /seen")
    watchman(shared_lab, "guard-post:/a/b:ro", cap_drop=["ALL"])
    shared_lab.exec("watchman", ["sh", "-c", ask.replace("/run/seen", "/seen")])
    passes_twice(guarded)
    replaced(shared_lab)
    fails(guarded, "guard has been replaced")
    gone(shared_lab, "guard", "other", "watchman", "guard-post")
    exercise = exercises.watch_only(shared_lab)  # from fresh
    watchman(shared_lab, POSTED)
    asks(shared_lab)
    passes_twice(exercise)


def test_three_deaths(shared_lab: Lab) -> None:
    lab = shared_lab
    exercise = exercises.three_deaths(lab)
    dead = {name: lab.client.containers.get(name) for name in exercises.SUSPECTS}
    assert [one.attrs["State"]["ExitCode"] for one in dead.values()] == [137] * 3
    assert len({str(one.attrs["Config"]["Cmd"]) for one in dead.values()}) == 1
    assert "no file /kernel" in str(exercise.check())
    kernel = next(name for name, one in dead.items() if one.attrs["State"]["OOMKilled"])
    itself = next(name for name, one in dead.items() if one.logs())
    somebody = (set(dead) - {kernel, itself}).pop()

    def write(**answers: str) -> str:
        for file, name in answers.items():
            lab.exec("inspector", ["sh", "-c", f"echo {name} >/{file}"])
        return str(exercise.check())

    assert f"{itself} did not die so" in write(kernel=itself)
    assert "State" in exercise.hint()
    assert "none of the three" in write(kernel="dora")
    assert f"{kernel} did not die so" in write(kernel=kernel, somebody=kernel)
    assert not exercises.three_deaths(lab).check().passed  # the cell that runs again changes nothing
    write(somebody=itself, itself=somebody)
    fails(exercise, f"{itself} did not die so")
    # names that are exchanged, and a state that is changed, do not change what happened
    dead[kernel].rename("dora")
    put(lab, kernel, ["true"])
    dead[itself].start()
    write(somebody=somebody, itself=itself)
    passes_twice(exercise)
    put(lab, "inspector", STAY)
    fails(exercise, "no file /kernel")
    write(kernel=kernel, somebody=f" {somebody}", itself=itself)
    passes_twice(exercise)
    gone(lab, "dora", "inspector", *exercises.SUSPECTS)
