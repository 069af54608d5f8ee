"""Asked against measured, and what the sampler costs: `python -m labhelpers.cgroups`, on the engine that the lab finds.

The figures in `assets/cgroups/` are made by `python -m labhelpers.cgroups.figures`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pandas as pd

from labhelpers import cgroups
from labhelpers.engine.host import Cpu
from labhelpers.lab import Lab

CONTAINERS, SECONDS, RATES = 3, 5.0, (10, 20, 50)
COLUMNS = ("containers", "asked_hz", "reached_hz", "helper_percent", "notebook_percent", "total_percent")


def cost(lab: Lab) -> pd.DataFrame:
    """What sampling costs in percent of a core: in the helper on the engine's host, and in this process.

    What the engine itself needs to hand the lines on is not in it.
    """
    rows = []
    with ExitStack() as stack:
        idle = [stack.enter_context(cgroups.load(lab, ["sleep", "1000"])) for _ in range(CONTAINERS)]

        def used() -> tuple[Cpu, float]:
            return lab.host.cgroup(str(lab.host.helper)).cpu, time.process_time()

        for hz in RATES:
            with cgroups.Sampler(lab, idle, hz) as sampler:
                sampler.wait(0.5)
                (cpu, own), start = used(), sampler.now()
                sampler.wait(SECONDS)
                (cpu_after, own_after), end = used(), sampler.now()
            parts = [
                (cpu_after.usage_us - cpu.usage_us) / 1e4 / (end - start),
                (own_after - own) * 100 / (end - start),
            ]
            rows.append((CONTAINERS, hz, sampler.samples().reached_hz, *parts, sum(parts)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def main() -> None:
    """Measure and print."""
    with Lab("04") as lab, lab.quiet():
        for title, frame in (
            ("CPU quota", cgroups.quota(lab, seconds=2.0).frame()),
            ("shares on one CPU", cgroups.shares(lab, seconds=2.0).frame()),
            ("disk limits", cgroups.disk_limits(lab, asked=(1 << 20, 2 << 20, 8 << 20), seconds=2.0).frame()),
            ("the sampler", cost(lab)),
        ):
            print(f"\n{title}\n{frame.round(3).to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
