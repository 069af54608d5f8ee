"""What a person at a terminal sees while something takes longer than a second."""

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
except ImportError:  # `status`, `clean` and `down` work in an incomplete environment, too

    class Console:  # type: ignore[no-redef]
        """Prints lines, and shows no status."""

        is_terminal = False
        encoding = "ascii"

        def __init__(self, **_: Any) -> None: ...

        def print(self, line: str, **_: Any) -> None:
            """One line."""
            print(line, flush=True)

        @contextmanager
        def status(self, _: str, **__: Any) -> Iterator[Any]:
            """Nothing moves."""
            yield self

        def update(self, _: str) -> None:
            """Nothing moves."""


from labhelpers.errors import with_command_name

console = Console(highlight=False, soft_wrap=True)


def echo(line: str) -> None:
    """One line for the person."""
    console.print(with_command_name(line), markup=False)


@contextmanager
def step(title: str) -> Iterator[Status]:
    """A step that may take long: a moving status on a terminal, its line and its seconds anywhere."""
    began = time.monotonic()
    if not console.is_terminal:
        echo(f"{title} …")
    # the usual spinner is made of braille characters
    spinner = "dots" if console.encoding.lower().startswith("utf") else "line"
    with console.status(title, spinner=spinner) as status:
        yield status
    echo(f"{title}: done ({time.monotonic() - began:.1f} s)")


def run_with_status(command: Sequence[str], title: str, stdin: BinaryIO | None = None) -> tuple[int, str]:
    """Run `command`, showing its newest line as the state of a step: (exit status, its last 20 lines)."""
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
    """Ask a person yes or no; nobody there means no."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
