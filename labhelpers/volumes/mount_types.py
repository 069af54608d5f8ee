"""Mounts that cannot be written, and mounts that are memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.results import Result, column, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from labhelpers.lab import Lab

MIB = 1024 * 1024


@record
class WriteAttempt:
    """One attempt to write a file."""

    where: str = column("in which mount, as it was asked for")
    wrote: bool = column("whether it worked")
    words: str = column("what the kernel said where it did not")
    mount_is_ro: bool = column("whether the mount table of the container says `ro`")


@record
class ReadOnly(Result):
    """One volume in two containers, in the second one read-only."""

    attempts: tuple[WriteAttempt, ...] = rows(
        "to write; at the end one to the root of a container that runs with `--read-only`", of=WriteAttempt
    )
    change_was_seen: bool = column(
        "whether what the first container wrote was read in the second one, through its read-only mount"
    )

    def of(self, where: str) -> WriteAttempt:
        """The attempt of that name."""
        return next(one for one in self.attempts if one.where == where)


def read_only(lab: Lab) -> ReadOnly:
    """Write into a volume, into the same volume mounted read-only, into a read-only bind mount, and into a root.

    Source: mount(2), MS_RDONLY with MS_BIND: read-only is a property of a mount, not of what is mounted.
    """
    image = lab.image("payload")
    with lab.quiet(essential=["docker run -d --network none -v"]), common.volume(lab, "ro") as name:
        source = common.directory_of(lab, name)
        mounted = common.bind_options(lab, source, "/bind", readonly=True, volumes=[f"{name}:/volume:ro"])
        with (
            lab.running(image, common.KEEP_RUNNING, network="none", volumes=[f"{name}:/volume"]) as writer,
            lab.running(image, common.KEEP_RUNNING, network="none", **mounted, read_only=True) as reader,
        ):
            tried = (
                ("a volume", writer, "/volume"),
                ("the same volume, with :ro", reader, "/volume"),
                ("its directory, bound with readonly", reader, "/bind"),
                ("the root, with --read-only", reader, "/"),
            )
            attempts = []
            for where, container, point in tried:
                mounts = {mount.point: mount for mount in lab.host.mounts(container)}
                done = lab.exec(container, ["touch", f"{point.rstrip('/')}/file"])
                words = done.stderr.strip().rpartition(": ")[2]
                attempts.append(WriteAttempt(where, done.exit_code == 0, words, mounts[point].is_read_only))
            lab.exec(writer, ["sh", "-c", "echo news > /volume/file"])
            seen = lab.exec(reader, ["cat", "/volume/file"]).stdout.strip() == "news"
    return ReadOnly(tuple(attempts), seen)


@record
class Tmpfs(Result):
    """A mount that is memory."""

    size_bytes: int = column("what it was given")
    written_bytes: int = column("what was written into it first")
    charged_bytes: int = column("how much the memory of the container's cgroup grew meanwhile")
    file_system: str = column("what the mount table says")
    on_a_disk: bool = column(
        "whether its device is one (major number 0 is for file systems without a device)"
    )
    words: str = column("what the kernel said to more than its size")
    left_after_restart: int = column("entries in it after `docker stop` and `docker start`")


def tmpfs(lab: Lab, size_bytes: int = 16 * MIB) -> Tmpfs:
    """Write half of a tmpfs, then more than there is; restart the container and look again.

    Source: kernel, Documentation/filesystems/tmpfs.rst; docs.docker.com, storage/tmpfs.
    """
    half = size_bytes // 2
    image, mounted = lab.image("payload"), {"/memory": f"size={size_bytes}"}
    with (
        lab.quiet(essential=["docker run -d --network none --tmpfs"]),
        lab.running(image, common.KEEP_RUNNING, network="none", tmpfs=mounted) as container,
    ):

        def write(name: str, count: int) -> str:
            done = lab.exec(
                container, ["dd", "if=/dev/zero", f"of=/memory/{name}", "bs=65536", f"count={count >> 16}"]
            )
            return "" if done.exit_code == 0 else done.stderr.strip().splitlines()[0].rpartition(": ")[2]

        before = lab.host.cgroup(container).memory.cache_bytes
        write("half", half)
        charged = lab.host.cgroup(container).memory.cache_bytes - before
        mount = next(one for one in lab.host.mounts(container) if one.point == "/memory")
        words = write("too-much", size_bytes)
        lab.stop(container, timeout_s=0)
        lab.start(container)
        left = len(lab.host.directory("/memory", container))
    return Tmpfs(size_bytes, half, charged, mount.kind, not mount.device.startswith("0:"), words, left)
