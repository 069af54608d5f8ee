"""The panel that lists what stays on the engine, and removes what is ticked."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.lab.sessions import described
from labhelpers.results import code_html

if TYPE_CHECKING:
    from labhelpers.lab.inventory import RemainingResources
    from labhelpers.lab.sessions import Resource


def remaining_panel(made: RemainingResources) -> widgets.Widget:
    """What stays on the engine, with a box for each item, none ticked; the button removes what is ticked."""
    if not made.resources:
        return widgets.HTML(f'<pre style="line-height:1.4">{escape(repr(made))}</pre>')
    head = widgets.HTML(
        "These remain on the engine when this notebook is closed. Select what you do not need:"
    )
    wide = widgets.Layout(width="auto", max_width="52em")
    boxes = {
        thing: widgets.Checkbox(value=False, description=described(thing), indent=False, layout=wide)
        for thing in made.resources
    }
    button = widgets.Button(description="Remove selected", icon="trash", disabled=True)
    button.layout.width = "auto"
    result = widgets.HTML()

    def ticked() -> list[Resource]:
        return [thing for thing, box in boxes.items() if box.value and not box.disabled]

    def enable(_: object) -> None:
        button.disabled = not ticked()

    def remove(_: object) -> None:
        chosen = ticked()
        if not chosen:
            return
        lines = made.remove(*chosen)
        for thing in chosen:
            if f"removed {thing}" in lines:
                boxes[thing].disabled = True
        result.value = "<br>".join(code_html(line) for line in lines)
        enable(_)

    for box in boxes.values():
        box.observe(enable, names="value")
    button.on_click(remove)
    return widgets.VBox([head, *boxes.values(), button, result])
