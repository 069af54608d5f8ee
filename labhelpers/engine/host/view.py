"""The view of the engine's host: its processes, cgroups, mounts, networks and directories."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import requests
from docker.errors import APIError, DockerException
from docker.models.containers import Container

from labhelpers.engine import responses
from labhelpers.engine.differences import has_no_cgroups
from labhelpers.engine.find import Engine
from labhelpers.engine.host import cgroups, network, processes, storage
from labhelpers.engine.host.cgroups import Cgroup, Sample
from labhelpers.engine.host.helper import Helper, engine_gone_error
from labhelpers.engine.host.network import Address, BridgePort, Firewall, Interface, Neighbour, Network, Route
from labhelpers.engine.host.processes import Namespace, Process
from labhelpers.engine.host.storage import DiskUsage, Entry, Mount
from labhelpers.engine.host.text import integer, lines
from labhelpers.errors import (
    BadInput,
    ContainerMissing,
    EngineUnreachable,
    HostUnreadable,
    LabError,
    NotRunning,
)
from labhelpers.results import Result, column, record

Target = Container | str | int | None
"""A container, its name or id; the pid of a process of the host; None for the engine's host itself."""

MIN_INTERVAL_MS = 10


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


@record
class Texts(Result):
    """Files of the host at one moment."""

    at_s: float = column("time on the monotonic clock of the engine's host: only differences are meaningful")
    texts: Mapping[str, str | None] = column("contents by path, None for an unreadable file", shown=False)


class HostView:
    """Reads the host of an engine, wherever that is, through one helper container. The first read starts it.

    The host is the machine on which the engine runs: the notebook's own, Docker Desktop's virtual machine,
    a server. The helper only reads. It is not privileged: it drops every capability but these
    (capabilities(7)), has a read-only root file system, publishes no port, and ends when this process does.

    - SYS_PTRACE: to follow /proc/PID/ns, /proc/PID/root and /proc/PID/smaps_rollup of processes that are not
      its own, and to read their mount tables.
    - DAC_READ_SEARCH: to read directories that belong to other users (a database's, say). It reads, never writes.
    - SYS_ADMIN: to enter the network namespace of a container (setns(2)), and to see overlay's marks on
      files, `trusted.*` (xattr(7)).
    - NET_ADMIN: the kernel tells the firewall's rules to nobody else.
    - /sys/fs/cgroup, mounted read-only: on version 1 its own copy would begin at its own cgroup.

    It shares the host's pid, cgroup and network namespaces; directories are read below /proc/PID/root of the
    process that runs containers for the engine (containerd's shim), so nothing else of the host is mounted.
    Where an engine refuses one of the rights, the helper goes without, and `cannot_show` says what is missing.

    Where a method takes `where`, it means a running container (or its name or id), the pid of a process of the
    host, or None for the host itself.

    Every method raises:
        LabError: no such container or process, or it does not run, or it ended while it was read; or the
            engine does not let the lab see it.
        BadInput: a value that cannot be meant.
        EngineUnreachable: the engine went away.

    Args:
        engine: the engine.
        labels: what the helper carries, so that it is known as the lab's.
        image: gives the reference of an image with `python3` and iproute2; asked at the first read.
    """

    def __init__(self, engine: Engine, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._engine = engine
        self._api: Any = engine.client.api
        self._helper = Helper(self._api, labels, image)

    @property
    def unavailable(self) -> tuple[str, ...]:
        """What this engine keeps the view from showing, one line each; empty where it shows all.

        Where it does not start the helper at all (Enhanced Container Isolation of Docker Desktop, an authorization
        plugin), one line has the engine's reason.
        """
        try:
            refused = self._helper.refused_privileges()
        except EngineUnreachable:
            raise
        except LabError as error:
            return (f"anything of the engine's host ({(error.engine_message or error.message).strip()})",)
        return tuple(f"{need.enables} (refused: {need.name})" for need in refused)

    @property
    def helper(self) -> str | None:
        """The id of the container that reads, so that a picture of the host can leave it out; None before it runs."""
        return self._helper.container

    def close(self) -> None:
        """End the helper. The next read starts another."""
        self._helper.close()

    # --- files of the kernel

    def read(self, path: str, *, begin_bytes: int | None = None) -> str:
        """The text of a file of the host, at most 16 MiB, or its first `begin_bytes`; what is no UTF-8 is replaced."""
        found, failed = self._read([path], begin_bytes)
        if path in failed:
            raise self._unreadable(path, failed[path])
        return found[path]

    def read_many(self, paths: Iterable[str]) -> dict[str, str | None]:
        """The texts of many files in one go; None for each that cannot be read."""
        wanted = list(paths)
        found, _ = self._read(wanted)
        return {path: found.get(path) for path in wanted}

    def watch(self, paths: Iterable[str], every_ms: float) -> Generator[Texts, None, None]:
        """The texts of files, again and again, until the iterator is closed or dropped.

        Args:
            every_ms: from one reading to the next, 10 or more. A reading that came too late is left out: see `at_s`.
        """
        wanted = [_absolute(path) for path in paths]
        if not MIN_INTERVAL_MS <= every_ms < math.inf:
            raise BadInput(f"cannot sample every {every_ms} ms", hint=f"use at least {MIN_INTERVAL_MS}")
        return self._watch(wanted, every_ms)

    def _watch(self, wanted: list[str], every_ms: float) -> Generator[Texts, None, None]:
        with closing(self._helper.stream("stream", paths=wanted, every_s=every_ms / 1000)) as answers:
            for answer in answers:
                yield Texts(answer["at_s"], {path: answer["found"].get(path) for path in wanted})

    def kernel(self) -> Kernel:
        """The kernel that the engine's host runs."""
        paths = ("/proc/sys/kernel/osrelease", "/proc/version", "/proc/sys/kernel/random/boot_id")
        return Kernel(*((text or "").strip() for text in self.read_many(paths).values()))

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo of the host, in bytes (counts of huge pages as they are)."""
        table = {}
        for line in lines(self.read("/proc/meminfo")):
            name, _, rest = line.partition(":")
            number, *unit = [*rest.split(), ""]
            if (value := integer(number)) is not None:
                table[name] = value * (1024 if "kB" in unit else 1)
        return table

    # --- processes and namespaces

    def processes(self, container: Container | str | None = None) -> list[Process]:
        """The processes of a container (those that `docker exec` started are among them), or all; by pid."""
        pid = None if container is None else self._pid(container)
        seen = self._ask("processes")
        if pid is not None:
            first = seen.get(str(pid), {})
            own = first.get("cgroup")
            if own is None:
                raise _target_ended(container)
            if has_no_cgroups(self._engine.info):
                # all containers are in the engine's own cgroup: those in one pid namespace are one container's
                space = first["ns"].get("pid")
                seen = {number: one for number, one in seen.items() if one["ns"].get("pid") == space}
            else:
                seen = {
                    number: one
                    for number, one in seen.items()
                    if cgroups.is_below(one.get("cgroup") or "", own)
                }
        found = (processes.process(int(number), one) for number, one in seen.items())
        return sorted((one for one in found if one), key=lambda one: one.pid)

    def process(self, target: Target = None) -> Process:
        """One process: the first of a container, that of a pid, or the one that runs containers for the engine."""
        pid = self._pid(target)
        seen = self._ask("processes", only=pid or 0)
        found = next((processes.process(int(number), one) for number, one in seen.items()), None)
        if found is None:
            raise _target_ended(target)
        return found

    def namespaces(self, container: Container | str | None = None) -> list[Namespace]:
        """The namespaces that the processes of a container are in, or those of all processes; by kind and id."""
        return processes.namespaces(self.processes(container))

    def memory(self, container: Container | str) -> MemoryUsage:
        """What the container holds of the host's memory."""
        charged = self.cgroup(container).get(cgroups.Memory)
        found, failed = self._read([f"/proc/{one.pid}/smaps_rollup" for one in self.processes(container)])
        for path, words in failed.items():
            if "No such" not in words:  # those ended meanwhile
                raise self._unreadable(path, words)
        pss_kib = sum(
            int(kib) for text in found.values() for kib in re.findall(r"^Pss:\s+(\d+) kB", text, re.M)
        )
        if charged is None:
            return MemoryUsage(pss_kib * 1024, None, None)
        return MemoryUsage(pss_kib * 1024, charged.anon_bytes, charged.cache_bytes)

    # --- cgroups

    def cgroup(self, container: Container | str) -> Cgroup:
        """What a container's cgroup says: its use, its limits, and how often it ran into them."""
        place = self._cgroup_location(container)
        seen = cgroups.cgroup(place, self.read_many(place.files))
        if not seen.controllers:
            raise _target_ended(container)
        return seen

    def cgroup_files(self, container: Container | str, names: Iterable[str]) -> dict[str, cgroups.File]:
        """Files of a container's cgroup by name, `memory.max`; those whose controller the host lacks are left out."""
        place = self._cgroup_location(container)
        found = {name: path for name in names if (path := cgroups.file_path(place, name)) is not None}
        texts = self.read_many(found.values())
        return {
            name: cgroups.File(name, path, None if (text := texts[path]) is None else text.strip())
            for name, path in found.items()
        }

    def samples_of(
        self, containers: Iterable[Container | str], every_ms: float = 100
    ) -> Generator[tuple[Sample | None, ...], None, None]:
        """The cgroups of several containers, each time at one instant and in their order; None for one that ended.

        One stream reads them all. Ends when the last of them does; leaving the loop, or closing the iterator, ends it.

        Args:
            every_ms: from one reading to the next, 10 or more. One that came too late is left out: see `at_s`.
        """
        places = [self._cgroup_location(container) for container in containers]
        return self._samples_of(places, self.watch([f for p in places for f in p.files], every_ms))

    def _samples_of(
        self, places: list[cgroups.CgroupLocation], watched: Generator[Texts, None, None]
    ) -> Generator[tuple[Sample | None, ...], None, None]:
        most = [0] * len(places)
        with closing(watched):
            for texts in watched:
                found = [_sample(place, texts) for place in places]
                most = [
                    max(n, len(one.cgroup.controllers) if one else 0)
                    for n, one in zip(most, found, strict=True)
                ]
                # a cgroup goes file by file: one that has lost a part has ended
                seen = tuple(
                    one if one and len(one.cgroup.controllers) == n else None
                    for n, one in zip(most, found, strict=True)
                )
                yield seen
                if not any(seen):
                    return

    def samples(self, container: Container | str, every_ms: float = 100) -> Generator[Sample, None, None]:
        """A container's cgroup, again and again: `for sample in lab.host.samples(web, every_ms=50): …`.

        Ends when the container does. Leaving the loop, or closing the iterator, ends it too.

        Args:
            every_ms: from one sample to the next, 10 or more. One that came too late is left out: see `at_s`.
        """
        return self._samples(self.samples_of([container], every_ms))

    def _samples(self, watched: Generator[tuple[Sample | None, ...], None, None]) -> Generator[Sample]:
        with closing(watched):
            for (sample,) in watched:
                if sample is not None:
                    yield sample

    def _cgroup_location(self, container: Container | str) -> cgroups.CgroupLocation:
        if has_no_cgroups(self._engine.info):
            raise HostUnreadable(
                "this engine does not create cgroups for containers, so the resource use of "
                f"{_name(container)} is not accounted",
                hint="a rootless engine needs delegated controllers: see `./lab doctor`",
            )
        own = f"/proc/{self._pid(container)}/cgroup"
        texts = self.read_many([own, "/proc/self/mountinfo"])
        table, mountinfo = texts[own], texts["/proc/self/mountinfo"]
        if table is None:
            raise _target_ended(container)
        place = cgroups.locate_cgroup(table, mountinfo or "")
        if place is None:
            raise self._unreadable(f"the cgroup of {_name(container)}", "it is below no mount of the helper")
        return place

    # --- mounts and directories

    def mounts(self, target: Target = None) -> list[Mount]:
        """The mount table of a container's first process, of a process, or of the engine; in its order."""
        pid = self._pid(target)
        return storage.mounts(self._read_process_file(target, f"/proc/{pid or self._engine_pid()}/mountinfo"))

    def directory(
        self, path: str, target: Target = None, *, recursive: bool = False, limit: int = 10_000
    ) -> list[Entry]:
        """What is in a directory, sorted by path; as a container sees it, or the engine.

        Args:
            path: absolute; links in it are followed as the container (or the engine) would.
            deep: whether all that is below is listed too.
            limit: how many entries are listed at most.

        Raises:
            BadInput: there are more entries than `limit`.
        """
        answer = self._request_path(target, "contents", path, recursive=recursive, limit=limit)
        if answer["more"]:
            raise BadInput(
                f"{path} has more than {limit} entries",
                hint="list a subdirectory, or use a higher limit",
            )
        return sorted((Entry(**row) for row in answer["entries"]), key=lambda one: one.path)

    def entries(self, path: str, names: Iterable[str], target: Target = None) -> dict[str, Entry | None]:
        """What is at each of `names` below a directory; None where there is nothing.

        Args:
            path: absolute; links in it are followed as the container (or the engine) would.
            names: relative to it, without `..`; a link in one is never followed, so one that leads through a link
                is nothing.

        Raises:
            BadInput: a name is none.
        """
        wanted = list(names)
        for name in wanted:
            if not name or {"", ".."} & set(name.split("/")) or "\0" in name:
                raise BadInput(
                    f"{name!r} is not a relative path below {path}", hint='use a path such as "etc/passwd"'
                )
        answer = self._request_path(target, "entries", path, names=wanted)
        return {name: Entry(**row) if row else None for name, row in answer.items()}

    def real_path(self, path: str, target: Target = None) -> str:
        """The same place by a path without links, as `readlink -m` gives it there."""
        return str(self._request_path(target, "real_path", path))

    def disk_usage(self, path: str, target: Target = None) -> DiskUsage:
        """What a file or directory takes, as `du -x` counts it: each inode once, one file system only."""
        return DiskUsage(path=path, **self._request_path(target, "use", path))

    # --- networks

    def network(self, target: Target = None) -> Network:
        """The interfaces, addresses, routes, neighbours and bridge ports there, all read in one go."""
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
        """Whom that network namespace has met on its links (ARP and NDP)."""
        return network.neighbours(self._run(target, [network.IP_NEIGHBOUR])[0])

    def bridge_ports(self, target: Target = None) -> list[BridgePort]:
        """Which interfaces there are ports of which bridge."""
        return network.bridge_ports(self._run(target, [network.BRIDGE_LINK])[0])

    def firewall(self, target: Target = None) -> Firewall:
        """Every chain and rule there: iptables (both of its backends) and nftables."""
        *saved, ruleset = self._run(target, [*network.IPTABLES_SAVE.values(), network.NFT_RULESET])
        texts = [
            (tool, family, text) for (tool, family), text in zip(network.IPTABLES_SAVE, saved, strict=True)
        ]
        return network.firewall(texts, ruleset)

    def output(self, command: Sequence[str], target: Target = None) -> str:
        """What a command writes that runs beside the helper; empty where it fails.

        Args:
            command: a program of the helper's image, and its arguments.
            where: whose network namespace it runs in.
        """
        [(status, output, _)] = self._ask("run", commands=[list(command)], net=self._pid(target))
        return "" if status else str(output)

    # --- asking

    def _ask(self, do: str, **what: Any) -> Any:
        try:
            return self._helper.request(do, **what)
        except OSError as error:
            raise self._unreadable("that", str(error)) from None

    def _read(
        self, paths: list[str], begin_bytes: int | None = None
    ) -> tuple[dict[str, str], dict[str, str]]:
        answer = self._ask("read", paths=[_absolute(path) for path in paths], begin_bytes=begin_bytes)
        return answer["found"], answer["failed"]

    def _read_process_file(self, where: Target, path: str) -> str:
        """The text of a file about a process: that it is gone says that the process is."""
        found, failed = self._read([path])
        if "No such" in failed.get(path, ""):
            raise _target_ended(where)
        if path in failed:
            raise self._unreadable(path, failed[path])
        return found[path]

    def _request_path(self, where: Target, do: str, path: str, **what: Any) -> Any:
        pid = self._pid(where)
        try:
            return self._helper.request(do, pid=pid or 0, path=_absolute(path), **what)
        except OSError as error:
            if pid and "No such" in str(error) and not self._is_there(pid):
                raise _target_ended(where) from None
            raise self._unreadable(path, str(error)) from None

    def _run(self, where: Target, commands: list[list[str]]) -> list[str]:
        pid = self._pid(where)
        done = self._ask("run", commands=commands, net=pid)
        for status, _, words in done:
            # IPv6 may be off there, and a kernel has nf_tables, or ip_tables, or both
            if not status or "not supported" in words or "does not exist" in words:
                continue
            if pid and not self._is_there(pid):
                raise _target_ended(where)
            raise self._unreadable(f"the network of {_name(where)}", words)
        return [output for _, output, _ in done]

    def _is_there(self, pid: int) -> bool:
        return self.read_many([f"/proc/{pid}/status"])[f"/proc/{pid}/status"] is not None

    def _engine_pid(self) -> int:
        """The process that runs containers for the engine: the helper's parent."""
        found = re.search(r"^PPid:\s+(\d+)", self.read("/proc/self/status"), re.M)
        assert found is not None
        return int(found[1])

    def _pid(self, where: Target) -> int | None:
        """The pid of a container's first process; None for the host."""
        if where is None:
            return None
        if isinstance(where, bool) or not isinstance(where, int | str | Container) or where in ("", 0):
            raise BadInput(
                f"{where!r} is neither a container nor a PID",
                hint="use a container, its name or a PID above 0",
            )
        if isinstance(where, int):
            if where < 0 or not self._is_there(where):
                raise NotRunning(
                    f"the engine's host has no process {where}",
                    hint="lab.host.processes() lists the processes",
                )
            return where
        return self._first_pid(where)

    def _first_pid(self, container: Container | str) -> int:
        name = container if isinstance(container, str) else str(container.id)
        try:
            state = responses.nested_object(self._api.inspect_container(name), "State")
        except APIError as error:
            raise ContainerMissing(
                f"there is no container named {_name(container)}",
                hint="run the cell that creates it again; `docker ps -a` lists all containers",
                engine_message=str(error.explanation),
            ) from None
        except (requests.RequestException, DockerException) as error:
            raise engine_gone_error(error) from None
        if not state.get("Pid"):
            raise NotRunning(
                f"the container {_name(container)} is not running (its state is "
                f"{state.get('Status', 'stopped')}), so it has no process on the host",
                hint=f"check `docker logs {_name(container)}`, then run the cell that starts it again",
            )
        return int(state["Pid"])

    def _unreadable(self, what: str, words: str) -> LabError:
        missing = "; ".join(self.unavailable)
        return HostUnreadable(
            f"cannot read {what} on the engine's host",
            hint=f"this engine does not give the lab access to: {missing}"
            if missing
            else "check the path; some engines hide parts of their host (`./lab doctor` shows which engine this is)",
            engine_message=words,
        )


def _sample(place: cgroups.CgroupLocation, texts: Texts) -> Sample | None:
    try:
        seen = cgroups.cgroup(place, texts.texts)
    except (KeyError, ValueError):
        return None  # it went between two of its files
    return Sample(texts.at_s, seen) if seen.controllers else None


def _absolute(path: str) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise BadInput(f"{path!r} is not an absolute path", hint='use an absolute path: "/var/lib/docker"')
    return path


def _name(where: object) -> str:
    return str(getattr(where, "name", where) if where is not None else "the host")


def _target_ended(where: object) -> LabError:
    kind = "process" if isinstance(where, int) else "container"
    return NotRunning(
        f"the {kind} {_name(where)} exited while it was read",
        hint="run the cell that starts it again; `docker ps -a` shows the exit code",
    )
