"""Guests and containers with the same payload: how they are started, and how their logs are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import is_integer
from labhelpers.engine.responses import seconds
from labhelpers.errors import BadInput, EngineRefused, GuestFailed, NotRunning, TimedOut

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MIB = 1024 * 1024
READY, IDLE = "PAYLOAD READY", "PAYLOAD IDLE"
GUEST_MEMORY_MB = 128
READY_TIMEOUT_S = 60.0
TAIL_LINES = 40
POLL_S = 0.2


@experiment
def start_guest(
    lab: Lab,
    *,
    memory_mb: int = GUEST_MEMORY_MB,
    accel: Literal["tcg", "kvm"] = "tcg",
    name: str | None = None,
    limit_s: float = READY_TIMEOUT_S,
) -> Container:
    """Boot a guest in a container of the image `vm`, and wait until its payload is idle.

    Args:
        memory_mb: the guest's memory in MiB.
        accel: `kvm` gives the container /dev/kvm.
        limit_s: how long to wait, in seconds.

    Raises:
        BadInput: the memory is not a positive integer.
        GuestFailed: the guest exited, or its payload was not idle in time; the container is removed.
    """
    if not is_integer(memory_mb) or memory_mb < 1:
        raise BadInput(f"a guest cannot have {memory_mb!r} MiB of memory", hint="use a positive integer: 128")
    guest = lab.run(
        lab.image("vm"),
        name=name,
        network="none",
        environment={"GUEST_MEMORY_MB": str(memory_mb), "GUEST_ACCEL": accel},
        devices=["/dev/kvm"] if accel == "kvm" else None,
    )
    _wait_until_idle(lab, guest, limit_s)
    return guest


@experiment
def start_payload(lab: Lab, *, name: str | None = None, limit_s: float = READY_TIMEOUT_S) -> Container:
    """Start the same payload in a container, and wait until it is idle.

    Raises:
        GuestFailed: the payload was not idle within `limit_s` seconds.
    """
    container = lab.run(lab.image("payload"), name=name, network="none")
    _wait_until_idle(lab, container, limit_s)
    return container


def _wait_until_idle(lab: Lab, container: Container, limit_s: float) -> None:
    def is_idle() -> bool:
        # a guest writes about 350 lines, and this is the last one
        return IDLE in lab.logs(container, tail=TAIL_LINES)

    try:
        try:
            lab.wait_for("the payload to be idle", is_idle, limit_s, every_s=POLL_S, while_running=container)
        except (NotRunning, TimedOut) as error:
            raise _start_error(lab, container, error, limit_s) from error
    except BaseException:
        # a guest that failed would keep its memory
        with lab.quiet():
            lab.remove(container, force=True)
        raise


def _start_error(lab: Lab, container: Container, error: NotRunning | TimedOut, limit_s: float) -> GuestFailed:
    state = lab.inspect(container)
    image = state["Config"]["Image"]
    if isinstance(error, TimedOut):
        message = f"the payload of {image} was not ready within {limit_s:g} s"
    else:
        message = f"{image} exited with exit code {state['State']['ExitCode']} before its payload was ready"
    return GuestFailed(
        message,
        hint="read the last lines of its log; the usual cause is too little memory: use 128 MiB or more",
        engine_message=error.engine_message or "(nothing)",
    )


def run_script(lab: Lab, script: str, *, image: str = "payload") -> str:
    """The output of a shell script in a container of its own.

    Raises:
        EngineRefused: the script failed.
    """
    output = lab.run_once(lab.image(image), ["-c", script], entrypoint="/bin/sh", network="none")
    if output.exit_code:
        raise EngineRefused(
            f"this command failed in a container of labhelpers/{image}: {script}",
            hint="run the cell again; if it fails again, run `./lab doctor`",
            engine_message=str(output),
        )
    return output.stdout


def facts(log: str) -> dict[str, str]:
    """The facts that a payload reports about its machine: name → value, from its lines `fact name=value`."""
    return dict(re.findall(r"fact (\w+)=(.*?)\r?$", log, re.MULTILINE))


def pci(log: str) -> tuple[str, ...]:
    """The PCI devices that a payload sees: `address vendor:device class`."""
    return tuple(re.findall(r"^pci (\S+ \S+ \S+)\r?$", log, re.MULTILINE))


def timestamped_lines(log: str) -> list[tuple[float, str]]:
    """The lines of `docker logs --timestamps`, each with its time in seconds since 1970 on the engine's clock."""
    pairs = (line.partition(" ") for line in log.splitlines())
    return [(seconds(stamp), text.rstrip("\r")) for stamp, _, text in pairs if stamp[:2] == "20"]


def pss_bytes(lab: Lab, containers: Sequence[Container]) -> list[int]:
    """The proportional set size of each container's processes on the engine's host (Pss, proc(5))."""
    return [lab.host.memory(container).pss_bytes for container in containers]
