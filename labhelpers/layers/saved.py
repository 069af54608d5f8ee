"""What `docker save` sends, analysed as it comes: nothing is kept on a disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from docker.errors import APIError, ImageNotFound

from labhelpers.errors import ImageMissing, LabError
from labhelpers.layers import archives

if TYPE_CHECKING:
    from labhelpers.lab import Lab


def save(lab: Lab, ref: str, look: archives.Look | None = None) -> archives.ImageStack:
    """The layers of an image of the engine; `look` sees the contents of every file of every layer.

    Raises:
        ImageMissing: the engine does not have it.
        BadArchive: what the engine sent is damaged.
    """
    try:
        # what `docker save` says of a missing image differs from engine to engine
        lab.client.images.get(ref)
        chunks = lab.client.api.get_image(ref)
        return replace(archives.stream(chunks, f"what `docker save {ref}` sends", look), name=ref)
    except ImageNotFound as error:
        raise ImageMissing(
            f"the engine does not have the image {ref!r}",
            hint="`docker images` lists what it has; lab.pull or lab.image fetch one",
            engine_words=str(error.explanation),
        ) from None
    except APIError as error:
        raise LabError(
            f"the engine could not save the image {ref!r}",
            hint="its words say why; is that the name of an image?",
            engine_words=str(error.explanation),
        ) from None
