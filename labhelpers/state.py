"""The state directory: everything of ours on the machine outside the checkout.

`LABHELPERS_HOME` names it; else `$XDG_STATE_HOME/labhelpers`; else `~/.local/state/labhelpers`
(XDG Base Directory Specification).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labhelpers.errors import SetupFailed

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: `notebooks/`, `images/` and `assets/` are below it."""


def home() -> Path:
    """The state directory, made if it is not there."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    where = Path(os.environ.get("LABHELPERS_HOME") or Path(base) / "labhelpers")
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    return where


def path(*parts: str) -> Path:
    """A path below the state directory; its parent is made if it is not there."""
    where = home().joinpath(*parts)
    where.parent.mkdir(parents=True, exist_ok=True)
    return where


def shown(text: object) -> str:
    """`text` with the reader's home directory written as `~`, for messages and pages.

    Only where it begins a path: the `/root` of `ssh://root@host` is no directory, and `/root` after a colon is one
    inside a container.
    """
    try:
        directory = Path.home()
    except RuntimeError:  # no HOME, and no account of this user id
        return str(text)
    if not directory.is_absolute() or directory == Path(directory.anchor):
        return str(text)
    whole = rf"(?:(?<=://)|(?<![\w/.:~-])){re.escape(str(directory))}(?![\w@-]|\.\w)"
    return re.sub(whole, "~", str(text))


def read_json(name: str, default: Any) -> Any:
    """The JSON file `name` of the state directory; `default` where there is none or it is damaged."""
    try:
        return json.loads(path(name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return default


def write_json(name: str, data: Any) -> None:
    """Write the JSON file `name` so that a reader of it sees the old text or the new, never half."""
    target = path(name)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    partial.replace(target)


@contextmanager
def locked(name: str, timeout_s: float = 900, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock `name` between processes; `waiting` is called once if somebody else holds it.

    Raises:
        SetupFailed: the lock was not free within `timeout_s`.
    """
    lock = FileLock(path("locks", name))
    try:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if waiting:
                waiting()
            lock.acquire(timeout=timeout_s)
    except Timeout:
        raise SetupFailed(
            f"another lab command has held the lock “{name}” for {timeout_s:.0f} s",
            hint="wait for it to end, or end it; then run this again",
        ) from None
    try:
        yield
    finally:
        lock.release()
