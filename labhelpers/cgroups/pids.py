"""Processes: a fork bomb that is contained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import MIB, START_TIMEOUT_S, SafetyLimits, load, open_gate, program
from labhelpers.cgroups.samples import Sampler, Samples
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from labhelpers.lab import Lab

FORK_BOMB = program("fork_bomb.py")


@record
class PidsLimit(Result):
    """A fork bomb with a limit."""

    name: str = column("of the container")
    limit: int = column("how many processes and threads its cgroup may hold")
    refused: int = column("how often fork(2) failed, as the bomb counted")
    kernel_refused: int | None = column(
        "the same as the kernel counted (`pids.events`), None where it does not"
    )
    others_start: bool = column(
        "whether a new container started and answered while the bomb was at its limit"
    )
    samples: Samples = column("of its cgroup", shown=False)

    @property
    def most(self) -> int:
        """The most processes that a sample saw."""
        return max(reading.cgroup.pids.current for reading in self.samples.of(self.name))


def pids_limit(lab: Lab, limit: int = 40, seconds: float = 1.0) -> PidsLimit:
    """Let a fork bomb off in a container that may have `limit` processes, and start another container beside it.

    Args:
        seconds: for which the bomb stays at its limit.

    Source: kernel, cgroup-v2.rst, pids.max; fork(2), EAGAIN.
    """
    bound = SafetyLimits(192 * MIB, 64, 60)
    options: dict[str, Any] = {"pids_limit": limit, "cpus": 0.5}
    command = ["python3", "-c", FORK_BOMB]
    with (
        lab.quiet(essential=["docker run -d --network none --memory"]),
        load(lab, command, image="tools", bound=bound, begin=False, needs=["pids"], **options) as container,
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
            with lab.running(lab.image("payload"), ["sleep", "60"], network="none") as beside:
                answer = lab.exec(beside, ["echo", "here"])
            sampler.wait(seconds)
        events = lab.host.cgroup_files(container, ["pids.events"]).get("pids.events")
        counted = re.search(r"^max (\d+)", (events and events.text) or "", re.M)
        refused = int(lab.host.disk_usage("/refused", container).apparent_bytes)
    return PidsLimit(
        name=str(container.name),
        limit=limit,
        refused=refused,
        kernel_refused=int(counted[1]) if counted else None,
        others_start=answer.stdout.strip() == "here",
        samples=sampler.samples(),
    )
