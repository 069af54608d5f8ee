"""How wide a text is in the shipped font, and what fits: no figure has to guess it from a number of characters."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from labhelpers.drawing.style import DPI, FONTS, TEXT

LINE_SPACING = 1.1
# an advance is measured at this size, in px, where hinting does not round it
_LARGE = 1000


@cache
def _face(bold: bool, mono: bool) -> Any:
    from matplotlib.ft2font import FT2Font

    name = "JetBrainsMono-Regular.ttf" if mono else f"Inter-{'Bold' if bold else 'Regular'}.otf"
    face = FT2Font(str(FONTS / name))
    face.set_size(_LARGE, 72)
    return face


@cache
def _advance(character: str, bold: bool, mono: bool) -> float:
    """Of one character, in em."""
    return float(_face(bold, mono).load_char(ord(character)).linearHoriAdvance) / 65536 / _LARGE


def text_width(text: str, size: float = TEXT, *, bold: bool = False, mono: bool = False) -> float:
    """The width in px of the longest line of `text`."""
    widths = (sum(_advance(character, bold, mono) for character in line) for line in text.split("\n"))
    return max(widths) * size * DPI / 72


def line_height(size: float = TEXT, *, mono: bool = False) -> float:
    """From one line of text to the next, in px."""
    em = 1.32 if mono else 1.21  # the ascent and descent of the font
    return size * em * LINE_SPACING * DPI / 72


def cut(text: str, width: float, size: float = TEXT, *, bold: bool = False, mono: bool = False) -> str:
    """`text`, shortened with "…" to fit into `width` px."""
    if text_width(text, size, bold=bold, mono=mono) <= width:
        return text
    while text and text_width(f"{text}…", size, bold=bold, mono=mono) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, width: float, size: float = TEXT, *, bold: bool = False, mono: bool = False) -> str:
    """`text` in lines that fit into `width` px, broken at spaces; a word that is too long, after its punctuation."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if text_width(longer, size, bold=bold, mono=mono) <= width:
                lines[-1] = longer
                continue
            if lines[-1] and text_width(word, size, bold=bold, mono=mono) <= width:
                lines.append(word)
                continue
            for number, part in enumerate(re.findall(r"[^/,.-]*[/,.-]+|[^/,.-]+", word)):
                longer = lines[-1] + (" " if lines[-1] and number == 0 else "") + part
                if lines[-1] and text_width(longer, size, bold=bold, mono=mono) > width:
                    lines.append(part)
                else:
                    lines[-1] = longer
    return "\n".join(lines)
