"""What every measurement of the course is: a frozen record whose columns are declared once, and that shows itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, dataclass_transform, overload

from labhelpers.errors import FindingFailed
from labhelpers.units import heading, show, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

T = TypeVar("T")
_COLUMN = "labhelpers"
MAX_ROWS = 20
"""The most rows of a table on the page."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column of a record: the name with its unit (`file_bytes`), and what it holds.

    `rows` is the class of the records that the column holds, one for each row of the table.
    """

    name: str
    description: str
    shown: bool = True
    rows: type | None = None


def column(description: str, *, shown: bool = True, **options: Any) -> Any:
    """A field of a record: described once, for the docstring, the DataFrame and the table on the page.

    Args:
        shown: whether it is part of the table. False for what is drawn rather than read, such as samples.
        options: `default` or `default_factory`, as for `dataclasses.field`.
    """
    return dataclasses.field(metadata={_COLUMN: Column("", description, shown)}, **options)


def rows(description: str, of: type, **options: Any) -> Any:
    """A field that holds records of the class `of`: the table of the result has one row for each of them."""
    return dataclasses.field(metadata={_COLUMN: Column("", description, rows=of)}, **options)


class derived(Generic[T]):
    """A property that is a column too. Its docstring describes it, and its name ends with the unit."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        return self if instance is None else self.function(instance)


@dataclass_transform(frozen_default=True, field_specifiers=(column, rows, dataclasses.field))
def record(kind: type[T]) -> type[T]:
    """Make a frozen dataclass of `kind`, whose docstring lists the columns that it declares."""
    made = dataclasses.dataclass(frozen=True, slots=True)(kind)
    described = "".join(f"\n    {each.name}: {each.description}." for each in columns(made))
    made.__doc__ = f"{inspect.cleandoc(kind.__doc__ or kind.__name__)}\n\nAttributes:{described}"
    return made


def columns(kind: type) -> list[Column]:
    """The columns that a record declares: its fields in their order, then its derived properties."""
    fields = [
        dataclasses.replace(each.metadata[_COLUMN], name=each.name)
        for each in dataclasses.fields(kind)
        if _COLUMN in each.metadata
    ]
    properties = [
        Column(name, " ".join((value.__doc__ or "").partition("\n\n")[0].split()).rstrip("."))
        for base in reversed(kind.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, derived)
    ]
    return fields + properties


class Result:
    """Base of every result: a `record` with units in its field names.

    The result of class `BootTimes` in a room is drawn by `draw_boot_times(result, ax)` in that room's `figures`.
    """

    __slots__ = ()

    def frame(self) -> pd.DataFrame:
        """The result as a table: one row for each of its records, or one row in all."""
        of, records = self._records()
        names = [each.name for each in columns(of) if each.shown and each.rows is None]
        return table([[getattr(each, name) for name in names] for each in records], names)

    def _records(self) -> tuple[type, Sequence[object]]:
        held = next((each for each in columns(type(self)) if each.rows is not None), None)
        return (type(self), [self]) if held is None else (held.rows or object, getattr(self, held.name))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result on `ax` (a new one if None) and return it."""
        from labhelpers.drawing import new_axes

        kind = type(self)
        figures = importlib.import_module(kind.__module__.rpartition(".")[0] + ".figures")
        draw = getattr(figures, f"draw_{figure_name(kind)}")
        drawn: Axes = draw(self, ax if ax is not None else new_axes())
        return drawn

    def _repr_html_(self) -> str:
        of, _ = self._records()
        described = {each.name: each.description for each in columns(of)}
        frame = self.frame()
        title = code_html((type(self).__doc__ or "").strip().partition("\n")[0].rstrip("."))
        if of is type(self) and len(frame) == 1:
            body = _facts(list(frame.columns), frame.iloc[0].tolist(), described)
        else:
            body = _grid(list(frame.columns), frame.itertuples(index=False, name=None), described)
        return f'<table class="labhelpers-result"><caption {_LEFT}>{title}</caption>{body}</table>'


_LEFT, _RIGHT = 'style="text-align: left"', 'style="text-align: right"'


def _facts(names: Sequence[str], values: Sequence[object], described: Mapping[str, str]) -> str:
    """One record: a row for each column, with its description."""
    lines = (
        f"<tr><th {_LEFT}>{escape(heading(name))}</th>{_cell(name, value)}"
        f"<td {_LEFT}>{code_html(described.get(name, ''))}</td></tr>"
        for name, value in zip(names, values, strict=True)
    )
    return f"<tbody>{''.join(lines)}</tbody>"


def _grid(names: Sequence[str], records: Iterable[Sequence[object]], described: Mapping[str, str]) -> str:
    """Many records: one row for each; the description of a column is its heading's tooltip.

    Of more than `MAX_ROWS`, the first and the last are shown.
    """
    heads = "".join(
        f'<th {_LEFT} title="{escape(described.get(name, ""))}">{escape(heading(name))}</th>'
        for name in names
    )
    shown = list(records)
    if len(shown) > MAX_ROWS:
        shown = [*shown[: MAX_ROWS // 2], ("…",) * len(names), *shown[-MAX_ROWS // 2 :]]
    lines = (
        f"<tr>{''.join(_cell(*each, _align(each[1])) for each in zip(names, values, strict=True))}</tr>"
        for values in shown
    )
    return f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _cell(name: str, value: object, align: str = _LEFT) -> str:
    return f"<td {align}>{escape(show(value, unit_of(name)))}</td>"


def _align(value: object) -> str:
    """Numbers of a column stand one below the other."""
    return _RIGHT if isinstance(value, Real) and not isinstance(value, bool) else _LEFT


def figure_name(kind: type) -> str:
    """The name of a result's figure: `boot_times` for the class `BootTimes`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


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
    return show(value) if isinstance(value, bool) else str(value)
