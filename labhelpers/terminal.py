"""Messages, progress and prompts on the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

try:
    from rich.console import Console
except ImportError:  # `status`, `clean` and `down` also work in an incomplete environment

    class Console:  # type: ignore[no-redef]
        """A console without progress display."""

        is_terminal = False
        encoding = "ascii"

        def __init__(self, **_: Any) -> None: ...

        def print(self, line: str, **_: Any) -> None:
            """Print a line."""
            print(line, flush=True)

        @contextmanager
        def status(self, _: str, **__: Any) -> Iterator[Any]:
            """Do nothing."""
            yield self

        def update(self, _: str) -> None:
            """Do nothing."""


from labhelpers.errors import with_command_name

console = Console(highlight=False, soft_wrap=True)


def echo(line: str) -> None:
    """Print a line."""
    console.print(with_command_name(line), markup=False)


@contextmanager
def step(title: str) -> Iterator[Status]:
    """A step that may take long: a spinner on a terminal, and a line with its duration at the end."""
    began = time.monotonic()
    if not console.is_terminal:
        echo(f"{title} …")
    # the default spinner uses braille characters
    spinner = "dots" if console.encoding.lower().startswith("utf") else "line"
    with console.status(title, spinner=spinner) as status:
        yield status
    echo(f"{title}: done ({time.monotonic() - began:.1f} s)")


def run_with_status(command: Sequence[str], title: str, stdin: BinaryIO | None = None) -> tuple[int, str]:
    """Run `command` and show its last line as progress: (exit status, its last 20 lines)."""
    last: deque[str] = deque(maxlen=20)
    with step(title) as status:
        process = subprocess.Popen(
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            status.update(f"{title}  [dim]{line.strip()[:80].replace('[', '(')}[/dim]")
        process.stdout.close()
        return process.wait(), "\n".join(last)


def confirm(question: str) -> bool:
    """Prompt for yes or no; False if standard input is not a terminal."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
