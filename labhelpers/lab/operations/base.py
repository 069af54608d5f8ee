"""An operation and the `docker …` line that a person would type for it.

Every operation is a frozen dataclass. `.line()` is the line, true to the letter; `.api()` is what the SDK's
low-level client needs for the same. Both come from one table of options per operation, so that they cannot
drift apart; a test runs every line and compares what `docker inspect` says of both.

Options are named as on the command line (`memory`, `cpus`, `workdir`), and as in the SDK where the command
line has a letter or a singular (`ports`, `environment`, `volumes`, `devices`, `tty`, `stdin_open`).
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from labhelpers.errors import BadInput
from labhelpers.lab import options as opt
from labhelpers.lab.options import Option


class Operation:
    """Base of the operations: the line and the SDK's arguments, both from the table `OPTIONS`."""

    __slots__ = ()
    VERB: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[Mapping[str, Option]] = {}

    def __post_init__(self) -> None:
        # an invalid value is refused here, with a hint, rather than by the engine
        self.line()
        self.api()

    def line(self) -> str:
        """The line that a person would type."""
        line = ["docker", *self.VERB]
        for option, value in self._set_options():
            for word in [None] if option.arguments is None else option.arguments(value):
                line += [option.flag] if word is None else [option.flag, word]
        return shlex.join([*line, *self._arguments()])

    def api(self) -> dict[str, Any]:
        """The same for the SDK's low-level client."""
        body: dict[str, Any] = {}
        for path, value in self._fixed_arguments().items():
            opt.put(body, path, value)
        for option, value in self._set_options():
            for path, part in option.api(value).items():
                opt.put(body, path, part)
        return body

    def _set_options(self) -> list[tuple[Option, Any]]:
        given = ((option, getattr(self, name)) for name, option in self.OPTIONS.items())
        return [(option, value) for option, value in given if not _is_unset(value)]

    def _arguments(self) -> list[str]:
        raise NotImplementedError

    def _fixed_arguments(self) -> dict[str, Any]:
        return {}


def _is_unset(value: Any) -> bool:
    return value is None or value is False or value == {} or (isinstance(value, (list, tuple)) and not value)


OperationT = TypeVar("OperationT", bound=Operation)


def make_operation(kind: type[OperationT], *args: Any, **options: Any) -> OperationT:
    """An operation from what a reader gave; an unknown option is `BadInput`, with the nearest one named."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            raise BadInput(
                f"the lab's `docker {kind.VERB[0]}` has no option {option!r}",
                hint=(f"did you mean {near[0]!r}? " if near else "") + "it knows: " + ", ".join(known),
            )
    return kind(*args, **options)
