"""The exercises of the chapter on virtual machines and containers: the engine's state proves them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course.checks import all_of, are_running, has_answer
from labhelpers.course.containers import command_of, container_named, environment_of, file_in, running
from labhelpers.course.exercises import Check, Exercise, Hint, Task
from labhelpers.lab.names import all_with_suffix
from labhelpers.vm.guests import READY, facts

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

CONTAINERS = all_with_suffix("twin-a", "twin-b")
GUEST, NOTE, SMALL = all_with_suffix("my-guest", "my-note", "small-guest")
SMALL_MIB = 80
SMALL_CHANGE_BYTES = 1 << 20
POWER_ON = "GUEST POWER ON"
CLOCK_TOLERANCE = timedelta(seconds=2)  # an engine records a start a moment after the first process begins
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# --- two images, one kernel


def one_kernel(lab: Lab) -> Exercise:
    """Two containers of different images prove that they share one kernel.

    Promises: two running containers whose images differ in their files, not in a tag or a label alone; and in each a
    file with the boot ID of the kernel of the engine's host.
    """
    tasks = (
        Task(
            "run",
            f"Two containers run: {CONTAINERS[0]} and {CONTAINERS[1]}",
            are_running(*CONTAINERS),
            _run_hint,
        ),
        Task("images", "They are made from different images", _different_images, _images_hint, ("run",)),
        Task(
            "proof",
            "The file /kernel of each holds the boot id of the kernel that it runs on",
            all_of(*(has_answer(name, "/kernel", partial(_judge_kernel, name)) for name in CONTAINERS)),
            "The kernel shows its boot ID in a file below /proc/sys/kernel/random. `docker exec` runs a shell in "
            "a container; the shell can write what it reads into /kernel.",
            ("images",),
        ),
    )
    return Exercise(lab, "01", "one-kernel", "Two images, one kernel", tasks, 2.0, CONTAINERS)


def _run_hint(lab: Lab) -> str:
    for name in CONTAINERS:
        container = container_named(lab, name)
        if container and container.status == "exited":
            return (
                f"{name} has exited: its command, `{command_of(container)}`, is done. Give it a longer one; "
                "the image labhelpers/payload has such a command of its own."
            )
    return "Create two containers that keep running, with these names. `docker images` lists the images here."


def _different_images(lab: Lab) -> str | None:
    a, b = (lab.inspect_image(running(lab, name).attrs["Image"]) for name in CONTAINERS)
    if a["Id"] == b["Id"]:
        return "both are made from one and the same image"
    layers_a, layers_b = (set(image["RootFS"]["Layers"]) for image in (a, b))
    small_change = abs(a["Size"] - b["Size"]) < SMALL_CHANGE_BYTES
    if (layers_a <= layers_b or layers_b <= layers_a) and small_change:
        return "one image is the other with next to nothing added: both have the same files"
    return None


def _images_hint(lab: Lab) -> str:
    image = running(lab, CONTAINERS[0]).attrs["Config"]["Image"]
    return (
        f"Both come from {image}. That they share a kernel would surprise nobody. Remove one, and create it from "
        "another image: two tags may name one image."
    )


def _judge_kernel(name: str, lab: Lab, text: str) -> str | None:
    if text == lab.host.kernel().boot_id:
        return None
    return f"/kernel of {name} holds “{text[:60]}”, which is not the boot id of its kernel"


# --- the guest's boot ID


def guest_boot_id(lab: Lab) -> Exercise:
    """Find the boot ID of a running guest and write it into a container's file.

    Promises: QEMU runs in the container of the guests' image and its payload is ready; and a container without a
    guest has a file with the boot ID that the guest of this boot prints in its log. A container that only prints such
    lines is no guest.
    """
    tasks = (
        Task(
            "guest",
            f"A guest, the container {GUEST}, runs; its payload is ready",
            _guest_ready(GUEST),
            _guest_hint(GUEST),
        ),
        Task(
            "note",
            f"A container {NOTE} runs that is no guest",
            all_of(are_running(NOTE), _is_no_guest),
            "You need a container that keeps running. The image labhelpers/payload has a command that does.",
        ),
        Task(
            "answer",
            f"The file /answer in {NOTE} holds the boot id of the guest's kernel",
            has_answer(NOTE, "/answer", _judge_answer),
            _answer_hint,
            ("guest", "note"),
        ),
    )
    return Exercise(lab, "01", "guest-boot-id", "The boot id of the guest", tasks, containers=(GUEST, NOTE))


def _is_no_guest(lab: Lab) -> str | None:
    is_guest = _is_guest_image(lab, running(lab, NOTE))
    return f"{NOTE} is made from the image of the guests" if is_guest else None


def _judge_answer(lab: Lab, text: str) -> str | None:
    if text == _log_facts(lab, GUEST).get("boot_id"):
        return None
    if text == lab.host.kernel().boot_id:
        return "/answer holds the boot id of the kernel that the containers share"
    if not UUID.fullmatch(text):
        return f"/answer holds “{text[:60]}”, which is no boot id"
    return "/answer holds a boot id, but not that of this guest"


def _answer_hint(lab: Lab) -> str:
    text = file_in(lab, NOTE, "/answer")
    if text and text == lab.host.kernel().boot_id:
        return (
            f"What you read in a container, {GUEST} included, is the host's kernel: `docker exec` enters the "
            "container around QEMU, not the guest. The guest writes to its serial console: that is its log."
        )
    if UUID.fullmatch(text):
        return "A boot ID is new at each boot. Read the log of the guest that runs now."
    if text:
        return "A boot ID has 36 characters: hexadecimal digits in five groups. Write that alone."
    return "The guest prints it in its log, among its facts. `docker exec` lets you write it into a file."


# --- a small guest


def small_guest(lab: Lab) -> Exercise:
    """A guest with little memory that still reaches its payload.

    Promises: QEMU runs, the guest's payload is ready, and the guest's own kernel reports little enough memory. A
    memory limit of the container changes nothing in the guest.
    """
    tasks = (
        Task(
            "ready",
            f"A guest, the container {SMALL}, runs; its payload is ready",
            _guest_ready(SMALL),
            _guest_hint(SMALL),
        ),
        Task(
            "small",
            f"Its kernel says that it has at most {SMALL_MIB} MiB (MemTotal)",
            _is_small,
            "The guest's memory is in an environment variable of the image: look at its Env with "
            "`docker image inspect`. The kernel keeps a part for itself, so MemTotal is less than what you give.",
            ("ready",),
        ),
    )
    return Exercise(lab, "01", "small-guest", "The smallest guest", tasks, 2.0, (SMALL,))


def _is_small(lab: Lab) -> str | None:
    mib = int(_log_facts(lab, SMALL).get("memory_kib", "0")) / 1024
    return None if 0 < mib <= SMALL_MIB else f"its kernel says {mib:.0f} MiB"


# --- guests


def _is_guest_image(lab: Lab, container: Container) -> bool:
    return bool(container.attrs["Image"] == lab.inspect_image("labhelpers/vm")["Id"])


def _guest_ready(name: str) -> Check:
    """A guest runs in a container, and its payload is ready."""

    def check(lab: Lab) -> str | None:
        container = running(lab, name)
        if not _is_guest_image(lab, container):
            image = str(container.attrs["Config"]["Image"]).removesuffix(":latest")
            return f"{name} is made from {image}: it is no guest"
        if not _has_qemu(lab, container):
            return f"no QEMU runs in {name}: it is no guest"
        log = _log(lab, name)
        if READY not in log or "boot_id" not in facts(log):
            return f"the payload of {name} is not ready (yet)"
        if log.count("fact boot_id=") > 1:
            return (
                f"something else has written into the log of {name}: it has two boot ids. Start another guest"
            )
        return None

    return check


def _has_qemu(lab: Lab, container: Container) -> bool:
    # the program that runs, not its command line, which can be any
    processes = lab.host.processes(container)
    programs = (lab.host.output(["readlink", f"/proc/{process.pid}/exe"]) for process in processes)
    return any(program.rpartition("/")[2].startswith("qemu-system") for program in programs)


def _guest_hint(name: str) -> Hint:
    def hint(lab: Lab) -> str:
        container = container_named(lab, name)
        if container is None:
            return "A guest is a container of the image labhelpers/vm. It needs a name and no command."
        if not _is_guest_image(lab, container):
            return "It runs the payload in a container, without a kernel of its own. Guests: labhelpers/vm."
        if container.status == "running" and not _has_qemu(lab, container):
            return (
                "The image's own command starts the guest: leave the command and the entry point as they are."
            )
        memory = environment_of(container).get("GUEST_MEMORY_MB", "?")
        if container.status == "exited":
            return (
                f"It was given {memory} MiB and has exited (code {container.attrs['State']['ExitCode']}). A kernel "
                "without room to unpack itself cannot even print an error. Read the last lines of its log."
            )
        return f"A guest takes seconds to boot. If it hangs, {memory} MiB may be too little: see its log."

    return hint


def _log(lab: Lab, name: str) -> str:
    """The log of the guest since the last start of its container; the log of earlier starts is in front of it."""
    container = running(lab, name)
    started = datetime.fromisoformat(container.attrs["State"]["StartedAt"])
    lines = [line.partition(" ") for line in lab.logs(container, timestamps=True).splitlines()]
    starts = [number for number, (_, _, text) in enumerate(lines) if POWER_ON in text]
    # the first since this start: whatever else is written into the log comes later
    recent = (n for n in starts if datetime.fromisoformat(lines[n][0]) > started - CLOCK_TOLERANCE)
    begin = next(recent, starts[-1] if starts else len(lines))
    return "\n".join(text for _, _, text in lines[begin:])


def _log_facts(lab: Lab, name: str) -> Mapping[str, str]:
    return facts(_log(lab, name))
