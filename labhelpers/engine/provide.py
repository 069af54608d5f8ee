"""Use a running engine, or install and start the private one."""

from __future__ import annotations

from labhelpers.engine import install, private
from labhelpers.engine.find import Engine, connect
from labhelpers.errors import EngineMissing
from labhelpers.terminal import echo


def provide(choice: str = "auto") -> Engine:
    """A connection to a running engine; if there is none, the private engine is installed and started.

    Args:
        choice: `auto`, `private` or an address.

    Raises:
        EngineMissing: no engine can be installed here.
        EngineUnreachable: an engine cannot be reached.
        SetupFailed: the packages could not be installed, or the private engine did not start.
    """
    try:
        return connect(choice)
    except EngineMissing:
        if choice not in ("auto", "private"):
            raise
    install.ensure(install.ENGINE_PACKAGES, "no Docker engine is running here")
    private.start(echo)
    return connect("private")
