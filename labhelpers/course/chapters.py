"""The course: its chapters, what each of them answers, and which of them are here."""

from __future__ import annotations

import pandas as pd

from labhelpers import state
from labhelpers.results import Result, column, record, rows


@record
class Chapter:
    """One chapter, one notebook."""

    notebook: str = column(
        "the name of its notebook without `.ipynb`; its first two letters are the chapter's number"
    )
    title: str = column("what it is about")
    question: str = column("what the reader can answer after it")
    part: str = column("the part of the course that it stands in")
    builds_on: tuple[str, ...] = column("the numbers of the chapters whose ideas it uses", default=())

    @property
    def number(self) -> str:
        """ "00" … "10"."""
        return self.notebook[:2]

    @property
    def is_available(self) -> bool:
        """Whether its notebook is in this checkout."""
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
"""The ten chapters, in the order in which they are taught."""


@record
class CourseMap(Result):
    """The map of the course."""

    chapters: tuple[Chapter, ...] = rows("all of them, in order", of=Chapter)
    available: frozenset[str] = column("the numbers of those whose notebook is in this checkout")

    def frame(self) -> pd.DataFrame:
        """One row a chapter: chapter, title, question, part, available."""
        rows = [
            (c.number, c.title.replace("\n", " "), c.question, c.part, c.number in self.available)
            for c in self.chapters
        ]
        return pd.DataFrame(rows, columns=["chapter", "title", "question", "part", "available"])


def course_map() -> CourseMap:
    """The map of the course, as this checkout has it."""
    return CourseMap(CHAPTERS, frozenset(chapter.number for chapter in CHAPTERS if chapter.is_available))
