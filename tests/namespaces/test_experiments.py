"""From where an object is visible: each experiment is measured once, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labhelpers import namespaces
from labhelpers.lab import Lab
from labhelpers.namespaces.visibility import Visibility

Measured = Callable[[str], Visibility]


@pytest.fixture(scope="module")
def measured(shared_lab: Lab, leftover_containers: Callable[[], set[str]]) -> Measured:
    results: dict[str, Visibility] = {}

    def measure(kind: str) -> Visibility:
        if kind not in results:
            shared_lab.host.process()  # its helper stays
            before = leftover_containers()
            results[kind] = getattr(namespaces, kind)(shared_lab)
            assert leftover_containers() == before, f"{kind} left a container behind"
        return results[kind]

    return measure


def test_pid(measured: Measured) -> None:
    pid = measured("pid")
    of_one, of_two, parent = pid.objects
    assert pid.visible_from(of_one) == ("one", "the host")
    assert pid.visible_from(of_two) == ("two", "the host")
    assert pid.visible_from(parent) == ("the host",)
    assert pid.observations[of_one, "one"] == "PID 1" != pid.observations[of_one, "the host"]
    from_two, from_one, own = pid.attempts
    assert not from_two.succeeded
    assert "No such process" in from_two.output
    assert not from_one.succeeded, "the host's PID is not valid inside"
    assert own.succeeded


def test_net(measured: Measured) -> None:
    net = measured("net")
    assert net.visible_from("eth0 of one") == ("one",)
    assert net.visible_from("eth0 of two") == ("two",)
    assert net.visible_from("the other end of one's eth0") == ("the host",)
    assert [attempt.succeeded for attempt in net.attempts] == [True, False]


def test_ipc(measured: Measured) -> None:
    ipc = measured("ipc")
    for name in ("the shared memory segment", "the message queue"):
        assert ipc.visible_from(name) == ("one", "three (--ipc container:one)")
    assert "4096 bytes" in ipc.observations["the shared memory segment", "one"]
    assert "bytes" not in ipc.observations["the message queue", "one"]


def test_mnt(measured: Measured) -> None:
    mnt = measured("mnt")
    assert mnt.visible_from("the mount on /mnt") == ("one",)
    assert mnt.visible_from("the file in it") == ("one",)
    assert mnt.visible_from("the file, through /proc/PID/root") == ("the host",)
    assert [attempt.succeeded for attempt in mnt.attempts] == [False]


def test_uts(measured: Measured, shared_lab: Lab) -> None:
    uts = measured("uts")
    assert uts.visible_from(f"the name renamed-{shared_lab.session}") == ("one",)
    assert [attempt.succeeded for attempt in uts.attempts] == [False, False]
    assert "docker inspect one" in uts.viewpoints


def test_the_frame_has_no_value_where_an_object_is_not_visible(measured: Measured) -> None:
    frame = measured("uts").frame()
    assert list(frame.columns) == ["object", "one", "two", "the_host", "docker_inspect_one"]
    assert list(frame.iloc[0])[1:] == ["its name", None, None, None]
    assert measured("uts").visible_objects("two") == ()


def test_an_experiment_prints_nothing(shared_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    namespaces.cgroup(shared_lab)
    assert capsys.readouterr().out == ""
