"""Figures of the course as a whole: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.chapters import PARTS, Chapter, CourseMap, course_map
from labhelpers.drawing import CONTAINER, FAINT, INK, PAPER, new_axes, resize
from labhelpers.state import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BOX_W, BOX_H, STEP_X, STEP_Y = 21.0, 15.0, 25.6, 19.5
# from top to bottom within a part, so that no arrow crosses another
ROWS = ("01", "03", "02", "04", "05", "07", "06", "08", "09", "10")
# more arrows than this into one box would run behind others: its bases are written in it
MOST_ARROWS = 2


def draw_course_map(result: CourseMap, ax: Axes) -> Axes:
    """The chapters by part, each with its number and its question; arrows go from what is built on."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    resize(ax, 10.5, 4.4)
    places = _places(result.chapters)
    for chapter in result.chapters:
        x, y = places[chapter.number]
        here = chapter.number in result.available
        face, edge, ink = (CONTAINER, CONTAINER, "white") if here else (PAPER, FAINT, INK)
        box = FancyBboxPatch((x, y), BOX_W, BOX_H, "round,pad=0,rounding_size=1.6", fc=face, ec=edge, lw=1.2)
        ax.add_patch(box)
        ax.text(x + 1.2, y + BOX_H - 1.4, chapter.number, color=ink, fontsize=8, va="top", alpha=0.85)
        title = ax.text(x + 4.6, y + BOX_H - 1.3, chapter.title, color=ink, va="top", linespacing=1.15)
        title.set(fontsize=8.8, weight="bold")
        ax.text(x + 1.2, y + 1.2, chapter.question, color=ink, fontsize=8.5, style="italic", va="bottom")
        if len(chapter.builds_on) > MOST_ARROWS:
            ax.text(x + 1.2, y + 4.6, f"uses {' · '.join(chapter.builds_on)}", color=ink, fontsize=8.5)
            continue
        for base in chapter.builds_on:
            start = (places[base][0] + BOX_W, places[base][1] + BOX_H / 2)
            arrow = FancyArrowPatch(start, (x, y + BOX_H / 2), arrowstyle="-|>", mutation_scale=9)
            arrow.set(color=FAINT, linewidth=1.1, zorder=0)
            ax.add_patch(arrow)
    for column, part in enumerate(PARTS):
        ax.text(column * STEP_X + BOX_W / 2, 61, part, ha="center", fontsize=10, weight="bold", color=INK)
    said = "blue: available  ·  pale: planned  ·  arrow: builds on  ·  read in order of number"
    ax.text(0, -4, said, fontsize=8.5, color="#555555", va="top")
    ax.set(xlim=(-1, 4 * STEP_X + BOX_W + 1), ylim=(-8, 65))
    ax.axis("off")
    return ax


def _places(chapters: tuple[Chapter, ...]) -> dict[str, tuple[float, float]]:
    """The lower left corner of every chapter's box: a column a part, centred around the same height."""
    places = {}
    for column, part in enumerate(PARTS):
        stack = sorted((c for c in chapters if c.part == part), key=lambda c: ROWS.index(c.number))
        top = 20 + STEP_Y * (len(stack) - 1) / 2
        for row, chapter in enumerate(stack):
            places[chapter.number] = (column * STEP_X, top - row * STEP_Y)
    return places


def main() -> None:
    """Write the figures that the README shows."""
    import matplotlib.pyplot as plt

    draw_course_map(course_map(), new_axes())
    (ROOT / "assets").mkdir(exist_ok=True)
    plt.savefig(ROOT / "assets" / "course_map.png", dpi=130)


if __name__ == "__main__":
    main()
