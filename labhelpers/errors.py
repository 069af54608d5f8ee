"""The errors that the lab reports to the reader.

The class hierarchy::

    LabError
    ├── EngineError
    │   ├── EngineMissing        no engine is running here, and none can be installed or started
    │   ├── EngineUnreachable    an engine exists but cannot be reached (permissions, address, stopped daemon)
    │   └── EngineRefused        the engine refused the request; its message is kept
    ├── ImageError
    │   ├── ImageMissing         no source provides this image
    │   ├── BuildFailed          a lab image could not be built
    │   └── BadArchive           an image archive is invalid, corrupted, truncated or malicious
    ├── ContainerError
    │   ├── ContainerMissing     there is no container with that name
    │   └── NotRunning           the container is not running, or exited too early
    ├── HostUnreadable           this engine does not give the lab access to that part of its host
    ├── LabClosed                the lab was closed
    ├── ServerRefused            a database server refused a connection or a statement
    ├── ServerNotReady           a database server does not accept connections yet
    ├── TimedOut                 an operation or a condition timed out
    ├── BadInput                 an invalid name, size or option
    │   └── BadRequest           a request to the lab socket that cannot be parsed
    ├── NameTaken                the name is used by a resource that the lab did not create
    ├── PortTaken                the port is in use
    ├── NotOwned                 the lab was asked to change a resource that it did not create
    ├── ExperimentFailed         an experiment did not produce its measurement
    ├── NotAvailable             this engine or its kernel lacks what the experiment needs
    ├── GuestFailed              a virtual machine did not start its payload
    ├── FindingFailed            a finding of the course does not hold on this engine
    └── SetupFailed              the environment, JupyterLab or a package could not be set up
"""

from __future__ import annotations

import sys
from pathlib import Path

_FROM_WHEEL = Path(__file__).with_name("bundle").is_dir()

DISK_FULL = (
    "the engine's disk is full: `docker system df` shows what uses it; free some space, then try again"
)
"""The hint for the engine's message "no space left on device" (errno(3), ENOSPC)."""


def with_command_name(text: str) -> str:
    """Replace `./lab` in `text` with `labhelpers` if the package was installed from a wheel."""
    return text.replace("./lab", "labhelpers") if _FROM_WHEEL else text


class LabError(Exception):
    """An error with its likely cause and the next step.

    Attributes:
        message: the problem and its cause, in one or two sentences.
        hint: the next step, with the command to type if there is one.
        engine_message: the engine's (or a tool's) own message, unchanged, or None.
    """

    def __init__(self, message: str, *, hint: str, engine_message: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.engine_message = engine_message

    def __str__(self) -> str:
        lines = [self.message]
        if self.engine_message:
            lines.append(f"  message: {self.engine_message.strip()}")
        lines.append(f"  next:    {self.hint}")
        return with_command_name("\n".join(lines))

    def _render_traceback_(self) -> list[str]:
        """IPython shows these lines instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class EngineError(LabError):
    """A problem with the engine."""


class EngineMissing(EngineError):
    """No engine is running here, and none can be installed or started."""


class EngineUnreachable(EngineError):
    """An engine exists but cannot be reached."""


class EngineRefused(EngineError):
    """The engine refused the request; `engine_message` holds its message."""


class ImageError(LabError):
    """A problem with an image."""


class ImageMissing(ImageError):
    """No source provides this image."""


class BuildFailed(ImageError):
    """A lab image could not be built."""


class BadArchive(ImageError):
    """An image archive is invalid, corrupted, truncated or malicious."""


class ContainerError(LabError):
    """A problem with a container."""


class ContainerMissing(ContainerError):
    """There is no container with that name."""


class NotRunning(ContainerError):
    """The container is not running, or exited too early."""


class HostUnreadable(LabError):
    """This engine does not give the lab access to that part of its host."""


class LabClosed(LabError):
    """The lab was closed."""


class ServerRefused(LabError):
    """A database server refused a connection or a statement; `engine_message` holds its message."""


class ServerNotReady(LabError):
    """A database server does not accept connections yet."""


class TimedOut(LabError):
    """An operation or a condition timed out."""


class BadInput(LabError, ValueError):
    """An invalid name, size or option."""


class BadRequest(BadInput):
    """A request to the lab socket that cannot be parsed; the client gets a response with status 400."""


class NameTaken(LabError):
    """The name is used by a resource that the lab did not create."""


class PortTaken(LabError):
    """The port is in use."""


class NotOwned(LabError):
    """The lab was asked to change a resource that it did not create."""


class ExperimentFailed(LabError):
    """An experiment did not produce its measurement."""


class NotAvailable(LabError):
    """This engine or its kernel lacks what the experiment needs."""


class GuestFailed(LabError):
    """A virtual machine did not start its payload."""


class FindingFailed(LabError):
    """A finding of the course does not hold on this engine."""


class SetupFailed(LabError):
    """The environment, JupyterLab or a package could not be set up."""


def print_error(error: LabError) -> None:
    """Print an error to standard error, for a user at a terminal."""
    print(f"error: {error}", file=sys.stderr)
