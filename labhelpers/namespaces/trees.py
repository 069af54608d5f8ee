"""One process tree, seen from every PID namespace that it reaches into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from docker.models.containers import Container

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.host import Process
from labhelpers.engine.host.text import integer
from labhelpers.errors import BadInput, EngineRefused, NotAvailable
from labhelpers.namespaces.identity import HOST
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

INNERMOST = "sleep 903"
# the waiting shell stays in the tree: `exec` would replace it with unshare
_NESTED = (
    f"sleep 901 & unshare --pid --fork --mount-proc sh -c 'sleep 902 & exec {INNERMOST}'; echo refused; wait"
)


@record
class PidNamespace:
    """A PID namespace and its place in the hierarchy."""

    id: int = column("inode number of the namespace")
    name: str = column(
        "`host`, the name of a container, or `inside NAME` for a namespace created in a container"
    )
    level: int = column("number of ancestors; 0 for the host's namespace")
    parent: int | None = column("inode number of the parent namespace; none for the host's namespace")


@record
class VisibleProcess:
    """A process as one PID namespace sees it."""

    process: Process = column("the process", shown=False)
    pid: int = column("PID in that namespace")
    parent_pid: int = column("PID of the parent in that namespace; 0 if the parent is not visible there")


@record
class ProcessTree(Result):
    """Processes of the engine's host, and their PID in each PID namespace that they are visible in.

    A process is visible in its own PID namespace and in every ancestor of it, with one PID in each
    (pid_namespaces(7); NSpid in /proc/PID/status).
    """

    processes: tuple[Process, ...] = column(
        "the processes and their ancestors, parents before children", shown=False
    )
    namespaces: tuple[PidNamespace, ...] = column(
        "PID namespaces of the processes, parents before children, the host's first", shown=False
    )

    @property
    def levels(self) -> int:
        """Depth of the namespace hierarchy, counting the host's namespace."""
        return 1 + max(namespace.level for namespace in self.namespaces)

    def namespace(self, name: str) -> PidNamespace:
        """The PID namespace called `name`.

        Raises:
            BadInput: there is no such namespace.
        """
        for namespace in self.namespaces:
            if namespace.name == name:
                return namespace
        names = ", ".join(namespace.name for namespace in self.namespaces)
        raise BadInput(f"no PID namespace is called {name!r}", hint=f"the namespaces are: {names}")

    def namespace_of(self, process: Process) -> PidNamespace:
        """The innermost PID namespace that the process is in."""
        return next(namespace for namespace in self.namespaces if namespace.id == process.namespaces["pid"])

    def ancestors(self, namespace: PidNamespace) -> tuple[PidNamespace, ...]:
        """The PID namespaces from the host's to `namespace`, both included."""
        by_id = {each.id: each for each in self.namespaces}
        chain = [namespace]
        while chain[0].parent is not None:
            chain.insert(0, by_id[chain[0].parent])
        return tuple(chain)

    def pid_in(self, process: Process, namespace: PidNamespace) -> int | None:
        """The PID of the process in `namespace`; None if it is not visible there."""
        if namespace not in self.ancestors(self.namespace_of(process)):
            return None
        return process.nspid[namespace.level]

    def visible_in(self, name: str) -> tuple[VisibleProcess, ...]:
        """The processes that are visible in the PID namespace called `name`.

        Raises:
            BadInput: there is no such namespace.
        """
        namespace = self.namespace(name)
        by_pid = {process.pid: process for process in self.processes}
        visible = []
        for process in self.processes:
            pid = self.pid_in(process, namespace)
            if pid is not None:
                parent = by_pid.get(process.parent_pid)
                parent_pid = self.pid_in(parent, namespace) if parent else None
                visible.append(VisibleProcess(process, pid, parent_pid or 0))
        return tuple(visible)

    def depth(self, process: Process) -> int:
        """Number of ancestors of the process in this tree."""
        by_pid = {each.pid: each for each in self.processes}
        depth = 0
        while (parent := by_pid.get(process.parent_pid)) is not None:
            process, depth = parent, depth + 1
        return depth

    def frame(self) -> pd.DataFrame:
        """One row for each process: process (indented), and its PID in each namespace, or None."""
        rows = [
            (
                "\N{NO-BREAK SPACE}" * 3 * self.depth(process) + short_command(process),
                *(self.pid_in(process, namespace) for namespace in self.namespaces),
            )
            for process in self.processes
        ]
        return table(rows, ["process", *(f"pid_{each.name.replace(' ', '_')}" for each in self.namespaces)])

    @property
    def views(self) -> Views:
        """The same tree, drawn once for each PID namespace."""
        return Views(self)


@record
class Views(Result):
    """One process tree as each of its PID namespaces sees it."""

    tree: ProcessTree = column("the tree", shown=False)

    def frame(self) -> pd.DataFrame:
        """One row for each namespace and process that is visible in it: namespace, process, pid, parent_pid."""
        rows = [
            (namespace.name, short_command(visible.process), visible.pid, visible.parent_pid)
            for namespace in self.tree.namespaces
            for visible in self.tree.visible_in(namespace.name)
        ]
        return table(rows, ["namespace", "process", "pid", "parent_pid"])


@experiment
def process_tree(lab: Lab, *containers: Container | str) -> ProcessTree:
    """The process tree of the engine's host, with the PID of each process in every namespace that it is visible in.

    Args:
        containers: keep only the processes of these containers and their ancestors; without any, all processes.

    Raises:
        BadInput, ContainerMissing, NotRunning: no such container, or it is not running.
        NotAvailable: the engine does not let the lab read its host's namespaces.
    """
    firsts = {lab.host.process(container).pid: name_of(container) for container in containers}
    processes = _with_known_namespace(lab.host.processes())
    kept = processes
    if containers:
        # a container that shares the host's PID namespace is recognized by its cgroup
        in_cgroups = {process.pid for each in containers for process in lab.host.processes(each)}
        kept = with_ancestors(processes, in_cgroups | _inside(processes, firsts))
    namespaces = _namespaces(processes, firsts, kept)
    ids = {namespace.id for namespace in namespaces}
    return ProcessTree(
        tuple(process for process in _in_order(kept) if process.namespaces["pid"] in ids), namespaces
    )


@experiment
def start_nested(lab: Lab, name: str = "levels") -> Container:
    """Start a container in which `unshare` has created another PID namespace: three levels with the host's.

    `unshare` needs CAP_SYS_ADMIN, the only capability of this container. Never give it to a container that runs
    code you do not trust.

    Raises:
        NameTaken: the name is used by a resource that the lab did not create.
        EngineRefused: the engine or its kernel does not permit it; the container's own message is kept.
        NotRunning: the container exited.
    """
    container = lab.run(
        lab.image("tools"),
        ["sh", "-c", _NESTED],
        name=name,
        cap_drop=["ALL"],
        cap_add=["SYS_ADMIN"],
        # AppArmor's default profile refuses every mount, /proc included
        security_opt=["apparmor=unconfined"],
    )

    def is_running() -> bool:
        output = lab.logs(container)
        if "refused" in output:
            raise EngineRefused(
                f"the engine or its kernel did not let {name} create a PID namespace, so there is no third level",
                hint="namespaces.process_tree(lab, CONTAINER) shows the two levels that every container has",
                engine_message=output,
            )
        return INNERMOST in [process.command for process in lab.host.processes(container)]

    lab.wait_for(f"{INNERMOST!r} in the third level of {name}", is_running, while_running=container)
    return container


@experiment
def pids_in_container(lab: Lab, container: Container | str) -> list[int]:
    """The PIDs in the container's /proc, without the process that lists them.

    Raises:
        ContainerMissing, NotRunning: there is no such container, or it is not running.
    """
    with lab.quiet(["docker exec"]):
        # $$ is the shell; it expands the names itself, so no other process runs
        output = lab.exec(container, ["sh", "-c", "echo $$; cd /proc && echo [0-9]*"])
    shell, _, names = output.stdout.partition("\n")
    return sorted(
        pid for name in names.split() if name != shell.strip() and (pid := integer(name)) is not None
    )


def short_command(process: Process) -> str:
    """The name of a process's command and its first short arguments, without paths and options."""
    if process.pid == 1:
        return "first process"
    arguments = process.command.split() or ["[]"]
    # the name of a kernel thread is in brackets and may contain a slash
    shown = [arguments[0] if arguments[0].startswith("[") else PurePosixPath(arguments[0]).name]
    for argument in arguments[1:]:
        if argument.startswith(("-", "/")) or len(" ".join([*shown, argument])) > 22:
            break
        shown.append(argument)
    return " ".join(shown)


def _with_known_namespace(processes: Sequence[Process]) -> list[Process]:
    """The processes whose PID namespace is known; an unreadable process with a single PID is in the host's."""
    top = next((p.namespaces["pid"] for p in processes if len(p.nspid) == 1 and "pid" in p.namespaces), None)
    if top is None:
        raise NotAvailable(
            "the namespaces of processes cannot be read on this engine's host, so there is no tree to show",
            hint="some engines hide parts of their host (`./lab doctor` shows which engine this is)",
        )
    known = [
        replace(process, namespaces={"pid": top})
        if not process.namespaces and len(process.nspid) == 1
        else process
        for process in processes
    ]
    return [process for process in known if "pid" in process.namespaces]


def _inside(processes: Sequence[Process], firsts: Iterable[int]) -> set[int]:
    """PIDs of the processes in the PID namespaces of `firsts` and their descendants, without the host's namespace."""
    by_pid = {process.pid: process for process in processes}
    running = [by_pid[pid] for pid in firsts if pid in by_pid]
    roots = {process.namespaces["pid"] for process in running if len(process.nspid) > 1}
    parents = _parents(processes)

    def is_below(namespace: int | None) -> bool:
        while namespace is not None and namespace not in roots:
            namespace = parents.get(namespace)
        return namespace is not None

    return {process.pid for process in processes if is_below(process.namespaces["pid"])}


def _parents(processes: Sequence[Process]) -> dict[int, int]:
    """PID namespace → its parent namespace: that of the parent of its process 1.

    Process 1 of a namespace is a child of the process that created it, or, if that has exited, of a process of
    the parent namespace (pid_namespaces(7)).
    """
    by_pid = {process.pid: process for process in processes}
    parents = {}
    for process in processes:
        parent = by_pid.get(process.parent_pid)
        if process.inside_pid == 1 and len(process.nspid) > 1 and parent is not None:
            parents[process.namespaces["pid"]] = parent.namespaces["pid"]
    return parents


def with_ancestors(processes: Sequence[Process], pids: set[int]) -> list[Process]:
    """The processes with these PIDs and their ancestors, in their order."""
    by_pid = {process.pid: process for process in processes}
    kept: set[int] = set()
    for pid in pids:
        while pid in by_pid and pid not in kept:
            kept.add(pid)
            pid = by_pid[pid].parent_pid
    return [process for process in processes if process.pid in kept]


def _namespaces(
    processes: Sequence[Process], names: Mapping[int, str], kept: Sequence[Process]
) -> tuple[PidNamespace, ...]:
    """The PID namespaces of `kept`; the host's is that of a process with a single PID."""
    parents = _parents(processes)
    containers = {
        process.namespaces["pid"]: names[process.pid]
        for process in reversed(processes)
        if process.pid in names
    }
    top = next(process.namespaces["pid"] for process in processes if len(process.nspid) == 1)
    made = {top: PidNamespace(top, HOST, 0, None)}

    def add(id: int) -> None:
        if id in made or id not in parents:
            return
        add(parents[id])
        parent = made.get(parents[id])
        if parent is None:
            return
        name = containers.get(id) or (f"inside {parent.name}" if parent.level else f"namespace {id}")
        used = {namespace.name for namespace in made.values()}
        candidates = (name, *(f"{name} ({number})" for number in range(2, len(made) + 2)))
        unique = next(candidate for candidate in candidates if candidate not in used)
        made[id] = PidNamespace(id, unique, parent.level + 1, parent.id)

    for process in kept:
        add(process.namespaces["pid"])
    return tuple(made.values())


def _in_order(processes: Sequence[Process]) -> list[Process]:
    """Parents before children; children that share a PID namespace are adjacent."""
    pids = {process.pid for process in processes}
    children: dict[int, list[Process]] = {}
    for process in processes:
        parent = process.parent_pid if process.parent_pid in pids else 0
        children.setdefault(parent, []).append(process)
    ordered: list[Process] = []

    def walk(parent: int) -> None:
        for child in sorted(children.get(parent, []), key=lambda p: (p.namespaces["pid"], p.pid)):
            ordered.append(child)
            walk(child.pid)

    walk(0)
    return ordered
