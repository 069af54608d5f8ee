"""The audit of figures can fail: one figure for each fault."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, describe
from labhelpers.drawing.style import DPI, WIDTH_PX, use_style
from tests.figure_audit import faults

matplotlib.use("agg")


def axes(width_px: float = WIDTH_PX, *, described: bool = True) -> Axes:
    """Made without pyplot, so that the fixture that audits the figures of tests does not see it."""
    use_style()
    figure = Figure(figsize=(width_px / DPI, 3), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.set(title="A title", xlabel="seconds", xlim=(0, 1), ylim=(0, 1))
    if described:
        describe(ax, "a line")
    return ax


def audited(ax: Axes) -> list[str]:
    assert isinstance(ax.figure, Figure)
    return faults(ax.figure)


def test_a_figure_without_a_fault() -> None:
    ax = axes()
    ax.text(0.1, 0.5, "a label", fontsize=9.5)
    ax.text(2, 2, "clipped away: it is not drawn", clip_on=True, visible=False)
    assert audited(ax) == []


def small(ax: Axes) -> None:
    ax.text(0.1, 0.5, "tiny", fontsize=7)


def cut_off(ax: Axes) -> None:
    ax.text(0.95, 0.5, "longer than there is room for", fontsize=9.5).set_in_layout(False)


def overlapping(ax: Axes) -> None:
    ax.text(0.1, 0.5, "one label", fontsize=9.5)
    ax.text(0.12, 0.5, "another", fontsize=9.5)


def pale(ax: Axes) -> None:
    ax.text(0.1, 0.5, "pale", color=FAINT, fontsize=9.5)


def pale_on_a_bar(ax: Axes) -> None:
    ax.barh(0.5, 1, height=0.5, color=ENGINE)
    ax.text(0.1, 0.5, "pale", color="white", fontsize=9.5)


def on_a_line(ax: Axes) -> None:
    ax.axhline(0.5, color=CONTAINER, lw=1.5)
    ax.text(0.1, 0.5, "struck through", va="center", fontsize=9.5)


@pytest.mark.parametrize(
    ("draw", "fault"),
    [
        (small, "'tiny' has 7 points"),
        (cut_off, "'longer than there is room for' is cut off by the edge"),
        (overlapping, "'one label' covers 'another'"),
        (pale, "'pale': #9a9a9a on #FFFFFF has a contrast of 2.8:1"),
        (pale_on_a_bar, "'pale': #ffffff on #56B4E9 has a contrast of 2.3:1"),
        (on_a_line, "'struck through' has something running through it"),
    ],
)
def test_each_fault_is_reported(draw: Callable[[Axes], None], fault: str) -> None:
    ax = axes()
    draw(ax)
    assert audited(ax) == [fault]


def test_a_figure_must_have_alternative_text_and_the_width_of_a_page() -> None:
    assert audited(axes(described=False)) == ["it has no alternative text: call describe(ax, …)"]
    assert audited(axes(WIDTH_PX + 50)) == ["it is 898 px wide, more than 848"]
