"""Removals that Docker does not complete on the first request: slowly exiting containers, intermediate images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ImageNotFound, NotFound
from requests.exceptions import RequestException

if TYPE_CHECKING:
    from docker.models.containers import Container

ATTEMPTS = 5
"""The number of requests to remove a container; for each, the engine waits 12 s for the killed process to exit."""
REMOVAL_TIMEOUT_S = 30
"""The timeout for a removal in progress; an emulated machine needs up to 5 s."""
NO_EXIT_EVENT = "did not receive an exit event"


def kill_container(container: Container) -> None:
    """Kill a container and wait until it has exited.

    The engine reports a failure if the container has not exited after 12 s, although SIGKILL was sent and takes effect
    (moby, daemon/kill.go); then this function waits longer.

    Raises:
        NotFound: the container does not exist.
        APIError: it is not running.
        RequestException: it has not exited after another `REMOVAL_TIMEOUT_S`.
    """
    try:
        container.kill()
    except APIError as error:
        if NO_EXIT_EVENT not in str(error.explanation):
            raise
        container.wait(timeout=REMOVAL_TIMEOUT_S)


def remove_container(api: Any, container: str, *, force: bool = True, v: bool = False) -> None:
    """Remove a container; when this returns, it does not exist any more and its name is free.

    The engine refuses the request while another removal of the container is in progress, such as that of `--rm` (moby,
    daemon/delete.go): then this function waits for that removal. The engine gives up if a process does not exit in time
    after SIGKILL, as on a busy machine (moby, daemon/kill.go): then the request is repeated.

    Args:
        api: the low-level client of the engine.
        container: a name or an ID.
        force: kill it if it is running.
        v: also remove its anonymous volumes.

    Raises:
        NotFound: the engine has no such container.
        APIError: it is running and `force` is false, or every attempt failed.
    """
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            api.remove_container(container, v=v, force=force)
            return
        except NotFound:
            if attempts_left == ATTEMPTS - 1:
                raise
            return
        except APIError as error:
            message = str(error.explanation)
            if "in progress" in message:
                with suppress(NotFound, RequestException):
                    api.wait(container, timeout=REMOVAL_TIMEOUT_S, condition="removed")
            elif NO_EXIT_EVENT not in message:
                raise
            if not attempts_left:
                raise


def remove_image(api: Any, ref: str) -> None:
    """Remove an image and the untagged intermediate images of its build that nothing else uses.

    `docker rmi` is documented to do so, but the containerd store of Docker 28 removes intermediate images that another
    image shares, and stops at a missing one. So they are removed here one by one, without force: images that a
    container uses are kept.

    Args:
        api: the low-level client of the engine.
        ref: a name or an ID.

    Raises:
        ImageNotFound: the engine has no such image.
        APIError: a container uses it.
    """
    image, steps = str(api.inspect_image(ref)["Id"]), list(_intermediate_images(api, ref))
    api.remove_image(ref)
    if _inspect(api, image) is None:  # it has no other tag
        for step in steps:
            with suppress(APIError):
                api.remove_image(step)


def _intermediate_images(api: Any, ref: str) -> Iterator[str]:
    """The untagged parents of an image, nearest first."""
    image = _inspect(api, ref)
    while image and (parent := image.get("Parent")):
        image = _inspect(api, parent)
        if image and not image.get("RepoTags"):
            yield str(image["Id"])
        else:
            return


def _inspect(api: Any, ref: str) -> dict[str, Any] | None:
    try:
        image: dict[str, Any] = api.inspect_image(ref)
    except ImageNotFound:
        return None
    return image
