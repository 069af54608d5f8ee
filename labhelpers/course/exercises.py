"""Exercises that the state of the engine proves.

An `Exercise` is a list of named tasks. Each task checks the engine and reports what is missing; how the reader got
there does not matter. In a page an exercise is a panel that completes by itself (`labhelpers.course.panel`);
everywhere else `.check()` gives the same verdict. The checks that rooms share are in `labhelpers.course.checks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import docker.errors
import requests

from labhelpers.course import progress
from labhelpers.course.containers import container_named
from labhelpers.course.verdicts import TaskVerdict, Verdict
from labhelpers.course.watcher import Watcher
from labhelpers.errors import LabError
from labhelpers.results import with_text_fallback

if TYPE_CHECKING:
    from labhelpers.lab import Lab

    Bundle = tuple[dict[str, Any], dict[str, Any]]
    _Identity = tuple[str | None, str, int, int] | None

Check = Callable[["Lab"], "str | None"]
"""Checks the engine: None when a task is done, else what is missing, for the reader."""
Hint = Callable[["Lab"], str] | str
"""Addresses the likely mistake, from the state of the engine; never the command to paste."""


@dataclass(frozen=True)
class Task:
    """One condition of the engine's state.

    Attributes:
        name: a short name, unique in its exercise; other tasks' `needs` use it.
        text: the goal, in the reader's terms.
        check: returns None when the task is done, else what is missing.
        hint: a text, or a function that derives one from the state of the engine.
        needs: names of earlier tasks; while one is missing, this task is "not yet" and is not checked.
    """

    name: str
    text: str
    check: Check
    hint: Hint | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Exercise:
    """What the reader must reach, and how the engine's state proves it.

    Attributes:
        lab: the lab whose engine is checked.
        chapter: "00" … "10".
        slug: a short name, unique in its chapter; progress is stored under it.
        title: the title shown to the reader.
        tasks: in the order in which the reader is expected to reach them.
        settle_s: how long a passing state must hold, in seconds; choose it longer than a wrong answer lives.
        containers: names of containers that must not be replaced or restarted in that time.
    """

    lab: Lab
    chapter: str
    slug: str
    title: str
    tasks: Sequence[Task]
    settle_s: float = 1.0
    containers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known: set[str] = set()
        for task in self.tasks:
            unknown = set(task.needs) - known
            if unknown or task.name in known:
                raise ValueError(
                    f"task {task.name!r}: unknown dependency {sorted(unknown)} or duplicate name"
                )
            known.add(task.name)

    def check(self) -> Verdict:
        """The verdict now. A state that passes is checked again `settle_s` later.

        Passing is stored in the reader's progress. A container that disappears during the check is a missing task,
        not an error.
        """
        before = {name: _container_identity(self.lab, name) for name in self.containers}
        verdict = self._check_tasks()
        if verdict.passed and self.settle_s:
            time.sleep(self.settle_s)
            verdict = self._check_tasks()
            if verdict.passed:
                verdict = self._same_containers(verdict, before)
        return replace(verdict, note=progress.save(self.chapter, self.slug, self.title, verdict.passed))

    def hint(self) -> str:
        """A hint for the first task that is not done, from the state of the engine."""
        unfinished = self._check_tasks().first_unfinished
        if unfinished is None:
            return "All tasks are done."
        task = next(task for task in self.tasks if task.name == unfinished.name)
        hint = _run_check(self.lab, task.hint) if callable(task.hint) else task.hint
        return hint or unfinished.missing or task.text

    def watch(self, callback: Callable[[Verdict], object]) -> Callable[[], None]:
        """Call `callback` with the verdict now and after each change, until it passes or the lab closes.

        `callback` is called in a background thread. The engine's events trigger the checks; a slow poll (every
        `watcher.POLL_S` seconds) covers states that cause no event, such as a file inside a container.

        Returns:
            A function that stops the watching; it may be called twice.
        """
        return Watcher(self, callback).stop

    def _check_tasks(self) -> Verdict:
        verdicts: dict[str, TaskVerdict] = {}
        for task in self.tasks:
            blocking = next((verdicts[name] for name in task.needs if not verdicts[name].passed), None)
            if blocking:
                verdict = TaskVerdict(task.name, task.text, "not yet", f"waits for “{blocking.text}”")
            else:
                missing = _run_check(self.lab, task.check)
                verdict = TaskVerdict(task.name, task.text, "missing" if missing else "done", missing)
            verdicts[task.name] = verdict
        return Verdict(self.title, tuple(verdicts.values()))

    def _same_containers(self, verdict: Verdict, before: dict[str, _Identity]) -> Verdict:
        """The verdict, with its first task missing if a container was replaced or restarted since `before`."""
        for name, identity in before.items():
            if _container_identity(self.lab, name) != identity:
                missing = f"{name} was restarted or replaced during the check; it must keep running"
                first, *rest = verdict.tasks
                return replace(verdict, tasks=(replace(first, status="missing", missing=missing), *rest))
        return verdict

    def __repr__(self) -> str:
        # the tasks and never the verdict: stored in a notebook, it is the same on every machine
        tasks = (f"  {number}. {task.text}" for number, task in enumerate(self.tasks, 1))
        return "\n".join([f"Exercise: {self.title}", *tasks])

    @cached_property
    def panel(self) -> Any:
        """The widget that shows this exercise; it starts to watch when it is created."""
        from labhelpers.course.panel import exercise_panel

        return exercise_panel(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return with_text_fallback(self.panel, repr(self))


def _run_check(lab: Lab, check: Check) -> str | None:
    """The result of a check or hint; if the engine cannot answer, the task is not done."""
    try:
        return check(lab)
    except docker.errors.NotFound:
        return "it disappeared during the check"
    except docker.errors.APIError as error:
        return f"the engine returned an error: {error.explanation or error}"
    except (requests.RequestException, docker.errors.DockerException) as error:
        return f"the engine does not respond ({type(error).__name__})"
    except LabError as error:
        return error.message


def _container_identity(lab: Lab, name: str) -> _Identity:
    """What changes when a container is restarted or another one takes its name; None if there is none."""
    try:
        container = container_named(lab, name)
    except (requests.RequestException, docker.errors.DockerException):
        return None
    if container is None:
        return None
    state = container.attrs["State"]
    return container.id, state["StartedAt"], state["Pid"], container.attrs["RestartCount"]
