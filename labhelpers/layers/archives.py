"""Read an image archive without an engine: the output of `docker save`, or an OCI image layout as a tar file.

The archive is read once from front to back. Memory use grows with the number of files, not with their size, and
nothing is written. Formats: moby, image/tarexport (manifest.json); OCI image-spec, image-layout.md (index.json,
blobs/). The archive and each layer may be plain or compressed with gzip, zstd, bzip2 or xz.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadArchive, BadInput
from labhelpers.layers import manifests
from labhelpers.layers.archive_errors import damaged_error, printable_name, truncated_error, unsafe_error
from labhelpers.layers.extraction import LayerTree, ResourceLimits, path_below_root, resolve_links
from labhelpers.layers.image_stack import ImageStack, LayerFiles, build_stack
from labhelpers.layers.manifests import Blob, mapping, sequence, short
from labhelpers.layers.sources import (
    CHUNK,
    MAGIC_BYTES,
    BufferedSource,
    Chunks,
    File,
    Hashed,
    LimitedSource,
    ParallelHasher,
    Source,
    Unpacked,
    compression,
)
from labhelpers.layers.tarstream import BLOCK, Member, looks_like_tar, members

# containerd rejects a manifest or configuration above 8 MiB; most have a few KiB
MAX_JSON_BYTES = 8 << 20
MAX_TOTAL_JSON_BYTES = 128 << 20
MAX_LAYER_BYTES = 1 << 62
WINDOW_BYTES = 1 << 12
UNKNOWN = "(not recorded)"

FileCallback = Callable[[str, LimitedSource], Any]
"""Called for each regular file of a layer with its path and its contents. A result other than None is stored."""

HashSource = Callable[[Source, BufferedSource, int], tuple[Source, Callable[[], str]]]
"""Takes a source, the flow behind it and a size; returns the source to read from and a function for its digest."""


@experiment
def archive(
    path: str | os.PathLike[str], ref: str | None = None, *, verify: bool = True, platform: str | None = None
) -> ImageStack:
    """Read the layers of an image archive on this machine. Nothing in it is unpacked to disk, run or followed.

    Args:
        path: the output of `docker save`, or an OCI image layout as a tar file; plain, gzip, zstd, bzip2 or xz.
        ref: name of the image, or digest of its manifest, if the archive contains several images.
        verify: recompute the SHA-256 of every blob and layer. If False, only the headers of a plain archive are
            read, which is faster but does not detect a changed byte in a file.
        platform: platform of the image, such as `linux/arm64`; None for that of this machine, or the only
            platform in the archive. The `notes` of the result list the other platforms.

    Raises:
        BadInput: the file does not exist, or the archive contains several images or platforms and `ref` and
            `platform` select none of them.
        BadArchive: the file is not an image archive, is damaged, truncated or unsafe to unpack, or lacks layers
            of the platform.
    """
    where = Path(path).name
    selector = _ImageSelector(ref, platform, manifests.local_platform())
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            begin = file.read(BLOCK)
            file.seek(0)
            source: Source = File(file, size)
            packed = None if looks_like_tar(begin) else compression(begin[:MAGIC_BYTES])
            if packed:
                unpacked = Unpacked(source, where, packed)
                return _read(unpacked, _Contents(where, _hashing if verify else None), selector)
            with ParallelHasher(path) as ahead:
                return _read(source, _Contents(where, _hash_ahead(ahead) if verify else None, size), selector)
    except OSError as error:
        raise BadInput(
            f"the archive {where} cannot be read: {error.strerror or error}",
            hint="pass the path of a file written by `docker save -o FILE IMAGE`",
        ) from None


def stream(
    chunks: Iterable[bytes],
    name: str,
    on_file: FileCallback | None = None,
    *,
    platform: str | None = None,
    default_platform: str | None = None,
) -> ImageStack:
    """Read the layers of an image archive that arrives in chunks, such as the response to `docker save`.

    Args:
        name: name of the archive in messages.
        on_file: called for every regular file; its results are stored in `file_results` of the layer.
        platform: as for `archive`.
        default_platform: used if `platform` is None; None for the platform of this machine.

    Raises:
        BadInput, BadArchive: as `archive`.
    """
    selector = _ImageSelector(None, platform, default_platform or manifests.local_platform())
    return _read(Chunks(chunks), _Contents(name, _hashing, on_file=on_file), selector)


@dataclass(frozen=True, slots=True)
class _ImageSelector:
    """Selects an image of an archive by name and platform, with the platform to use by default."""

    ref: str | None
    platform: str | None
    default: str


def _hashing(source: Source, flow: BufferedSource, size: int) -> tuple[Source, Callable[[], str]]:
    """Hash a source as it is read."""
    total = hashlib.sha256()
    return Hashed(source, total), total.hexdigest


def _hash_ahead(hashed: ParallelHasher) -> HashSource:
    """Hash ranges of a plain file in parallel, so that skipped contents need not be read here."""
    return lambda source, flow, size: (source, hashed.sha256(flow.position, size))


def _read(source: Source, contents: _Contents, selector: _ImageSelector) -> ImageStack:
    flow = BufferedSource(source, contents.where, contents.window)
    first = flow.peek(BLOCK)
    if len(first) < BLOCK and isinstance(source, Unpacked):
        raise truncated_error(contents.where)
    if not looks_like_tar(first) or len(first) < BLOCK:
        raise BadArchive(
            f"{contents.where} is not an image archive: it does not start with a tar header",
            hint="pass a file written by `docker save -o FILE IMAGE`, or an OCI image layout as a tar file",
        )
    for member in members(flow):
        contents.add(flow, member)
    return contents.image(selector)


class _Contents:
    """The contents of an archive, collected in one pass because the manifest may come last.

    Args:
        where: name of the archive in messages.
        hashing: how to compute the digest of a blob; None to compute none.
        size: of the archive, if its contents can be skipped.
        on_file: called for every regular file of a layer.
    """

    def __init__(
        self,
        where: str,
        hashing: HashSource | None,
        size: int | None = None,
        on_file: FileCallback | None = None,
    ) -> None:
        self.where, self._hashing, self._size, self._on_file = where, hashing, size, on_file
        # if contents are skipped, headers are far apart: a large window would read contents in between
        self.window = CHUNK if size is None else WINDOW_BYTES
        self._budget = ResourceLimits()
        self._json_bytes = 0
        self._texts: dict[str, bytes] = {}
        self._layers: dict[str, LayerFiles] = {}
        self._links: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._digests: dict[str, Callable[[], str]] = {}

    def add(self, flow: BufferedSource, member: Member) -> None:
        """Record one member, and advance past it."""
        if self._size is not None and member.stored_bytes > self._size - flow.position:
            raise truncated_error(self.where)
        name = path_below_root(member.name, self.where)
        part = LimitedSource(flow, member.stored_bytes)
        if member.kind in ("file", "link", "hard link"):
            self._budget.take_path(name, self.where)
            # the last member with a name replaces earlier ones
            for table in (self._texts, self._layers, self._links, self._sizes, self._digests):
                table.pop(name, None)
        if member.kind in ("link", "hard link"):
            # the target of a hard link is relative to the root of the archive
            self._links[name] = member.target if member.kind == "link" else f"/{member.target}"
        elif member.kind == "file":
            self._sizes[name] = member.stored_bytes
            self._inspect(flow, part, name)
        part.finish()

    def _inspect(self, flow: BufferedSource, part: LimitedSource, name: str) -> None:
        """Classify a file by its contents, as engines do: its media type or name may be wrong."""
        size = self._sizes[name]
        begin = flow.peek(min(BLOCK, size))
        source: Source = part
        if self._hashing:
            source, self._digests[name] = self._hashing(part, flow, size)
        is_tar = not begin or (len(begin) == BLOCK and looks_like_tar(begin))
        packed = None if is_tar else compression(begin[:MAGIC_BYTES])
        if is_tar or packed:
            where = f"the layer {short(name)} of {self.where}"
            self._layers[name] = self._layer(source, where, packed)
        elif begin.lstrip()[:1] in (b"{", b"[") and size <= MAX_JSON_BYTES:
            self._json_bytes += size
            if self._json_bytes > MAX_TOTAL_JSON_BYTES:
                raise unsafe_error(self.where, f"it has more than {MAX_TOTAL_JSON_BYTES >> 20} MiB of JSON")
            self._texts[name] = b"".join(iter(lambda: source.read(MAX_JSON_BYTES), b""))
        source.skip(size)

    def _layer(self, source: Source, where: str, packed: str | None) -> LayerFiles:
        diff_id: Callable[[], str] | None = None
        try:
            if packed:
                source = Unpacked(source, where, packed)
                if self._hashing:
                    total = hashlib.sha256()
                    source, diff_id = Hashed(source, total), total.hexdigest
            flow = BufferedSource(source, where, CHUNK if packed else self.window)
            files = _files(flow, where, self._on_file, self._budget)
            # bytes after the end of the tar are part of the digest
            source.skip(MAX_LAYER_BYTES)
        except BadArchive as error:
            # it may not be a layer at all, so raise this only if the image lists it
            return LayerFiles(problem=error)
        files.diff_id = f"sha256:{diff_id()}" if diff_id else ""
        return files

    def _digest(self, name: str) -> str | None:
        """The digest of the file with that name; None if digests are not computed."""
        return f"sha256:{self._digests[name]()}" if name in self._digests else None

    # --- the protocol `manifests.ArchiveContents`

    def has(self, name: str) -> bool:
        """Whether the archive has a file of that name, or a link to a file."""
        try:
            return self._resolve(name) in self._sizes
        except BadArchive:
            return True  # reading the file raises the error

    def text(self, name: str) -> Any:
        """The JSON of a file."""
        target = self._resolve(name)
        if target not in self._texts:
            raise damaged_error(self.where, f"{short(name)} is listed but missing, or is not JSON")
        try:
            return json.loads(self._texts[target])
        except (ValueError, RecursionError):
            raise damaged_error(self.where, f"{short(name)} is not valid JSON") from None

    def check(self, blob: Blob) -> None:
        """Compare a blob with the size in its descriptor and with the digest in its name."""
        name = self._resolve(blob.name)
        size = self._sizes.get(name)
        if size is not None and blob.size not in (None, size):
            raise damaged_error(
                self.where, f"the size of the blob {short(name)} should be {blob.size} bytes but is {size}"
            )
        expected, actual = _digest_in(name), self._digest(name)
        if expected and actual and expected != actual:
            raise damaged_error(self.where, f"the blob {expected} has the digest {actual}")

    def _resolve(self, name: str) -> str:
        """Resolve a name: old engines save a layer that occurs twice as a link."""
        return resolve_links(name, self._links, self._budget, self.where)

    # --- the result

    def image(self, selector: _ImageSelector) -> ImageStack:
        """The selected image."""
        if not self.has("manifest.json") and not self.has("index.json"):
            raise BadArchive(
                f"{self.where} is a tar file but not an image archive: it has neither manifest.json nor index.json",
                hint="`docker export` writes the files of a container, not an image: use `docker save`. If this was "
                "an image archive, it may be truncated",
            )
        selected = manifests.select_image(self, selector.ref, selector.platform, selector.default)
        image = selected.image
        assert image.config is not None  # guaranteed by select_image
        self.check(image.config)
        config = mapping(self.text(image.config.name), self.where)
        root = mapping(config.get("rootfs") or {}, self.where)
        diff_ids = [str(diff_id) for diff_id in sequence(root.get("diff_ids"), self.where)]
        if len(diff_ids) != len(image.layers):
            lists = f"{len(image.layers)} layers, its configuration {len(diff_ids)}"
            raise damaged_error(self.where, f"its manifest lists {lists}")
        files = [self._verified(*pair) for pair in zip(image.layers, diff_ids, strict=True)]
        digests = [_digest_in(self._resolve(layer.name)) for layer in image.layers]
        name = selected.name if selected.name.isprintable() else printable_name(selected.name)
        instructions = _instructions(config, len(files))
        stack = build_stack(name, zip(files, diff_ids, digests, instructions, strict=True))
        return replace(
            stack,
            platform=image.platform,
            other_platforms=tuple(other for other in selected.platforms if other != image.platform),
            missing_platforms=selected.missing,
            skipped=selected.skipped,
        )

    def _verified(self, layer: Blob, diff_id: str) -> LayerFiles:
        self.check(layer)
        name = self._resolve(layer.name)
        files = self._layers.get(name)
        if files is None:
            raise damaged_error(self.where, f"{short(name)}, which it lists as a layer, is not a tar archive")
        if files.problem:
            raise files.problem
        actual = files.diff_id or self._digest(name)
        if actual and actual != diff_id:
            raise damaged_error(
                self.where, f"the layer {short(name)} should have the diff ID {diff_id} but has {actual}"
            )
        return files


# --- one layer


def _files(
    flow: BufferedSource, where: str, on_file: FileCallback | None, budget: ResourceLimits
) -> LayerFiles:
    files, tree = LayerFiles(), LayerTree(where, budget)
    for member in members(flow):
        path = tree.add(member)
        part = LimitedSource(flow, member.stored_bytes)
        files.file_results.pop(path, None)
        if on_file and path and member.kind == "file" and (result := on_file(path, part)) is not None:
            files.file_results[path] = result
        part.finish()
        files.total_bytes += member.bytes
    files.entries, files.opaque = tree.entries, list(tree.opaque)
    return files


def _instructions(config: Mapping[str, Any], count: int) -> list[str]:
    """The instruction that created each layer, from the history (OCI image-spec, config.md), which may be missing."""
    history = config.get("history")
    recorded = [
        # JSON can contain a lone surrogate, which cannot be encoded or displayed
        re.sub(r"[\ud800-\udfff]", "?", _instruction(str(step.get("created_by") or UNKNOWN)))
        for step in (history if isinstance(history, list) else [])
        if isinstance(step, dict) and not step.get("empty_layer")
    ]
    return [*recorded, *[UNKNOWN] * count][:count]


def _instruction(created_by: str) -> str:
    """Strip the shell prefix that the classic builder adds to every step, and shorten digests."""
    text = re.sub(r"\b((?:file|dir|multi):[0-9a-f]{12})[0-9a-f]{52}", r"\1", created_by)
    text = re.sub(r"\s+", " ", text.removeprefix("/bin/sh -c ")).strip()
    if text.startswith("#(nop)"):
        return text.removeprefix("#(nop)").strip()
    return f"RUN {text}" if created_by.startswith("/bin/sh -c ") else text.removesuffix(" # buildkit")


def _digest_in(name: str) -> str | None:
    """The digest in the name of a blob, as `sha256:…`; None if the name is not a digest."""
    folder, _, code = name.rpartition("/")
    if folder == "blobs/sha256":
        return f"sha256:{code}"
    # engines before 25 name the configuration for its digest
    if not folder and code.endswith(".json") and len(code) == 69:
        return f"sha256:{code.removesuffix('.json')}"
    return None
