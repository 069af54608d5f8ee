"""A panel that is drawn anew while something goes on: shows what it is given, and computes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

Snapshot = TypeVar("Snapshot")


def live(html: Callable[[Snapshot], str]) -> Callable[[Snapshot], object]:
    """Show a panel in the notebook's output; gives what it is fed with. Outside of a notebook, nothing is shown.

    Args:
        html: what the panel shows of a thing.
    """
    shell: Any = None
    if "IPython" in sys.modules:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return lambda seen: None
    import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types
    from IPython.display import display

    panel = widgets.HTML()
    display(panel)  # type: ignore[no-untyped-call]

    def show(seen: Snapshot) -> None:
        panel.value = html(seen)

    return show
