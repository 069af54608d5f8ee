"""The directory of a process's cgroup, and the files in it, with versions 1 and 2 of the kernel's interface.

Sources: cgroups(7); kernel, Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labhelpers.engine.host.text import lines, unescape_octal

_ACCOUNTING_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "blkio")
"""The controllers of version 1 that count what a container uses."""
FILES: Mapping[str, tuple[str, ...]] = {
    # version 1: the controllers, each with a directory of its own
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "cpu.stat"),
    "cpuacct": ("cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"),
    "memory": (
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.memsw.usage_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.failcnt",
        "memory.memsw.failcnt",
        "memory.stat",
        "memory.oom_control",
    ),
    "blkio": (
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_serviced_recursive",
        # before Linux 5.4 only these, without child cgroups, which a container does not have
        "blkio.throttle.io_service_bytes",
        "blkio.throttle.io_serviced",
    ),
    "pids": ("pids.current", "pids.max"),
    # no metrics; `lab.host.cgroup_files` reads files by name
    "cpuset": (),
    "devices": (),
    # version 2: one directory for all
    "": (
        "cpu.stat",
        "cpu.max",
        "cpu.weight",
        "cpu.pressure",
        "memory.current",
        "memory.max",
        "memory.peak",
        "memory.swap.current",
        "memory.swap.max",
        "memory.stat",
        "memory.events",
        "memory.pressure",
        "io.stat",
        "io.pressure",
        "pids.current",
        "pids.max",
    ),
}
"""Controller → the files that are read from its directory; "" for version 2."""


@dataclass(frozen=True, slots=True)
class CgroupLocation:
    """The directories of a cgroup in the helper's mount namespace.

    Attributes:
        version: 1 or 2.
        path: as in /proc/PID/cgroup.
        directories: controller → directory; "" for version 2.
    """

    version: int
    path: str
    directories: Mapping[str, str]

    @property
    def files(self) -> list[str]:
        """All files that `cgroup` reads."""
        return [
            f"{directory}/{name}"
            for controller, directory in self.directories.items()
            for name in FILES[controller]
        ]


def paths(text: str) -> dict[str, str]:
    """Controller → path of /proc/PID/cgroup (cgroups(7)); version 2's controller is "", a named one `name=…`."""
    table: dict[str, str] = {}
    for line in lines(text):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and path.startswith("/"):
            # the kernel appends this for a removed cgroup that still has processes
            table |= dict.fromkeys(controllers.split(","), path.removesuffix(" (deleted)"))
    return table


def locate_cgroup(cgroups: str, mountinfo: str) -> CgroupLocation | None:
    """The location of a process's cgroup.

    Args:
        cgroups: its /proc/PID/cgroup.
        mountinfo: the helper's own mount table.

    Returns:
        None if it is not below a mount of the helper.
    """
    table = paths(cgroups)
    # a host with version 2 may also mount controllers of version 1 without accounting: net_cls, cpuset
    version = 1 if any(controller in table for controller in _ACCOUNTING_CONTROLLERS) else 2
    directories: dict[str, str] = {}
    for line in lines(mountinfo):
        before, _, after = line.partition(" - ")
        fields, end = before.split(), after.split()
        if len(fields) < 6 or not end:
            continue
        root, point, kind = unescape_octal(fields[3]), unescape_octal(fields[4]), end[0]
        options = end[2].split(",") if len(end) > 2 else []
        controllers = [""] if kind == "cgroup2" else options if kind == "cgroup" else []
        for controller in controllers:
            path, root_path = table.get(controller), root.rstrip("/")
            if controller in FILES and path is not None and f"{path}/".startswith(f"{root_path}/"):
                directories[controller] = point + path[len(root_path) :].rstrip("/")
    # any controller of version 1 may be missing: disabled at boot (`cgroup_disable=memory`), or not built in
    main = next(
        (name for name in (_ACCOUNTING_CONTROLLERS if version == 1 else ("",)) if name in directories),
        None,
    )
    if main and version == 1 and table.get("") != table[main]:
        directories.pop(
            "", None
        )  # version 2 beside it: the cgroup of the engine's service, not the container's
    return None if main is None else CgroupLocation(version, table[main], directories)


def file_path(location: CgroupLocation, name: str) -> str | None:
    """The path of a file of a cgroup; None if the host lacks its controller."""
    directory = location.directories.get("" if location.version == 2 else name.partition(".")[0])
    return None if directory is None else f"{directory}/{name}"


def is_below(cgroups: str, other: str) -> bool:
    """Whether a process (its /proc/PID/cgroup) is in the cgroup of another process, or in a descendant."""
    parents = paths(other)
    controller = next((name for name in (*_ACCOUNTING_CONTROLLERS, "") if name in parents), None)
    path = None if controller is None else paths(cgroups).get(controller)
    return (
        controller is not None
        and path is not None
        and f"{path}/".startswith(f"{parents[controller].rstrip('/')}/")
    )
