"""One style for every figure: colours that the colour-blind can tell apart, direct labels, no ornament."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("course.mplstyle")

# Okabe and Ito's palette ("Color Universal Design", 2008), one colour for one thing in the whole course
CONTAINER = "#0072B2"
VM = "#D55E00"
HOST = "#009E73"
ENGINE = "#56B4E9"
KERNEL = "#E69F00"
LIMIT = "#CC79A7"
INK = "#222222"
FAINT = "#9A9A9A"
PAPER = "#F4F4F0"


def new_axes(width_in: float = 7.5, height_in: float = 3.6) -> Axes:
    """New axes in the course's style."""
    import matplotlib.pyplot as plt

    plt.style.use(STYLE)
    _, ax = plt.subplots(figsize=(width_in, height_in), layout="constrained")
    return ax


def resize(ax: Axes, width_in: float, height_in: float) -> None:
    """Give the figure this size if `ax` is all that it holds; what the caller arranged stays as it is."""
    from matplotlib.figure import Figure

    if isinstance(ax.figure, Figure) and ax.figure.axes == [ax]:
        ax.figure.set_size_inches(width_in, height_in)


def human_bytes(count: float) -> str:
    """`count` bytes as people write it: 512 B, 1.4 MiB (powers of 1,024, IEC 80000-13)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
