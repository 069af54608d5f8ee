"""Finding or providing an engine, its images, its registry, and the view of its host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labhelpers.engine.find import Engine, EngineFacts, connect

__all__ = ["Engine", "EngineFacts", "connect"]


def __getattr__(name: str) -> Any:
    # loaded on first use: `labhelpers.commandline.bootstrap` stops the private engine without the Docker SDK
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labhelpers.engine import find

    return getattr(find, name)
