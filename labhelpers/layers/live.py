"""A pull that is going on, layer by layer: shows what `labhelpers.layers.pull` sees, and computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from labhelpers.course.live import live
from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, PAPER

if TYPE_CHECKING:
    from labhelpers.layers.experiments import Pull, PulledLayer


def live_pull() -> Callable[[Pull], object]:
    """Show a panel in the notebook's output; gives what it is fed with. Outside of a notebook, nothing is shown."""
    return live(pull_html)


def pull_html(pull: Pull) -> str:
    """A pull so far as the panel shows it."""
    rows = "".join(_row(layer) for layer in pull.layers)
    head = "pulled" if pull.done else "pulling"
    return (
        f'<div class="labhelpers-pull" style="line-height:1.5;color:{INK};max-width:52em">'
        f"<b>{head} {escape(pull.ref.rpartition('/')[2])}</b>{rows}</div>"
    )


def _row(layer: PulledLayer) -> str:
    share = 100 if layer.already_there or not layer.bytes else 100 * layer.done_bytes // layer.bytes
    colour = FAINT if layer.already_there else HOST if layer.says == "Pull complete" else CONTAINER
    return (
        '<div style="display:flex;gap:0.8em"><code>' + escape(layer.id) + "</code>"
        f'<div style="flex:0 0 16em;background:{PAPER};height:1em;align-self:center">'
        f'<div style="width:{share}%;background:{colour};height:1em"></div></div>'
        f"<span>{escape(layer.says)}</span></div>"
    )
