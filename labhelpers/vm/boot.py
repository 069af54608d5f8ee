"""How long guests and containers take to start, and what a guest logs while it boots.

Every time is the engine's: `docker logs --timestamps` and `docker inspect` use the same clock.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.responses import seconds
from labhelpers.errors import BadInput
from labhelpers.results import Result, column, record, rows, table
from labhelpers.vm.acceleration import probe_accel
from labhelpers.vm.guests import READY, timestamped_lines
from labhelpers.vm.pairs import KINDS, Kind, Pair, running

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a start: from `start_ms` to `end_ms`, milliseconds since the container was created."""

    name: str
    start_ms: float
    end_ms: float


@record
class Start:
    """One start, from `docker create` to the payload's first response."""

    kind: Kind = column("`vm` or `container`")
    order: int = column("position in the random order of the starts, from 0")
    phases: tuple[Phase, ...] = column("its phases in order, without gaps", shown=False)

    @property
    def total_ms(self) -> float:
        """From the beginning of the first phase to the end of the last."""
        return self.phases[-1].end_ms - self.phases[0].start_ms


@record
class StartTimes(Result):
    """Phases of the starts of guests and containers with the same payload."""

    starts: tuple[Start, ...] = rows("every start, in the order of the measurement", of=Start)
    accel: str = column("how the guests ran: `kvm` or `tcg`")

    def of(self, kind: Kind) -> tuple[Start, ...]:
        """The starts of one kind."""
        return tuple(start for start in self.starts if start.kind == kind)

    def median_start(self, kind: Kind) -> Start:
        """The start of that kind whose total is the (lower) median."""
        ranked = sorted(self.of(kind), key=lambda start: start.total_ms)
        return ranked[(len(ranked) - 1) // 2]

    @property
    def vm_median_ms(self) -> float:
        """The median total of the guests."""
        return median(start.total_ms for start in self.of("vm"))

    @property
    def container_median_ms(self) -> float:
        """The median total of the containers."""
        return median(start.total_ms for start in self.of("container"))

    @property
    def ratio(self) -> float:
        """The median total of the guests divided by that of the containers."""
        return self.vm_median_ms / self.container_median_ms

    @property
    def every_container_was_first(self) -> bool:
        """Whether the slowest container was ready sooner than the quickest guest."""
        slowest = max(start.total_ms for start in self.of("container"))
        return slowest < min(start.total_ms for start in self.of("vm"))

    def frame(self) -> pd.DataFrame:
        """One row for each phase of each start: order, kind, phase, start_ms, end_ms."""
        phases = [(s.order, s.kind, p.name, p.start_ms, p.end_ms) for s in self.starts for p in s.phases]
        return table(phases, ["order", "kind", "phase", "start_ms", "end_ms"])


PHASE_MARKERS: Mapping[Kind, Sequence[tuple[str, Callable[[str], bool]]]] = {
    # the phase that begins, and the line of the log that begins it
    "vm": (
        ("QEMU", lambda line: line.startswith("GUEST POWER ON")),
        ("firmware", lambda line: line.startswith("SeaBIOS")),
        ("kernel", lambda line: "] Linux version" in line or "] Booting Linux" in line),
        ("initramfs", lambda line: "GUEST INITRAMFS" in line),
        ("user space", lambda line: "GUEST USER SPACE" in line),
        ("ready", lambda line: READY in line),
    ),
    "container": (("ready", lambda line: READY in line),),
}


@experiment
def start_times(lab: Lab, repeats: int = 5) -> StartTimes:
    """Start `repeats` guests and as many containers in random order, one at a time.

    Raises:
        BadInput: `repeats` is below 1.
        GuestFailed: one of them did not start its payload.
    """
    if repeats < 1:
        raise BadInput(f"{repeats} repeats measure nothing", hint="use 1 or more")
    kinds = [*KINDS] * repeats
    random.shuffle(kinds)
    with lab.quiet(["docker run -d"]):
        accel = probe_accel(lab)
        return StartTimes(tuple(_measure(lab, kind, order) for order, kind in enumerate(kinds)), accel.kind)


def _measure(lab: Lab, kind: Kind, order: int) -> Start:
    with running(lab, kind) as container:
        lines = timestamped_lines(lab.logs(container, timestamps=True))
        state = lab.inspect(container)
    created = seconds(state["Created"])
    # the engine records the start a little after the process has begun: the first line may be earlier
    process_start = min(seconds(state["State"]["StartedAt"]), lines[0][0])
    times = [(name, _first_time(lines, begins)) for name, begins in PHASE_MARKERS[kind]]
    if kind == "container":
        times.insert(0, ("user space", process_start))
    marks = [("container", created), *((name, at) for name, at in times if at is not None)]
    phases = [
        Phase(name, (at - created) * 1000, (after - created) * 1000)
        for (name, at), (_, after) in pairwise(marks)
    ]
    return Start(kind, order, tuple(phases))


def _first_time(lines: Sequence[tuple[float, str]], begins: Callable[[str], bool]) -> float | None:
    return next((at for at, text in lines if begins(text)), None)


@record
class LogLine:
    """One line of a guest's serial console."""

    at_ms: float = column("time since power-on, on the engine's clock")
    text: str = column("text of the line")


@record
class BootLog(Result):
    """Lines of a guest's serial console."""

    lines: tuple[LogLine, ...] = rows("the lines in their order", of=LogLine)

    @property
    def kernel_lines(self) -> int:
        """How many lines the guest's kernel wrote."""
        return sum(re.match(r"\[ *\d+\.\d+\]", line.text) is not None for line in self.lines)

    def matching(self, pattern: str) -> BootLog:
        """The lines that contain the regular expression `pattern`."""
        return BootLog(tuple(line for line in self.lines if re.search(pattern, line.text)))


@experiment
def boot_log(pair: Pair) -> BootLog:
    """The serial console of the pair's guest since power-on.

    Raises:
        NotRunning: the guest is not running.
    """
    guest, _ = pair.both()
    lines = timestamped_lines(guest.logs(timestamps=True).decode(errors="replace"))
    return BootLog(tuple(LogLine((at - lines[0][0]) * 1000, text) for at, text in lines))
