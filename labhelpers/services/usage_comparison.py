"""One container, a load that is known, and four who say what it used: the load, the kernel, the lab, a monitor."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from labhelpers.errors import LabError
from labhelpers.results import Result, column, record, rows, table
from labhelpers.services import monitor as monitors

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.engine.host import File
    from labhelpers.lab import Lab

MIB = 1024 * 1024
STEPS = ((10, 8), (60, 48), (30, 24))
"""What the load does, one after the other: ms of processor time in every 100 ms, MiB held."""
EVERY_MS = 100
KERNEL_MS = 500
MAX_S = 120
LOAD_LIMITS = {"memory": "96m", "memory_swap": "96m", "pids_limit": 8, "cpus": 1.0, "network": "none"}
# by version of the control groups: the counter of processor time, and how many of its units make a second
_USAGE = {1: ("cpuacct.usage", 1e9), 2: ("cpu.stat", 1e6)}
_ANON = {1: r"^total_rss (\d+)", 2: r"^anon (\d+)"}
_START_TIMEOUT_S = 120.0
_LOAD = Path(__file__).with_name("inside") / "load.py"


@record
class Step:
    """One part of the load, times in seconds since its first part began, on the host's clock."""

    busy_ms: int = column("what it was to do: in every 100 ms, and hold")
    held_mib: int = column("what it was to do: in every 100 ms, and hold")
    begin_s: float = column("when")
    end_s: float = column("when")
    used_s: float = column("processor time, by its own account (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID)")


@record
class UsageComparison(Result):
    """What a container used, as four say. Times in seconds since the load began, on the host's clock."""

    monitor: str = column("`cAdvisor` or `Netdata`")
    steps: tuple[Step, ...] = rows("the load's own account", of=Step)
    kernel_file: str = column("the file of the kernel's counter of processor time")
    kernel: tuple[tuple[float, float, float], ...] = column(
        "(time, processor seconds so far, bytes of anonymous memory), from the files themselves", shown=False
    )
    sampler: tuple[tuple[float, float, float], ...] = column(
        "(time, percent of one processor since the reading before, bytes), ten times a second", shown=False
    )
    told_cpu: tuple[tuple[float, float], ...] = column(
        "the monitor: (time, percent of one processor), (time, bytes)", shown=False
    )
    told_memory: tuple[tuple[float, float], ...] = column(
        "the monitor: (time, percent of one processor), (time, bytes)", shown=False
    )

    @property
    def total_s(self) -> dict[str, float]:
        """Processor time of the whole load, in seconds, by who says it."""
        pairs = pairwise(self.sampler)
        before, *_, after = [one[1] for one in self.kernel]
        told = [((b[0] - a[0]) * b[1] / 100) for a, b in pairwise(self.told_cpu)]
        return {
            "the load itself": sum(step.used_s for step in self.steps),
            "the kernel's file": after - before,
            "our sampler": sum((b[0] - a[0]) * b[1] / 100 for a, b in pairs),
            self.monitor: sum(told),
        }

    @property
    def most_bytes(self) -> dict[str, float]:
        """The most anonymous memory that was held or seen, by who says it; the load's own is without its program."""
        return {
            "the load itself": float(max(step.held_mib for step in self.steps) * MIB),
            "the kernel's file": max(one[2] for one in self.kernel),
            "our sampler": max(one[2] for one in self.sampler),
            self.monitor: max(one[1] for one in self.told_memory),
        }

    def frame(self) -> pd.DataFrame:
        """One row for each who says something: who, processor_s, most_mib, readings."""
        counts = (len(self.steps), len(self.kernel), len(self.sampler), len(self.told_cpu))
        rows = [
            (who, total, self.most_bytes[who] / MIB, count)
            for (who, total), count in zip(self.total_s.items(), counts, strict=True)
        ]
        return table(rows, ["who", "processor_s", "most_mib", "readings"])


def compare_usage(lab: Lab, monitor: Container | str, which: str, *, seconds: float = 3.0) -> UsageComparison:
    """Run a load that is known, and ask all four.

    Args:
        monitor: a container that runs cAdvisor or Netdata.
        which: `monitor.monitor_kind` of its image.
        seconds: how long each part of the load takes.

    Raises:
        TimedOut: the monitor does not find the container, or does not answer.
    """
    parts = [f"{busy}:{mib}" for busy, mib in STEPS]
    command = ["python3", "-c", _LOAD.read_text(encoding="utf-8"), str(seconds), str(MAX_S + 3 * seconds)]
    with (
        lab.quiet(essential=["docker kill"]),
        lab.running(
            lab.image("tools"), [*command, *parts], cap_drop=["ALL"], read_only=True, **LOAD_LIMITS
        ) as load,
    ):

        def until(what: str, check: Callable[[], object]) -> None:
            lab.wait_for(what, check, _START_TIMEOUT_S, every_s=0.1, while_running=load)

        until("the load to begin", lambda: "waits" in lab.logs(load))
        container_id = str(load.id)
        until(
            "the monitor to find the load", lambda: monitors.has_container(lab, monitor, which, container_id)
        )
        kernel, sampler = _KernelSampler(lab, load), _Sampler(lab, load)
        with kernel, sampler:
            until("the first readings", lambda: kernel.rows and sampler.rows)
            lab.kill(load, "USR1")
            until("the load to end its work", lambda: "done" in lab.logs(load))
            # the monitor looks once a second, and so does the kernel's last reading come after the last step
            time.sleep(2.2)
        steps, zero, wall = _steps(lab.logs(load))
        begin, end = wall - 2, wall + steps[-1].end_s + 2
        told = monitors.readings(lab, monitor, which, container_id, begin, end)
    rates = ((b[0] - zero, 100 * (b[1] - a[1]) / (b[0] - a[0]), b[2]) for a, b in pairwise(sampler.rows))
    return UsageComparison(
        which,
        steps,
        kernel.path,
        tuple((at - zero, used, held) for at, used, held in kernel.rows),
        tuple(rates),
        tuple((at - wall, value) for at, value in told.cpu),
        tuple((at - wall, value) for at, value in told.memory),
    )


def _steps(text: str) -> tuple[tuple[Step, ...], float, float]:
    """The load's own account, and when it began on its monotonic clock and on the host's wall clock."""
    begins = [list(map(float, line.split()[1:])) for line in text.splitlines() if line.startswith("step")]
    ends = [list(map(float, line.split()[1:])) for line in text.splitlines() if line.startswith("did")]
    zero, wall = begins[0]
    parts = zip(STEPS, begins, ends, strict=True)
    steps = tuple(Step(*what, b[0] - zero, e[0] - zero, e[1]) for what, b, e in parts)
    return steps, zero, wall


class _Reader:
    """A stream that is read in a thread of its own until the block ends."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        raise NotImplementedError


class _Sampler(_Reader):
    """The lab's own sampler: (host's monotonic time, processor seconds, bytes)."""

    def __init__(self, lab: Lab, container: Container) -> None:
        super().__init__()
        self._stream = lab.host.samples_of([container], every_ms=EVERY_MS)

    def _run(self) -> None:
        with suppress(LabError), closing(self._stream) as stream:
            for (sample,) in stream:
                if sample is None or self._over.is_set():
                    return
                seen = sample.cgroup
                self.rows.append((sample.at_s, seen.cpu.usage_us / 1e6, float(seen.memory.anon_bytes)))


class _KernelSampler(_Reader):
    """The kernel's own files, as they are: (host's monotonic time, processor seconds, bytes)."""

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
                used, held = texts.texts[self.path], texts.texts[self._memory]
                if used is None or held is None or self._over.is_set():
                    return
                self.rows.append((texts.at_s, self._used(used), float(_number(_ANON[self._version], held))))

    def _used(self, text: str) -> float:
        return _number(r"^(?:usage_usec )?(\d+)", text) / self._unit


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.M)
    return int(found[1]) if found else 0
