"""The drawing kit: what fits, what can be read, what avoids what."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    KERNEL,
    LIMIT,
    PAPER,
    VM,
    WHITE,
    alternative_text,
    bar,
    box,
    canvas,
    cut,
    describe,
    grid,
    ink_on,
    key,
    label,
    label_ends,
    lane_labels,
    letters,
    level,
    line_height,
    listed,
    moment,
    new_axes,
    note,
    rows,
    text_width,
    tint,
    wrap,
)
from labhelpers.drawing.style import FONTS, contrast
from labhelpers.state import ROOT
from tests.figure_audit import faults

matplotlib.use("agg")
AREAS = (CONTAINER, VM, HOST, ENGINE, KERNEL, LIMIT, FAINT)


@pytest.mark.parametrize("area", AREAS)
def test_text_in_every_colour_and_on_every_colour_can_be_read(area: str) -> None:
    for face in (WHITE, PAPER, tint(area)):
        assert contrast(letters(area), face) >= 4.5
    for face in (area, tint(area)):
        assert contrast(ink_on(face), face) >= 4.5


def test_contrast_is_that_of_the_standard() -> None:
    assert round(contrast("#000000", "#FFFFFF"), 6) == 21
    assert round(contrast("#777777", "#FFFFFF"), 2) == 4.48


def test_the_shipped_font_has_every_character_that_the_package_writes() -> None:
    from matplotlib.ft2font import FT2Font

    figures = [*ROOT.glob("labhelpers/*/*figures.py"), ROOT / "labhelpers" / "networks" / "chart.py"]
    written = {c for file in figures for c in file.read_text(encoding="utf-8") if ord(c) > 127} | set(
        "→µ✓✗≥≠·…"
    )
    for file in FONTS.glob("Inter-*.otf"):
        has = FT2Font(str(file)).get_charmap()
        assert {c for c in written if ord(c) not in has} == set(), file.name
    assert (FONTS / "OFL.txt").is_file()


@pytest.mark.parametrize(("bold", "mono"), [(False, False), (True, False), (False, True)])
def test_a_text_is_as_wide_as_it_is_measured(bold: bool, mono: bool) -> None:
    ax = new_axes()
    canvas(ax, 60, "")
    text = label(ax, 0, 20, "unix:///var/run/docker.sock, µs → ✓\ntwo", bold=bold, mono=mono)
    figure = ax.figure
    figure.canvas.draw()
    extent = text.get_window_extent()
    assert extent.width == pytest.approx(text_width(text.get_text(), bold=bold, mono=mono), abs=3)
    assert extent.height == pytest.approx(2 * line_height(mono=mono), abs=2)
    describe(ax, "two lines of text")


def test_what_is_cut_or_wrapped_fits() -> None:
    text = "unix:///a/very/long/path/to/a/socket is what the engine listens on"
    assert cut(text, 10_000) == text == wrap(text, 10_000)
    assert cut(text, 120).endswith("…")
    assert text_width(cut(text, 120)) <= 120
    lines = wrap(text, 120)
    assert text_width(lines) <= 120
    assert lines.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_a_canvas_is_in_px_of_the_page() -> None:
    ax = new_axes()
    canvas(ax, 200, "A canvas", keyed=True)
    key(ax, [(CONTAINER, "a container")])
    describe(ax, "nothing")
    figure = ax.figure
    figure.canvas.draw()
    origin, corner = ax.transData.transform([(0, 200), (CANVAS_PX, 0)])
    assert corner - origin == pytest.approx([CANVAS_PX, 200], abs=1)


@pytest.mark.parametrize(("title", "text", "mono"), [("a title", "", False), ("a title", "text " * 9, True)])
def test_what_is_written_in_a_box_stays_in_it(title: str, text: str, mono: bool) -> None:
    ax = new_axes()
    canvas(ax, 160, "A box")
    box(ax, (20, 20), (200, 120), VM, title=title, text=text.strip(), mono=mono)
    describe(ax, title)
    ax.figure.canvas.draw()
    (outline,) = ax.patches
    extent = outline.get_window_extent()
    for written in ax.texts:
        assert all(extent.contains(*corner) for corner in written.get_window_extent().get_points())


def test_a_bars_text_is_left_out_where_it_does_not_fit() -> None:
    ax = new_axes()
    rows(ax, ["one", "two"], title="Bars", end=10, xlabel="seconds", keyed=True)
    key(ax, [(CONTAINER, "runs")])
    bar(ax, 0, 0, 5, CONTAINER, "a text that fits")
    bar(ax, 1, 0, 0.5, CONTAINER, "a text that does not fit")
    describe(ax, "5 and 0.5 seconds")
    assert [text.get_text() for text in ax.texts] == ["a text that fits"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is at the top"


def test_a_grid_wraps_its_texts() -> None:
    ax = new_axes()
    long = "a cell with a long text that takes several lines"
    places = grid(
        ax,
        ["first", "second", "a head of many words, in lines"],
        ["row", "the second row has a long name"],
        [[("yes", HOST), ("no", WHITE), (long, PAPER)], [("yes", HOST), (long, VM), ("no", KERNEL)]],
        title="A grid",
    )
    describe(ax, "six cells")
    assert [len(row) for row in places] == [3, 3]


def test_labels_of_moments_do_not_cover_each_other() -> None:
    ax = new_axes()
    rows(ax, ["log"], title="Moments", end=10, xlabel="seconds")
    lane_labels(ax, [(1, "the first moment"), (1.1, "the second"), (1.2, "the third"), (8, "the last")], -0.3)
    describe(ax, "four moments")


def ends(ax: Axes) -> None:
    ax.plot([0, 1], [0, 1])
    ax.set(xlim=(0, 1.6), ylim=(0, 2))
    ax.set_title("Ends")
    label_ends(
        ax, [(1, 1, "one", CONTAINER), (1, 1.01, "another\nin two lines", VM), (1, 1.02, "third", HOST)]
    )


def limits(ax: Axes) -> None:
    ax.plot([0, 0.5, 1], [1.02, 1.02, 0.2])
    ax.set(xlim=(0, 1), ylim=(0, 2))
    ax.set_title("A limit and a moment")
    level(ax, 1, "the limit: 1")
    moment(ax, 0.5, "it changes")


def notes(ax: Axes) -> None:
    canvas(ax, 60, "Notes")
    note(ax, 0, 20, "a note")
    note(ax, 0, 40, "and another")


@pytest.mark.parametrize("draw", [ends, limits, notes])
def test_labels_cover_nothing(draw: object) -> None:
    ax = new_axes()
    assert callable(draw)
    draw(ax)
    describe(ax, "what is drawn")
    assert faults(ax.figure) == []  # type: ignore[arg-type]


def test_the_alternative_text_is_the_title_and_what_was_described_last() -> None:
    ax = new_axes()
    assert alternative_text(ax.figure) == ""  # type: ignore[arg-type]
    ax.set_title("Two\nbars")
    describe(ax, "wrong")
    describe(ax, "one lasts 1 s", "", "the other 2 s.")
    assert alternative_text(ax.figure) == "Two bars: one lasts 1 s; the other 2 s."  # type: ignore[arg-type]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "none",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.usefixtures("engine")
def test_a_notebook_and_its_page_have_the_alternative_text(tmp_path: Path) -> None:
    import nbformat

    from labhelpers.commandline.runner import execute

    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    source = "from labhelpers.start import Life, Lives\n_ = Lives((Life(1, 1.25, 0.2, 'exited', 0),)).plot()"
    notebook.cells = [nbformat.v4.new_code_cell(source)]  # type: ignore[no-untyped-call]
    path = tmp_path / "figure.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    page = execute(path, html=tmp_path).page
    assert page is not None
    html = page.read_text(encoding="utf-8")
    assert 'alt="A container lives as long as its command: sleep 1 ran for 1.25 s, exit code 0."' in html
    assert 'width="848"' in html
