"""Figures of the first chapter: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, INK, bar, describe, key, label, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.results import Result
    from labhelpers.start.lifetimes import ContainerLifetimes


def draw_container_lifetimes(result: ContainerLifetimes, ax: Axes) -> Axes:
    """One bar a container, from its start to its end; a mark where its command was to end."""
    longest = max(max(life.lived_s, life.asked_s) for life in result.lives)
    rows(
        ax,
        [f"sleep {life.asked_s:g}" for life in result.lives],
        title="A container lives as long as its command",
        end=longest * 1.35,
        xlabel="seconds since its first process started",
        mono=True,
        keyed=True,
    )
    key(ax, [(CONTAINER, "the container runs"), (INK, "its command was to end")])
    for row, life in enumerate(result.lives):
        bar(ax, row, 0, life.lived_s, CONTAINER)
        ax.plot([life.asked_s] * 2, [row - 0.42, row + 0.42], color=INK, lw=2)
        end = max(life.lived_s, life.asked_s)
        label(ax, end, row, f"{life.lived_s:.2f} s, exit code {life.exit_code}", shift=(8, 0))
    describe(
        ax,
        *(f"sleep {x.asked_s:g} ran for {x.lived_s:.2f} s, exit code {x.exit_code}" for x in result.lives),
    )
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """The map of the course, and how long containers live; a picture of the engine would name this machine's paths."""
    from labhelpers.course.chapters import course_map
    from labhelpers.start import container_lifetimes

    yield course_map()
    yield container_lifetimes(lab, (1, 2, 3))
