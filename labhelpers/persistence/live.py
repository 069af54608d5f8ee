"""Many predictions as one table: shows them, keeps what is chosen, and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.course.predictions import Prediction
from labhelpers.drawing import FAINT

UNANSWERED = "?"


def prediction_table(
    cells: Mapping[tuple[str, str], Prediction], columns: Sequence[str], rows: Sequence[str]
) -> widgets.Widget:
    """A drop-down for each prediction, under its column and beside its row; a choice is kept at once."""
    said = widgets.HTML()
    made = [widgets.HTML("")] + [widgets.HTML(f"<b>{column}</b>") for column in columns]
    for row in rows:
        made.append(widgets.HTML(f"<b>{row}</b>"))
        made += [_choice(cells[column, row], said) for column in columns]
    layout = widgets.Layout(grid_template_columns=f"12em repeat({len(columns)}, 9em)", grid_gap="0.2em 0.8em")
    frame = widgets.Layout(border=f"1px solid {FAINT}", padding="0.6em 0.9em", max_width="52em")
    return widgets.VBox([widgets.GridBox(made, layout=layout), said], layout=frame)


def _choice(prediction: Prediction, said: widgets.HTML) -> widgets.Widget:
    menu = widgets.Dropdown(
        options=(UNANSWERED, *prediction.options),
        value=prediction.chosen or UNANSWERED,
        layout=widgets.Layout(width="8.5em"),
    )

    def keep(change: dict[str, str]) -> None:
        if change["new"] != UNANSWERED:
            said.value = prediction.choose(change["new"]) or "Your predictions are kept."

    menu.observe(keep, names="value")
    return menu
