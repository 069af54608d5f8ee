"""An image archive read without an engine: what `docker save` writes, or an OCI image layout in a tar.

One pass from front to back, in memory that grows with the number of files and not with their bytes, and
nothing is written anywhere. Formats: moby, image/tarexport (manifest.json); OCI image-spec, image-layout.md
(index.json, blobs/); both, and each layer, plain or compressed with gzip, zstd, bzip2 or xz.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from labhelpers.errors import BadArchive, BadInput
from labhelpers.layers import manifests, trees
from labhelpers.layers.extraction import LayerTree, ResourceLimits, path_below_root, resolve_links
from labhelpers.layers.manifests import Blob, mapping, sequence, short
from labhelpers.layers.tarstream import (
    BLOCK,
    CHUNK,
    MAGIC_BYTES,
    BufferedSource,
    Chunks,
    File,
    Hashed,
    LimitedSource,
    Member,
    ParallelHasher,
    Source,
    Unpacked,
    compression,
    damaged_error,
    looks_like_tar,
    members,
    printable_name,
    truncated_error,
    unsafe_error,
)
from labhelpers.layers.trees import Entries, Entry, Waste
from labhelpers.results import Result, column, record, rows

# containerd reads no manifest or configuration above 8 MiB; most have some KiB
MAX_JSON_BYTES = 8 << 20
MAX_TOTAL_JSON_BYTES = 128 << 20
MAX_LAYER_BYTES = 1 << 62
WINDOW_BYTES = 1 << 12
UNKNOWN = "(not recorded)"

FileCallback = Callable[[str, LimitedSource], Any]
"""Sees a regular file of a layer: its path, and its contents to read. What it gives back is kept, None is not."""

HashSource = Callable[[Source, BufferedSource, int], tuple[Source, Callable[[], str]]]
"""For the next so many bytes of a flow, as a source: the source to read from, and what gives the digest."""


# --- results


@record
class Layer:
    """One layer of an image."""

    number: int = column("its place, the lowest is 0")
    digest: str | None = column(
        "SHA-256 of the blob as the registry or the archive has it; None where the source does not say"
    )
    diff_id: str = column("SHA-256 of the unpacked layer (OCI image-spec, config.md)")
    instruction: str = column("what made it, as the image's history says")
    bytes: int = column("the sizes of its files, added up")
    files_added: int = column(
        "against what the layers below show; directories are not counted, a file that is written again "
        "counts as changed whatever its contents"
    )
    files_changed: int = column(
        "against what the layers below show; directories are not counted, a file that is written again "
        "counts as changed whatever its contents"
    )
    files_removed: int = column(
        "against what the layers below show; directories are not counted, a file that is written again "
        "counts as changed whatever its contents"
    )
    entries: Entries = column(
        "path → what the layer holds there; whiteouts under their own names", repr=False, compare=False
    )
    opaque: tuple[str, ...] = column(
        "the directories that hide all that is below them in lower layers", repr=False, compare=False
    )
    seen: Mapping[str, Any] = column(
        "path → what a look at the file's contents gave (`stream`); empty where nobody looked",
        shown=False,
        repr=False,
        compare=False,
    )


@record
class ImageStack(Result):
    """The layers of an image, and how well they use their bytes."""

    name: str = column("what the image is called")
    layers: tuple[Layer, ...] = column("from the lowest to the highest", shown=False)
    efficiency: float = column("0 to 1, as dive defines it: see `trees.efficiency`")
    wasted_files: tuple[Waste, ...] = column(
        "path, count, bytes of every path that is stored more than once, the largest first", shown=False
    )
    platform: str | None = column(
        "what it is for, `linux/amd64`; None where the archive does not say", default=None
    )
    other_platforms: tuple[str, ...] = column(
        "those that the archive holds as well (`archive(…, platform=)` reads one of them)", default=()
    )
    absent_platforms: tuple[str, ...] = column(
        "those that the archive lists, and does not hold in full", default=()
    )
    skipped: tuple[str, ...] = column(
        "the types of what the archive lists that is no image (a chart, a signature)", default=()
    )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the archive has besides these layers, a line each; empty for an image of one platform."""
        lines = []
        if self.other_platforms or self.absent_platforms:
            lines.append(f"these are the layers for {self.platform}")
        if self.other_platforms:
            lines.append(f"also there: {', '.join(self.other_platforms)}")
        if self.absent_platforms:
            lines.append(f"listed, but not there in full: {', '.join(self.absent_platforms)}")
        if self.skipped:
            lines.append(f"no image, so left out: {', '.join(self.skipped)}")
        return tuple(lines)

    def _repr_html_(self) -> str:
        lines = "".join(f"<br>{escape(line)}" for line in self.notes)
        return Result._repr_html_(self) + lines.removeprefix("<br>")

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
        merged = trees.MergedTree()
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


@record
class Union(Result):
    """The merged view of an image: every file (no directories) with the layer that it comes from."""

    stack: ImageStack = column("the image", shown=False)
    files: tuple[Origin, ...] = rows("by path", of=Origin)

    def frame(self) -> pd.DataFrame:
        """One row a file: path, layer, bytes."""
        return pd.DataFrame(
            [(f.path, f.layer, f.bytes) for f in self.files], columns=["path", "layer", "bytes"]
        )


# --- reading


def archive(
    path: str | os.PathLike[str], ref: str | None = None, *, verify: bool = True, platform: str | None = None
) -> ImageStack:
    """The layers of an image archive of this machine. Nothing in it is unpacked to disk, run or followed.

    Args:
        path: what `docker save` wrote, or an OCI image layout as one tar; plain, gzip, zstd, bzip2 or xz.
        ref: which image, where the archive holds several: its name, or the digest of its manifest.
        verify: recompute the SHA-256 of every blob and layer. Without it a plain archive is not read in
            full, only its headers are: quicker, and a changed byte in a file goes unseen.
        platform: which of an image's platforms, such as `linux/arm64`. Without it: this machine's, or the only
            one there is. The result's `notes` say which others the archive has or lacks.

    Raises:
        BadInput: there is no such file, or the archive holds several images or platforms and `ref` and `platform`
            name none of them.
        BadArchive: it is no image archive; or it is damaged, cut short or unsafe to unpack; or it lacks layers
            of the platform.
    """
    where = Path(path).name
    wanted = _ImageSelector(ref, platform, manifests.local_platform())
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            begin = file.read(BLOCK)
            file.seek(0)
            source: Source = File(file, size)
            packed = None if looks_like_tar(begin) else compression(begin[:MAGIC_BYTES])
            if packed:
                unpacked = Unpacked(source, where, packed)
                return _read(unpacked, _Contents(where, _hashing if verify else None), wanted)
            with ParallelHasher(path) as ahead:
                return _read(source, _Contents(where, _hash_ahead(ahead) if verify else None, size), wanted)
    except OSError as error:
        raise BadInput(
            f"the archive {where} cannot be read: {error.strerror or error}",
            hint="give the path of a file that `docker save -o FILE IMAGE` wrote",
        ) from None


def stream(
    chunks: Iterable[bytes],
    name: str,
    look: FileCallback | None = None,
    *,
    platform: str | None = None,
    default_platform: str | None = None,
) -> ImageStack:
    """The same from bytes that arrive, such as those that the engine's `docker save` sends.

    Args:
        name: what the archive is called in messages.
        look: sees the contents of every regular file; what it gives back is kept in the layer's `seen`.
        platform: as for `archive`.
        default_platform: what is taken without `platform`; None for this machine's.

    Raises:
        BadInput, BadArchive: as `archive`.
    """
    wanted = _ImageSelector(None, platform, default_platform or manifests.local_platform())
    return _read(Chunks(chunks), _Contents(name, _hashing, look=look), wanted)


@dataclass(frozen=True, slots=True)
class _ImageSelector:
    """Which image of an archive: its name, its platform, and the platform where none is asked for."""

    ref: str | None
    platform: str | None
    default: str


def _hashing(source: Source, flow: BufferedSource, size: int) -> tuple[Source, Callable[[], str]]:
    """A source that is hashed as it is read, and what gives its digest at the end."""
    total = hashlib.sha256()
    return Hashed(source, total), total.hexdigest


def _hash_ahead(hashed: ParallelHasher) -> HashSource:
    """Hashing beside the reading, where the archive is a plain file: what is skipped needs not be read."""
    return lambda source, flow, size: (source, hashed.sha256(flow.position, size))


def _read(source: Source, found: _Contents, wanted: _ImageSelector) -> ImageStack:
    flow = BufferedSource(source, found.where, found.window)
    first = flow.peek(BLOCK)
    if len(first) < BLOCK and isinstance(source, Unpacked):
        raise truncated_error(found.where)
    if not looks_like_tar(first) or len(first) < BLOCK:
        raise BadArchive(
            f"{found.where} is no image archive: it does not begin as a tar does",
            hint="give a file that `docker save -o FILE IMAGE` wrote, or an OCI image layout in a tar",
        )
    for member in members(flow):
        found.add(flow, member)
    return found.image(wanted)


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
        self,
        where: str,
        hashing: HashSource | None,
        size: int | None = None,
        look: FileCallback | None = None,
    ) -> None:
        self.where, self._hashing, self._size, self._look_at = where, hashing, size, look
        # headers stand far apart where contents are skipped: a large window would read what nobody asks for
        self.window = CHUNK if size is None else WINDOW_BYTES
        self._budget = ResourceLimits()
        self._json_bytes = 0
        self._texts: dict[str, bytes] = {}
        self._layers: dict[str, _Files] = {}
        self._links: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._digests: dict[str, Callable[[], str]] = {}

    def add(self, flow: BufferedSource, member: Member) -> None:
        """Look at one member, and go past it."""
        if self._size is not None and member.stored_bytes > self._size - flow.position:
            raise truncated_error(self.where)
        name = path_below_root(member.name, self.where)
        part = LimitedSource(flow, member.stored_bytes)
        if member.kind in ("file", "link", "hard link"):
            self._budget.take_path(name, self.where)
            # the last one of a name counts
            for held in (self._texts, self._layers, self._links, self._sizes, self._digests):
                held.pop(name, None)
        if member.kind in ("link", "hard link"):
            # a hard link's target begins at the root of the archive
            self._links[name] = member.target if member.kind == "link" else f"/{member.target}"
        elif member.kind == "file":
            self._sizes[name] = member.stored_bytes
            self._look(flow, part, name)
        part.finish()

    def _look(self, flow: BufferedSource, part: LimitedSource, name: str) -> None:
        """Find out what a file is by its contents, as engines do: a media type or a name may be wrong."""
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
                raise unsafe_error(
                    self.where, f"it has more than {MAX_TOTAL_JSON_BYTES >> 20} MiB of descriptions"
                )
            self._texts[name] = b"".join(iter(lambda: source.read(MAX_JSON_BYTES), b""))
        source.skip(size)

    def _layer(self, source: Source, where: str, packed: str | None) -> _Files:
        diff_id: Callable[[], str] | None = None
        try:
            if packed:
                source = Unpacked(source, where, packed)
                if self._hashing:
                    total = hashlib.sha256()
                    source, diff_id = Hashed(source, total), total.hexdigest
            flow = BufferedSource(source, where, CHUNK if packed else self.window)
            files = _files(flow, where, self._look_at, self._budget)
            # what stands after the end of the tar belongs to the digest
            source.skip(MAX_LAYER_BYTES)
        except BadArchive as error:
            # perhaps no layer at all: it matters only if the image says that it is one
            return _Files(problem=error)
        files.diff_id = f"sha256:{diff_id()}" if diff_id else ""
        return files

    def _digest(self, name: str) -> str | None:
        """The digest of what the archive holds under that name; None where nobody asked for it."""
        return f"sha256:{self._digests[name]()}" if name in self._digests else None

    # --- what `manifests` asks

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, or a link to one."""
        try:
            return self._follow(name) in self._sizes
        except BadArchive:
            return True  # reading it says why not

    def text(self, name: str) -> Any:
        """The JSON of a file."""
        found = self._follow(name)
        if found not in self._texts:
            raise damaged_error(self.where, f"{short(name)} is listed and not there, or is no JSON")
        try:
            return json.loads(self._texts[found])
        except (ValueError, RecursionError):
            raise damaged_error(self.where, f"{short(name)} is no JSON") from None

    def check(self, blob: Blob) -> None:
        """Compare a blob with the size that a descriptor gives, and with the digest that it is named for."""
        name = self._follow(blob.name)
        size = self._sizes.get(name)
        if size is not None and blob.size not in (None, size):
            raise damaged_error(
                self.where,
                f"the blob {short(name)} should have {blob.size} bytes; it has {size}: a size lies",
            )
        named, found = _digest_in(name), self._digest(name)
        if named and found and named != found:
            raise damaged_error(self.where, f"the blob {named} has the digest {found}")

    def _follow(self, name: str) -> str:
        """Where a name leads: old engines save a layer that occurs twice as a link."""
        return resolve_links(name, self._links, self._budget, self.where)

    # --- putting it together

    def image(self, wanted: _ImageSelector) -> ImageStack:
        """The image that is asked for."""
        if not self.has("manifest.json") and not self.has("index.json"):
            raise BadArchive(
                f"{self.where} is a tar, but no image archive: it has neither manifest.json nor index.json",
                hint="`docker export` writes a container's files, not an image: use `docker save`; where it was an "
                "image archive, it may have been cut short",
            )
        choice = manifests.select_image(self, wanted.ref, wanted.platform, wanted.default)
        image = choice.image
        assert image.config is not None  # else the choice raises
        self.check(image.config)
        config = mapping(self.text(image.config.name), self.where)
        root = mapping(config.get("rootfs") or {}, self.where)
        diff_ids = [str(one) for one in sequence(root.get("diff_ids"), self.where)]
        if len(diff_ids) != len(image.layers):
            lists = f"{len(image.layers)} layers, its configuration {len(diff_ids)}"
            raise damaged_error(self.where, f"its manifest lists {lists}")
        found = [self._found(*pair) for pair in zip(image.layers, diff_ids, strict=True)]
        digests = [_digest_in(self._follow(layer.name)) for layer in image.layers]
        name = choice.name if choice.name.isprintable() else printable_name(choice.name)
        built = stack(name, found, diff_ids, digests, _instructions(config, len(found)))
        return replace(
            built,
            platform=image.platform,
            other_platforms=tuple(one for one in choice.platforms if one != image.platform),
            absent_platforms=choice.absent,
            skipped=choice.skipped,
        )

    def _found(self, layer: Blob, diff_id: str) -> _Files:
        self.check(layer)
        name = self._follow(layer.name)
        files = self._layers.get(name)
        if files is None:
            raise damaged_error(self.where, f"{short(name)}, which it lists as a layer, is no tar")
        if files.problem:
            raise files.problem
        unpacked = files.diff_id or self._digest(name)
        if unpacked and unpacked != diff_id:
            raise damaged_error(
                self.where, f"the layer {short(name)} should have the diff id {diff_id}; it has {unpacked}"
            )
        return files


def stack(
    name: str,
    files: Sequence[_Files],
    diff_ids: Sequence[str],
    digests: Sequence[str | None],
    instructions: Sequence[str],
) -> ImageStack:
    """Put the layers on one another, and count what that adds, changes, hides and wastes."""
    merged = trees.MergedTree()
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


def _files(flow: BufferedSource, where: str, look: FileCallback | None, budget: ResourceLimits) -> _Files:
    found, tree = _Files(), LayerTree(where, budget)
    for member in members(flow):
        path = tree.add(member)
        part = LimitedSource(flow, member.stored_bytes)
        found.seen.pop(path, None)
        if look and path and member.kind == "file" and (kept := look(path, part)) is not None:
            found.seen[path] = kept
        part.finish()
        found.total_bytes += member.bytes
    found.entries, found.opaque = tree.entries, list(tree.opaque)
    return found


def _instructions(config: Mapping[str, Any], count: int) -> list[str]:
    """What made each layer, from the history (OCI image-spec, config.md); history may be missing."""
    history = config.get("history")
    made = [
        # JSON may hold half of a character, which no font and no terminal can show
        re.sub(r"[\ud800-\udfff]", "?", _instruction(str(step.get("created_by") or UNKNOWN)))
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
