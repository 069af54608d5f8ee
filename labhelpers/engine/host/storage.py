"""Mounts, directories and disk usage on the engine's host."""

from __future__ import annotations

import re
from collections.abc import Mapping

from labhelpers.engine.host.text import integer, lines, unescape_octal
from labhelpers.results import Result, column, record


@record
class Mount(Result):
    """One line of a process's mount table (proc(5), /proc/PID/mountinfo)."""

    id: int = column("ID of the mount")
    parent_id: int = column("ID of the parent mount")
    device: str = column("device of the file system, `major:minor`")
    root: str = column("directory of the file system that is mounted")
    point: str = column("mount point, as the process sees it")
    options: tuple[str, ...] = column("options of the mount: `rw`, `nosuid`, …")
    kind: str = column("type of the file system: `overlay`, `ext4`, `proc`, …")
    source: str = column("source of the mount, in a format of the file system")
    settings: Mapping[str, str] = column(
        "options of the file system, name → value, empty for an option without a value; for an overlay "
        "`lowerdir`, `upperdir`, `workdir`",
        shown=False,
    )
    propagation: tuple[str, ...] = column("`shared:1`, `master:2`, …; empty for a private mount")

    @property
    def lower(self) -> tuple[str, ...]:
        """The read-only directories of an overlay, topmost first; none for anything else."""
        # a colon in a path is escaped with a backslash (overlayfs.rst)
        parts = re.split(r"(?<!\\):", self.settings.get("lowerdir", ""))
        return tuple(part.replace("\\:", ":") for part in parts if part)

    @property
    def upper(self) -> str | None:
        """The writable directory of an overlay, on the engine's host."""
        return self.settings.get("upperdir")

    @property
    def is_read_only(self) -> bool:
        """Whether this mount is read-only."""
        return "ro" in self.options


@record
class Entry(Result):
    """One name in a directory (lstat(2))."""

    path: str = column("path below the listed directory")
    kind: str = column("`file`, `directory`, `link`, `character device`, `block device`, `fifo` or `socket`")
    size_bytes: int = column("length of the file")
    allocated_bytes: int = column("space on disk")
    mode: int = column("permission bits, such as 0o644")
    user: int = column("UID of the owner on the host")
    group: int = column("GID of the owner on the host")
    links: int = column("number of hard links")
    inode: int = column("inode number")
    modified_ns: int = column("time of the last modification since 1970, on the host's clock")
    device: str = column("`major:minor` of a device file, else empty")
    target: str = column("target of a symbolic link, else empty")
    attributes: Mapping[str, str] = column("extended attributes, name → text (xattr(7))", shown=False)

    @property
    def is_whiteout(self) -> bool:
        """Whether it marks a deleted file of a lower layer (kernel, overlayfs.rst)."""
        return (self.kind, self.device) == ("character device", "0:0")

    @property
    def is_opaque(self) -> bool:
        """Whether it hides the contents of this directory in the lower layers (kernel, overlayfs.rst)."""
        return any(
            self.attributes.get(f"{kind}.overlay.opaque", "")[:1] in ("y", "x")
            for kind in ("trusted", "user")
        )


@record
class DiskUsage(Result):
    """What a file or a directory with all below it takes, on its own file system (as `du -x` counts)."""

    path: str = column("path of the directory")
    files: int = column("number of files, hard links counted once")
    directories: int = column("number of directories")
    allocated_bytes: int = column("space on disk")
    apparent_bytes: int = column("sum of the file lengths")


def mounts(mountinfo: str) -> list[Mount]:
    """The mounts of a mountinfo text, in its order; invalid lines are skipped."""
    result = []
    for line in lines(mountinfo):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        id, parent = integer(fields[0]), integer(fields[1]) if len(fields) > 1 else None
        if id is None or parent is None or len(fields) < 6 or not after:
            continue
        device, root, point, options, *propagation = fields[2:]
        kind, source, settings = [*after.split(" ", 2), "", ""][:3]
        result.append(
            Mount(
                id=id,
                parent_id=parent,
                device=device,
                root=unescape_octal(root),
                point=unescape_octal(point),
                options=tuple(options.split(",")),
                kind=kind,
                source=unescape_octal(source),
                settings=_settings(settings.rstrip()),
                propagation=tuple(word for word in propagation if word),
            )
        )
    return result


def _settings(text: str) -> dict[str, str]:
    # a comma in a path is escaped with a backslash, or in octal
    settings: dict[str, str] = {}
    for option in re.split(r"(?<!\\),", text):
        name, _, value = option.partition("=")
        # since Linux 6.8 a mount may name its lower directories one by one, from the top (overlayfs.rst)
        key, value = name.removesuffix("+"), unescape_octal(value).replace("\\,", ",")
        settings[key] = f"{settings[key]}:{value}" if name.endswith("+") and key in settings else value
    return settings
