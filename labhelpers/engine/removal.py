"""Ending what an engine does not give up at the first word: a container that dies slowly, the steps of a build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ImageNotFound, NotFound
from requests.exceptions import RequestException

if TYPE_CHECKING:
    from docker.models.containers import Container

ATTEMPTS = 5
"""How often an engine is asked to remove a container; each time it waits 12 s for the end of what it killed."""
REMOVAL_TIMEOUT_S = 30
"""How long what was begun is waited for, a removal by somebody else too; a translated machine takes up to 5 s."""
NO_EXIT_EVENT = "did not receive an exit event"


def kill_container(container: Container) -> None:
    """Kill a container; when this returns it does not run.

    An engine that has not heard of its end after 12 s reports a failure, but the SIGKILL is sent and will be obeyed
    (moby, daemon/kill.go): then its end is waited for.

    Raises:
        NotFound: the engine does not have it.
        APIError: it does not run.
        RequestException: it has not ended after `REMOVAL_TIMEOUT_S` more.
    """
    try:
        container.kill()
    except APIError as error:
        if NO_EXIT_EVENT not in str(error.explanation):
            raise
        container.wait(timeout=REMOVAL_TIMEOUT_S)


def remove_container(api: Any, container: str, *, force: bool = True, v: bool = False) -> None:
    """Remove a container; when this returns it is gone, and its name is free.

    An engine refuses while another removal of it is under way, of the reaper say, or its own of a container with
    `--rm` (moby, daemon/delete.go): that is waited for. It gives up where it does not hear of the end of a process
    that it killed, which a busy machine may take longer over (moby, daemon/kill.go): then it is asked again.

    Args:
        api: the low-level client of the engine.
        container: a name or an id.
        force: kill it if it runs.
        v: its anonymous volumes too.

    Raises:
        NotFound: the engine has no such container.
        APIError: it runs, and `force` is not given; or the engine gave up each time.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            api.remove_container(container, v=v, force=force)
            return
        except NotFound:
            if left == ATTEMPTS - 1:
                raise
            return
        except APIError as error:
            words = str(error.explanation)
            if "in progress" in words:
                with suppress(NotFound, RequestException):
                    api.wait(container, timeout=REMOVAL_TIMEOUT_S, condition="removed")
            elif NO_EXIT_EVENT not in words:
                raise
            if not left:
                raise


def remove_image(api: Any, ref: str) -> None:
    """Remove an image, and what it alone stood on: the nameless images that its build made step by step.

    `docker rmi` promises as much. The containerd store of Docker 28 takes steps away that another image shares, and
    stops where one is missing, so they are followed and removed here. Never by force: what a container stands on stays.

    Args:
        api: the low-level client of the engine.
        ref: a name or an id.

    Raises:
        ImageNotFound: the engine has no such image.
        APIError: a container stands on it.
    """
    image, steps = str(api.inspect_image(ref)["Id"]), list(_intermediate_images(api, ref))
    api.remove_image(ref)
    if _inspect(api, image) is None:  # it had no other name
        for step in steps:
            with suppress(APIError):
                api.remove_image(step)


def _intermediate_images(api: Any, ref: str) -> Iterator[str]:
    """The nameless images below an image, topmost first."""
    here = _inspect(api, ref)
    while here and (parent := here.get("Parent")):
        here = _inspect(api, parent)
        if here and not here.get("RepoTags"):
            yield str(here["Id"])
        else:
            return


def _inspect(api: Any, ref: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.inspect_image(ref)
    except ImageNotFound:
        return None
    return found
