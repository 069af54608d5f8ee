"""Execute notebooks without a browser, and write them as HTML pages."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.filters.ansi import strip_ansi
from rich.markup import escape

from labhelpers import state
from labhelpers.commandline import stored_outputs
from labhelpers.engine import connect
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import sessions
from labhelpers.results import NOT_APPLICABLE
from labhelpers.terminal import echo, step

CELL_TIMEOUT_S = 900
CLOSE_TIMEOUT_S = 60.0
"""How long a kernel may take for its clean-up at shutdown; it gets SIGTERM after half of that."""
CLEANUP_TIMEOUT_S = 90.0
"""How long to wait for the clean-up after a kernel exits: a reaper needs 10 s, an engine's restart 60 s."""
COPY = re.compile(r"[b-z]-\d\d_\w+\.ipynb")
"""The file name of a notebook written by `./lab copy`."""
LAST_LINES = 8
TEMPLATES = Path(__file__).with_name("page")


@dataclass(frozen=True)
class NotebookRun:
    """The outcome of one notebook.

    Attributes:
        name: its file name without the extension.
        cells: how many code cells it has.
        seconds: wall time.
        failed_cell: the number of the failed code cell, from 1; or None.
        error: that cell's error, or "".
        page: the HTML report, or None if none was requested.
        not_applicable: (finding, reason) of each finding that does not apply to this engine.
        left_behind: one line for each resource of this notebook that is still on the engine.
    """

    name: str
    cells: int
    seconds: float
    failed_cell: int | None
    error: str
    page: Path | None
    not_applicable: tuple[tuple[str, str], ...] = ()
    left_behind: tuple[str, ...] = ()


def notebooks(chapters: Sequence[str]) -> list[Path]:
    """The notebooks of `chapters` (`01`, `vm`, a whole name, or the path of a copy); all of them if none is named.

    Raises:
        BadInput: there is no such chapter.
    """
    available = sorted((state.course_directory() / "notebooks").glob("[0-9]*.ipynb"))
    chosen = []
    for chapter in chapters:
        if COPY.fullmatch(Path(chapter).name) and Path(chapter).is_file():
            chosen.append(Path(chapter).absolute())
            continue
        name = Path(chapter).name.removesuffix(".ipynb")
        matches = [path for path in available if path.stem.startswith(name) or path.stem[3:].startswith(name)]
        if len(matches) != 1 or not name:
            raise BadInput(
                f"there is no chapter “{chapter}”"
                if not matches
                else f"“{chapter}” matches several chapters",
                hint="name one of: " + ", ".join(path.stem for path in matches or available),
            )
        chosen += matches
    return chosen or available


def execute(path: Path, html: Path | None = None, *, store: bool = False) -> NotebookRun:
    """Run every cell of the notebook at `path`; write an HTML page to the directory `html`.

    `store` writes the outputs into the notebook if no cell failed; otherwise it is not changed.

    The kernel inherits this process's environment. A cell that raises an exception ends the run, unless it has the tag
    for that. When this returns or raises, the containers, networks and volumes of the notebook are removed, except for
    those in `left_behind`.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if "nbval-raises-exception" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("raises-exception")
    began = time.monotonic()
    failed: int | None = None
    error = ""
    number = 0
    stopped = threading.Event()
    with step(f"{path.stem}: {len(code)} cells") as status:

        def show(cell: Any, cell_index: int) -> None:
            nonlocal number
            _on_interrupt(stopped.set)
            if cell.cell_type == "code":
                number = code.index(cell) + 1
                first_line = escape(cell.source.splitlines()[0][:60] if cell.source else "")
                status.update(f"{path.stem}: cell {number}/{len(code)}  [dim]{first_line}[/dim]")

        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            # the warning about the network does not apply to loopback, where every message is signed
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=show,
        )
        # the default of 5 s is too short to remove a chapter's containers
        client.create_kernel_manager().shutdown_wait_time = CLOSE_TIMEOUT_S
        # an interrupted kernel may print internal tracebacks; they matter only if it dies
        with _session_cleanup(status, path.stem) as left_behind, tempfile.TemporaryFile() as kernels_errors:
            try:
                client.execute(stderr=kernels_errors)
            except CellExecutionError as raised:
                failed, error = number, _error_output(code[number - 1]) or f"{raised.ename}: {raised.evalue}"
            except CellTimeoutError:
                failed, error = number, f"the cell timed out after {CELL_TIMEOUT_S} s"
            except DeadKernelError:
                kernels_errors.seek(0)
                last = kernels_errors.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
                failed, error = number, "\n".join(["the kernel died", *last])
            if stopped.is_set():
                raise KeyboardInterrupt
    if store and failed is None:
        stored_outputs.write(path, notebook)
    page = _write_page(notebook, path.stem, html) if html else None
    seconds = time.monotonic() - began
    applies = tuple(_not_applicable(code))
    return NotebookRun(path.stem, len(code), seconds, failed, error, page, applies, tuple(left_behind))


def _on_interrupt(call: Callable[[], object]) -> None:
    """Make ^C cancel the running cell, after `call`; nbclient treats a cancelled task as a dead kernel."""
    task = asyncio.current_task()
    if task is None or threading.current_thread() is not threading.main_thread():
        return

    def stop() -> None:
        call()
        task.cancel()

    with suppress(NotImplementedError):  # Windows, where ^C raises KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)


@contextmanager
def _session_cleanup(status: Any, name: str) -> Iterator[list[str]]:
    """Mark sessions that start in the block, and wait for their clean-up after it; yields lines for what is left."""
    run = secrets.token_hex(4)
    before = os.environ.get(sessions.RUN)
    os.environ[sessions.RUN] = run
    left_behind: list[str] = []
    try:
        yield left_behind
    finally:
        if before is None:
            del os.environ[sessions.RUN]
        else:
            os.environ[sessions.RUN] = before
        status.update(f"{name}: cleaning up")
        left_behind += _left_behind(sessions.wait_for_run(run, CLEANUP_TIMEOUT_S))
        left_behind += [
            f"the volume {volume} is kept because a cell created it with keep=True; to remove it: docker "
            f"volume rm {volume}"
            for volume in sessions.kept_volumes_of_run(run)
        ]


def _left_behind(ended: Sequence[str]) -> list[str]:
    if not ended:
        return []
    try:
        client = connect(revive=False).client
        resources = [
            resource for session in ended for resource in sessions.session_resources(client, session)
        ]
    except LabError as error:
        return [f"cannot check what is left on the engine: {error.message}"]
    return [
        f"{resource} still exists after {CLEANUP_TIMEOUT_S:.0f} s; `./lab clean` removes it"
        for resource in resources
    ]


def report(runs: Sequence[NotebookRun]) -> bool:
    """Print the outcome of each notebook; whether all passed."""
    for run in runs:
        if run.page:
            echo(f"{run.name}: report in {run.page}")
        if run.failed_cell:
            echo(f"{run.name}: cell {run.failed_cell} of {run.cells} failed:\n{run.error}")
        for line in run.left_behind:
            echo(f"{run.name}: {line}")
    failed = [run.name for run in runs if run.failed_cell]
    echo(
        f"{len(runs) - len(failed)} of {len(runs)} notebooks passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return not failed


def _not_applicable(cells: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for cell in cells:
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for line in printed.splitlines():
            claim, separator, reason = line.partition(NOT_APPLICABLE)
            if separator:
                yield claim, reason


def _error_output(cell: Any) -> str:
    errors = [output for output in cell.outputs if output.output_type == "error"]
    last = "\n".join(errors[-1].traceback[-12:]) if errors else ""
    return str(strip_ansi(last))  # type: ignore[no-untyped-call]


def _write_page(notebook: Any, name: str, folder: Path) -> Path:
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            # a page has no kernel; the content of widgets is also stored as text
            output.get("data", {}).pop(stored_outputs.WIDGET, None)
    notebook.metadata.pop("widgets", None)
    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        embed_images=True, template_name="labhelpers", extra_template_basedirs=[str(TEMPLATES)]
    )
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    page.write_text(body, encoding="utf-8")
    return page
