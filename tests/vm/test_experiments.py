"""Guests and containers, on the real engine."""

from __future__ import annotations

import pytest

from labhelpers import vm
from labhelpers.errors import BadInput, GuestFailed, LabError
from labhelpers.lab import Lab
from labhelpers.state import ROOT
from labhelpers.vm.capacity import Density
from labhelpers.vm.pairs import Pair


@pytest.fixture(scope="module")
def pair(shared_lab: Lab) -> Pair:
    """One guest for all tests: a boot is the most expensive thing of the course."""
    return vm.start_pair(shared_lab)


def test_guest_and_container_have_the_same_payload() -> None:
    assert (ROOT / "images/vm/payload").read_bytes() == (ROOT / "images/payload/payload").read_bytes()


def session_containers(lab: Lab) -> set[str]:
    rows = lab.client.api.containers(all=True, filters={"label": f"labhelpers.session={lab.session}"})
    return {row["Id"] for row in rows}


def test_phases_follow_one_another_without_gaps(shared_lab: Lab) -> None:
    lab = shared_lab
    lab.host.kernel()  # its helper stays until the lab ends
    before = session_containers(lab)
    times = vm.start_times(lab, repeats=1)
    assert sorted(start.kind for start in times.starts) == ["container", "vm"]
    for start in times.starts:
        ends = [0.0, *(phase.end_ms for phase in start.phases)]
        assert [phase.start_ms for phase in start.phases] == ends[:-1]
        assert ends == sorted(ends)
        assert start.total_ms == ends[-1]
    names = [phase.name for phase in times.of("vm")[0].phases]
    assert names[0] == "container"
    assert names[-3:] == ["kernel", "initramfs", "user space"]
    assert session_containers(lab) == before


def test_containers_share_the_kernel_and_guests_do_not(shared_lab: Lab, pair: Pair) -> None:
    before = session_containers(shared_lab)
    kernels = vm.kernels(shared_lab, pair)
    assert kernels.containers_share_host_kernel
    assert kernels.every_guest_has_own_kernel
    assert len(kernels.frame()) == 5
    assert session_containers(shared_lab) == before


def test_a_pair_is_measured_in_every_way(shared_lab: Lab, pair: Pair) -> None:
    log = vm.boot_log(pair)
    assert log.kernel_lines > 50
    assert [line.text for line in log.matching("PAYLOAD READY").lines] == ["PAYLOAD READY"]
    devices = vm.devices(shared_lab, pair)
    assert devices.container_sees_host_memory
    assert devices.guest_has_own_devices
    assert (devices.host_sees_payload, devices.host_sees_guest_payload) == (True, False)
    memory, disk = vm.memory_usage(shared_lab, pair), vm.disk_usage(shared_lab, pair)
    assert memory.ratio > 10
    assert disk.vm_copy_bytes > disk.container_copy_bytes


def test_a_removed_container_cannot_be_measured(shared_lab: Lab) -> None:
    first, second = (vm.start_payload(shared_lab) for _ in range(2))
    shared_lab.remove(first, force=True)
    for measure in (vm.disk_usage, vm.memory_usage, vm.devices, vm.kernels):
        with pytest.raises(LabError, match="is gone"):
            measure(shared_lab, Pair(second, first))  # type: ignore[operator]
    shared_lab.remove(second, force=True)


def test_a_guest_without_room_fails_with_its_last_lines(shared_lab: Lab) -> None:
    lab = shared_lab
    with pytest.raises(GuestFailed) as failed:
        vm.start_guest(lab, memory_mb=16, limit_s=30)
    assert failed.value.engine_message


def test_a_guest_with_more_memory_than_the_host_fails_with_qemus_message(shared_lab: Lab) -> None:
    with pytest.raises(GuestFailed, match="exit code 64") as failed:
        vm.start_guest(shared_lab, memory_mb=999_999)
    assert "only" in (failed.value.engine_message or "")


@pytest.mark.parametrize("memory_mb", [0, -1, "128", True, 1.5])
def test_an_invalid_memory_is_refused(shared_lab: Lab, memory_mb: object) -> None:
    with pytest.raises(BadInput):
        vm.start_guest(shared_lab, memory_mb=memory_mb)  # type: ignore[arg-type]


def test_a_line_through_the_measurements() -> None:
    result = Density(1000, (1, 2, 3), (110, 210, 310), (11, 12, 13))
    assert result.line("vm") == pytest.approx((10, 100))
    assert (result.capacity("vm"), result.capacity("container")) == (9, 990)
    assert list(result.frame()["basis"]).count("extrapolated") == 2
