"""Figures of the first chapter: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, INK, resize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.start.lifetimes import ContainerLifetimes


def draw_container_lifetimes(result: ContainerLifetimes, ax: Axes) -> Axes:
    """One bar a container, from its start to its end; a mark where its command was to end."""
    resize(ax, 7.5, 0.7 + 0.5 * len(result.lifetimes))
    for row, life in enumerate(result.lifetimes):
        ax.barh(row, life.lifetime_s, height=0.55, color=CONTAINER)
        ax.text(0.03, row, f"sleep {life.command_s:g}", color="white", va="center", family="monospace")
        ax.plot([life.command_s] * 2, [row - 0.4, row + 0.4], color=INK, lw=1.5)
        said = f"lived {life.lifetime_s:.2f} s, exit code {life.exit_code}"
        ax.text(max(life.lifetime_s, life.command_s) + 0.04, row, said, va="center", color=INK)
    ax.set_title("A container lives as long as its command (black: where the command was to end)")
    ax.set_xlabel("seconds since its first process started")
    longest = max(max(life.lifetime_s, life.command_s) for life in result.lifetimes)
    ax.set(xlim=(0, longest * 1.5), ylim=(len(result.lifetimes) - 0.4, -0.6), yticks=[])
    ax.spines["left"].set_visible(False)
    return ax
