"""One reader's work on one chapter: the operations, their `docker …` lines, the session, and the lab socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labhelpers.lab.lab import Lab, Output

__all__ = ["Lab", "Output"]


def __getattr__(name: str) -> Any:
    # loaded on first use: `labhelpers.lab.sessions` is also read without the Docker SDK's models
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labhelpers.lab import lab

    return getattr(lab, name)
