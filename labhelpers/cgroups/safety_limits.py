"""The outer bound of a hog: set, read back from the host, and only then may the hog begin.

A hog is a container that takes whatever it can get. Three things hold it, each without the others:

1. its cgroup: a limit of memory and of processes. The lab reads both back from the kernel's own files on the
   engine's host; where one of them did not take effect, the container is removed before it has run. Where the host
   does not have one of the two controllers, an experiment that is about it does not begin (`missing_controllers`), and
   the others keep 2 and 3;
2. inside: a limit of address space (setrlimit(2), RLIMIT_AS) for each of its processes, and `timeout -s KILL`;
3. outside: the lab kills the container a little after its time, and removes it in any case.

An experiment's own limit lies inside the bound: where it is missing or fails to apply, the bound is what holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine.differences import lacks_controller
from labhelpers.engine.host import Memory, Pids
from labhelpers.errors import BadInput, LabError
from labhelpers.lab.operations import Run
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MIB = 1024 * 1024
START_TIMEOUT_S = 60.0
"""The longest that a container takes from its start to its gate, on a slow engine."""
EXIT_TIMEOUT_S = 3.0
"""How much later than `timeout` inside the lab kills the container."""
_USR1 = 1 << 9  # bit of SIGUSR1 in /proc/PID/status, SigCgt


def program(name: str) -> str:
    """The text of a program of `inside/`, as `sh -c` or `python3 -c` takes it."""
    return (Path(__file__).with_name("inside") / name).read_text(encoding="utf-8")


_WAIT_FOR_SIGUSR1 = program("gate.sh")


@record
class SafetyLimits(Result):
    """What a hog can take at most, whatever its own limits are."""

    memory_bytes: int = column("of its container; swap is not added to it")
    pids: int = column("processes and threads of its container")
    seconds: float = column("how long it runs")


DEFAULT_SAFETY_LIMITS = SafetyLimits(256 * MIB, 64, 60.0)


@contextmanager
def load(
    lab: Lab,
    command: Sequence[str],
    *,
    image: str = "payload",
    bound: SafetyLimits = DEFAULT_SAFETY_LIMITS,
    begin: bool = True,
    stay: bool = False,
    needs: Sequence[str] = (),
    **options: Any,
) -> Iterator[Container]:
    """A container that may take whatever `safety` leaves it, for the block; it is removed at its end.

    Args:
        command: what it runs, once the bound was read back from the host.
        image: a lab image with a shell: `payload` or `tools`.
        begin: False: its command waits for `open_gate`, so that its samples have begun before.
        needs: the controllers that it is about: where the engine cannot use one of them, nothing is started.
        stay: when the command has ended, its container (and so its cgroup) stays until a second `open_gate`.
        options: as for `lab.run`. A limit of memory or pids that is not given is the bound's.

    Raises:
        BadInput: a limit above the bound.
        LabError: the bound did not take effect, or a controller is missing; nothing has run.
    """
    if why := missing_controllers(lab, *needs):
        raise LabError(why, hint="`./lab doctor` says how to get it; go on with the next section")
    limits = _apply_safety_limits(bound, options)
    kib, seconds = str(bound.memory_bytes * 4 // 1024), str(max(1, round(bound.seconds)))
    gate = ["-c", _WAIT_FOR_SIGUSR1, "gate", kib, seconds, "yes" if stay else "", *command]
    options = {"network": "none", "cap_drop": ["ALL"], **options, **limits, "entrypoint": "sh"}
    with (
        lab.quiet(essential=["docker run -d"]),
        lab.running(lab.image(image), gate, **options) as container,
    ):
        verify_limits(lab, container, bound)
        with kill_after(lab, container, bound.seconds + EXIT_TIMEOUT_S):
            if begin:
                open_gate(lab, container)
            yield container


def _apply_safety_limits(bound: SafetyLimits, options: dict[str, Any]) -> dict[str, Any]:
    memory, pids = options.get("memory", bound.memory_bytes), options.get("pids_limit", bound.pids)
    asked = Run("any", memory=memory, pids_limit=pids).api()["HostConfig"]
    if asked["Memory"] > bound.memory_bytes or not 0 < asked["PidsLimit"] <= bound.pids:
        raise BadInput(
            f"a limit of {memory} of memory and {pids} processes is above the bound that the lab sets",
            hint=f"stay within {bound.memory_bytes} bytes and {bound.pids} processes",
        )
    # the same number for memory and for memory with swap: no swap (docs.docker.com, resource_constraints)
    return {"memory": memory, "memory_swap": memory, "pids_limit": pids}


def verify_limits(lab: Lab, container: Container, bound: SafetyLimits) -> None:
    """Read the bound back from the kernel's files on the engine's host.

    Raises:
        LabError: the container has more than the bound.
    """
    seen = lab.host.cgroup(container)
    memory, pids = seen.get(Memory), seen.get(Pids)
    for controller, what, limit, most in (
        ("memory", "memory", memory.limit_bytes if memory else None, bound.memory_bytes),
        ("pids", "processes", pids.limit if pids else None, bound.pids),
    ):
        if missing_controllers(lab, controller):
            continue
        if limit is None or limit > most:
            has = "no limit" if limit is None else f"a limit of {limit}"
            raise LabError(
                f"the engine's kernel has {has} on {what} for {container.name}, where {most} was asked, so what takes "
                "all it can get was not started",
                hint="`docker info` lists what this engine cannot limit; the experiment is not safe on it",
            )


def missing_controllers(lab: Lab, *controllers: str) -> str | None:
    """Why an experiment on these controllers cannot be shown here: a sentence for the page; None where it can.

    Args:
        controllers: `memory`, `cpu`, `cpuset` or `pids`.
    """
    lacks = [one for one in controllers if lacks_controller(lab.engine.info, one)]
    if not lacks:
        return None
    return f"Not shown here: this engine cannot use the cgroup controller {' and '.join(lacks)}."


def open_gate(lab: Lab, container: Container) -> None:
    """Send the gate of a hog the signal to go on, once it catches it.

    Raises:
        NotRunning: the container has ended.
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
    """Kill the container when the block lasts longer than `seconds`."""

    def end() -> None:
        with suppress(LabError):  # it may have ended by itself
            lab.kill(container)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
