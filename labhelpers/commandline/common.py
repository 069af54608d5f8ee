"""Code shared by verbs: an engine with images, the option `--engine`, and errors without tracebacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from labhelpers import errors
from labhelpers.commandline import jupyter
from labhelpers.engine import Engine, images
from labhelpers.engine.provide import provide
from labhelpers.errors import LabError
from labhelpers.terminal import echo

FIRST_IMAGES = ("base", "payload", "tools", "vm")
"""The images that `up` and `run` build before they start."""

Verb = TypeVar("Verb", bound=Callable[..., Any])


def engine_option(verb: Verb) -> Verb:
    """The option `--engine` of a verb."""
    return click.option(
        "--engine",
        default=lambda: os.environ.get("LABHELPERS_ENGINE", "auto"),
        metavar="auto|private|URL",
        help="The engine to use: an existing one, else the lab's private engine (auto); "
        "the private engine (private); or an address.",
    )(verb)


def reports_errors(verb: Verb) -> Verb:
    """Report a `LabError` as a message with exit status 1, without a traceback."""

    @wraps(verb)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except LabError as error:
            errors.print_error(error)
            sys.exit(1)
        except KeyboardInterrupt:
            echo("\ninterrupted; the next command resumes from here")
            sys.exit(130)

    return reporting  # type: ignore[return-value]


def engine_with_images(choice: str, names: tuple[str, ...]) -> Engine:
    """An engine with the lab images `names`; the environment of this process is set to use it."""
    engine = provide(choice)
    echo(
        f"engine: {engine.product} {engine.version['Version']}, {engine.source} (found by {engine.found_by})"
    )
    for warning in engine.warnings:
        echo(f"engine: note: {warning}")
    for name in names:
        images.ensure(engine, name, echo)
    os.environ.update(jupyter.environment(engine))
    for name in jupyter.UNSET_VARIABLES:
        os.environ.pop(name, None)
    return engine
