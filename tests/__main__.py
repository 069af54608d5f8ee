"""`./lab test`: the suite on one engine or on several, and notebooks under other daemon settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from labhelpers import errors, state
from labhelpers.commandline.common import FIRST_IMAGES, engine_with_images, reports_errors
from labhelpers.engine import install
from labhelpers.errors import EngineError
from labhelpers.terminal import echo
from tests.engines import matrix, runs

IMAGES = (*FIRST_IMAGES, "registry", "engine", "mysql", "netdata")


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--engine",
    default=lambda: os.environ.get("LABHELPERS_ENGINE", "auto"),
    metavar="A|B|C|AB|all|auto|private|URL",
    help="The engine to test on: A, B or C, several of them, all, or as for the other commands.",
)
@click.option(
    "--settings",
    metavar="NAME|all",
    help="Execute notebooks on engine B with these daemon settings; ARGS are chapters. An unknown name lists the "
    "settings.",
)
@reports_errors
def test(args: tuple[str, ...], engine: str, settings: str | None) -> None:
    """Run the whole test suite, every notebook under nbval included; ARGS go to pytest.

    The engine may be named A (what `up` uses), B (28.5, containerd image store, nested), C (26.1, cgroup v2, in a
    virtual machine), or all: B and C are created for the run and removed afterwards.
    """
    if settings is not None:
        _test_settings(settings, args, engine)
    names = runs.NAMES if engine == "all" else tuple(name for name in runs.NAMES if name in engine)
    if names and engine in ("all", "".join(names)):
        _test_on(names, args)
    engine_with_images(engine, IMAGES)
    _ensure_browser()
    sys.stdout.flush()
    command = [sys.executable, "-m", "pytest", *(args or runs.XDIST_OPTIONS["A"])]
    sys.exit(subprocess.run(command, cwd=state.ROOT).returncode)


def _test_on(names: Sequence[str], args: Sequence[str]) -> NoReturn:
    # what a terminated command has started is stopped too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    engine = engine_with_images("auto", IMAGES)
    if "A" in names:
        _ensure_browser()
    sys.exit(0 if runs.show(runs.run(names, engine, IMAGES, args, echo)) else 1)


def _test_settings(settings: str, chapters: Sequence[str], engine: str) -> NoReturn:
    if engine not in ("auto", "B"):
        raise errors.BadInput(
            f"--settings applies to engine B, but --engine is {engine}",
            hint=f"./lab test --engine B --settings {settings}",
        )
    names = matrix.select_settings(settings)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(
        0 if matrix.show(matrix.run(names, chapters, engine_with_images("auto", matrix.IMAGES), echo)) else 1
    )


def _ensure_browser() -> None:
    try:
        install.ensure(install.BROWSER_PACKAGES, "the browser tests need Chromium")
    except EngineError as error:
        echo(f"browser: not installed; its tests are skipped ({error.message})")


if __name__ == "__main__":
    test(prog_name="./lab test")
