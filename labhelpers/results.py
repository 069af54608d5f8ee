"""What every measurement of the course is: a frozen dataclass that shows itself."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from labhelpers.errors import FindingFailed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Result:
    """Base of every result: a frozen dataclass with units in its field names.

    A result of class `BootTimes` in `labhelpers.vm.experiments` is drawn by the function
    `draw_boot_times(result, ax)` in `labhelpers.vm.figures`.
    """

    __slots__ = ()

    def frame(self) -> pd.DataFrame:
        """The result as a table: one row, one column a field. Results that hold many rows override this."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return table([[getattr(self, name) for name in names]], names)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result on `ax` (a new one if None) and return it."""
        from labhelpers.drawing import new_axes

        kind = type(self)
        figures = importlib.import_module(kind.__module__.rpartition(".")[0] + ".figures")
        draw = getattr(figures, "draw_" + re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower())
        drawn: Axes = draw(self, ax if ax is not None else new_axes())
        return drawn

    def _repr_html_(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None, "display.precision", 1):
            rows = self.frame().to_html(index=False, border=0)  # pandas escapes what the cells hold
        return f"<b>{escape(type(self).__name__)}</b>{rows}"


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A DataFrame of `rows`. Pandas is loaded here and not before: it takes longer than most verbs of `./lab`."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))


def with_text_fallback(panel: Any, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A widget as Jupyter shows it, with `text` for wherever no widget can be shown."""
    made = panel._repr_mimebundle_()
    data, metadata = made if isinstance(made, tuple) else (made, {})
    return {**data, "text/plain": text}, metadata


def code_html(text: str) -> str:
    """`text` for a page; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


NOT_APPLICABLE = ": not applicable here: "


def finding(claim: str, actual: Any = True, expected: Any = True, *, unless: str | None = None) -> None:
    """Print a finding, the same on every machine: `claim: yes`, or `claim: 1` where `expected` is a value.

    Args:
        unless: why this engine does not promise it, for example "the engine was started with icc=false". It is
            printed in place of the finding, and nothing is compared. None on an engine that promises it.

    Raises:
        FindingFailed: what was found is not what the course says.
    """
    if unless:
        print(f"{claim}{NOT_APPLICABLE}{unless}")
        return
    if actual != expected:
        raise FindingFailed(
            f"“{claim}” should be {_format_value(expected)} but is {_format_value(actual)}",
            hint="run the notebook again from the top; if this happens again, "
            "please report it with the output of `./lab doctor`",
        )
    print(f"{claim}: {_format_value(actual)}")


def _format_value(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
