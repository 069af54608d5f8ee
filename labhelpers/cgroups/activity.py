"""How much CPU time containers use in a short window, and whether a quota holds them back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labhelpers.engine.host import Cpu

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

WINDOW_S, MAX_WINDOW_S = 0.8, 6.0
POLLS = 5
MIN_USAGE_US = 200_000
"""With less, the shares depend on which container had the last time slice."""

_Sample = tuple[float, Cpu]


@dataclass(frozen=True, slots=True)
class CpuActivity:
    """The CPU use of a container in a short window.

    Attributes:
        cpus: used on average.
        throttled: periods in which it used up its quota.
        quota_cpus: its quota, None for none.
        wants_cpu: whether it had work all the time: it was throttled in nearly every period, or had a process that was
            ready at each poll.
        stopped: how many of its processes are stopped by a signal.
    """

    cpus: float
    throttled: int
    quota_cpus: float | None
    wants_cpu: bool
    stopped: int


def cpu_activity(lab: Lab, *containers: Container) -> list[CpuActivity]:
    """The activity of running containers in `WINDOW_S`; longer if the machine is so busy that they get nearly nothing.

    Raises:
        LabError: one of them does not run.
    """

    def sample() -> list[_Sample]:
        return [(time.monotonic(), lab.host.cgroup(container).cpu) for container in containers]

    before, polls = sample(), [_thread_states(lab, containers)]
    end = time.monotonic() + MAX_WINDOW_S
    while True:
        for _ in range(POLLS):
            time.sleep(WINDOW_S / POLLS)
            polls.append(_thread_states(lab, containers))
        after = sample()
        ready = [all("R" in states for states in each) for each in zip(*polls, strict=True)]
        if not any(ready) or time.monotonic() > end or _is_conclusive(before, after):
            break
    stopped = [states.count("T") for states in polls[-1]]
    return [_between(*each) for each in zip(before, after, ready, stopped, strict=True)]


def _thread_states(lab: Lab, containers: Sequence[Container]) -> list[str]:
    """The states of all threads of each container, one letter for each (proc(5), /proc/PID/stat)."""
    stats = [lab.host.cgroup_files(container, ["cpu.stat"])["cpu.stat"].path for container in containers]
    directories = [path.rpartition("/")[0] for path in stats]
    # the threads of a cgroup: version 1, version 2
    lists = [[f"{directory}/tasks", f"{directory}/cgroup.threads"] for directory in directories]
    texts = lab.host.read_many(path for pair in lists for path in pair)
    threads = [" ".join(texts[path] or "" for path in pair).split() for pair in lists]
    lines = lab.host.read_many(f"/proc/{thread}/stat" for each in threads for thread in each)
    # the program's name, in front of the state, may contain blanks and brackets
    return [
        "".join((lines[f"/proc/{thread}/stat"] or "").rpartition(") ")[2][:1] for thread in each)
        for each in threads
    ]


def _is_conclusive(before: Sequence[_Sample], after: Sequence[_Sample]) -> bool:
    """Whether enough CPU time was used for a comparison, or a quota held a container back."""
    pairs = [(start, end) for (_, start), (_, end) in zip(before, after, strict=True)]
    return (
        sum(end.usage_us - start.usage_us for start, end in pairs) >= MIN_USAGE_US
        or sum(end.throttled_periods - start.throttled_periods for start, end in pairs) > 2
    )


def _between(before: _Sample, after: _Sample, ready: bool, stopped: int) -> CpuActivity:
    (start_s, start), (end_s, end) = before, after
    used_s, periods = (end.usage_us - start.usage_us) / 1e6, end.periods - start.periods
    throttled = end.throttled_periods - start.throttled_periods
    # if it used up every period, the kernel's periods are a more exact clock than this process
    at_limit = throttled > 0 and throttled >= 0.8 * periods
    seconds = periods * end.period_us / 1e6 if at_limit else end_s - start_s
    return CpuActivity(used_s / seconds, throttled, end.limit_cpus, ready or at_limit, stopped)
