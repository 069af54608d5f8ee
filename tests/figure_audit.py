"""What a reader must be able to read: checks every figure that a test has drawn. Used by the fixture of conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from unittest.mock import patch

import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from labhelpers.drawing import SMALL, alternative_text
from labhelpers.drawing.style import DPI, WIDTH_PX, contrast

LEAST_CONTRAST = 4.5
# the extents of texts include ascenders and descenders that they may not have
TOUCH_PX = 2.0
# a line of 1.5 px through a label covers about a tenth of what is behind it
CROSSING_CONTRAST, CROSSING_SHARE = 1.25, 0.02


def faults(figure: Figure) -> list[str]:
    """What is wrong with a figure; nothing if a reader can read it."""
    texts = _drawn(figure)
    found = [] if alternative_text(figure) else ["it has no alternative text: call describe(ax, …)"]
    if figure.get_size_inches()[0] * DPI > WIDTH_PX + 0.5:
        found.append(f"it is {figure.get_size_inches()[0] * DPI:.0f} px wide, more than {WIDTH_PX}")
    found += [f"{_name(text)} has {text.get_fontsize():g} points" for text in texts if _is_small(text)]
    found += [f"{_name(text)} is cut off by the edge" for text in texts if _is_cut(figure, text)]
    found += [
        f"{_name(item)} covers {_name(other)}"
        for item, other in combinations(texts, 2)
        if _overlap(item, other)
    ]
    return found + list(_hard_to_read(figure, texts))


def _drawn(figure: Figure) -> list[Text]:
    """The texts that drawing the figure draws: ticks beyond an axis' limits exist, too, and are not drawn."""
    drawn: dict[int, Text] = {}
    draw = Text.draw

    def record(text: Text, renderer: RendererBase) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn[id(text)] = text
        draw(text, renderer)

    with patch.object(Text, "draw", record):
        figure.canvas.draw()
    return list(drawn.values())


def _name(text: Text) -> str:
    return repr(" ".join(text.get_text().split()))


def _is_small(text: Text) -> bool:
    return bool(text.get_fontsize() < SMALL)


def _is_cut(figure: Figure, text: Text) -> bool:
    extent, whole = text.get_window_extent(), figure.bbox
    return bool(
        extent.x0 < whole.x0 - 1
        or extent.y0 < whole.y0 - 1
        or extent.x1 > whole.x1 + 1
        or extent.y1 > whole.y1 + 1
    )


def _overlap(item: Text, other: Text) -> bool:
    both = Bbox.intersection(item.get_window_extent(), other.get_window_extent())
    return both is not None and both.width > TOUCH_PX and both.height > TOUCH_PX


def _hard_to_read(figure: Figure, texts: list[Text]) -> Iterator[str]:
    """Texts that have too little contrast with what is drawn behind them, or that something runs through."""
    figure.set_layout_engine("none")  # without its texts, the figure would be laid out differently
    for text in texts:
        text.set_visible(False)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    for text in texts:
        text.set_visible(True)
    for text in texts:
        behind = _behind(pixels, text)
        if not behind.size:
            continue
        colours, counts = np.unique(behind, axis=0, return_counts=True)
        face, ink = _hex(colours[counts.argmax()]), to_hex(text.get_color())
        if contrast(ink, face) < LEAST_CONTRAST:
            yield f"{_name(text)}: {ink} on {face} has a contrast of {contrast(ink, face):.1f}:1"
        crossing = sum(
            int(count)
            for colour, count in zip(colours, counts, strict=True)
            if contrast(_hex(colour), face) > CROSSING_CONTRAST
        )
        if crossing > CROSSING_SHARE * len(behind):
            yield f"{_name(text)} has something running through it"


def _behind(pixels: np.ndarray, text: Text) -> np.ndarray:
    """The pixels behind a text, without its outermost ones."""
    extent, height = text.get_window_extent(), pixels.shape[0]
    inset = 0.15 * text.get_fontsize()
    rows = slice(max(0, round(height - extent.y1 + inset)), max(0, round(height - extent.y0 - inset)))
    columns = slice(max(0, round(extent.x0 + inset)), max(0, round(extent.x1 - inset)))
    return pixels[rows, columns].reshape(-1, 3)


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{part:02X}" for part in colour)
