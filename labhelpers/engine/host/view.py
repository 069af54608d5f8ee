"""The view of the engine's host: its processes, cgroups, mounts, networks and directories."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

from docker.models.containers import Container

from labhelpers.engine.differences import has_no_cgroups
from labhelpers.engine.host import cgroup_paths, cgroups, network, processes, storage
from labhelpers.engine.host.cgroups import Cgroup, Sample
from labhelpers.engine.host.network import Address, BridgePort, Firewall, Interface, Neighbour, Network, Route
from labhelpers.engine.host.processes import Namespace, Process
from labhelpers.engine.host.reader import HostReader, Target, Texts, target_ended, target_name
from labhelpers.engine.host.storage import DiskUsage, Entry, Mount
from labhelpers.engine.host.text import integer, lines
from labhelpers.errors import (
    BadInput,
    HostUnreadable,
)
from labhelpers.results import Result, column, record


@record
class Kernel(Result):
    """The kernel of the engine's host."""

    release: str = column("kernel release, as `uname -r` prints it")
    version: str = column("contents of /proc/version")
    boot_id: str = column("random ID of the current boot (proc(5), /proc/sys/kernel/random)")


@record
class MemoryUsage(Result):
    """Memory that a container holds on the engine's host."""

    pss_bytes: int = column(
        "proportional set size of all processes: a page shared by n processes counts 1/n "
        "(kernel, Documentation/filesystems/proc.rst, smaps_rollup)"
    )
    anon_bytes: int | None = column(
        "anonymous memory charged to the cgroup (memory.stat: `anon`, or `total_rss` on version 1), None "
        "without a memory controller"
    )
    cache_bytes: int | None = column(
        "page cache charged to the cgroup (memory.stat: `file`, or `total_cache` on version 1), None "
        "without a memory controller"
    )


class HostView(HostReader):
    """Reads the host of an engine, wherever that is, through one helper container. The first read starts it.

    The host is the machine on which the engine runs: the notebook's own, Docker Desktop's virtual machine,
    a server. The helper only reads. It is not privileged: it drops every capability but these
    (capabilities(7)), has a read-only root file system, publishes no port, and exits with this process.

    - SYS_PTRACE: to follow /proc/PID/ns, /proc/PID/root and /proc/PID/smaps_rollup of processes that are not
      its own, and to read their mount tables.
    - DAC_READ_SEARCH: to read directories of other users (a database's, for example). It never writes.
    - SYS_ADMIN: to enter the network namespace of a container (setns(2)), and to see overlay's marks on
      files, `trusted.*` (xattr(7)).
    - NET_ADMIN: to list firewall rules.
    - /sys/fs/cgroup, mounted read-only: on version 1 its own copy would begin at its own cgroup.

    It shares the host's pid, cgroup and network namespaces; directories are read below /proc/PID/root of the
    process that runs containers for the engine (containerd's shim), so nothing else of the host is mounted.
    If an engine refuses one of the privileges, the helper runs without it, and `unavailable` lists what is missing.

    `target` is a running container (or its name or id), the pid of a process of the
    host, or None for the host itself.

    Every method raises:
        LabError: the container or process does not exist, is not running or exited during the read; or the
            engine does not allow the read.
        BadInput: an invalid value.
        EngineUnreachable: the connection to the engine was lost.

    Args:
        engine: the engine.
        labels: the labels of the helper container.
        image: returns the reference of an image with `python3` and iproute2; called at the first read.
    """

    # --- the kernel

    def kernel(self) -> Kernel:
        """The kernel of the engine's host."""
        paths = ("/proc/sys/kernel/osrelease", "/proc/version", "/proc/sys/kernel/random/boot_id")
        return Kernel(*((text or "").strip() for text in self.read_many(paths).values()))

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo of the host, in bytes (numbers of huge pages unchanged)."""
        table = {}
        for line in lines(self.read("/proc/meminfo")):
            name, _, rest = line.partition(":")
            number, *unit = [*rest.split(), ""]
            if (value := integer(number)) is not None:
                table[name] = value * (1024 if "kB" in unit else 1)
        return table

    # --- processes and namespaces

    def processes(self, container: Container | str | None = None) -> list[Process]:
        """The processes of a container, including those started by `docker exec`, or of the host; sorted by PID."""
        pid = None if container is None else self._pid(container)
        records = self._request("processes")
        if pid is not None:
            first = records.get(str(pid), {})
            own = first.get("cgroup")
            if own is None:
                raise target_ended(container)
            if has_no_cgroups(self._engine.info):
                # all containers share the engine's cgroup: tell them apart by their PID namespace
                namespace = first["ns"].get("pid")
                records = {
                    number: record
                    for number, record in records.items()
                    if record["ns"].get("pid") == namespace
                }
            else:
                records = {
                    number: record
                    for number, record in records.items()
                    if cgroup_paths.is_below(record.get("cgroup") or "", own)
                }
        parsed = (processes.process(int(number), record) for number, record in records.items())
        return sorted((process for process in parsed if process), key=lambda process: process.pid)

    def process(self, target: Target = None) -> Process:
        """The first process of a container, the process with a PID, or the one that runs containers for the engine."""
        pid = self._pid(target)
        records = self._request("processes", only=pid or 0)
        process = next((processes.process(int(number), record) for number, record in records.items()), None)
        if process is None:
            raise target_ended(target)
        return process

    def namespaces(self, container: Container | str | None = None) -> list[Namespace]:
        """The namespaces of the processes of a container, or of all processes; sorted by type and ID."""
        return processes.namespaces(self.processes(container))

    def memory(self, container: Container | str) -> MemoryUsage:
        """Memory that a container uses on the host."""
        charged = self.cgroup(container).get(cgroups.Memory)
        texts, errors = self._read(
            [f"/proc/{process.pid}/smaps_rollup" for process in self.processes(container)]
        )
        for path, message in errors.items():
            if "No such" not in message:  # exited meanwhile
                raise self._unreadable(path, message)
        pss_kib = sum(
            int(kib) for text in texts.values() for kib in re.findall(r"^Pss:\s+(\d+) kB", text, re.M)
        )
        if charged is None:
            return MemoryUsage(pss_kib * 1024, None, None)
        return MemoryUsage(pss_kib * 1024, charged.anon_bytes, charged.cache_bytes)

    # --- cgroups

    def cgroup(self, container: Container | str) -> Cgroup:
        """A container's cgroup: its usage, its limits, and how often it reached them."""
        location = self._cgroup_location(container)
        cgroup = cgroups.cgroup(location, self.read_many(location.files))
        if not cgroup.controllers:
            raise target_ended(container)
        return cgroup

    def cgroup_files(self, container: Container | str, names: Iterable[str]) -> dict[str, cgroups.File]:
        """Files of a container's cgroup by name (`memory.max`), without those of controllers that the host lacks."""
        location = self._cgroup_location(container)
        paths = {name: path for name in names if (path := cgroup_paths.file_path(location, name)) is not None}
        texts = self.read_many(paths.values())
        return {
            name: cgroups.File(name, path, None if (text := texts[path]) is None else text.strip())
            for name, path in paths.items()
        }

    def samples_of(
        self, containers: Iterable[Container | str], every_ms: float = 100
    ) -> Generator[tuple[Sample | None, ...], None, None]:
        """Samples of the cgroups of several containers, taken together, in their order; None for one that has exited.

        One stream reads them all. It ends when the last container exits, or when the iterator is closed.

        Args:
            every_ms: the sampling interval, 10 or more. A sample that would be late is skipped: see `at_s`.
        """
        locations = [self._cgroup_location(container) for container in containers]
        files = [file for location in locations for file in location.files]
        return self._samples_of(locations, self.watch(files, every_ms))

    def _samples_of(
        self, locations: list[cgroup_paths.CgroupLocation], stream: Generator[Texts, None, None]
    ) -> Generator[tuple[Sample | None, ...], None, None]:
        controllers = [0] * len(locations)
        with closing(stream):
            for texts in stream:
                samples = [_sample(location, texts) for location in locations]
                controllers = [
                    max(count, len(sample.cgroup.controllers) if sample else 0)
                    for count, sample in zip(controllers, samples, strict=True)
                ]
                # the files of a cgroup disappear one by one: if a controller is missing, the container has exited
                complete = tuple(
                    sample if sample and len(sample.cgroup.controllers) == count else None
                    for count, sample in zip(controllers, samples, strict=True)
                )
                yield complete
                if not any(complete):
                    return

    def samples(self, container: Container | str, every_ms: float = 100) -> Generator[Sample, None, None]:
        """Samples of a container's cgroup: `for sample in lab.host.samples(web, every_ms=50): …`.

        The stream ends when the container exits, or when the iterator is closed.

        Args:
            every_ms: the sampling interval, 10 or more. A sample that would be late is skipped: see `at_s`.
        """
        return self._samples(self.samples_of([container], every_ms))

    def _samples(self, stream: Generator[tuple[Sample | None, ...], None, None]) -> Generator[Sample]:
        with closing(stream):
            for (sample,) in stream:
                if sample is not None:
                    yield sample

    def _cgroup_location(self, container: Container | str) -> cgroup_paths.CgroupLocation:
        if has_no_cgroups(self._engine.info):
            raise HostUnreadable(
                "this engine does not create cgroups for containers, so the resource use of "
                f"{target_name(container)} is not accounted",
                hint="a rootless engine needs delegated controllers: see `./lab doctor`",
            )
        own = f"/proc/{self._pid(container)}/cgroup"
        texts = self.read_many([own, "/proc/self/mountinfo"])
        table, mountinfo = texts[own], texts["/proc/self/mountinfo"]
        if table is None:
            raise target_ended(container)
        location = cgroup_paths.locate_cgroup(table, mountinfo or "")
        if location is None:
            raise self._unreadable(
                f"the cgroup of {target_name(container)}", "it is below no mount of the helper"
            )
        return location

    # --- mounts and directories

    def mounts(self, target: Target = None) -> list[Mount]:
        """The mount table of a container's first process, of a process, or of the engine, in its own order."""
        pid = self._pid(target)
        return storage.mounts(self._read_process_file(target, f"/proc/{pid or self._engine_pid()}/mountinfo"))

    def directory(
        self, path: str, target: Target = None, *, recursive: bool = False, limit: int = 10_000
    ) -> list[Entry]:
        """The entries of a directory in the mount namespace of a container or of the engine, sorted by path.

        Args:
            path: absolute; symbolic links in it are resolved in that mount namespace.
            recursive: whether subdirectories are listed too.
            limit: the maximum number of entries.

        Raises:
            BadInput: there are more entries than `limit`.
        """
        response = self._request_path(target, "list_directory", path, recursive=recursive, limit=limit)
        if response["truncated"]:
            raise BadInput(
                f"{path} has more than {limit} entries",
                hint="list a subdirectory, or use a higher limit",
            )
        return sorted((Entry(**row) for row in response["entries"]), key=lambda entry: entry.path)

    def entries(self, path: str, names: Iterable[str], target: Target = None) -> dict[str, Entry | None]:
        """The entry at each of `names` below a directory; None where there is none.

        Args:
            path: absolute; symbolic links in it are resolved in the mount namespace of `target`.
            names: paths relative to it, without `..`. Symbolic links in them are not followed: the value of a path
                through one is None.

        Raises:
            BadInput: one of `names` is not such a path.
        """
        names = list(names)
        for name in names:
            if not name or {"", ".."} & set(name.split("/")) or "\0" in name:
                raise BadInput(
                    f"{name!r} is not a relative path below {path}", hint='use a path such as "etc/passwd"'
                )
        response = self._request_path(target, "entries", path, names=names)
        return {name: Entry(**row) if row else None for name, row in response.items()}

    def real_path(self, path: str, target: Target = None) -> str:
        """`path` with symbolic links resolved, as `readlink -m` prints it there."""
        return str(self._request_path(target, "real_path", path))

    def disk_usage(self, path: str, target: Target = None) -> DiskUsage:
        """Disk space that a file or directory uses, as `du -x` counts it: each inode once, one file system."""
        return DiskUsage(path=path, **self._request_path(target, "disk_usage", path))

    # --- networks

    def network(self, target: Target = None) -> Network:
        """The interfaces, addresses, routes, neighbours and bridge ports there, from one request."""
        commands = [
            network.IP_LINK,
            network.IP_ADDRESS,
            *network.IP_ROUTE,
            network.IP_NEIGHBOUR,
            network.BRIDGE_LINK,
        ]
        links, addresses, four, six, neighbours, ports = self._run(target, commands)
        return Network(
            tuple(network.interfaces(links)),
            tuple(network.addresses(addresses)),
            tuple(network.routes(four, "inet") + network.routes(six, "inet6")),
            tuple(network.neighbours(neighbours)),
            tuple(network.bridge_ports(ports)),
        )

    def interfaces(self, target: Target = None) -> list[Interface]:
        """The network interfaces there, with their counters; by index."""
        return network.interfaces(self._run(target, [network.IP_LINK])[0])

    def addresses(self, target: Target = None) -> list[Address]:
        """The addresses of the interfaces there."""
        return network.addresses(self._run(target, [network.IP_ADDRESS])[0])

    def routes(self, target: Target = None) -> list[Route]:
        """The main routing table there, IPv4 first."""
        four, six = self._run(target, network.IP_ROUTE)
        return network.routes(four, "inet") + network.routes(six, "inet6")

    def neighbours(self, target: Target = None) -> list[Neighbour]:
        """The neighbour tables (ARP and NDP) there."""
        return network.neighbours(self._run(target, [network.IP_NEIGHBOUR])[0])

    def bridge_ports(self, target: Target = None) -> list[BridgePort]:
        """The interfaces there that are bridge ports, with their bridges."""
        return network.bridge_ports(self._run(target, [network.BRIDGE_LINK])[0])

    def firewall(self, target: Target = None) -> Firewall:
        """Every chain and rule there: iptables (both of its backends) and nftables."""
        *saved, ruleset = self._run(target, [*network.IPTABLES_SAVE.values(), network.NFT_RULESET])
        texts = [
            (tool, family, text) for (tool, family), text in zip(network.IPTABLES_SAVE, saved, strict=True)
        ]
        return network.firewall(texts, ruleset)

    def output(self, command: Sequence[str], target: Target = None) -> str:
        """The standard output of a command in the helper container; empty if the command fails.

        Args:
            command: a program of the helper's image, and its arguments.
            target: the command runs in its network namespace.
        """
        [(status, output, _)] = self._request("run", commands=[list(command)], net=self._pid(target))
        return "" if status else str(output)


def _sample(location: cgroup_paths.CgroupLocation, texts: Texts) -> Sample | None:
    try:
        cgroup = cgroups.cgroup(location, texts.texts)
    except (KeyError, ValueError):
        return None  # removed between the reads of two of its files
    return Sample(texts.at_s, cgroup) if cgroup.controllers else None
