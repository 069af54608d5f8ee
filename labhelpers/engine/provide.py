"""Use the engine that is there, else bring one (decision 2 of the design)."""

from __future__ import annotations

from labhelpers.engine import install, private
from labhelpers.engine.find import Engine, connect
from labhelpers.errors import EngineMissing
from labhelpers.terminal import echo


def provide(choice: str = "auto") -> Engine:
    """The engine that answers; where none does, install and start the lab's own.

    Args:
        choice: `auto`, `private` or an address.

    Raises:
        EngineMissing: none can be brought here.
        EngineUnreachable: one is there that this user may not use.
        SetupFailed: packages or the private engine failed.
    """
    try:
        return connect(choice)
    except EngineMissing:
        if choice not in ("auto", "private"):
            raise
    install.ensure(install.ENGINE_PACKAGES, "no Docker engine is running here")
    private.start(echo)
    return connect("private")
