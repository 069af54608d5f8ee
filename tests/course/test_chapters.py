"""The map of the course agrees with the checkout, and its drawings say what the data say."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import pytest

from labhelpers import state
from labhelpers.course.chapters import CHAPTERS, PARTS, course_map
from labhelpers.engine import Engine
from labhelpers.engine.figures import host_description, is_local_engine

matplotlib.use("agg")


def test_the_ten_chapters_are_numbered_in_order() -> None:
    assert [chapter.number for chapter in CHAPTERS] == [f"{number:02}" for number in range(1, 11)]
    assert {chapter.part for chapter in CHAPTERS} == set(PARTS)


def test_a_chapter_builds_only_on_earlier_ones() -> None:
    for chapter in CHAPTERS:
        assert all(base < chapter.number for base in chapter.builds_on), chapter


def test_every_notebook_of_the_checkout_is_on_the_map_and_marked_as_here() -> None:
    there = {path.stem for path in (state.ROOT / "notebooks").glob("[0-9]*.ipynb")} - {"00_start_here"}
    assert {c.notebook for c in CHAPTERS if c.number in course_map().available} == there


def test_the_map_shows_every_title_inside_its_box() -> None:
    ax = course_map().plot()
    ax.figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in ax.patches if hasattr(patch, "get_boxstyle")]
    for chapter in CHAPTERS:
        (text,) = [text for text in ax.texts if text.get_text() == chapter.title]
        low, high = text.get_window_extent().get_points()
        assert any(box.contains(*low) and box.contains(*high) for box in boxes), (
            f"{chapter.title!r} runs out of its box"
        )


def test_an_engine_with_another_kernel_is_drawn_on_another_machine(engine: Engine) -> None:
    facts = engine.facts()
    desktop = replace(
        facts, host="unix:///run/x.sock", kernel="0.0-linuxkit", operating_system="Docker Desktop"
    )
    remote = replace(facts, host="tcp://192.0.2.1:2376")
    assert not is_local_engine(desktop)
    assert not is_local_engine(remote)
    assert "Docker Desktop's virtual machine" in host_description(desktop)
    assert "another machine" in host_description(remote)
    assert "this machine" in {text.get_text() for text in desktop.plot().texts}


@pytest.mark.parametrize(
    "host", ["unix:///run/docker.sock", "tcp://a-machine.with-a.very-long.name.example.org:2376"]
)
def test_the_engine_drawing_names_what_was_found_and_clips_nothing(engine: Engine, host: str) -> None:
    facts = replace(engine.facts(), host=host)
    ax = facts.plot()
    ax.figure.canvas.draw()
    message = " ".join(text.get_text().replace("\n", " ") for text in ax.texts)
    for output in (facts.version, facts.storage_driver, f"version {facts.cgroup_version}", facts.kernel):
        assert output in message
    whole = ax.figure.bbox
    for text in ax.texts:
        extent = text.get_window_extent()
        assert whole.contains(extent.x0, extent.y0), text
        assert whole.contains(extent.x1, extent.y1), text
