"""The duties of process 1: signals that it must handle, and orphans that it must reap."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from labhelpers.engine.waiting import TIMEOUT_S
from labhelpers.errors import BadInput, TimedOut
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
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


# --- masks


@record
class SignalDispositions(Result):
    """What a process does with signals (proc(5): SigBlk, SigIgn and SigCgt of /proc/PID/status)."""

    blocked: tuple[str, ...] = column("names of the signals that it holds back")
    ignored: tuple[str, ...] = column("of those that it ignores")
    caught: tuple[str, ...] = column("of those that it has a handler for")
    waits: bool = column(
        "whether it sleeps in sigtimedwait(2). It then takes signals that it has blocked, and for as long "
        "as it sleeps the kernel leaves these out of SigBlk: no mask shows them"
    )

    def say(self, name: str) -> Disposition:
        """What becomes of a signal, by its name: `SIGTERM`."""
        if name in self.caught:
            return "caught"
        if name in self.ignored:
            return "ignored"
        return "waited for" if self.waits or name in self.blocked else "default"

    def takes(self, name: str) -> bool:
        """Whether the process does something of its own with the signal."""
        return self.say(name) in ("caught", "waited for")


def signal_dispositions(lab: Lab, where: Container | str | int) -> SignalDispositions:
    """What a container's first process, or the process of a pid, does with each signal.

    Raises:
        LabError: it does not run.
    """
    pid = lab.host.process(where).pid
    status = lab.host.read(f"/proc/{pid}/status")
    asleep = lab.host.read_many([f"/proc/{pid}/wchan", f"/proc/{pid}/syscall"])
    function, call = ((text or "").strip() for text in asleep.values())
    waits = "sigtimedwait" in function or call.split(" ")[0] in _SIGTIMEDWAIT
    blocked, ignored, caught = (_names(status, mask) for mask in ("SigBlk", "SigIgn", "SigCgt"))
    return SignalDispositions(blocked, ignored, caught, waits)


def _names(status: str, mask: str) -> tuple[str, ...]:
    found = re.search(rf"^{mask}:\s+([0-9a-f]+)", status, re.M)
    bits = int(found[1], 16) if found else 0
    return tuple(one.name for one in sorted(signal.Signals) if bits >> (one - 1) & 1)


# --- signals


@record
class SentSignal(Result):
    """A signal that was sent to a process of a container."""

    program: str = column("what runs")
    pid_inside: int = column("its pid in the container")
    mask: Disposition = column("what its masks said of the signal; `default` is nothing of its own")
    signal: str = column("`TERM` or `KILL`")
    sender: Literal["inside", "the host"] = column(
        "`inside`, a process of the same pid namespace; or `the host`, one of a namespace around it"
    )
    ended: bool = column("whether the process ended")


@record
class Signals(Result):
    """Signals that were sent to process 1 of containers, and to another process."""

    sent: tuple[SentSignal, ...] = rows("in the order in which they were sent", of=SentSignal)

    def ended(self, program: str, signal: str, sender: str, *, first: bool = True) -> bool:
        """Whether a program ended by a signal; `first` is whether it was process 1."""
        return next(
            one.ended
            for one in self.sent
            if (one.program, one.signal, one.sender, one.pid_inside == 1) == (program, signal, sender, first)
        )


def signals(lab: Lab) -> Signals:
    """Send TERM and KILL to process 1 of containers, from inside and from the host.

    The kernel drops a signal to process 1 of a pid namespace that has no handler for it and does not wait for it.
    Only KILL and STOP from a namespace around it reach it anyway (pid_namespaces(7), "The namespace init process").
    """
    sent: list[SentSignal] = []
    with temporary_containers(lab, ["docker kill"]) as run:
        plain = run(lab.image("payload"), **_PROGRAMS[NO_HANDLER])
        lab.exec(plain, "sleep 9171", detach=True)
        second = lab.wait_for("a second sleep", lambda: _find(lab, plain, "sleep 9171"))
        assert second is not None  # wait_for returns what is true
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
    seen = signal_dispositions(lab, to.pid)
    if sender == "inside":
        lab.exec(container, f"kill -{name} {to.inside_pid}")
    else:
        lab.kill(container, name)
    # a signal that does nothing is dropped when it is sent: a moment is enough to see that
    expected = seen.takes(f"SIG{name}") or to.inside_pid != 1 or (name == "KILL" and sender != "inside")
    with suppress(TimedOut):
        lab.wait_for(
            f"the end of {program}", lambda: not _is_alive(lab, to), TIMEOUT_S if expected else _POLL_S
        )
    return SentSignal(program, to.inside_pid, seen.say(f"SIG{name}"), name, sender, not _is_alive(lab, to))


def _wait_until_ready(lab: Lab, program: str, container: Container) -> None:
    """A shell needs a moment until its trap is set, an init until it has blocked what it waits for."""
    lab.wait_for(f"{program} to take SIGTERM", lambda: signal_dispositions(lab, container).takes("SIGTERM"))


def _is_alive(lab: Lab, process: Process) -> bool:
    status = lab.host.read_many([f"/proc/{process.pid}/status"]).popitem()[1]
    return status is not None and not re.search(r"^State:\s+[ZX]", status, re.M)


def _find(lab: Lab, container: Container, command: str) -> Process | None:
    return next((one for one in lab.host.processes(container) if one.command == command), None)


# --- stops


@record
class Stop(Result):
    """One `docker stop`."""

    program: str = column("what ran as process 1")
    mask: Disposition = column("what its masks said of TERM")
    stop_s: float = column("how long the stop took, in seconds")
    exit_code: int = column("of the container; 137 is 128 + 9, killed; 143 is 128 + 15, ended by TERM")


@record
class Stops(Result):
    """`docker stop` of containers whose process 1 does different things with TERM."""

    timeout_s: int = column("how long the engine waits after TERM before it kills")
    stops: tuple[Stop, ...] = rows("one for each program", of=Stop)

    def of(self, program: str) -> Stop:
        """The stop of a program."""
        return next(one for one in self.stops if one.program == program)


def stops(lab: Lab, timeout_s: int = 10) -> Stops:
    """Stop three containers, and measure how long each takes and how it ends.

    `docker stop` sends TERM, waits, and sends KILL from the host (Docker docs, docker container stop).

    Args:
        timeout_s: how long the engine waits; 10 is what it does when nobody says. At least 1, at most 60.

    Raises:
        BadInput: another time.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int) or not 1 <= timeout_s <= 60:
        raise BadInput(
            f"a stop of {timeout_s!r} s is not measured here", hint="give whole seconds from 1 to 60"
        )
    done = []
    with temporary_containers(lab, ["docker stop"]) as run:
        for program, words in _PROGRAMS.items():
            container = run(lab.image("payload"), **words)
            if program != NO_HANDLER:
                _wait_until_ready(lab, program, container)
            mask = signal_dispositions(lab, container).say("SIGTERM")
            begin = time.monotonic()
            lab.stop(container, timeout_s=timeout_s)
            took = time.monotonic() - begin
            done.append(Stop(program, mask, took, lab.inspect(container)["State"]["ExitCode"]))
    return Stops(timeout_s, tuple(done))


# --- zombies


@record
class OrphanCount(Result):
    """What became of the orphans of one container."""

    first: str = column("the command of its process 1")
    orphans: int = column("how many processes lost their parent, and ended")
    zombies: int = column("how many of them are still in the table of processes")


@record
class Zombies(Result):
    """Orphans with and without a process 1 that waits for them."""

    without_init: OrphanCount = column("the same container, without and with `--init`", shown=False)
    with_init: OrphanCount = column("the same container, without and with `--init`", shown=False)
    zombie_inside_pid: int = column("the pid that one of the zombies still holds in the container")
    zombie_kinds: tuple[str, ...] = column("the kinds of namespace that a zombie still is in")

    def frame(self) -> pd.DataFrame:
        """One row a container: option, first, orphans, zombies."""
        both = (("(no option)", self.without_init), ("--init", self.with_init))
        rows = [(option, one.first, one.orphans, one.zombies) for option, one in both]
        return table(rows, ["option", "first", "orphans", "zombies"])


def zombies(lab: Lab, orphans: int = 5) -> Zombies:
    """Make orphans in two containers, and count those that stay as zombies.

    An orphan becomes a child of process 1 of its pid namespace, which must wait(2) for it (pid_namespaces(7)).
    `sleep` waits for nobody; the init that `--init` adds does.

    Args:
        orphans: how many, from 1 to 20.

    Raises:
        BadInput: another number.
    """
    if isinstance(orphans, bool) or not isinstance(orphans, int) or not 1 <= orphans <= 20:
        raise BadInput(f"{orphans!r} orphans are not made here", hint="give a whole number from 1 to 20")
    with temporary_containers(lab, ["docker run -d --pids-limit"]) as run:
        image = lab.image("payload")
        plain, kept = _create_orphans(lab, run(image, "sleep 9180", pids_limit=60), orphans, stay=True)
        cared, _ = _create_orphans(
            lab, run(image, "sleep 9180", init=True, pids_limit=60), orphans, stay=False
        )
    kinds = tuple(sorted(kept[0].namespaces)) if kept else ()
    return Zombies(plain, cared, kept[0].inside_pid if kept else 0, kinds)


def _create_orphans(
    lab: Lab, container: Container, count: int, *, stay: bool
) -> tuple[OrphanCount, Sequence[Process]]:
    """Make orphans that end after a moment; wait until they have, and until they are reaped if not `stay`."""
    first = lab.host.process(container)
    # the shell ends at once, and the sleeps with it lose their parent
    lab.exec(container, ["sh", "-c", f"for i in $(seq {count}); do sleep 0.2 & done"])

    def left() -> list[Process]:
        return [
            one for one in lab.host.processes() if one.parent_pid == first.pid and "9180" not in one.command
        ]

    def is_over() -> bool:
        now = left()
        return all(one.state == "Z" for one in now) and (not now or stay)

    lab.wait_for("the orphans to end", is_over)
    found = [one for one in left() if one.state == "Z"]
    return OrphanCount(PurePosixPath(first.command.split()[0]).name, count, len(found)), found
