"""The files of image layers: what one layer holds, what the stack of them shows, and what of it is wasted.

A layer's files are a flat table, path → `Entry`, parents included: small, and quick to walk.
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
        bytes: the size of a file, 0 for what has no content.
        kind: as in `tarstream.Member`; empty for a directory that the layer only implies.
    """

    bytes: int
    kind: str


IMPLIED_DIRECTORY = Entry(0, "")
Entries = Mapping[str, Entry]


def parent(path: str) -> str:
    """The path of the directory; empty for the root."""
    return path.rpartition("/")[0]


def leaves(entries: Entries) -> Iterator[str]:
    """The paths that have nothing below them in this layer, as a walk by name meets them."""
    inner = {parent(path) for path in entries}
    yield from sorted((path for path in entries if path not in inner), key=_by_name)


def whited_out(path: str) -> str | None:
    """The path that a whiteout hides; None if `path` is none."""
    above, slash, name = path.rpartition("/")
    return above + slash + name.removeprefix(WHITEOUT) if name.startswith(WHITEOUT) else None


def _is_directory(entry: Entry) -> bool:
    return entry.kind in ("directory", "")


def _by_name(path: str) -> str:
    # as if split at each slash: no name has a zero byte
    return path.replace("/", "\0")


# --- the union


@dataclass(slots=True)
class MergedTree:
    """What a stack of layers shows, as OCI image-spec (layer.md, "Applying Changesets") builds it up.

    Attributes:
        entries: path → entry of what can be seen.
        layer_of: path → number of the layer that it comes from, the lowest is 0.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    layer_of: dict[str, int] = field(default_factory=dict)
    _below: dict[str, set[str]] = field(default_factory=dict)

    def apply(self, number: int, entries: Entries, opaque: Sequence[str] = ()) -> tuple[int, int, int]:
        """Put a layer on top; how many files (all but directories) it added, changed and removed."""
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
                # a file over a directory hides all that was in it
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
        gone = self._clear(path)
        del self.layer_of[path]
        self._below[parent(path)].discard(path)
        return gone + (not _is_directory(entry))

    def _clear(self, path: str, keep: Entries | None = None) -> int:
        """Remove all below `path`; how many files that were."""
        gone, open_ = 0, list(self._below.get(path, ()))
        while open_:
            one = open_.pop()
            if keep and one in keep:
                continue
            open_ += self._below.pop(one, ())
            gone += not _is_directory(self.entries.pop(one))
            del self.layer_of[one]
            self._below.get(parent(one), set()).discard(one)
        return gone


# --- waste, as dive counts it


@record
class Waste:
    """How often a path is stored, and what all its copies take together."""

    path: str = column("with a leading slash")
    count: int = column("in how many layers it is, whiteouts included")
    bytes: int = column(
        "of all its copies, the one in use included; a whiteout counts what it hides if that was a "
        "directory, else nothing"
    )


def efficiency(layers: Sequence[Entries]) -> tuple[float, tuple[Waste, ...]]:
    """The score (0 to 1) and the wasted paths, largest first, exactly as dive 0.13 counts them.

    Over all paths that are leaves of some layer: the smallest size at which the path was met, divided by the
    sum of all its sizes. A path met twice or more is wasted. A whiteout counts as its path, met once more: with
    size 0 if it hides a file, with the size of all below if it hides a directory. Opaque markers are not seen.
    Only directories with nothing in them are leaves; what a link leads to does not matter; a hard link has the
    size that its header says, mostly 0.

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
                # dive gives the rest of such a layer up, and keeps the -1: its score is then too low
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
    """The stack of the layers so far as dive builds it, which is not quite what an engine shows.

    Opaque markers are ignored, a file over a directory keeps what was in it, and the lowest layer's own
    whiteouts are taken for files.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._below: dict[str, set[str]] = {}

    def hidden_bytes(self, path: str, number: int, entries: Entries) -> int | None:
        """What a whiteout of `path` hides; None where there is no such path."""
        if number == 0:
            # dive looks into the lowest layer itself
            self._copy(entries)
        found = self._entries.get(path)
        if path and found is None:
            return None
        if found is None or found.kind != "directory":
            return 0
        total, open_ = 0, [path]
        while open_:
            one = open_.pop()
            total += self._entries[one].bytes
            open_ += self._below.get(one, ())
        return total

    def put(self, entries: Entries) -> None:
        if not self._entries:
            self._copy(entries)
        for path, entry in entries.items():
            if whited_out(path) is None:
                self._add(path, entry)
        for path in entries:
            hidden = whited_out(path)
            # siblings go by name: what sorts before its own whiteout is removed again
            if hidden is not None:
                self._remove(hidden, keep={} if hidden < path else entries)

    def _copy(self, entries: Entries) -> None:
        for path, entry in entries.items():
            self._add(path, entry)

    def _add(self, path: str, entry: Entry) -> None:
        self._entries[path] = entry
        self._below.setdefault(parent(path), set()).add(path)

    def _remove(self, path: str, keep: Entries) -> None:
        open_ = [path]
        while open_:
            one = open_.pop()
            open_ += self._below.get(one, ())
            if one not in keep and one in self._entries:
                del self._entries[one]
                self._below.get(parent(one), set()).discard(one)
