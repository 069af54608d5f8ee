"""Labels of curves and of limits, put where they cover neither a curve nor another label.

The axes' limits are set first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from labhelpers.drawing.shapes import label
from labhelpers.drawing.style import DPI, INK, LIMIT, SMALL, TEXT, is_alone, set_height
from labhelpers.drawing.text import line_height, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

GAP = 5
LANE_PX = 20
"""From one height of `lane_labels` to the next."""
_EVERY_PX = 3


def label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]], *, size: float = TEXT) -> list[Text]:
    """Labels to the right of (x, y, text, colour), moved up and down so that none covers another.

    The axes need room for them on the right.
    """
    _lay_out(ax)
    per_px = _scale(ax)
    wanted = sorted(
        (
            ax.transData.transform((x, y))[1] / per_px,
            line_height(size) * (text.count("\n") + 1),
            (x, y, text, colour),
        )
        for x, y, text, colour in ends
    )
    places: list[float] = []
    for number, (at, height, _) in enumerate(wanted):
        least = places[-1] + (wanted[number - 1][1] + height) / 2 if places else at
        places.append(max(at, least))
    return [
        label(ax, x, y, text, colour, size=size, shift=(GAP, place - at))
        for place, (at, _, (x, y, text, colour)) in zip(places, wanted, strict=True)
    ]


def lane_labels(ax: Axes, marks: Sequence[tuple[float, str]], row: float, colour: str = INK) -> None:
    """Labels of moments above a row, each with a line down to it; one that would cover another stands higher.

    The figure grows by the room that they need.

    Args:
        ax: axes whose y goes down, as that of `rows`.
        marks: (x, text) of each, in the order of x.
        row: the y from which the lines rise: the upper edge of the bars.
        colour: of the lines.
    """
    _lay_out(ax)
    (left, top), (right, bottom) = ax.transData.transform([(0, 0), (1, 1)])
    x_px, y_px = (right - left) / _scale(ax), (top - bottom) / _scale(ax)
    heights: list[int] = []
    for place, (x, text) in reversed(list(enumerate(marks))):
        end = x + (text_width(text, SMALL) + 4 * GAP) / x_px
        over = (height for (other, _), height in zip(marks[place + 1 :], heights, strict=True) if other < end)
        heights.insert(0, max(over, default=0) + 1)
    bottom_y, top_y = ax.get_ylim()
    new_top = min(top_y, row - (max(heights, default=0) * LANE_PX + GAP) / y_px)
    ax.set_ylim(bottom_y, new_top)
    if is_alone(ax):
        set_height(ax, ax.figure.get_size_inches()[1] * DPI + (top_y - new_top) * y_px)  # type: ignore[union-attr]
    for (x, text), height in zip(marks, heights, strict=True):
        y = row - height * LANE_PX / y_px
        ax.plot([x, x], [row, y], color=colour, lw=1)
        label(ax, x, y, text, size=SMALL, valign="top", shift=(GAP, 1))


def level(ax: Axes, y: float, text: str, colour: str = LIMIT) -> Text:
    """A dashed horizontal line, such as a limit, with its label above or below it."""
    line = ax.axhline(y, color=colour, lw=1.6, ls="--")
    low, high = ax.get_xlim()
    candidates = [
        (x, y, align, valign)
        for valign in ("bottom", "top")
        for x, align in ((low, "left"), (high, "right"), ((low + high) / 2, "center"))
    ]
    return _label_where_free(ax, candidates, text, colour, beside=line)


def moment(ax: Axes, x: float, text: str, colour: str = INK) -> Text:
    """A vertical line at a moment, with its label to the right or to the left of it."""
    line = ax.axvline(x, color=colour, lw=1)
    low, high = ax.get_ylim()
    candidates = [
        (x, low + (high - low) * part, align, valign)
        for part, valign in ((1, "top"), (0.5, "center"), (0, "bottom"))
        for align in ("left", "right")
    ]
    return _label_where_free(ax, candidates, text, colour, beside=line)


def _label_where_free(
    ax: Axes, candidates: Sequence[tuple[float, float, Any, Any]], text: str, colour: str, *, beside: Any
) -> Text:
    """The label at the first of (x, y, align, valign) where it covers nothing; at the least bad if there is none."""
    _lay_out(ax)
    taken = list(_taken(ax, beside))
    frame = ax.get_window_extent()
    scale = _scale(ax)
    wide, high = text_width(text, SMALL) * scale, line_height(SMALL) * scale * (text.count("\n") + 1)

    def covered(candidate: tuple[float, float, Any, Any]) -> int:
        x, y = ax.transData.transform(candidate[:2])
        dx, dy = _shift(*candidate[2:])
        left = x + dx * scale - {"left": 0, "center": wide / 2, "right": wide}[candidate[2]]
        bottom = y + dy * scale - {"bottom": 0, "center": high / 2, "top": high}[candidate[3]]
        outside = left < frame.x0 or left + wide > frame.x1 or bottom < frame.y0 or bottom + high > frame.y1
        inside = sum(left <= px <= left + wide and bottom <= py <= bottom + high for px, py in taken)
        return int(inside) + 1000 * int(outside)

    x, y, align, valign = min(candidates, key=covered)
    return label(ax, x, y, text, colour, size=SMALL, align=align, valign=valign, shift=_shift(align, valign))


def _shift(align: Literal["left", "center", "right"], valign: str) -> tuple[float, float]:
    """Away from the line and from the edge of the axes."""
    return {"left": GAP, "center": 0, "right": -GAP}[align], {"bottom": 2, "top": -2}.get(valign, 0)


def _taken(ax: Axes, but: Any) -> Iterator[tuple[float, float]]:
    """Points of the screen that curves and labels cover, a few px apart."""
    import numpy as np
    from matplotlib import cbook

    for line in ax.lines:
        if line is but:
            continue
        step = cbook.STEP_LOOKUP_MAP[line.get_drawstyle()]
        drawn = np.column_stack(step(*np.asarray(line.get_xydata(), float).T))
        points = line.get_transform().transform(drawn)
        points = points[np.isfinite(points).all(axis=1)]
        alone = line.get_linestyle() in ("None", "")
        for start, end in zip(points, points if alone else points[1:], strict=False):
            count = max(2, int(np.hypot(*(end - start)) / _EVERY_PX))
            yield from zip(*np.linspace(start, end, count).T, strict=True)
    for text in ax.texts:
        extent = text.get_window_extent()
        for x in np.arange(extent.x0, extent.x1, _EVERY_PX):
            for y in np.arange(extent.y0, extent.y1 + _EVERY_PX, _EVERY_PX):
                yield float(x), float(y)


def _lay_out(ax: Axes) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


def _scale(ax: Axes) -> float:
    """Px of the screen for each px of the page."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure.dpi / DPI
