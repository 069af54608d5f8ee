"""Processes: a fork bomb in a container with a PID limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import MIB, START_TIMEOUT_S, SafetyLimits, load, open_gate, program
from labhelpers.cgroups.samples import Sampler, Samples
from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, derived, record

if TYPE_CHECKING:
    from labhelpers.lab import Lab

FORK_BOMB = program("fork_bomb.py")


@record
class PidsLimit(Result):
    """A fork bomb in a container with a PID limit."""

    name: str = column("name of the container")
    limit: int = column("processes and threads that its cgroup may have")
    fork_failures: int = column("failed calls of fork(2), as counted by the fork bomb")
    pids_events_max: int | None = column("failed calls of fork(2), as counted by the kernel in `pids.events`")
    others_can_start: bool = column("whether a new container started while the fork bomb was at its limit")
    samples: Samples = column("samples of its cgroup", shown=False)

    @derived
    def peak(self) -> int:
        """Highest number of processes and threads, of all samples."""
        return max(reading.cgroup.pids.current for reading in self.samples.of(self.name))


@experiment
def pids_limit(lab: Lab, limit: int = 40, seconds: float = 1.0) -> PidsLimit:
    """Run a fork bomb in a container that may have `limit` processes, and start another container meanwhile.

    Args:
        limit: processes and threads that the container may have.
        seconds: how long the fork bomb stays at its limit.

    Source: kernel, cgroup-v2.rst, pids.max; fork(2), EAGAIN.
    """
    safety = SafetyLimits(192 * MIB, 64, 60)
    options: dict[str, Any] = {"image": "tools", "safety": safety, "pids_limit": limit, "cpus": 0.5}
    command = ["python3", "-c", FORK_BOMB]
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(lab, command, start=False, controllers=["pids"], **options) as container,
    ):
        with Sampler(lab, container, hz=20) as sampler:
            open_gate(lab, container)

            def is_full() -> bool:
                readings = sampler.samples().of(str(container.name))
                last = readings[-1].cgroup.pids
                return last.limit is not None and last.current >= last.limit

            lab.wait_for(
                "the fork bomb to reach its limit",
                is_full,
                START_TIMEOUT_S,
                every_s=0.1,
                while_running=container,
            )
            with lab.running(lab.image("payload"), ["sleep", "60"], network="none") as another:
                output = lab.exec(another, ["echo", "started"])
            sampler.wait(seconds)
        events = lab.host.cgroup_files(container, ["pids.events"]).get("pids.events")
        match = re.search(r"^max (\d+)", (events and events.text) or "", re.M)
        failures = int(lab.host.disk_usage("/refused", container).apparent_bytes)
    return PidsLimit(
        name=str(container.name),
        limit=limit,
        fork_failures=failures,
        pids_events_max=int(match[1]) if match else None,
        others_can_start=output.stdout.strip() == "started",
        samples=sampler.samples(),
    )
