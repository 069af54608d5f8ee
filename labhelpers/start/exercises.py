"""The exercise of the first chapter: the engine's state proves it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import NotFound

from labhelpers.course.arguments import experiment
from labhelpers.course.containers import (
    cached_check,
    cloned_container,
    command_of,
    container_named,
    existing,
    not_running,
    store_value,
    stored_value,
)
from labhelpers.course.exercises import Exercise, Task
from labhelpers.engine import responses
from labhelpers.errors import TimedOut
from labhelpers.lab import sessions
from labhelpers.lab.names import with_suffix

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

IMAGE = "labhelpers/base"
NAME = with_suffix("my-first")
MIN_RUNTIME_S = 300.0
SPEED = 150  # two seconds show the five minutes


@experiment
def first_exercise(lab: Lab) -> Exercise:
    """Start a container that keeps running.

    Promises: a container of that name, created from the image that this notebook began with, runs and will still run
    in five minutes unless it is stopped: `docker run -it` with its shell, a server and `sleep infinity` do, `sleep 60`
    and a restart policy do not. A clone whose `sleep` and `timeout` are sped up proves it in seconds, for a loop and
    a script too.
    """
    store_value(lab, IMAGE, str(lab.inspect_image(lab.image("base"))["Id"]))
    tasks = (
        Task("made", f"A container called {NAME} is there", _exists, _name_hint),
        Task(
            "image",
            f"It is made from the image {IMAGE}",
            _image,
            "A container keeps the image that it was created from. Remove this one, then create another: "
            "the image is the first argument after the options of `docker run`.",
            needs=("made",),
        ),
        Task("stays", "It runs, and will still run in five minutes", _stays, _stays_hint, needs=("made",)),
    )
    return Exercise(lab, "00", "stays", "Start a container that stays", tasks, containers=(NAME,))


def _exists(lab: Lab) -> str | None:
    return None if container_named(lab, NAME) else f"the engine has no container called {NAME}"


def _name_hint(lab: Lab) -> str:
    rows = lab.list_containers(filters={"ancestor": IMAGE})
    # created here, or in a terminal; not in another notebook
    names = sorted(
        responses.name(row)
        for row in rows
        if responses.labels(row).get(sessions.SESSION, lab.session) == lab.session
    )
    if names:
        return (
            f"A container of {IMAGE} runs, but it is called {names[0]}. If you give no name, the engine generates "
            "one. An option of `docker run` sets it; `docker rename` changes it."
        )
    return (
        "`docker run` creates a container and starts it. `docker run --help` lists the option that names it."
    )


def _image(lab: Lab) -> str | None:
    container = existing(lab, NAME)
    if container.attrs["Image"] == stored_value(lab, IMAGE):
        return None
    ref = container.attrs["Config"]["Image"]
    if ref in (IMAGE, f"{IMAGE}:latest"):
        return f"it is made from another image that was given the name {ref}"
    return f"it is made from {ref}"


def _stays(lab: Lab) -> str | None:
    container = existing(lab, NAME)
    if container.attrs["RestartCount"]:
        return "its first process ends again and again, and the engine restarts it"
    if container.status == "exited":
        return f"it has ended, with exit code {container.attrs['State']['ExitCode']}"
    return not_running(lab, NAME) or cached_check(container, "stays", lambda: _ends_soon(lab, container))


def _ends_soon(lab: Lab, container: Container) -> str | None:
    """Whether a clone of the container ends before `MIN_RUNTIME_S`, on a clock that is `SPEED` times as fast."""
    with cloned_container(lab, container) as clone:
        if not _speed_up(clone):
            return None
        clone.start()
        limit_s = MIN_RUNTIME_S / SPEED
        try:
            lab.wait_for("the clone to end", lambda: not lab.is_running(clone), limit_s, every_s=0.1)
        except TimedOut:
            return None
    return f"it runs now, but its command, `{command_of(container)}`, ends within five minutes"


def _speed_up(clone: Container) -> bool:
    """Install a `sleep` and a `timeout` whose seconds are shorter; False if the image has no perl to run them."""
    try:
        clone.get_archive("/usr/bin/perl")
    except NotFound:
        return False
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        inside = Path(__file__).with_name("inside")
        seconds = (inside / "seconds.pl").read_text(encoding="utf-8").replace("SPEED", str(SPEED))
        for name in ("sleep", "timeout"):
            text = (seconds + (inside / f"{name}.pl").read_text(encoding="utf-8")).encode()
            member = tarfile.TarInfo(f"usr/bin/{name}")
            member.size, member.mode = len(text), 0o755
            tar.addfile(member, io.BytesIO(text))
    return bool(clone.put_archive("/", archive.getvalue()))


def _stays_hint(lab: Lab) -> str:
    container = existing(lab, NAME)
    command, code = command_of(container), container.attrs["State"]["ExitCode"]
    if container.status == "created":
        if code:
            return f"The engine could not start its command, `{command}`: does the image have it? Check the spelling."
        return (
            "It was never started. `docker create` creates a container, `docker run` creates and starts one."
        )
    if container.status == "paused":
        return "It is paused: its processes exist, and none is scheduled. `docker --help` lists the opposite."
    if container.attrs["RestartCount"]:
        return "A restart policy hides the end of a process; it does not keep it running. Change the command."
    if container.status == "running":
        return (
            f"The container ends with its first process, and `{command}` is over too soon. Which command waits without "
            "an end? A shell does as long as it has a terminal, or an input that stays open."
        )
    if code in (137, 143):
        return f"Something stopped it: exit code {code} is 128 + the number of the signal. Start it again."
    return (
        f"A container lives as long as its first process. Yours, `{command}`, has ended. Remove it, and create "
        "one whose command takes long. A shell without a terminal ends at once: it has nothing to read."
    )
