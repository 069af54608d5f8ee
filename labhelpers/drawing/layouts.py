"""Layouts: new axes, a canvas for boxes, rows of bars on one axis, a grid of states, the key to colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing.alt import register
from labhelpers.drawing.shapes import PADDING, box, label
from labhelpers.drawing.style import (
    DPI,
    RULE,
    SMALL,
    TEXT,
    WHITE,
    WIDTH_PX,
    ink_on,
    is_alone,
    set_height,
    use_style,
)
from labhelpers.drawing.text import line_height, text_width, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 8
CANVAS_PX = WIDTH_PX - 2 * MARGIN
"""The width of a canvas."""
_TITLE_PX, _KEY_PX, _AXIS_PX = 32, 26, 58


def new_axes() -> Axes:
    """New axes in the course's style. Their figure is WIDTH_PX wide and has alternative text on a notebook's page."""
    import matplotlib.pyplot as plt

    use_style()
    _, ax = plt.subplots(figsize=(WIDTH_PX / DPI, 3.6), layout="constrained")
    register()
    return ax


def canvas(ax: Axes, height_px: float, title: str, *, keyed: bool = False) -> None:
    """Make `ax` a sheet without axes: a unit is a px of the page, x is up to CANVAS_PX, y goes down from 0.

    `keyed`: `key` is called next; leave room for it below the title.
    """
    above = _TITLE_PX + (_KEY_PX if keyed else 0)
    set_height(ax, height_px + above + 2 * MARGIN)
    if is_alone(ax):
        whole = height_px + above + 2 * MARGIN
        ax.set_position((MARGIN / WIDTH_PX, MARGIN / whole, CANVAS_PX / WIDTH_PX, height_px / whole))
    ax.set(xlim=(0, CANVAS_PX), ylim=(height_px, 0))
    ax.set_axis_off()
    ax.set_title(title, pad=_pad(keyed))


def rows(
    ax: Axes,
    names: Sequence[str],
    *,
    title: str,
    end: float,
    xlabel: str = "",
    row_px: float = 36,
    mono: bool = False,
    keyed: bool = False,
) -> None:
    """Make `ax` a chart of rows, the first at the top: one name each, one axis from 0 to `end`.

    Args:
        ax: the axes; their figure is as high as the rows need.
        names: of the rows, at the left.
        title: what is shown.
        end: the last value; leave room for what stands behind the longest bar.
        xlabel: of the axis; without one, it is not drawn.
        row_px: the height of a row.
        mono: the names are code.
        keyed: `key` is called next; leave room for it below the title.
    """
    extra = (_KEY_PX if keyed else 0) + (_AXIS_PX if xlabel else 4)
    set_height(ax, _TITLE_PX + extra + row_px * len(names))
    ax.set_yticks(range(len(names)), names, family="monospace" if mono else None)
    ax.set(xlim=(0, end), ylim=(len(names) - 0.5, -0.5), xlabel=xlabel)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_visible(bool(xlabel))
    ax.spines["bottom"].set_visible(bool(xlabel))
    ax.set_title(title, pad=_pad(keyed))


def _pad(keyed: bool) -> float | None:
    """Between a title and the axes, in points."""
    return (_KEY_PX + 6) * 72 / DPI if keyed else None


def bar(
    ax: Axes,
    row: float,
    start: float,
    end: float,
    colour: str,
    text: str = "",
    *,
    height: float = 0.6,
    mono: bool = False,
) -> None:
    """A bar of a row, from `start` to `end`. `text` is written in it where it fits, and left out where not."""
    ax.barh(row, end - start, left=start, height=height, color=colour, edgecolor=WHITE, linewidth=0.6)
    px = abs(end - start) / abs(ax.get_xlim()[1] - ax.get_xlim()[0]) * _axes_px(ax)
    if text and text_width(text, SMALL, mono=mono) + PADDING <= px:
        middle = (start + end) / 2
        label(ax, middle, row, text, ink_on(colour), size=SMALL, align="center", mono=mono)


def _axes_px(ax: Axes) -> float:
    """About how wide the axes will be: the figure without what stands left of them."""
    names = [text_width(tick.get_text()) for tick in ax.get_yticklabels()]
    return WIDTH_PX - 3 * MARGIN - max(names, default=0)


def key(ax: Axes, entries: Sequence[tuple[str, str]]) -> None:
    """What each colour is: (colour, text) in a line between the title and the chart."""
    from matplotlib.patches import Patch

    handles = [Patch(fc=colour, ec=RULE, label=text) for colour, text in entries]
    look = {"fontsize": SMALL, "borderpad": 0, "borderaxespad": 0.4, "columnspacing": 1.6}
    look |= {"handlelength": 1, "handleheight": 1, "handletextpad": 0.5}
    legend = ax.legend(handles=handles, ncols=len(handles), loc="lower left", bbox_to_anchor=(0, 1), **look)
    legend.set_in_layout(False)  # the title leaves room for it


def grid(
    ax: Axes,
    heads: Sequence[str],
    names: Sequence[str],
    cells: Sequence[Sequence[tuple[str, str]]],
    *,
    title: str,
    mono: bool = False,
) -> list[list[tuple[float, float, float, float]]]:
    """Make `ax` a grid of states: a cell of (text, colour) for each name and each head.

    Text is wrapped to its cell, and a row is as high as its text. For words alone, use an HTML table.

    Args:
        ax: the axes.
        heads: of the columns.
        names: of the rows.
        cells: a row of cells for each name.
        title: what is shown.
        mono: the names are code.

    Returns:
        x, y, width and height of each cell, in px of the canvas.
    """
    widest = max((text_width(name, mono=mono) for name in names), default=0)
    left = min(widest, CANVAS_PX * 0.3) + PADDING
    width = (CANVAS_PX - left) / len(heads)
    room = width - 2 * PADDING - 4
    titles = [wrap(head, room, bold=True) for head in heads]
    top = _lines(titles) * line_height(TEXT) + 6
    names = [wrap(name, left - PADDING, mono=mono) for name in names]
    heights = [
        max(
            _lines([wrap(text, room, SMALL) for text, _ in row]) * line_height(SMALL),
            _lines([name]) * line_height(),
        )
        + 2 * PADDING
        for name, row in zip(names, cells, strict=True)
    ]
    canvas(ax, top + sum(heights), title)
    for column, head in enumerate(titles):
        label(ax, left + width * (column + 0.5), top - 6, head, bold=True, align="center", valign="bottom")
    places, y = [], top
    for name, row, height in zip(names, cells, heights, strict=True):
        label(ax, 0, y + height / 2, name, mono=mono)
        places.append([(left + width * column, y, width - 4, height - 4) for column in range(len(row))])
        for (text, face), (x, _, wide, high) in zip(row, places[-1], strict=True):
            box(ax, (x, y), (wide, high), face, edge=RULE if face == WHITE else None, text=text)
        y += height
    return places


def _lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)
