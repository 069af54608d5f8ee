"""How long a container lives: as long as its command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

IMAGE = "labhelpers/base"
TIMEOUT_S = 120.0
"""How much longer than its command a container may take, from its start to its end."""


@record
class ContainerLifetime(Result):
    """The life of a container that has ended."""

    asked_s: float = column("how long its command was to take")
    lived_s: float = column(
        "from the start of its first process, as the engine noted it, to its end, by the engine's clock"
    )
    noted_s: float = column(
        "from the making of the container to that note; the process began somewhere in it"
    )
    status: str = column('what the engine says of it now: "exited"')
    exit_code: int = column("of its first process")


@record
class ContainerLifetimes(Result):
    """The lives of containers whose commands take different times."""

    lives: tuple[ContainerLifetime, ...] = rows("one for each, in the order asked", of=ContainerLifetime)

    @property
    def all_ended_by_themselves(self) -> bool:
        """Whether each has ended with its command, unasked and without an error."""
        return all((life.status, life.exit_code) == ("exited", 0) for life in self.lives)

    @property
    def all_lived_as_long_as_their_command(self) -> bool:
        """Whether none ended before its command, and longer commands made longer lives.

        A process may have lived longer than the engine noted, by `noted_s` at most.
        """
        by_asked = sorted(self.lives, key=lambda life: life.asked_s)
        in_order = all(a.lived_s <= b.lived_s + b.noted_s for a, b in pairwise(by_asked))
        return in_order and all(life.lived_s + life.noted_s >= life.asked_s for life in by_asked)

    def frame(self) -> pd.DataFrame:
        """One row a container: asked_s, lived_s, noted_s, status, exit_code."""
        return pd.DataFrame([asdict(life) for life in self.lives])


def container_lifetimes(lab: Lab, seconds: Sequence[int]) -> ContainerLifetimes:
    """Start one container for each of `seconds`, whose command takes so long, and wait until all have ended.

    The times are the engine's own (Engine API, GET /containers/{id}/json, `State`).
    """
    with lab.quiet(essential=["docker run -d"]):
        started = [lab.run(IMAGE, f"sleep {asked}") for asked in seconds]
        ended = tuple(_life(lab, container, asked) for container, asked in zip(started, seconds, strict=True))
        for container in started:
            lab.remove(container)
    return ContainerLifetimes(ended)


def _life(lab: Lab, container: Container, asked_s: float) -> ContainerLifetime:
    lab.wait(container, limit_s=asked_s + TIMEOUT_S)
    inspected = lab.inspect(container)
    state = inspected["State"]
    made, started, finished = map(
        datetime.fromisoformat, (inspected["Created"], state["StartedAt"], state["FinishedAt"])
    )
    lived_s, noted_s = (finished - started).total_seconds(), (started - made).total_seconds()
    return ContainerLifetime(asked_s, lived_s, noted_s, state["Status"], state["ExitCode"])
