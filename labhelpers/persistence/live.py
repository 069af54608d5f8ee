"""A table of predictions: shows and stores the reader's choices, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.course.predictions import Prediction
from labhelpers.drawing import FAINT

UNANSWERED = "?"


def prediction_table(
    cells: Mapping[tuple[str, str], Prediction], columns: Sequence[str], rows: Sequence[str]
) -> widgets.Widget:
    """A drop-down list for each prediction, arranged by column and row; a choice is stored at once."""
    status = widgets.HTML()
    children = [widgets.HTML("")] + [widgets.HTML(f"<b>{column}</b>") for column in columns]
    for row in rows:
        children.append(widgets.HTML(f"<b>{row}</b>"))
        children += [_drop_down(cells[column, row], status) for column in columns]
    layout = widgets.Layout(grid_template_columns=f"12em repeat({len(columns)}, 9em)", grid_gap="0.2em 0.8em")
    frame = widgets.Layout(border=f"1px solid {FAINT}", padding="0.6em 0.9em", max_width="52em")
    return widgets.VBox([widgets.GridBox(children, layout=layout), status], layout=frame)


def _drop_down(prediction: Prediction, status: widgets.HTML) -> widgets.Widget:
    menu = widgets.Dropdown(
        options=(UNANSWERED, *prediction.options),
        value=prediction.chosen or UNANSWERED,
        layout=widgets.Layout(width="8.5em"),
    )

    def store(change: dict[str, str]) -> None:
        if change["new"] != UNANSWERED:
            status.value = prediction.choose(change["new"]) or "Your predictions are saved."

    menu.observe(store, names="value")
    return menu
