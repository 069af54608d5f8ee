"""The duties of process 1."""

from __future__ import annotations

from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers import namespaces
from labhelpers.errors import BadInput
from labhelpers.lab import Lab
from labhelpers.namespaces.pid1 import HANDLER, INIT, NO_HANDLER, Signals


@pytest.fixture(scope="module")
def signals(shared_lab: Lab) -> Signals:
    return namespaces.signals(shared_lab)


def test_process_1_gets_what_it_takes(signals: Signals) -> None:
    assert not signals.ended(NO_HANDLER, "TERM", "inside")
    assert not signals.ended(NO_HANDLER, "TERM", "the host")
    assert not signals.ended(NO_HANDLER, "KILL", "inside")
    assert signals.ended(NO_HANDLER, "KILL", "the host")
    assert signals.ended(HANDLER, "TERM", "inside")
    assert signals.ended(INIT, "TERM", "inside")


def test_the_same_program_with_another_pid_ends(signals: Signals) -> None:
    assert signals.ended(NO_HANDLER, "TERM", "inside", first=False)


def test_the_masks_say_why(signals: Signals) -> None:
    assert {(each.program, each.disposition) for each in signals.sent if each.signal == "TERM"} == {
        (NO_HANDLER, "default"),
        (HANDLER, "caught"),
        (INIT, "waited for"),
    }
    assert len(signals.frame()) == len(signals.sent)


def test_masks_are_what_a_process_set(shared_lab: Lab) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN);"
        "signal.signal(signal.SIGTERM, lambda *_: None);"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); print('set', flush=True); time.sleep(600)"
    )
    container = shared_lab.run(shared_lab.image("tools"), ["python3", "-c", script])
    next(container.logs(stream=True))
    masks = namespaces.signal_dispositions(shared_lab, container)
    shared_lab.remove(container, force=True)
    assert masks.blocked == ("SIGUSR2",)
    assert "SIGUSR1" in masks.ignored
    assert "SIGTERM" in masks.caught
    assert "SIGHUP" not in masks.caught + masks.ignored
    assert [masks.disposition(f"SIG{name}") for name in ("TERM", "USR1", "USR2", "HUP")] == [
        "caught",
        "ignored",
        "waited for",
        "default",
    ]
    assert not masks.waits


def test_stops(shared_lab: Lab) -> None:
    stops = namespaces.stops(shared_lab, timeout_s=3)
    assert {each.program: (each.disposition, each.exit_code) for each in stops.stops} == {
        NO_HANDLER: ("default", 137),
        HANDLER: ("caught", 0),
        INIT: ("waited for", 143),
    }
    assert stops.of(NO_HANDLER).stop_s >= 3
    assert list(stops.frame()["exit_code"]) == [137, 0, 143]


def test_zombies_stay_without_an_init(shared_lab: Lab, nested: Container) -> None:
    zombies = namespaces.zombies(shared_lab, orphans=3)
    assert (zombies.without_init.orphans, zombies.without_init.zombies) == (3, 3)
    assert (zombies.with_init.orphans, zombies.with_init.zombies) == (3, 0)
    assert zombies.without_init.first == "sleep"
    assert "init" in zombies.with_init.first
    assert zombies.zombie_inside_pid > 1
    # a zombie has already left its other namespaces
    assert "net" not in zombies.zombie_kinds
    assert list(zombies.frame()["zombies"]) == [3, 0]


@pytest.mark.parametrize("wrong", [0, -1, 61, True, 1.5, "10"])
def test_an_invalid_timeout(shared_lab: Lab, wrong: Any) -> None:
    with pytest.raises(BadInput):
        namespaces.stops(shared_lab, timeout_s=wrong)


@pytest.mark.parametrize("wrong", [0, 21, True, "5"])
def test_an_invalid_number_of_orphans(shared_lab: Lab, wrong: Any) -> None:
    with pytest.raises(BadInput):
        namespaces.zombies(shared_lab, orphans=wrong)
