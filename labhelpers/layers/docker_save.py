"""What `docker save` sends, analysed as it comes: nothing is kept on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from labhelpers.errors import EngineRefused
from labhelpers.layers import archives

if TYPE_CHECKING:
    from labhelpers.lab import Lab


def read_docker_save(
    lab: Lab, ref: str, look: archives.FileCallback | None = None, platform: str | None = None
) -> archives.ImageStack:
    """The layers of an image of the engine; `look` sees the contents of every file of every layer.

    Args:
        platform: which of the image's platforms, such as `linux/arm64`; None for the engine's own, or the only one.

    Raises:
        ImageMissing: the engine does not have it.
        EngineRefused: the engine could not save it.
        BadInput: it has the image for several platforms, and none of them is the one that is wanted.
        BadArchive: what the engine sent is damaged, or lacks layers (an engine with the containerd image store saves
            only the blobs that it has).
    """
    # what `docker save` says of a missing image differs from engine to engine
    lab.inspect_image(ref)
    try:
        chunks = lab.client.api.get_image(ref)
        what = f"what `docker save {ref}` sends"
        own = _platform(lab.engine.version)
        found = archives.stream(chunks, what, look, platform=platform, default_platform=own)
        return replace(found, name=ref)
    except APIError as error:
        raise EngineRefused(
            f"the engine could not save the image {ref!r}",
            hint="fix the problem in Docker's message below, then run the cell again",
            engine_message=str(error.explanation),
        ) from None


def _platform(version: Mapping[str, Any]) -> str | None:
    """The engine's own platform (Engine API, GET /version)."""
    architecture = version.get("Arch")
    return f"{version.get('Os') or 'linux'}/{architecture}" if architecture else None
