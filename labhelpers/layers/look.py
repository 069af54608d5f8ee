"""What runs in the helper container that looks at layer directories. Its text is the container's command.

The directories are mounted read-only at /look/0, /look/1, …; the question is one JSON object, and so is the
answer on standard output.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import Any

MOST_TEXT = 200


def kind_of(status: os.stat_result) -> str:
    """What a path is; a whiteout is a character device 0/0 (kernel, Documentation/filesystems/overlayfs.rst)."""
    mode = status.st_mode
    if stat.S_ISCHR(mode) and status.st_rdev == 0:
        return "whiteout"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "other"


def status_of(path: str) -> os.stat_result | None:
    """Like lstat; None where there is nothing."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_opaque(path: str) -> bool:
    """Whether overlay hides what lower directories hold below: the mark is `trusted.` or, rootless, `user.`."""
    for space in ("trusted", "user"):
        try:
            if os.getxattr(path, space + ".overlay.opaque", follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def lower_status(lowers: list[str], path: str) -> os.stat_result | None:
    """What the lower directories, from the top, show at `path`; None where they show nothing."""
    for lower in lowers:
        status = status_of(os.path.join(lower, path))
        if status is not None:
            return None if kind_of(status) == "whiteout" else status
        if hides(lower, path):
            return None
    return None


def hides(lower: str, path: str) -> bool:
    """Whether `lower`, which has nothing at `path`, keeps the directories under it from showing theirs."""
    above = os.path.dirname(path)
    while above:
        full = os.path.join(lower, above)
        status = status_of(full)
        if status is not None and (kind_of(status) != "directory" or is_opaque(full)):
            return True
        above = os.path.dirname(above)
    return False


def lower_names(lowers: list[str], path: str) -> set[str]:
    """The names that the lower directories show in the directory `path`."""
    names: set[str] = set()
    for lower in lowers:
        full = os.path.join(lower, path)
        if status_of(full) is not None and stat.S_ISDIR(os.lstat(full).st_mode):
            names.update(os.listdir(full))
    return {name for name in names if lower_status(lowers, os.path.join(path, name))}


def changes(upper: str, lowers: list[str]) -> dict[str, Any]:
    """Every path of the upper directory: (path, kind, bytes, opaque, kind below, same), and what it hides."""
    found: list[Any] = []
    hidden_names: list[str] = []
    open_ = [("", False)]
    while open_:
        above, hidden = open_.pop()
        names = os.listdir(os.path.join(upper, above))
        if hidden:
            hidden_names += [os.path.join(above, n) for n in lower_names(lowers, above) - set(names)]
        for name in names:
            path = os.path.join(above, name)
            status = os.lstat(os.path.join(upper, path))
            kind = kind_of(status)
            opaque = kind == "directory" and is_opaque(os.path.join(upper, path))
            bytes_ = status.st_size if kind == "file" else 0
            below = lower_status(lowers, path)
            same = below is not None and not opaque and is_same(status, below)
            found.append((path, kind, bytes_, opaque, below and kind_of(below), same))
            if kind == "directory":
                open_.append((path, hidden or opaque))
    return {"found": found, "hidden": hidden_names}


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two have the same owner and mode and, but for directories, the same size and time of change."""
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return False
    both = (one.st_size, one.st_mtime_ns), (other.st_size, other.st_mtime_ns)
    return stat.S_ISDIR(one.st_mode) or both[0] == both[1]


def through(directories: list[str], paths: list[str]) -> list[list[Any]]:
    """Each path in each directory: (kind, bytes, text) or None."""
    return [[seen(os.path.join(directory, path)) for directory in directories] for path in paths]


def seen(full: str) -> tuple[str, int, str] | None:
    """Kind, bytes and the first bytes as text of one path."""
    status = status_of(full)
    if status is None:
        return None
    kind, text = kind_of(status), ""
    if kind == "file":
        with open(full, encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_TEXT)
    return kind, status.st_size if kind == "file" else 0, text


def used(directories: list[str]) -> list[int]:
    """The bytes that each directory takes on its disk, hard links counted once."""
    return [used_by(directory) for directory in directories]


def used_by(directory: str) -> int:
    """As `du`: 512-byte blocks that are given to files and directories; `directory` may be one file."""
    total, known = 0, set[tuple[int, int]]()
    if not os.path.isdir(directory):
        return os.lstat(directory).st_blocks * 512
    for above, _, files in os.walk(directory):
        for name in [above, *(os.path.join(above, file) for file in files)]:
            status = os.lstat(name)
            if (status.st_dev, status.st_ino) not in known:
                known.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def answer(question: dict[str, Any]) -> Any:
    """The answer to one question."""
    directories = [f"/look/{number}" for number in range(question["directories"])]
    if question["do"] == "changes":
        return changes(directories[0], directories[1:])
    if question["do"] == "through":
        return through(directories, question["paths"])
    return used(directories)


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
