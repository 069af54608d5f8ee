"""The alternative text of a figure, made of what it shows, and how it reaches the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labhelpers.drawing.style import DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def describe(ax: Axes, *facts: str) -> None:
    """Keep what `ax` shows, in words and numbers of its data: the alternative text is the title and these facts.

    A second call replaces the first.
    """
    ax.set_label("; ".join(fact.rstrip(".") for fact in facts if fact))


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; "none" for nothing."""
    *first, last = names or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def alternative_text(figure: Figure) -> str:
    """The title and the description of each of its axes; "" where nothing was described."""
    texts = []
    for ax in figure.axes:
        title, described = ax.get_title("left") or ax.get_title(), str(ax.get_label())
        if described and not described.startswith("<"):
            texts.append(f"{title}: {described}." if title else f"{described}.")
    return " ".join(" ".join(texts).split())


def register() -> None:
    """Under IPython, show figures at double resolution with their alternative text. A second call does nothing.

    It is the text of the output, and `alt` in the metadata of its image, which nbconvert's templates may use.
    """
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython
    from matplotlib.figure import Figure

    shell: Any = get_ipython()
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["image/png"].for_type(Figure, _png)
    formatters["text/plain"].for_type(Figure, _text)


def _png(figure: Figure) -> tuple[bytes, dict[str, Any]]:
    import io

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=2 * DPI, metadata={"Description": alternative_text(figure)})
    width, height = figure.get_size_inches() * DPI
    return data.getvalue(), {
        "width": round(width),
        "height": round(height),
        "alt": alternative_text(figure),
    }


def _text(figure: Figure, printer: Any, cycle: bool) -> None:
    printer.text(alternative_text(figure) or repr(figure))
