"""The files of image layers: the entries of a layer, the merged view of a stack, and wasted space.

The entries of a layer are a flat table, path → `Entry`, parent directories included: small, and fast to iterate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from labhelpers.results import column, record

# OCI image-spec, layer.md, "Whiteouts"
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
RESERVED = ".wh..wh."


class Entry(NamedTuple):
    """A path of a layer.

    Attributes:
        bytes: size of a file; 0 for an entry without contents.
        kind: as in `tarstream.Member`; empty for an implied directory, which has no entry of its own.
    """

    bytes: int
    kind: str


IMPLIED_DIRECTORY = Entry(0, "")
Entries = Mapping[str, Entry]


def parent(path: str) -> str:
    """The path of the directory; empty for the root."""
    return path.rpartition("/")[0]


def leaves(entries: Entries) -> Iterator[str]:
    """The paths without an entry below them in this layer, in the order of a walk sorted by name."""
    inner = {parent(path) for path in entries}
    yield from sorted((path for path in entries if path not in inner), key=_by_name)


def whited_out(path: str) -> str | None:
    """The path that a whiteout hides; None if `path` is not a whiteout."""
    above, slash, name = path.rpartition("/")
    return above + slash + name.removeprefix(WHITEOUT) if name.startswith(WHITEOUT) else None


def _is_directory(entry: Entry) -> bool:
    return entry.kind in ("directory", "")


def _by_name(path: str) -> str:
    # sorts like a list of names, as no name contains a NUL byte
    return path.replace("/", "\0")


# --- the union


@dataclass(slots=True)
class MergedTree:
    """The merged view of a stack of layers (OCI image-spec, layer.md, "Applying Changesets").

    Attributes:
        entries: path → visible entry.
        layer_of: path → number of the layer that it comes from, 0 for the lowest.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    layer_of: dict[str, int] = field(default_factory=dict)
    _below: dict[str, set[str]] = field(default_factory=dict)

    def apply(self, number: int, entries: Entries, opaque: Sequence[str] = ()) -> tuple[int, int, int]:
        """Add a layer on top, and return how many files (not directories) it added, changed and removed."""
        removed = sum(self._clear(path) for path in opaque)
        hidden = [path for path in map(whited_out, entries) if path]
        removed += sum(self._remove(path) for path in hidden)
        added = changed = 0
        for path, entry in entries.items():
            if whited_out(path):
                continue
            before = self.entries.get(path)
            if _is_directory(entry):
                removed += before is not None and not _is_directory(before)
            else:
                # a file in place of a directory hides the contents of the directory
                removed += self._clear(path, keep=entries)
                changed += before is not None
                added += before is None
            self._put(path, entry, number)
        return added, changed, removed

    def _put(self, path: str, entry: Entry, number: int) -> None:
        before = self.entries.get(path)
        if entry is IMPLIED_DIRECTORY and before is not None and _is_directory(before):
            return
        self.entries[path], self.layer_of[path] = entry, number
        self._below.setdefault(parent(path), set()).add(path)

    def _remove(self, path: str) -> int:
        entry = self.entries.pop(path, None)
        if entry is None:
            return 0
        removed = self._clear(path)
        del self.layer_of[path]
        self._below[parent(path)].discard(path)
        return removed + (not _is_directory(entry))

    def _clear(self, path: str, keep: Entries | None = None) -> int:
        """Remove everything below `path`, and return the number of files."""
        removed, todo = 0, list(self._below.get(path, ()))
        while todo:
            child = todo.pop()
            if keep and child in keep:
                continue
            todo += self._below.pop(child, ())
            removed += not _is_directory(self.entries.pop(child))
            del self.layer_of[child]
            self._below.get(parent(child), set()).discard(child)
        return removed


# --- waste, as dive counts it


@record
class Waste:
    """A path that is stored in several layers."""

    path: str = column("path in the container")
    count: int = column("number of layers with the path, whiteouts included")
    bytes: int = column(
        "total size of all copies, the one in use included; the whiteout of a directory counts as the size of the "
        "directory, the whiteout of a file as 0"
    )


def efficiency(layers: Sequence[Entries]) -> tuple[float, tuple[Waste, ...]]:
    """The score (0 to 1) and the wasted paths, largest first, exactly as dive 0.13 computes them.

    The score is the sum of the smallest size of each path, divided by the sum of all its sizes, over all paths that
    are leaves of some layer. A path that occurs twice or more is wasted. A whiteout counts as another occurrence of
    its path: with size 0 if it hides a file, with the total size below if it hides a directory. Opaque markers are
    ignored. A directory is a leaf only if it is empty; the target of a link does not matter; the size of a hard link
    is that in its header, usually 0.

    Source: wagoodman/dive, dive/filetree/efficiency.go and file_tree.go.
    """
    sizes: dict[str, int] = {}
    smallest: dict[str, int] = {}
    counts: dict[str, int] = {}
    stack = _DiveStack()
    for number, entries in enumerate(layers):
        for path in leaves(entries):
            hidden = whited_out(path)
            name = path if hidden is None else hidden
            sizes.setdefault(name, 0)
            counts.setdefault(name, 0)
            smallest.setdefault(name, -1)
            size = entries[path].bytes if hidden is None else stack.hidden_bytes(hidden, number, entries)
            if size is None:
                # dive skips the rest of such a layer and keeps the -1, which makes its score too low
                break
            sizes[name] += size
            counts[name] += 1
            smallest[name] = size if smallest[name] < 0 else min(smallest[name], size)
        stack.put(entries)
    total = sum(sizes.values())
    wasted = [Waste(f"/{path}", count, sizes[path]) for path, count in counts.items() if count > 1]
    return (
        sum(smallest.values()) / total if total else 1.0,
        tuple(sorted(wasted, key=lambda waste: (-waste.bytes, waste.path))),
    )


class _DiveStack:
    """The merged view of the layers so far as dive computes it, which differs from that of an engine.

    Opaque markers are ignored, a file in place of a directory does not hide the contents of the directory, and the
    whiteouts of the lowest layer are treated as files.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._below: dict[str, set[str]] = {}

    def hidden_bytes(self, path: str, number: int, entries: Entries) -> int | None:
        """The size that a whiteout of `path` hides; None if there is no such path."""
        if number == 0:
            # for the lowest layer, dive searches the layer itself
            self._copy(entries)
        entry = self._entries.get(path)
        if path and entry is None:
            return None
        if entry is None or entry.kind != "directory":
            return 0
        total, todo = 0, [path]
        while todo:
            child = todo.pop()
            total += self._entries[child].bytes
            todo += self._below.get(child, ())
        return total

    def put(self, entries: Entries) -> None:
        if not self._entries:
            self._copy(entries)
        for path, entry in entries.items():
            if whited_out(path) is None:
                self._add(path, entry)
        for path in entries:
            hidden = whited_out(path)
            # siblings are processed by name: an entry that sorts before its own whiteout is removed again
            if hidden is not None:
                self._remove(hidden, keep={} if hidden < path else entries)

    def _copy(self, entries: Entries) -> None:
        for path, entry in entries.items():
            self._add(path, entry)

    def _add(self, path: str, entry: Entry) -> None:
        self._entries[path] = entry
        self._below.setdefault(parent(path), set()).add(path)

    def _remove(self, path: str, keep: Entries) -> None:
        todo = [path]
        while todo:
            child = todo.pop()
            todo += self._below.get(child, ())
            if child not in keep and child in self._entries:
                del self._entries[child]
                self._below.get(parent(child), set()).discard(child)
