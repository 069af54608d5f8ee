"""The duties of process 1: signals that it must handle, and orphans that it must reap."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import is_integer
from labhelpers.engine.waiting import TIMEOUT_S
from labhelpers.errors import BadInput, TimedOut
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

NO_HANDLER, HANDLER, INIT = "sleep", "a shell with a trap", "sleep, with --init"
_HANDLER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"]
_PROGRAMS: dict[str, dict[str, Any]] = {
    NO_HANDLER: {"command": "sleep 9170"},
    HANDLER: {"command": _HANDLER},
    INIT: {"command": "sleep 9170", "init": True},
}
_POLL_S = 0.4
Disposition = Literal["caught", "waited for", "ignored", "default"]
# the number of rt_sigtimedwait(2): x86_64, and arm64 with the other newer architectures
_SIGTIMEDWAIT = ("128", "137")


# --- signal dispositions


@record
class SignalDispositions(Result):
    """What a process does with signals (SigBlk, SigIgn and SigCgt of /proc/PID/status)."""

    blocked: tuple[str, ...] = column("signals that are blocked")
    ignored: tuple[str, ...] = column("signals that are ignored")
    caught: tuple[str, ...] = column("signals that have a handler")
    waits: bool = column(
        "whether the process sleeps in sigtimedwait(2), which accepts blocked signals; "
        "meanwhile the kernel leaves them out of SigBlk"
    )

    def disposition(self, name: str) -> Disposition:
        """The disposition of a signal, by its name: `SIGTERM`."""
        if name in self.caught:
            return "caught"
        if name in self.ignored:
            return "ignored"
        return "waited for" if self.waits or name in self.blocked else "default"

    def handles(self, name: str) -> bool:
        """Whether the process catches the signal or waits for it."""
        return self.disposition(name) in ("caught", "waited for")


@experiment
def signal_dispositions(lab: Lab, target: Container | str | int) -> SignalDispositions:
    """What a container's first process, or the process with a PID, does with each signal.

    Raises:
        ContainerMissing, NotRunning: there is no such container or process, or it is not running.
    """
    pid = lab.host.process(target).pid
    status = lab.host.read(f"/proc/{pid}/status")
    sleeping_in = lab.host.read_many([f"/proc/{pid}/wchan", f"/proc/{pid}/syscall"])
    function, call = ((text or "").strip() for text in sleeping_in.values())
    waits = "sigtimedwait" in function or call.split(" ")[0] in _SIGTIMEDWAIT
    blocked, ignored, caught = (_names(status, mask) for mask in ("SigBlk", "SigIgn", "SigCgt"))
    return SignalDispositions(blocked, ignored, caught, waits)


def _names(status: str, mask: str) -> tuple[str, ...]:
    match = re.search(rf"^{mask}:\s+([0-9a-f]+)", status, re.M)
    bits = int(match[1], 16) if match else 0
    return tuple(number.name for number in sorted(signal.Signals) if bits >> (number - 1) & 1)


# --- signals


@record
class SentSignal(Result):
    """A signal that was sent to a process of a container."""

    program: str = column("program that received the signal")
    pid_inside: int = column("its PID in the container")
    disposition: Disposition = column(
        "what it does with the signal; `default` is the kernel's default action"
    )
    signal: str = column("`TERM` or `KILL`")
    sender: Literal["inside", "the host"] = column(
        "`inside`, the same PID namespace; or `the host`, its ancestor"
    )
    ended: bool = column("whether the process ended")


@record
class Signals(Result):
    """Signals sent to process 1 of containers, and to another process."""

    sent: tuple[SentSignal, ...] = rows("the signals in the order in which they were sent", of=SentSignal)

    def ended(self, program: str, signal: str, sender: str, *, first: bool = True) -> bool:
        """Whether a signal ended a program; `first` is whether the program was process 1."""
        return next(
            each.ended
            for each in self.sent
            if (each.program, each.signal, each.sender, each.pid_inside == 1)
            == (program, signal, sender, first)
        )


@experiment
def signals(lab: Lab) -> Signals:
    """Send TERM and KILL to process 1 of containers, from inside and from the host.

    The kernel drops a signal to process 1 of a PID namespace that neither has a handler nor waits for it. Only
    KILL and STOP from an ancestor namespace reach it anyway (pid_namespaces(7), "The namespace init process").
    """
    sent: list[SentSignal] = []
    with temporary_containers(lab, ["docker kill"]) as run:
        plain = run(lab.image("payload"), **_PROGRAMS[NO_HANDLER])
        lab.exec(plain, "sleep 9171", detach=True)
        second = lab.wait_for("a second sleep", lambda: _find(lab, plain, "sleep 9171"))
        assert second is not None  # wait_for returns a true value
        for name, sender in (("TERM", "inside"), ("TERM", "the host"), ("KILL", "inside")):
            sent.append(_send(lab, NO_HANDLER, plain, lab.host.process(plain), name, sender))
        sent.append(_send(lab, NO_HANDLER, plain, second, "TERM", "inside"))
        sent.append(_send(lab, NO_HANDLER, plain, lab.host.process(plain), "KILL", "the host"))
        for program in (HANDLER, INIT):
            container = run(lab.image("payload"), **_PROGRAMS[program])
            _wait_until_ready(lab, program, container)
            sent.append(_send(lab, program, container, lab.host.process(container), "TERM", "inside"))
    return Signals(tuple(sent))


def _send(lab: Lab, program: str, container: Container, to: Process, name: str, sender: Any) -> SentSignal:
    before = signal_dispositions(lab, to.pid)
    if sender == "inside":
        lab.exec(container, f"kill -{name} {to.inside_pid}")
    else:
        lab.kill(container, name)
    # a signal without effect is dropped when it is sent, so a short wait is enough
    expected = before.handles(f"SIG{name}") or to.inside_pid != 1 or (name == "KILL" and sender != "inside")
    with suppress(TimedOut):
        lab.wait_for(
            f"the end of {program}", lambda: not _is_alive(lab, to), TIMEOUT_S if expected else _POLL_S
        )
    ended = not _is_alive(lab, to)
    return SentSignal(program, to.inside_pid, before.disposition(f"SIG{name}"), name, sender, ended)


def _wait_until_ready(lab: Lab, program: str, container: Container) -> None:
    """A shell needs a moment until its trap is set, an init until it has blocked the signals that it waits for."""
    lab.wait_for(
        f"{program} to handle SIGTERM", lambda: signal_dispositions(lab, container).handles("SIGTERM")
    )


def _is_alive(lab: Lab, process: Process) -> bool:
    status = lab.host.read_many([f"/proc/{process.pid}/status"]).popitem()[1]
    return status is not None and not re.search(r"^State:\s+[ZX]", status, re.M)


def _find(lab: Lab, container: Container, command: str) -> Process | None:
    return next((process for process in lab.host.processes(container) if process.command == command), None)


# --- stops


@record
class Stop(Result):
    """A `docker stop`."""

    program: str = column("program that ran as process 1")
    disposition: Disposition = column("what it does with TERM; `default` is the kernel's default action")
    stop_s: float = column("duration of `docker stop`")
    exit_code: int = column("exit code of the container; 137 is 128 + 9 (KILL), 143 is 128 + 15 (TERM)")


@record
class Stops(Result):
    """`docker stop` of containers whose process 1 treats TERM differently."""

    timeout_s: int = column("how long the engine waits after TERM before it sends KILL")
    stops: tuple[Stop, ...] = rows("one for each program", of=Stop)

    def of(self, program: str) -> Stop:
        """The stop of a program."""
        return next(stop for stop in self.stops if stop.program == program)


@experiment
def stops(lab: Lab, timeout_s: int = 10) -> Stops:
    """Stop three containers, and measure how long each stop takes and how the container ends.

    `docker stop` sends TERM, waits, and sends KILL from the host (Docker docs, docker container stop).

    Args:
        timeout_s: how long the engine waits, from 1 to 60; 10 is Docker's default.

    Raises:
        BadInput: `timeout_s` is out of range.
    """
    if not is_integer(timeout_s) or not 1 <= timeout_s <= 60:
        raise BadInput(
            f"timeout_s={timeout_s!r} is out of range", hint="use a whole number of seconds from 1 to 60"
        )
    results = []
    with temporary_containers(lab, ["docker stop"]) as run:
        for program, options in _PROGRAMS.items():
            container = run(lab.image("payload"), **options)
            if program != NO_HANDLER:
                _wait_until_ready(lab, program, container)
            disposition = signal_dispositions(lab, container).disposition("SIGTERM")
            start = time.monotonic()
            lab.stop(container, timeout_s=timeout_s)
            stop_s = time.monotonic() - start
            results.append(Stop(program, disposition, stop_s, lab.inspect(container)["State"]["ExitCode"]))
    return Stops(timeout_s, tuple(results))


# --- zombies


@record
class OrphanCount(Result):
    """The orphans of a container."""

    option: str = column("option of `docker run`")
    first: str = column("command of process 1")
    orphans: int = column("processes that lost their parent, and ended")
    zombies: int = column("orphans that are still in the process table")


@record
class Zombies(Result):
    """Orphans of two containers: one without and one with an init that reaps them."""

    containers: tuple[OrphanCount, OrphanCount] = rows("without `--init`, then with it", of=OrphanCount)
    zombie_inside_pid: int = column("PID that one of the zombies still occupies in the container")
    zombie_kinds: tuple[str, ...] = column("kinds of namespace that a zombie is still in")

    @property
    def without_init(self) -> OrphanCount:
        """The container without `--init`."""
        return self.containers[0]

    @property
    def with_init(self) -> OrphanCount:
        """The container with `--init`."""
        return self.containers[1]


@experiment
def zombies(lab: Lab, orphans: int = 5) -> Zombies:
    """Create orphans in two containers, and count those that remain as zombies.

    An orphan becomes a child of process 1 of its PID namespace, which must wait(2) for it (pid_namespaces(7)).
    `sleep` does not wait for children; the init that `--init` adds does.

    Args:
        orphans: how many, from 1 to 20.

    Raises:
        BadInput: `orphans` is out of range.
    """
    if not is_integer(orphans) or not 1 <= orphans <= 20:
        raise BadInput(f"orphans={orphans!r} is out of range", hint="use a whole number from 1 to 20")
    with temporary_containers(lab, ["docker run -d --pids-limit"]) as run:
        image = lab.image("payload")
        plain = run(image, "sleep 9180", pids_limit=60)
        without_init, remaining = _create_orphans(lab, plain, "(no option)", orphans, reaped=False)
        reaping = run(image, "sleep 9180", init=True, pids_limit=60)
        with_init, _ = _create_orphans(lab, reaping, "--init", orphans, reaped=True)
    kinds = tuple(sorted(remaining[0].namespaces)) if remaining else ()
    return Zombies((without_init, with_init), remaining[0].inside_pid if remaining else 0, kinds)


def _create_orphans(
    lab: Lab, container: Container, option: str, count: int, *, reaped: bool
) -> tuple[OrphanCount, Sequence[Process]]:
    """Create orphans that end after a moment; wait until they have ended and, if `reaped`, until they are gone."""
    first = lab.host.process(container)
    # the shell exits at once, which makes orphans of the sleeps that it started
    lab.exec(container, ["sh", "-c", f"for i in $(seq {count}); do sleep 0.2 & done"])

    def children() -> list[Process]:
        return [
            process
            for process in lab.host.processes()
            if process.parent_pid == first.pid and "9180" not in process.command
        ]

    def have_ended() -> bool:
        current = children()
        return not current if reaped else all(process.state == "Z" for process in current)

    lab.wait_for("the orphans to end", have_ended)
    zombies = [process for process in children() if process.state == "Z"]
    command = PurePosixPath(first.command.split()[0]).name
    return OrphanCount(option, command, count, len(zombies)), zombies
