"""Colours, text sizes and the font of every figure."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("course.mplstyle")
FONTS = Path(__file__).with_name("fonts")

# Okabe and Ito's palette ("Color Universal Design", 2008) for areas and lines: one colour for one thing in the course
CONTAINER = "#0072B2"
VM = "#D55E00"
HOST = "#009E73"
ENGINE = "#56B4E9"
KERNEL = "#E69F00"
LIMIT = "#CC79A7"
FAINT = "#9A9A9A"
WHITE = "#FFFFFF"
PAPER = "#F4F4F0"
RULE = "#DDDDDD"
# for text: what is read first, and what is read after it
INK = "#111111"
GREY = "#555555"

_LETTERS = {
    CONTAINER: "#005F96",
    VM: "#A64900",
    HOST: "#00704F",
    ENGINE: "#226C9C",
    KERNEL: "#835700",
    LIMIT: "#9C3F73",
    FAINT: GREY,
}

# in points; below SMALL nothing can be read on a page that is shown a little smaller
TITLE, TEXT, SMALL = 11.0, 9.5, 8.5

DPI = 110
WIDTH_PX = 848
"""The width of an output in JupyterLab at 1280 px, and of every figure."""


def letters(colour: str) -> str:
    """The variant of an area's colour for text: a contrast of at least 4.5:1 on white, on PAPER and on its tint."""
    return _LETTERS.get(colour, colour)


def tint(colour: str) -> str:
    """The pale variant of a colour, for an area behind text."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * 0.2 + 255 * 0.8):02X}" for part in parts)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def ink_on(face: str) -> str:
    """The colour of text on an area of colour `face`: white or INK, whichever has more contrast."""
    return max(INK, WHITE, key=lambda ink: contrast(ink, face))


@cache
def use_style() -> None:
    """Register the shipped fonts and make the course's style matplotlib's own; only the first call does anything."""
    import matplotlib.pyplot as plt
    from matplotlib import font_manager

    for file in sorted(FONTS.glob("*.[ot]tf")):
        font_manager.fontManager.addfont(file)
    plt.style.use(STYLE)


def is_alone(ax: Axes) -> bool:
    """Whether `ax` is all that its figure holds, so that the figure may be resized for it."""
    from matplotlib.figure import Figure

    return isinstance(ax.figure, Figure) and ax.figure.axes == [ax]


def set_height(ax: Axes, height_px: float) -> None:
    """Make the figure WIDTH_PX wide and this high if `ax` is all that it holds; other figures stay as they are."""
    if is_alone(ax):
        ax.figure.set_size_inches(WIDTH_PX / DPI, height_px / DPI)  # type: ignore[union-attr]
