"""A known load in one container, and its usage as four sources count it: the load, the kernel, the lab, a monitor."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record, table
from labhelpers.services import monitor as monitors

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.engine.host import File
    from labhelpers.lab import Lab

MIB = 1024 * 1024
STEPS = ((10, 8), (60, 48), (30, 24))
"""The steps of the load: ms of processor time in every 100 ms, MiB of memory."""
EVERY_MS = 100
KERNEL_MS = 500
MAX_S = 120
LOAD_LIMITS = {"memory": "96m", "memory_swap": "96m", "pids_limit": 8, "cpus": 1.0, "network": "none"}
# by cgroup version: the counter of processor time, and its units per second
_USAGE = {1: ("cpuacct.usage", 1e9), 2: ("cpu.stat", 1e6)}
_ANON = {1: r"^total_rss (\d+)", 2: r"^anon (\d+)"}
_START_TIMEOUT_S = 120.0
_LOAD = Path(__file__).with_name("inside") / "load.py"


@record
class Step:
    """One step of the load. Times are counted from its first step, on the host's clock."""

    busy_ms: int = column("processor time that the step uses in every 100 ms")
    allocated_mib: int = column("memory that the step allocates")
    start_s: float = column("start of the step")
    end_s: float = column("end of the step")
    cpu_s: float = column(
        "processor time, as the load counts it (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID)"
    )


@record
class UsageComparison(Result):
    """Usage of one container, as four sources count it.

    Times are seconds since the start of the load, on the host's clock.
    """

    monitor: str = column("`cAdvisor` or `Netdata`")
    steps: tuple[Step, ...] = column("steps of the load, as the load reports them", shown=False)
    kernel_file: str = column("file of the kernel's counter of processor time")
    kernel: tuple[tuple[float, float, float], ...] = column(
        "time, processor seconds so far and bytes of anonymous memory, from the kernel's files", shown=False
    )
    sampler: tuple[tuple[float, float, float], ...] = column(
        "time, percent of one CPU since the reading before and bytes, from the lab's sampler", shown=False
    )
    monitor_cpu: tuple[tuple[float, float], ...] = column(
        "time and percent of one CPU since the reading before, from the monitor", shown=False
    )
    monitor_memory: tuple[tuple[float, float], ...] = column(
        "time and bytes of anonymous memory, from the monitor", shown=False
    )

    @property
    def total_s(self) -> dict[str, float]:
        """Processor time of the whole load, in seconds, by source."""
        before, *_, after = (cpu_s for _, cpu_s, _ in self.kernel)
        return {
            "the load itself": sum(step.cpu_s for step in self.steps),
            "the kernel's file": after - before,
            "the lab's sampler": _integral_s([(at, percent) for at, percent, _ in self.sampler]),
            self.monitor: _integral_s(self.monitor_cpu),
        }

    @property
    def peak_bytes(self) -> dict[str, float]:
        """The peak of anonymous memory, by source; the load's own number does not include the Python interpreter."""
        return {
            "the load itself": float(max(step.allocated_mib for step in self.steps) * MIB),
            "the kernel's file": max(used for _, _, used in self.kernel),
            "the lab's sampler": max(used for _, _, used in self.sampler),
            self.monitor: max(used for _, used in self.monitor_memory),
        }

    def frame(self) -> pd.DataFrame:
        """One row for each source: source, cpu_s, peak_bytes, readings."""
        counts = (len(self.steps), len(self.kernel), len(self.sampler), len(self.monitor_cpu))
        totals = [
            (source, cpu_s, self.peak_bytes[source], count)
            for (source, cpu_s), count in zip(self.total_s.items(), counts, strict=True)
        ]
        return table(totals, ["source", "cpu_s", "peak_bytes", "readings"])


def _integral_s(rates: Sequence[tuple[float, float]]) -> float:
    """Processor time from (time, percent of one CPU since the reading before)."""
    return sum((end - start) * percent / 100 for (start, _), (end, percent) in pairwise(rates))


@experiment
def compare_usage(lab: Lab, monitor: Container | str, kind: str, *, seconds: float = 3.0) -> UsageComparison:
    """Run a known load, and read its usage from all four sources.

    Args:
        monitor: a container that runs cAdvisor or Netdata.
        kind: `monitor_kind` of its image.
        seconds: duration of each step of the load.

    Raises:
        TimedOut: the monitor does not detect the container, or does not respond.
        ExperimentFailed: the monitor has no readings of the load.
    """
    parts = [f"{busy}:{mib}" for busy, mib in STEPS]
    command = ["python3", "-c", _LOAD.read_text(encoding="utf-8"), str(seconds), str(MAX_S + 3 * seconds)]
    with (
        lab.quiet(essential=["docker kill"]),
        lab.running(
            lab.image("tools"), [*command, *parts], cap_drop=["ALL"], read_only=True, **LOAD_LIMITS
        ) as load,
    ):

        def until(condition: str, check: Callable[[], object]) -> None:
            lab.wait_for(condition, check, _START_TIMEOUT_S, every_s=0.1, while_running=load)

        until("the load to start", lambda: "waits" in lab.logs(load))
        container_id = str(load.id)
        until(
            "the monitor to detect the load", lambda: monitors.has_container(lab, monitor, kind, container_id)
        )
        kernel, sampler = _KernelSampler(lab, load), _Sampler(lab, load)
        with kernel, sampler:
            until("the first readings", lambda: kernel.rows and sampler.rows)
            lab.kill(load, "USR1")
            until("the load to finish", lambda: "done" in lab.logs(load))
            # the monitor reads once a second, and the last reading must come after the last step
            time.sleep(2.2)
        steps, start, wall = _steps(lab.logs(load))
        reported = monitors.readings(lab, monitor, kind, container_id, wall - 2, wall + steps[-1].end_s + 2)
    rates = ((b[0] - start, 100 * (b[1] - a[1]) / (b[0] - a[0]), b[2]) for a, b in pairwise(sampler.rows))
    return UsageComparison(
        kind,
        steps,
        kernel.path,
        tuple((at - start, cpu_s, used) for at, cpu_s, used in kernel.rows),
        tuple(rates),
        tuple((at - wall, value) for at, value in reported.cpu),
        tuple((at - wall, value) for at, value in reported.memory),
    )


def _steps(text: str) -> tuple[tuple[Step, ...], float, float]:
    """The steps that the load reports, and its start on the monotonic clock and on the host's wall clock."""
    starts = [list(map(float, line.split()[1:])) for line in text.splitlines() if line.startswith("step")]
    ends = [list(map(float, line.split()[1:])) for line in text.splitlines() if line.startswith("did")]
    first, wall = starts[0]
    parts = zip(STEPS, starts, ends, strict=True)
    steps = tuple(Step(*step, start[0] - first, end[0] - first, end[1]) for step, start, end in parts)
    return steps, first, wall


class _Reader:
    """Reads a stream in a thread until the block ends."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        raise NotImplementedError


class _Sampler(_Reader):
    """The lab's sampler: (host's monotonic time, processor seconds, bytes)."""

    def __init__(self, lab: Lab, container: Container) -> None:
        super().__init__()
        self._stream = lab.host.samples_of([container], every_ms=EVERY_MS)

    def _run(self) -> None:
        with suppress(LabError), closing(self._stream) as stream:
            for (sample,) in stream:
                if sample is None or self._stop.is_set():
                    return
                cgroup = sample.cgroup
                self.rows.append((sample.at_s, cgroup.cpu.usage_us / 1e6, float(cgroup.memory.anon_bytes)))


class _KernelSampler(_Reader):
    """The kernel's files: (host's monotonic time, processor seconds, bytes)."""

    def __init__(self, lab: Lab, container: Container) -> None:
        super().__init__()
        self._version = lab.host.cgroup(container).version
        name, self._unit = _USAGE[self._version]
        files: dict[str, File] = lab.host.cgroup_files(container, [name, "memory.stat"])
        self.path, self._memory = files[name].path, files["memory.stat"].path
        self._stream = lab.host.watch([self.path, self._memory], every_ms=KERNEL_MS)

    def _run(self) -> None:
        with suppress(LabError), closing(self._stream) as stream:
            for texts in stream:
                cpu, memory = texts.texts[self.path], texts.texts[self._memory]
                if cpu is None or memory is None or self._stop.is_set():
                    return
                used_bytes = float(_number(_ANON[self._version], memory))
                self.rows.append((texts.at_s, self._cpu_s(cpu), used_bytes))

    def _cpu_s(self, text: str) -> float:
        return _number(r"^(?:usage_usec )?(\d+)", text) / self._unit


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text, re.M)
    return int(match[1]) if match else 0
