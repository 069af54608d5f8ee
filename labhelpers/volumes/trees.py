"""The contents of a directory on the engine's host, to compare two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

COMPARED = ("kind", "owner", "group", "mode", "contents")
Tree = dict[str, tuple[object, ...]]
"""path below the directory → the values of `COMPARED`; the contents of a link are its target."""


def tree_of(lab: Lab, directory: str, where: Container | None = None) -> Tree:
    """Everything below a directory, as the host or a container sees it."""
    entries = lab.host.directory(directory, where, recursive=True)
    root = f"/proc/{lab.host.process(where).pid}/root" if where is not None else ""
    paths = {entry.path: f"{root}{directory}/{entry.path}" for entry in entries}
    texts = lab.host.read_many(paths[entry.path] for entry in entries if entry.kind == "file")
    return {
        entry.path: (
            *(entry.kind, entry.user, entry.group, entry.mode),
            entry.target or texts.get(paths[entry.path]),
        )
        for entry in entries
    }


def files_of(lab: Lab, directory: str, where: Container | None = None) -> dict[str, str]:
    """Path below a directory → text, of every file there."""
    tree = tree_of(lab, directory, where).items()
    return {path: str(contents or "") for path, (kind, *_, contents) in tree if kind == "file"}


def inodes_of(lab: Lab, directory: str) -> set[tuple[str, int]]:
    """(path, inode) of the files below a directory."""
    entries = lab.host.directory(directory, recursive=True)
    return {(entry.path, entry.inode) for entry in entries if entry.kind == "file"}


def difference(original: Tree, copy: Tree, name: str, copy_name: str) -> str | None:
    """The first difference between two trees, for the reader; None if they are equal.

    Args:
        name, copy_name: of the two, as the message names them.
    """
    for path in sorted({*original, *copy}):
        if path not in copy:
            return f"{copy_name} has no {path}"
        if path not in original:
            return f"{copy_name} has {path}, which {name} does not have"
        for what, wanted, actual in zip(COMPARED, original[path], copy[path], strict=True):
            if wanted != actual:
                return f"{path} has another {what} in {copy_name} than in {name}"
    return None
