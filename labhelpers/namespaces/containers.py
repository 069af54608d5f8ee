"""Containers for the duration of one experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab


@contextmanager
def temporary_containers(lab: Lab, essential: Sequence[str] = ()) -> Iterator[Callable[..., Container]]:
    """A function like `lab.run` for the block; its containers are removed at the end, the newest first.

    Args:
        essential: beginnings of the commands that are shown openly, as for `lab.quiet`.
    """
    with lab.quiet(essential), ExitStack() as stack:

        def run(*arguments: Any, **options: Any) -> Container:
            container = stack.enter_context(lab.running(*arguments, **options))
            wait_until_started(lab, container)
            return container

        yield run


def wait_until_started(lab: Lab, container: Container) -> None:
    """Wait until process 1 is the container's command: for a moment after `docker run` it is still the runtime.

    The runtime's process (`runc init`) has its own command line, signal handlers and children.

    Raises:
        NotRunning: the container has exited.
    """
    lab.wait_for(
        f"{container.name} to start", lambda: lab.host.process(container).command.split()[-1] != "init"
    )
