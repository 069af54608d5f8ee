"""A noisy neighbour: the response latencies of a service that shares its CPU with a busy loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.cpu import busy_loop, idlest_cpu
from labhelpers.cgroups.safety_limits import load, open_gate, program
from labhelpers.cgroups.samples import Sampler
from labhelpers.course.arguments import experiment
from labhelpers.errors import NotRunning
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

INTERVAL_MS, WORK_MS, LIMITED_CPUS, SHARES_FACTOR = 10, 6, 0.1, 16
SERVICE_PROGRAM = program("service.py")
# CPU time of its start; from then on the service is always busy
STARTED_US = 30_000
CASES = (
    "alone",
    "next to a busy loop",
    f"busy loop limited to {LIMITED_CPUS} CPUs",
    f"{SHARES_FACTOR} times the shares of the busy loop",
)


@record
class Latencies:
    """The response latencies of a service in one case."""

    case: str = column("what ran on the CPU")
    latencies_ms: tuple[float, ...] = column(
        "time from the moment when each request was due to its response, in order", shown=False
    )
    service_cpus: float = column("CPU use of the service")
    load_cpus: float = column("CPU use of the busy loop; 0 if there was none")

    @property
    def service_share(self) -> float:
        """The service's share of the CPU time that both used, from 0 to 1."""
        return self.service_cpus / (self.service_cpus + self.load_cpus)

    @derived
    def p50_ms(self) -> float:
        """Median latency."""
        return self.percentile(50)

    @derived
    def p90_ms(self) -> float:
        """Latency that 90 % of the responses do not exceed."""
        return self.percentile(90)

    @derived
    def p99_ms(self) -> float:
        """Latency that 99 % of the responses do not exceed."""
        return self.percentile(99)

    @derived
    def max_ms(self) -> float:
        """Highest latency."""
        return max(self.latencies_ms)

    def percentile(self, percent: float) -> float:
        """The latency in ms that `percent` % of the responses do not exceed."""
        ranked = sorted(self.latencies_ms)
        return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


@record
class NoisyNeighbour(Result):
    """Response latencies of a service that shares its CPU with a busy loop."""

    cpu: int = column("number of the CPU that both are pinned to")
    interval_ms: float = column("time between two requests")
    work_ms: float = column("CPU time of each request")
    cases: tuple[Latencies, ...] = rows("one for each case, in the order of `CASES`", of=Latencies)

    def of(self, case: str) -> Latencies:
        """The latencies of one case."""
        return next(latencies for latencies in self.cases if latencies.case == case)


@experiment
def measure_noisy_neighbour(lab: Lab, seconds: float = 1.0) -> NoisyNeighbour:
    """Measure a service alone, next to a busy loop, with the busy loop limited, and with more shares than it.

    Args:
        seconds: duration of the requests of each case.
    """
    cpu = idlest_cpu(lab)
    pinned: dict[str, Any] = {"cpuset_cpus": str(cpu)}
    shares: dict[str, Any] = {"cpu_shares": SHARES_FACTOR * 1024, **pinned}
    with lab.quiet(essential=["docker update --cpus"]):
        alone = _measure(lab, CASES[0], seconds, None, pinned)
        with load(lab, busy_loop(1), **pinned) as neighbour:
            contended = _measure(lab, CASES[1], seconds, neighbour, pinned)
            favoured = _measure(lab, CASES[3], seconds, neighbour, shares)
            lab.update(neighbour, cpus=LIMITED_CPUS)
            limited = _measure(lab, CASES[2], seconds, neighbour, pinned)
    return NoisyNeighbour(cpu, INTERVAL_MS, WORK_MS, (alone, contended, limited, favoured))


def _measure(
    lab: Lab, case: str, seconds: float, neighbour: Container | None, options: dict[str, Any]
) -> Latencies:
    count = max(20, round(seconds * 1000 / INTERVAL_MS))
    command = ["python3", "-c", SERVICE_PROGRAM, str(INTERVAL_MS / 1000), str(WORK_MS / 1000), str(count)]
    with load(lab, command, image="tools", start=False, **options) as service:
        watched = [service] if neighbour is None else [service, neighbour]
        with Sampler(lab, watched, hz=20) as sampler:
            open_gate(lab, service)
            code = lab.wait(service, limit_s=60)
        log = lab.logs(service)
    if code:
        raise NotRunning(
            f"the service exited with code {code}",
            hint="fix the problem in its last lines below, then run the cell again",
            engine_message=log[-500:],
        )
    samples = sampler.samples()
    readings = samples.of(str(service.name))
    started_us = readings[0].cgroup.cpu.usage_us + STARTED_US
    start_s = next((each.time_s for each in readings if each.cgroup.cpu.usage_us > started_us), 0.0)
    used = [samples.usage(str(each.name), start_s, readings[-1].time_s).cpus for each in watched]
    return Latencies(case, tuple(json.loads(log)), used[0], used[1] if neighbour else 0.0)
