"""Whether PID 1 of a container does its duties: it ends on TERM, and reaps orphans. Both are tried on a clone."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from labhelpers.course.containers import cached_check, cloned_container
from labhelpers.errors import LabError, TimedOut
from labhelpers.namespaces.pid1 import signal_dispositions

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

STOP_S = 5


def ends_on_term(lab: Lab, container: Container) -> str | None:
    """Why TERM does not end PID 1 of a running container within `STOP_S`, for the reader; None if it does."""
    action = signal_dispositions(lab, container).disposition("SIGTERM")
    if action == "ignored":
        return "its process 1 ignores TERM"
    if action == "default":
        return "its process 1 has no handler for TERM, so the kernel does not deliver it"
    return cached_check(container, "term", lambda: _stop_times_out(lab, container))


def leaves_no_zombies(lab: Lab, container: Container) -> str | None:
    """How many zombies PID 1 of a running container leaves, for the reader; None if it reaps orphans."""
    zombies = sum(process.state == "Z" for process in _children(lab, container))
    if zombies:
        return f"{zombies} of its processes ended and stay as zombies"
    return cached_check(container, "zombies", lambda: _orphan_stays(lab, container))


def _stop_times_out(lab: Lab, container: Container) -> str | None:
    with cloned_container(lab, container) as clone:
        _start_clone(lab, container, clone)
        # not `docker stop`: the container may set another signal and another timeout
        clone.kill("SIGTERM")
        try:
            lab.wait_for("the clone to end", lambda: not lab.is_running(clone), STOP_S)
        except TimedOut:
            return (
                "its process 1 gets TERM and does not end: a stop waits until the engine kills it "
                f"(tried: {STOP_S} s)"
            )
    return None


def _orphan_stays(lab: Lab, container: Container) -> str | None:
    """Let a process of a clone lose its parent and end, and check whether it stays as a zombie."""
    with cloned_container(lab, container) as clone:
        _start_clone(lab, container, clone)
        with lab.hidden():
            if lab.exec(clone, ["sh", "-c", "sleep 0.1 & exit 0"]).exit_code:
                return "no shell could be started in it to try"

        def orphans() -> list[Process]:
            children = _children(lab, clone)
            return [child for child in children if child.state == "Z" or child.command == "sleep 0.1"]

        with suppress(TimedOut):
            lab.wait_for("the orphan to end", lambda: all(child.state == "Z" for child in orphans()), 10)
            # an init reaps at once; one that polls gets a second
            lab.wait_for("the orphan to be reaped", lambda: not orphans(), 1)
        count = len(orphans())
    return f"{count} of its processes ended and stay as zombies" if count else None


def _start_clone(lab: Lab, container: Container, clone: Container) -> None:
    """Start a clone, and wait until it has the same handler and as many processes as the container."""
    clone.start()
    action, count = signal_dispositions(lab, container).disposition("SIGTERM"), _process_count(lab, container)

    def is_ready() -> bool:
        return (
            signal_dispositions(lab, clone).disposition("SIGTERM") == action
            and _process_count(lab, clone) >= count
        )

    with suppress(LabError):  # it may end at once
        lab.wait_for("the clone to be ready", is_ready, STOP_S)


def _process_count(lab: Lab, container: Container) -> int:
    """The number of processes in the tree below PID 1, with PID 1; those of `docker exec` have another parent."""
    process_tree = {lab.host.process(container).pid}
    for process in lab.host.processes(container):
        if process.parent_pid in process_tree and process.state != "Z":
            process_tree.add(process.pid)
    return len(process_tree)


def _children(lab: Lab, container: Container) -> list[Process]:
    first = lab.host.process(container)
    return [process for process in lab.host.processes() if process.parent_pid == first.pid]
