"""CPU time: a quota, shares, a set of CPUs, and a limit changed while the container runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from labhelpers.cgroups.limits import allowed_cpus, cpu_numbers
from labhelpers.cgroups.live import live_curves
from labhelpers.cgroups.safety_limits import START_TIMEOUT_S, load
from labhelpers.cgroups.samples import Sampler, Samples, Usage
from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

QUOTAS_CPUS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHARE_RATIOS = ((1, 1), (2, 1), (4, 1))
SHARES = 1024
# a new limit takes effect with the next period (100 ms)
SETTLE_S = 0.25
PERIOD_S = 0.1
# a counter is read a little later than the clock, and each CPU takes its quota in slices of 5 ms
READ_DELAY_S = 0.05
MIN_USAGE_S = 0.75


def busy_loop(processes: int) -> list[str]:
    """A command that runs `processes` endless loops."""
    return ["sh", "-c", "while :; do :; done & " * processes + "wait"]


# --- quota


@record
class QuotaStep:
    """A CPU quota, and what the container used under it."""

    quota_cpus: float = column("quota in CPUs: 0.5 is half a CPU")
    usage: Usage = column("what was measured", shown=False)

    @derived
    def measured_cpus(self) -> float:
        """CPUs in use, on average."""
        return self.usage.cpus

    @derived
    def throttled_s(self) -> float:
        """Time for which the processes were throttled, in total."""
        return self.usage.throttled_s

    @derived
    def periods(self) -> int:
        """Periods of 100 ms in which a process could run."""
        return self.usage.periods

    @derived
    def throttled_periods(self) -> int:
        """Periods in which the quota was used up."""
        return self.usage.throttled_periods

    @derived
    def duration_s(self) -> float:
        """Duration of the measurement."""
        return self.usage.duration_s

    @property
    def max_cpus(self) -> float:
        """The most that the quota allows in the time of the measurement.

        The quota applies to whole periods, so the measurement may include one more period at either end.
        """
        return self.quota_cpus * (1 + 2 * PERIOD_S / self.usage.duration_s) + READ_DELAY_S

    @property
    def within_quota(self) -> bool:
        """Whether the container used no more than the quota allows."""
        return self.usage.cpus <= self.max_cpus


@record
class Quota(Result):
    """CPU quota and CPU use of a container with two busy processes."""

    steps: tuple[QuotaStep, ...] = rows("one for each quota", of=QuotaStep)
    samples: Samples = column("samples of the whole experiment", shown=False)
    cpus: int = column("number of CPUs of the engine's host")

    def step(self, quota_cpus: float) -> QuotaStep:
        """The step with this quota."""
        return next(step for step in self.steps if step.quota_cpus == quota_cpus)


@experiment
def quota(lab: Lab, quotas_cpus: Sequence[float] = QUOTAS_CPUS, seconds: float = 1.0) -> Quota:
    """Apply one quota after another to a container with two busy processes, and measure its CPU use.

    Quotas above the number of CPUs of the engine's host are left out: the engine refuses them.

    Args:
        quotas_cpus: the quotas, in CPUs.
        seconds: how long to measure each.

    Raises:
        BadInput: the engine's host has fewer CPUs than every quota.

    Source: kernel, Documentation/scheduler/sched-bwc.rst.
    """
    cpus = int(lab.engine.info["NCPU"])
    quotas = [each for each in quotas_cpus if each <= cpus]
    if not quotas:
        raise BadInput(
            f"every quota is above the {cpus} CPUs of this engine", hint="use a smaller quota: 0.5"
        )
    with (
        lab.quiet(essential=[f"docker update --cpus {quotas[0]}"]),
        load(lab, busy_loop(2), cpus=quotas[0]) as container,
        Sampler(lab, container) as sampler,
    ):
        spans = []
        for quota_cpus in quotas:
            lab.update(container, cpus=quota_cpus)
            sampler.wait(SETTLE_S)
            start = sampler.now()
            sampler.wait(seconds)
            spans.append((quota_cpus, start, sampler.now()))
    samples = sampler.samples()
    name = str(container.name)
    steps = tuple(QuotaStep(quota_cpus, samples.usage(name, *span)) for quota_cpus, *span in spans)
    return Quota(steps, samples, cpus)


# --- shares


@record
class SharesStep:
    """Two containers that compete for one CPU, with weights."""

    ratio: float = column("shares of the first container divided by those of the second")
    weights: tuple[int, int] = column(
        "the kernel's values: `cpu.shares` on version 1, `cpu.weight` on version 2"
    )
    first_cpus: float = column("CPU use of the first container")
    second_cpus: float = column("CPU use of the second container")

    @derived
    def expected_percent(self) -> float:
        """Part of the first container in their CPU use, according to the weights."""
        return 100 * self.weights[0] / sum(self.weights)

    @derived
    def measured_percent(self) -> float:
        """Part of the first container in their CPU use, as measured."""
        return 100 * self.first_cpus / (self.first_cpus + self.second_cpus)


@record
class Shares(Result):
    """CPU use of two containers that compete for one CPU, by their shares."""

    cpu: int = column("number of the CPU that both are pinned to")
    steps: tuple[SharesStep, ...] = rows("one for each ratio", of=SharesStep)
    alone_shares: int = column("shares of the first container while it runs alone")
    alone_cpus: float = column("CPU use of the first container while it runs alone")

    @property
    def max_deviation_percent(self) -> float:
        """Largest difference between the measured and the expected part, in percentage points."""
        return max(abs(step.measured_percent - step.expected_percent) for step in self.steps)


@experiment
def shares(lab: Lab, ratios: Sequence[tuple[int, int]] = SHARE_RATIOS, seconds: float = 1.2) -> Shares:
    """Let two busy containers compete for one CPU, with shares in these ratios; then run the first one alone.

    Args:
        ratios: shares of the two containers: (2, 1) is 2,048 and 1,024.
        seconds: how long to measure each.

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
                weights = tuple(lab.host.cgroup(each).cpu.weight for each in (first, second))
                sampler.wait(SETTLE_S)
                start = sampler.now()
                sampler.wait(seconds)
                _wait_for_usage(sampler, start)
                spans.append((ratio, (weights[0], weights[1]), start, sampler.now()))
        samples = sampler.samples()
        for ratio, weights, *span in spans:
            used = [samples.usage(str(each.name), *span).cpus for each in (first, second)]
            steps.append(SharesStep(ratio[0] / ratio[1], weights, *used))
        few = SHARES // 8
        lab.update(first, cpu_shares=few)
        with Sampler(lab, first) as sampler:
            sampler.wait(seconds)
        alone = sampler.samples().usage(str(first.name)).cpus
    return Shares(cpu, tuple(steps), few, alone)


def _wait_for_usage(sampler: Sampler, start_s: float) -> None:
    """On a busy machine, continue until enough CPU time was used: a short use depends on the last time slices."""
    for _ in range(24):
        samples = sampler.samples()
        usages = [samples.usage(name, start_s) for name in samples.names]
        if sum(usage.cpus * usage.duration_s for usage in usages) >= MIN_USAGE_S:
            return
        sampler.wait(0.25)


def idlest_cpu(lab: Lab) -> int:
    """The CPU with the most idle time in the last 0.2 s, of those that the engine may use.

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
    """Two busy processes that may run on any CPU, and are then pinned to one."""

    name: str = column("name of the container")
    pinned_cpu: int = column("number of the CPU that they are pinned to")
    pinned_at_s: float = column("when `docker update --cpuset-cpus` returned, on the clock of the samples")
    placements: tuple[tuple[float, int], ...] = column(
        "(time_s, CPU): the CPU that a busy process last ran on, each time that it was read", shown=False
    )
    allowed: str = column("`Cpus_allowed_list` of a busy process after the pinning")
    samples: Samples = column("samples of the whole experiment", shown=False)

    @property
    def cpus_after(self) -> frozenset[int]:
        """The CPUs that the processes ran on after the pinning."""
        return frozenset(cpu for at, cpu in self.placements if at > self.pinned_at_s + SETTLE_S)

    @derived
    def mean_cpus_before(self) -> float:
        """CPUs in use before the pinning, on average."""
        return self.samples.usage(self.name, end_s=self.pinned_at_s - SETTLE_S).cpus

    @derived
    def mean_cpus_after(self) -> float:
        """CPUs in use after the pinning, on average."""
        return self.samples.usage(self.name, start_s=self.pinned_at_s + SETTLE_S).cpus


@experiment
def cpuset(lab: Lab, seconds: float = 1.0) -> CpuSet:
    """Let two busy processes run on any CPU, then pin their container to one CPU while they run.

    Args:
        seconds: how long to measure before and after the pinning.

    Source: proc(5), /proc/PID/stat, field 39 (processor); cgroup-v2.rst, cpuset.cpus.
    """
    cpu = idlest_cpu(lab)
    placements: list[tuple[float, int]] = []
    with lab.quiet(essential=["docker update --cpuset-cpus"]), load(lab, busy_loop(2)) as container:
        pids = _busy_pids(lab, container, 2)

        def record_placements() -> None:
            end = sampler.now() + SETTLE_S + seconds
            while sampler.now() < end:
                texts = lab.host.read_many([f"/proc/{pid}/stat" for pid in pids])
                fields = [text.rpartition(")")[2].split() for text in texts.values() if text]
                placements.extend((sampler.now(), int(field[36])) for field in fields)
                sampler.wait(0.05)

        with Sampler(lab, container) as sampler:
            record_placements()
            lab.update(container, cpuset_cpus=str(cpu))
            pinned_at_s = sampler.now()
            record_placements()
        allowed = re.findall(r"^Cpus_allowed_list:\s+(\S+)", lab.host.read(f"/proc/{pids[0]}/status"), re.M)
    return CpuSet(str(container.name), cpu, pinned_at_s, tuple(placements), allowed[0], sampler.samples())


def _busy_pids(lab: Lab, container: Container, count: int) -> list[int]:
    """The PIDs of the busy loops, which are the processes without a child; waits until there are `count`."""

    def leaves() -> list[int]:
        processes = lab.host.processes(container)
        parents = {process.parent_pid for process in processes}
        pids = [
            process.pid
            for process in processes
            if process.pid not in parents and process.command.startswith("sh -c while")
        ]
        return pids if len(pids) >= count else []

    return lab.wait_for("the busy loops to start", leaves, START_TIMEOUT_S, while_running=container)


# --- a limit changed while the container runs


@record
class Update(Result):
    """A CPU quota that changes while the container runs."""

    name: str = column("name of the container")
    quotas_cpus: tuple[float, ...] = column("the quotas, in CPUs, in order")
    changed_at_s: tuple[float, ...] = column(
        "when each `docker update` returned, on the clock of the samples"
    )
    same_process: bool = column("whether the container's first process is the same before and after")
    samples: Samples = column("samples of the whole experiment, with the quota", shown=False)

    def usage(self, number: int) -> Usage:
        """What the container used under the quota with this index."""
        starts = (0.0, *self.changed_at_s)
        ends = (*self.changed_at_s, self.samples.timestamps_s[-1] + SETTLE_S)
        return self.samples.usage(self.name, starts[number] + SETTLE_S, ends[number] - SETTLE_S)


@experiment
def update(lab: Lab, quotas_cpus: Sequence[float] = (0.8, 0.2, 0.5), seconds: float = 1.0) -> Update:
    """Change the quota of a busy container with `docker update`, while it is sampled.

    Args:
        quotas_cpus: the quotas, in CPUs; the container starts with the first.
        seconds: how long to measure each.
    """
    with (
        lab.quiet(essential=["docker update --cpus"]),
        load(lab, busy_loop(1), cpus=quotas_cpus[0]) as container,
    ):
        pid = _pid(lab, container)
        with Sampler(lab, container, on_update=live_curves()) as sampler:
            changed_at_s = []
            sampler.wait(2 * SETTLE_S + seconds)
            for quota_cpus in quotas_cpus[1:]:
                lab.update(container, cpus=quota_cpus)
                changed_at_s.append(sampler.now())
                sampler.wait(2 * SETTLE_S + seconds)
        same = _pid(lab, container) == pid
    return Update(str(container.name), tuple(quotas_cpus), tuple(changed_at_s), same, sampler.samples())


def _pid(lab: Lab, container: Container) -> int:
    return int(lab.inspect(container)["State"]["Pid"])
