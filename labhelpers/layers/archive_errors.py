"""The errors that the readers of an image archive raise."""

from __future__ import annotations

from labhelpers.errors import BadArchive


def truncated_error(where: str) -> BadArchive:
    """The error for an archive that ends too early."""
    return BadArchive(
        f"{where} is truncated, or a size in it is wrong",
        hint="compare its size with that of the original, then copy, download or save it again",
    )


def damaged_error(where: str, what: str) -> BadArchive:
    """The error for an archive that cannot be read."""
    return BadArchive(f"{where} is damaged: {what}", hint="copy, download or save it again")


def printable_name(name: str) -> str:
    """A name from an archive for a message: shortened, and with control characters escaped."""
    short = name if len(name) <= 80 else f"{name[:80]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def unsafe_error(where: str, what: str) -> BadArchive:
    """The error for an archive with contents that no regular image has."""
    return BadArchive(
        f"{where} is not safe to unpack: {what}",
        hint="nothing was written; do not unpack it or load it into an engine, and check where it comes from",
    )
