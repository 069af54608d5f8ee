"""Processor time: a quota, shares, a set of CPUs, and a change in flight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from labhelpers.cgroups.limits import allowed_cpus, cpu_numbers
from labhelpers.cgroups.live import live_curves
from labhelpers.cgroups.safety_limits import START_TIMEOUT_S, load
from labhelpers.cgroups.samples import Sampler, Samples, Usage
from labhelpers.errors import BadInput
from labhelpers.results import Result, column, derived, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

QUOTAS_CPUS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHARE_RATIOS = ((1, 1), (2, 1), (4, 1))
SHARES = 1024
# a new limit takes effect with the next period (100 ms)
SETTLE_S = 0.25
PERIOD_S = 0.1
# a counter is read a little later than the clock, and a CPU takes its quota in slices of 5 ms
READ_S = 0.05
MIN_USAGE_S = 0.75


def busy_loop(processes: int) -> list[str]:
    """A command that keeps so many processors busy, until it is ended."""
    return ["sh", "-c", "while :; do :; done & " * processes + "wait"]


# --- quota


@record
class QuotaStep:
    """One quota, and what was used under it."""

    asked_cpus: float = column("the quota: 0.5 is half a processor")
    use: Usage = column("what was measured", shown=False)

    @property
    def most_cpus(self) -> float:
        """The most that the quota allows in the time that was measured.

        A quota is for whole periods: at both ends of the measurement one period more may lie in it.
        """
        return self.asked_cpus * (1 + 2 * PERIOD_S / self.use.seconds) + READ_S

    @property
    def holds(self) -> bool:
        """Whether no more was used than the quota allows."""
        return self.use.cpus <= self.most_cpus


@record
class Quota(Result):
    """Processor time asked for against what was used, one container with two busy processes."""

    steps: tuple[QuotaStep, ...] = rows("one for each quota", of=QuotaStep)
    samples: Samples = column("of the whole experiment", shown=False)
    cpus: int = column("how many CPUs the engine's host has")

    def step(self, asked_cpus: float) -> QuotaStep:
        """The step of one quota."""
        return next(step for step in self.steps if step.asked_cpus == asked_cpus)

    def frame(self) -> pd.DataFrame:
        """One row a quota: asked_cpus, measured_cpus, throttled_s, periods, throttled_periods, seconds."""
        rows = [
            (
                s.asked_cpus,
                s.use.cpus,
                s.use.throttled_s,
                s.use.periods,
                s.use.throttled_periods,
                s.use.seconds,
            )
            for s in self.steps
        ]
        return table(
            rows, ["asked_cpus", "measured_cpus", "throttled_s", "periods", "throttled_periods", "seconds"]
        )


def quota(lab: Lab, asked: Sequence[float] = QUOTAS_CPUS, seconds: float = 1.0) -> Quota:
    """Give one container with two busy processes one quota after the other, and measure what it uses.

    Quotas of more CPUs than the engine's host has are left out: the engine refuses them.

    Args:
        asked: in CPUs.
        seconds: of measurement for each.

    Source: kernel, Documentation/scheduler/sched-bwc.rst.
    """
    cpus = int(lab.engine.info["NCPU"])
    asked = [one for one in asked if one <= cpus]
    if not asked:
        raise BadInput(f"this engine has {cpus} CPUs: there is nothing to measure", hint="ask for 0.5, say")
    with (
        lab.quiet(essential=[f"docker update --cpus {asked[0]}"]),
        load(lab, busy_loop(2), cpus=asked[0]) as container,
        Sampler(lab, container) as sampler,
    ):
        spans = []
        for one in asked:
            lab.update(container, cpus=one)
            sampler.wait(SETTLE_S)
            start = sampler.now()
            sampler.wait(seconds)
            spans.append((one, start, sampler.now()))
    samples = sampler.samples()
    name = str(container.name)
    return Quota(tuple(QuotaStep(one, samples.use(name, *span)) for one, *span in spans), samples, cpus)


# --- shares


@record
class SharesStep:
    """Two containers that want the same CPU, with weights."""

    asked: float = column("the ratio of their shares, first to second")
    weights: tuple[int, int] = column("what the kernel was told: `cpu.shares`, or `cpu.weight` on version 2")
    first_cpus: float = column("what each used")
    second_cpus: float = column("what each used")

    @derived
    def expected_percent(self) -> float:
        """The first one's part of what both used, as the kernel's weights say."""
        return 100 * self.weights[0] / sum(self.weights)

    @derived
    def measured_percent(self) -> float:
        """The first one's part of what both used."""
        return 100 * self.first_cpus / (self.first_cpus + self.second_cpus)


@record
class Shares(Result):
    """Two containers on one CPU, by their shares."""

    cpu: int = column("the number of the CPU that both may use")
    steps: tuple[SharesStep, ...] = rows("one a ratio", of=SharesStep)
    alone_shares: int = column("the shares of the first one, when it was alone")
    alone_cpus: float = column("what it used then")

    def off_percent(self) -> float:
        """How far the measured part is from the kernel's weights at most, in percent points."""
        return max(abs(step.measured_percent - step.expected_percent) for step in self.steps)


def shares(lab: Lab, ratios: Sequence[tuple[int, int]] = SHARE_RATIOS, seconds: float = 1.2) -> Shares:
    """Let two busy containers compete for one CPU, with shares in these ratios; then leave the first one alone.

    Args:
        ratios: of the shares of the two: (2, 1) is 2,048 against 1,024.
        seconds: of measurement for each.

    Source: kernel, Documentation/scheduler/sched-design-CFS.rst; cgroup-v2.rst, cpu.weight.
    """
    cpu = idlest_cpu(lab)
    steps = []
    with (
        lab.quiet(essential=[f"docker update --cpu-shares {SHARES * ratios[-1][0]}"]),
        load(lab, busy_loop(1), cpuset_cpus=str(cpu)) as first,
    ):
        with (
            load(lab, busy_loop(1), cpuset_cpus=str(cpu)) as second,
            Sampler(lab, [first, second]) as sampler,
        ):
            spans = []
            for ratio in ratios:
                for container, part in zip((first, second), ratio, strict=True):
                    lab.update(container, cpu_shares=SHARES * part)
                weights = tuple(lab.host.cgroup(one).cpu.weight for one in (first, second))
                sampler.wait(SETTLE_S)
                start = sampler.now()
                sampler.wait(seconds)
                _wait_for_usage(sampler, start)
                spans.append((ratio, (weights[0], weights[1]), start, sampler.now()))
        samples = sampler.samples()
        for ratio, weights, *span in spans:
            used = [samples.use(str(one.name), *span).cpus for one in (first, second)]
            steps.append(SharesStep(ratio[0] / ratio[1], weights, *used))
        few = SHARES // 8
        lab.update(first, cpu_shares=few)
        with Sampler(lab, first) as sampler:
            sampler.wait(seconds)
        alone = sampler.samples().use(str(first.name)).cpus
    return Shares(cpu, tuple(steps), few, alone)


def _wait_for_usage(sampler: Sampler, start_s: float) -> None:
    """Where the machine is busy, go on until enough was used: with little, it depends on who had the last slice."""
    for _ in range(24):
        samples = sampler.samples()
        used = [samples.use(name, start_s) for name in samples.names]
        if sum(one.cpus * one.seconds for one in used) >= MIN_USAGE_S:
            return
        sampler.wait(0.25)


def idlest_cpu(lab: Lab) -> int:
    """The CPU that has been idle most in the last 0.2 s, of those that the engine may use.

    Source: proc(5), /proc/stat: the fourth and fifth numbers of a CPU are idle time.
    """
    stat = "/proc/stat"
    with closing(lab.host.watch([stat], every_ms=200)) as texts:
        before, after = (
            {
                int(cpu): sum(map(int, times.split()[3:5]))
                for cpu, times in re.findall(r"^cpu(\d+) (.*)$", next(texts).texts[stat] or "", re.M)
            }
            for _ in range(2)
        )
    allowed = [cpu for cpu in cpu_numbers(allowed_cpus(lab)) if cpu in after] or list(after)
    return max(allowed, key=lambda cpu: after[cpu] - before.get(cpu, 0))


# --- a set of CPUs


@record
class CpuSet(Result):
    """Two busy processes, first free to run anywhere, then pinned to one CPU."""

    name: str = column("of the container")
    pinned: int = column("the number of that CPU")
    pinned_at_s: float = column(
        "when `docker update --cpuset-cpus` had returned, on the clock of the samples"
    )
    seen: tuple[tuple[float, int], ...] = column(
        "(time_s, CPU) for each look at each busy process: the CPU on which it ran last", shown=False
    )
    allowed: str = column("what the kernel says of a busy process after the pinning (`Cpus_allowed_list`)")
    samples: Samples = column("of the whole experiment", shown=False)

    @property
    def seen_after(self) -> frozenset[int]:
        """The CPUs on which its processes were seen after the pinning."""
        return frozenset(cpu for at, cpu in self.seen if at > self.pinned_at_s + SETTLE_S)

    @property
    def before_cpus(self) -> float:
        """What it used before."""
        return self.samples.use(self.name, end_s=self.pinned_at_s - SETTLE_S).cpus

    @property
    def after_cpus(self) -> float:
        """What it used after the pinning."""
        return self.samples.use(self.name, start_s=self.pinned_at_s + SETTLE_S).cpus


def cpuset(lab: Lab, seconds: float = 1.0) -> CpuSet:
    """Let two busy processes run anywhere, then pin their container to one CPU while they run.

    Args:
        seconds: before, and after.

    Source: proc(5), /proc/PID/stat, field 39 (processor); cgroup-v2.rst, cpuset.cpus.
    """
    cpu = idlest_cpu(lab)
    seen: list[tuple[float, int]] = []
    with lab.quiet(essential=["docker update --cpuset-cpus"]), load(lab, busy_loop(2)) as container:
        pids = _busy(lab, container, 2)

        def look() -> None:
            texts = lab.host.read_many([f"/proc/{pid}/stat" for pid in pids])
            fields = [text.rpartition(")")[2].split() for text in texts.values() if text]
            seen.extend((sampler.now(), int(field[36])) for field in fields)

        def follow() -> None:
            end = sampler.now() + SETTLE_S + seconds
            while sampler.now() < end:
                look()
                sampler.wait(0.05)

        with Sampler(lab, container) as sampler:
            follow()
            lab.update(container, cpuset_cpus=str(cpu))
            pinned_at_s = sampler.now()
            follow()
        allowed = re.findall(r"^Cpus_allowed_list:\s+(\S+)", lab.host.read(f"/proc/{pids[0]}/status"), re.M)
    return CpuSet(str(container.name), cpu, pinned_at_s, tuple(seen), allowed[0], sampler.samples())


def _busy(lab: Lab, container: Container, count: int) -> list[int]:
    """The pids of the busy loops, the processes without a child; waits until there are `count` of them."""

    def leaves() -> list[int]:
        there = lab.host.processes(container)
        parents = {one.parent_pid for one in there}
        found = [one.pid for one in there if one.pid not in parents and one.command.startswith("sh -c while")]
        return found if len(found) >= count else []

    return lab.wait_for("the busy loops to start", leaves, START_TIMEOUT_S, while_running=container)


# --- a change in flight


@record
class Update(Result):
    """A limit that is changed while the container runs."""

    name: str = column("of the container")
    quotas: tuple[float, ...] = column("in CPUs, one after the other")
    changed_at_s: tuple[float, ...] = column(
        "when each `docker update` had returned, on the clock of the samples"
    )
    same_process: bool = column("whether the container's first process was the same before and after")
    samples: Samples = column("of the whole experiment; they hold the quota, too", shown=False)

    def use(self, number: int) -> Usage:
        """What was used under the quota of that number."""
        starts = (0.0, *self.changed_at_s)
        ends = (*self.changed_at_s, self.samples.instants_s[-1] + SETTLE_S)
        return self.samples.use(self.name, starts[number] + SETTLE_S, ends[number] - SETTLE_S)


def update(lab: Lab, quotas: Sequence[float] = (0.8, 0.2, 0.5), seconds: float = 1.0) -> Update:
    """Change the quota of a busy container with `docker update`, while it is sampled.

    Args:
        quotas: in CPUs; the container begins with the first.
        seconds: for each.
    """
    with lab.quiet(essential=["docker update --cpus"]), load(lab, busy_loop(1), cpus=quotas[0]) as container:
        pid = _pid(lab, container)
        with Sampler(lab, container, see=live_curves()) as sampler:
            changed = []
            sampler.wait(2 * SETTLE_S + seconds)
            for one in quotas[1:]:
                lab.update(container, cpus=one)
                changed.append(sampler.now())
                sampler.wait(2 * SETTLE_S + seconds)
        same = _pid(lab, container) == pid
    return Update(str(container.name), tuple(quotas), tuple(changed), same, sampler.samples())


def _pid(lab: Lab, container: Container) -> int:
    return int(lab.inspect(container)["State"]["Pid"])
