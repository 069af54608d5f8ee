"""Processes on the engine's host, and their namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from labhelpers.engine.host.text import integer, lines
from labhelpers.results import Result, column, record


@record
class Process(Result):
    """A process, as the engine's host sees it.

    Source: proc(5), /proc/PID/status, /proc/PID/cmdline, /proc/PID/ns/.
    """

    pid: int = column("PID in the host's PID namespace")
    parent_pid: int = column("PID of the parent in the host's PID namespace")
    inside_pid: int = column("PID in its own PID namespace, the innermost (the last number of `nspid`)")
    command: str = column("command line, arguments joined by spaces; a kernel thread's name in brackets")
    nspid: tuple[int, ...] = column("PID in each PID namespace from the host's to its own (NSpid)")
    namespaces: Mapping[str, int] = column(
        "namespace ID by kind (the inode number that `lsns` shows): `pid`, `net`, `mnt`, `uts`, `ipc`, `user`, "
        "`cgroup`, `time`; empty if the engine's host does not show them",
        shown=False,
    )
    user: int = column("effective UID on the host")
    state: str = column("state of the process: R, S, D, Z, T, …")
    threads: int = column("number of threads")


@record
class Namespace(Result):
    """A namespace that has processes (namespaces(7))."""

    kind: str = column("`pid`, `net`, `mnt`, `uts`, `ipc`, `user`, `cgroup` or `time`")
    id: int = column("namespace ID, an inode number")
    processes: int = column("number of listed processes in the namespace")
    first_pid: int = column("lowest PID in the namespace, on the host")
    command: str = column("command line of that process")


def process(pid: int, record: Mapping[str, Any]) -> Process | None:
    """A process from the agent's record; None if it exited between two reads.

    Kernels before 4.1 have no NSpid; a truncated status is that of an exiting process.
    """
    pairs = (line.partition(":") for line in lines(record.get("status")))
    fields = {name: rest.strip() for name, _, rest in pairs}
    parent, users = integer(fields.get("PPid")), fields.get("Uid", "").split()
    user = integer(users[1]) if len(users) > 1 else None
    if parent is None or user is None:
        return None
    name = fields.get("Name", "")
    command = " ".join((record.get("cmdline") or "").split("\0")).strip() or f"[{name}]"
    nspid = tuple(n for number in fields.get("NSpid", "").split() if (n := integer(number)) is not None) or (
        pid,
    )
    namespaces = {
        name: int(match[1])
        for name, link in sorted((record.get("ns") or {}).items())
        # the namespaces of future children are not its own
        if not name.endswith("_for_children") and (match := re.search(r"\[([0-9]+)\]", str(link)))
    }
    return Process(
        pid=pid,
        parent_pid=parent,
        inside_pid=nspid[-1],
        command=command,
        nspid=nspid,
        namespaces=namespaces,
        user=user,
        state=fields.get("State", "")[:1],
        threads=integer(fields.get("Threads")) or 1,
    )


def namespaces(processes: Iterable[Process]) -> list[Namespace]:
    """The namespaces of the processes, sorted by type and ID."""
    members: dict[tuple[str, int], list[Process]] = {}
    for process in processes:
        for kind, id in process.namespaces.items():
            members.setdefault((kind, id), []).append(process)
    result = []
    for (kind, id), inside in sorted(members.items()):
        first = min(inside, key=lambda process: process.pid)
        result.append(Namespace(kind, id, len(inside), first.pid, first.command))
    return result
