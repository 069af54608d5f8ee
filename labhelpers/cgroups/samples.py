"""Samples of cgroups: one stream for all containers, on the clock of the engine's host."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from docker.models.containers import Container

from labhelpers.cgroups.live import Curve, Curves, live_curves
from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.host import Cgroup, Io, Memory, Pids, Sample
from labhelpers.errors import BadInput, ExperimentFailed, LabError
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

COLUMNS = (
    "container", "time_s", "cpu_percent", "throttled_s", "memory_bytes", "read_bytes", "write_bytes", "pids",
)  # fmt: skip
PARTS = (
    "container", "time_s", "usage_bytes", "anon_bytes", "cache_bytes", "inactive_file_bytes", "swap_bytes",
    "reads", "writes",
)  # fmt: skip
MAX_HZ = 50.0
MAX_S = 600.0
# late readings are dropped; below this share of the requested rate, a note says so
WARN_BELOW = 0.9
REFRESH_S = 0.25
FIRST_SAMPLE_TIMEOUT_S = 60.0


@record
class Reading:
    """A reading of a container's cgroup."""

    time_s: float = column("time since the first reading, on the monotonic clock of the engine's host")
    cgroup: Cgroup = column("contents of its cgroup files", shown=False)


@record
class Usage:
    """The resources that a container used between two readings."""

    duration_s: float = column("time between the two readings")
    cpus: float = column("CPUs in use, on average: 0.5 is half a CPU")
    throttled_s: float = column("time for which its processes were throttled, in total")
    periods: int = column("periods in which a process could run")
    throttled_periods: int = column("periods in which the quota was used up")


@record
class Samples(Result):
    """Readings of the cgroups of containers."""

    names: tuple[str, ...] = column("names of the containers")
    readings: tuple[tuple[Reading, ...], ...] = column(
        "readings of each container, in order; counters start at the first", shown=False
    )
    requested_hz: float = column("requested readings per second")
    timestamps_s: tuple[float, ...] = column("time of every reading, since the first")

    def of(self, name: str) -> tuple[Reading, ...]:
        """The readings of one container."""
        return self.readings[self.names.index(name)]

    def usage(self, name: str, start_s: float = -math.inf, end_s: float = math.inf) -> Usage:
        """The resources that a container used between two times, from the readings in between.

        Raises:
            ExperimentFailed: there are fewer than two readings in between.
        """
        inside = [reading for reading in self.of(name) if start_s <= reading.time_s <= end_s]
        if len(inside) < 2:
            raise ExperimentFailed(
                f"{name} was read {len(inside)} times between {start_s:.2f} s and {end_s:.2f} s; two are needed",
                hint="measure for longer: a busy or slow engine is read less often than requested",
            )
        first, last = inside[0], inside[-1]
        before, after = first.cgroup.cpu, last.cgroup.cpu
        duration_s = last.time_s - first.time_s
        return Usage(
            duration_s=duration_s,
            cpus=(after.usage_us - before.usage_us) / 1e6 / duration_s,
            throttled_s=(after.throttled_us - before.throttled_us) / 1e6,
            periods=after.periods - before.periods,
            throttled_periods=after.throttled_periods - before.throttled_periods,
        )

    @property
    def achieved_hz(self) -> float:
        """Readings per second."""
        return (len(self.timestamps_s) - 1) / self.timestamps_s[-1] if len(self.timestamps_s) > 1 else 0.0

    @property
    def ended(self) -> dict[str, float]:
        """The containers that ended while they were sampled, with the time of their last reading."""
        last = self.timestamps_s[-1] if self.timestamps_s else 0.0
        pairs = zip(self.names, self.readings, strict=True)
        ends = {name: readings[-1].time_s if readings else 0.0 for name, readings in pairs}
        return {name: at for name, at in ends.items() if at < last}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the measurement: a rate that was not achieved, a container that ended."""
        notes = []
        if self.achieved_hz < WARN_BELOW * self.requested_hz:
            notes.append(
                f"{self.requested_hz:g} readings a second were requested and {self.achieved_hz:.1f} achieved: "
                "late readings are dropped"
            )
        notes += [f"{name} ended after {at:.2f} s" for name, at in self.ended.items()]
        return tuple(notes)

    def frame(self) -> pd.DataFrame:
        """One row for each container and reading.

        - time_s: since the first reading, on the monotonic clock of the engine's host.
        - cpu_percent: of one CPU, since the previous reading.
        - throttled_s: time for which the container was throttled, since the first reading.
        - memory_bytes: charged memory without inactive file pages, as `docker stats` counts
          (docker/cli, calculateMemUsageUnixNoCache). None if the host has no memory controller; likewise pids.
        - read_bytes, write_bytes: since the container started, as the kernel counts them.
        - pids: processes and threads.
        """
        return table(sorted(self._rows(), key=lambda row: row[1]), COLUMNS)

    def _rows(self) -> Iterator[list[Any]]:
        for name, readings in zip(self.names, self.readings, strict=True):
            for before, now in pairwise(readings):
                cpu, previous, first = (each.cgroup.cpu for each in (now, before, readings[0]))
                memory, io, pids = now.cgroup.get(Memory), _io(now.cgroup), now.cgroup.get(Pids)
                percent = (cpu.usage_us - previous.usage_us) / (now.time_s - before.time_s) / 1e4
                yield [
                    name,
                    now.time_s,
                    percent,
                    (cpu.throttled_us - first.throttled_us) / 1e6,
                    max(0, memory.usage_bytes - memory.inactive_file_bytes) if memory else None,
                    io.read_bytes,
                    io.written_bytes,
                    pids.current if pids else None,
                ]

    def parts(self) -> pd.DataFrame:
        """The parts of memory and the I/O operations: the rows of `frame`, with the columns `PARTS`.

        `usage_bytes` is the number that the kernel compares with the limit.
        """
        rows = []
        for name, readings in zip(self.names, self.readings, strict=True):
            for now in readings[1:]:
                memory, io = now.cgroup.get(Memory), _io(now.cgroup)
                sizes = [getattr(memory, key, None) for key in PARTS[2:7]]
                counts = [sum(getattr(device, key) for device in io.devices) for key in PARTS[7:]]
                rows.append([name, now.time_s, *sizes, *counts])
        return table(sorted(rows, key=lambda row: row[1]), PARTS)

    def pressure(self) -> pd.DataFrame:
        """Time for which tasks waited for a resource, since the first reading; empty if the kernel does not record it.

        Columns: container, time_s, resource, some_s, full_s (kernel, Documentation/accounting/psi.rst).
        """
        rows = []
        for name, readings in zip(self.names, self.readings, strict=True):
            for now in readings[1:]:
                start = {each.resource: each for each in readings[0].cgroup.pressure}
                for each in now.cgroup.pressure:
                    if each.resource in start:
                        first = start[each.resource]
                        waits = ((each.some_us - first.some_us) / 1e6, (each.full_us - first.full_us) / 1e6)
                        rows.append([name, now.time_s, each.resource, *waits])
        return table(rows, ["container", "time_s", "resource", "some_s", "full_s"])

    def __repr__(self) -> str:
        # the readings hold every counter of every cgroup
        text = f"Samples of {', '.join(self.names)}: {len(self.timestamps_s)} readings, {self.achieved_hz:.1f} a second"
        return "; ".join([text, *self.notes])

    def _repr_html_(self) -> str:
        # no super(): `slots` makes a new class
        return Result._repr_html_(self) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


def _io(cgroup: Cgroup) -> Io:
    return cgroup.get(Io) or Io(())


# --- taking samples


@experiment
def sample(
    lab: Lab, containers: Container | str | Sequence[Container | str], seconds: float, hz: float = 20
) -> Samples:
    """Read the cgroups of running containers, all at once, `hz` times a second, and show a live plot meanwhile.

    Args:
        seconds: how long, on the clock of the engine's host; at most 600. Sampling ends early if all containers end.
        hz: readings per second, at most 50. A rate that is not achieved is reported in `.notes`.

    Raises:
        BadInput: no container, a container twice, or a duration or rate out of range.
        ContainerMissing, NotRunning: a container that does not exist, or is not running.
    """
    if not 0 < seconds <= MAX_S:
        raise BadInput(f"seconds={seconds} is out of range", hint=f"use more than 0 and at most {MAX_S:g}")
    with Sampler(lab, containers, hz, on_update=live_curves()) as sampler:
        sampler.wait(seconds)
    return sampler.samples(seconds + 0.5 / hz)


class Sampler:
    """Samples in the background: `with Sampler(lab, [web], hz=20) as sampler: …`, then `sampler.samples()`.

    Args:
        containers, hz: as for `sample`.
        on_update: called with the curves so far, a few times a second, in the background thread.
    """

    def __init__(
        self,
        lab: Lab,
        containers: Container | str | Sequence[Container | str],
        hz: float = 20,
        on_update: Callable[[Curves], object] | None = None,
    ) -> None:
        self._containers = [containers] if isinstance(containers, str | Container) else list(containers)
        self._names = tuple(map(name_of, self._containers))
        if not self._names or len(set(self._names)) < len(self._names):
            raise BadInput(
                "no container to sample, or a container twice", hint="use running containers, or their names"
            )
        if isinstance(hz, bool) or not 0 < hz <= MAX_HZ:
            raise BadInput(f"hz={hz} is out of range", hint=f"use more than 0 and at most {MAX_HZ:g}")
        self._lab, self._hz, self._on_update = lab, hz, on_update
        self._rows: list[tuple[Sample | None, ...]] = []
        self._timestamps: list[float] = []
        self._stop = threading.Event()
        self._failure: LabError | None = None

    def __enter__(self) -> Sampler:
        stream = self._lab.host.samples_of(self._containers, 1000 / self._hz)
        self._record(next(stream, ()))
        self._thread = threading.Thread(target=self._follow, args=(stream,), name="samples", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(FIRST_SAMPLE_TIMEOUT_S)
        if self._failure is not None:
            raise self._failure

    def _follow(self, stream: Any) -> None:
        updated = 0.0
        try:
            while not self._stop.is_set():
                row = next(stream, None)
                if row is None:
                    return
                self._record(row)
                if self._on_update and time.monotonic() - updated > REFRESH_S:
                    updated = time.monotonic()
                    self._on_update(_curves(self.samples()))
        except LabError as error:
            self._failure = error
        finally:
            with suppress(LabError):
                stream.close()
            if self._on_update and self._rows:
                self._on_update(_curves(self.samples()))

    def _record(self, row: tuple[Sample | None, ...]) -> None:
        at = next((sample.at_s for sample in row if sample is not None), None)
        if at is not None:
            self._rows.append(row)
            self._timestamps.append(at)

    def now(self) -> float:
        """The time of the last reading, in seconds since the first."""
        return self._timestamps[-1] - self._timestamps[0] if self._timestamps else 0.0

    def wait(self, seconds: float) -> None:
        """Wait for this many seconds on the host's clock, or until all containers have ended.

        Raises:
            TimedOut: the host does not respond any more.
        """
        end = self.now() + seconds
        self._lab.wait_for(
            f"{seconds:g} s of samples from the engine's host",
            lambda: self.now() >= end or not self._thread.is_alive(),
            3 * seconds + FIRST_SAMPLE_TIMEOUT_S,
            every_s=0.01,
        )

    def samples(self, max_s: float = math.inf) -> Samples:
        """The readings so far, or those of the first `max_s` seconds."""
        start = self._timestamps[0] if self._timestamps else 0.0
        timestamps = [at for at in self._timestamps if at - start <= max_s]
        rows = self._rows[: len(timestamps)]
        readings = tuple(
            tuple(
                Reading(sample.at_s - start, sample.cgroup)
                for row in rows
                if (sample := row[position]) is not None
            )
            for position in range(len(self._names))
        )
        return Samples(self._names, readings, self._hz, tuple(at - start for at in timestamps))


def _curves(samples: Samples) -> Curves:
    """CPU use in percent and memory of every container, for the live plot."""
    frame = samples.frame()
    curves: list[Curve] = []
    for name in samples.names:
        rows, readings = frame[frame["container"] == name], samples.of(name)
        if not len(rows):
            continue
        last = readings[-1].cgroup
        quota = last.cpu.limit_cpus
        times = rows["time_s"].tolist()
        curves.append(
            Curve("CPU, % of one CPU", name, times, rows["cpu_percent"].tolist(), quota and quota * 100)
        )
        memory = last.get(Memory)
        if memory is not None:
            limit = memory.limit_bytes and memory.limit_bytes / 1024**2
            curves.append(Curve("memory, MiB", name, times, (rows["memory_bytes"] / 1024**2).tolist(), limit))
    return Curves(tuple(curves), samples.notes)
