"""What a record declares, and what its DataFrame, its table and its docstring make of it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from fractions import Fraction

import numpy as np
import pytest

import labhelpers
from labhelpers.results import MAX_ROWS, Result, column, columns, derived, record, rows
from labhelpers.units import heading, show


@record
class Step:
    """One step."""

    quota_percent: float = column("share of one CPU")
    held: bool = column("whether the quota held")
    note: str | None = column("a `note` & more", default=None)
    raw: object = column("not for the table", shown=False, default=None)

    @derived
    def twice_ms(self) -> float:
        """Twice the quota.

        More about it, which is not part of the column.
        """
        return self.quota_percent * 2


@record
class Steps(Result):
    """Use against `quota`.

    Source: cgroups(7).
    """

    steps: tuple[Step, ...] = rows("one for each quota", of=Step)
    cpus: int = column("CPUs of the host")


@record
class CopyUp(Result):
    """The first write to a file of the image."""

    file_bytes: int = column("size of the file")
    whole: bool = column("whether all of it was copied")


@record
class Count:
    """One count."""

    count: int = column("how many")


@record
class Counts(Result):
    """Counts, and nothing else: the frame is one of numpy's integers."""

    counts: tuple[Count, ...] = rows("one for each", of=Count)


@record
class Alone(Result):
    """One count."""

    count: int = column("how many")


STEPS = Steps((Step(12.5, True), Step(1234.5, False, "<b>late</b>")), 2)


def test_a_frame_has_one_row_for_each_record_and_its_columns_are_the_names_with_units():
    frame = STEPS.frame()
    assert list(frame.columns) == ["quota_percent", "held", "note", "twice_ms"]
    assert list(frame.quota_percent) == [12.5, 1234.5]
    assert list(frame.twice_ms) == [25.0, 2469.0]


def test_a_result_without_records_is_one_row():
    assert CopyUp(5, True).frame().to_dict("records") == [{"file_bytes": 5, "whole": True}]


def test_the_table_has_readable_units_left_aligned_text_and_yes_or_no():
    html = STEPS._repr_html_()
    assert re.findall(r"<th [^>]*>(.*?)</th>", html) == ["quota (%)", "held", "note", "twice (ms)"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", html)[:4] == ["12.5", "yes", "—", "25"]
    assert '<td style="text-align: left">yes' in html
    assert '<td style="text-align: right">12.5' in html
    assert "Use against <code>quota</code>" in html


def test_a_table_of_whole_numbers_is_shown_as_the_frame_holds_them():
    numbers = tuple(Count(number) for number in (1, 2))
    assert re.findall(r"<td[^>]*>(.*?)</td>", Counts(numbers)._repr_html_()) == ["1", "2"]
    assert ">3</td>" in Alone(3)._repr_html_()


def test_of_a_long_table_the_first_and_the_last_rows_are_shown():
    html = Steps(tuple(Step(float(number), True) for number in range(100)), 2)._repr_html_()
    assert html.count("<tr>") == 1 + MAX_ROWS + 1
    assert re.findall(r"<tr><td[^>]*>(.*?)</td>", html)[MAX_ROWS // 2 - 1 :][:3] == ["9", "…", "90"]


def test_what_a_record_holds_is_escaped():
    assert "&lt;b&gt;late" in STEPS._repr_html_()


def test_a_single_record_is_shown_with_its_descriptions():
    html = CopyUp(5 << 20, False)._repr_html_()
    assert re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html) == [
        *("file", "5 MiB", "size of the file"),
        *("whole", "no", "whether all of it was copied"),
    ]


def test_the_docstring_lists_the_columns():
    assert Step.__doc__ is not None
    assert Step.__doc__.splitlines()[2:5] == [
        "Attributes:",
        "    quota_percent: share of one CPU.",
        "    held: whether the quota held.",
    ]
    assert "    twice_ms: Twice the quota." in Step.__doc__.splitlines()


def test_a_record_is_frozen():
    with pytest.raises(AttributeError):
        CopyUp(5, True).file_bytes = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, None, "—"),
        (float("nan"), "ms", "—"),
        (True, None, "yes"),
        (1536, "bytes", "1.5 KiB"),
        (1536.0, "bytes/s", "1.5 KiB/s"),
        (65535, None, "65535"),
        (65535, "ms", "65,535"),
        (2**53 + 1, "ns", "9,007,199,254,740,993"),
        (65535.0, None, "65535"),
        (np.int64(65535), "ms", "65,535"),
        (np.int64(2**53 + 1), None, "9007199254740993"),
        (np.uint8(7), None, "7"),
        (np.float64(7), None, "7"),
        (np.float32(0.5), "s", "0.5"),
        (np.bool_(True), None, "yes"),
        (Fraction(7, 2), "s", "3.5"),
        (19.04, "Mbit/s", "19"),
        (0.01234, "s", "0.0123"),
        (1234.5, "ms", "1,234"),
        (("a", "b"), None, "a, b"),
        ((), None, "—"),
        ({"net": True}, None, "net: yes"),
    ],
)
def test_values_are_written_for_people(value: object, unit: str | None, text: str):
    assert show(value, unit) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("first_write_ms", "first write (ms)"),
        ("file_bytes", "file"),
        ("pid_on_host", "PID on host"),
        ("bytes", "bytes"),
        ("bytes_per_s", "bytes/s"),
        ("rows_per_s", "rows/s"),
        ("median_rows_per_s", "median (rows/s)"),
    ],
)
def test_a_heading_is_the_name_in_plain_text(name: str, text: str):
    assert heading(name) == text


def _results() -> list[type[Result]]:
    for module in pkgutil.walk_packages(labhelpers.__path__, "labhelpers."):
        if ".inside" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds, waiting = [], [Result]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        kinds += [kind for kind in below if kind.__module__.startswith("labhelpers.")]
    return kinds


def test_every_result_of_the_course_declares_and_describes_its_columns():
    kinds = _results()
    assert len(kinds) > 100
    for kind in kinds:
        declared = {each.name: each for each in columns(kind)}
        fields = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        assert fields <= set(declared), f"{kind.__name__} does not describe {fields - set(declared)}"
        assert all(each.description.strip() for each in declared.values()), kind.__name__
