"""An image archive read without an engine: what `docker save` writes, or an OCI image layout in a tar.

One pass from front to back, in memory that grows with the number of files and not with their bytes, and
nothing is written anywhere. Formats: moby, image/tarexport (manifest.json); OCI image-spec, image-layout.md
(index.json, blobs/); both, and each layer, plain or packed with gzip or zstd.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from labhelpers.errors import BadArchive, BadInput
from labhelpers.layers import trees
from labhelpers.layers.tarstream import (
    BLOCK,
    CHUNK,
    GZIP_MAGIC,
    ZSTD_MAGIC,
    Chunks,
    File,
    Flow,
    Hashed,
    HashedAhead,
    Member,
    Part,
    Source,
    Unpacked,
    cut_short,
    damaged,
    hostile,
    looks_like_tar,
    members,
)
from labhelpers.layers.trees import IMPLIED, Entries, Entry, Waste
from labhelpers.results import Result

# the largest manifests and configurations are some hundred KiB
MOST_JSON = 16 << 20
MOST_ENTRIES = 5_000_000
MOST_BYTES = 1 << 62
SMALL_WINDOW = 1 << 12
UNKNOWN = "(not recorded)"

Look = Callable[[str, Part], Any]
"""Sees a regular file of a layer: its path, and its contents to read. What it gives back is kept, None is not."""

Hashing = Callable[[Source, Flow, int], tuple[Source, Callable[[], str]]]
"""For the next so many bytes of a flow, as a source: the source to read from, and what gives the digest."""


# --- results


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image.

    Attributes:
        number: its place, the lowest is 0.
        digest: SHA-256 of the blob as the registry or the archive has it; None where the source does not say.
        diff_id: SHA-256 of the unpacked layer (OCI image-spec, config.md).
        instruction: what made it, as the image's history says.
        bytes: the sizes of its files, added up.
        files_added, files_changed, files_removed: against what the layers below show; directories are not
            counted, a file that is written again counts as changed whatever its contents.
        entries: path → what the layer holds there; whiteouts under their own names.
        opaque: the directories that hide all that is below them in lower layers.
        seen: path → what a look at the file's contents gave (`stream`); empty where nobody looked.
    """

    number: int
    digest: str | None
    diff_id: str
    instruction: str
    bytes: int
    files_added: int
    files_changed: int
    files_removed: int
    entries: Entries = field(repr=False, compare=False)
    opaque: tuple[str, ...] = field(repr=False, compare=False)
    seen: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ImageStack(Result):
    """The layers of an image, and how well they use their bytes.

    Attributes:
        name: what the image is called.
        layers: from the lowest to the highest.
        efficiency: 0 to 1, as dive defines it: see `trees.efficiency`.
        wasted_files: path, count, bytes of every path that is stored more than once, the largest first.
    """

    name: str
    layers: tuple[Layer, ...]
    efficiency: float
    wasted_files: tuple[Waste, ...]

    @property
    def bytes(self) -> int:
        """The bytes of all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def wasted_bytes(self) -> int:
        """The bytes of all copies of the wasted files, as dive adds them up: the copy in use is among them."""
        return sum(waste.bytes for waste in self.wasted_files)

    @property
    def union(self) -> Union:
        """Where each file that a container sees comes from."""
        merged = trees.Merged()
        for layer in self.layers:
            merged.apply(layer.number, layer.entries, layer.opaque)
        seen = (
            Origin(f"/{path}", merged.layer_of[path], entry.bytes)
            for path, entry in sorted(merged.entries.items())
            if entry.kind not in ("directory", "")
        )
        return Union(self, tuple(seen))

    def frame(self) -> pd.DataFrame:
        """One row a layer: number, instruction, bytes, files added, changed and removed, digest, diff_id."""
        columns = ["number", "instruction", "bytes", "files_added", "files_changed", "files_removed"]
        columns += ["digest", "diff_id"]
        rows = [[getattr(layer, column) for column in columns] for layer in self.layers]
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, slots=True)
class Origin:
    """A file that a container sees, the number of the layer that it comes from, and its bytes."""

    path: str
    layer: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Union(Result):
    """The merged view of an image: every file (no directories) with the layer that it comes from.

    Attributes:
        stack: the image.
        files: by path.
    """

    stack: ImageStack
    files: tuple[Origin, ...]

    def frame(self) -> pd.DataFrame:
        """One row a file: path, layer, bytes."""
        return pd.DataFrame(
            [(f.path, f.layer, f.bytes) for f in self.files], columns=["path", "layer", "bytes"]
        )


# --- reading


def archive(path: str | os.PathLike[str], ref: str | None = None, *, verify: bool = True) -> ImageStack:
    """The layers of an image archive of this machine. Nothing in it is unpacked to disk, run or followed.

    Args:
        path: what `docker save` wrote, or an OCI image layout as one tar; plain, gzip or zstd.
        ref: which image, where the archive holds several.
        verify: recompute the SHA-256 of every blob and layer. Without it a plain archive is not read in
            full, only its headers are: quicker, and a changed byte in a file goes unseen.

    Raises:
        BadInput: there is no such file, or the archive holds several images and `ref` names none of them.
        BadArchive: it is no image archive, or it is damaged, cut short or hostile.
    """
    where = Path(path).name
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            packed = _is_packed(file.read(4))
            file.seek(0)
            source: Source = File(file, size)
            if packed:
                return _read(Unpacked(source, where), _Contents(where, _hashing if verify else None), ref)
            with HashedAhead(path) as ahead:
                return _read(source, _Contents(where, _ahead(ahead) if verify else None, size), ref)
    except OSError as error:
        raise BadInput(
            f"the archive {where} cannot be read: {error.strerror or error}",
            hint="give the path of a file that `docker save -o FILE IMAGE` wrote",
        ) from None


def stream(chunks: Iterable[bytes], name: str, look: Look | None = None) -> ImageStack:
    """The same from bytes that arrive, such as those that the engine's `docker save` sends.

    Args:
        name: what the archive is called in messages.
        look: sees the contents of every regular file; what it gives back is kept in the layer's `seen`.

    Raises:
        BadArchive: as `archive`.
    """
    return _read(Chunks(chunks), _Contents(name, _hashing, look=look), None)


def _is_packed(begin: bytes) -> bool:
    return begin.startswith(GZIP_MAGIC) or begin == ZSTD_MAGIC


def _hashing(source: Source, flow: Flow, size: int) -> tuple[Source, Callable[[], str]]:
    """A source that is hashed as it is read, and what gives its digest at the end."""
    total = hashlib.sha256()
    return Hashed(source, total), total.hexdigest


def _ahead(hashed: HashedAhead) -> Hashing:
    """Hashing beside the reading, where the archive is a plain file: what is skipped needs not be read."""
    return lambda source, flow, size: (source, hashed.sha256(flow.position, size))


def _read(source: Source, found: _Contents, ref: str | None) -> ImageStack:
    flow = Flow(source, found.where, found.window)
    first = flow.peek(BLOCK)
    if len(first) < BLOCK and isinstance(source, Unpacked):
        raise cut_short(found.where)
    if not looks_like_tar(first) or len(first) < BLOCK:
        raise BadArchive(
            f"{found.where} is no image archive: it does not begin as a tar does",
            hint="give a file that `docker save -o FILE IMAGE` wrote, or an OCI image layout in a tar",
        )
    for member in members(flow):
        found.add(flow, member)
    return found.image(ref)


@dataclass(slots=True)
class _Files:
    """What one layer holds.

    Attributes:
        seen: path → what `look` gave back for it.
        total_bytes: the sizes of all its members, twice-named ones too.
        diff_id: of the unpacked layer, or empty where it was not asked for.
        problem: why it cannot be used, if it is a layer at all.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    opaque: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    total_bytes: int = 0
    diff_id: str = ""
    problem: BadArchive | None = None


class _Contents:
    """What an archive holds, gathered in one pass: the manifest may come last.

    Args:
        where: what the archive is called in messages.
        hashing: how the digest of a blob is found; None where none is asked for.
        size: of the archive, where its parts may be skipped.
        look: sees the contents of every regular file of a layer.
    """

    def __init__(
        self, where: str, hashing: Hashing | None, size: int | None = None, look: Look | None = None
    ) -> None:
        self.where, self._hashing, self._size, self._look_at = where, hashing, size, look
        # headers stand far apart where contents are skipped: a large window would read what nobody asks for
        self.window = CHUNK if size is None else SMALL_WINDOW
        self._texts: dict[str, bytes] = {}
        self._layers: dict[str, _Files] = {}
        self._links: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._digests: dict[str, Callable[[], str]] = {}

    def add(self, flow: Flow, member: Member) -> None:
        """Look at one member, and go past it."""
        if self._size is not None and member.stored_bytes > self._size - flow.position:
            raise cut_short(self.where)
        name = _inside(member.name, self.where)
        part = Part(flow, member.stored_bytes)
        if member.kind in ("link", "hard link"):
            above = posixpath.dirname(name) if member.kind == "link" else ""
            self._links[name] = _inside(posixpath.join(above, member.target), self.where)
        elif member.kind == "file" and member.stored_bytes:
            self._sizes[name] = member.stored_bytes
            self._look(flow, part, name)
        part.finish()

    def _look(self, flow: Flow, part: Part, name: str) -> None:
        begin = flow.peek(min(BLOCK, self._sizes[name]))
        source: Source = part
        if self._hashing:
            source, self._digests[name] = self._hashing(part, flow, self._sizes[name])
        if begin[:1] in (b"{", b"[") and self._sizes[name] <= MOST_JSON:
            self._texts[name] = b"".join(iter(lambda: source.read(MOST_JSON), b""))
        elif _is_packed(begin[:4]) or (looks_like_tar(begin) and len(begin) == BLOCK):
            where = f"the layer {_short(name)} of {self.where}"
            self._layers[name] = self._layer(source, where, _is_packed(begin[:4]))
        source.skip(self._sizes[name])

    def _layer(self, source: Source, where: str, packed: bool) -> _Files:
        diff_id: Callable[[], str] | None = None
        try:
            if packed:
                source = Unpacked(source, where)
                if self._hashing:
                    total = hashlib.sha256()
                    source, diff_id = Hashed(source, total), total.hexdigest
            files = _files(Flow(source, where, CHUNK if packed else self.window), where, self._look_at)
            # what stands after the end of the tar belongs to the digest
            source.skip(MOST_BYTES)
        except BadArchive as error:
            # perhaps no layer at all: it matters only if the image says that it is one
            return _Files(problem=error)
        files.diff_id = f"sha256:{diff_id()}" if diff_id else ""
        return files

    def _digest(self, name: str) -> str | None:
        """The digest of what the archive holds under that name; None where nobody asked for it."""
        return f"sha256:{self._digests[name]()}" if name in self._digests else None

    # --- putting it together

    def image(self, ref: str | None) -> ImageStack:
        """The image that the archive's manifest describes."""
        name, config_name, layer_names = self._manifest(ref)
        self._check(config_name)
        config = _as(dict, self._json(config_name), config_name)
        diff_ids = [
            str(one) for one in _as(dict, config.get("rootfs") or {}, config_name).get("diff_ids") or []
        ]
        if len(diff_ids) != len(layer_names):
            raise damaged(
                self.where, f"its manifest lists {len(layer_names)} layers, its configuration {len(diff_ids)}"
            )
        found = [self._found(layer, diff_id) for layer, diff_id in zip(layer_names, diff_ids, strict=True)]
        digests = [_digest_in(self._follow(layer)) for layer in layer_names]
        return stack(name, found, diff_ids, digests, _instructions(config, len(found)))

    def _found(self, name: str, diff_id: str) -> _Files:
        name = self._follow(name)
        self._check(name)
        files = self._layers.get(name)
        if files is None and name in self._sizes:
            raise damaged(self.where, f"{_short(name)}, which it lists as a layer, is no tar")
        if files is None:
            raise damaged(self.where, f"the layer {_short(name)} is listed and not there")
        if files.problem:
            raise files.problem
        unpacked = files.diff_id or self._digest(name)
        if unpacked and unpacked != diff_id:
            raise damaged(
                self.where, f"the layer {_short(name)} should have the diff id {diff_id}; it has {unpacked}"
            )
        return files

    def _check(self, name: str) -> None:
        """A blob is named for its digest: recompute it."""
        named, found = _digest_in(name), self._digest(name)
        if named and found and named != found:
            raise damaged(self.where, f"the blob {named} has the digest {found}")

    def _follow(self, name: str) -> str:
        """Where a link leads: old engines save a layer that occurs twice as a link."""
        seen: list[str] = []
        while name in self._links:
            if name in seen:
                raise hostile(self.where, f"links in it lead in a loop: {' → '.join([*seen, name])}")
            seen.append(name)
            name = self._links[name]
        return name

    def _json(self, name: str) -> Any:
        name = self._follow(name)
        if name not in self._texts:
            raise damaged(self.where, f"{_short(name)} is listed and not there, or is no JSON")
        try:
            return json.loads(self._texts[name])
        except (ValueError, RecursionError):
            raise damaged(self.where, f"{_short(name)} is no JSON") from None

    def _manifest(self, ref: str | None) -> tuple[str, str, list[str]]:
        """What the image is called, its configuration and its layers, by their names in the archive."""
        if "manifest.json" in self._texts or "manifest.json" in self._links:
            return self._saved(_as(list, self._json("manifest.json"), "manifest.json"), ref)
        if "index.json" in self._texts:
            return self._layout(ref)
        raise BadArchive(
            f"{self.where} is a tar, but no image archive: it has neither manifest.json nor index.json",
            hint="`docker export` writes a container's files, not an image: use `docker save`; where it was an "
            "image archive, it may have been cut short",
        )

    def _saved(self, images: list[Any], ref: str | None) -> tuple[str, str, list[str]]:
        by_name: dict[str, dict[str, Any]] = {}
        for image in images:
            image = _as(dict, image, "manifest.json")
            for tag in image.get("RepoTags") or [str(image.get("Config"))]:
                by_name[str(tag)] = image
        name = self._chosen(by_name, ref)
        image = by_name[name]
        layers = [
            _inside(str(one), self.where) for one in _as(list, image.get("Layers") or [], "manifest.json")
        ]
        return name, _inside(str(image.get("Config")), self.where), layers

    def _layout(self, ref: str | None) -> tuple[str, str, list[str]]:
        by_name: dict[str, dict[str, Any]] = {}
        for descriptor in self._manifests("index.json", []):
            notes = descriptor.get("annotations") or {}
            if "vnd.docker.reference.type" in notes:
                continue  # a statement about an image (BuildKit's provenance), no image
            name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name")
            by_name[str(name or descriptor.get("digest"))] = descriptor
        name = self._chosen(by_name, ref)
        manifest_name = self._blob(by_name[name])
        manifest = _as(dict, self._json(manifest_name), manifest_name)
        layers = [self._blob(layer) for layer in _as(list, manifest.get("layers") or [], manifest_name)]
        return name, self._blob(manifest.get("config")), layers

    def _manifests(self, name: str, seen: list[str]) -> Iterator[dict[str, Any]]:
        """The descriptors of all manifests of an index, those of indexes inside it too."""
        if name in seen:
            raise hostile(self.where, f"links in it lead in a loop: {' → '.join([*seen, name])}")
        index = _as(dict, self._json(name), name)
        for descriptor in _as(list, index.get("manifests") or [], name):
            inside = self._blob(descriptor)
            if inside not in self._texts:
                continue  # another platform's, which was not saved
            held = _as(dict, self._json(inside), inside)
            if "manifests" in held:
                notes = descriptor.get("annotations") or {}
                for one in self._manifests(inside, [*seen, name]):
                    yield {**one, "annotations": notes | (one.get("annotations") or {})}
            else:
                yield descriptor

    def _blob(self, descriptor: Any) -> str:
        """The name of the blob that a descriptor (OCI image-spec, descriptor.md) means."""
        descriptor = _as(dict, descriptor, "a descriptor")
        algorithm, _, code = str(descriptor.get("digest")).partition(":")
        name = _inside(f"blobs/{algorithm}/{code}", self.where)
        size = self._sizes.get(name)
        if size is not None and descriptor.get("size") not in (None, size):
            raise damaged(
                self.where,
                f"the blob {_short(name)} should have {descriptor['size']} bytes; it has {size}: a size lies",
            )
        self._check(name)
        return name

    def _chosen(self, by_name: Mapping[str, Any], ref: str | None) -> str:
        if not by_name:
            raise damaged(self.where, "it lists no image")
        if ref in by_name or f"{ref}:latest" in by_name:
            return str(ref if ref in by_name else f"{ref}:latest")
        distinct = {json.dumps(image, sort_keys=True) for image in by_name.values()}
        if ref is None and len(distinct) == 1:
            return next(iter(by_name))
        what = "several images" if ref is None else f"no image called {ref!r}"
        raise BadInput(f"{self.where} holds {what}", hint=f"give one of them as ref: {', '.join(by_name)}")


def stack(
    name: str,
    files: Sequence[_Files],
    diff_ids: Sequence[str],
    digests: Sequence[str | None],
    instructions: Sequence[str],
) -> ImageStack:
    """Put the layers on one another, and count what that adds, changes, hides and wastes."""
    merged = trees.Merged()
    layers = []
    for number, one in enumerate(files):
        counts = merged.apply(number, one.entries, one.opaque)
        layers.append(
            Layer(
                number,
                digests[number],
                diff_ids[number],
                instructions[number],
                one.total_bytes,
                *counts,
                entries=one.entries,
                opaque=tuple(one.opaque),
                seen=one.seen,
            )
        )
    score, wasted = trees.efficiency([one.entries for one in files])
    return ImageStack(name, tuple(layers), score, wasted)


# --- one layer


def _files(flow: Flow, where: str, look: Look | None) -> _Files:
    found = _Files()
    entries, links = found.entries, dict[str, tuple[str, str]]()
    for member in members(flow):
        path = _inside(member.name, where)
        part = Part(flow, member.stored_bytes)
        if look and member.kind == "file" and (told := look(path, part)) is not None:
            found.seen[path] = told
        part.finish()
        found.total_bytes += member.bytes
        name = path.rpartition("/")[2]
        above = trees.parent(path)
        while above and above not in entries:
            entries[above] = IMPLIED
            above = trees.parent(above)
        if name.startswith(trees.RESERVED):
            if name == trees.OPAQUE:
                found.opaque.append(trees.parent(path))
        elif path:
            entries[path] = Entry(member.bytes, member.kind)
            if member.target:
                links[path] = (member.kind, member.target)
        if len(entries) > MOST_ENTRIES:
            raise hostile(where, f"it has more than {MOST_ENTRIES:,} files")
    _no_loops(links, where)
    return found


def _no_loops(links: Mapping[str, tuple[str, str]], where: str) -> None:
    """Links that lead back to themselves: no file is ever reached through them, and a reader may never end."""
    ends: set[str] = set()
    for begin in links:
        path, seen = begin, dict[str, None]()
        while path in links and path not in ends:
            if path in seen:
                raise hostile(where, f"links in it lead in a loop: {' → '.join([*seen, path])}")
            seen[path] = None
            kind, target = links[path]
            if kind == "hard link":
                path = _inside(target, where)
            else:
                # a symbolic link starts at its directory, and the root of the image is as far up as it gets
                path = posixpath.normpath(posixpath.join("/", trees.parent(path), target)).strip("/")
        ends.update(seen)


def _inside(name: str, where: str) -> str:
    """`name` as a path below the root of the archive, without slashes around it; empty for the root."""
    if not name.startswith(("/", ".")) and "//" not in name and "/." not in name:
        return name.rstrip("/")
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise hostile(where, f"a path in it climbs out of it: {name[:80]}")
    return "" if path == "." else path


def _instructions(config: Mapping[str, Any], count: int) -> list[str]:
    """What made each layer, from the history (OCI image-spec, config.md); history may be missing."""
    history = config.get("history")
    made = [
        _instruction(str(step.get("created_by") or UNKNOWN))
        for step in (history if isinstance(history, list) else [])
        if isinstance(step, dict) and not step.get("empty_layer")
    ]
    return [*made, *[UNKNOWN] * count][:count]


def _instruction(created_by: str) -> str:
    """Without the shell that the classic builder writes before every step, and with short digests."""
    text = re.sub(r"\b((?:file|dir|multi):[0-9a-f]{12})[0-9a-f]{52}", r"\1", created_by)
    text = re.sub(r"\s+", " ", text.removeprefix("/bin/sh -c ")).strip()
    if text.startswith("#(nop)"):
        return text.removeprefix("#(nop)").strip()
    return f"RUN {text}" if created_by.startswith("/bin/sh -c ") else text.removesuffix(" # buildkit")


def _digest_in(name: str) -> str | None:
    """The digest that a blob is named for, as `sha256:…`; None where the name is another."""
    folder, _, code = name.rpartition("/")
    if folder == "blobs/sha256":
        return f"sha256:{code}"
    # what engines before 25 save: the configuration is named for its digest
    if not folder and code.endswith(".json") and len(code) == 69:
        return f"sha256:{code.removesuffix('.json')}"
    return None


def _as(kind: type[Any], value: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise damaged(_short(name), "it does not have the form that its format asks for")
    return value


def _short(name: str) -> str:
    """A name with its long codes cut, as docker shows them."""
    return "/".join(part[:12] if len(part) >= 64 else part for part in name.split("/"))
