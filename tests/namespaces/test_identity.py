"""The namespaces of a process and the processes that share them, compared with lsns, which reads the kernel itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers import namespaces
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.namespaces.identity import BASIC_KINDS, KINDS, NamespaceMatrix
from labhelpers.namespaces.trees import ProcessTree

Lsns = Callable[[str], list[dict[str, Any]]]


def by_lsns(lsns: Lsns, pid: int) -> dict[str, int]:
    return {row["type"]: int(row["ns"]) for row in lsns(f"-p {pid} -o NS,TYPE")}


@pytest.fixture(scope="module")
def matrix(shared_lab: Lab, nested: Container, observer: Container, tree: ProcessTree) -> NamespaceMatrix:
    innermost = tree.visible_in(tree.namespaces[-1].name)[0].process.pid
    return namespaces.matrix(shared_lab, nested, str(observer.id), innermost, twin=nested)


def test_every_row_equals_the_output_of_lsns(matrix: NamespaceMatrix, lsns: Lsns) -> None:
    assert len(matrix.rows) == 5
    for row in matrix.rows:
        assert row.ids == by_lsns(lsns, row.pid), row.name


def test_a_row_equals_namespaces_of(shared_lab: Lab, nested: Container, matrix: NamespaceMatrix) -> None:
    alone = namespaces.namespaces_of(shared_lab, nested)
    assert alone == matrix.rows[1]
    assert namespaces.namespaces_of(shared_lab, alone.pid).ids == alone.ids
    assert namespaces.namespaces_of(shared_lab) == matrix.rows[0]
    assert alone.pid == shared_lab.client.api.inspect_container(str(nested.id))["State"]["Pid"]
    assert list(alone.frame()["kind"]) == [kind for kind in KINDS if kind in alone.ids]


def test_who_shares_what(matrix: NamespaceMatrix, nested: Container) -> None:
    name = str(nested.name)
    assert not set(matrix.shared(name)) & set(BASIC_KINDS)
    assert matrix.shared("twin", name) == matrix.kinds
    innermost = matrix.rows[3].name
    assert innermost.startswith("pid ")
    # unshare --pid --mount-proc made these two anew
    assert set(matrix.kinds) - set(matrix.shared(innermost, name)) == {"pid", "mnt"}
    assert matrix.owner(matrix.row("twin"), "net") is matrix.row(name)
    # the observer was started with --pid host
    assert set(matrix.shared(matrix.rows[2].name)) & set(BASIC_KINDS) == {"pid"}
    assert list(matrix.frame().columns) == ["name", "pid_on_host", *matrix.kinds]


def test_an_unknown_row_is_refused(matrix: NamespaceMatrix) -> None:
    with pytest.raises(BadInput, match="no row is called 'nobody'") as refused:
        matrix.row("nobody")
    assert "twin" in refused.value.hint


@pytest.mark.parametrize("where", ["", True, 0, 1.5, -3])
def test_what_is_no_container_and_no_pid(shared_lab: Lab, where: Any) -> None:
    with pytest.raises(LabError):
        namespaces.namespaces_of(shared_lab, where)


def test_a_container_that_is_not_there_or_ended(shared_lab: Lab) -> None:
    with pytest.raises(LabError, match="there is no container named nobody"):
        namespaces.namespaces_of(shared_lab, "nobody")
    ended = shared_lab.run(shared_lab.image("payload"), "true")
    ended.wait()
    with pytest.raises(LabError, match="is not running"):
        namespaces.matrix(shared_lab, ended)
    shared_lab.remove(ended)
