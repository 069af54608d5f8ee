"""The `docker …` commands of an experiment as one block: the essential ones shown, all of them collapsed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CSS_CLASS = "labhelpers-commands"
_PRE = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.3em 0;padding:0"


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
        shown = [f"$ {line}" for line in self.essential]
        return "\n".join([*shown, f"{self.title}:", *(f"  $ {line}" for line in self.lines)])

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
    essential = dict.fromkeys(line for line in lines if line.startswith(tuple(beginnings)))
    return Commands(tuple(lines), tuple(essential) if beginnings else ())


def show_commands(lines: Sequence[str], beginnings: Sequence[str] = ()) -> None:
    """Show a block of commands in the notebook's page; elsewhere, or where there are none, nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if lines and shell is not None:
        from IPython.display import display

        display(commands(lines, beginnings))  # type: ignore[no-untyped-call]
