"""Curves that grow while something is measured: shows what it is given, and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from labhelpers.course.live import live
from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, KERNEL, LIMIT, VM
from labhelpers.results import column, record

WIDTH, HEIGHT = 640, 110
COLOURS = (CONTAINER, VM, HOST, KERNEL)


@record
class Curves:
    """Curves so far."""

    lines: tuple[tuple[str, str, Sequence[float], Sequence[float], float | None], ...] = column(
        "(panel, name, x, y, limit or None) of each"
    )
    notes: tuple[str, ...] = column("what the reader should know", default=())


def live_curves() -> Callable[[Curves], object]:
    """Show a panel in the notebook's output; gives what it is fed with. Outside of a notebook, nothing is shown."""
    return live(curves_html)


def curves_html(curves: Curves) -> str:
    """The curves as the panel shows them: one drawing a panel, its limits dashed."""
    panels = dict.fromkeys(panel for panel, *_ in curves.lines)
    drawn = "".join(_panel(panel, [line for line in curves.lines if line[0] == panel]) for panel in panels)
    notes = "".join(f'<div style="color:{INK}">{escape(note)}</div>' for note in curves.notes)
    return f'<div class="labhelpers-curves" style="max-width:52em">{drawn}{notes}</div>'


def _panel(
    title: str, lines: Sequence[tuple[str, str, Sequence[float], Sequence[float], float | None]]
) -> str:
    most_x = max((max(x, default=0) for _, _, x, _, _ in lines), default=0) or 1
    tops = [max([*y, limit or 0], default=0) for _, _, _, y, limit in lines]
    most_y = max(tops, default=0) * 1.1 or 1
    inner = ""
    for number, (_, name, x, y, limit) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{WIDTH * a / most_x:.1f},{HEIGHT - HEIGHT * b / most_y:.1f}" for a, b in zip(x, y, strict=True)
        )
        inner += f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if limit:
            at = f"{HEIGHT - HEIGHT * limit / most_y:.1f}"
            inner += (
                f'<line x1="0" x2="{WIDTH}" y1="{at}" y2="{at}" stroke="{LIMIT}" stroke-dasharray="6 4"/>'
            )
        said = f"{escape(name)}: {y[-1]:.1f}" if len(y) else escape(name)
        inner += f'<text x="6" y="{14 + 14 * number}" fill="{colour}" font-size="12">{said}</text>'
    return (
        f'<div style="color:{INK};font-size:90%">{escape(title)}, the last {most_x:.1f} s</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;border-bottom:1px solid {FAINT}">{inner}</svg>'
    )
