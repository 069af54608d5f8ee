"""How long containers live, on the real engine."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import pytest

from labhelpers.engine import Engine, images
from labhelpers.lab import Lab
from labhelpers.start import Life, Lives, lives

matplotlib.use("agg")


@pytest.fixture(autouse=True, scope="session")
def _base(engine: Engine) -> None:
    images.ensure(engine, "base", print)


def test_a_container_lives_as_long_as_its_command(lab: Lab) -> None:
    told = lives(lab, (1, 2))
    assert told.all_ended_by_themselves
    assert told.all_lived_as_long_as_their_command
    assert [life.asked_s for life in told.lives] == [1, 2]
    assert list(told.frame().columns) == ["asked_s", "lived_s", "noted_s", "status", "exit_code"]


def test_other_lives_are_told_apart() -> None:
    life = Life(asked_s=1, lived_s=1.1, noted_s=0.3, status="exited", exit_code=0)
    assert not Lives((life, replace(life, exit_code=137))).all_ended_by_themselves
    assert not Lives((life, replace(life, asked_s=2))).all_lived_as_long_as_their_command
    assert not Lives((life, replace(life, asked_s=0.5, lived_s=3))).all_lived_as_long_as_their_command
    noted_late = replace(life, asked_s=2, lived_s=1.5, noted_s=0.6)
    assert Lives((life, noted_late)).all_lived_as_long_as_their_command
    assert not Lives((life, replace(noted_late, noted_s=0.4))).all_lived_as_long_as_their_command


def test_the_figure_gives_each_life_its_bar() -> None:
    ax = Lives((Life(1, 1.25, 0.2, "exited", 0), Life(3, 3.5, 0.2, "exited", 0))).plot()
    assert [bar.get_width() for bar in ax.patches] == [1.25, 3.5]
