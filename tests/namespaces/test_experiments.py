"""Who sees what: each experiment is measured once, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labhelpers import namespaces
from labhelpers.lab import Lab
from labhelpers.namespaces.visibility import Visibility

Measured = Callable[[str], Visibility]


@pytest.fixture(scope="module")
def measured(shared_lab: Lab, leftover_containers: Callable[[], set[str]]) -> Measured:
    done: dict[str, Visibility] = {}

    def measure(kind: str) -> Visibility:
        if kind not in done:
            shared_lab.host.process()  # its helper stays
            before = leftover_containers()
            done[kind] = getattr(namespaces, kind)(shared_lab)
            assert leftover_containers() == before, f"{kind} left a container behind"
        return done[kind]

    return measure


def test_pid(measured: Measured) -> None:
    pid = measured("pid")
    of_one, of_two, parent = pid.things
    assert pid.who_sees(of_one) == ("one", "the host")
    assert pid.who_sees(of_two) == ("two", "the host")
    assert pid.who_sees(parent) == ("the host",)
    assert pid.seen[of_one, "one"] == "PID 1" != pid.seen[of_one, "the host"]
    from_two, from_one, own = pid.tries
    assert not from_two.worked
    assert "No such process" in from_two.said
    assert not from_one.worked, "the host's number means nothing inside"
    assert own.worked


def test_net(measured: Measured) -> None:
    net = measured("net")
    assert net.who_sees("eth0 of one") == ("one",)
    assert net.who_sees("eth0 of two") == ("two",)
    assert net.who_sees("the other end of one's eth0") == ("the host",)
    assert [one.worked for one in net.tries] == [True, False]


def test_ipc(measured: Measured) -> None:
    ipc = measured("ipc")
    for thing in ("the shared memory segment", "the message queue"):
        assert ipc.who_sees(thing) == ("one", "three (--ipc container:one)")
    assert "4096 bytes" in ipc.seen["the shared memory segment", "one"]
    assert "bytes" not in ipc.seen["the message queue", "one"]


def test_mnt(measured: Measured) -> None:
    mnt = measured("mnt")
    assert mnt.who_sees("the mount on /mnt") == ("one",)
    assert mnt.who_sees("the file in it") == ("one",)
    assert mnt.who_sees("the file, through /proc/PID/root") == ("the host",)
    assert [one.worked for one in mnt.tries] == [False]


def test_uts(measured: Measured, shared_lab: Lab) -> None:
    uts = measured("uts")
    assert uts.who_sees(f"the name renamed-{shared_lab.session}") == ("one",)
    assert [one.worked for one in uts.tries] == [False, False]
    assert "docker inspect one" in uts.places


def test_a_table_says_where_a_thing_is_not(measured: Measured) -> None:
    frame = measured("uts").frame()
    assert list(frame.iloc[0])[1:] == ["its name", "\N{EN DASH}", "\N{EN DASH}", "\N{EN DASH}"]
    assert measured("uts").what_is_seen("two") == ()


def test_an_experiment_prints_nothing(shared_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    namespaces.cgroup(shared_lab)
    assert capsys.readouterr().out == ""
