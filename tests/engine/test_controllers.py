"""Hosts that do not have every cgroup controller: what is there is read, what is missing is named.

Such a kernel cannot be had here, so the forms are recorded: /proc/PID/cgroup and mountinfo as cgroups(7), systemd's
"hybrid" layout and a kernel booted with `cgroup_disable=memory` give them (docker/for-linux#1112).
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from labhelpers import cgroups
from labhelpers.cgroups.cpu import idlest_cpu
from labhelpers.cgroups.limits import allowed_cpus, cpu_numbers
from labhelpers.engine.host.cgroup_paths import is_below, locate_cgroup
from labhelpers.engine.host.cgroups import Cgroup, Cpu, Memory, Pids, cgroup
from labhelpers.errors import LabError
from labhelpers.lab import Lab

MOUNT = "30 25 0:26 {root} /sys/fs/cgroup/{name} ro,nosuid - cgroup cgroup rw,{controllers}\n"
UNIFIED = "29 25 0:25 / {point} ro,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = ("cpu,cpuacct", "memory", "pids", "blkio", "cpuset", "devices", "freezer", "hugetlb", "perf_event")
CPU = {
    "cpuacct.usage": "2000000\n",
    "cpuacct.usage_user": "1000000\n",
    "cpuacct.usage_sys": "1000000\n",
    "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    "cpu.cfs_quota_us": "50000\n",
    "cpu.cfs_period_us": "100000\n",
    "cpu.shares": "1024\n",
}
CPU_2 = {"cpu.stat": "usage_usec 2000\nuser_usec 1000\nsystem_usec 1000\n", "cpu.max": "50000 100000\n"}
PIDS = {"pids.current": "3\n", "pids.max": "max\n"}


def version_1(*controllers: str) -> tuple[str, str]:
    """/proc/PID/cgroup of a container, and the helper's mounts, of a host with these controllers; systemd's beside."""
    rows = [f"{n}:{names}:/docker/abc" for n, names in enumerate(controllers, 2)]
    table = "\n".join([*rows, "1:name=systemd:/docker/abc", "0::/system.slice/docker.service"]) + "\n"
    mounts = "".join(MOUNT.format(root="/", name=names, controllers=names) for names in controllers)
    return table, mounts + UNIFIED.format(point="/sys/fs/cgroup/unified")


def read(table: str, mounts: str, files: Mapping[str, str]) -> Cgroup:
    where = locate_cgroup(table, mounts)
    assert where is not None
    return cgroup(where, {path: files.get(path.rpartition("/")[2]) for path in where.files})


@pytest.mark.parametrize("missing", V1)
def test_version_1_without_one_controller(missing: str) -> None:
    there = [name for name in V1 if name != missing]
    seen = read(*version_1(*there), CPU | PIDS)
    assert seen.version == 1
    assert seen.path == "/docker/abc"
    assert (seen.get(Cpu) is None) is (missing == "cpu,cpuacct")
    assert (seen.get(Pids) is None) is (missing == "pids")


def test_version_1_without_memory_still_counts_the_rest() -> None:
    seen = read(*version_1("cpu,cpuacct", "pids"), CPU | PIDS)
    assert seen.cpu.limit_cpus == 0.5
    assert seen.pids.current == 3
    assert seen.get(Memory) is None
    with pytest.raises(LabError, match="no memory controller") as caught:
        _ = seen.memory
    assert "doctor" in caught.value.hint


def test_version_2_without_memory_still_counts_the_rest() -> None:
    table, mounts = "0::/system.slice/docker-abc.scope\n", UNIFIED.format(point="/sys/fs/cgroup")
    seen = read(table, mounts, CPU_2 | PIDS)
    assert (seen.version, seen.cpu.limit_cpus, seen.get(Memory)) == (2, 0.5, None)


def test_version_2_without_cpu() -> None:
    """A rootless engine to which systemd gave memory and pids: there is a cpu.stat, and no cpu.max."""
    table, mounts = "0::/user.slice/user-1000.slice/x\n", UNIFIED.format(point="/sys/fs/cgroup")
    seen = read(table, mounts, {"cpu.stat": CPU_2["cpu.stat"]} | PIDS)
    assert seen.get(Cpu) is None
    assert seen.pids.current == 3


@pytest.mark.parametrize("beside", ["net_cls", "cpuset", "freezer"])
def test_version_2_with_a_controller_of_version_1_beside_it(beside: str) -> None:
    table = f"1:{beside}:/\n0::/docker/abc\n"
    mounts = UNIFIED.format(point="/sys/fs/cgroup") + MOUNT.format(root="/", name=beside, controllers=beside)
    seen = read(table, mounts, CPU_2 | PIDS)
    assert (seen.version, seen.path, seen.cpu.limit_cpus) == (2, "/docker/abc", 0.5)


def test_a_host_without_any() -> None:
    assert locate_cgroup("", "") is None
    assert (
        locate_cgroup("1:name=systemd:/docker/abc\n", MOUNT.format(root="/", name="systemd", controllers="x"))
        is None
    )


def test_who_is_below_whom_without_memory() -> None:
    own, _ = version_1("cpu,cpuacct", "pids")
    assert is_below(own, own)
    assert is_below(own.replace("/docker/abc", "/docker/abc/inner"), own)
    assert not is_below(own.replace("/docker/abc", "/docker/other"), own)
    assert not is_below("", own)
    assert not is_below(own, "")


def test_experiments_say_which_controller_they_miss(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.missing_controllers(shared_lab, "memory", "cpu", "cpuset", "pids") is None
    monkeypatch.setitem(shared_lab.engine.info, "MemoryLimit", False)
    monkeypatch.setitem(shared_lab.engine.info, "PidsLimit", False)
    with pytest.raises(LabError, match="controller memory"):
        cgroups.out_of_memory(shared_lab)
    with pytest.raises(LabError, match="controller memory"):
        cgroups.reservation(shared_lab)
    with pytest.raises(LabError, match="controller pids"):
        cgroups.pids_limit(shared_lab)
    with cgroups.load(shared_lab, ["true"], start=False) as container:
        assert cgroups.limits(shared_lab, container).of("--memory").is_set  # the others go on


def test_the_cpus_that_a_container_may_use(shared_lab: Lab) -> None:
    script = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"]
    output = shared_lab.run_once("labhelpers/payload", script, network="none").stdout
    assert allowed_cpus(shared_lab) == output.split()[1]
    assert idlest_cpu(shared_lab) in cpu_numbers(allowed_cpus(shared_lab))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("1,4-5", [1, 4, 5]), ("2-2", [2]), ("", []), ("0, 2", [0, 2])],
)
def test_a_list_of_cpus(text: str, numbers: list[int]) -> None:
    assert cpu_numbers(text) == numbers


def test_containers_without_a_cgroup_of_their_own(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rootless engine on version 1: its processes are recognized by their pid namespace."""
    item = shared_lab.run("labhelpers/payload", ["sh", "-c", "sleep 501 & exec sleep 502"], network="none")
    shared_lab.wait_for("both processes", lambda: len(shared_lab.host.processes(item)) == 2, 30)
    by_cgroup = shared_lab.host.processes(item)
    monkeypatch.setitem(shared_lab.engine.info, "CgroupDriver", "none")
    assert shared_lab.host.processes(item) == by_cgroup
    with pytest.raises(LabError, match="does not create cgroups for containers"):
        shared_lab.host.cgroup(item)
