"""The fixed names."""

from __future__ import annotations

from collections.abc import Sequence

from labhelpers.ours import Thing


def owner(thing: Thing) -> str:
    return f"another lab session made (chapter {thing.chapter})"


def way_forward(chapter: str, things: Sequence[Thing]) -> str:
    return f"close that notebook; or ./lab copy {chapter} --suffix b"
