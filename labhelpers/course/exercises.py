"""Exercises checked by the state of the engine, predictions, and the reader's progress.

An `Exercise` is a set of named tasks. Each task looks at the engine and says what is missing; how the reader
got there does not matter. In a page an exercise shows itself as a panel that completes by itself
(`labhelpers.course.panel`); everywhere else `.check()` gives the same verdict.

Progress and predictions are kept in `progress.json` and `predictions.json` of the state directory.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import docker.errors
import requests

from labhelpers import state
from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import execute
from labhelpers.errors import BadInput, ContainerMissing, LabClosed, LabError, NotRunning
from labhelpers.lab import sessions
from labhelpers.results import Result, column, record, rows, table, with_text_fallback

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

    Bundle = tuple[dict[str, Any], dict[str, Any]]
    _Life = tuple[str | None, str, int, int] | None

PROGRESS = "progress.json"
PREDICTIONS = "predictions.json"
POLL_S = 5.0
DEBOUNCE_S = 0.3
MOST_TEXT = 1 << 16


# --- tasks and verdicts


@dataclass(frozen=True)
class Task:
    """One thing that must be true of the engine.

    Attributes:
        name: a short name, unique in its exercise; other tasks' `needs` use it.
        text: what to reach, in the reader's terms.
        check: looks at the engine; None when the task is reached, else what is missing (to the reader).
        hint: answers the likely mistake, from the state of the engine; never the command to paste.
        needs: names of earlier tasks; while one is missing, this task is "not yet" and is not looked at.
    """

    name: str
    text: str
    check: Callable[[Lab], str | None]
    hint: Callable[[Lab], str] | str | None = None
    needs: tuple[str, ...] = ()


@record
class TaskVerdict(Result):
    """How one task stands."""

    name: str = column("as in the task")
    text: str = column("as in the task")
    stands: Literal["done", "missing", "not yet"] = column(
        "`done`; `missing` (looked at, and not there); `not yet` (a task that it needs is missing)"
    )
    missing: str | None = column("what is missing, None when done")

    @property
    def passed(self) -> bool:
        """Whether the task is reached."""
        return self.stands == "done"


@record
class Verdict(Result):
    """How an exercise stands."""

    title: str = column("the title of the exercise")
    tasks: tuple[TaskVerdict, ...] = rows("how each task stands, in order", of=TaskVerdict)
    note: str | None = column(
        "something that the reader should know besides, such as progress that could not be kept; or None",
        default=None,
    )

    @property
    def passed(self) -> bool:
        """Whether every task is reached."""
        return bool(self.tasks) and all(task.passed for task in self.tasks)

    @property
    def first_open(self) -> TaskVerdict | None:
        """The first task that is not reached, None when all are."""
        return next((task for task in self.tasks if not task.passed), None)

    def frame(self) -> pd.DataFrame:
        """One row a task: task, stands, missing."""
        rows = [(task.text, task.stands, task.missing or "") for task in self.tasks]
        return table(rows, ["task", "stands", "missing"])

    def __repr__(self) -> str:
        lines = [f"{self.title}: {'done' if self.passed else 'not done yet'}"]
        for task in self.tasks:
            lines.append(f"  [{'x' if task.passed else ' '}] {task.text}")
            if task.missing:
                lines.append(f"      {task.stands}: {task.missing}")
        return "\n".join([*lines, *([f"  note: {self.note}"] if self.note else [])])

    def _repr_html_(self) -> str:
        rows = "".join(_task_html(task.text, task.stands, task.missing) for task in self.tasks)
        head = f"<b>{escape(self.title)}: {'done' if self.passed else 'not done yet'}</b>"
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f'{head}<ul style="list-style:none;padding-left:0.5em">{rows}</ul>{note}'


_MARKS = {"done": "✔", "missing": "○", "not yet": "·"}


def _task_html(text: str, stands: str, missing: str | None) -> str:
    why = (
        f'<br><small style="margin-left:1.6em">{escape(stands)}: {escape(missing)}</small>' if missing else ""
    )
    return (
        f'<li><span style="display:inline-block;width:1.4em">{_MARKS[stands]}</span>{escape(text)}{why}</li>'
    )


# --- exercises


@dataclass(frozen=True, eq=False)
class Exercise:
    """What the reader must reach, and how the engine's state proves it.

    Attributes:
        lab: the lab whose engine is looked at.
        chapter: "00" … "10".
        slug: a short name, unique in its chapter; progress is kept under it.
        title: what the exercise is called.
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
        seen: set[str] = set()
        for task in self.tasks:
            unknown = set(task.needs) - seen
            if unknown or task.name in seen:
                raise ValueError(
                    f"task {task.name!r}: unknown dependency {sorted(unknown)} or duplicate name"
                )
            seen.add(task.name)

    def check(self) -> Verdict:
        """How the exercise stands now. A state that passes is looked at again `settle_s` later.

        Passing is kept in the reader's progress. A container that vanishes while it is looked at is a task
        not reached; it is no error.
        """
        before = {name: _life(self.lab, name) for name in self.containers}
        verdict = self._look()
        if verdict.passed and self.settle_s:
            time.sleep(self.settle_s)
            verdict = self._look()
            if verdict.passed:
                verdict = self._same_containers(verdict, before)
        return Verdict(verdict.title, verdict.tasks, self._keep(verdict.passed))

    def hint(self) -> str:
        """A hint for the first task that is not reached, from the state of the engine."""
        open_task = self._look().first_open
        if open_task is None:
            return "All tasks are done."
        task = next(task for task in self.tasks if task.name == open_task.name)
        if callable(task.hint):
            return _asked(self.lab, task.hint) or open_task.missing or task.text
        return task.hint or open_task.missing or task.text

    def watch(self, seen: Callable[[Verdict], object]) -> Callable[[], None]:
        """Call `seen` with the verdict now and after every change of it, until it passes or the lab closes.

        `seen` is called in a background thread. The engine's events wake the check; a slow poll (every
        `POLL_S` seconds) is there for states that make no event, such as a file inside a container.

        Returns:
            A function that stops the watching; it may be called twice.
        """
        return _Watch(self, seen).stop

    def _look(self) -> Verdict:
        stands: dict[str, TaskVerdict] = {}
        for task in self.tasks:
            before = [stands[name] for name in task.needs if not stands[name].passed]
            if before:
                stands[task.name] = TaskVerdict(
                    task.name, task.text, "not yet", f"waits for “{before[0].text}”"
                )
                continue
            missing = _asked(self.lab, task.check)
            stands[task.name] = TaskVerdict(task.name, task.text, "missing" if missing else "done", missing)
        return Verdict(self.title, tuple(stands.values()))

    def _same_containers(self, verdict: Verdict, before: dict[str, _Life]) -> Verdict:
        """The verdict, with its first task missing if a container was replaced or restarted since `before`."""
        for name, life in before.items():
            if _life(self.lab, name) != life:
                missing = f"{name} was restarted or replaced during the check; it must keep running"
                first, *rest = verdict.tasks
                first = TaskVerdict(first.name, first.text, "missing", missing)
                return Verdict(verdict.title, (first, *rest))
        return verdict

    def _keep(self, passed: bool) -> str | None:
        key = f"{self.chapter}/{self.slug}"

        def change(kept: dict[str, Any]) -> bool:
            if key in kept and (kept[key]["passed"] or not passed):
                return False
            kept[key] = {"title": self.title, "passed": passed, "when": _now() if passed else None}
            return True

        return _update(PROGRESS, _is_progress, change)

    def __repr__(self) -> str:
        # says what to reach, never how it stands: stored in a notebook, it is the same on every machine
        tasks = (f"  {number}. {task.text}" for number, task in enumerate(self.tasks, 1))
        return "\n".join([f"Exercise: {self.title}", *tasks])

    @cached_property
    def panel(self) -> Any:
        """The widget that shows this exercise; it starts to watch when it is made."""
        from labhelpers.course.panel import exercise_panel

        return exercise_panel(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return with_text_fallback(self.panel, repr(self))


class _Watch:
    """One background thread that checks an exercise when something happens.

    A cell that is run again makes its exercise again: the newer watch ends the older one.
    """

    _latest: ClassVar[dict[tuple[str, str, str], _Watch]] = {}

    def __init__(self, exercise: Exercise, seen: Callable[[Verdict], object]) -> None:
        key = (exercise.lab.session, exercise.chapter, exercise.slug)
        if key in self._latest:
            self._latest[key].stop()
        self._latest[key] = self
        self._exercise, self._seen = exercise, seen
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._unsubscribe = exercise.lab.events.subscribe(lambda _event: self._wake.set())
        threading.Thread(target=self._run, name=f"watch {exercise.slug}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        self._unsubscribe()

    def _run(self) -> None:
        last: Verdict | None = None
        pause_s = DEBOUNCE_S
        try:
            while not self._stopped.is_set() and sessions.is_alive(self._exercise.lab.session):
                self._wake.clear()
                verdict = self._checked()
                # a look may make events itself (an exec, a helper container): one that changes nothing makes
                # the next one wait longer, so that no event is lost and the looks do not chase one another
                pause_s = min(2 * pause_s, POLL_S) if verdict == last else DEBOUNCE_S
                if verdict != last and not self._stopped.is_set():
                    self._seen(verdict)
                last = verdict
                if verdict.passed:
                    return
                if self._wake.wait(POLL_S):
                    self._stopped.wait(pause_s)  # one `docker run` makes five events; one look is enough
                else:
                    pause_s = DEBOUNCE_S
        finally:
            self._unsubscribe()

    def _checked(self) -> Verdict:
        try:
            return self._exercise.check()
        except Exception as error:  # a check with a mistake in it must not end as a panel that waits for ever
            return Verdict(
                self._exercise.title, (), f"the check itself failed: {type(error).__name__}: {error}"
            )


def _asked(lab: Lab, look: Callable[[Lab], str | None]) -> str | None:
    """What `look` says; an engine that cannot answer means: not there yet."""
    try:
        return look(lab)
    except docker.errors.NotFound:
        return "it disappeared during the check"
    except docker.errors.APIError as error:
        return f"the engine returned an error: {error.explanation or error}"
    except (requests.RequestException, docker.errors.DockerException) as error:
        return f"the engine does not respond ({type(error).__name__})"
    except LabError as error:
        return error.message


def _life(lab: Lab, name: str) -> _Life:
    """What changes when a container is restarted or another one takes its name; None where there is none."""
    try:
        container = container_named(lab, name)
    except (requests.RequestException, docker.errors.DockerException):
        return None
    if container is None:
        return None
    state = container.attrs["State"]
    return container.id, state["StartedAt"], state["Pid"], container.attrs["RestartCount"]


def container_named(lab: Lab, name: str) -> Container | None:
    """The container called `name` on the lab's engine, made by whatever means; None if there is none.

    One that another learner's lab, or another open notebook, made is none of the reader's.
    """
    try:
        found: Container = lab.client.containers.get(name)
    except docker.errors.NotFound:
        return None
    if sessions.has_lab_labels("container", found.labels) and not sessions.may_modify(
        found.labels.get(sessions.SESSION, lab.session), lab.session
    ):
        return None
    return found if found.name == name else None  # the engine also finds by the start of an id


def output_of(lab: Lab, name: str, command: list[str]) -> str:
    """What a command in the container writes, without the space around it; empty where it fails.

    Raises:
        LabError: there is no such container, or it does not run.
    """
    done = execute(lab.client.api, str(running(lab, name).id), command)
    return done.stdout.decode(errors="replace").strip() if done.exit_code == 0 else ""


def file_in(lab: Lab, name: str, path: str) -> str:
    """What a file in the container holds, without the space around it; empty where there is none.

    It is read from the engine's host, through /proc/PID/root: a container's own `cat` could print anything.

    Raises:
        LabError: there is no such container, or it does not run.
    """
    container = running(lab, name)
    if lab.host.unavailable:
        return output_of(lab, name, ["cat", path])
    pid = lab.host.process(container).pid
    try:
        return lab.host.read(
            f"/proc/{pid}/root{lab.host.real_path(path, container)}", begin_bytes=MOST_TEXT
        ).strip()
    except LabError:  # no such file, or no file at all
        return ""


def not_running(lab: Lab, name: str) -> str | None:
    """Why no container called `name` runs, in the reader's words; None where one does."""
    container = container_named(lab, name)
    if container is None:
        return f"there is no container named {name}"
    if container.status == "running":
        return None
    ended = f", exit code {container.attrs['State']['ExitCode']}" if container.status == "exited" else ""
    return f"{name} is not running: its state is “{container.status}”{ended}"


def running(lab: Lab, name: str) -> Container:
    """The running container called `name`.

    Raises:
        LabError: there is none; the message is that of `not_running`.
    """
    if missing := not_running(lab, name):
        raise NotRunning(missing, hint="`docker ps -a` lists the containers and their exit codes")
    container = container_named(lab, name)
    if container is None:
        raise ContainerMissing(f"{name} was removed during the check", hint="check again")
    return container


_given: dict[tuple[str, str], str] = {}
"""(session, name) → id of the container that an exercise starts from."""


def given(lab: Lab, name: str, make: Callable[[], object]) -> None:
    """Have `make` start the container `name` that an exercise starts from, unless it is there already."""
    is_there = container_named(lab, name) is not None
    if not is_there:
        make()
    found = container_named(lab, name)
    if found is not None and not (is_there and (lab.session, name) in _given):
        _given[lab.session, name] = str(found.id)


def not_as_given(lab: Lab, name: str) -> str | None:
    """Why `name` is no longer the running container that `given` made, to the reader; None where it is."""
    found = container_named(lab, name)
    if found is None:
        return f"there is no container named {name}: run the cell of this exercise again"
    if found.id != _given.get((lab.session, name), found.id):
        return f"{name} has been replaced: remove it, then run this exercise's cell again"
    return not_running(lab, name)


# --- what an exercise began with

_KEPT: dict[tuple[str, str], str] = {}


def keep(lab: Lab, what: str, value: str) -> str:
    """Keep what an exercise began with, such as the id of an image: the reader may move its name later."""
    _KEPT[lab.session, what] = value
    return value


def kept(lab: Lab, what: str) -> str:
    """What `keep` kept in this session; "" for nothing."""
    return _KEPT.get((lab.session, what), "")


# --- copies to try things on


@contextmanager
def copy_of(lab: Lab, container: Container) -> Iterator[Container]:
    """A container made like `container`, with its files as they are now; the block starts it. It is removed after that.

    A check that stops, signals or hurries a container does so to a copy. The copy publishes no port, has no restart
    policy, and has empty volumes in the place of what is mounted, so that no two programs write to one volume.

    Raises:
        APIError: the engine does not make it.
        LabError: the lab is closed.
    """
    _must_be_open(lab)
    api: Any = lab.client.api
    labels = sessions.labels("image", lab.chapter, lab.session)
    changes = [f"LABEL {key}={value}" for key, value in labels.items()]
    image = api.commit(container.id, pause=False, changes=changes)["Id"]
    try:
        made = api.create_container_from_config(
            _like(container.attrs, image, sessions.labels("container", lab.chapter, lab.session))
        )
        try:
            _must_be_open(lab)  # a background check may go on while the lab closes
            yield lab.client.containers.get(made["Id"])
        finally:
            with suppress(docker.errors.NotFound):
                remove_container(api, made["Id"], v=True)
    finally:
        with suppress(docker.errors.APIError):
            api.remove_image(image)


def _must_be_open(lab: Lab) -> None:
    if lab.is_closed:
        raise LabClosed(
            "the lab is closed; exercises are no longer checked", hint="run the notebook from the first cell"
        )


def _like(attrs: dict[str, Any], image: str, labels: dict[str, str]) -> dict[str, Any]:
    config, host = attrs["Config"], attrs["HostConfig"]
    network = host["NetworkMode"]
    return {
        **{
            key: config.get(key)
            for key in ("Cmd", "Entrypoint", "Env", "User", "WorkingDir", "Tty", "OpenStdin")
        },
        "Image": image,
        "Labels": {**(config.get("Labels") or {}), **labels},
        "Volumes": {mount["Destination"]: {} for mount in attrs["Mounts"]},
        "HostConfig": {
            **host,
            # on the host's network its port would be in use
            "NetworkMode": "default" if network == "host" else network,
            "PortBindings": {},
            "PublishAllPorts": False,
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "ReadonlyRootfs": False,
            "Binds": None,
            "Mounts": None,
            "VolumesFrom": None,
        },
    }


_TRIED: dict[tuple[str, str, str], str | None] = {}


def once(container: Container, what: str, look: Callable[[], str | None]) -> str | None:
    """What `look` finds out about this life of a container; asked once, for what costs seconds and cannot change."""
    key = (what, str(container.id), container.attrs["State"]["StartedAt"])
    if key not in _TRIED:
        _TRIED[key] = look()
    return _TRIED[key]


# --- progress


@record
class Progress(Result):
    """The exercises that the reader has opened, and those passed."""

    exercises: tuple[tuple[str, str, bool, str | None], ...] = column(
        "(chapter, exercise, passed, when) of each; `when` is UTC, ISO 8601, or None", shown=False
    )

    def frame(self) -> pd.DataFrame:
        """One row an exercise: chapter, exercise, passed, when."""
        return table(list(self.exercises), ["chapter", "exercise", "passed", "when"])

    def __repr__(self) -> str:
        done = sum(passed for _, _, passed, _ in self.exercises)
        return f"{done} of {len(self.exercises)} opened exercises passed"

    def _repr_html_(self) -> str:
        if not self.exercises:
            return "You have not started an exercise yet. The first one is below."
        rows = ""
        for chapter, title, done, when in self.exercises:
            cells = (chapter, title, "✔ passed" if done else "○ open", (when or "")[:16].replace("T", " "))
            rows += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        head = "<tr><th>chapter</th><th>exercise</th><th></th><th>when (UTC)</th></tr>"
        return f"<table>{head}{rows}</table>"


def progress() -> Progress:
    """What is kept of the reader's progress; empty where nothing is, or where the file is damaged."""
    kept = _entries(PROGRESS, _is_progress)
    rows = [(key.partition("/")[0], v["title"], v["passed"], v["when"]) for key, v in sorted(kept.items())]
    return Progress(tuple(rows))


def _is_progress(entry: Any) -> bool:
    return isinstance(entry, dict) and {"title", "passed", "when"} <= entry.keys()


# --- predictions


@dataclass(frozen=True, eq=False)
class Prediction:
    """A question put before the cell that answers it.

    Attributes:
        slug: a short name, unique in the course; the answer is kept under it.
        question: what is asked.
        options: what may be answered.
    """

    slug: str
    question: str
    options: tuple[str, ...]

    def choose(self, option: str) -> str | None:
        """Keep `option` as the reader's prediction; a later choice replaces it.

        Returns:
            None, or why it could not be kept.

        Raises:
            BadInput: `option` is not among the options.
        """
        if option not in self.options:
            raise BadInput(
                f"“{option}” is not one of the options", hint=f"choose one of: {', '.join(self.options)}"
            )

        def change(kept: dict[str, Any]) -> bool:
            kept[self.slug] = {"chosen": option, "when": _now()}
            return True

        return _update(PREDICTIONS, _is_prediction, change)

    @property
    def chosen(self) -> str | None:
        """What the reader chose, or None."""
        kept = predicted(self.slug)
        return kept if kept in self.options else None

    def __repr__(self) -> str:
        # never what was chosen: stored in a notebook, it is the same on every machine
        return "\n".join([f"Predict: {self.question}", *(f"  ( ) {option}" for option in self.options)])

    @cached_property
    def panel(self) -> Any:
        """The widget that asks; it keeps the answer when one is clicked."""
        from labhelpers.course.panel import prediction_panel

        return prediction_panel(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return with_text_fallback(self.panel, repr(self))


def predict(slug: str, question: str, options: Sequence[str]) -> Prediction:
    """Ask for a prediction. As the last value of a cell it shows radio buttons; a click keeps the answer."""
    return Prediction(slug, question, tuple(options))


def predicted(slug: str) -> str | None:
    """What the reader predicted for `slug`, or None."""
    kept = _entries(PREDICTIONS, _is_prediction).get(slug)
    return str(kept["chosen"]) if kept else None


def _is_prediction(entry: Any) -> bool:
    return isinstance(entry, dict) and "chosen" in entry


@record
class Recall(Result):
    """A prediction beside what was measured. Both differ from reader to reader: tag its cell
    `nbval-ignore-output`.
    """

    predicted: str | None = column("what the reader chose, None if nothing")
    measured: str = column("what was measured, as text with its unit")

    def __repr__(self) -> str:
        return f"You predicted: {self.predicted or 'nothing yet'}\nMeasured:      {self.measured}"

    def _repr_html_(self) -> str:
        rows = (("You predicted", self.predicted or "nothing yet"), ("Measured", self.measured))
        style = "text-align:left;padding:0.4em 2em"
        cells = "".join(
            f'<td style="{style}"><small>{head}</small><br><b>{escape(text)}</b></td>' for head, text in rows
        )
        return f"<table><tr>{cells}</tr></table>"


def recall(slug: str, measured: str) -> Recall:
    """What the reader predicted for `slug`, beside what was measured."""
    return Recall(predicted(slug), measured)


# --- what is kept


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(name: str, is_entry: Callable[[Any], bool]) -> dict[str, Any] | None:
    """The entries kept in `name`; empty where there is no such file, None where it is damaged."""
    try:
        kept = json.loads(state.path(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # not JSON, or not even UTF-8
        return None
    return kept if isinstance(kept, dict) and all(map(is_entry, kept.values())) else None


def _entries(name: str, is_entry: Callable[[Any], bool]) -> dict[str, Any]:
    """What can be shown of `name`; reading never fails and never changes a file."""
    try:
        return _read(name, is_entry) or {}
    except (OSError, LabError):
        return {}


def _update(
    name: str, is_entry: Callable[[Any], bool], change: Callable[[dict[str, Any]], bool]
) -> str | None:
    """Change what is kept in `name`, if `change` says that it did; safe between processes and threads.

    A damaged file is put aside, never written over.

    Returns:
        None, or what the reader should know.
    """
    try:
        with state.locked(name + ".lock", timeout_s=10):
            aside: Path | None = None
            kept = _read(name, is_entry)
            if kept is None:
                aside = _put_aside(state.path(name))
            if change(kept := kept or {}):
                state.write_json(name, kept)
    except (OSError, LabError) as error:
        why = error.message if isinstance(error, LabError) else error.strerror
        return f"Could not save to {state.abbreviate_home(_where(name))}: {why}. Everything else works."
    if aside:
        return f"{name} was corrupted. It was renamed to {state.abbreviate_home(aside)} and a new file was started."
    return None


def _put_aside(damaged: Path) -> Path:
    aside = damaged.with_name(damaged.name + ".damaged")
    while aside.exists():
        aside = aside.with_name(aside.name + "+")
    return damaged.rename(aside)


def _where(name: str) -> str:
    try:
        return str(state.path(name))
    except LabError:
        return f"the state directory ({name})"
