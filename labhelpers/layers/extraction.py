"""What unpacking a layer would do: where each entry lands, what it replaces, and whether it stays inside.

An entry is judged by where it would be written, never by its look: a link that nothing follows is harmless
wherever it points. Paths resolve as in an engine, which unpacks a layer with the layer's directory as its root
(moby, pkg/archive, Unpack and createTarFile; containerd, pkg/archive, applyNaive).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from labhelpers.layers import trees
from labhelpers.layers.tarstream import Member, damaged_error, printable_name, unsafe_error
from labhelpers.layers.trees import IMPLIED_DIRECTORY, Entry

# containerd, continuity/fs.RootPath; the kernel gives up after 40
MAX_LINKS = 255


@dataclass(slots=True)
class ResourceLimits:
    """What one archive may cost, all of its layers together; no image comes near it.

    Attributes:
        entries: files and directories, those that a path only implies included.
        characters: of all their paths.
        steps: names looked up to find out where links lead.
    """

    entries: int = 5_000_000
    characters: int = 1 << 28
    steps: int = 30_000_000

    def take_path(self, path: str, where: str) -> None:
        """Count a path that is kept."""
        self.entries -= 1
        self.characters -= len(path)
        if self.entries < 0:
            raise unsafe_error(where, "it has millions of files, more than any image")
        if self.characters < 0:
            raise unsafe_error(where, "the paths in it take hundreds of megabytes, more than in any image")

    def take_step(self, where: str) -> None:
        """Count a name that is looked up."""
        self.steps -= 1
        if self.steps < 0:
            raise unsafe_error(where, "the links in it are made so that following them never ends")


def path_below_root(name: str, where: str) -> str:
    """`name` as a path below the root of the archive, without slashes around it; empty for the root.

    Raises:
        BadArchive: it leads out of the root.
    """
    if not name.startswith(("/", ".")) and "//" not in name and "/." not in name:
        return name.rstrip("/")
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise unsafe_error(where, f"a path in it climbs out of it: {printable_name(name)}")
    return "" if path == "." else path


def resolve_links(path: str, links: Mapping[str, str], budget: ResourceLimits, where: str) -> str:
    """Where `path` leads if every link in it is followed; an absolute target begins at the archive's root.

    Args:
        links: path of a symbolic link → its target.

    Raises:
        BadArchive: it leads out of the root, or through links that lead in a loop.
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
                    f"{printable_name(path)} climbs out of it through the link {printable_name(trail[-1])}",
                )
            here = trees.parent(here)
            continue
        here = f"{here}/{part}" if here else part
        target = links.get(here)
        if target is not None:
            trail.append(here)
            if len(trail) > MAX_LINKS:
                ring = trail[: trail.index(trail[0], 1) + 1] if trail[0] in trail[1:] else trail[:3]
                raise damaged_error(
                    where, f"links in it lead in a loop: {' → '.join(map(printable_name, ring))}"
                )
            here = "" if target.startswith("/") else trees.parent(here)
            todo += target.split("/")[::-1]
    return here


class LayerTree:
    """The files of one layer as an engine would unpack them: a later entry replaces an earlier one.

    Attributes:
        entries: path → what is there. Every directory above a path is in it, and no path leads through a link.
        opaque: the directories with an opaque marker.

    Args:
        where: what the layer is called in messages.
        budget: of the archive.
    """

    def __init__(self, where: str, budget: ResourceLimits) -> None:
        self.entries: dict[str, Entry] = {}
        self.opaque: dict[str, None] = {}
        self._where, self._budget = where, budget
        self._links: dict[str, str] = {}
        # directory → what is in it; only built once a directory is replaced, which hardly any layer does
        self._inside: dict[str, set[str]] | None = None

    def add(self, member: Member) -> str:
        """Add an entry; the path where it lands, empty for the root.

        Raises:
            BadArchive: unpacking it would write outside of the layer or remove what is above it, or no engine
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
            # a hard link to a symbolic link is that link
            target = self._links.get(self._hard_link(path, target), "")
        self._replace(path, Entry(member.bytes, member.kind))
        if target:
            self._links[path] = target
        return path

    def _directory(self, path: str, below: str) -> str:
        """The directory that `path` leads to; directories without an entry of their own are implied."""
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
        found = f"{above}/{name}" if above else name
        if found == path or found not in self.entries or self._is_directory(found):
            what = "a directory" if self._is_directory(found) else "not in the layer"
            raise damaged_error(
                self._where,
                f"the hard link {printable_name(path)} leads to {printable_name(target)}, which is {what}",
            )
        return found

    def _replace(self, path: str, entry: Entry) -> None:
        if path in self.entries and self._is_directory(path) and entry.kind != "directory":
            self._clear(path)
        self._links.pop(path, None)
        self._put(path, entry)

    def _put(self, path: str, entry: Entry) -> None:
        if path not in self.entries:
            self._budget.take_path(path, self._where)
            if self._inside is not None:
                self._inside.setdefault(trees.parent(path), set()).add(path)
        self.entries[path] = entry

    def _clear(self, path: str) -> None:
        """Remove all that is below a directory."""
        if self._inside is None:
            self._inside = {}
            for one in self.entries:
                self._inside.setdefault(trees.parent(one), set()).add(one)
        todo = [path]
        while todo:
            for one in self._inside.pop(todo.pop(), ()):
                del self.entries[one]
                self._links.pop(one, None)
                todo.append(one)
