"""What is in an image on the engine. Each is read once: an image never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labhelpers.layers.builds import files_of
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.image_stack import ImageStack

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.layers.sources import LimitedSource

# what an engine puts into every container, and `docker export` into its archive
ENGINE_FILES = (".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")

_HASHED: dict[str, ImageStack] = {}
_HEADERS: dict[str, ImageStack] = {}
_TEXTS: dict[tuple[str, tuple[str, ...]], list[str | None]] = {}


def id_of(lab: Lab, ref: str) -> str:
    """The ID of an image.

    Raises:
        ImageMissing: the engine does not have it.
    """
    return str(lab.inspect_image(ref)["Id"])


def hashed_layers(lab: Lab, ref: str) -> ImageStack:
    """The layers of an image, with the digest and the first bytes of every file."""
    id = id_of(lab, ref)
    if id not in _HASHED:
        _HASHED[id] = read_docker_save(lab, id, _digest)
    return _HASHED[id]


def layer_headers(lab: Lab, ref: str) -> ImageStack:
    """The layers of an image without the contents of its files: a large image takes a second."""
    id = id_of(lab, ref)
    if id not in _HEADERS:
        _HEADERS[id] = read_docker_save(lab, id)
    return _HEADERS[id]


def _digest(path: str, part: LimitedSource) -> tuple[str, str]:
    digest, first = hashlib.sha256(), b""
    while chunk := part.read(1 << 20):
        digest.update(chunk)
        first = first or chunk[:100]
    return digest.hexdigest(), first.decode(errors="replace").strip()


def visible_files(lab: Lab, ref: str) -> Mapping[str, tuple[str, str]]:
    """Path → kind and digest of every file that a container sees, without those of the engine."""
    stack = hashed_layers(lab, ref)
    files = ((file.path.strip("/"), stack.layers[file.layer]) for file in stack.union.files)
    return {
        path: (layer.entries[path].kind, (layer.file_results.get(path) or ("",))[0])
        for path, layer in files
        if path not in ENGINE_FILES and not path.startswith("dev/")
    }


def texts_of(lab: Lab, ref: str, *paths: str) -> list[str | None]:
    """The text of files of an image, as `builds.files_of`; no command is shown."""
    key = (id_of(lab, ref), paths)
    if key not in _TEXTS:
        with lab.hidden():
            _TEXTS[key] = files_of(lab, key[0], paths)
    return _TEXTS[key]
