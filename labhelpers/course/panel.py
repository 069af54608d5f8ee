"""The exercise panel and the prediction's radio buttons.

They show what `labhelpers.course.exercises` says and decide nothing. A panel is changed from the background thread
that watches the exercise: each change of a trait is one message on the widget's comm, whatever the thread.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, PAPER
from labhelpers.results import code_html

if TYPE_CHECKING:
    from labhelpers.course.exercises import Exercise, Prediction, TaskVerdict, Verdict

_MARKS = {"done": ("✔", HOST), "missing": ("○", CONTAINER), "not yet": ("·", FAINT)}


def exercise_panel(exercise: Exercise) -> widgets.Widget:
    """A panel that follows `exercise` and completes by itself; its one button asks for a hint."""
    tasks = widgets.HTML(_waiting_html(exercise))
    button = widgets.Button(description="Hint", tooltip="Hint for the first open task", icon="lightbulb-o")
    hint = widgets.HTML()
    panel = widgets.VBox([tasks, widgets.HBox([button, hint])])
    panel.layout = widgets.Layout(
        border=f"1px solid {FAINT}", padding="0.6em 0.9em", margin="0.3em 0", max_width="52em"
    )

    def show(verdict: Verdict) -> None:
        tasks.value = verdict_html(verdict)
        hint.value = ""
        if verdict.passed:
            button.layout.display = "none"
            panel.layout.border = f"2px solid {HOST}"

    button.on_click(lambda _: setattr(hint, "value", _html_text(exercise.hint())))
    exercise.watch(show)
    return panel


def prediction_panel(prediction: Prediction) -> widgets.Widget:
    """Radio buttons for `prediction`; a click keeps the answer. An answer given before is shown chosen."""
    radio = widgets.RadioButtons(
        options=prediction.options,
        value=prediction.chosen,
        layout=widgets.Layout(width="auto", max_width="50em"),
    )
    said = widgets.HTML(_html_text("Your prediction is saved.") if prediction.chosen else "")

    def keep(change: dict[str, str]) -> None:
        said.value = _html_text(prediction.choose(change["new"]) or "Your prediction is saved.")

    radio.observe(keep, names="value")
    head = widgets.HTML(f'<b style="color:{INK}">Predict.</b> {code_html(prediction.question)}')
    layout = widgets.Layout(
        border=f"1px solid {FAINT}", padding="0.6em 0.9em", margin="0.3em 0", max_width="52em"
    )
    return widgets.VBox([head, radio, said], layout=layout)


def verdict_html(verdict: Verdict) -> str:
    """A verdict as the panel shows it."""
    head = "Done." if verdict.passed else "Completes automatically when all tasks are done."
    colour = HOST if verdict.passed else INK
    rows = "".join(_task_html(task) for task in verdict.tasks)
    note = (
        f'<div style="color:{INK};background:{PAPER};padding:0.3em">{escape(verdict.note)}</div>'
        if verdict.note
        else ""
    )
    return _page(verdict.title, head, colour, rows, note)


def _task_html(task: TaskVerdict) -> str:
    mark, colour = _MARKS[task.stands]
    why = (
        f'<div style="color:#555;font-size:90%">{task.stands}: {code_html(task.missing)}</div>'
        if task.missing
        else ""
    )
    return _row(mark, colour, f"{code_html(task.text)}{why}")


def _waiting_html(exercise: Exercise) -> str:
    rows = "".join(_row("·", FAINT, code_html(task.text)) for task in exercise.tasks)
    return _page(exercise.title, "Checking …", INK, rows, "")


def _row(mark: str, colour: str, inner: str) -> str:
    left = f'<div style="flex:0 0 1.6em;color:{colour};font-weight:bold">{mark}</div>'
    return f'<div style="display:flex;margin:0.25em 0">{left}<div>{inner}</div></div>'


def _page(title: str, head: str, colour: str, rows: str, note: str) -> str:
    return (
        f'<div class="labhelpers-exercise" style="line-height:1.4"><b>Exercise. {escape(title)}</b>'
        f'<div style="color:{colour};margin-bottom:0.3em">{escape(head)}</div>{rows}{note}</div>'
    )


def _html_text(text: str) -> str:
    return f'<div style="line-height:1.4;margin-left:0.5em">{code_html(text)}</div>' if text else ""
