"""Sharing a namespace with another container, and entering the namespaces of a running container."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import EngineRefused
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.namespaces.identity import BASIC_KINDS, HOST, NamespaceMatrix, matrix, namespaces_of
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

FIRST = "first"


@record
class JoinedNamespace:
    """A container that was started with an option that joins a namespace."""

    option: str = column("option of `docker run`")
    kind: str = column("kind of namespace that the option names")
    target: str = column("container, or the host, whose namespace it joins")
    shared: tuple[str, ...] = column(
        "kinds that it shares with the target, out of pid, net, ipc, mnt and uts"
    )


@record
class Sharing(Result):
    """Options of `docker run` that join a namespace, and the namespaces that are shared as a result."""

    matrix: NamespaceMatrix = column(
        "namespaces of the host, of the container `first`, and of one container for each option", shown=False
    )
    joined: tuple[JoinedNamespace, ...] = rows("one container for each option", of=JoinedNamespace)
    refusal: str = column(
        "Docker's message for `--ipc container:` with a container that is not shareable, or an empty string"
    )

    def shares(self, option: str) -> tuple[str, ...]:
        """Of the five basic kinds, those that the container with this option shares with its target."""
        return next(each.shared for each in self.joined if each.option == option)

    @property
    def as_requested(self) -> bool:
        """Whether each option shares the kind that it names and no other of the five."""
        return all(each.shared == (each.kind,) for each in self.joined)


@experiment
def sharing(lab: Lab) -> Sharing:
    """Start a container, and four that each join a namespace: three of that container, and one of the host.

    A fifth asks for the IPC namespace of a container that is not shareable, and is refused.
    """
    joins = [f"docker run -d --{kind} container:" for kind in ("pid", "network", "ipc")]
    with temporary_containers(lab, joins) as run:
        image = lab.image("payload")
        first = run(image, "sleep 9120", ipc="shareable")
        requests = {
            f"--pid container:{FIRST}": ("pid", FIRST, {"pid": f"container:{first.name}"}),
            f"--network container:{FIRST}": ("net", FIRST, {"network": f"container:{first.name}"}),
            f"--ipc container:{FIRST}": ("ipc", FIRST, {"ipc": f"container:{first.name}"}),
            # `private` is the default, unless the engine is configured otherwise
            "--uts host": ("uts", HOST, {"uts": "host", "ipc": "private"}),
        }
        containers = {
            option: run(image, "sleep 9121", **options) for option, (_, _, options) in requests.items()
        }
        compared = matrix(lab, **{FIRST: first}, **containers)
        private = containers["--uts host"]
        try:
            run(image, "sleep 9123", ipc=f"container:{private.name}")
            refusal = ""
        except EngineRefused as error:
            refusal = (error.engine_message or "").replace(str(private.name), "first")
    joined = tuple(
        JoinedNamespace(
            option, kind, target, tuple(k for k in compared.shared(option, target) if k in BASIC_KINDS)
        )
        for option, (kind, target, _) in requests.items()
    )
    return Sharing(compared, joined, refusal)


@record
class EnteredProcess:
    """A process of a container: its first process, or a process that entered the container later."""

    name: str = column("`first process`, or the command that started the process")
    pid_inside: int = column("PID in the container")
    parent_inside: int = column(
        "PID of its parent in the container; 0 where the container cannot see the parent"
    )
    same_cgroup: bool = column("whether it is in the cgroup of the first process")


@record
class EnteredNamespaces(Result):
    """A container's first process, and processes that `docker exec` and `nsenter` put into its namespaces."""

    matrix: NamespaceMatrix = column("namespaces of the host and of the three processes", shown=False)
    processes: tuple[EnteredProcess, ...] = rows("the first process, then the others", of=EnteredProcess)

    def of(self, name: str) -> EnteredProcess:
        """The process called `first process`, `docker exec` or `nsenter`."""
        return next(process for process in self.processes if process.name == name)

    @property
    def all_equal(self) -> bool:
        """Whether the three processes share their namespaces of every kind."""
        names = [row.name for row in self.matrix.rows[1:]]
        return all(self.matrix.shared(names[0], name) == self.matrix.kinds for name in names[1:])


@experiment
def enter_namespaces(lab: Lab) -> EnteredNamespaces:
    """Put a process into a running container in two ways, and compare its namespaces with the first process's.

    `docker exec` starts a process that calls setns(2) for each namespace of the container. `nsenter` does the
    same from a helper that sees the host's processes and may enter them (SYS_ADMIN, SYS_PTRACE, SYS_CHROOT).

    Raises:
        EngineRefused: the engine does not permit a container with these capabilities.
        TimedOut: the two processes did not appear in the container.
    """
    exec_, nsenter = "sleep 9131", "sleep 9132"
    with temporary_containers(lab, ["docker exec -d"]) as run:
        container = run(lab.image("payload"), "sleep 9130")
        first = lab.host.process(container)
        lab.exec(container, exec_, detach=True)
        # it stays in the container's PID namespace, so it ends with the container
        helper = run(
            lab.image("tools"),
            "sleep 9133",
            pid="host",
            cap_drop=["ALL"],
            cap_add=["SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT"],
            security_opt=["apparmor=unconfined"],
        )
        lab.exec(helper, f"nsenter --all --target {first.pid} {nsenter}", detach=True)
        lab.wait_for(
            "both processes in the container",
            lambda: {exec_, nsenter} <= {process.command for process in _same_pid_namespace(lab, first)},
        )
        inside = _same_pid_namespace(lab, first)
        by_command = {process.command: process for process in inside}
        pids = {process.pid: process.inside_pid for process in inside}
        in_cgroup = {process.pid for process in lab.host.processes(container)}
        compared = {
            "first process": first,
            "docker exec": by_command[exec_],
            "nsenter": by_command[nsenter],
        }
        return EnteredNamespaces(
            NamespaceMatrix(
                (
                    namespaces_of(lab),
                    *(
                        replace(namespaces_of(lab, process.pid), name=name)
                        for name, process in compared.items()
                    ),
                )
            ),
            tuple(
                EnteredProcess(
                    name, process.inside_pid, pids.get(process.parent_pid, 0), process.pid in in_cgroup
                )
                for name, process in compared.items()
            ),
        )


def _same_pid_namespace(lab: Lab, first: Process) -> list[Process]:
    namespace = first.namespaces["pid"]
    return [process for process in lab.host.processes() if process.namespaces.get("pid") == namespace]
