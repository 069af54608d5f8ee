"""The directories behind a container's root: lower, upper, work and merged, and what a write does to them.

Where they are is read from the mount table of the container's own process, which is the same on every image
store; what is in them, through the view of the engine's host.

Source of what overlay does: kernel, Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd
from docker.errors import NotFound

from labhelpers.engine.host import Entry
from labhelpers.errors import BadInput, LabError
from labhelpers.lab.base import name_of
from labhelpers.layers.tarstream import BufferedSource, Chunks, members
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.host import HostView
    from labhelpers.lab import Lab

MAX_TEXT_BYTES = 200
MAX_CHANGES = 100_000


# --- the mount


@record
class Mounts(Result):
    """The directories that are mounted as one: a container's root.

    Paths are those of the engine's host.
    """

    container: str = column("its name")
    lower: tuple[str, ...] = column(
        "read-only, from the lowest layer of the image to the highest; the last one is the engine's own, "
        "with places for /etc/hosts and the like"
    )
    upper: str = column("the container's own layer, where every change goes")
    work: str = column("overlay's scratch directory: a file is made ready here and then moved into upper")
    merged: str = column("what the container sees as `/`")

    @property
    def image_layers(self) -> tuple[str, ...]:
        """The lower directories that are layers of the image.

        On containerd's store, an image that was built there has an empty one for each step that changed no file.
        """
        return self.lower[:-1]

    def frame(self) -> pd.DataFrame:
        """One row a directory, from the top: role, directory (the ends of long paths; the fields have all)."""
        rows = [("merged", self.merged), ("work", self.work), ("upper", self.upper)]
        rows += [(f"lower {number}", path) for number, path in reversed(list(enumerate(self.lower)))]
        return pd.DataFrame([(role, _end(path)) for role, path in rows], columns=["role", "directory"])

    def __repr__(self) -> str:
        return self.frame().to_string(index=False)


def _end(path: str) -> str:
    """The last two names of a path, long codes cut."""
    return "…/" + "/".join(name[:12] for name in path.split("/")[-2:])


def no_overlay_reason(lab: Lab, container: Container | str) -> str | None:
    """Why a running container's layers cannot be looked at here: a sentence for the page; None where they can.

    The mount table decides, not the storage driver's name: fuse-overlayfs has no directories in it, and vfs, btrfs and
    zfs have no overlay.

    Raises:
        LabError: the container is gone, or does not run.
    """
    root = next((one for one in lab.host.mounts(container) if one.point == "/"), None)
    if root is not None and root.upper is not None:
        return None
    driver = lab.engine.info.get("Driver") or "another storage driver"
    return (
        f"Not shown here: this engine stores layers with {driver}, so the root of a container is no overlay mount "
        "of the kernel. The next cells that need one are left out."
    )


def mounts(lab: Lab, container: Container | str) -> Mounts:
    """The directories behind the root of a running container.

    Raises:
        LabError: the container is gone, does not run, or its root is no overlay mount.
    """
    table = lab.host.mounts(container)
    root = next((one for one in table if one.point == "/"), None)
    if root is None or root.upper is None:
        raise LabError(
            f"the root of {name_of(container)} is no overlay mount: this engine's storage driver is "
            f"{lab.engine.info.get('Driver')}",
            hint="this part of the chapter needs overlay2, or containerd's overlayfs; go on with the next section",
        )
    base = ""
    if not root.upper.startswith("/"):
        # overlay2 shortens the paths when there are many: they are then relative to its directory
        base = posixpath.join(str(lab.engine.info["DockerRootDir"]), "overlay2")
    lower = [posixpath.join(base, one) for one in reversed(root.lower)]
    upper, work = (posixpath.join(base, root.settings[key]) for key in ("upperdir", "workdir"))
    # where the engine itself sees the same mount
    merged = next((one.point for one in lab.host.mounts() if one.upper == root.upper), "")
    return Mounts(name_of(container), tuple(lower), upper, work, merged)


# --- the same file through each


@record
class LayerEntry:
    """A path in one place."""

    place: str = column("`lower 0` (the lowest), …, `upper`, or `merged`")
    kind: str = column("file, directory, link, whiteout, other, or `nothing`")
    bytes: int = column("the size of a file")
    text: str = column("how a file begins")


@record
class PathInLayers(Result):
    """One path, seen in every directory of a container's root."""

    path: str = column("as the container says it")
    seen: tuple[LayerEntry, ...] = rows("from the lowest directory to the merged view", of=LayerEntry)

    def at(self, place: str) -> LayerEntry:
        """What is there."""
        return next(one for one in self.seen if one.place == place)

    @property
    def comes_from(self) -> str | None:
        """The directory that the container sees it from: the highest that has it; None where it sees nothing."""
        if self.at("merged").kind == "nothing":
            return None
        return next(one.place for one in reversed(self.seen[:-1]) if one.kind != "nothing")

    def frame(self) -> pd.DataFrame:
        """One row a place, from the top: place, kind, bytes, text."""
        rows = [(one.place, one.kind, one.bytes, one.text) for one in reversed(self.seen)]
        return pd.DataFrame(rows, columns=["place", "kind", "bytes", "text"])


def path_in_layers(lab: Lab, container: Container | str, path: str) -> PathInLayers:
    """The same path in each lower directory, in upper, and merged.

    Raises:
        BadInput: the path does not begin with a slash, or climbs out.
        LabError: the container is gone, or does not run.
    """
    return _through(lab, container, [path])[0]


def _through(lab: Lab, container: Container | str, paths: Sequence[str]) -> tuple[PathInLayers, ...]:
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise BadInput(f"{path!r} is no path in a container", hint="write it from the root: /etc/motd")
    found = mounts(lab, container)
    # links on the way lead from the merged view's root, whichever layer they lie in
    ways = [posixpath.split(path.rstrip("/")) for path in paths]
    names = [posixpath.join(lab.host.real_path(way, container), last).strip("/") for way, last in ways]
    places = {**{f"lower {number}": one for number, one in enumerate(found.lower)}, "upper": found.upper}
    rows = {place: _seen(lab.host, place, folder, names) for place, folder in places.items()}
    return tuple(
        PathInLayers(path, (*(row[name] for row in rows.values()), _merged_view(lab, found.container, path)))
        for path, name in zip(paths, names, strict=True)
    )


def _seen(host: HostView, place: str, folder: str, names: Sequence[str]) -> dict[str, LayerEntry]:
    found = {}
    for name, one in host.entries(folder, names).items():
        if one is None:
            found[name] = LayerEntry(place, "nothing", 0, "")
        elif (kind := _kind(one)) == "file":
            text = host.read(f"{folder}/{name}", begin_bytes=MAX_TEXT_BYTES)
            found[name] = LayerEntry(place, kind, one.size_bytes, text)
        else:
            found[name] = LayerEntry(place, kind, 0, "")
    return found


def _kind(one: Entry) -> str:
    if one.is_whiteout:
        return "whiteout"
    return one.kind if one.kind in ("file", "directory", "link") else "other"


def _merged_view(lab: Lab, name: str, path: str) -> LayerEntry:
    """What the container itself sees: the engine hands it out as `docker cp` does."""
    try:
        chunks, _ = lab.client.api.get_archive(name, path)
    except NotFound:
        return LayerEntry("merged", "nothing", 0, "")
    flow = BufferedSource(Chunks(chunks), path)
    first = next(members(flow))
    return LayerEntry(
        "merged",
        first.kind,
        first.bytes,
        flow.take(min(first.bytes, MAX_TEXT_BYTES)).decode(errors="replace"),
    )


# --- what a container changed


ChangeKind = Literal["added", "changed", "deleted", "replaced", "copied"]


@record
class Change:
    """A path of the upper directory."""

    path: str = column("as the container says it")
    what: ChangeKind = column(
        "`added`; `changed` (a lower layer has it too); `deleted` (a whiteout); `replaced` (a directory "
        "that hides what lower layers hold there: opaque); `copied` (copied up, and the same as below)"
    )
    kind: str = column("file, directory, link, whiteout or other")
    bytes: int = column("the size of a file in upper")


@record
class Changes(Result):
    """What a container has changed, read from its upper directory."""

    container: str = column("its name")
    found: tuple[Change, ...] = rows("every path of upper", of=Change)
    hidden: tuple[str, ...] = column("what its opaque directories hide and do not hold themselves")
    docker_diff: tuple[tuple[str, str], ...] = column(
        "the engine's own list: (letter, path), A added, C changed, D deleted", shown=False
    )

    @property
    def whiteouts(self) -> tuple[str, ...]:
        """The paths that a whiteout hides."""
        return tuple(change.path for change in self.found if change.what == "deleted")

    @property
    def opaque(self) -> tuple[str, ...]:
        """The directories that hide all that lower layers hold in them."""
        return tuple(change.path for change in self.found if change.what == "replaced")

    @property
    def bytes(self) -> int:
        """The sizes of all files of upper."""
        return sum(change.bytes for change in self.found)

    @property
    def as_docker_says_it(self) -> tuple[tuple[str, str], ...]:
        """The same in the engine's letters: an opaque directory is changed, and what it hides is deleted.

        What was copied up and is the same as below has no letter.
        """
        letters = {"added": "A", "changed": "C", "replaced": "C", "deleted": "D"}
        rows = [(letters[one.what], one.path) for one in self.found if one.what != "copied"]
        return tuple(sorted([*rows, *(("D", path) for path in self.hidden)], key=lambda row: row[1]))

    @property
    def docker_agrees(self) -> bool:
        """Whether `docker diff` says the same."""
        return self.as_docker_says_it == self.docker_diff

    def frame(self) -> pd.DataFrame:
        """One row a path: path, what, kind, bytes."""
        rows = [(change.path, change.what, change.kind, change.bytes) for change in self.found]
        return pd.DataFrame(rows, columns=["path", "what", "kind", "bytes"])


def changes(lab: Lab, container: Container | str) -> Changes:
    """What a running container has changed, from its upper directory and from `docker diff`.

    Raises:
        LabError: the container is gone, or does not run.
    """
    found = mounts(lab, container)
    upper = {one.path: one for one in lab.host.directory(found.upper, recursive=True, limit=MAX_CHANGES)}
    lower = _Lower(lab.host, found.lower)
    below = lower.shown(upper)
    hidden = _hidden(upper, lower)
    # a directory is touched by what has changed in it
    touched = {path for path, one in upper.items() if not _is_same(one, below[path])} | set(hidden)
    rows = [
        Change(
            f"/{path}",
            _what(one, below[path], path not in touched and not _any_below(path, touched)),
            _kind(one),
            one.size_bytes if one.kind == "file" else 0,
        )
        for path, one in upper.items()
    ]
    letters = {0: "C", 1: "A", 2: "D"}  # Engine API, GET /containers/{id}/changes
    diff = [(letters[row["Kind"]], str(row["Path"])) for row in lab.changes_of(found.container)]
    return Changes(
        found.container,
        tuple(sorted(rows, key=lambda change: change.path)),
        tuple(sorted(f"/{path}" for path in hidden)),
        tuple(sorted(diff, key=lambda row: row[1])),
    )


class _Lower:
    """The lower directories of a mount, as overlay shows them where there is no upper one."""

    def __init__(self, host: HostView, directories: Sequence[str]) -> None:
        self._host = host
        self._from_the_top = directories[::-1]

    def shown(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """What they show at each path; None for nothing."""
        wanted = list(paths)
        asked = {*wanted, *(above for path in wanted for above in _ancestors(path))}
        tables = [self._host.entries(one, asked) for one in self._from_the_top] if wanted else []
        return {path: _topmost(tables, path) for path in wanted}

    def names(self, path: str) -> set[str]:
        """The paths that they show in the directory `path`."""
        inside = set()
        for one in self._from_the_top:
            here = self._host.entries(one, [path])[path]
            if here is not None and here.kind == "directory":
                inside |= {f"{path}/{found.path}" for found in self._host.directory(f"{one}/{path}")}
        return {path for path, found in self.shown(inside).items() if found is not None}


def _topmost(tables: Sequence[Mapping[str, Entry | None]], path: str) -> Entry | None:
    for table in tables:
        found = table[path]
        if found is not None:
            return None if found.is_whiteout else found
        # a directory on the way that is opaque, or is none, hides what the others have
        way = [table[above] for above in _ancestors(path)]
        if any(one is not None and (one.kind != "directory" or one.is_opaque) for one in way):
            return None
    return None


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _hidden(upper: Mapping[str, Entry], lower: _Lower) -> set[str]:
    """What opaque directories of upper, and directories below them, hide of lower and do not have themselves."""
    opaque = [path for path, one in upper.items() if one.is_opaque]
    return {
        name
        for path, one in upper.items()
        if one.kind == "directory" and any(path == top or path.startswith(f"{top}/") for top in opaque)
        for name in lower.names(path) - set(upper)
    }


def _is_same(one: Entry, below: Entry | None) -> bool:
    """Whether it is what lower shows: the same owner and mode, and but for directories the same size and time."""
    if below is None or one.is_opaque:
        return False
    mine, theirs = (
        [
            (it.kind, it.mode, it.user, it.group),
            None if it.kind == "directory" else (it.size_bytes, it.modified_ns),
        ]
        for it in (one, below)
    )
    return mine == theirs


def _any_below(path: str, paths: set[str]) -> bool:
    return any(one.startswith(f"{path}/") for one in paths)


def _what(one: Entry, below: Entry | None, same: bool) -> ChangeKind:
    if one.is_whiteout:
        return "deleted"
    if below is None:
        return "added"
    if same:
        return "copied"
    return "replaced" if one.is_opaque and below.kind == "directory" else "changed"


# --- part3-4


@record
class WriteEffects(Result):
    """A container's layer over its image's layers, before and after it has written."""

    before: tuple[PathInLayers, ...] = column("the same paths in every directory", shown=False)
    after: tuple[PathInLayers, ...] = column("the same paths in every directory", shown=False)
    did: Mapping[str, str] = column(
        "path → what was done to it: `left alone`, `changed`, `deleted` or `added`", shown=False
    )

    @property
    def image_is_unchanged(self) -> bool:
        """Whether every lower directory holds what it held before."""
        return [file.seen[:-2] for file in self.before] == [file.seen[:-2] for file in self.after]

    @property
    def upper_was_empty(self) -> bool:
        """Whether upper held none of the paths before."""
        return all(file.at("upper").kind == "nothing" for file in self.before)

    def frame(self) -> pd.DataFrame:
        """One row a path and place: path, did, place, before, after (kinds)."""
        rows = [
            (old.path, self.did[old.path], one.place, one.kind, new.at(one.place).kind)
            for old, new in zip(self.before, self.after, strict=True)
            for one in reversed(old.seen)
        ]
        return pd.DataFrame(rows, columns=["path", "did", "place", "before", "after"])


def write_effects(
    lab: Lab, container: Container | str, keep: str, change: str, delete: str, add: str
) -> WriteEffects:
    """Look at four paths, change, delete and add three of them in a running container, and look again.

    Args:
        keep, change, delete: files of the image.
        add: a path that it does not have.

    Raises:
        BadInput: a path does not begin with a slash.
        LabError: the container is gone, does not run, or could not write.
    """
    did = {keep: "left alone", change: "changed", delete: "deleted", add: "added"}
    before = _through(lab, container, list(did))
    script = 'echo changed >> "$1" && rm "$2" && echo added > "$3"'
    with lab.quiet(["docker exec"]):
        said = lab.exec(container, ["sh", "-c", script, "sh", change, delete, add])
    if said.exit_code:
        raise LabError(
            "the container could not write",
            hint="give files that it has, and one that it does not have",
            engine_message=str(said),
        )
    return WriteEffects(before, _through(lab, container, list(did)), did)
