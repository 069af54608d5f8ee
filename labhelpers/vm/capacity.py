"""How many guests and containers fit in a given memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import linear_regression
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput, NotAvailable
from labhelpers.results import Result, column, record, table
from labhelpers.vm.guests import GUEST_MEMORY_MB, MIB, pss_bytes
from labhelpers.vm.pairs import KINDS, Kind, running

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

# QEMU itself uses at most this much on top of the guest's memory
QEMU_BYTES = 192 * MIB


@record
class Density(Result):
    """How many guests and containers fit in a given memory: a few measured, the rest extrapolated."""

    memory_bytes: int = column("the memory to fill")
    counts: tuple[int, ...] = column("how many ran at the same time, for each measurement")
    vm_bytes: tuple[int, ...] = column("memory that so many guests used together, measured")
    container_bytes: tuple[int, ...] = column("memory that so many containers used together, measured")

    def used_bytes(self, kind: Kind) -> tuple[int, ...]:
        """The memory that was measured, for each of `counts`."""
        return self.vm_bytes if kind == "vm" else self.container_bytes

    def line(self, kind: Kind) -> tuple[float, float]:
        """The least-squares line through the measurements: bytes for none, and bytes for each."""
        fit = linear_regression(self.counts, self.used_bytes(kind))
        return fit.intercept, fit.slope

    def capacity(self, kind: Kind) -> int:
        """How many fit, extrapolated along the line."""
        base, each = self.line(kind)
        return max(0, int((self.memory_bytes - base) // each))

    def frame(self) -> pd.DataFrame:
        """One row for each kind and number: kind, count, used_bytes, basis (`measured` or `extrapolated`)."""
        numbers: list[tuple[str, int, float, str]] = []
        for kind in KINDS:
            pairs = zip(self.counts, self.used_bytes(kind), strict=True)
            numbers += [(kind, count, used, "measured") for count, used in pairs]
            base, each = self.line(kind)
            most = self.capacity(kind)
            numbers.append((kind, most, base + each * most, "extrapolated"))
        return table(numbers, ["kind", "count", "used_bytes", "basis"])


@experiment
def density(lab: Lab, memory_bytes: int, counts: Sequence[int] = (1, 2, 3, 4)) -> Density:
    """Start a few guests and containers, measure the memory that they use, and extrapolate to `memory_bytes`.

    The guests use at most half of the memory that is free on the engine's host.

    Args:
        counts: how many to run at the same time, for each measurement.

    Raises:
        BadInput: `counts` has fewer than two different positive numbers, or `memory_bytes` is not positive.
        NotAvailable: the engine's host has too little free memory.
        GuestFailed: one of them did not start its payload.
    """
    ordered = tuple(sorted(set(counts)))
    if len(ordered) < 2 or ordered[0] < 1 or memory_bytes <= 0:
        raise BadInput(
            "an extrapolation needs two different numbers of machines, and a memory to fill",
            hint="for example vm.density(lab, 8 * 1024**3, counts=(1, 2, 3))",
        )
    _check_free_memory(lab, ordered[-1])
    with lab.quiet(["docker run -d"]):
        guests, containers = (_measure(lab, kind, ordered) for kind in KINDS)
    return Density(memory_bytes, ordered, guests, containers)


def _check_free_memory(lab: Lab, guests: int) -> None:
    free = lab.host.meminfo()["MemAvailable"]
    need = guests * (GUEST_MEMORY_MB * MIB + QEMU_BYTES)
    if need > free // 2:
        raise NotAvailable(
            f"{guests} guests could need {need // MIB} MiB; the lab uses at most {free // (2 * MIB)} MiB here",
            hint="start fewer, for example counts=(1, 2), or close other programs on the engine's machine",
        )


def _measure(lab: Lab, kind: Kind, counts: Sequence[int]) -> tuple[int, ...]:
    started: list[Container] = []
    used_bytes = []
    with ExitStack() as block:
        for count in counts:
            while len(started) < count:
                started.append(block.enter_context(running(lab, kind)))
            used_bytes.append(sum(pss_bytes(lab, started)))
    return tuple(used_bytes)
