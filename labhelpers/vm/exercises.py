"""The exercises of the chapter on virtual machines and containers: the engine's state proves them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labhelpers.exercises import Exercise, Task, container_named, file_in, not_running
from labhelpers.vm.experiments import READY, facts

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

TWINS = ("twin-a", "twin-b")
GUEST, NOTE, SMALL = "my-guest", "my-note", "small-guest"
SMALL_MIB = 80
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# --- two images, one kernel


def one_kernel(lab: Lab) -> Exercise:
    """Two containers of different images prove that they share one kernel."""
    run = Task("run", f"Two containers run: {TWINS[0]} and {TWINS[1]}", _twins_run, _twins_run_hint)
    images = Task(
        "images", "They are made from different images", _twins_images, _twins_images_hint, ("run",)
    )
    proof = Task(
        "proof",
        "The file /kernel of each holds the boot id of the kernel that it runs on",
        _twins_proof,
        "The kernel gives its boot id in a file below /proc/sys/kernel/random. `docker exec` runs a shell in "
        "a container; the shell can write what it reads into /kernel.",
        ("images",),
    )
    return Exercise(lab, "01", "one-kernel", "Two images, one kernel", (run, images, proof), settle_s=2.0)


def _twins_run(lab: Lab) -> str | None:
    return next((missing for name in TWINS if (missing := not_running(lab, name))), None)


def _twins_run_hint(lab: Lab) -> str:
    ended = next((c for name in TWINS if (c := container_named(lab, name)) and c.status == "exited"), None)
    if ended is not None:
        return (
            f"{ended.name} has ended: its command, `{_command(ended)}`, is done. Give it a longer one; "
            "the image labhelpers/payload has such a command of its own."
        )
    return "Make two containers that stay, and give them these names. `docker images` lists the images here."


def _twins_images(lab: Lab) -> str | None:
    a, b = (_get(lab, name).attrs["Image"] for name in TWINS)
    return "both are made from one and the same image" if a == b else None


def _twins_images_hint(lab: Lab) -> str:
    return (
        f"Both come from {_get(lab, TWINS[0]).attrs['Config']['Image']}. That they share a kernel would "
        "surprise nobody. Remove one, and make it from another image: two tags may name one image."
    )


def _twins_proof(lab: Lab) -> str | None:
    for name in TWINS:
        written, boot_id = (
            file_in(lab, name, "/kernel"),
            file_in(lab, name, "/proc/sys/kernel/random/boot_id"),
        )
        if not written:
            return f"{name} has no file /kernel, or it is empty"
        if written != boot_id:
            return f"/kernel of {name} holds “{written[:60]}”, which is not the boot id of its kernel"
    return None


# --- the guest's boot id


def guest_boot_id(lab: Lab) -> Exercise:
    """Find the boot id of a running guest and write it into a container's file."""
    guest = Task("guest", f"A guest, the container {GUEST}, runs; its payload is ready", _guest, _guest_hint)
    note = Task(
        "note",
        f"A container {NOTE} runs that is no guest",
        _note,
        "You need a container that stays. The image labhelpers/payload has a command that does.",
    )
    answer = Task(
        "answer",
        f"The file /answer in {NOTE} holds the boot id of the guest's kernel",
        _answer,
        _answer_hint,
        ("guest", "note"),
    )
    return Exercise(lab, "01", "guest-boot-id", "The boot id of the guest", (guest, note, answer))


def _guest(lab: Lab) -> str | None:
    return _not_ready(lab, GUEST)


def _guest_hint(lab: Lab) -> str:
    return _ready_hint(lab, GUEST)


def _note(lab: Lab) -> str | None:
    missing = not_running(lab, NOTE)
    if missing is None and _is_guest_image(lab, _get(lab, NOTE)):
        return f"{NOTE} is made from the image of the guests"
    return missing


def _answer(lab: Lab) -> str | None:
    written = file_in(lab, NOTE, "/answer")
    if not written:
        return f"{NOTE} has no file /answer, or it is empty"
    if written == _told(lab, GUEST).get("boot_id"):
        return None
    if written == file_in(lab, NOTE, "/proc/sys/kernel/random/boot_id"):
        return "/answer holds the boot id of the kernel that the containers share"
    if not UUID.fullmatch(written):
        return f"/answer holds “{written[:60]}”, which is no boot id"
    return "/answer holds a boot id, but not that of this guest"


def _answer_hint(lab: Lab) -> str:
    written = file_in(lab, NOTE, "/answer")
    if written and written == file_in(lab, NOTE, "/proc/sys/kernel/random/boot_id"):
        return (
            f"What you read in a container, {GUEST} included, is the host's kernel: `docker exec` enters the "
            "container around QEMU, not the guest. The guest speaks on its serial line: that is its log."
        )
    if UUID.fullmatch(written):
        return "A boot id is new at each boot. Read the log of the guest that runs now."
    if written:
        return "A boot id has 36 characters: hexadecimal digits in five groups. Write that alone."
    return "The guest says it in its log, among its facts. `docker exec` lets you write it into a file."


# --- a small guest


def small_guest(lab: Lab) -> Exercise:
    """A guest with little memory that still reaches its payload."""
    ready = Task("ready", f"A guest, the container {SMALL}, runs; its payload is ready", _small, _small_hint)
    small = Task(
        "small",
        f"Its kernel says that it has at most {SMALL_MIB} MiB (MemTotal)",
        _small_enough,
        "The guest's memory is in an environment variable of the image: look at its Env with "
        "`docker image inspect`. The kernel keeps a part for itself, so MemTotal is less than what you give.",
        ("ready",),
    )
    return Exercise(lab, "01", "small-guest", "The smallest guest", (ready, small), settle_s=2.0)


def _small(lab: Lab) -> str | None:
    return _not_ready(lab, SMALL)


def _small_hint(lab: Lab) -> str:
    return _ready_hint(lab, SMALL)


def _small_enough(lab: Lab) -> str | None:
    mib = int(_told(lab, SMALL).get("memory_kib", "0")) / 1024
    return None if 0 < mib <= SMALL_MIB else f"its kernel says {mib:.0f} MiB"


# --- looking


def _get(lab: Lab, name: str) -> Container:
    return lab.client.containers.get(name)


def _is_guest_image(lab: Lab, container: Container) -> bool:
    return bool(container.attrs["Image"] == lab.client.images.get("labhelpers/vm").id)


def _not_ready(lab: Lab, name: str) -> str | None:
    missing = not_running(lab, name)
    if missing:
        return missing
    container = _get(lab, name)
    if not _is_guest_image(lab, container):
        return f"{name} is made from {container.attrs['Config']['Image']}: it is no guest"
    if READY not in _log(lab, name) or "boot_id" not in _told(lab, name):
        return f"the payload of {name} is not ready (yet)"
    return None


def _ready_hint(lab: Lab, name: str) -> str:
    container = container_named(lab, name)
    if container is None:
        return "A guest is a container of the image labhelpers/vm. It needs a name and no command."
    if not _is_guest_image(lab, container):
        return "It runs the payload in a container, without a kernel of its own. Guests: labhelpers/vm."
    memory = _environment(container).get("GUEST_MEMORY_MB", "?")
    if container.status == "exited":
        return (
            f"It was given {memory} MiB and has ended (exit code {container.attrs['State']['ExitCode']}). A "
            "kernel that has no room to unpack itself cannot even complain. Read the last lines of its log."
        )
    return f"A guest takes seconds to boot. Where it hangs, {memory} MiB may be too little: see its log."


def _environment(container: Container) -> Mapping[str, str]:
    return dict(pair.partition("=")[::2] for pair in container.attrs["Config"].get("Env") or [])


def _command(container: Container) -> str:
    return " ".join([container.attrs["Path"], *container.attrs["Args"]])


def _log(lab: Lab, name: str) -> str:
    # a container that was started again has the log of its earlier lives too
    return _get(lab, name).logs().decode(errors="replace").rpartition("GUEST POWER ON")[2]


def _told(lab: Lab, name: str) -> Mapping[str, str]:
    return facts(_log(lab, name))
