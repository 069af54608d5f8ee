"""What takes all it can get is held by its outer bound, also where its own limit is missing."""

from __future__ import annotations

import time

import pytest

from labhelpers import cgroups
from labhelpers.cgroups.memory import allocate
from labhelpers.cgroups.pids import FORK_BOMB
from labhelpers.cgroups.safety_limits import MIB, SafetyLimits, kill_after, verify_limits
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab

SMALL = SafetyLimits(40 * MIB, 24, 30.0)


def test_memory_is_held_where_the_inner_limit_is_missing(shared_lab: Lab) -> None:
    # the hog wants 160 MiB and has no limit of its own
    with cgroups.load(shared_lab, allocate(4 * SMALL.memory_bytes), image="tools", bound=SMALL) as container:
        assert shared_lab.host.cgroup(container).memory.limit_bytes == SMALL.memory_bytes
        assert shared_lab.wait(container, limit_s=60) == 137


def test_processes_are_held_where_the_inner_limit_is_missing(shared_lab: Lab) -> None:
    bound = SafetyLimits(96 * MIB, 24, 30.0)
    with cgroups.load(
        shared_lab, ["python3", "-c", FORK_BOMB], image="tools", bound=bound, cpus=0.5
    ) as container:
        shared_lab.wait_for("24 processes", lambda: shared_lab.host.cgroup(container).pids.current == 24, 60)
        for _ in range(5):
            time.sleep(0.1)
            assert shared_lab.host.cgroup(container).pids.current <= 24


def test_time_is_held_inside(shared_lab: Lab) -> None:
    bound = SafetyLimits(32 * MIB, 16, 1.0)
    with cgroups.load(
        shared_lab, ["sh", "-c", "trap '' TERM; while :; do :; done"], bound=bound, cpus=0.2
    ) as container:
        assert shared_lab.wait(container, limit_s=30) in (137, 143)


def test_time_is_held_outside(shared_lab: Lab) -> None:
    # nothing inside ends it
    container = shared_lab.run(shared_lab.image("payload"), ["sleep", "300"], network="none")
    try:
        with kill_after(shared_lab, container, 0.5):
            assert shared_lab.wait(container, limit_s=30) == 137
    finally:
        shared_lab.remove(container, force=True)


def test_each_process_is_held_where_the_cgroup_has_no_limit(shared_lab: Lab) -> None:
    # the third line alone: the address space of a process (setrlimit(2)), in a container without a limit
    script = f'ulimit -v {256 * 1024}; exec "$@"'
    container = shared_lab.run(
        shared_lab.image("tools"), ["-c", script, "sh", *allocate(512 * MIB)], entrypoint="sh", network="none"
    )
    try:
        assert shared_lab.wait(container, limit_s=60) == 1
        assert "MemoryError" in container.logs().decode()
    finally:
        shared_lab.remove(container, force=True)


@pytest.mark.parametrize(
    "limits",
    [{}, {"memory": "16m"}, {"memory": "64m", "pids_limit": 8}, {"memory": "16m", "pids_limit": 8}],
)
def test_a_bound_that_did_not_take_effect_is_seen_on_the_host(
    shared_lab: Lab, limits: dict[str, object]
) -> None:
    container = shared_lab.run(shared_lab.image("payload"), ["sleep", "60"], network="none", **limits)
    try:
        if limits == {"memory": "16m", "pids_limit": 8}:
            verify_limits(shared_lab, container, SMALL)
        else:
            with pytest.raises(LabError, match="was not started"):
                verify_limits(shared_lab, container, SMALL)
    finally:
        shared_lab.remove(container, force=True)


def test_a_hog_whose_bound_fails_never_runs(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # the engine is not told of the bound: what an engine does that discards limits
    monkeypatch.setattr("labhelpers.cgroups.safety_limits._apply_safety_limits", lambda bound, options: {})
    before = len(shared_lab.commands)
    with (
        pytest.raises(LabError, match="was not started"),
        cgroups.load(shared_lab, ["touch", "/ran"], bound=SMALL),
    ):
        raise AssertionError("it was given")
    assert shared_lab.commands[-1].startswith("docker rm -f")
    assert len(shared_lab.commands) == before + 2


@pytest.mark.parametrize("limits", [{"memory": "1g"}, {"pids_limit": 5000}, {"pids_limit": -1}])
def test_a_limit_above_the_bound_is_refused(shared_lab: Lab, limits: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="above the bound"), cgroups.load(shared_lab, ["true"], **limits):
        raise AssertionError("it was given")


def test_a_hog_has_no_capability(shared_lab: Lab) -> None:
    with cgroups.load(shared_lab, ["grep", "CapEff", "/proc/self/status"]) as container:
        assert shared_lab.wait(container, limit_s=30) == 0
        assert int(container.logs().decode().split()[1], 16) == 0


def test_a_hog_is_gone_after_the_block_also_where_it_failed(shared_lab: Lab) -> None:
    name = f"gone-{shared_lab.session}"
    with pytest.raises(ZeroDivisionError), cgroups.load(shared_lab, ["sleep", "60"], name=name):
        raise ZeroDivisionError
    assert not shared_lab.client.containers.list(all=True, filters={"name": name}, ignore_removed=True)
