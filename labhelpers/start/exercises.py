"""The exercise of the first chapter: the engine's state proves it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import NotFound

from labhelpers.course.exercises import Exercise, Task, container_named, copy_of, keep, kept, once
from labhelpers.engine import responses
from labhelpers.errors import ContainerMissing, TimedOut
from labhelpers.lab import sessions
from labhelpers.lab.names import with_suffix

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

IMAGE = "labhelpers/base"
NAME = with_suffix("my-first")
STAYS_S = 300.0
SPEED = 150  # two seconds show the five minutes


def first_exercise(lab: Lab) -> Exercise:
    """Start a container that stays.

    Promises: a container of that name, made from the image that this notebook began with, runs and will still run in
    five minutes unless it is stopped: `docker run -it` with its shell, a server and `sleep infinity` do, `sleep 60`
    and a restart policy do not. A copy whose `sleep` and `timeout` are sped up proves it in seconds, for a loop and
    a script too.
    """
    keep(lab, IMAGE, str(lab.inspect_image(lab.image("base"))["Id"]))
    made = Task("made", f"A container called {NAME} is there", _made, _made_hint)
    image = Task("image", f"It is made from the image {IMAGE}", _image, _image_hint, needs=("made",))
    stays = Task("stays", "It runs, and will still run in five minutes", _stays, _stays_hint, needs=("made",))
    tasks = (made, image, stays)
    return Exercise(lab, "00", "stays", "Start a container that stays", tasks, containers=(NAME,))


def _made(lab: Lab) -> str | None:
    return None if container_named(lab, NAME) else f"the engine has no container called {NAME}"


def _made_hint(lab: Lab) -> str:
    others = lab.list_containers(filters={"ancestor": IMAGE})
    # made here, or in a terminal; not in another notebook
    names = sorted(
        responses.name(one)
        for one in others
        if responses.labels(one).get(sessions.SESSION, lab.session) == lab.session
    )
    if names:
        return (
            f"A container of {IMAGE} runs, but it is called {names[0]}. Where you give no name, the "
            "engine invents one. An option of `docker run` sets it; `docker rename` changes it."
        )
    return "`docker run` makes a container and starts it. `docker run --help` tells the option that names it."


def _there(lab: Lab) -> Container:
    container = container_named(lab, NAME)
    if container is None:
        raise ContainerMissing(
            f"the engine has no container called {NAME}", hint="it was removed; make another"
        )
    return container


def _image(lab: Lab) -> str | None:
    container = _there(lab)
    if container.attrs["Image"] == kept(lab, IMAGE):
        return None
    named = container.attrs["Config"]["Image"]
    if named in (IMAGE, f"{IMAGE}:latest"):
        return f"it is made from another image that was given the name {named}"
    return f"it is made from {named}"


def _image_hint(lab: Lab) -> str:
    return (
        "A container keeps the image that it was made from. Remove this one, then make another: "
        "the image is the first word after the options of `docker run`."
    )


def _stays(lab: Lab) -> str | None:
    container = _there(lab)
    if container.attrs["RestartCount"]:
        return "its first process ends again and again, and the engine restarts it"
    if container.status == "exited":
        return f"it has ended, with exit code {container.attrs['State']['ExitCode']}"
    if container.status != "running":
        return f"its state is “{container.status}”"
    return once(container, "stays", lambda: _ends_soon(lab, container))


def _ends_soon(lab: Lab, container: Container) -> str | None:
    """Whether a copy of the container ends before `STAYS_S`, on a clock that is `SPEED` times as fast."""
    with copy_of(lab, container) as copy:
        if not _sped_up(copy):
            return None
        copy.start()
        try:
            lab.wait_for("the copy to end", lambda: not lab.is_running(copy), STAYS_S / SPEED, every_s=0.1)
        except TimedOut:
            return None
    return f"it runs now, but its command, `{_command(container)}`, ends within five minutes"


def _sped_up(copy: Container) -> bool:
    """Put `sleep` and `timeout` into it whose seconds are shorter; False where the image has no perl to run them."""
    try:
        copy.get_archive("/usr/bin/perl")
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
    return bool(copy.put_archive("/", archive.getvalue()))


def _stays_hint(lab: Lab) -> str:
    container = _there(lab)
    command, code = _command(container), container.attrs["State"]["ExitCode"]
    if container.status == "created":
        if code:
            return f"The engine could not start its command, `{command}`: is it in the image, and spelled so?"
        return "It is made, but it was never started. `docker create` makes, `docker run` makes and starts."
    if container.status == "paused":
        return (
            "It is paused: its processes are there, and none gets to run. `docker --help` has the opposite."
        )
    if container.attrs["RestartCount"]:
        return "A restart policy hides the end of a process; it does not make it stay. Change the command."
    if container.status == "running":
        return (
            f"The container ends with its first process, and `{command}` is over too soon. Which command waits without "
            "an end? A shell does as long as it has a terminal, or an input that stays open."
        )
    if code in (137, 143):
        return f"Something stopped it: exit code {code} is 128 + the number of the signal. Start it again."
    return (
        f"A container lives as long as its first process. Yours, `{command}`, has ended. Remove it, and make "
        "one whose command takes long. A shell without a terminal ends at once: it has nothing to read."
    )


def _command(container: Container) -> str:
    return " ".join([container.attrs["Path"], *container.attrs["Args"]])
