"""The layers of an image of the engine, read from the output of `docker save` without writing it to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from labhelpers.course.arguments import experiment
from labhelpers.errors import EngineRefused
from labhelpers.layers import archives
from labhelpers.layers.digests import is_in_lab_registry, layer_descriptors
from labhelpers.layers.image_stack import ImageStack

if TYPE_CHECKING:
    from labhelpers.lab import Lab


@experiment
def image_layers(lab: Lab, ref: str, platform: str | None = None) -> ImageStack:
    """The layers of an image of the engine, from the output of `docker save`.

    Digests are known if the engine saves them (since Engine 25) or the image is in the lab's registry; otherwise
    they are None. Diff IDs are always known.

    Args:
        platform: platform of the image, such as `linux/arm64`; None for that of the engine, or the only one.

    Raises:
        ImageMissing: the engine does not have the image.
        BadInput: the engine has the image for several platforms, but not for the requested one.
        BadArchive: the output of the engine is damaged or lacks layers.
    """
    stack = read_docker_save(lab, ref, platform=platform)
    if all(layer.digest for layer in stack.layers) or not is_in_lab_registry(lab, ref):
        return stack
    descriptors = layer_descriptors(lab, ref)
    if len(descriptors) != len(stack.layers):
        return stack
    pairs = zip(stack.layers, descriptors, strict=True)
    return replace(stack, layers=tuple(replace(layer, digest=blob.digest) for layer, blob in pairs))


def read_docker_save(
    lab: Lab, ref: str, on_file: archives.FileCallback | None = None, platform: str | None = None
) -> ImageStack:
    """The layers of an image of the engine, with a callback for the contents of every file of every layer.

    Args:
        on_file: called for every regular file; its results are stored in `file_results` of the layer.
        platform: platform of the image, such as `linux/arm64`; None for that of the engine, or the only one.

    Raises:
        ImageMissing: the engine does not have the image.
        EngineRefused: the engine could not save the image.
        BadInput: the engine has the image for several platforms, but not for the requested one.
        BadArchive: the output of the engine is damaged, or lacks layers (an engine with the containerd image store
            saves only the blobs that it has).
    """
    # engines differ in how `docker save` fails for a missing image
    lab.inspect_image(ref)
    try:
        chunks = lab.client.api.get_image(ref)
        own = _platform(lab.engine.version)
        name = f"the output of `docker save {ref}`"
        return replace(
            archives.stream(chunks, name, on_file, platform=platform, default_platform=own), name=ref
        )
    except APIError as error:
        raise EngineRefused(
            f"the engine could not save the image {ref!r}",
            hint="fix the problem in Docker's message below, then run the cell again",
            engine_message=str(error.explanation),
        ) from None


def _platform(version: Mapping[str, Any]) -> str | None:
    """The platform of the engine (Engine API, GET /version)."""
    architecture = version.get("Arch")
    return f"{version.get('Os') or 'linux'}/{architecture}" if architecture else None
