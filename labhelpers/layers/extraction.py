"""A dry run of unpacking a layer: where each entry is written, what it replaces, and whether it escapes the root.

The check is on the path to which an entry would be written: a link that nothing follows is harmless whatever its
target. Paths resolve as in an engine, which unpacks a layer with its directory as root (moby, pkg/archive, Unpack
and createTarFile; containerd, pkg/archive, applyNaive).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from labhelpers.layers import trees
from labhelpers.layers.archive_errors import damaged_error, printable_name, unsafe_error
from labhelpers.layers.tarstream import Member
from labhelpers.layers.trees import IMPLIED_DIRECTORY, Entry

# containerd, continuity/fs.RootPath; the kernel gives up after 40
MAX_LINKS = 255


@dataclass(slots=True)
class ResourceLimits:
    """Limits for one archive with all of its layers, far above what a regular image needs.

    Attributes:
        entries: number of files and directories, implied directories included.
        characters: total length of their paths.
        steps: number of names looked up to resolve links.
    """

    entries: int = 5_000_000
    characters: int = 1 << 28
    steps: int = 30_000_000

    def take_path(self, path: str, where: str) -> None:
        """Count a path that is stored."""
        self.entries -= 1
        self.characters -= len(path)
        if self.entries < 0:
            raise unsafe_error(where, "it has millions of files, more than any regular image")
        if self.characters < 0:
            raise unsafe_error(where, "its paths take hundreds of megabytes, more than in any regular image")

    def take_step(self, where: str) -> None:
        """Count a name that is looked up."""
        self.steps -= 1
        if self.steps < 0:
            raise unsafe_error(where, "its links take too many steps to resolve")


def path_below_root(name: str, where: str) -> str:
    """`name` as a path below the root of the archive, without leading or trailing slashes; empty for the root.

    Raises:
        BadArchive: the path escapes the root.
    """
    if not name.startswith(("/", ".")) and "//" not in name and "/." not in name:
        return name.rstrip("/")
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise unsafe_error(where, f"the path {printable_name(name)} escapes the root")
    return "" if path == "." else path


def resolve_links(path: str, links: Mapping[str, str], budget: ResourceLimits, where: str) -> str:
    """Resolve all links in `path`; an absolute target starts at the root of the archive.

    Args:
        links: path of a symbolic link → its target.

    Raises:
        BadArchive: the path escapes the root, or its links form a loop.
    """
    here, todo, trail = "", path.split("/")[::-1], list[str]()
    while todo:
        part = todo.pop()
        budget.take_step(where)
        if part in ("", "."):
            continue
        if part == "..":
            if not here:
                raise unsafe_error(
                    where,
                    f"{printable_name(path)} escapes the root through the link {printable_name(trail[-1])}",
                )
            here = trees.parent(here)
            continue
        here = f"{here}/{part}" if here else part
        target = links.get(here)
        if target is not None:
            trail.append(here)
            if len(trail) > MAX_LINKS:
                loop = trail[: trail.index(trail[0], 1) + 1] if trail[0] in trail[1:] else trail[:3]
                raise damaged_error(where, f"its links form a loop: {' → '.join(map(printable_name, loop))}")
            here = "" if target.startswith("/") else trees.parent(here)
            todo += target.split("/")[::-1]
    return here


class LayerTree:
    """The files of one layer as an engine would unpack them: a later entry replaces an earlier one.

    Attributes:
        entries: path → entry, with every parent directory; no path contains a link.
        opaque: the directories with an opaque marker.

    Args:
        where: name of the layer in messages.
        budget: limits of the archive.
    """

    def __init__(self, where: str, budget: ResourceLimits) -> None:
        self.entries: dict[str, Entry] = {}
        self.opaque: dict[str, None] = {}
        self._where, self._budget = where, budget
        self._links: dict[str, str] = {}
        # directory → its entries; built only when a directory is replaced, which is rare
        self._children: dict[str, set[str]] | None = None

    def add(self, member: Member) -> str:
        """Add an entry, and return the path to which it is written; empty for the root.

        Raises:
            BadArchive: the entry would be written outside of the layer or remove its own directory, or no engine
                could unpack it.
        """
        path = path_below_root(member.name, self._where)
        above, _, name = path.rpartition("/")
        if name == trees.OPAQUE:
            self.opaque[resolve_links(above, self._links, self._budget, self._where)] = None
        if not path or name.startswith(trees.RESERVED):
            return path
        if name.startswith(trees.WHITEOUT) and name[len(trees.WHITEOUT) :] in ("", ".", ".."):
            raise unsafe_error(
                self._where, f"the whiteout {printable_name(path)} would remove its own directory"
            )
        above = self._directory(above, path)
        path = f"{above}/{name}" if above else name
        target = member.target
        if member.kind == "hard link":
            # a hard link to a symbolic link is the symbolic link itself
            target = self._links.get(self._hard_link(path, target), "")
        self._replace(path, Entry(member.bytes, member.kind))
        if target:
            self._links[path] = target
        return path

    def _directory(self, path: str, below: str) -> str:
        """The directory to which `path` resolves; missing entries for directories are implied."""
        if not path or self._is_directory(path):
            return path
        path = resolve_links(path, self._links, self._budget, self._where)
        missing = list[str]()
        above = path
        while above and above not in self.entries:
            missing.append(above)
            above = trees.parent(above)
        if above and not self._is_directory(above):
            kind = self.entries[above].kind
            raise damaged_error(
                self._where, f"{printable_name(below)} is below {printable_name(above)}, which is a {kind}"
            )
        for implied in reversed(missing):
            self._put(implied, IMPLIED_DIRECTORY)
        return path

    def _is_directory(self, path: str) -> bool:
        entry = self.entries.get(path)
        return entry is not None and entry.kind in ("directory", "")

    def _hard_link(self, path: str, target: str) -> str:
        above, _, name = path_below_root(target, self._where).rpartition("/")
        above = resolve_links(above, self._links, self._budget, self._where)
        resolved = f"{above}/{name}" if above else name
        if resolved == path or resolved not in self.entries or self._is_directory(resolved):
            what = "a directory" if self._is_directory(resolved) else "not in the layer"
            raise damaged_error(
                self._where,
                f"the target of the hard link {printable_name(path)} is {printable_name(target)}, which is {what}",
            )
        return resolved

    def _replace(self, path: str, entry: Entry) -> None:
        if path in self.entries and self._is_directory(path) and entry.kind != "directory":
            self._clear(path)
        self._links.pop(path, None)
        self._put(path, entry)

    def _put(self, path: str, entry: Entry) -> None:
        if path not in self.entries:
            self._budget.take_path(path, self._where)
            if self._children is not None:
                self._children.setdefault(trees.parent(path), set()).add(path)
        self.entries[path] = entry

    def _clear(self, path: str) -> None:
        """Remove everything below a directory."""
        if self._children is None:
            self._children = {}
            for entry in self.entries:
                self._children.setdefault(trees.parent(entry), set()).add(entry)
        todo = [path]
        while todo:
            for child in self._children.pop(todo.pop(), ()):
                del self.entries[child]
                self._links.pop(child, None)
                todo.append(child)
