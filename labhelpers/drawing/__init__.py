"""The drawing kit: one style for every figure. Matplotlib is loaded by the functions, not by this import."""

from __future__ import annotations

from labhelpers.drawing.alt import alternative_text, describe, listed
from labhelpers.drawing.labels import label_ends, lane_labels, level, moment
from labhelpers.drawing.layouts import CANVAS_PX, bar, canvas, grid, key, new_axes, rows
from labhelpers.drawing.shapes import arrow, box, label, note
from labhelpers.drawing.style import (
    CONTAINER,
    ENGINE,
    FAINT,
    GREY,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    RULE,
    SMALL,
    TEXT,
    TITLE,
    VM,
    WHITE,
    ink_on,
    letters,
    set_height,
    tint,
)
from labhelpers.drawing.text import cut, line_height, text_width, wrap
from labhelpers.units import human_bytes

__all__ = [
    "CANVAS_PX",
    "CONTAINER",
    "ENGINE",
    "FAINT",
    "GREY",
    "HOST",
    "INK",
    "KERNEL",
    "LIMIT",
    "PAPER",
    "RULE",
    "SMALL",
    "TEXT",
    "TITLE",
    "VM",
    "WHITE",
    "alternative_text",
    "arrow",
    "bar",
    "box",
    "canvas",
    "cut",
    "describe",
    "grid",
    "human_bytes",
    "ink_on",
    "key",
    "label",
    "label_ends",
    "lane_labels",
    "letters",
    "level",
    "line_height",
    "listed",
    "moment",
    "new_axes",
    "note",
    "rows",
    "set_height",
    "text_width",
    "tint",
    "wrap",
]
