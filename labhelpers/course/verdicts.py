"""The result of checking an exercise, as a table, as text and as HTML.

The panel of a page (`labhelpers.course.panel`) and the static result of `Exercise.check()` share one piece of HTML.
"""

from __future__ import annotations

from html import escape
from typing import Literal

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, PAPER
from labhelpers.results import Result, code_html, column, record, rows

_MARKS = {"done": ("✔", HOST), "missing": ("○", CONTAINER), "not yet": ("·", FAINT)}


@record
class TaskVerdict(Result):
    """The status of one task."""

    name: str = column("name of the task")
    text: str = column("what to reach")
    status: Literal["done", "missing", "not yet"] = column(
        "`done`; `missing` (checked and not reached); `not yet` (a task that it needs is missing)"
    )
    missing: str | None = column("what is missing, None when done")

    @property
    def passed(self) -> bool:
        """Whether the task is done."""
        return self.status == "done"


@record
class Verdict(Result):
    """The status of an exercise."""

    title: str = column("the title of the exercise")
    tasks: tuple[TaskVerdict, ...] = rows("the status of each task, in order", of=TaskVerdict)
    note: str | None = column(
        "a message about something else, such as progress that could not be saved; or None", default=None
    )

    @property
    def passed(self) -> bool:
        """Whether every task is done."""
        return bool(self.tasks) and all(task.passed for task in self.tasks)

    @property
    def first_unfinished(self) -> TaskVerdict | None:
        """The first task that is not done, None when all are."""
        return next((task for task in self.tasks if not task.passed), None)

    def __repr__(self) -> str:
        lines = [f"{self.title}: {'done' if self.passed else 'not done yet'}"]
        for task in self.tasks:
            lines.append(f"  [{'x' if task.passed else ' '}] {task.text}")
            if task.missing:
                lines.append(f"      {task.status}: {task.missing}")
        return "\n".join([*lines, *([f"  note: {self.note}"] if self.note else [])])

    def _repr_html_(self) -> str:
        return verdict_html(self, "Not done yet.")


def verdict_html(verdict: Verdict, unfinished: str) -> str:
    """A verdict as HTML.

    Args:
        unfinished: the line below the title while a task is not done.
    """
    heading, colour = ("Done.", HOST) if verdict.passed else (unfinished, INK)
    note = f'<div style="color:{INK};background:{PAPER};padding:0.3em">{escape(verdict.note or "")}</div>'
    return (
        f'<div class="labhelpers-exercise" style="line-height:1.4"><b>Exercise. {escape(verdict.title)}</b>'
        f'<div style="color:{colour};margin-bottom:0.3em">{escape(heading)}</div>'
        f"{''.join(map(_task_html, verdict.tasks))}{note if verdict.note else ''}</div>"
    )


def _task_html(task: TaskVerdict) -> str:
    mark, colour = _MARKS[task.status]
    missing = f'<div style="color:#555;font-size:90%">{task.status}: {code_html(task.missing or "")}</div>'
    return (
        f'<div style="display:flex;margin:0.25em 0">'
        f'<div style="flex:0 0 1.6em;color:{colour};font-weight:bold">{mark}</div>'
        f"<div>{code_html(task.text)}{missing if task.missing else ''}</div></div>"
    )
