"""A noisy neighbour: answers that must come in time, beside a burner on the same CPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.cpu import busy_loop, idlest_cpu
from labhelpers.cgroups.safety_limits import load, open_gate, program
from labhelpers.cgroups.samples import Sampler
from labhelpers.errors import NotRunning
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

EVERY_MS, WORK_MS, LIMITED_CPUS, SHARES_FACTOR = 10, 6, 0.1, 16
SERVICE_PROGRAM = program("service.py")
# of processor time: from here on the service is busy all the time
STARTED_US = 30_000
CASES = (
    "alone",
    "beside a burner",
    f"the burner held to {LIMITED_CPUS} CPUs",
    f"with {SHARES_FACTOR} times the burner's shares",
)


@record
class Latencies:
    """The answers of one case."""

    case: str = column("one of `CASES`")
    latencies_ms: tuple[float, ...] = column(
        "from the moment at which each request was due to its answer, in order"
    )
    service_cpus: float = column("what each used of the CPU meanwhile; 0 where there was none")
    burner_cpus: float = column("what each used of the CPU meanwhile; 0 where there was none")

    @property
    def service_part(self) -> float:
        """The service's part of what both used."""
        return self.service_cpus / (self.service_cpus + self.burner_cpus)

    def percentile(self, percent: float) -> float:
        """The latency that so many percent of the answers do not exceed."""
        ranked = sorted(self.latencies_ms)
        return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


@record
class NoisyNeighbour(Result):
    """What a burner on the same CPU does to the answers of a service, and what holds it off."""

    cpu: int = column("the CPU that both are pinned to")
    every_ms: float = column("a request is due so often")
    work_ms: float = column("processor time that each takes")
    cases: tuple[Latencies, ...] = rows("the answers, in the order of `CASES`", of=Latencies)

    def of(self, case: str) -> Latencies:
        """The answers of one case."""
        return next(one for one in self.cases if one.case == case)

    def frame(self) -> pd.DataFrame:
        """One row a case: case, p50_ms, p90_ms, p99_ms, max_ms, service_cpus, burner_cpus."""
        rows = [
            (one.case, *(one.percentile(p) for p in (50, 90, 99, 100)), one.service_cpus, one.burner_cpus)
            for one in self.cases
        ]
        return table(rows, ["case", "p50_ms", "p90_ms", "p99_ms", "max_ms", "service_cpus", "burner_cpus"])


def measure_noisy_neighbour(lab: Lab, seconds: float = 1.0) -> NoisyNeighbour:
    """Let a service answer alone, beside a burner, beside one that is held, and with more shares than the burner.

    Args:
        seconds: of requests for each case.
    """
    cpu = idlest_cpu(lab)
    pinned: dict[str, Any] = {"cpuset_cpus": str(cpu)}
    with lab.quiet(essential=["docker update --cpus"]):
        alone = _answers(lab, CASES[0], seconds, None, pinned)
        with load(lab, busy_loop(1), **pinned) as burner:
            beside = _answers(lab, CASES[1], seconds, burner, pinned)
            with_more = _answers(
                lab, CASES[3], seconds, burner, {"cpu_shares": SHARES_FACTOR * 1024, **pinned}
            )
            lab.update(burner, cpus=LIMITED_CPUS)
            held = _answers(lab, CASES[2], seconds, burner, pinned)
    return NoisyNeighbour(cpu, EVERY_MS, WORK_MS, (alone, beside, held, with_more))


def _answers(
    lab: Lab, case: str, seconds: float, burner: Container | None, options: dict[str, Any]
) -> Latencies:
    count = max(20, round(seconds * 1000 / EVERY_MS))
    command = ["python3", "-c", SERVICE_PROGRAM, str(EVERY_MS / 1000), str(WORK_MS / 1000), str(count)]
    with load(lab, command, image="tools", begin=False, **options) as service:
        watched = [service] if burner is None else [service, burner]
        with Sampler(lab, watched, hz=20) as sampler:
            open_gate(lab, service)
            code = lab.wait(service, limit_s=60)
        log = lab.logs(service)
    if code:
        raise NotRunning(
            f"the service that answers ended with exit code {code}",
            hint="fix what its last lines name, then run the cell again",
            engine_message=log[-500:],
        )
    samples = sampler.samples()
    readings = samples.of(str(service.name))
    begun_us = readings[0].cgroup.cpu.usage_us + STARTED_US
    begun = next((one.time_s for one in readings if one.cgroup.cpu.usage_us > begun_us), 0.0)
    used = [samples.use(str(one.name), begun, readings[-1].time_s).cpus for one in watched]
    return Latencies(case, tuple(json.loads(log)), used[0], used[1] if burner else 0.0)
