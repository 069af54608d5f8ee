"""A panel that is updated while a cell runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

Snapshot = TypeVar("Snapshot")


def live(html: Callable[[Snapshot], str]) -> Callable[[Snapshot], object]:
    """Show a panel in the notebook's output; returns the function that updates it.

    Outside of a notebook, that function does nothing.

    Args:
        html: renders a snapshot as HTML.
    """
    shell: Any = None
    if "IPython" in sys.modules:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return lambda snapshot: None
    import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types
    from IPython.display import display

    panel = widgets.HTML()
    display(panel)  # type: ignore[no-untyped-call]

    def show(snapshot: Snapshot) -> None:
        panel.value = html(snapshot)

    return show
