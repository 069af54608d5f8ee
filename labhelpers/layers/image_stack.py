"""The layers of an image, in order: what each adds, changes and hides, and how well they use their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from labhelpers.errors import BadArchive
from labhelpers.layers import trees
from labhelpers.layers.trees import Entries, Entry, Waste
from labhelpers.results import Result, column, record, rows


@record
class Layer:
    """One layer of an image."""

    number: int = column("position in the stack, 0 for the lowest layer")
    instruction: str = column("Dockerfile instruction that created the layer, from the history of the image")
    bytes: int = column("total size of the files in the layer")
    files_added: int = column("files that no lower layer shows")
    files_changed: int = column("files that a lower layer shows too, rewritten here with any content")
    files_removed: int = column("files of lower layers that are hidden by this layer")
    digest: str | None = column(
        "SHA-256 of the blob in the registry or the archive, if the source records it"
    )
    diff_id: str = column("SHA-256 of the uncompressed layer (OCI image-spec, config.md)")
    entries: Entries = column(
        "path → entry, with whiteouts under their own names", shown=False, repr=False, compare=False
    )
    opaque: tuple[str, ...] = column(
        "directories that hide the contents of the same directory in lower layers",
        shown=False,
        repr=False,
        compare=False,
    )
    file_results: Mapping[str, Any] = column(
        "path → what the file callback returned for the file; empty without a callback",
        shown=False,
        repr=False,
        compare=False,
    )


@record
class ImageStack(Result):
    """Layers of an image, from the lowest to the highest."""

    name: str = column("name of the image")
    layers: tuple[Layer, ...] = rows("from the lowest to the highest", of=Layer)
    efficiency: float = column("share of the stored bytes that is needed, 0 to 1 (see `trees.efficiency`)")
    wasted_files: tuple[Waste, ...] = column(
        "paths that are stored more than once, largest first", shown=False
    )
    platform: str | None = column("platform of the image, such as `linux/amd64`, if recorded", default=None)
    other_platforms: tuple[str, ...] = column(
        "other platforms that the archive contains, for `archive(…, platform=)`", default=()
    )
    missing_platforms: tuple[str, ...] = column(
        "platforms that the archive lists but does not contain in full", default=()
    )
    skipped: tuple[str, ...] = column(
        "types of listed artifacts that are not images, such as charts and signatures", default=()
    )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the archive contains besides these layers, a line each; empty for an image of one platform."""
        lines = []
        if self.other_platforms or self.missing_platforms:
            lines.append(f"these are the layers for {self.platform}")
        if self.other_platforms:
            lines.append(f"also in the archive: {', '.join(self.other_platforms)}")
        if self.missing_platforms:
            lines.append(f"listed, but incomplete: {', '.join(self.missing_platforms)}")
        if self.skipped:
            lines.append(f"not images, so skipped: {', '.join(self.skipped)}")
        return tuple(lines)

    def _repr_html_(self) -> str:
        return Result._repr_html_(self) + "<br>".join(escape(line) for line in self.notes)

    @property
    def bytes(self) -> int:
        """Total size of the files in all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def wasted_bytes(self) -> int:
        """Total size of all copies of the wasted files, the copy in use included, as dive counts it."""
        return sum(waste.bytes for waste in self.wasted_files)

    @property
    def union(self) -> Union:
        """The files that a container sees, each with its layer."""
        merged = trees.MergedTree()
        for layer in self.layers:
            merged.apply(layer.number, layer.entries, layer.opaque)
        files = (
            Origin(f"/{path}", merged.layer_of[path], entry.bytes)
            for path, entry in sorted(merged.entries.items())
            if entry.kind not in ("directory", "")
        )
        return Union(self, tuple(files))


@record
class Origin:
    """A file that a container sees."""

    path: str = column("path in the container")
    layer: int = column("number of the layer that the file comes from, 0 for the lowest")
    bytes: int = column("size of the file")


@record
class Union(Result):
    """Files in the merged view of an image (without directories), each with the layer that it comes from."""

    stack: ImageStack = column("the image", shown=False)
    files: tuple[Origin, ...] = rows("the files, sorted by path", of=Origin)


@dataclass(slots=True)
class LayerFiles:
    """The files of one layer as they are read.

    Attributes:
        file_results: path → what the file callback returned.
        total_bytes: the size of all members, duplicate paths included.
        diff_id: of the uncompressed layer; empty if it was not computed.
        problem: why the layer cannot be used.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    opaque: list[str] = field(default_factory=list)
    file_results: dict[str, Any] = field(default_factory=dict)
    total_bytes: int = 0
    diff_id: str = ""
    problem: BadArchive | None = None


def build_stack(name: str, layers: Iterable[tuple[LayerFiles, str, str | None, str]]) -> ImageStack:
    """Stack layers on one another, and count the files that each adds, changes, hides and wastes.

    Args:
        layers: files, diff ID, digest and instruction of each layer, from the lowest to the highest.
    """
    merged = trees.MergedTree()
    stacked = []
    for number, (files, diff_id, digest, instruction) in enumerate(layers):
        added, changed, removed = merged.apply(number, files.entries, files.opaque)
        stacked.append(
            Layer(
                number=number,
                instruction=instruction,
                bytes=files.total_bytes,
                files_added=added,
                files_changed=changed,
                files_removed=removed,
                digest=digest,
                diff_id=diff_id,
                entries=files.entries,
                opaque=tuple(files.opaque),
                file_results=files.file_results,
            )
        )
    score, wasted = trees.efficiency([layer.entries for layer in stacked])
    return ImageStack(name, tuple(stacked), score, wasted)
