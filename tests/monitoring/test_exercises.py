"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from labhelpers.errors import LabError
from labhelpers.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.monitoring import exercises
from labhelpers.monitoring.door import INSIDE, Door

pytestmark = pytest.mark.usefixtures("own_state")

ALONE: dict[str, Any] = {"network": "none"}


def passes_twice(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict
    assert exercise.check().passed


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def light_again(lab: Lab) -> bool:
    return bool(lab.client.containers.get("lighthouse").attrs["RestartCount"])


def light_killed(lab: Lab) -> bool:
    """Asked to end until it does: a process 1 that has set no handler yet does not see the signal (signal(7))."""
    with suppress(LabError):  # it is ending, or between two lives
        lab.exec("lighthouse", ["kill", "1"])
    return light_again(lab)


def test_make_the_volume(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.make_the_volume(lab)
    assert "no volume called shelf_data" in str(exercise.check())
    assert "make a container from the image “volume”" in exercise.hint()
    wrong = lab.run(lab.image("payload"), name="shelf_data", **ALONE)
    assert "no volume called shelf_data" in str(exercise.check())
    assert "is a container here" in exercise.hint()
    lab.remove(wrong, force=True)
    lab.create_volume("shelf_data")
    assert "is empty" in str(exercise.check())
    writes = ["sh", "-c", "echo one >/data/book"]
    writer = lab.run(lab.image("payload"), writes, name="writer", volumes=["shelf_data:/data"], **ALONE)
    writer.wait()
    assert "writer still uses it" in str(exercise.check())
    lab.remove(writer, force=True, volumes=True)
    passes_twice(exercise)


def test_name_not_path(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.name_not_path(lab)
    assert "a directory of the host (bind)" in str(exercise.check())
    assert "made anew" in exercise.hint()
    (mount,) = lab.client.containers.get("till").attrs["Mounts"]
    old = f"{mount['Source']}:/old:ro"

    def again(script: str, *volumes: str) -> str:
        lab.remove("till", force=True)
        words = ["sh", "-c", f"{script}; exec sleep 600"]
        lab.run(lab.image("payload"), words, name="till", volumes=list(volumes), **ALONE)
        return str(exercise.check())

    assert "a directory of the host" in again("true", f"{mount['Source']}:/data")
    assert "nothing is mounted at /data" in again("true", "till_data:/date")
    assert "Mounts" in exercise.hint()
    assert "/data of till is the volume" in again("true", "/data")
    assert "no file /data/takings" in again("true", "till_data:/data")
    assert "other takings" in again("echo new >/data/takings", "till_data:/data")
    again("cp /old/takings /data/", old, "till_data:/data")
    passes_twice(exercise)


def test_comes_back(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.comes_back(lab)
    assert "no container called lighthouse" in str(exercise.check())

    def again(policy: str) -> Any:
        if exercises.container_named(lab, "lighthouse"):
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
    until(lambda: light_again(lab) and exercises.not_running(lab, "lighthouse") is None)
    passes_twice(exercise)


def test_watch_only(quiet: Lab, door: Door) -> None:
    lab = quiet
    exercise = exercises.watch_only(lab)
    assert "no container called watchman" in str(exercise.check())

    def again(volume: str, **options: Any) -> str:
        if exercises.container_named(lab, "watchman"):
            lab.remove("watchman", force=True)
        options = {**ALONE, "volumes": [volume], **options}
        lab.run(lab.image("tools"), ["sleep", "600"], name="watchman", **options)
        return str(exercise.check())

    def asked(script: str) -> str:
        lab.exec("watchman", ["sh", "-c", f"{script} >/seen"])
        return str(exercise.check())

    ask = "curl -s --unix-socket /guard/list.sock http://x/containers/json"
    assert "has the engine's socket" in again(f"{door}:{INSIDE}")
    assert "nothing of /var/run/docker.sock" in exercise.hint()
    assert "read-only: that changes nothing" in again(f"{door}:{INSIDE}:ro")
    assert "written to a connection" in exercise.hint()
    assert "namespace of the host" in again("guard-post:/guard", network="host")
    assert "no file /seen" in again("guard-post:/guard")
    assert "no list of containers" in asked("echo guard")
    assert "not in that list" in asked("echo '[]'")
    asked(ask)
    passes_twice(exercise)
    # what it holds starts nothing
    post = "curl -s -X POST --unix-socket /guard/list.sock http://x/containers/create"
    assert "501" in lab.exec("watchman", post).stdout


def test_three_deaths(quiet: Lab) -> None:
    lab = quiet
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
    write(somebody=somebody, itself=itself)
    passes_twice(exercise)
