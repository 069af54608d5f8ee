"""How long a container lives: as long as its command."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

IMAGE = "labhelpers/base"
TIMEOUT_S = 120.0
"""Limit for the time that a container takes beyond its command."""


@record
class ContainerLifetime:
    """One container, from creation to exit."""

    command_s: float = column("duration of its command")
    lifetime_s: float = column(
        "time from the start of its first process to its end, both as recorded by the engine"
    )
    startup_s: float = column("time from its creation to the recorded start, within which the process began")
    status: str = column("its state as the engine reports it now")
    exit_code: int = column("exit code of its first process")


@record
class ContainerLifetimes(Result):
    """Lifetime of a container against the duration of its command."""

    lifetimes: tuple[ContainerLifetime, ...] = rows(
        "the containers, in the order of the request", of=ContainerLifetime
    )

    @property
    def all_ended_by_themselves(self) -> bool:
        """Whether every container exited with its command, without a signal and without an error."""
        return all((life.status, life.exit_code) == ("exited", 0) for life in self.lifetimes)

    @property
    def all_lived_as_long_as_their_command(self) -> bool:
        """Whether no container exited before its command, and longer commands led to longer lifetimes.

        A process may have run for up to `startup_s` before the engine recorded its start.
        """
        by_command = sorted(self.lifetimes, key=lambda life: life.command_s)
        in_order = all(a.lifetime_s <= b.lifetime_s + b.startup_s for a, b in pairwise(by_command))
        return in_order and all(life.lifetime_s + life.startup_s >= life.command_s for life in by_command)


@experiment
def container_lifetimes(lab: Lab, seconds: Sequence[int]) -> ContainerLifetimes:
    """Start one container for each of `seconds`, running `sleep` for that long, and wait until all have exited.

    The times are the engine's own (Engine API, GET /containers/{id}/json, `State`).
    """
    with lab.quiet(essential=["docker run -d"]):
        containers = [lab.run(IMAGE, f"sleep {command_s}") for command_s in seconds]
        lives = tuple(_lifetime(lab, *pair) for pair in zip(containers, seconds, strict=True))
        for container in containers:
            lab.remove(container)
    return ContainerLifetimes(lives)


def _lifetime(lab: Lab, container: Container, command_s: float) -> ContainerLifetime:
    lab.wait(container, limit_s=command_s + TIMEOUT_S)
    inspected = lab.inspect(container)
    state = inspected["State"]
    created, started, finished = map(
        datetime.fromisoformat, (inspected["Created"], state["StartedAt"], state["FinishedAt"])
    )
    lifetime_s, startup_s = (finished - started).total_seconds(), (started - created).total_seconds()
    return ContainerLifetime(command_s, lifetime_s, startup_s, state["Status"], state["ExitCode"])
