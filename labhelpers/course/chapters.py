"""The chapters of the course, with their questions, and which of them are available."""

from __future__ import annotations

from labhelpers import state
from labhelpers.results import Result, column, derived, record, rows


@record
class Chapter:
    """One chapter, one notebook."""

    notebook: str = column(
        "name of the notebook without `.ipynb`; its first two letters are the chapter's number", shown=False
    )
    title: str = column("subject of the chapter")
    question: str = column("question that the chapter answers")
    part: str = column("part of the course")
    builds_on: tuple[str, ...] = column("numbers of the chapters that the chapter builds on", default=())

    @derived
    def number(self) -> str:
        """Number of the chapter, `01` to `10`"""
        return self.notebook[:2]

    @derived
    def is_available(self) -> bool:
        """Whether this checkout has the notebook"""
        return (state.ROOT / "notebooks" / f"{self.notebook}.ipynb").is_file()


PARTS = ("see one", "what it is made of", "what it is connected to", "what it is for", "make one")

CHAPTERS = (
    Chapter("01_vm_and_container", "A virtual machine\nand a container", "Which kernel runs here?", PARTS[0]),
    Chapter("02_image_layers", "Image layers", "Where are its files?", PARTS[1], ("01",)),
    Chapter("03_namespaces", "Namespaces", "What can it see?", PARTS[1], ("01",)),
    Chapter("04_cgroups", "Control groups", "How much may it use?", PARTS[1], ("01",)),
    Chapter("05_networking", "Networking", "How do packets reach it?", PARTS[2], ("03",)),
    Chapter("06_services", "Running services", "How do I run a service?", PARTS[3], ("05",)),
    Chapter("07_volumes", "Volumes and\nbind mounts", "Where do I store files?", PARTS[2], ("02",)),
    Chapter("08_persistence", "Data that outlives\nits container", "What survives it?", PARTS[3], ("07",)),
    Chapter("09_monitoring", "Watching and\nmanaging", "How is it doing?", PARTS[3], ("04",)),
    Chapter(
        "10_by_hand", "A container\nby hand", "Can I do without Docker?", PARTS[4], ("02", "03", "04", "05")
    ),
)
"""The ten chapters, in order."""


@record
class CourseMap(Result):
    """The chapters of the course."""

    chapters: tuple[Chapter, ...] = rows("the chapters in their order", of=Chapter)
    available: frozenset[str] = column("numbers of the chapters whose notebook is in this checkout")


def course_map() -> CourseMap:
    """The map of the course in this checkout."""
    return CourseMap(CHAPTERS, frozenset(chapter.number for chapter in CHAPTERS if chapter.is_available))
