"""A live panel for a pull in progress, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from labhelpers.course.live import live
from labhelpers.course.pulls import PULL_COMPLETE
from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, PAPER

if TYPE_CHECKING:
    from labhelpers.course.pulls import PulledLayer
    from labhelpers.layers.pulls import Pull


def live_pull() -> Callable[[Pull], object]:
    """Show a panel in the output of the cell, and return the function that updates it; no panel outside a notebook."""
    return live(pull_html)


def pull_html(pull: Pull) -> str:
    """The contents of the panel."""
    rows = "".join(_row(layer) for layer in pull.layers)
    head = "pulled" if pull.done else "pulling"
    return (
        f'<div class="labhelpers-pull" style="line-height:1.5;color:{INK};max-width:52em">'
        f"<b>{head} {escape(pull.ref.rpartition('/')[2])}</b>{rows}</div>"
    )


def _row(layer: PulledLayer) -> str:
    share = 100 if layer.already_exists or not layer.bytes else 100 * layer.done_bytes // layer.bytes
    colour = FAINT if layer.already_exists else HOST if layer.status == PULL_COMPLETE else CONTAINER
    return (
        '<div style="display:flex;gap:0.8em"><code>' + escape(layer.id) + "</code>"
        f'<div style="flex:0 0 16em;background:{PAPER};height:1em;align-self:center">'
        f'<div style="width:{share}%;background:{colour};height:1em"></div></div>'
        f"<span>{escape(layer.status)}</span></div>"
    )
