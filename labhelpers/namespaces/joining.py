"""Sharing a namespace on purpose, and entering those of a container that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from labhelpers.errors import EngineRefused
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.namespaces.identity import BASIC_KINDS, HOST, NamespaceMatrix, matrix, namespaces_of
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

FIRST = "first"


@record
class Sharing(Result):
    """Containers that were asked to share a namespace, and what they share."""

    matrix: NamespaceMatrix = column(
        "the host, the container that is joined (`first`), and one row for each option", shown=False
    )
    asked: Mapping[str, tuple[str, str]] = column(
        "option → the kind that it names, and with whom it is to be shared", shown=False
    )
    refused: str = column("what the engine said to `--ipc container:` of a container that is not shareable")

    def shares(self, option: str) -> tuple[str, ...]:
        """Those of the five kinds that the container with this option shares with the one it was asked for."""
        found = self.matrix.shared(option, self.asked[option][1])
        return tuple(kind for kind in found if kind in BASIC_KINDS)

    @property
    def as_asked(self) -> bool:
        """Whether each option shares the kind that it names, of the five, and no other."""
        return all(self.shares(option) == (kind,) for option, (kind, _) in self.asked.items())

    def frame(self) -> pd.DataFrame:
        """One row an option: option, shared_with, shares (of the five)."""
        rows = [(option, who, ", ".join(self.shares(option))) for option, (_, who) in self.asked.items()]
        return table(rows, ["option", "shared_with", "shares"])


def sharing(lab: Lab) -> Sharing:
    """Start a container, and four that join one namespace each: three of its own, and one of the host's.

    The fifth asks for the IPC namespace of a container that was not made shareable, and is refused.
    """
    joins = [f"docker run -d --{kind} container:" for kind in ("pid", "network", "ipc")]
    with temporary_containers(lab, joins) as run:
        image = lab.image("payload")
        first = run(image, "sleep 9120", ipc="shareable")
        options = {
            f"--pid container:{FIRST}": ("pid", FIRST, {"pid": f"container:{first.name}"}),
            f"--network container:{FIRST}": ("net", FIRST, {"network": f"container:{first.name}"}),
            f"--ipc container:{FIRST}": ("ipc", FIRST, {"ipc": f"container:{first.name}"}),
            # `private` is what containers are anyway, unless the engine is set otherwise
            "--uts host": ("uts", HOST, {"uts": "host", "ipc": "private"}),
        }
        made = {name: run(image, "sleep 9121", **words) for name, (_, _, words) in options.items()}
        seen = matrix(lab, **{FIRST: first}, **made)
        private = made["--uts host"]
        try:
            run(image, "sleep 9123", ipc=f"container:{private.name}")
            refused = ""
        except EngineRefused as error:
            refused = (error.engine_message or "").replace(str(private.name), "first")
    return Sharing(seen, {name: (kind, who) for name, (kind, who, _) in options.items()}, refused)


@record
class EnteredNamespaces(Result):
    """A process that `docker exec` put into a container, and one that `nsenter` did, beside its first process."""

    matrix: NamespaceMatrix = column("rows `host`, `first process`, `docker exec`, `nsenter`", shown=False)
    inside_pids: Mapping[str, int] = column("the same but the host → the pid in the container", shown=False)
    parents: Mapping[str, int] = column(
        "the same → the parent's pid as the container counts; 0 where it does not see the parent", shown=False
    )
    same_cgroup: Mapping[str, bool] = column(
        "the same → whether it is in the cgroup of the first process", shown=False
    )

    @property
    def all_the_same(self) -> bool:
        """Whether the three are in one and the same namespace of every kind."""
        names = [row.who for row in self.matrix.rows[1:]]
        return all(self.matrix.shared(names[0], name) == self.matrix.kinds for name in names[1:])

    def frame(self) -> pd.DataFrame:
        """One row a process: who, pid_inside, parent_inside, same_cgroup, namespaces_shared."""
        first = self.matrix.rows[1].who
        rows = [
            (
                name,
                self.inside_pids[name],
                self.parents[name],
                self.same_cgroup[name],
                len(self.matrix.shared(first, name)),
            )
            for name in self.inside_pids
        ]
        return table(rows, ["who", "pid_inside", "parent_inside", "same_cgroup", "namespaces_shared"])


def enter_namespaces(lab: Lab) -> EnteredNamespaces:
    """Put a process into a running container in two ways, and compare its namespaces with the first process's.

    `docker exec` starts a process that calls setns(2) for each namespace of the container. `nsenter` does the
    same by hand, from a helper that sees the host's processes and may enter (SYS_ADMIN, SYS_PTRACE, SYS_CHROOT).

    Raises:
        LabError: the engine does not let a container enter another one.
    """
    exec_, nsenter = "sleep 9131", "sleep 9132"
    with temporary_containers(lab, ["docker exec -d"]) as run:
        container = run(lab.image("payload"), "sleep 9130")
        first = lab.host.process(container)
        lab.exec(container, exec_, detach=True)
        # it stays in the container's pid namespace, so it ends with the container
        helper = run(
            lab.image("tools"),
            "sleep 9133",
            pid="host",
            cap_drop=["ALL"],
            cap_add=["SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT"],
            security_opt=["apparmor=unconfined"],
        )
        lab.exec(helper, f"nsenter --all --target {first.pid} {nsenter}", detach=True)
        lab.wait_for("both processes in the container", lambda: len(_of(lab, first, exec_, nsenter)) == 2)
        by_exec, by_nsenter = _of(lab, first, exec_, nsenter)
        found = {"first process": first, "docker exec": by_exec, "nsenter": by_nsenter}
        rows = tuple(replace(namespaces_of(lab, one.pid), who=name) for name, one in found.items())
        own = {one.pid for one in lab.host.processes(container)}
        inner = {one.pid: one.inside_pid for one in _in_space(lab, first)}
        return EnteredNamespaces(
            NamespaceMatrix((namespaces_of(lab), *rows)),
            {name: one.inside_pid for name, one in found.items()},
            {name: inner.get(one.parent_pid, 0) for name, one in found.items()},
            {name: one.pid in own for name, one in found.items()},
        )


def _in_space(lab: Lab, first: Process) -> list[Process]:
    space = first.namespaces["pid"]
    return [one for one in lab.host.processes() if one.namespaces.get("pid") == space]


def _of(lab: Lab, first: Process, *commands: str) -> list[Process]:
    """The processes with these commands in the pid namespace of `first`, in the order of the commands."""
    there = {one.command: one for one in _in_space(lab, first)}
    return [there[command] for command in commands if command in there]
