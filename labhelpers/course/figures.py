"""Figures of the course as a whole: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.chapters import PARTS, Chapter, CourseMap
from labhelpers.drawing import (
    CONTAINER,
    FAINT,
    PAPER,
    SMALL,
    arrow,
    box,
    canvas,
    describe,
    ink_on,
    key,
    label,
    listed,
    note,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BOX_W, BOX_H, STEP_X, STEP_Y, TOP = 140, 104, 173, 118, 36
# from top to bottom within a part, so that no arrow crosses another
ROWS = ("01", "03", "02", "04", "05", "07", "06", "08", "09", "10")
# more arrows than this into one box would run behind others: its bases are written below it
MOST_ARROWS = 2


def draw_course_map(result: CourseMap, ax: Axes) -> Axes:
    """The chapters by part, each with its number and its question; arrows go from what is built on."""
    canvas(ax, TOP + 2 * STEP_Y + BOX_H, "The chapters, in order of their numbers", keyed=True)
    key(ax, [(CONTAINER, "available"), (PAPER, "planned"), (FAINT, "arrow: builds on")])
    places = _places(result.chapters)
    for chapter in result.chapters:
        _draw_chapter(ax, chapter, places, chapter.number in result.available)
    for column, part in enumerate(PARTS):
        label(ax, column * STEP_X + BOX_W / 2, 14, wrap(part, STEP_X, bold=True), bold=True, align="center")
    names = (
        f"{part}: {listed([f'{c.number} {c.title}' for c in result.chapters if c.part == part])}"
        for part in PARTS
    )
    describe(ax, *names, f"available: {listed(sorted(result.available))}")
    return ax


def _draw_chapter(ax: Axes, chapter: Chapter, places: dict[str, tuple[float, float]], here: bool) -> None:
    x, y = places[chapter.number]
    face = CONTAINER if here else PAPER
    box(ax, (x, y), (BOX_W, BOX_H), face, edge=face if here else FAINT)
    ink = ink_on(face)
    label(ax, x + 8, y + 14, chapter.number, ink, size=SMALL)
    label(ax, x + 8, y + 24, chapter.title, ink, bold=True, valign="top")
    question = wrap(chapter.question, BOX_W - 16, SMALL)
    label(ax, x + 8, y + BOX_H - 6, question, ink, size=SMALL, valign="bottom")
    if len(chapter.builds_on) > MOST_ARROWS:
        uses = f"uses {' · '.join(chapter.builds_on)}"
        note(ax, x + 8, y + BOX_H + 12, uses)
        return
    for base in chapter.builds_on:
        start = (places[base][0] + BOX_W, places[base][1] + BOX_H / 2)
        arrow(ax, start, (x, y + BOX_H / 2), FAINT)


def _places(chapters: tuple[Chapter, ...]) -> dict[str, tuple[float, float]]:
    """The upper left corner of every chapter's box: a column a part, centred around the same height."""
    places: dict[str, tuple[float, float]] = {}
    for column, part in enumerate(PARTS):
        stack = sorted((c for c in chapters if c.part == part), key=lambda c: ROWS.index(c.number))
        top = TOP + STEP_Y - STEP_Y * (len(stack) - 1) / 2
        for row, chapter in enumerate(stack):
            places[chapter.number] = (column * STEP_X, top + row * STEP_Y)
    return places
