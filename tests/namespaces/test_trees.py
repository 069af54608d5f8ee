"""The process tree, compared with docker top, lsns and the /proc of a process inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers import namespaces
from labhelpers.errors import BadInput, NameTaken
from labhelpers.lab import Lab
from labhelpers.namespaces.trees import ProcessTree, short_command


def test_three_levels(tree: ProcessTree, nested: Container) -> None:
    assert tree.levels == 3
    assert [each.level for each in tree.namespaces] == [0, 1, 2]
    assert [each.name for each in tree.namespaces] == ["host", nested.name, f"inside {nested.name}"]
    for process in tree.processes:
        assert len(process.nspid) == tree.namespace_of(process).level + 1


def test_the_host_sees_what_docker_top_sees(tree: ProcessTree, nested: Container) -> None:
    top = {int(pid): int(parent) for pid, parent in nested.top(ps_args="-eo pid,ppid")["Processes"]}
    visible = {each.pid: each.parent_pid for each in tree.visible_in("host")}
    assert {pid: visible[pid] for pid in top} == top
    inside = {each.process.pid for each in tree.visible_in(str(nested.name))}
    assert inside == set(top)


def test_each_level_sees_what_proc_lists_there(
    shared_lab: Lab, tree: ProcessTree, nested: Container, observer: Container
) -> None:
    assert namespaces.pids_in_container(shared_lab, nested) == sorted(
        each.pid for each in tree.visible_in(str(nested.name))
    )
    innermost = tree.visible_in(tree.namespaces[2].name)
    # the /proc that `unshare --mount-proc` mounted, from within both of its namespaces
    ps = shared_lab.exec(
        observer, f"nsenter -t {innermost[0].process.pid} --pid --mount ps -eo pid,ppid,args"
    )
    rows = [line.split(None, 2) for line in ps.stdout.splitlines()[1:]]
    listed = {int(pid): int(parent) for pid, parent, command in rows if "ps -eo" not in command}
    assert listed == {each.pid: each.parent_pid for each in innermost} == {1: 0, 2: 1}


def test_the_child_does_not_see_the_parent(tree: ProcessTree, nested: Container) -> None:
    outside = [p for p in tree.processes if len(p.nspid) == 1]
    assert any("shim" in process.command for process in outside)
    middle, inner = tree.namespaces[1:]
    assert [tree.pid_in(process, middle) for process in outside] == [None] * len(outside)
    assert {each.process.pid for each in tree.visible_in(inner.name)} < {
        each.process.pid for each in tree.visible_in(middle.name)
    }
    assert tree.visible_in(middle.name)[0].parent_pid == 0


def test_the_namespace_around_each_is_the_one_that_lsns_names(
    tree: ProcessTree, lsns: Callable[[str], list[dict[str, Any]]]
) -> None:
    rows = {int(row["ns"]): int(row["pns"]) for row in lsns("-t pid -o NS,PNS")}
    for namespace in tree.namespaces[1:]:
        assert rows[namespace.id] == namespace.parent


def test_a_process_of_docker_exec_has_no_parent_inside(shared_lab: Lab, nested: Container) -> None:
    nested.exec_run(["sleep", "9201"], detach=True)
    shared_lab.wait_for(
        "the process", lambda: "sleep 9201" in [p.command for p in shared_lab.host.processes(nested)]
    )
    tree = namespaces.process_tree(shared_lab, nested)
    (new,) = [each for each in tree.visible_in(str(nested.name)) if each.process.command == "sleep 9201"]
    assert new.parent_pid == 0
    assert new.pid != 1
    shared_lab.exec(nested, f"kill {new.pid}")


def test_the_whole_host_and_two_containers(shared_lab: Lab, nested: Container, observer: Container) -> None:
    whole = namespaces.process_tree(shared_lab)
    assert {p.pid for p in shared_lab.host.processes(nested)} < {p.pid for p in whole.processes}
    assert whole.levels >= 3
    both = namespaces.process_tree(shared_lab, nested, observer)
    mine = {p.pid for each in (nested, observer) for p in shared_lab.host.processes(each)}
    assert mine < {p.pid for p in both.processes}
    # the observer is in the host's PID namespace
    assert [each.name for each in both.namespaces] == ["host", nested.name, f"inside {nested.name}"]
    assert len(both.processes) < len(whole.processes)


def test_two_namespaces_in_one_have_two_names(shared_lab: Lab) -> None:
    script = "unshare -p -f sleep 9202 & unshare -p -f sleep 9203 & wait"
    name = f"two-{shared_lab.session}"
    two = shared_lab.run(
        shared_lab.image("tools"), ["sh", "-c", script], name=name, cap_drop=["ALL"], cap_add=["SYS_ADMIN"]
    )
    # as many processes as there will be: the shell, two unshare and two sleep
    shared_lab.wait_for("both", lambda: len(shared_lab.host.processes(two)) == 5)
    names = [each.name for each in namespaces.process_tree(shared_lab, two).namespaces]
    shared_lab.remove(two, force=True)
    assert names == ["host", name, f"inside {name}", f"inside {name} (2)"]


def test_frames(tree: ProcessTree) -> None:
    frame = tree.frame()
    assert list(frame.columns) == [
        "process",
        *(f"pid_{each.name.replace(' ', '_')}" for each in tree.namespaces),
    ]
    assert list(frame.iloc[-1])[1:] == list(tree.processes[-1].nspid)
    assert len(tree.views.frame()) == sum(
        len(tree.visible_in(namespace.name)) for namespace in tree.namespaces
    )


def test_no_path_of_the_host_is_shown(tree: ProcessTree) -> None:
    assert not [short_command(process) for process in tree.processes if "/" in short_command(process)]


def test_what_is_not_there_is_said(tree: ProcessTree, shared_lab: Lab, nested: Container) -> None:
    with pytest.raises(BadInput, match="no PID namespace is called"):
        tree.visible_in("nowhere")
    with pytest.raises(NameTaken):
        namespaces.start_nested(shared_lab, name=str(nested.name))
