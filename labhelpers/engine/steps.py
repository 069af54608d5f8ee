"""Removing an image with the steps of its build, also where the engine leaves those behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from docker.errors import APIError, ImageNotFound


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
    image, steps = str(api.inspect_image(ref)["Id"]), list(_steps(api, ref))
    api.remove_image(ref)
    if _inspect(api, image) is None:  # it had no other name
        for step in steps:
            with suppress(APIError):
                api.remove_image(step)


def _steps(api: Any, ref: str) -> Iterator[str]:
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
