"""Layer directories that containers and images share, and their size on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput
from labhelpers.layers.overlay import mounts
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab


@record
class LayerDirectory:
    """The directory of a layer on the engine's host."""

    id: str = column("identifier in the image store, the same for all containers that mount the directory")
    bytes: int = column("size on disk")


@record
class LayerUser:
    """A container with the layer directories that it mounts."""

    image: str = column("image of the container, without the registry")
    layers: tuple[LayerDirectory, ...] = column("layers of the image, the lowest first", shown=False)
    container_layers: tuple[LayerDirectory, ...] = column(
        "directories of this container alone: its upper directory and the engine's init layer below",
        shown=False,
    )

    @property
    def all_layers(self) -> tuple[LayerDirectory, ...]:
        """The layers of the image, then those of the container."""
        return (*self.layers, *self.container_layers)


@record
class Sharing(Result):
    """Layer directories of each container, and the number of containers that share them."""

    users: tuple[LayerUser, ...] = rows("the containers", of=LayerUser)

    @property
    def stored_bytes(self) -> int:
        """Size on disk: every directory is counted once."""
        return sum({layer.id: layer.bytes for user in self.users for layer in user.all_layers}.values())

    @property
    def sum_bytes(self) -> int:
        """Size of separate copies: every directory is counted once for each container that mounts it."""
        return sum(layer.bytes for user in self.users for layer in user.all_layers)

    @property
    def containers_bytes(self) -> int:
        """Size of the containers' own layers."""
        return sum(layer.bytes for user in self.users for layer in user.container_layers)

    def users_of(self, id: str) -> tuple[int, ...]:
        """The indices, in `users`, of the containers that mount a directory."""
        return tuple(
            number for number, user in enumerate(self.users) if id in {layer.id for layer in user.all_layers}
        )

    def frame(self) -> pd.DataFrame:
        """One row for each container and directory: container, image, part, directory, bytes, shared_by."""
        rows = [
            (number, user.image, part, layer.id, layer.bytes, len(self.users_of(layer.id)))
            for number, user in enumerate(self.users)
            for part, layers in (("image", user.layers), ("container", user.container_layers))
            for layer in layers
        ]
        return table(rows, ["container", "image", "part", "directory", "bytes", "shared_by"])


@experiment
def sharing(lab: Lab, refs: Sequence[str], containers: int) -> Sharing:
    """Start containers, and list the layer directories that each of them mounts with their size on disk.

    Args:
        refs: the images; each must contain `sleep`.
        containers: number of containers of the first image; each other image gets one container.

    Raises:
        BadInput: no image, or fewer than one container.
        ImageMissing: the engine does not have an image.
    """
    if isinstance(refs, str) or not refs or containers < 1:
        raise BadInput("no containers to compare", hint="pass a list of images and 1 or more containers")
    images = [refs[0]] * containers + list(refs[1:])
    with lab.quiet(["docker run -d"]), ExitStack() as running:
        started = [
            running.enter_context(lab.running(ref, ["3600"], entrypoint="sleep", network="none"))
            for ref in images
        ]
        mounted = [mounts(lab, container) for container in started]
        paths = sorted({path for root in mounted for path in (*root.lower, root.upper)})
        sizes = {path: lab.host.disk_usage(path).allocated_bytes for path in paths}
    return Sharing(
        tuple(
            LayerUser(
                ref.rpartition("/")[2],
                _directories(root.image_layers, sizes),
                _directories((root.lower[-1], root.upper), sizes),
            )
            for ref, root in zip(images, mounted, strict=True)
        )
    )


def _directories(paths: Sequence[str], sizes: Mapping[str, int]) -> tuple[LayerDirectory, ...]:
    return tuple(LayerDirectory(_id(path), sizes[path]) for path in paths)


def _id(path: str) -> str:
    """The part of a path that identifies a directory in the image store."""
    names = [name for name in path.split("/") if name not in ("diff", "fs", "l")]
    return names[-1]
