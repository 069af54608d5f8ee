"""Read-only mounts and tmpfs mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from labhelpers.lab import Lab

MIB = 1024 * 1024


@record
class WriteAttempt:
    """An attempt to create a file."""

    target: str = column("where the file was to be created")
    succeeded: bool = column("whether the file was created")
    error: str = column("the kernel's error message")
    mount_is_ro: bool = column("whether the container's mount table has the option `ro`")


@record
class ReadOnly(Result):
    """Writing to a volume in two containers, the second of which mounts it read-only."""

    attempts: tuple[WriteAttempt, ...] = rows(
        "one for each mount, and one for the root of a container with `--read-only`", of=WriteAttempt
    )
    change_visible: bool = column(
        "whether the second container reads the first one's change through its read-only mount"
    )

    def of(self, target: str) -> WriteAttempt:
        """The attempt to write to `target`."""
        return next(attempt for attempt in self.attempts if attempt.target == target)


@experiment
def read_only(lab: Lab) -> ReadOnly:
    """Write to a volume, to the same volume mounted read-only, to a read-only bind mount, and to a read-only root.

    Source: mount(2), MS_RDONLY with MS_BIND: read-only is a property of the mount, not of the file system.
    """
    image = lab.image("payload")
    with lab.quiet(essential=["docker run -d --network none -v"]), common.volume(lab, "ro") as name:
        source = common.directory_of(lab, name)
        mounted = common.bind_options(lab, source, "/bind", readonly=True, volumes=[f"{name}:/volume:ro"])
        with (
            lab.running(image, common.KEEP_RUNNING, network="none", volumes=[f"{name}:/volume"]) as writer,
            lab.running(image, common.KEEP_RUNNING, network="none", **mounted, read_only=True) as reader,
        ):
            targets = (
                ("a volume", writer, "/volume"),
                ("the same volume, with :ro", reader, "/volume"),
                ("its directory, bound with readonly", reader, "/bind"),
                ("the root, with --read-only", reader, "/"),
            )
            attempts = []
            for target, container, point in targets:
                mounts = {mount.point: mount for mount in lab.host.mounts(container)}
                result = lab.exec(container, ["touch", f"{point.rstrip('/')}/file"])
                error = result.stderr.strip().rpartition(": ")[2]
                attempts.append(
                    WriteAttempt(target, result.exit_code == 0, error, mounts[point].is_read_only)
                )
            lab.exec(writer, ["sh", "-c", "echo news > /volume/file"])
            visible = lab.exec(reader, ["cat", "/volume/file"]).stdout.strip() == "news"
    return ReadOnly(tuple(attempts), visible)


@record
class Tmpfs(Result):
    """A tmpfs mount."""

    size_bytes: int = column("maximum size of the file system")
    written_bytes: int = column("size of the first file")
    charged_bytes: int = column("growth of the memory usage of the container's cgroup by this file")
    file_system: str = column("file system type in the mount table")
    on_disk: bool = column("whether its device is a disk: file systems without a device have major number 0")
    error: str = column("the kernel's error message when the files exceed the size")
    entries_after_restart: int = column("number of files after `docker stop` and `docker start`")


@experiment
def tmpfs(lab: Lab, size_bytes: int = 16 * MIB) -> Tmpfs:
    """Fill half of a tmpfs, then write more than fits; restart the container and count the files.

    Source: kernel, Documentation/filesystems/tmpfs.rst; docs.docker.com, storage/tmpfs.
    """
    half = size_bytes // 2
    image, mounted = lab.image("payload"), {"/memory": f"size={size_bytes}"}
    with (
        lab.quiet(essential=["docker run -d --network none --tmpfs"]),
        lab.running(image, common.KEEP_RUNNING, network="none", tmpfs=mounted) as container,
    ):

        def write(name: str, count: int) -> str:
            result = lab.exec(
                container, ["dd", "if=/dev/zero", f"of=/memory/{name}", "bs=65536", f"count={count >> 16}"]
            )
            return "" if result.exit_code == 0 else result.stderr.strip().splitlines()[0].rpartition(": ")[2]

        before = lab.host.cgroup(container).memory.cache_bytes
        write("half", half)
        charged = lab.host.cgroup(container).memory.cache_bytes - before
        mount = next(each for each in lab.host.mounts(container) if each.point == "/memory")
        error = write("too-much", size_bytes)
        lab.stop(container, timeout_s=0)
        lab.start(container)
        entries = len(lab.host.directory("/memory", container))
    on_disk = not mount.device.startswith("0:")
    return Tmpfs(size_bytes, half, charged, mount.kind, on_disk, error, entries)
