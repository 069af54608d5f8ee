"""The exercise panel and the prediction's radio buttons.

They show verdicts and predictions, and compute nothing. A panel is changed from the background thread that watches
the exercise: each change of a trait is one message on the widget's comm, whatever the thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.course.verdicts import TaskVerdict, Verdict, verdict_html
from labhelpers.drawing import FAINT, HOST, INK
from labhelpers.results import code_html

if TYPE_CHECKING:
    from labhelpers.course.exercises import Exercise
    from labhelpers.course.predictions import Prediction

_FRAME = {"border": f"1px solid {FAINT}", "padding": "0.6em 0.9em", "margin": "0.3em 0", "max_width": "52em"}


def exercise_panel(exercise: Exercise) -> widgets.Widget:
    """A panel that follows `exercise` and completes by itself; its one button asks for a hint."""
    unchecked = (TaskVerdict(task.name, task.text, "not yet", None) for task in exercise.tasks)
    tasks = widgets.HTML(verdict_html(Verdict(exercise.title, tuple(unchecked)), "Checking …"))
    button = widgets.Button(description="Hint", tooltip="Hint for the first open task", icon="lightbulb-o")
    hint = widgets.HTML()
    panel = widgets.VBox([tasks, widgets.HBox([button, hint])], layout=widgets.Layout(**_FRAME))

    def show(verdict: Verdict) -> None:
        tasks.value = verdict_html(verdict, "Completes automatically when all tasks are done.")
        hint.value = ""
        if verdict.passed:
            button.layout.display = "none"
            panel.layout.border = f"2px solid {HOST}"

    button.on_click(lambda _: setattr(hint, "value", _message_html(exercise.hint())))
    exercise.watch(show)
    return panel


def prediction_panel(prediction: Prediction) -> widgets.Widget:
    """Radio buttons for `prediction`; a click stores the answer. A stored answer is selected."""
    radio = widgets.RadioButtons(
        options=prediction.options,
        value=prediction.chosen,
        layout=widgets.Layout(width="auto", max_width="50em"),
    )
    message = widgets.HTML(_message_html("Your prediction is saved.") if prediction.chosen else "")

    def store(change: dict[str, str]) -> None:
        message.value = _message_html(prediction.choose(change["new"]) or "Your prediction is saved.")

    radio.observe(store, names="value")
    head = widgets.HTML(f'<b style="color:{INK}">Predict.</b> {code_html(prediction.question)}')
    return widgets.VBox([head, radio, message], layout=widgets.Layout(**_FRAME))


def _message_html(text: str) -> str:
    return f'<div style="line-height:1.4;margin-left:0.5em">{code_html(text)}</div>' if text else ""
