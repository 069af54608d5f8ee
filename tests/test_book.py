"""Every command that the book prints (docs/book.md) is in a cell of its notebook, and that cell has run."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import nbformat
import pytest

from labhelpers.state import ROOT

# | notebook | `what the book prints` | …; words outside of backticks are not a command
ROWS = re.findall(
    r"^\| (\d\d_\w+) \| `([^`]+)` \|", (ROOT / "docs/book.md").read_text(encoding="utf-8"), re.M
)

# where a cell says by a variable what the book says by a path of the engine's host, or asks for an image's successor
PATHS = {"$socket:": "/var/run/docker.sock:", "$home/": "/home/"}
SUCCESSORS = {"portainer-ce": "portainer"}


@cache
def cells(notebook: str) -> tuple[Any, ...]:
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    return tuple(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


def lines(cell: Any) -> list[str]:
    source = cell.source.replace("\\\n", " ")
    for variable, path in PATHS.items():
        source = source.replace(variable, path)
    return [" ".join(line.split()) for line in source.splitlines()]


def images(notebook: str) -> dict[str, str]:
    """`$name` of a cell → the image that it asks Docker Hub for."""
    source = "\n".join(cell.source for cell in cells(notebook))
    asked = re.findall(r"""^(\w+) = lab\.from_hub\(\s*["']([^"']+)["']""", source, re.M)
    repositories = {f"${name}": image.partition(":")[0].rpartition("/")[2] for name, image in asked}
    return {name: SUCCESSORS.get(image, image) for name, image in repositories.items()}


def same(book: str, line: str, named: dict[str, str]) -> bool:
    """Whether a line of a cell is the book's, word for word; its image, the last word, may be a variable."""
    line = line.removeprefix("%docker ").removeprefix("docker ")
    ours, theirs = shlex.split(line, posix=False), shlex.split(book.removeprefix("docker "), posix=False)
    if ours == theirs:
        return True
    if not (ours and theirs and ours[:-1] == theirs[:-1]):
        return False
    return named.get(ours[-1]) == theirs[-1].partition(":")[0].rpartition("/")[2]


def is_in(book: str, line: str, named: dict[str, str]) -> bool:
    if not book.startswith(("docker run", "docker create", "docker volume", "docker pull")):
        return book in line
    try:
        return same(book, line, named) or (len(book.split()) == 2 and book in line)
    except ValueError:  # no line of a shell: quotes that are not closed
        return False


@pytest.mark.parametrize(("notebook", "book"), ROWS)
def test_the_books_line_runs_in_a_cell(notebook: str, book: str) -> None:
    named = images(notebook)
    found = [cell for cell in cells(notebook) if any(is_in(book, line, named) for line in lines(cell))]
    assert found, f"no cell of {notebook} has: {book}"
    assert all(cell.execution_count for cell in found)


def test_the_page_names_every_chapter_with_commands() -> None:
    assert {notebook[:2] for notebook, _ in ROWS} >= {"06", "07", "08", "09"}
    assert len(ROWS) >= 30


@pytest.mark.parametrize(
    ("line", "is_the_books"),
    [
        ("%docker run -d --name vol-test1 -v my-appvol-1:/var/log ubuntu:20.04", True),
        ("docker run -d --name vol-test1  -v my-appvol-1:/var/log $ubuntu", True),
        ("docker run -d --name vol-test1 -v my-appvol-1:/var/log $other", False),
        ("docker run -d --name vol-test1 -v my-appvol-1:/var/lib $ubuntu", False),
        ("docker run -d --name vol-test1 $ubuntu", False),
        ("it's prose", False),
    ],
)
def test_a_line_is_the_books_word_for_word(line: str, is_the_books: bool) -> None:
    book = "docker run -d --name vol-test1 -v my-appvol-1:/var/log ubuntu:20.04"
    line = " ".join(line.split())
    assert is_in(book, line, {"$ubuntu": "ubuntu", "$other": "debian"}) is is_the_books
