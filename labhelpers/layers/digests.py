"""Content addresses: the digests of an image in the lab's registry, recomputed, and a pull of a corrupted layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labhelpers.course.arguments import experiment
from labhelpers.engine.registry import STORAGE_PATH
from labhelpers.errors import BadInput, ImageMissing
from labhelpers.layers.manifests import is_attestation
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

_FETCH_PROGRAM = Path(__file__).with_name("inside") / "fetch.py"


class Descriptor(NamedTuple):
    """A layer as a manifest lists it (OCI image-spec, descriptor.md).

    Attributes:
        digest: SHA-256 of the compressed layer.
        bytes: its size.
    """

    digest: str
    bytes: int


def is_in_lab_registry(lab: Lab, ref: str) -> bool:
    """Whether an image reference is one of the lab's registry."""
    # the use of `lab.registry.address` starts the registry, so test the form of the name first
    return bool(re.match(r"127\.0\.0\.1:\d+/.+:", ref)) and ref.startswith(f"{lab.registry.address}/")


def layer_descriptors(lab: Lab, ref: str) -> tuple[Descriptor, ...]:
    """The layers of an image in the lab's registry from its manifest, the lowest first. No layer is read.

    Raises:
        BadInput: the image is not in the lab's registry.
    """
    name, tag = _name_and_tag(lab, ref)
    with lab.quiet():
        digest = _stored(lab, ref, f"repositories/{name}/_manifests/tags/{tag}/current/link")
        return tuple(
            Descriptor(str(layer["digest"]), int(layer["size"]))
            for manifest in _manifests(lab, ref, digest)
            for layer in manifest["layers"]
        )


def _manifests(lab: Lab, ref: str, digest: str) -> Iterator[dict[str, Any]]:
    """The manifest with that digest, or those that the index with that digest lists."""
    manifest = json.loads(_stored(lab, ref, _blob_path(digest)))
    if "manifests" not in manifest:
        yield manifest
    for descriptor in manifest.get("manifests", ()):
        if not is_attestation(descriptor):
            yield from _manifests(lab, ref, str(descriptor["digest"]))


def _stored(lab: Lab, ref: str, path: str) -> str:
    """A file in the storage of the registry."""
    read = lab.exec(str(lab.registry.container.name), ["cat", f"{STORAGE_PATH}/{path}"])
    if read.exit_code:
        raise _not_in_registry(f"the lab's registry does not have {ref!r}", read.stderr)
    return read.stdout


def _blob_path(digest: str) -> str:
    code = digest.removeprefix("sha256:")
    return f"blobs/sha256/{code[:2]}/{code}/data"


def _name_and_tag(lab: Lab, ref: str) -> tuple[str, str]:
    if not is_in_lab_registry(lab, ref):
        raise _not_in_registry(f"{ref!r} is not in the lab's registry")
    name, _, tag = ref.partition("/")[2].rpartition(":")
    return name, tag


def _not_in_registry(message: str, engine_message: str | None = None) -> BadInput:
    hint = "push it there first: ref = lab.registry.push(IMAGE), then use that ref"
    return BadInput(message, hint=hint, engine_message=engine_message)


# --- recomputed digests


@record
class Blob:
    """A manifest, configuration or layer that a registry stores under its digest."""

    kind: str = column("`manifest`, `config` or `layer`")
    digest: str = column("digest under which the registry stores the blob")
    recomputed: str = column("SHA-256 of the bytes that the registry sent")
    declared_bytes: int = column("size that the manifest declares")
    bytes: int = column("number of bytes that the registry sent")

    @derived
    def matches(self) -> bool:
        """Whether digest and size of the received bytes are the declared ones."""
        return self.digest == self.recomputed and self.declared_bytes == self.bytes


@record
class Verification(Result):
    """Digests of the manifest, the configuration and the layers of an image, recomputed."""

    ref: str = column("the image")
    blobs: tuple[Blob, ...] = rows("manifest, configuration and layers", of=Blob)

    @property
    def all_match(self) -> bool:
        """Whether every blob matches its digest and its declared size."""
        return all(blob.matches for blob in self.blobs)


@experiment
def verify(lab: Lab, ref: str) -> Verification:
    """Download the manifest and all blobs of an image from the lab's registry, and recompute their SHA-256.

    A helper container in the registry's network namespace downloads and hashes them: no blob reaches the notebook.

    Raises:
        BadInput: the image is not in the lab's registry.
    """
    name, tag = _name_and_tag(lab, ref)
    program = _FETCH_PROGRAM.read_text(encoding="utf-8")
    command = ["-I", "-c", program, f"http://127.0.0.1:5000/v2/{name}", tag]
    with lab.quiet():
        network = f"container:{lab.registry.container.id}"
        done = lab.run_once(
            lab.image("tools"), command, entrypoint="python3", network=network, cap_drop=["ALL"]
        )
    if done.exit_code:
        raise _not_in_registry(f"the lab's registry does not have {ref!r}", done.stderr)
    return Verification(ref, tuple(Blob(**blob) for blob in json.loads(done.stdout)))


# --- a corrupted layer


@record
class CorruptedPull(Result):
    """A pull of an image after one bit of a layer was flipped in the registry."""

    ref: str = column("the image")
    digest: str = column("digest of the corrupted blob, the highest layer")
    offset: int = column("position of the corrupted byte in the blob, from 0")
    before: int = column("value of the byte before the change")
    after: int = column("value of the byte after the change")
    engine_message: str | None = column("error of `docker pull`, none if it accepted the image")
    restored: bool = column("whether all digests matched again after the byte was restored")

    @property
    def refused(self) -> bool:
        """Whether the engine rejected the image with an error that names the blob."""
        return self.engine_message is not None and self.digest in self.engine_message


@experiment
def pull_corrupted(lab: Lab, ref: str) -> CorruptedPull:
    """Flip one bit in the highest layer of an image in the lab's registry, pull the image, and restore the bit.

    The image is removed from the engine first, which would otherwise use its own copy of the layer.

    Raises:
        BadInput: the image is not in the lab's registry.
    """
    with lab.quiet(["docker exec", "docker pull"]):
        layer = layer_descriptors(lab, ref)[-1]
        offset = layer.bytes // 2
        path = f"{STORAGE_PATH}/{_blob_path(layer.digest)}"
        before = _byte(lab, path, offset)
        after = before ^ 1
        lab.remove_image(ref)
        engine_message: str | None = None
        try:
            _set_byte(lab, path, offset, after)
            lab.pull(ref)
        except ImageMissing as error:
            engine_message = error.engine_message
        finally:
            _set_byte(lab, path, offset, before)
        if engine_message is None:
            lab.remove_image(ref)
        restored = verify(lab, ref).all_match
    return CorruptedPull(ref, layer.digest, offset, before, after, engine_message, restored)


def _byte(lab: Lab, path: str, offset: int) -> int:
    read = lab.exec(str(lab.registry.container.name), ["od", "-An", "-tu1", f"-j{offset}", "-N1", path])
    return int(read.stdout)


def _set_byte(lab: Lab, path: str, offset: int, value: int) -> None:
    write = f"printf '\\{value:03o}' | dd of={path} bs=1 seek={offset} conv=notrunc status=none"
    lab.exec(str(lab.registry.container.name), ["sh", "-c", write])
