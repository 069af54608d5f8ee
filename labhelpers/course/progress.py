"""The reader's progress, and the files of the state directory in which it and the predictions are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers import state
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

PROGRESS = "progress.json"

IsEntry = Callable[[Any], bool]


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
    """The reader's stored progress; empty if there is none, or if the file is damaged."""
    stored = read(PROGRESS, _is_progress)
    rows = [(key.partition("/")[0], v["title"], v["passed"], v["when"]) for key, v in sorted(stored.items())]
    return Progress(tuple(rows))


def save(chapter: str, slug: str, title: str, passed: bool) -> str | None:
    """Store whether an exercise was passed; an exercise that was passed once stays passed.

    Returns:
        None, or a message for the reader, as `update`.
    """
    key = f"{chapter}/{slug}"

    def change(stored: dict[str, Any]) -> bool:
        if key in stored and (stored[key]["passed"] or not passed):
            return False
        stored[key] = {"title": title, "passed": passed, "when": now() if passed else None}
        return True

    return update(PROGRESS, _is_progress, change)


def _is_progress(entry: Any) -> bool:
    return isinstance(entry, dict) and {"title", "passed", "when"} <= entry.keys()


# --- the files


def now() -> str:
    """The time, UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(name: str, is_entry: IsEntry) -> dict[str, Any]:
    """The valid entries of a file in the state directory; reading never fails and never changes a file."""
    try:
        return _load(name, is_entry) or {}
    except (OSError, LabError):
        return {}


def update(name: str, is_entry: IsEntry, change: Callable[[dict[str, Any]], bool]) -> str | None:
    """Let `change` modify the entries of a file, and write them if it returns true; safe between processes.

    A damaged file is renamed, never overwritten.

    Returns:
        None, or a message for the reader: the file was damaged, or could not be written.
    """
    try:
        with state.locked(name + ".lock", timeout_s=10):
            backup: Path | None = None
            entries = _load(name, is_entry)
            if entries is None:
                backup = _back_up_damaged(state.path(name))
            if change(entries := entries or {}):
                state.write_json(name, entries)
    except (OSError, LabError) as error:
        reason = error.message if isinstance(error, LabError) else error.strerror
        return f"Could not save to {state.abbreviate_home(_path_of(name))}: {reason}. Everything else works."
    if backup:
        return f"{name} was corrupted. It was renamed to {state.abbreviate_home(backup)} and a new file was started."
    return None


def _load(name: str, is_entry: IsEntry) -> dict[str, Any] | None:
    """The entries of a file; empty if there is no such file, None if it is damaged."""
    try:
        entries = json.loads(state.path(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # not JSON, or not even UTF-8
        return None
    return entries if isinstance(entries, dict) and all(map(is_entry, entries.values())) else None


def _back_up_damaged(damaged: Path) -> Path:
    backup = damaged.with_name(damaged.name + ".damaged")
    while backup.exists():
        backup = backup.with_name(backup.name + "+")
    return damaged.rename(backup)


def _path_of(name: str) -> str:
    try:
        return str(state.path(name))
    except LabError:
        return f"the state directory ({name})"
