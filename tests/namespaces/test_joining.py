"""Sharing, entering, and the three kinds that a container need not have."""

from __future__ import annotations

import pytest

from labhelpers import namespaces
from labhelpers.lab import Lab
from labhelpers.namespaces.joining import EnteredNamespaces, Sharing
from labhelpers.namespaces.optional_namespaces import (
    ADMIN,
    DEFAULT,
    LEAST_PRIVILEGE,
    NO_FILTER,
    UserNamespaces,
)


@pytest.fixture(scope="module")
def sharing(shared_lab: Lab) -> Sharing:
    return namespaces.sharing(shared_lab)


def test_each_option_shares_what_it_names(sharing: Sharing) -> None:
    assert {each.option: sharing.shares(each.option) for each in sharing.joined} == {
        "--pid container:first": ("pid",),
        "--network container:first": ("net",),
        "--ipc container:first": ("ipc",),
        "--uts host": ("uts",),
    }
    assert sharing.as_requested
    assert list(sharing.frame()["shared"]) == [("pid",), ("net",), ("ipc",), ("uts",)]
    first, joined = (sharing.matrix.row(who).ids for who in ("first", "--pid container:first"))
    assert first["pid"] == joined["pid"]
    assert first["net"] != joined["net"]


def test_what_is_not_shareable_is_refused(sharing: Sharing) -> None:
    assert "shareable" in sharing.refusal


@pytest.fixture(scope="module")
def entered(shared_lab: Lab) -> EnteredNamespaces:
    return namespaces.enter_namespaces(shared_lab)


def test_exec_and_nsenter_are_in_the_same_namespaces(entered: EnteredNamespaces) -> None:
    first, by_exec, by_nsenter = entered.matrix.rows[1:]
    assert first.ids == by_exec.ids == by_nsenter.ids
    assert first.ids["pid"] != entered.matrix.rows[0].ids["pid"]
    assert len({first.pid, by_exec.pid, by_nsenter.pid}) == 3
    assert entered.all_equal


def test_who_is_whose_child_and_in_which_cgroup(entered: EnteredNamespaces) -> None:
    assert entered.of("first process").pid_inside == 1
    assert entered.of("docker exec").pid_inside > 1
    assert {each.name: each.parent_inside for each in entered.processes} == {
        "first process": 0,
        "docker exec": 0,
        "nsenter": 0,
    }
    assert {each.name: each.same_cgroup for each in entered.processes} == {
        "first process": True,
        "docker exec": True,
        "nsenter": False,
    }
    assert list(entered.frame()["same_cgroup"]) == [True, True, False]


def test_who_may_make_a_user_namespace(user: UserNamespaces) -> None:
    default = user.of(DEFAULT)
    assert not default.succeeded
    assert "not permitted" in default.error
    assert user.explained
    if user.kernel_forbids:
        pytest.skip(f"the kernel of this engine forbids user namespaces: {', '.join(user.kernel_forbids)}")
    assert user.seccomp_blocks
    assert [user.of(each).succeeded for each in (ADMIN, NO_FILTER, LEAST_PRIVILEGE)] == [True] * 3
    fewest = user.of(LEAST_PRIVILEGE)
    assert (fewest.user, fewest.user_inside, fewest.seccomp) == (65534, 0, 0)
    assert fewest.uid_map == (0, 65534, 1)
    assert fewest.all_capabilities
    assert len(user.frame()) == 4


def test_cgroup(shared_lab: Lab) -> None:
    cgroup = namespaces.cgroup(shared_lab)
    assert cgroup.of("private").path == "/"
    assert {each.option: each.shows_own_id for each in cgroup.containers} == {"host": True, "private": False}
    assert {each.option: each.same_as_host for each in cgroup.containers} == {"host": True, "private": False}
    assert cgroup.version == int(shared_lab.client.info()["CgroupVersion"])
    assert cgroup.default in [each.option for each in cgroup.containers]
    assert len(cgroup.frame()) == 2


def test_time(shared_lab: Lab) -> None:
    time = namespaces.time(shared_lab, offset_s=7200)
    if not time.kernel_supports:
        pytest.skip("the kernel of this engine has no time namespaces")
    if time.error:
        pytest.skip(f"the engine or its kernel refuses time namespaces: {time.error}")
    assert time.measured_offset_s == 7200
