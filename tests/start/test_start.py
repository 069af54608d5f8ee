"""How long containers live, and the first exercise, on the real engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import pytest

from labhelpers.engine import Engine, images
from labhelpers.lab import Lab
from labhelpers.start import ContainerLifetime, ContainerLifetimes, container_lifetimes, first_exercise
from labhelpers.start.exercises import IMAGE, NAME

matplotlib.use("agg")


@pytest.fixture(autouse=True, scope="session")
def _base(engine: Engine) -> None:
    images.ensure(engine, "base", print)


def test_a_container_lives_as_long_as_its_command(lab: Lab) -> None:
    result = container_lifetimes(lab, (1, 2))
    assert result.all_ended_by_themselves
    assert result.all_lived_as_long_as_their_command
    assert [life.command_s for life in result.lifetimes] == [1, 2]
    assert list(result.frame().columns) == ["command_s", "lifetime_s", "startup_s", "status", "exit_code"]


def test_lifetimes_that_do_not_match_their_commands_are_detected() -> None:
    life = ContainerLifetime(command_s=1, lifetime_s=1.1, startup_s=0.3, status="exited", exit_code=0)
    assert not ContainerLifetimes((life, replace(life, exit_code=137))).all_ended_by_themselves
    assert not ContainerLifetimes((life, replace(life, command_s=2))).all_lived_as_long_as_their_command
    assert not ContainerLifetimes(
        (life, replace(life, command_s=0.5, lifetime_s=3))
    ).all_lived_as_long_as_their_command
    late_record = replace(life, command_s=2, lifetime_s=1.5, startup_s=0.6)
    assert ContainerLifetimes((life, late_record)).all_lived_as_long_as_their_command
    assert not ContainerLifetimes(
        (life, replace(late_record, startup_s=0.4))
    ).all_lived_as_long_as_their_command


def test_the_figure_gives_each_life_its_bar() -> None:
    ax = ContainerLifetimes(
        (ContainerLifetime(1, 1.25, 0.2, "exited", 0), ContainerLifetime(3, 3.5, 0.2, "exited", 0))
    ).plot()
    assert [bar.get_width() for bar in ax.patches] == [1.25, 3.5]


# --- the exercise


def checked(lab: Lab, command: str | Sequence[str] | None, **options: Any) -> str:
    """The verdict on a container with that command; the container is removed afterwards."""
    container = lab.run(IMAGE, command, name=NAME, network="none", **options)
    try:
        return str(first_exercise(lab).check())
    finally:
        lab.remove(container, force=True)


@pytest.mark.usefixtures("temporary_state")
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("sleep 6", {}),
        ("sleep 8", {"restart": "always"}),
        (["sh", "-c", "sleep 1; sleep 2m; exit 0"], {}),
        (["sh", "-c", "for n in 1 2 3 4; do sleep 5; done"], {}),
        ("timeout 30 tail -f /dev/null", {"init": True}),
    ],
)
def test_a_container_that_will_end_does_not_stay(
    shared_lab: Lab, command: str | Sequence[str], options: dict[str, Any]
) -> None:
    assert "ends within five minutes" in checked(shared_lab, command, **options)


@pytest.mark.usefixtures("temporary_state")
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("sleep 600", {}),
        ("sleep infinity", {"init": True}),
        ("tail -f /dev/null", {}),
        ("bash", {"tty": True, "stdin_open": True}),
        (["sh", "-c", "while :; do sleep 10; done"], {}),
    ],
)
def test_a_container_that_goes_on_stays(
    shared_lab: Lab, command: str | Sequence[str], options: dict[str, Any]
) -> None:
    assert "Start a container that stays: done" in checked(shared_lab, command, **options)


@pytest.mark.usefixtures("temporary_state")
def test_another_image_of_that_name_does_not_pass(shared_lab: Lab) -> None:
    exercise = first_exercise(shared_lab)
    base = shared_lab.client.images.get(IMAGE)
    container = shared_lab.run(IMAGE, "sleep 600", name=NAME, network="none")
    copy = container.commit(changes=[f"LABEL labhelpers.session={shared_lab.session}"])
    shared_lab.remove(container, force=True)
    copy.tag(IMAGE)
    try:
        shared_lab.run(IMAGE, "sleep 600", name=NAME, network="none")
        assert "another image that was given the name labhelpers/base" in str(exercise.check())
    finally:
        shared_lab.remove(NAME, force=True)
        base.tag(IMAGE)
        shared_lab.client.images.remove(copy.id)
