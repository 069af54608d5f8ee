"""The namespaces of a process, and which processes share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from docker.models.containers import Container

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput, NotAvailable
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

    Target = Container | str | int | None

HOST = "host"
BASIC_KINDS = ("pid", "net", "ipc", "mnt", "uts")
"""The kinds of which Docker creates a new namespace for each container, unless an option says otherwise."""
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
"""Each kind of namespace and the resources that it isolates (namespaces(7))."""


@record
class Namespaces(Result):
    """The namespaces of a process."""

    name: str = column("container name, `pid 12` or `host`")
    pid: int = column("PID of the process on the host")
    ids: Mapping[str, int] = column(
        "kind of namespace → inode number, as in `lsns` and /proc/PID/ns, for each kind of the host's kernel",
        shown=False,
    )

    def frame(self) -> pd.DataFrame:
        """One row for each kind of namespace: kind, id, isolates."""
        rows = [(kind, id, KINDS[kind]) for kind, id in self.ids.items()]
        return table(rows, ["kind", "id", "isolates"])


@record
class NamespaceMatrix(Result):
    """The namespaces of several processes: equal ids in a column are the same namespace."""

    rows: tuple[Namespaces, ...] = rows("the host, then the other processes", of=Namespaces)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the host's kernel supports, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if kind in self.rows[0].ids)

    def row(self, name: str) -> Namespaces:
        """The row of the process called `name`.

        Raises:
            BadInput: there is no such row.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise BadInput(f"no row is called {name!r}", hint=f"the rows are: {names}")

    def shared(self, name: str, other: str = HOST) -> tuple[str, ...]:
        """The kinds of namespace that two rows share."""
        a, b = self.row(name), self.row(other)
        return tuple(kind for kind in self.kinds if a.ids.get(kind) == b.ids.get(kind))

    def owner(self, row: Namespaces, kind: str) -> Namespaces:
        """The first row in the same namespace of that kind: `row` itself if no row above it shares it."""
        return next(other for other in self.rows if other.ids.get(kind) == row.ids.get(kind))

    def frame(self) -> pd.DataFrame:
        """One row for each process: name, pid_on_host, and the id of each kind of namespace."""
        rows = [(row.name, row.pid, *(row.ids.get(kind) for kind in self.kinds)) for row in self.rows]
        return table(rows, ["name", "pid_on_host", *self.kinds])


@experiment
def namespaces_of(lab: Lab, target: Target = None) -> Namespaces:
    """Every namespace of a container's first process, of a process of the host, or of the host itself.

    The host's namespaces are those of the process that starts containers for the engine: where the engine runs
    in a container, process 1 of the host cannot be read.

    Args:
        target: a running container, its name or id; a PID of the engine's host; None for the host.

    Raises:
        BadInput: `target` is neither a container nor a PID.
        ContainerMissing, NotRunning: there is no such container, or it is not running.
        NotAvailable: the engine does not let the lab read its host's namespaces.
    """
    process = lab.host.process(target)
    if not process.namespaces:
        raise NotAvailable(
            f"the namespaces of {_name_of(target)} cannot be read on this engine's host",
            hint="; ".join(lab.host.unavailable) or "a process that has ended (a zombie) has none",
        )
    ids = {kind: process.namespaces[kind] for kind in KINDS if kind in process.namespaces}
    return Namespaces(_name_of(target), process.pid, ids)


@experiment
def matrix(lab: Lab, *targets: Container | str | int, **named: Container | str | int) -> NamespaceMatrix:
    """The namespaces of the host, and of each given container or process.

    Args:
        targets: running containers, their names or ids, or PIDs of the engine's host.
        named: the same; the keyword is the name of the row.

    Raises:
        BadInput, ContainerMissing, NotRunning, NotAvailable: as `namespaces_of`.
    """
    rows = [namespaces_of(lab), *(namespaces_of(lab, target) for target in targets)]
    rows += [replace(namespaces_of(lab, target), name=name) for name, target in named.items()]
    return NamespaceMatrix(tuple(rows))


def _name_of(target: Target) -> str:
    if isinstance(target, Container):
        return str(target.name)
    if isinstance(target, int):
        return f"pid {target}"
    return HOST if target is None else target
