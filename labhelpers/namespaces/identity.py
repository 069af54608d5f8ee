"""Which namespaces a process is in, and who shares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from docker.models.containers import Container

from labhelpers.errors import BadInput, LabError
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

    Where = Container | str | int | None

HOST = "host"
BASIC_KINDS = ("pid", "net", "ipc", "mnt", "uts")
"""Those that every container of Docker has for itself, unless one asks for less."""
KINDS: Mapping[str, str] = {
    "pid": "process ids",
    "net": "interfaces, addresses, ports, firewall",
    "ipc": "shared memory, message queues, semaphores",
    "mnt": "mount points",
    "uts": "host name",
    "user": "user and group ids, capabilities",
    "cgroup": "the root of cgroup paths",
    "time": "clocks since boot",
}
"""Each kind of namespace, and what it makes one's own (namespaces(7))."""


@record
class Namespaces(Result):
    """The namespaces of one process."""

    who: str = column("what the process is called here: a container's name, `pid 12`, or `host`")
    pid: int = column("the process, as the host counts")
    ids: Mapping[str, int] = column(
        "kind → id, the inode number that `lsns` and /proc/PID/ns show; only the kinds that the kernel has",
        shown=False,
    )

    def frame(self) -> pd.DataFrame:
        """One row a kind: kind, id, isolates."""
        rows = [(kind, id, KINDS[kind]) for kind, id in self.ids.items()]
        return table(rows, ["kind", "id", "isolates"])


@record
class NamespaceMatrix(Result):
    """Namespaces of several processes side by side: the same id in a column is the same namespace."""

    rows: tuple[Namespaces, ...] = rows("the host first", of=Namespaces)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the kernel of the host has, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if kind in self.rows[0].ids)

    def row(self, who: str) -> Namespaces:
        """The row called `who`.

        Raises:
            BadInput: there is none.
        """
        for row in self.rows:
            if row.who == who:
                return row
        names = ", ".join(row.who for row in self.rows)
        raise BadInput(f"no row is called {who!r}", hint=f"the rows are: {names}")

    def shared(self, one: str, other: str = HOST) -> tuple[str, ...]:
        """The kinds of which two rows have the same namespace."""
        a, b = self.row(one), self.row(other)
        return tuple(kind for kind in self.kinds if a.ids.get(kind) == b.ids.get(kind))

    def owner(self, row: Namespaces, kind: str) -> Namespaces:
        """The first row that is in the same namespace of that kind: `row` itself if none above it is."""
        return next(one for one in self.rows if one.ids.get(kind) == row.ids.get(kind))

    def frame(self) -> pd.DataFrame:
        """One row a process: who, pid_on_host, and a column with the id for each kind."""
        rows = [(row.who, row.pid, *(row.ids.get(kind) for kind in self.kinds)) for row in self.rows]
        return table(rows, ["who", "pid_on_host", *self.kinds])


def namespaces_of(lab: Lab, where: Where = None) -> Namespaces:
    """Every namespace of a container's first process, of a process of the host, or of the host itself.

    The host's are those of the process that runs containers for the engine: process 1 may be fenced off.

    Args:
        where: a running container, its name or id; a pid of the engine's host; None for the host.

    Raises:
        BadInput: it can be neither.
        LabError: it does not run, or the engine hides what its host's processes are in.
    """
    found = lab.host.process(where)
    if not found.namespaces:
        raise LabError(
            f"the namespaces of {_name_of(where)} cannot be read on this engine's host",
            hint="; ".join(lab.host.unavailable) or "a process that has ended (a zombie) is in none any more",
        )
    ids = {kind: found.namespaces[kind] for kind in KINDS if kind in found.namespaces}
    return Namespaces(_name_of(where), found.pid, ids)


def matrix(lab: Lab, *who: Container | str | int, **named: Container | str | int) -> NamespaceMatrix:
    """The namespaces of the host, and of each container or process given.

    Args:
        who: running containers, their names or ids, or pids of the engine's host.
        named: the same, to be called by the keyword.

    Raises:
        BadInput, LabError: as `namespaces_of`.
    """
    rows = [namespaces_of(lab), *(namespaces_of(lab, one) for one in who)]
    rows += [replace(namespaces_of(lab, one), who=name) for name, one in named.items()]
    return NamespaceMatrix(tuple(rows))


def _name_of(where: Where) -> str:
    if isinstance(where, Container):
        return str(where.name)
    if isinstance(where, int):
        return f"pid {where}"
    return HOST if where is None else where
