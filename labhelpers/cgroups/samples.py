"""Samples of cgroups: one stream for all containers, with the time of the engine's host."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from docker.models.containers import Container

from labhelpers.cgroups.live import Curves, live_curves
from labhelpers.engine.host import Cgroup, Io, Memory, Pids, Sample
from labhelpers.errors import BadInput, LabError
from labhelpers.lab.base import name_of
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
# a reading that comes late is left out; below this share of the rate asked for, the reader is told
WARN_BELOW = 0.9
REFRESH_S = 0.25
FIRST_SAMPLE_TIMEOUT_S = 60.0


@record
class Reading:
    """One container at one instant."""

    time_s: float = column("since the first reading, on the monotonic clock of the engine's host")
    cgroup: Cgroup = column("what its cgroup said", shown=False)


@record
class Usage:
    """What a container used from one reading to another."""

    seconds: float = column("between the two")
    cpus: float = column("processors that were busy with it, on average: 0.5 is half of one")
    throttled_s: float = column("how long its processes waited for the next period, summed")
    periods: int = column("that had something to run, and those in which it used up its quota")
    throttled_periods: int = column("that had something to run, and those in which it used up its quota")


@record
class Samples(Result):
    """Readings of the cgroups of some containers."""

    names: tuple[str, ...] = column("of the containers")
    readings: tuple[tuple[Reading, ...], ...] = column(
        "for each name, in order. The first of each is where counting begins", shown=False
    )
    asked_hz: float = column("how many readings a second were asked for")
    instants_s: tuple[float, ...] = column("the time of every reading, since the first one")

    def of(self, name: str) -> tuple[Reading, ...]:
        """The readings of one container."""
        return self.readings[self.names.index(name)]

    def use(self, name: str, start_s: float = -math.inf, end_s: float = math.inf) -> Usage:
        """What a container used between two times; the readings inside of them count.

        Raises:
            LabError: fewer than two readings lie between them.
        """
        inside = [one for one in self.of(name) if start_s <= one.time_s <= end_s]
        if len(inside) < 2:
            raise LabError(
                f"{name} was read {len(inside)} times between {start_s:.2f} s and {end_s:.2f} s: too few to compare",
                hint="measure for longer; a busy or slow engine is read less often than asked",
            )
        first, last = inside[0], inside[-1]
        before, after = first.cgroup.cpu, last.cgroup.cpu
        seconds = last.time_s - first.time_s
        return Usage(
            seconds=seconds,
            cpus=(after.usage_us - before.usage_us) / 1e6 / seconds,
            throttled_s=(after.throttled_us - before.throttled_us) / 1e6,
            periods=after.periods - before.periods,
            throttled_periods=after.throttled_periods - before.throttled_periods,
        )

    @property
    def reached_hz(self) -> float:
        """How many readings a second there were."""
        return (len(self.instants_s) - 1) / self.instants_s[-1] if len(self.instants_s) > 1 else 0.0

    @property
    def ended(self) -> dict[str, float]:
        """The containers that ended while they were sampled, with the time of their last reading."""
        last = self.instants_s[-1] if self.instants_s else 0.0
        pairs = zip(self.names, self.readings, strict=True)
        ends = ((name, found[-1].time_s if found else 0.0) for name, found in pairs)
        return {name: at for name, at in ends if at < last}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know: a rate that was not reached, a container that ended."""
        said = []
        if self.reached_hz < WARN_BELOW * self.asked_hz:
            said.append(
                f"{self.asked_hz:g} readings a second were asked for, {self.reached_hz:.1f} were reached: "
                "those that came late are left out"
            )
        said += [f"{name} ended after {at:.2f} s" for name, at in self.ended.items()]
        return tuple(said)

    def frame(self) -> pd.DataFrame:
        """One row for each container and instant.

        - time_s: since the first reading, on the monotonic clock of the engine's host.
        - cpu_percent: of one core, since the reading before.
        - throttled_s: waited for the next period because the quota was used up, since the first reading.
        - memory_bytes: charged, without file pages that were not used lately: as `docker stats` counts
          (docker/cli, calculateMemUsageUnixNoCache). None where the host has no memory controller; so with pids.
        - read_bytes, write_bytes: since the container began, as the kernel counts them.
        - pids: processes and threads.
        """
        return table(sorted(self._rows(), key=lambda row: row[1]), COLUMNS)

    def _rows(self) -> Iterator[list[Any]]:
        for name, readings in zip(self.names, self.readings, strict=True):
            for before, now in pairwise(readings):
                cpu, was, first = (one.cgroup.cpu for one in (now, before, readings[0]))
                memory, io, pids = now.cgroup.get(Memory), _io(now.cgroup), now.cgroup.get(Pids)
                percent = (cpu.usage_us - was.usage_us) / (now.time_s - before.time_s) / 1e4
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
        """What memory is made of, and operations: the rows of `frame`, with the columns `PARTS`.

        `usage_bytes` is what the kernel compares with the limit.
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
        """Time in which tasks waited for a resource, since the first reading; no rows where the kernel does not say.

        Columns: container, time_s, resource, some_s, full_s (kernel, Documentation/accounting/psi.rst).
        """
        rows = []
        for name, readings in zip(self.names, self.readings, strict=True):
            for now in readings[1:]:
                began = {one.resource: one for one in readings[0].cgroup.pressure}
                for one in now.cgroup.pressure:
                    if one.resource in began:
                        was = began[one.resource]
                        waited = ((one.some_us - was.some_us) / 1e6, (one.full_us - was.full_us) / 1e6)
                        rows.append([name, now.time_s, one.resource, *waited])
        return table(rows, ["container", "time_s", "resource", "some_s", "full_s"])

    def __repr__(self) -> str:
        # every reading holds every counter: nobody wants to see them all
        said = f"Samples of {', '.join(self.names)}: {len(self.instants_s)} readings, {self.reached_hz:.1f} a second"
        return "; ".join([said, *self.notes])

    def _repr_html_(self) -> str:
        from html import escape

        head = "<br>".join(escape(line) for line in repr(self).split("; "))
        return head + self.frame().tail(8).to_html(index=False, border=0, float_format=lambda x: f"{x:.3f}")


def _io(cgroup: Cgroup) -> Io:
    return cgroup.get(Io) or Io(())


# --- taking them


def sample(
    lab: Lab, containers: Container | str | Sequence[Container | str], seconds: float, hz: float = 20
) -> Samples:
    """Read the cgroups of running containers, all in one go, `hz` times a second; a live plot shows them meanwhile.

    Args:
        seconds: how long, by the clock of the engine's host; at most 600. Sampling ends earlier when all have ended.
        hz: readings a second, at most 50. What the host could not reach is told in `.notes`.

    Raises:
        BadInput: no container, one twice, a time or a rate that is not possible.
        LabError: a container that does not run.
    """
    if not 0 < seconds <= MAX_S:
        raise BadInput(f"samples for {seconds} s are not possible", hint=f"give more than 0, up to {MAX_S:g}")
    with Sampler(lab, containers, hz, see=live_curves()) as sampler:
        sampler.wait(seconds)
    return sampler.samples(seconds + 0.5 / hz)


class Sampler:
    """Samples in the background: `with Sampler(lab, [web], hz=20) as sampler: …`, then `sampler.samples()`.

    Args:
        containers, hz: as for `sample`.
        see: given the curves so far, a few times a second, in the background thread.
    """

    def __init__(
        self,
        lab: Lab,
        containers: Container | str | Sequence[Container | str],
        hz: float = 20,
        see: Callable[[Curves], object] | None = None,
    ) -> None:
        self._containers = [containers] if isinstance(containers, str | Container) else list(containers)
        self._names = tuple(map(name_of, self._containers))
        if not self._names or len(set(self._names)) < len(self._names):
            raise BadInput(
                "no container to sample, or one of them twice", hint="give running containers, or their names"
            )
        if isinstance(hz, bool) or not 0 < hz <= MAX_HZ:
            raise BadInput(
                f"{hz} readings a second are not possible", hint=f"give more than 0, up to {MAX_HZ:g}"
            )
        self._lab, self._hz, self._see = lab, hz, see
        self._seen: list[tuple[Sample | None, ...]] = []
        self._instants: list[float] = []
        self._stop = threading.Event()
        self._failure: LabError | None = None

    def __enter__(self) -> Sampler:
        stream = self._lab.host.samples_of(self._containers, 1000 / self._hz)
        self._keep(next(stream, ()))
        self._thread = threading.Thread(target=self._follow, args=(stream,), name="samples", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(FIRST_SAMPLE_TIMEOUT_S)
        if self._failure is not None:
            raise self._failure

    def _follow(self, stream: Any) -> None:
        shown = 0.0
        try:
            while not self._stop.is_set():
                seen = next(stream, None)
                if seen is None:
                    return
                self._keep(seen)
                if self._see and time.monotonic() - shown > REFRESH_S:
                    shown = time.monotonic()
                    self._see(_curves(self.samples()))
        except LabError as error:
            self._failure = error
        finally:
            with suppress(LabError):
                stream.close()
            if self._see and self._seen:
                self._see(_curves(self.samples()))

    def _keep(self, seen: tuple[Sample | None, ...]) -> None:
        at = next((one.at_s for one in seen if one is not None), None)
        if at is not None:
            self._seen.append(seen)
            self._instants.append(at)

    def now(self) -> float:
        """The time of the last reading, in seconds since the first."""
        return self._instants[-1] - self._instants[0] if self._instants else 0.0

    def wait(self, seconds: float) -> None:
        """Go on for so many seconds of the host's clock, or until all containers have ended.

        Raises:
            TimedOut: the host does not answer any more.
        """
        wanted = self.now() + seconds
        self._lab.wait_for(
            f"{seconds:g} s of samples from the engine's host",
            lambda: self.now() >= wanted or not self._thread.is_alive(),
            3 * seconds + FIRST_SAMPLE_TIMEOUT_S,
            every_s=0.01,
        )

    def samples(self, most_s: float = math.inf) -> Samples:
        """What was read so far, or in the first `most_s` seconds."""
        start = self._instants[0] if self._instants else 0.0
        instants = [at for at in self._instants if at - start <= most_s]
        seen = self._seen[: len(instants)]
        readings = tuple(
            tuple(Reading(one.at_s - start, one.cgroup) for row in seen if (one := row[place]) is not None)
            for place in range(len(self._names))
        )
        return Samples(self._names, readings, self._hz, tuple(at - start for at in instants))


def _curves(samples: Samples) -> Curves:
    """CPU percent and memory of every container, for the live plot."""
    frame = samples.frame()
    found: list[tuple[str, str, list[float], list[float], float | None]] = []
    for name in samples.names:
        rows, readings = frame[frame["container"] == name], samples.of(name)
        if not len(rows):
            continue
        last = readings[-1].cgroup
        quota = last.cpu.limit_cpus
        times = rows["time_s"].tolist()
        found.append(("CPU, % of one core", name, times, rows["cpu_percent"].tolist(), quota and quota * 100))
        memory = last.get(Memory)
        if memory is not None:
            limit = memory.limit_bytes and memory.limit_bytes / 1024**2
            found.append(("memory, MiB", name, times, (rows["memory_bytes"] / 1024**2).tolist(), limit))
    return Curves(tuple(found), samples.notes)
