"""The fixed names of the course on an engine.

A container, network, volume or image has one name per engine, and a port one owner. `CHAPTERS` lists what each chapter
uses. The kernel of another learner's copy of a notebook has `LABHELPERS_SUFFIX` set, by which the rooms name what their
exercises ask for (`with_suffix`); `labhelpers.lab.learners` finds clashes and writes such copies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase

from labhelpers.errors import BadInput

SUFFIX = "LABHELPERS_SUFFIX"
SUFFIX_LETTERS = ascii_lowercase[1:]
"""The letters for a second learner and more: the first one has the names of the course."""
PORT_STEP = 30
"""How far the ports of one letter are from those of the next."""

Kinds = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Names:
    """What a chapter uses on the engine, by kind: container, network, volume, image.

    Attributes:
        cells: names that its cells create.
        exercises: names that its exercises create, or ask the reader to create.
        cell_ports, exercise_ports: ports of the engine's host that are published.
    """

    cells: Kinds = field(default_factory=dict)
    exercises: Kinds = field(default_factory=dict)
    cell_ports: tuple[int, ...] = ()
    exercise_ports: tuple[int, ...] = ()


CHAPTERS: Mapping[str, Names] = {
    "00": Names(exercises={"container": ("my-first",)}),
    "01": Names(exercises={"container": ("twin-a", "twin-b", "my-guest", "my-note", "small-guest")}),
    "02": Names(
        cells={
            "container": ("layers-demo", "layers-other", "price-board", "price-shop"),
            "image": ("price:1", "price:2", "price:latest"),
        },
        exercises={
            "container": ("finder", "notice-board", "one-whiteout"),
            "image": (
                *("fat:1", "diet:1", "leaky:1", "ordered:1", "ordered:2"),
                *("notice:1", "notice:latest", "site:1"),
            ),
        },
    ),
    "03": Names(
        cells={"container": ("ns-web", "ns-db", "ns-levels", "ns-neighbour")},
        exercises={
            "container": (
                *("radio", "listener", "hermit", "postbox", "courier"),
                *("room-1", "room-2", "room-3", "notes", "polite", "matryoshka"),
            )
        },
    ),
    "04": Names(
        cells={"container": ("meter",)},
        exercises={
            "container": ("warm", "hungry", "full-house", "keeper", "fast", "slow"),
            "volume": ("hungry-food",),
        },
    ),
    "05": Names(
        cells={
            "container": (
                *("web", "mail", "cart", "safe", "alone", "both", "guest-of-shop"),
                *("engine-1", "engine-2"),
            ),
            "network": ("shop", "bank", "between-engines"),
        },
        exercises={
            "container": (
                *("both-sides", "left-one", "right-one", "traced"),
                *("sealed-one", "sealed-two", "world"),
            ),
            "network": ("left", "right", "sealed"),
        },
    ),
    "06": Names(
        cells={
            "container": ("mysql_container", "mysql_second", "mysql_without", "mysql_changed", "cadvisor"),
        },
        exercises={
            "container": ("shop-db", "door", "late", "mute-db", "mended-db", "watcher", "watched"),
            "volume": ("half-made",),
        },
        cell_ports=(3308, 9559),
        exercise_ports=(3310, 3320),
    ),
    "07": Names(
        cells={
            "container": ("vol-test1", "bind-test1"),
            "volume": ("my-appvol-1", "bind-there"),
        },
        exercises={
            "container": ("bind-fix", "stays", "shop", "clerk"),
            "volume": ("bookshelf", "archive-copy", "stays-log"),
        },
    ),
    "08": Names(
        cells={"container": ("mysql-vtest",), "volume": ("mysql-vol", "mysql-host")},
        exercises={
            "container": ("proof", "school", "forgetful", "keeper", "bank"),
            "volume": ("proof-data", "bank-data"),
        },
    ),
    "09": Names(
        cells={
            "container": ("kiosk", "mill", "crier", "brief", "holder", "portainer"),
            "volume": ("portainer_data",),
        },
        exercises={
            "container": ("till", "lighthouse", "guard", "watchman", "ada", "bob", "cleo", "inspector"),
            "volume": ("shelf_data", "till_data", "guard-post"),
        },
        cell_ports=(8000, 9000),
    ),
}
"""By the number of the chapter. A test compares them with the notebooks."""


# --- the names of this process


def suffix() -> str:
    """The letter of this process's learner; empty for the first.

    Raises:
        BadInput: the environment has something else.
    """
    letter = os.environ.get(SUFFIX, "")
    return checked_letter(letter) if letter else ""


def with_suffix(name: str) -> str:
    """The name of the course as this process's learner uses it: "web", or "web-b"; "price-b:1" for an image.

    Raises:
        KeyError: no chapter has that name.
    """
    if not any(name in names for chapter in CHAPTERS.values() for names in names_by_kind(chapter).values()):
        raise KeyError(f"no chapter uses {name!r}: add it to labhelpers.lab.names.CHAPTERS")
    return name_with(name, suffix())


def all_with_suffix(*names: str) -> tuple[str, ...]:
    """`with_suffix`, for several."""
    return tuple(with_suffix(name) for name in names)


def port(number: int) -> int:
    """The port of the course as this process's learner uses it."""
    return port_with(number, suffix())


def is_course_volume(name: str) -> bool:
    """Whether a cell or an exercise of a chapter, or of a copy, has a volume of that name."""
    prescribed = {name for chapter in CHAPTERS.values() for name in names_by_kind(chapter).get("volume", ())}
    return name in prescribed or (
        name[-2:-1] == "-" and name[-1] in SUFFIX_LETTERS and name[:-2] in prescribed
    )


def checked_letter(letter: str) -> str:
    """`letter`, if it is one that a second learner may have.

    Raises:
        BadInput: it is not.
    """
    if len(letter) != 1 or letter not in SUFFIX_LETTERS:
        raise BadInput(
            f"{letter!r} is not a valid suffix: use one letter from {SUFFIX_LETTERS[0]} to {SUFFIX_LETTERS[-1]}",
            hint="for example --suffix b; the first learner on an engine needs none",
        )
    return letter


def name_with(name: str, letter: str) -> str:
    """`name` for the learner with that letter; the tag of an image stays where it is."""
    if not letter:
        return name
    repository, colon, tag = name.partition(":")
    return f"{repository}-{letter}{colon}{tag}"


def port_with(number: int, letter: str) -> int:
    """The port `number` for the learner with that letter."""
    return number + PORT_STEP * (ascii_lowercase.index(letter) if letter else 0)


def names_by_kind(chapter: Names) -> dict[str, tuple[str, ...]]:
    """Every name that a chapter uses, by kind."""
    kinds = {*chapter.cells, *chapter.exercises}
    return {kind: (*chapter.cells.get(kind, ()), *chapter.exercises.get(kind, ())) for kind in sorted(kinds)}
