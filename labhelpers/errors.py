"""What can go wrong, said to the reader.

The whole tree::

    LabError
    ├── EngineError
    │   ├── EngineMissing        no engine answers here, and none can be brought
    │   ├── EngineUnreachable    an engine is there, but it cannot be reached (rights, address, a dead daemon)
    │   └── EngineRefused        the engine said no; its own words are kept
    ├── ImageError
    │   ├── ImageMissing         no source has this image
    │   ├── BuildFailed          an image of the lab could not be built
    │   └── BadArchive           an image archive is none, or is damaged, cut short or hostile
    ├── ContainerError
    │   ├── ContainerMissing     there is no container of that name
    │   └── NotRunning           the container does not run, or ended too early
    ├── HostUnreadable           this engine does not let the lab read that part of its host
    ├── LabClosed                the lab was closed
    ├── ServerRefused            a database server refused a connection or a statement
    ├── TimedOut                 something did not happen in time
    ├── BadInput                 an invalid name, size or option
    ├── NameTaken                the name belongs to something that the lab did not make
    ├── PortTaken                the port belongs to something else
    ├── NotOurs                  the lab was asked to touch what it did not make
    ├── GuestFailed              a virtual machine did not reach its payload
    ├── FindingFailed            a finding of the course does not hold here
    └── SetupFailed              the environment, JupyterLab or a package could not be set up
"""

from __future__ import annotations

import sys
from pathlib import Path

_IS_INSTALLED = Path(__file__).with_name("bundle").is_dir()

DISK_FULL = (
    "the engine's disk is full: `docker system df` tells what takes it; free some, then run this again"
)
"""What to do where the engine's words are "no space left on device" (errno(3), ENOSPC)."""


def as_typed(text: str) -> str:
    """`text` with the lab's command as it is typed here: `labhelpers` where the package was installed from a wheel."""
    return text.replace("./lab", "labhelpers") if _IS_INSTALLED else text


class LabError(Exception):
    """What happened, why it likely did, and what to do next.

    Attributes:
        message: what happened and why, in one or two sentences.
        hint: what to type or do next.
        engine_words: the engine's (or a tool's) own message, unchanged, or None.
    """

    def __init__(self, message: str, *, hint: str, engine_words: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.engine_words = engine_words

    def __str__(self) -> str:
        lines = [self.message]
        if self.engine_words:
            lines.append(f"  it said: {self.engine_words.strip()}")
        lines.append(f"  next:    {self.hint}")
        return as_typed("\n".join(lines))

    def _render_traceback_(self) -> list[str]:
        """IPython shows these lines in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class EngineError(LabError):
    """Something about the engine."""


class EngineMissing(EngineError):
    """No engine answers here, and none can be brought."""


class EngineUnreachable(EngineError):
    """An engine is there, but it cannot be reached."""


class EngineRefused(EngineError):
    """The engine said no; `engine_words` holds its answer."""


class ImageError(LabError):
    """Something about an image."""


class ImageMissing(ImageError):
    """No source has this image."""


class BuildFailed(ImageError):
    """An image of the lab could not be built."""


class BadArchive(ImageError):
    """An image archive is none, or is damaged, cut short or hostile."""


class ContainerError(LabError):
    """Something about a container."""


class ContainerMissing(ContainerError):
    """There is no container of that name."""


class NotRunning(ContainerError):
    """The container does not run, or ended too early."""


class HostUnreadable(LabError):
    """This engine does not let the lab read that part of its host."""


class LabClosed(LabError):
    """The lab was closed."""


class ServerRefused(LabError):
    """A database server refused a connection or a statement; `engine_words` holds its message."""


class TimedOut(LabError):
    """Something did not happen in time."""


class BadInput(LabError, ValueError):
    """An invalid name, size or option."""


class NameTaken(LabError):
    """The name belongs to something that the lab did not make."""


class PortTaken(LabError):
    """The port belongs to something else."""


class NotOurs(LabError):
    """The lab was asked to touch what it did not make."""


class GuestFailed(LabError):
    """A virtual machine did not reach its payload."""


class FindingFailed(LabError):
    """A finding of the course does not hold here."""


class SetupFailed(LabError):
    """The environment, JupyterLab or a package could not be set up."""


def show(error: LabError) -> None:
    """Print an error for someone at a terminal, on standard error."""
    print(f"error: {error}", file=sys.stderr)
