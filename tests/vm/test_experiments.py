"""Guests and containers, on the real engine."""

from __future__ import annotations

import pytest

from labhelpers import vm
from labhelpers.errors import BadInput, GuestFailed
from labhelpers.lab import Lab
from labhelpers.state import ROOT
from labhelpers.vm.experiments import HowManyFit


def test_the_payload_is_one_and_the_same() -> None:
    assert (ROOT / "images/vm/payload").read_bytes() == (ROOT / "images/payload/payload").read_bytes()


def test_phases_follow_one_another_without_gaps(lab: Lab) -> None:
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
    lab.host.close()  # its helper is the only one that stays until the lab ends
    assert lab.client.containers.list(all=True, filters={"label": f"labhelpers.session={lab.session}"}) == []


def test_containers_share_the_kernel_and_guests_do_not(lab: Lab) -> None:
    seen = vm.kernels(lab)
    assert seen.containers_share_the_hosts
    assert seen.every_guest_has_its_own
    assert len(seen.frame()) == 5


def test_a_guest_without_room_fails_with_its_last_lines(lab: Lab) -> None:
    with pytest.raises(GuestFailed) as failed:
        vm.start_guest(lab, memory_mb=16, limit_s=30)
    assert failed.value.engine_words


def test_a_guest_with_more_memory_than_there_is_fails_in_words(lab: Lab) -> None:
    with pytest.raises(GuestFailed, match="exit code 64") as failed:
        vm.start_guest(lab, memory_mb=999_999)
    assert "only" in (failed.value.engine_words or "")


@pytest.mark.parametrize("memory_mb", [0, -1, "128", True, 1.5])
def test_a_memory_that_cannot_be_meant(lab: Lab, memory_mb: object) -> None:
    with pytest.raises(BadInput):
        vm.start_guest(lab, memory_mb=memory_mb)  # type: ignore[arg-type]


def test_a_line_through_the_measurements() -> None:
    result = HowManyFit(1000, (1, 2, 3), (110, 210, 310), (11, 12, 13))
    assert result.line("vm") == pytest.approx((10, 100))
    assert (result.fit("vm"), result.fit("container")) == (9, 990)
    assert list(result.frame()["how"]).count("extrapolated") == 2
