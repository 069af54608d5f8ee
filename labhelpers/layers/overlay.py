"""The directories of a container's overlay mount: lower, upper, work and merged, and the effects of a write.

Their paths come from the mount table of the container's own process, which has the same form with every image
store. Their contents are read on the engine's host.

Source: kernel, Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from docker.errors import NotFound

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.host import Entry
from labhelpers.errors import BadInput, ExperimentFailed, NotAvailable
from labhelpers.layers.sources import BufferedSource, Chunks
from labhelpers.layers.tarstream import members
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.engine.host import HostView
    from labhelpers.lab import Lab

MAX_TEXT_BYTES = 200
MAX_CHANGES = 100_000


# --- the mount


@record
class Mounts(Result):
    """Directories of the overlay mount that is the root of a container, from the top.

    Paths are those of the engine's host.
    """

    container: str = column("name of the container")
    lower: tuple[str, ...] = column(
        "read-only directories, from the lowest layer of the image to the highest, then the engine's init layer "
        "with mount points for /etc/hosts and similar files"
    )
    upper: str = column("the container's own layer, which receives every change")
    work: str = column("scratch directory of overlayfs, where a file is prepared before it moves to upper")
    merged: str = column("the mount point, which the container sees as `/`")

    @property
    def image_layers(self) -> tuple[str, ...]:
        """The lower directories that are layers of the image.

        With the containerd image store, a locally built image has an empty directory for each step that changed no
        file.
        """
        return self.lower[:-1]

    def frame(self) -> pd.DataFrame:
        """One row for each directory, from the top: role, directory (only the end of the path)."""
        rows = [("merged", self.merged), ("work", self.work), ("upper", self.upper)]
        rows += [(f"lower {number}", path) for number, path in reversed(list(enumerate(self.lower)))]
        return table([(role, _end(path)) for role, path in rows], ["role", "directory"])

    def __repr__(self) -> str:
        return self.frame().to_string(index=False)


def _end(path: str) -> str:
    """The last two names of a path, with long identifiers shortened."""
    return "…/" + "/".join(name[:12] for name in path.split("/")[-2:])


@experiment
def no_overlay_reason(lab: Lab, container: Container | str) -> str | None:
    """Why the root of a running container is not an overlay mount, as a sentence for the page; None if it is.

    This depends on the mount table, not on the name of the storage driver: the table has no directories for
    fuse-overlayfs, and vfs, btrfs and zfs do not use overlay.

    Raises:
        ContainerMissing: the container does not exist.
        NotRunning: the container is not running.
    """
    root = next((mount for mount in lab.host.mounts(container) if mount.point == "/"), None)
    if root is not None and root.upper is not None:
        return None
    driver = lab.engine.info.get("Driver") or "another storage driver"
    return (
        f"Not available here: this engine stores layers with {driver}, so the root of a container is not an overlay "
        "mount of the kernel. The following cells that need such a mount are skipped."
    )


@experiment
def mounts(lab: Lab, container: Container | str) -> Mounts:
    """The directories of the overlay mount at the root of a running container.

    Raises:
        ContainerMissing: the container does not exist.
        NotRunning: the container is not running.
        NotAvailable: the root of the container is not an overlay mount.
    """
    root = next((mount for mount in lab.host.mounts(container) if mount.point == "/"), None)
    if root is None or root.upper is None:
        raise NotAvailable(
            f"the root of {name_of(container)} is not an overlay mount: this engine's storage driver is "
            f"{lab.engine.info.get('Driver')}",
            hint="this part of the chapter needs overlay2 or containerd's overlayfs; go on with the next section",
        )
    base = ""
    if not root.upper.startswith("/"):
        # overlay2 shortens the paths if there are many, and makes them relative to its own directory
        base = posixpath.join(str(lab.engine.info["DockerRootDir"]), "overlay2")
    lower = [posixpath.join(base, directory) for directory in reversed(root.lower)]
    upper, work = (posixpath.join(base, root.settings[key]) for key in ("upperdir", "workdir"))
    # the mount point of the same mount in the engine's own mount namespace
    merged = next((mount.point for mount in lab.host.mounts() if mount.upper == root.upper), "")
    return Mounts(name_of(container), tuple(lower), upper, work, merged)


# --- the same file through each


@record
class LayerEntry:
    """The entry at a path in one directory of the mount."""

    layer: str = column("directory of the mount: `lower 0` (the lowest), …, `upper` or `merged`")
    kind: str = column("type of the entry: `file`, `directory`, `link`, `whiteout`, `other` or `nothing`")
    bytes: int = column("size of a file")
    text: str = column("beginning of a file")


@record
class PathInLayers(Result):
    """The same path in every directory of a container's root, from the top."""

    path: str = column("path in the container")
    entries: tuple[LayerEntry, ...] = rows("from the lowest directory to the merged view", of=LayerEntry)

    def at(self, layer: str) -> LayerEntry:
        """The entry in that directory."""
        return next(entry for entry in self.entries if entry.layer == layer)

    @property
    def source(self) -> str | None:
        """The highest directory that has the path, which is the one that the container sees; None if it sees none."""
        if self.at("merged").kind == "nothing":
            return None
        return next(entry.layer for entry in reversed(self.entries[:-1]) if entry.kind != "nothing")

    def frame(self) -> pd.DataFrame:
        """One row for each directory, from the top."""
        return Result.frame(self).iloc[::-1].reset_index(drop=True)


@experiment
def path_in_layers(lab: Lab, container: Container | str, path: str) -> PathInLayers:
    """The same path in each lower directory, in upper, and in the merged view.

    Raises:
        BadInput: the path is not absolute, or contains `..`.
        ContainerMissing, NotRunning, NotAvailable: as `mounts`.
    """
    return _paths_in_layers(lab, container, [path])[0]


def _paths_in_layers(lab: Lab, container: Container | str, paths: Sequence[str]) -> tuple[PathInLayers, ...]:
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise BadInput(
                f"{path!r} is not an absolute path without `..`", hint="start it at the root: /etc/motd"
            )
    root = mounts(lab, container)
    # links in the parent directories resolve from the root of the merged view, whichever layer they are in
    split = [posixpath.split(path.rstrip("/")) for path in paths]
    names = [posixpath.join(lab.host.real_path(above, container), name).strip("/") for above, name in split]
    directories = {**{f"lower {number}": path for number, path in enumerate(root.lower)}, "upper": root.upper}
    columns = [_entries(lab.host, layer, directory, names) for layer, directory in directories.items()]
    return tuple(
        PathInLayers(path, (*(column[name] for column in columns), _merged_entry(lab, root.container, path)))
        for path, name in zip(paths, names, strict=True)
    )


def _entries(host: HostView, layer: str, directory: str, names: Sequence[str]) -> dict[str, LayerEntry]:
    entries = {}
    for name, entry in host.entries(directory, names).items():
        kind, size, text = "nothing" if entry is None else _kind(entry), 0, ""
        if entry is not None and kind == "file":
            size, text = entry.size_bytes, host.read(f"{directory}/{name}", begin_bytes=MAX_TEXT_BYTES)
        entries[name] = LayerEntry(layer, kind, size, text)
    return entries


def _kind(entry: Entry) -> str:
    if entry.is_whiteout:
        return "whiteout"
    return entry.kind if entry.kind in ("file", "directory", "link") else "other"


def _merged_entry(lab: Lab, name: str, path: str) -> LayerEntry:
    """The entry that the container itself sees, read as `docker cp` does."""
    try:
        chunks, _ = lab.client.api.get_archive(name, path)
    except NotFound:
        return LayerEntry("merged", "nothing", 0, "")
    flow = BufferedSource(Chunks(chunks), path)
    first = next(members(flow))
    text = flow.take(min(first.bytes, MAX_TEXT_BYTES)).decode(errors="replace")
    return LayerEntry("merged", first.kind, first.bytes, text)


# --- what a container changed


ChangeKind = Literal["added", "changed", "deleted", "replaced", "copied"]


@record
class Change:
    """An entry of the upper directory."""

    path: str = column("path in the container")
    change: ChangeKind = column(
        "`added`, `changed` (a lower layer has the path too), `deleted` (a whiteout), `replaced` (an opaque directory, "
        "which hides its contents in lower layers) or `copied` (copied up and still equal to the lower layer)"
    )
    kind: str = column("type of the entry: `file`, `directory`, `link`, `whiteout` or `other`")
    bytes: int = column("size of a file in upper")


@record
class Changes(Result):
    """Changes of a container, read from its upper directory."""

    container: str = column("name of the container")
    paths: tuple[Change, ...] = rows("the entries of upper", of=Change)
    hidden: tuple[str, ...] = column("paths that opaque directories hide and do not contain themselves")
    docker_diff: tuple[tuple[str, str], ...] = column(
        "output of `docker diff` as (letter, path): A added, C changed, D deleted", shown=False
    )

    @property
    def whiteouts(self) -> tuple[str, ...]:
        """The paths that a whiteout hides."""
        return tuple(change.path for change in self.paths if change.change == "deleted")

    @property
    def opaque(self) -> tuple[str, ...]:
        """The directories that hide their contents in lower layers."""
        return tuple(change.path for change in self.paths if change.change == "replaced")

    @property
    def bytes(self) -> int:
        """Total size of the files in upper."""
        return sum(change.bytes for change in self.paths)

    @property
    def as_docker_diff(self) -> tuple[tuple[str, str], ...]:
        """The changes in the form of `docker diff`: an opaque directory is changed, and the paths it hides are deleted.

        A path that was copied up and is equal to the lower layer is not listed.
        """
        letters = {"added": "A", "changed": "C", "replaced": "C", "deleted": "D"}
        rows = [(letters[change.change], change.path) for change in self.paths if change.change != "copied"]
        return tuple(sorted([*rows, *(("D", path) for path in self.hidden)], key=lambda row: row[1]))

    @property
    def matches_docker_diff(self) -> bool:
        """Whether `docker diff` lists the same changes."""
        return self.as_docker_diff == self.docker_diff


@experiment
def changes(lab: Lab, container: Container | str) -> Changes:
    """The changes of a running container, from its upper directory and from `docker diff`.

    Raises:
        ContainerMissing, NotRunning, NotAvailable: as `mounts`.
    """
    root = mounts(lab, container)
    upper = {entry.path: entry for entry in lab.host.directory(root.upper, recursive=True, limit=MAX_CHANGES)}
    lower = _Lower(lab.host, root.lower)
    below = lower.entries(upper)
    hidden = _hidden(upper, lower)
    # a directory counts as changed if something in it has changed
    changed = {path for path, entry in upper.items() if not _is_same(entry, below[path])} | set(hidden)
    rows = [
        Change(
            f"/{path}",
            _change_kind(entry, below[path], path not in changed and not _any_below(path, changed)),
            _kind(entry),
            entry.size_bytes if entry.kind == "file" else 0,
        )
        for path, entry in upper.items()
    ]
    letters = {0: "C", 1: "A", 2: "D"}  # Engine API, GET /containers/{id}/changes
    diff = [(letters[row["Kind"]], str(row["Path"])) for row in lab.changes_of(root.container)]
    return Changes(
        root.container,
        tuple(sorted(rows, key=lambda change: change.path)),
        tuple(sorted(f"/{path}" for path in hidden)),
        tuple(sorted(diff, key=lambda row: row[1])),
    )


class _Lower:
    """The lower directories of a mount, merged as overlay shows them without an upper directory."""

    def __init__(self, host: HostView, directories: Sequence[str]) -> None:
        self._host = host
        self._from_the_top = directories[::-1]

    def entries(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """The entry at each path; None if there is none."""
        paths = list(paths)
        needed = {*paths, *(above for path in paths for above in _ancestors(path))}
        tables = [self._host.entries(directory, needed) for directory in self._from_the_top] if paths else []
        return {path: _topmost(tables, path) for path in paths}

    def names(self, path: str) -> set[str]:
        """The paths in the directory `path`."""
        candidates = set()
        for directory in self._from_the_top:
            entry = self._host.entries(directory, [path])[path]
            if entry is not None and entry.kind == "directory":
                candidates |= {
                    f"{path}/{inner.path}" for inner in self._host.directory(f"{directory}/{path}")
                }
        return {path for path, entry in self.entries(candidates).items() if entry is not None}


def _topmost(tables: Sequence[Mapping[str, Entry | None]], path: str) -> Entry | None:
    for entries in tables:
        entry = entries[path]
        if entry is not None:
            return None if entry.is_whiteout else entry
        # an ancestor that is opaque, or is not a directory, hides the entries of the layers below
        ancestors = [entries[above] for above in _ancestors(path)]
        if any(above is not None and (above.kind != "directory" or above.is_opaque) for above in ancestors):
            return None
    return None


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _hidden(upper: Mapping[str, Entry], lower: _Lower) -> set[str]:
    """Paths of lower directories that opaque directories of upper hide and do not contain themselves."""
    opaque = [path for path, entry in upper.items() if entry.is_opaque]
    return {
        name
        for path, entry in upper.items()
        if entry.kind == "directory" and any(path == top or path.startswith(f"{top}/") for top in opaque)
        for name in lower.names(path) - set(upper)
    }


def _is_same(entry: Entry, below: Entry | None) -> bool:
    """Whether an entry has the owner and mode of the lower one, and, unless a directory, its size and time."""
    if below is None or entry.is_opaque:
        return False
    return _identity(entry) == _identity(below)


def _identity(entry: Entry) -> tuple[object, ...]:
    content = None if entry.kind == "directory" else (entry.size_bytes, entry.modified_ns)
    return (entry.kind, entry.mode, entry.user, entry.group, content)


def _any_below(path: str, paths: set[str]) -> bool:
    return any(other.startswith(f"{path}/") for other in paths)


def _change_kind(entry: Entry, below: Entry | None, same: bool) -> ChangeKind:
    if entry.is_whiteout:
        return "deleted"
    if below is None:
        return "added"
    if same:
        return "copied"
    return "replaced" if entry.is_opaque and below.kind == "directory" else "changed"


# --- before and after a write


@record
class WriteEffects(Result):
    """The same paths in every directory of a container's root, before and after the container has written."""

    before: tuple[PathInLayers, ...] = column("the paths before the writes", shown=False)
    after: tuple[PathInLayers, ...] = column("the paths after the writes", shown=False)
    operations: Mapping[str, str] = column(
        "path → operation: `left alone`, `changed`, `deleted` or `added`", shown=False
    )

    @property
    def image_is_unchanged(self) -> bool:
        """Whether every lower directory has the same entries before and after."""
        return [path.entries[:-2] for path in self.before] == [path.entries[:-2] for path in self.after]

    @property
    def upper_was_empty(self) -> bool:
        """Whether upper had none of the paths before."""
        return all(path.at("upper").kind == "nothing" for path in self.before)

    def frame(self) -> pd.DataFrame:
        """One row for each path and directory: path, operation, layer, before, after (types of the entries)."""
        rows = [
            (old.path, self.operations[old.path], entry.layer, entry.kind, new.at(entry.layer).kind)
            for old, new in zip(self.before, self.after, strict=True)
            for entry in reversed(old.entries)
        ]
        return table(rows, ["path", "operation", "layer", "before", "after"])


@experiment
def write_effects(
    lab: Lab, container: Container | str, keep: str, change: str, delete: str, add: str
) -> WriteEffects:
    """Change, delete and add a file in a running container, and list these paths in all layers before and after.

    Args:
        keep, change, delete: files of the image.
        add: a path that does not exist in the container.

    Raises:
        BadInput: a path is not absolute.
        ContainerMissing, NotRunning, NotAvailable: as `mounts`.
        ExperimentFailed: the container could not write.
    """
    operations = {keep: "left alone", change: "changed", delete: "deleted", add: "added"}
    before = _paths_in_layers(lab, container, list(operations))
    script = 'echo changed >> "$1" && rm "$2" && echo added > "$3"'
    with lab.quiet(["docker exec"]):
        write = lab.exec(container, ["sh", "-c", script, "sh", change, delete, add])
    if write.exit_code:
        raise ExperimentFailed(
            "the container could not write",
            hint="pass files that exist in the container, and for `add` a path that does not",
            engine_message=str(write),
        )
    return WriteEffects(before, _paths_in_layers(lab, container, list(operations)), operations)
