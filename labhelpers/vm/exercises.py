"""The exercises of the chapter on virtual machines and containers: the engine's state proves them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from labhelpers.course.exercises import Exercise, Task, container_named, file_in, not_running, running
from labhelpers.lab.names import all_with_suffix
from labhelpers.vm.guests import READY, facts

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

TWINS = all_with_suffix("twin-a", "twin-b")
GUEST, NOTE, SMALL = all_with_suffix("my-guest", "my-note", "small-guest")
SMALL_MIB = 80
NEXT_TO_NOTHING = 1 << 20  # bytes
POWER_ON = "GUEST POWER ON"
NOTED = timedelta(seconds=2)  # an engine notes a start a moment after the first process begins
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# --- two images, one kernel


def one_kernel(lab: Lab) -> Exercise:
    """Two containers of different images prove that they share one kernel.

    Promises: two running containers whose images differ in their files, not in a name or a note alone; and in each a
    file with the boot id of the kernel of the engine's host.
    """
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
    tasks = (run, images, proof)
    return Exercise(lab, "01", "one-kernel", "Two images, one kernel", tasks, 2.0, TWINS)


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
    a, b = (lab.inspect_image(_get(lab, name).attrs["Image"]) for name in TWINS)
    if a["Id"] == b["Id"]:
        return "both are made from one and the same image"
    mine, other = (set(one["RootFS"]["Layers"]) for one in (a, b))
    if (mine <= other or other <= mine) and abs(a["Size"] - b["Size"]) < NEXT_TO_NOTHING:
        return "the image of one is that of the other with next to nothing added: both have the same files"
    return None


def _twins_images_hint(lab: Lab) -> str:
    return (
        f"Both come from {_get(lab, TWINS[0]).attrs['Config']['Image']}. That they share a kernel would "
        "surprise nobody. Remove one, and make it from another image: two tags may name one image."
    )


def _twins_proof(lab: Lab) -> str | None:
    boot_id = lab.host.kernel().boot_id
    for name in TWINS:
        written = file_in(lab, name, "/kernel")
        if not written:
            return f"{name} has no file /kernel, or it is empty"
        if written != boot_id:
            return f"/kernel of {name} holds “{written[:60]}”, which is not the boot id of its kernel"
    return None


# --- the guest's boot id


def guest_boot_id(lab: Lab) -> Exercise:
    """Find the boot id of a running guest and write it into a container's file.

    Promises: QEMU runs in the container of the guests' image and its payload is ready; and a container without a
    guest has a file with the boot id that this boot's guest tells in its log. A container that only prints such
    lines is no guest.
    """
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
    tasks = (guest, note, answer)
    return Exercise(lab, "01", "guest-boot-id", "The boot id of the guest", tasks, containers=(GUEST, NOTE))


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
    if written == lab.host.kernel().boot_id:
        return "/answer holds the boot id of the kernel that the containers share"
    if not UUID.fullmatch(written):
        return f"/answer holds “{written[:60]}”, which is no boot id"
    return "/answer holds a boot id, but not that of this guest"


def _answer_hint(lab: Lab) -> str:
    written = file_in(lab, NOTE, "/answer")
    if written and written == lab.host.kernel().boot_id:
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
    """A guest with little memory that still reaches its payload.

    Promises: QEMU runs, the guest's payload is ready, and the guest's own kernel counts at most so much memory. A
    limit of the container's memory changes nothing in the guest.
    """
    ready = Task("ready", f"A guest, the container {SMALL}, runs; its payload is ready", _small, _small_hint)
    small = Task(
        "small",
        f"Its kernel says that it has at most {SMALL_MIB} MiB (MemTotal)",
        _small_enough,
        "The guest's memory is in an environment variable of the image: look at its Env with "
        "`docker image inspect`. The kernel keeps a part for itself, so MemTotal is less than what you give.",
        ("ready",),
    )
    return Exercise(lab, "01", "small-guest", "The smallest guest", (ready, small), 2.0, (SMALL,))


def _small(lab: Lab) -> str | None:
    return _not_ready(lab, SMALL)


def _small_hint(lab: Lab) -> str:
    return _ready_hint(lab, SMALL)


def _small_enough(lab: Lab) -> str | None:
    mib = int(_told(lab, SMALL).get("memory_kib", "0")) / 1024
    return None if 0 < mib <= SMALL_MIB else f"its kernel says {mib:.0f} MiB"


# --- looking


def _get(lab: Lab, name: str) -> Container:
    return running(lab, name)


def _is_guest_image(lab: Lab, container: Container) -> bool:
    return bool(container.attrs["Image"] == lab.inspect_image("labhelpers/vm")["Id"])


def _not_ready(lab: Lab, name: str) -> str | None:
    missing = not_running(lab, name)
    if missing:
        return missing
    container = _get(lab, name)
    if not _is_guest_image(lab, container):
        image = str(container.attrs["Config"]["Image"]).removesuffix(":latest")
        return f"{name} is made from {image}: it is no guest"
    if not _has_qemu(lab, container):
        return f"no QEMU runs in {name}: it is no guest"
    if READY not in _log(lab, name) or "boot_id" not in _told(lab, name):
        return f"the payload of {name} is not ready (yet)"
    if _log(lab, name).count("fact boot_id=") > 1:
        return (
            f"something else has written into the log of {name}: it tells two boot ids. Start another guest"
        )
    return None


def _has_qemu(lab: Lab, container: Container) -> bool:
    # the program that runs, not the words of its command line, which can be any
    programs = (
        lab.host.output(["readlink", f"/proc/{one.pid}/exe"]) for one in lab.host.processes(container)
    )
    return any(program.rpartition("/")[2].startswith("qemu-system") for program in programs)


def _ready_hint(lab: Lab, name: str) -> str:
    container = container_named(lab, name)
    if container is None:
        return "A guest is a container of the image labhelpers/vm. It needs a name and no command."
    if _is_guest_image(lab, container) and container.status == "running" and not _has_qemu(lab, container):
        return "The image's own command starts the guest: leave the command and the entry point as they are."
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
    """What the guest has said since its container was started last; the log has its earlier lives too."""
    container = _get(lab, name)
    started = datetime.fromisoformat(container.attrs["State"]["StartedAt"])
    lines = [line.partition(" ") for line in lab.logs(container, timestamps=True).splitlines()]
    begins = [number for number, (_, _, text) in enumerate(lines) if POWER_ON in text]
    # the first of this life: whatever else is written into the log comes later
    first = next((n for n in begins if datetime.fromisoformat(lines[n][0]) > started - NOTED), None)
    begin = first if first is not None else begins[-1] if begins else len(lines)
    return "\n".join(text for _, _, text in lines[begin:])


def _told(lab: Lab, name: str) -> Mapping[str, str]:
    return facts(_log(lab, name))
