"""The `docker …` commands of an experiment as one block: the essential ones shown, all of them collapsed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

CSS_CLASS = "labhelpers-commands"
# the join token of a swarm is a secret (docker swarm join-token)
_TOKEN = re.compile(r"SWMTKN-[\w-]+")
_PRE = (
    "font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px);"
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.3em 0;padding:0"
)


@dataclass(frozen=True)
class Commands:
    """Commands in the order in which they ran.

    Attributes:
        lines: all of them, without a prompt.
        essential: those that carry the lesson, once each.
    """

    lines: tuple[str, ...]
    essential: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How many there are: "14 docker commands"."""
        return f"{len(self.lines)} docker command{'s' if len(self.lines) > 1 else ''}"

    def __repr__(self) -> str:
        return "\n".join([*(f"$ {line}" for line in self.essential), f"{self.title}: see lab.commands"])

    def _repr_html_(self) -> str:
        shown = f"<pre style='{_PRE}'>{_prompted(self.essential)}</pre>" if self.essential else ""
        return (
            f'<div class="{CSS_CLASS}">{shown}<details><summary>{self.title}</summary>'
            f"<pre style='{_PRE}'>{_prompted(self.lines)}</pre></details></div>"
        )


def _prompted(lines: Sequence[str]) -> str:
    return "\n".join(f"$ {escape(line)}" for line in lines)


def commands(lines: Sequence[str], beginnings: Sequence[str] = ()) -> Commands:
    """`lines` as a block; those that begin with one of `beginnings` are essential, the first of each text."""
    shown = tuple(map(_readable, lines))
    return Commands(shown, tuple(dict.fromkeys(line for line in shown if line.startswith(tuple(beginnings)))))


def _readable(line: str) -> str:
    """The command as a person would type it: a program of the package by its file, a swarm's token left out."""
    line = _TOKEN.sub("SWMTKN-…", line)
    if "\n" not in line:  # every program of the package has several lines
        return line
    return " ".join(map(_typed, shlex.split(line)))


def _typed(word: str) -> str:
    """A word of a command, quoted; a program of the package, or `NAME=` and a program, by the program's file."""
    if file := _programs().get(word.rstrip("\n")):
        return f'"$(cat {file})"'
    name, _, value = word.partition("=")
    if file := _programs().get(value.rstrip("\n")):
        return f'{name}="$(cat {file})"'
    return shlex.quote(word)


@cache
def _programs() -> dict[str, str]:
    """The programs that run inside containers: text → path of its file, from the checkout."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(file for file in package.glob("*/inside/*") if file.is_file() and file.suffix != ".pyc")
    return {
        file.read_text(encoding="utf-8").rstrip("\n"): f"labhelpers/{file.relative_to(package).as_posix()}"
        for file in files
    }


def show_commands(lines: Sequence[str], beginnings: Sequence[str] = ()) -> None:
    """Show a block of commands in the notebook's page; elsewhere, or where there are none, nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if lines and shell is not None:
        from IPython.display import display

        display(commands(lines, beginnings))  # type: ignore[no-untyped-call]
