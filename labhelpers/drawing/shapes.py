"""Boxes, arrows and labels. Text is always in a variant of its colour that can be read on what is behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from labhelpers.drawing.style import DPI, GREY, INK, SMALL, TEXT, WHITE, ink_on, letters
from labhelpers.drawing.text import LINE_SPACING, line_height, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

Point = tuple[float, float]
PADDING = 8
"""Between the edge of a box and its text, in px."""


def label(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    colour: str = INK,
    *,
    size: float = TEXT,
    bold: bool = False,
    mono: bool = False,
    align: Literal["left", "center", "right"] = "left",
    valign: Literal["top", "center", "bottom", "baseline"] = "center",
    shift: Point = (0, 0),
) -> Text:
    """Text at a point of the axes, moved by `shift` px to the right and up.

    `colour` may be that of an area: the text gets the variant of it that is dark enough to be read.
    """
    return ax.annotate(
        text,
        (x, y),
        (shift[0] * 72 / DPI, shift[1] * 72 / DPI),
        textcoords="offset points",
        color=letters(colour),
        fontsize=size,
        weight="bold" if bold else "normal",
        family="monospace" if mono else None,
        ha=align,
        va=valign,
        linespacing=LINE_SPACING,
        annotation_clip=False,
    )


def note(ax: Axes, x: float, y: float, text: str, **how: Any) -> Text:
    """A small grey label; takes what `label` takes."""
    return label(ax, x, y, text, GREY, size=SMALL, **how)


def box(
    ax: Axes,
    corner: Point,
    size: Point,
    face: str = WHITE,
    *,
    edge: str | None = None,
    dashed: bool = False,
    title: str = "",
    text: str = "",
    mono: bool = False,
    align: Literal["left", "center"] = "center",
    at_top: bool = False,
) -> None:
    """A box on a canvas, with a bold title, a smaller text below it, or both; each is wrapped to the box's width.

    Args:
        ax: a canvas.
        corner: its upper left corner, in px.
        size: its width and height, in px.
        face: its colour; its text is white or INK, whichever can be read on it.
        edge: the colour of its outline; without one, it has none.
        dashed: the outline is dashed.
        title: in bold.
        text: in a smaller size.
        mono: the text is code.
        align: where its text is.
        at_top: its text begins at its upper edge, and not in its middle.
    """
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=4"
    look: dict[str, Any] = {"fc": face, "ec": edge or "none", "lw": 1.5, "ls": "--" if dashed else "-"}
    look["clip_on"] = False  # half of an outline at the canvas's edge is outside of it
    ax.add_patch(FancyBboxPatch(corner, *size, style, **look))
    room = size[0] - 2 * PADDING
    parts = [
        (wrap(content, room, points, bold=bold, mono=code), points, bold, code)
        for content, points, bold, code in ((title, TEXT, True, False), (text, SMALL, False, mono))
        if content
    ]
    heights = [
        line_height(points, mono=code) * (content.count("\n") + 1) for content, points, _, code in parts
    ]
    y = corner[1] + (PADDING if at_top else (size[1] - sum(heights)) / 2)
    x = corner[0] + (size[0] / 2 if align == "center" else PADDING)
    for (content, points, bold, code), height in zip(parts, heights, strict=True):
        label(
            ax, x, y + height / 2, content, ink_on(face), size=points, bold=bold, mono=code, align=align
        ).set_multialignment(align)
        y += height


def arrow(
    ax: Axes,
    start: Point,
    end: Point,
    colour: str = INK,
    *,
    text: str = "",
    dashed: bool = False,
    both_ways: bool = False,
) -> None:
    """An arrow on a canvas. Its text stands above its middle, or to the right of it where it is steep."""
    style = "<|-|>" if both_ways else "-|>"
    line = {"arrowstyle": style, "color": colour, "lw": 1.5, "ls": ":" if dashed else "-"}
    ax.annotate("", end, start, arrowprops={**line, "shrinkA": 0, "shrinkB": 0})
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        steep = abs(end[1] - start[1]) > abs(end[0] - start[0])
        if steep:
            note(ax, *middle, text, shift=(PADDING, 0))
        else:
            note(ax, *middle, text, align="center", valign="bottom", shift=(0, 4))
