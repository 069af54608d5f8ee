"""Containers for the time of one experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from docker.errors import NotFound

from labhelpers.engine.removal import remove_container
from labhelpers.errors import LabError

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

NOWHERE = "\N{EN DASH}"
"""What a table says where a thing is not."""
LIMIT_S = 60.0
"""How long a state is waited for: a container takes 8 s to start on an engine in a translated machine."""


@contextmanager
def stage(lab: Lab) -> Iterator[Callable[..., Container]]:
    """Give `lab.run`, printing nothing; what it makes is removed at the end, the last one first."""
    made: list[Container] = []

    def run(*words: object, **options: object) -> Container:
        made.append(lab.run(*words, **options))  # type: ignore[arg-type]
        wait_until_begun(lab, made[-1])
        return made[-1]

    with lab.quiet():
        try:
            yield run
        finally:
            for container in reversed(made):
                with suppress(NotFound):
                    remove_container(lab.client.api, str(container.id), v=True)


def wait_until_begun(lab: Lab, container: Container) -> None:
    """Wait until process 1 is what was asked for: for a moment after `docker run` it still is the runtime's own.

    That one (`runc init`) has a command line, handlers and children of its own.

    Raises:
        LabError: the container has ended.
    """
    wait_for(f"{container.name} begins", lambda: lab.host.process(container).command.split()[-1] != "init")


def wait_for(what: str, is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait until `is_so`.

    Args:
        what: what is waited for, as the message says it.

    Raises:
        LabError: it was not so within `limit_s` seconds.
    """
    end = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end:
            raise LabError(
                f"waited {limit_s:.0f} s for this, in vain: {what}",
                hint="run the cell again; `./lab doctor` says whether the engine is well",
            )
        time.sleep(0.03)
