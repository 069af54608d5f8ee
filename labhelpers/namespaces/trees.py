"""One process tree, seen from every pid namespace that it reaches into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from docker.models.containers import Container

from labhelpers.engine.host import Process
from labhelpers.engine.host.text import integer
from labhelpers.errors import BadInput, EngineRefused, LabError
from labhelpers.lab.base import name_of
from labhelpers.namespaces.containers import NOT_FOUND
from labhelpers.namespaces.identity import HOST
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

INNERMOST = "sleep 903"
# the shell that waits keeps its place in the tree: `exec` would put unshare there
_NESTED = (
    f"sleep 901 & unshare --pid --fork --mount-proc sh -c 'sleep 902 & exec {INNERMOST}'; echo refused; wait"
)


@record
class PidNamespace:
    """A pid namespace, and where it lies."""

    id: int = column("its inode number")
    name: str = column("`host`, a container's name, or `inside NAME` for one that was made in there")
    level: int = column("how many lie around it; the host's is 0")
    parent: int | None = column("the id of the one around it; None for the host's")


@record
class VisibleProcess:
    """A process as one pid namespace sees it."""

    process: Process = column("the process", shown=False)
    pid: int = column("what it is called there")
    parent_pid: int = column(
        "what its parent is called there; 0 where the parent is not seen (pid_namespaces(7))"
    )


@record
class ProcessTree(Result):
    """Processes of the engine's host, and their pid in each pid namespace that they are in.

    A process is in its own pid namespace and in all that lie around it, with one pid in each
    (pid_namespaces(7); NSpid in /proc/PID/status).
    """

    processes: tuple[Process, ...] = column(
        "parents before children; those that were asked for and what leads to them", shown=False
    )
    spaces: tuple[PidNamespace, ...] = column(
        "their pid namespaces, the host's first, each after the one around it", shown=False
    )

    @property
    def levels(self) -> int:
        """How many pid namespaces lie inside one another at the deepest place, the host's counted."""
        return 1 + max(space.level for space in self.spaces)

    def space(self, name: str) -> PidNamespace:
        """The pid namespace called `name`.

        Raises:
            BadInput: there is none.
        """
        for space in self.spaces:
            if space.name == name:
                return space
        names = ", ".join(space.name for space in self.spaces)
        raise BadInput(f"no pid namespace here is called {name!r}", hint=f"there are: {names}")

    def space_of(self, process: Process) -> PidNamespace:
        """The innermost pid namespace that the process is in."""
        return next(space for space in self.spaces if space.id == process.namespaces["pid"])

    def around(self, space: PidNamespace) -> tuple[PidNamespace, ...]:
        """The pid namespaces from the host's to `space`, both counted."""
        by_id = {one.id: one for one in self.spaces}
        chain = [space]
        while chain[0].parent is not None:
            chain.insert(0, by_id[chain[0].parent])
        return tuple(chain)

    def pid_in(self, process: Process, space: PidNamespace) -> int | None:
        """What the process is called in `space`; None where it is not seen."""
        if space not in self.around(self.space_of(process)):
            return None
        return process.nspid[space.level]

    def seen_from(self, name: str) -> tuple[VisibleProcess, ...]:
        """The processes that the pid namespace called `name` sees.

        Raises:
            BadInput: there is no such namespace.
        """
        space = self.space(name)
        by_pid = {process.pid: process for process in self.processes}
        seen = []
        for process in self.processes:
            pid = self.pid_in(process, space)
            if pid is not None:
                parent = by_pid.get(process.parent_pid)
                seen.append(VisibleProcess(process, pid, (parent and self.pid_in(parent, space)) or 0))
        return tuple(seen)

    def depth(self, process: Process) -> int:
        """How many ancestors of the process are in this tree."""
        by_pid = {one.pid: one for one in self.processes}
        depth = 0
        while (parent := by_pid.get(process.parent_pid)) is not None:
            process, depth = parent, depth + 1
        return depth

    def frame(self) -> pd.DataFrame:
        """One row a process: process (indented), and a column with its pid for each pid namespace, or NOWHERE."""
        rows = [
            (
                "\N{NO-BREAK SPACE}" * 3 * self.depth(process) + short_command(process),
                *(str(self.pid_in(process, space) or NOT_FOUND) for space in self.spaces),
            )
            for process in self.processes
        ]
        return table(rows, ["process", *(f"PID, {space.name}" for space in self.spaces)])

    @property
    def views(self) -> Views:
        """The same tree, to be drawn once for each pid namespace."""
        return Views(self)


@record
class Views(Result):
    """One process tree as each of its pid namespaces sees it."""

    tree: ProcessTree = column("the tree", shown=False)

    def frame(self) -> pd.DataFrame:
        """One row a process and namespace that sees it: seen_from, process, pid, parent_pid."""
        rows = [
            (space.name, short_command(seen.process), seen.pid, seen.parent_pid)
            for space in self.tree.spaces
            for seen in self.tree.seen_from(space.name)
        ]
        return table(rows, ["seen_from", "process", "pid", "parent_pid"])


def process_tree(lab: Lab, *containers: Container | str) -> ProcessTree:
    """The process tree of the engine's host, with the pid of each process in every namespace that it is in.

    Args:
        containers: take only what runs in these, and the processes that lead to it; all of the host if none.

    Raises:
        BadInput, LabError: a container that does not run; an engine that hides its host's processes.
    """
    firsts = {lab.host.process(one).pid: name_of(one) for one in containers}
    everything = _with_spaces(lab.host.processes())
    wanted = everything
    if containers:
        # one that shares the host's pid namespace is told by its cgroup
        own = {process.pid for one in containers for process in lab.host.processes(one)}
        wanted = _with_ancestors(everything, own | _inside(everything, firsts))
    spaces = _spaces(everything, firsts, wanted)
    known = {space.id for space in spaces}
    return ProcessTree(tuple(p for p in _in_order(wanted) if p.namespaces["pid"] in known), spaces)


def start_nested(lab: Lab, name: str = "levels") -> Container:
    """Start a container in which `unshare` has made a pid namespace of its own: three levels with the host's.

    `unshare` needs CAP_SYS_ADMIN; it is the only capability that the container has. Give it to no container
    that runs what you do not trust.

    Raises:
        NameTaken: the name belongs to something else.
        EngineRefused: the engine or its kernel does not permit it; the container's own message is kept.
        NotRunning: the container ended.
    """
    container = lab.run(
        lab.image("tools"),
        ["sh", "-c", _NESTED],
        name=name,
        cap_drop=["ALL"],
        cap_add=["SYS_ADMIN"],
        # AppArmor's default profile refuses every mount, also that of /proc
        security_opt=["apparmor=unconfined"],
    )

    def is_there() -> bool:
        output = lab.logs(container)
        if "refused" in output:
            raise EngineRefused(
                f"the engine or its kernel did not let {name} make a pid namespace, so there is no third level",
                hint="namespaces.process_tree(lab, CONTAINER) shows the two levels that every container has",
                engine_message=output,
            )
        return INNERMOST in [one.command for one in lab.host.processes(container)]

    lab.wait_for(f"{INNERMOST!r} in the third level of {name}", is_there, while_running=container)
    return container


def pids_in_container(lab: Lab, container: Container | str) -> list[int]:
    """The pids that a process in the container finds in its /proc, but for those that look.

    Raises:
        LabError: the container does not run.
    """
    with lab.quiet(["docker exec"]):
        # $$ is the shell; the names are expanded by it, so that no other process looks
        said = lab.exec(container, ["sh", "-c", "echo $$; cd /proc && echo [0-9]*"])
    own, _, found = said.stdout.partition("\n")
    return sorted(pid for word in found.split() if word != own.strip() and (pid := integer(word)) is not None)


def short_command(process: Process) -> str:
    """A process's command in a few words: no path, no option, nothing long."""
    if process.pid == 1:
        return "first process"
    words = process.command.split() or ["[]"]
    # the name of a kernel thread is no path
    kept = [words[0] if words[0].startswith("[") else PurePosixPath(words[0]).name]
    for word in words[1:]:
        if word.startswith(("-", "/")) or len(" ".join([*kept, word])) > 22:
            break
        kept.append(word)
    return " ".join(kept)


def _with_spaces(processes: Sequence[Process]) -> list[Process]:
    """Those whose pid namespace is known; a fenced-off process of one level is in the host's all the same."""
    top = next((p.namespaces["pid"] for p in processes if len(p.nspid) == 1 and "pid" in p.namespaces), None)
    if top is None:
        raise LabError(
            "the namespaces of processes cannot be read on this engine's host, so there is no tree to show",
            hint="`./lab doctor` says which engine this is; some hide parts of their host",
        )
    known = [
        replace(one, namespaces={"pid": top}) if not one.namespaces and len(one.nspid) == 1 else one
        for one in processes
    ]
    return [one for one in known if "pid" in one.namespaces]


def _inside(everything: Sequence[Process], firsts: Iterable[int]) -> set[int]:
    """The pids of what is in the pid namespaces of these processes, or in one made inside; the host's is left out."""
    by_pid = {one.pid: one for one in everything}
    firsts_there = [by_pid[pid] for pid in firsts if pid in by_pid]
    roots = {one.namespaces["pid"] for one in firsts_there if len(one.nspid) > 1}
    around = _parents(everything)

    def reaches(space: int | None) -> bool:
        while space is not None and space not in roots:
            space = around.get(space)
        return space is not None

    return {one.pid for one in everything if reaches(one.namespaces["pid"])}


def _parents(everything: Sequence[Process]) -> dict[int, int]:
    """Each pid namespace with the one around it: the one that the parent of its process 1 is in.

    Process 1 of a namespace is a child of the process that made it, or, where that has ended, of a process of
    the namespace around it (pid_namespaces(7)).
    """
    by_pid = {one.pid: one for one in everything}
    found = {}
    for one in everything:
        parent = by_pid.get(one.parent_pid)
        if one.inside_pid == 1 and len(one.nspid) > 1 and parent is not None:
            found[one.namespaces["pid"]] = parent.namespaces["pid"]
    return found


def _with_ancestors(everything: Sequence[Process], wanted: set[int]) -> list[Process]:
    by_pid = {one.pid: one for one in everything}
    kept: set[int] = set()
    for pid in wanted:
        while pid in by_pid and pid not in kept:
            kept.add(pid)
            pid = by_pid[pid].parent_pid
    return [one for one in everything if one.pid in kept]


def _spaces(
    everything: Sequence[Process], names: Mapping[int, str], wanted: Sequence[Process]
) -> tuple[PidNamespace, ...]:
    """The pid namespaces of `wanted`; the host's is the one that a process of one level is in."""
    around = _parents(everything)
    called = {one.namespaces["pid"]: names[one.pid] for one in reversed(everything) if one.pid in names}
    top = next(one.namespaces["pid"] for one in everything if len(one.nspid) == 1)
    made = {top: PidNamespace(top, HOST, 0, None)}

    def add(id: int) -> None:
        if id in made or id not in around:
            return
        add(around[id])
        outer = made.get(around[id])
        if outer is None:
            return
        name = called.get(id) or (f"inside {outer.name}" if outer.level else f"namespace {id}")
        taken = {space.name for space in made.values()}
        free = (name, *(f"{name} ({number})" for number in range(2, len(made) + 2)))
        made[id] = PidNamespace(id, next(one for one in free if one not in taken), outer.level + 1, outer.id)

    for one in wanted:
        add(one.namespaces["pid"])
    return tuple(made.values())


def _in_order(processes: Sequence[Process]) -> list[Process]:
    """Parents before children; children that share a pid namespace side by side."""
    there = {one.pid for one in processes}
    children: dict[int, list[Process]] = {}
    for one in processes:
        children.setdefault(one.parent_pid if one.parent_pid in there else 0, []).append(one)
    ordered: list[Process] = []

    def walk(parent: int) -> None:
        for one in sorted(children.get(parent, []), key=lambda p: (p.namespaces["pid"], p.pid)):
            ordered.append(one)
            walk(one.pid)

    walk(0)
    return ordered
