"""The verbs of `./lab`."""

from __future__ import annotations

import json
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from labhelpers import __version__, errors, state
from labhelpers.commandline import jupyter
from labhelpers.commandline.common import FIRST_IMAGES, engine_option, engine_with_images, reports_errors
from labhelpers.engine import Engine, connect, images, install, private
from labhelpers.errors import LabError
from labhelpers.terminal import confirm, echo, step

if TYPE_CHECKING:
    from labhelpers.lab.sessions import Resource

CLOSE_TIMEOUT_S = 15.0
"""How long `down --purge` waits for closing notebooks."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Understand containers by running, measuring and drawing them on a real Docker engine."""


@main.command()
@engine_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port for JupyterLab on 127.0.0.1. Default: the first free port from 8888.",
)
@click.option(
    "--browser/--no-browser", default=True, help="Open the first page in your browser, or only print its URL."
)
@reports_errors
def up(engine: str, port: int | None, browser: bool) -> None:
    """Set up what is missing, start JupyterLab, and open the course."""
    began = time.monotonic()
    server = jupyter.start(engine_with_images(engine, FIRST_IMAGES), port)
    echo(f"ready after {time.monotonic() - began:.0f} s; stop it all with ./lab down")
    echo(server.url)
    if browser:
        webbrowser.open(server.url)


@main.command()
@click.argument("chapters", nargs=-1)
@click.option(
    "--html",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one HTML page per notebook to this directory.",
)
@click.option("--store", is_flag=True, help="Store the outputs in the notebooks, as the repository has them.")
@engine_option
@reports_errors
def run(chapters: tuple[str, ...], html: Path | None, store: bool, engine: str) -> None:
    """Execute the notebooks of CHAPTERS (01, or a name; all of them if none) without a browser."""
    from labhelpers.commandline import runner  # nbformat takes a second to import

    paths = runner.notebooks(chapters)
    engine_with_images(engine, FIRST_IMAGES)
    runs = [runner.execute(path, html, store=store) for path in paths]
    if not runner.report(runs):
        sys.exit(1)


@main.command()
@click.argument("chapter")
@click.option(
    "--suffix", required=True, metavar="LETTER", help="A letter from b to z, appended to all names."
)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the copy. Default: the directory of the notebooks.",
)
@reports_errors
def copy(chapter: str, suffix: str, to: Path | None) -> None:
    """Write a copy of CHAPTER's notebook with other names, for another learner on the same engine."""
    from labhelpers.commandline import runner
    from labhelpers.lab import learners

    (notebook,) = runner.notebooks([chapter])
    copied = learners.write_copy(notebook, suffix, to or notebook.parent)
    echo(f"open {state.abbreviate_home(copied)}, or run it: ./lab run {state.abbreviate_home(copied)}")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@reports_errors
def test(args: tuple[str, ...]) -> NoReturn:
    """Run the whole test suite, every notebook under nbval included (`./lab test --help`)."""
    _must_be_checkout()
    sys.stdout.flush()
    os.chdir(state.ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "tests", *args])


@main.command()
@reports_errors
def check() -> None:
    """Check the format, style and types of a checkout, in less than a minute; `test` does so too."""
    _must_be_checkout()
    from labhelpers.commandline.check import check as passes

    sys.exit(0 if passes() else 1)


def _must_be_checkout() -> None:
    if not (state.ROOT / "tests").is_dir():
        raise errors.BadInput(
            "the tests are not part of the installed package",
            hint="run them from a checkout: clone the repository, then run ./lab test",
        )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@engine_option
@reports_errors
def doctor(as_json: bool, engine: str) -> None:
    """Report what works, what is missing and how to fix it; start and install nothing."""
    from labhelpers.commandline.doctor import print_report, run_checks

    report = run_checks(engine)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)
    sys.exit(0 if report["ok"] else 1)


@main.command()
@engine_option
@reports_errors
def status(engine: str) -> None:
    """Show what the lab is running and what it has created."""
    from labhelpers.lab.inventory import inventory

    server = jupyter.running()
    echo(f"JupyterLab: {server.url if server else 'not running'}")
    try:
        connected = connect(engine, revive=False)
    except LabError as error:
        echo(f"engine:     {error.message}")
    else:
        facts = connected.facts()
        echo(
            f"engine:     {facts.source}, {connected.product} {facts.version} at {facts.host} ({facts.found_by})"
        )
        resources = inventory(connected)
        owned = resources.owned
        echo("created:    " + ("nothing" if not owned else f"{len(owned)} resources"))
        for group, note in (
            (resources.ended, "its session has ended: `./lab clean` removes it"),
            (resources.in_use, "used by an open notebook or terminal"),
            (resources.tests, "in use by `./lab test`"),
            (resources.reader_volumes, "created by you; kept until you remove it: `./lab clean` asks"),
        ):
            for resource in group:
                echo(f"            {resource} ({note})")
        if resources.foreign:
            echo(f"foreign:    {len(resources.foreign)} resources")
            for resource in resources.foreign:
                echo(f"            {_foreign_text(resource)}")
    echo(f"files:      {state.abbreviate_home(state.home())}")


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@engine_option
@reports_errors
def clean(names: tuple[str, ...], yes: bool, engine: str) -> None:
    """Remove and list what ended lab sessions left on the engine; keep images and persistent volumes.

    Resources of open notebooks and volumes that you created are removed only after confirmation (or with --yes).
    Resources of other state directories are removed only by NAME and after confirmation.
    """
    connected = connect(engine, revive=False)
    if names:
        _clean_named(connected, names, yes)
    else:
        _clean(connected, confirm=lambda question: yes or confirm(question))


@main.command()
@click.option(
    "--purge", is_flag=True, help="Also remove the engine's data, the environment and your progress."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@engine_option
@reports_errors
def down(purge: bool, yes: bool, engine: str) -> None:
    """Stop JupyterLab and the private engine. An existing engine is never stopped."""
    if (
        purge
        and not yes
        and not confirm(
            f"Remove all of the lab's data ({state.abbreviate_home(state.home())}), including your progress and the "
            "volumes that you created in the course?"
        )
    ):
        raise errors.BadInput("nothing was removed", hint="answer y, or use --yes in a script")
    echo("JupyterLab: stopped" if jupyter.stop() else "JupyterLab: not running")
    _leave_foreign_engine(engine, purge)
    private.stop(echo)
    if purge:
        _purge()


@main.command()
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(3, 100))
@engine_option
@reports_errors
def bench(repeats: int, engine: str) -> None:
    """Compare the cost of common operations on this engine."""
    from labhelpers.commandline.bench import compare

    connected = engine_with_images(engine, ("tools", "payload"))
    with step("measuring"):
        table = compare(connected, repeats)
    echo(table.to_string(index=False))


def _clean(engine: Engine, confirm: Callable[[str], bool]) -> None:
    """Remove what ended sessions left behind, and resources in use or kept after `confirm`; list the rest."""
    from labhelpers.lab import inventory

    removed, kept = inventory.clean(engine)
    remaining = inventory.inventory(engine)
    _print_removed(removed, kept)
    total = len(removed)
    for group, reason, question in (
        (remaining.reader_volumes, "you created it", "Remove these volumes and all data in them?"),
        (remaining.in_use, "an open notebook or terminal uses it", "Also remove resources that are in use?"),
    ):
        for resource in group:
            echo(f"{resource}: {reason}")
        if group and confirm(question):
            removed_now, refused = inventory.remove(engine, group)
            _print_removed(removed_now, refused)
            total += len(removed_now)
        elif group:
            echo("kept; `./lab clean --yes` removes it")
    for resource in remaining.tests:
        echo(f"{resource} kept: in use by `./lab test`")
    for resource in remaining.foreign:
        echo(f"{_foreign_text(resource)}; kept")
    if remaining.foreign:
        echo("to remove one of these, give its name: ./lab clean NAME")
    if total:
        echo(f"removed {total} resources")
    elif not (kept or remaining.owned):
        echo("nothing to remove")


def _clean_named(engine: Engine, names: Sequence[str], yes: bool) -> None:
    from labhelpers.lab import inventory

    chosen = inventory.find_by_name(engine, names)
    foreign = inventory.inventory(engine).foreign
    for resource in chosen:
        echo(_foreign_text(resource) if resource in foreign else str(resource))
    if not yes and not confirm(f"Remove {'it' if len(chosen) == 1 else f'these {len(chosen)}'}?"):
        raise errors.BadInput("nothing was removed", hint="answer y, or use --yes in a script")
    _print_removed(*inventory.remove(engine, chosen))


def _print_removed(removed: Sequence[str], kept: Sequence[str]) -> None:
    for line in (*(f"removed {resource}" for resource in removed), *kept):
        echo(line)


def _foreign_text(resource: Resource) -> str:
    session = f", session {resource.session}" if resource.session else ""
    return f"{resource} belongs to another state directory or an unknown session (chapter {resource.chapter}{session})"


def _leave_foreign_engine(choice: str, purge: bool) -> None:
    """Remove the lab's resources from an existing engine: containers, and with `purge` also images.

    Raises:
        BadInput: resources are in use, and `purge` would remove their state directory.
    """
    try:
        engine = connect(choice, revive=False)
    except LabError:
        return
    if engine.source != "existing":
        return
    if purge:
        _check_not_in_use(engine)
    _clean(engine, confirm=lambda question: purge and "volumes" in question)
    if purge:
        kept_for = _images_in_use_reason(engine)
        for line in images.remove_all(engine, kept_for):
            echo(line)


def _check_not_in_use(engine: Engine) -> None:
    from labhelpers.lab.inventory import inventory

    end = time.monotonic() + CLOSE_TIMEOUT_S
    # the clean-up of a kernel that has just exited may be in progress
    while in_use := [*(resources := inventory(engine)).in_use, *resources.tests]:
        if time.monotonic() > end:
            raise errors.BadInput(
                f"{', '.join(map(str, in_use))}: in use by an open notebook or another `./lab` command; "
                "nothing else was removed",
                hint="shut down that notebook's kernel or stop that command, then try again",
            )
        time.sleep(0.2)


def _images_in_use_reason(engine: Engine) -> str | None:
    """Why the lab images on this engine must be kept: sessions of other state directories; None if there are none."""
    from labhelpers.lab import sessions
    from labhelpers.lab.inventory import inventory

    if foreign := inventory(engine).foreign:
        return f"another lab on this engine owns {foreign[0]}"
    if engine.identity in sessions.live_foreign_sessions().values():
        return "another lab is open on this engine"
    return None


def _purge() -> None:
    packages = install.installed_by_the_lab()
    private.remove_data()
    home = state.home()
    # last, because this program runs from there
    kept = state.remove()
    echo(
        f"removed {state.abbreviate_home(home)}"
        if not kept
        else f"removed the lab's files from {state.abbreviate_home(home)}; kept:"
    )
    for path in kept:
        echo(f"    {path}")
    if packages:
        echo("these packages were installed for the lab; remove them yourself if nothing else needs them:")
        echo(f"    apt-get purge {' '.join(packages)}")


if __name__ == "__main__":
    main()
