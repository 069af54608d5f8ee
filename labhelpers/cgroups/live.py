"""Curves that grow during a measurement: displays results and computes none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from labhelpers.course.live import live
from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, KERNEL, LIMIT, VM
from labhelpers.results import column, record

WIDTH, HEIGHT = 640, 110
COLOURS = (CONTAINER, VM, HOST, KERNEL)


@record
class Curve:
    """A curve of a live plot."""

    panel: str = column("title of the panel")
    name: str = column("name of the curve")
    x: Sequence[float] = column("time in seconds")
    y: Sequence[float] = column("values")
    limit: float | None = column("limit, drawn dashed", default=None)


@record
class Curves:
    """The curves of a live plot."""

    curves: tuple[Curve, ...] = column("the curves, panel by panel")
    notes: tuple[str, ...] = column("sentences below the plot", default=())


def live_curves() -> Callable[[Curves], object]:
    """Show a live plot in the output of a notebook, and return the function that updates it."""
    return live(curves_html)


def curves_html(curves: Curves) -> str:
    """The live plot as HTML: one SVG for each panel."""
    panels = dict.fromkeys(curve.panel for curve in curves.curves)
    plots = "".join(
        _panel(panel, [curve for curve in curves.curves if curve.panel == panel]) for panel in panels
    )
    notes = "".join(f'<div style="color:{INK}">{escape(note)}</div>' for note in curves.notes)
    return f'<div class="labhelpers-curves" style="max-width:52em">{plots}{notes}</div>'


def _panel(title: str, curves: Sequence[Curve]) -> str:
    max_x = max((max(curve.x, default=0) for curve in curves), default=0) or 1
    max_y = max((max([*curve.y, curve.limit or 0], default=0) for curve in curves), default=0) * 1.1 or 1
    inner = ""
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{WIDTH * x / max_x:.1f},{HEIGHT - HEIGHT * y / max_y:.1f}"
            for x, y in zip(curve.x, curve.y, strict=True)
        )
        inner += f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if curve.limit:
            at = f"{HEIGHT - HEIGHT * curve.limit / max_y:.1f}"
            inner += (
                f'<line x1="0" x2="{WIDTH}" y1="{at}" y2="{at}" stroke="{LIMIT}" stroke-dasharray="6 4"/>'
            )
        label = f"{escape(curve.name)}: {curve.y[-1]:.1f}" if len(curve.y) else escape(curve.name)
        inner += f'<text x="6" y="{14 + 14 * number}" fill="{colour}" font-size="12">{label}</text>'
    return (
        f'<div style="color:{INK};font-size:90%">{escape(title)}, the last {max_x:.1f} s</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;border-bottom:1px solid {FAINT}">{inner}</svg>'
    )
