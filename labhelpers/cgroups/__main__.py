"""Limits and measurements, and the cost of the sampler: `python -m labhelpers.cgroups`."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pandas as pd

from labhelpers import cgroups
from labhelpers.engine.host import Cpu
from labhelpers.lab import Lab

CONTAINERS, SECONDS, RATES = 3, 5.0, (10, 20, 50)
COLUMNS = ("containers", "requested_hz", "achieved_hz", "helper_percent", "notebook_percent", "total_percent")


def cost(lab: Lab) -> pd.DataFrame:
    """The CPU use of sampling, in percent of a CPU: of the helper on the engine's host, and of this process.

    The CPU time in which the engine forwards the lines is not included.
    """
    rows = []
    with ExitStack() as stack:
        idle = [stack.enter_context(cgroups.load(lab, ["sleep", "1000"])) for _ in range(CONTAINERS)]

        def cpu_times() -> tuple[Cpu, float]:
            return lab.host.cgroup(str(lab.host.helper)).cpu, time.process_time()

        for hz in RATES:
            with cgroups.Sampler(lab, idle, hz) as sampler:
                sampler.wait(0.5)
                (cpu, own), start = cpu_times(), sampler.now()
                sampler.wait(SECONDS)
                (cpu_after, own_after), end = cpu_times(), sampler.now()
            parts = [
                (cpu_after.usage_us - cpu.usage_us) / 1e4 / (end - start),
                (own_after - own) * 100 / (end - start),
            ]
            rows.append((CONTAINERS, hz, sampler.samples().achieved_hz, *parts, sum(parts)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def main() -> None:
    """Measure and print."""
    with Lab("04") as lab, lab.quiet():
        for title, frame in (
            ("CPU quota", cgroups.quota(lab, seconds=2.0).frame()),
            ("shares on one CPU", cgroups.shares(lab, seconds=2.0).frame()),
            ("disk limits", cgroups.disk_limits(lab, (1 << 20, 2 << 20, 8 << 20), seconds=2.0).frame()),
            ("the sampler", cost(lab)),
        ):
            print(f"\n{title}\n{frame.to_string(index=False, float_format='{:.3g}'.format)}", flush=True)


if __name__ == "__main__":
    main()
