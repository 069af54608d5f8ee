"""Each experiment, on the real engine. A quota is an upper bound: that it is reached is never asserted."""

from __future__ import annotations

import pytest

from labhelpers import cgroups
from labhelpers.cgroups.safety_limits import MIB
from labhelpers.errors import BadInput
from labhelpers.lab import Lab


def test_quota(shared_lab: Lab) -> None:
    result = cgroups.quota(shared_lab, quotas_cpus=(0.1, 0.4), seconds=0.6)
    assert [step.quota_cpus for step in result.steps] == [0.1, 0.4]
    assert all(step.within_quota for step in result.steps)
    tenth = result.step(0.1).usage
    # a machine may be too busy to give it even that
    assert tenth.cpus < 0.09 or (tenth.throttled_periods > 0 and tenth.throttled_s > 0)
    frame = result.frame()
    assert list(frame["quota_cpus"]) == [0.1, 0.4]
    assert list(frame["measured_cpus"]) == [step.usage.cpus for step in result.steps]
    with pytest.raises(BadInput, match="CPUs"):
        cgroups.quota(shared_lab, quotas_cpus=(1000,))


def test_shares(shared_lab: Lab) -> None:
    result = cgroups.shares(shared_lab, ratios=((1, 1), (4, 1)), seconds=0.6)
    assert result.max_deviation_percent < 10
    even, more = result.steps
    assert even.weights[0] == even.weights[1]
    assert more.measured_percent > even.measured_percent + 15
    assert result.alone_cpus > 0


def test_cpuset(shared_lab: Lab) -> None:
    result = cgroups.cpuset(shared_lab, seconds=0.4)
    assert result.cpus_after == {result.pinned_cpu}
    assert result.allowed == str(result.pinned_cpu)
    assert result.mean_cpus_after < 1.1
    ax = result.plot()
    assert any(f"--cpuset-cpus {result.pinned_cpu}" in text.get_text() for text in ax.texts)


def test_update(shared_lab: Lab) -> None:
    result = cgroups.update(shared_lab, quotas_cpus=(0.5, 0.1), seconds=0.5)
    assert result.same_process
    assert result.usage(1).cpus <= 0.1 * 1.5 + 0.05
    readings = result.samples.of(result.name)
    quotas = {each.cgroup.cpu.limit_cpus for each in readings}
    assert quotas == {0.5, 0.1}
    changed = next(each.time_s for each in readings if each.cgroup.cpu.limit_cpus == 0.1)
    assert changed == pytest.approx(result.changed_at_s[0], abs=0.5)
    ax = result.plot()
    assert any(list(line.get_xdata()) == [result.changed_at_s[0]] * 2 for line in ax.lines)  # type: ignore[arg-type]


def test_neighbour(shared_lab: Lab) -> None:
    result = cgroups.measure_noisy_neighbour(shared_lab, seconds=0.5)
    alone, contended, limited, favoured = result.cases
    assert alone.load_cpus == 0
    assert 0.35 < contended.service_share < 0.62
    assert favoured.service_share > 0.53
    assert limited.load_cpus < 0.2
    assert all(len(each.latencies_ms) == 50 for each in result.cases)
    assert all(min(each.latencies_ms) >= result.work_ms * 0.99 for each in result.cases)
    assert len(result.frame()) == 4


def test_out_of_memory(shared_lab: Lab) -> None:
    result = cgroups.out_of_memory(shared_lab, limit_bytes=40 * MIB)
    assert (result.exit_code, result.oom_kills) == (137, 1)
    assert result.limit_bytes == 40 * MIB
    assert result.peak_bytes <= result.limit_bytes
    assert 0 < result.allocated_bytes <= result.limit_bytes
    assert bool(result.kernel_line) != bool(result.no_kernel_line_reason)
    if result.kernel_line:
        assert "(python3)" in result.kernel_line
    text = "\n".join(text.get_text() for text in result.plot().texts)
    assert "exit code 137" in text
    assert "limit: 40 MiB" in text


def test_reservation(shared_lab: Lab) -> None:
    result = cgroups.reservation(
        shared_lab, reservation_bytes=12 * MIB, target_bytes=24 * MIB, limit_bytes=64 * MIB
    )
    assert (result.reservation_bytes, result.limit_bytes) == (12 * MIB, 64 * MIB)
    assert result.peak_bytes > result.reservation_bytes
    assert result.oom_kills == 0


def test_pids_limit(shared_lab: Lab) -> None:
    result = cgroups.pids_limit(shared_lab, limit=24, seconds=0.3)
    assert result.peak == 24
    assert result.fork_failures > 0
    assert result.pids_events_max is None or result.pids_events_max > 0
    assert result.others_can_start


def test_devices(shared_lab: Lab) -> None:
    result = cgroups.devices(shared_lab)
    without = result.of()
    assert without is not None
    assert (without.mknod_succeeded, without.read, without.write) == (True, False, False)
    assert without.error == "Operation not permitted"
    assert result.only_granted_opened
    if (only_read := result.of(f"--device {result.path}:{result.path}:r")) is not None:
        assert (only_read.in_dev, only_read.read, only_read.write) == (True, True, False)
    assert (result.list_file is not None) == (str(shared_lab.engine.facts().cgroup_version) == "1")


def test_disk_limits(shared_lab: Lab) -> None:
    result = cgroups.disk_limits(shared_lab, limits_bytes_per_s=(2 * MIB,), seconds=0.6)
    if not result.steps:
        assert result.disk.unavailable_reason
        pytest.skip(f"no disk to limit here: {result.disk.unavailable_reason}")
    assert result.within_limits
    for direction in ("write", "read"):
        free, limited = result.of(direction)
        assert limited.measured_bytes_per_s < free.measured_bytes_per_s
        assert [at for at, _ in limited.points] == sorted(at for at, _ in limited.points)
    assert not [each for each in shared_lab.client.volumes.list() if shared_lab.session in each.name]


def test_bandwidth(shared_lab: Lab) -> None:
    result = cgroups.bandwidth(shared_lab, rate_mbit_per_s=20)
    assert result.limiting_controllers == ()
    assert "memory" in result.controllers
    if result.during is None:
        assert result.unavailable_reason
        pytest.skip(f"no token bucket here: {result.unavailable_reason}")
    assert "tbf" in result.qdisc
    assert result.within_rate
    assert result.during.mean_mbit_per_s < result.before.mean_mbit_per_s
    assert list(result.frame()["qdisc"]) == ["default", "token bucket"]
    assert not [each for each in shared_lab.client.networks.list() if shared_lab.session in (each.name or "")]


def test_compare_versions(shared_lab: Lab) -> None:
    result = cgroups.compare_versions(shared_lab)
    assert result.matches_expected
    by_option = {row.option.split()[0]: row for row in result.rows}
    assert by_option["--cpus"].v1_value == "50000 · 100000"
    assert by_option["--cpus"].v2_value == "50000 100000"
    assert by_option["--memory-swap"].v1_value == str(64 * MIB)
    assert by_option["--memory-swap"].v2_value == "0"
    frame = result.frame()
    assert list(frame["actual"]) == list(frame[f"v{result.version}_value"])


def test_limits(shared_lab: Lab) -> None:
    options = {
        "cpus": 0.25,
        "cpu_shares": 300,
        "memory": "48m",
        "memory_reservation": "24m",
        "cpuset_cpus": "0",
    }
    with cgroups.load(shared_lab, ["sleep", "60"], **options) as container:
        actual = cgroups.limits(shared_lab, container)
        by_id = cgroups.limits(shared_lab, str(container.id))
    assert actual.of("--cpus").description == "0.25 CPUs: 25 ms of processor time in every 100 ms"
    assert actual.of("--memory").description == "at most 48 MiB; killed beyond it"
    assert actual.of("--memory-reservation").description == "24 MiB when the host runs short of memory"
    assert actual.of("--pids-limit").description == "at most 64 processes and threads"
    assert actual.of("--cpuset-cpus").description == "only on CPU 0"
    assert actual.of("--cpu-shares").is_set
    assert (actual.of("--cpus").v1_file, actual.of("--cpus").v2_file) == (
        "cpu.cfs_quota_us, cpu.cfs_period_us",
        "cpu.max",
    )
    assert all(each.paths[0].startswith("/sys/fs/cgroup/") for each in actual.limits if each.paths)
    assert [each.texts for each in by_id.limits] == [each.texts for each in actual.limits]


def test_without_a_limit_nothing_is_set_but_devices(shared_lab: Lab) -> None:
    plain = shared_lab.run(shared_lab.image("payload"), ["sleep", "60"], network="none")
    try:
        actual = cgroups.limits(shared_lab, plain)
    finally:
        shared_lab.remove(plain, force=True)
    # an engine under systemd has a limit of tasks for everybody
    assert {each.option for each in actual.are_set} - {"--pids-limit"} == {"--device"}
    assert len(actual.frame()) == len(actual.limits)
