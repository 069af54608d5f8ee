"""Execute notebooks without a browser, and write them as pages that a person can read."""

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
from labhelpers.engine import connect
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import sessions
from labhelpers.results import NOT_APPLICABLE
from labhelpers.terminal import echo, step

CELL_TIMEOUT_S = 900
CLOSE_TIMEOUT_S = 60.0
"""How long a kernel may take to remove its things when it is shut down; after half of it, it is sent SIGTERM."""
CLEANUP_TIMEOUT_S = 90.0
"""How long the things of a kernel are waited for after its end: a reaper needs 10 s, and an engine's restart 60 s."""
COPY = re.compile(r"[b-z]-\d\d_\w+\.ipynb")
"""The name of a notebook that `./lab copy` wrote."""
LAST_LINES = 8
TEMPLATES = Path(__file__).with_name("page")
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook.

    Attributes:
        name: its file name without the ending.
        cells: how many code cells it has.
        seconds: wall time.
        failed_cell: the number of the cell that failed, counted from 1 as JupyterLab counts code cells; or None.
        error: that cell's error, or "".
        page: the HTML report, or None if none was asked for.
        not_applicable: (finding, reason) of each that does not apply to this engine.
        left_behind: a line for each thing of this notebook that is still on the engine.
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
        BadInput: a chapter that no notebook has.
    """
    there = sorted((state.course_directory() / "notebooks").glob("[0-9]*.ipynb"))
    chosen = []
    for chapter in chapters:
        if COPY.fullmatch(Path(chapter).name) and Path(chapter).is_file():
            chosen.append(Path(chapter).absolute())
            continue
        name = Path(chapter).name.removesuffix(".ipynb")
        found = [path for path in there if path.stem.startswith(name) or path.stem[3:].startswith(name)]
        if len(found) != 1 or not name:
            raise BadInput(
                f"there is no chapter “{chapter}”" if not found else f"“{chapter}” matches several chapters",
                hint="name one of: " + ", ".join(path.stem for path in found or there),
            )
        chosen += found
    return chosen or there


def execute(path: Path, html: Path | None = None) -> NotebookRun:
    """Run every cell of the notebook at `path`, which is not changed; write its page into the folder `html`.

    The kernel inherits this process's environment. A cell that raises ends the run of this notebook, unless its
    tag says that it shall. When this returns, or raises, the containers, networks and volumes of the notebook are gone,
    except for those that `left_behind` names.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if "nbval-raises-exception" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("raises-exception")
    began = time.monotonic()
    failed: int | None = None
    error = ""
    at = 0
    stopped = threading.Event()
    with step(f"{path.stem}: {len(code)} cells") as status:

        def show(cell: Any, cell_index: int) -> None:
            nonlocal at
            _on_interrupt(stopped.set)
            if cell.cell_type == "code":
                at = code.index(cell) + 1
                first_line = escape(cell.source.splitlines()[0][:60] if cell.source else "")
                status.update(f"{path.stem}: cell {at}/{len(code)}  [dim]{first_line}[/dim]")

        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            # its warning about the network does not concern loopback, where every message is signed
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=show,
        )
        # its own 5 s are too few for a chapter's containers: it would be killed in the middle of removing them
        client.create_kernel_manager().shutdown_wait_time = CLOSE_TIMEOUT_S
        # a kernel that is interrupted may write tracebacks of its own machinery; they matter only where it dies
        with _session_cleanup(status, path.stem) as left, tempfile.TemporaryFile() as kernels_errors:
            try:
                client.execute(stderr=kernels_errors)
            except CellExecutionError as raised:
                failed, error = at, _error_output(code[at - 1]) or f"{raised.ename}: {raised.evalue}"
            except CellTimeoutError:
                failed, error = at, f"the cell timed out after {CELL_TIMEOUT_S} s"
            except DeadKernelError:
                kernels_errors.seek(0)
                last = kernels_errors.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
                failed, error = at, "\n".join(["the kernel died", *last])
            if stopped.is_set():
                raise KeyboardInterrupt
    page = _write_page(notebook, path.stem, html) if html else None
    seconds = time.monotonic() - began
    applies = tuple(_not_applicable(code))
    return NotebookRun(path.stem, len(code), seconds, failed, error, page, applies, tuple(left))


def _on_interrupt(call: Callable[[], object]) -> None:
    """Have ^C end the cell that runs, after `call`; nbclient takes what is cancelled for a dead kernel."""
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
    """Mark the sessions that begin in the block, and wait for their end after it; gives a line for what is left."""
    run = secrets.token_hex(4)
    before = os.environ.get(sessions.RUN)
    os.environ[sessions.RUN] = run
    left: list[str] = []
    try:
        yield left
    finally:
        if before is None:
            del os.environ[sessions.RUN]
        else:
            os.environ[sessions.RUN] = before
        status.update(f"{name}: cleaning up")
        left += _left_behind(sessions.wait_for_run(run, CLEANUP_TIMEOUT_S))
        left += [
            f"the volume {volume} is kept because a cell created it with keep=True; to remove it: docker "
            f"volume rm {volume}"
            for volume in sessions.kept_volumes_of_run(run)
        ]


def _left_behind(ended: Sequence[str]) -> list[str]:
    if not ended:
        return []
    try:
        client = connect(revive=False).client
        things = [thing for session in ended for thing in sessions.session_resources(client, session)]
    except LabError as error:
        return [f"cannot check what is left on the engine: {error.message}"]
    return [
        f"{thing} still exists after {CLEANUP_TIMEOUT_S:.0f} s; `./lab clean` removes it" for thing in things
    ]


def report(runs: Sequence[NotebookRun]) -> bool:
    """Say what became of each notebook; whether all ran to their end."""
    for one in runs:
        if one.page:
            echo(f"{one.name}: report in {one.page}")
        if one.failed_cell:
            echo(f"{one.name}: cell {one.failed_cell} of {one.cells} failed:\n{one.error}")
        for line in one.left_behind:
            echo(f"{one.name}: {line}")
    failed = [one.name for one in runs if one.failed_cell]
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
            # a page has no kernel behind it: what a widget shows is there as text too
            output.get("data", {}).pop(WIDGET, None)
    notebook.metadata.pop("widgets", None)
    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        embed_images=True, template_name="labhelpers", extra_template_basedirs=[str(TEMPLATES)]
    )
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    page.write_text(body, encoding="utf-8")
    return page
