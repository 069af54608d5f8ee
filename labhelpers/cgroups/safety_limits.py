"""Safety limits for containers that use all the resources that they can get.

Three mechanisms confine such a container, each without relying on the others:

1. its cgroup: a limit of memory and of processes. The lab reads both back from the kernel's files on the engine's
   host; if either was not applied, the container is removed before its command has run. If the host does not have
   one of the two controllers, an experiment that is about it does not start (`missing_controllers`), and the other
   experiments rely on 2 and 3;
2. inside: a limit of address space (setrlimit(2), RLIMIT_AS) for each of its processes, and `timeout -s KILL`;
3. outside: the lab kills the container a little after its time, and removes it in any case.

An experiment's own limit is below the safety limits: if it is missing or not applied, the safety limits hold.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine.differences import lacks_controller
from labhelpers.engine.host import Memory, Pids
from labhelpers.errors import BadInput, LabError, NotAvailable
from labhelpers.lab.operations import Run
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MIB = 1024 * 1024
START_TIMEOUT_S = 60.0
"""Timeout for a container to reach its gate, on a slow engine."""
EXIT_TIMEOUT_S = 3.0
"""How long after `timeout` inside the container the lab kills it."""
_USR1 = 1 << 9  # bit of SIGUSR1 in /proc/PID/status, SigCgt


def program(name: str) -> str:
    """The source of a program in `inside/`, for `sh -c` or `python3 -c`."""
    return (Path(__file__).with_name("inside") / name).read_text(encoding="utf-8")


_WAIT_FOR_SIGUSR1 = program("gate.sh")


@record
class SafetyLimits(Result):
    """The most that a container can use, whatever its own limits are."""

    memory_bytes: int = column("memory of the container, without swap")
    pids: int = column("processes and threads of the container")
    seconds: float = column("how long the command runs, in seconds")


DEFAULT_SAFETY_LIMITS = SafetyLimits(256 * MIB, 64, 60.0)


@experiment
@contextmanager
def load(
    lab: Lab,
    command: Sequence[str],
    *,
    image: str = "payload",
    safety: SafetyLimits = DEFAULT_SAFETY_LIMITS,
    start: bool = True,
    keep: bool = False,
    controllers: Sequence[str] = (),
    **options: Any,
) -> Iterator[Container]:
    """A container that may use all that the safety limits leave it, for the block; it is removed at the end.

    Args:
        command: its command, which starts once the safety limits were read back from the host.
        image: a lab image with a shell: `payload` or `tools`.
        safety: the safety limits.
        start: False makes its command wait for `open_gate`, so that samples can begin before it.
        keep: keep the container (and its cgroup) when the command has ended, until a second `open_gate`.
        controllers: cgroup controllers that the experiment is about; if one is missing, nothing is started.
        options: as for `lab.run`. The default limits of memory and processes are the safety limits.

    Raises:
        BadInput: a limit is above the safety limits.
        NotAvailable: the safety limits were not applied, or a controller is missing; the command did not run.
    """
    if reason := missing_controllers(lab, *controllers):
        raise NotAvailable(
            reason, hint="`./lab doctor` shows how to enable it; continue with the next section"
        )
    limits = _apply_safety_limits(safety, options)
    kib, seconds = str(safety.memory_bytes * 4 // 1024), str(max(1, round(safety.seconds)))
    gate = ["-c", _WAIT_FOR_SIGUSR1, "gate", kib, seconds, "yes" if keep else "", *command]
    options = {"network": "none", "cap_drop": ["ALL"], **options, **limits, "entrypoint": "sh"}
    with (
        lab.quiet(essential=["docker run -d"]),
        lab.running(lab.image(image), gate, **options) as container,
    ):
        verify_limits(lab, container, safety)
        with kill_after(lab, container, safety.seconds + EXIT_TIMEOUT_S):
            if start:
                open_gate(lab, container)
            yield container


def _apply_safety_limits(safety: SafetyLimits, options: dict[str, Any]) -> dict[str, Any]:
    memory, pids = options.get("memory", safety.memory_bytes), options.get("pids_limit", safety.pids)
    requested = Run("any", memory=memory, pids_limit=pids).api()["HostConfig"]
    if requested["Memory"] > safety.memory_bytes or not 0 < requested["PidsLimit"] <= safety.pids:
        raise BadInput(
            f"a limit of {memory} of memory and {pids} processes is above the lab's safety limits",
            hint=f"use at most {safety.memory_bytes} bytes and {safety.pids} processes",
        )
    # the same number for memory and for memory with swap: no swap (docs.docker.com, resource_constraints)
    return {"memory": memory, "memory_swap": memory, "pids_limit": pids}


def verify_limits(lab: Lab, container: Container, safety: SafetyLimits) -> None:
    """Read the safety limits back from the kernel's files on the engine's host.

    Raises:
        NotAvailable: the container's limits are above the safety limits.
    """
    cgroup = lab.host.cgroup(container)
    memory, pids = cgroup.get(Memory), cgroup.get(Pids)
    for controller, resource, limit, maximum in (
        ("memory", "memory", memory.limit_bytes if memory else None, safety.memory_bytes),
        ("pids", "processes", pids.limit if pids else None, safety.pids),
    ):
        if missing_controllers(lab, controller):
            continue
        if limit is None or limit > maximum:
            actual = "no limit" if limit is None else f"a limit of {limit}"
            raise NotAvailable(
                f"the kernel has {actual} on {resource} for {container.name} instead of {maximum}, "
                "so its command was not started",
                hint="`docker info` lists the limits that this engine does not support; continue with the next section",
            )


@experiment
def missing_controllers(lab: Lab, *controllers: str) -> str | None:
    """A sentence that names the controllers that this engine cannot use; None if it can use them all.

    Args:
        controllers: `memory`, `cpu`, `cpuset` or `pids`.
    """
    missing = [name for name in controllers if lacks_controller(lab.engine.info, name)]
    if not missing:
        return None
    return f"Not shown here: this engine cannot use the cgroup controller {' and '.join(missing)}."


def open_gate(lab: Lab, container: Container) -> None:
    """Let the command of a `load` container start, or the container end: send SIGUSR1 once its shell catches it.

    Raises:
        NotRunning: the container exited.
        TimedOut: its first process does not catch the signal.
    """
    file = f"/proc/{lab.inspect(container)['State']['Pid']}/status"

    def catches_it() -> bool:
        status = lab.host.read_many([file])[file] or ""
        caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
        return bool(caught and int(caught[0], 16) & _USR1)

    what = f"the first process of {container.name} to catch SIGUSR1"
    lab.wait_for(what, catches_it, START_TIMEOUT_S, while_running=container)
    lab.kill(container, "USR1")


@contextmanager
def kill_after(lab: Lab, container: Container, seconds: float) -> Iterator[None]:
    """Kill the container if the block takes longer than `seconds`."""

    def end() -> None:
        with suppress(LabError):  # it may have exited already
            lab.kill(container)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
