"""Execute notebooks without a browser, and write them as pages that a person can read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.filters.ansi import strip_ansi
from rich.markup import escape

from labhelpers import state
from labhelpers.errors import BadInput
from labhelpers.terminal import say, step

CELL_S = 900
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Executed:
    """What became of one notebook.

    Attributes:
        name: its file name without the ending.
        cells: how many code cells it has.
        seconds: wall time.
        failed_cell: the number of the cell that failed, counted from 1 as JupyterLab counts code cells; or None.
        error: that cell's error, or "".
        page: the HTML report, or None if none was asked for.
    """

    name: str
    cells: int
    seconds: float
    failed_cell: int | None
    error: str
    page: Path | None


def notebooks(chapters: Sequence[str]) -> list[Path]:
    """The notebooks of `chapters` (`01`, `vm` or a whole name); all of them if none is named.

    Raises:
        BadInput: a chapter that no notebook has.
    """
    there = sorted((state.course() / "notebooks").glob("[0-9]*.ipynb"))
    chosen = []
    for chapter in chapters:
        name = Path(chapter).name.removesuffix(".ipynb")
        found = [path for path in there if path.stem.startswith(name) or path.stem[3:].startswith(name)]
        if len(found) != 1 or not name:
            raise BadInput(
                f"no chapter is called “{chapter}”"
                if not found
                else f"“{chapter}” may mean several chapters",
                hint="name one of: " + ", ".join(path.stem for path in found or there),
            )
        chosen += found
    return chosen or there


def execute(path: Path, html: Path | None = None) -> Executed:
    """Run every cell of the notebook at `path`, which is not changed; write its page into the folder `html`.

    The kernel inherits this process's environment. A cell that raises ends the run of this notebook, unless its
    tag says that it shall.
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
    with step(f"{path.stem}: {len(code)} cells") as status:

        def show(cell: Any, cell_index: int) -> None:
            nonlocal at
            if cell.cell_type == "code":
                at = code.index(cell) + 1
                first_line = escape(cell.source.splitlines()[0][:60] if cell.source else "")
                status.update(f"{path.stem}: cell {at}/{len(code)}  [dim]{first_line}[/dim]")

        client = NotebookClient(
            notebook,
            timeout=CELL_S,
            kernel_name="python3",
            # its warning about the network does not concern loopback, where every message is signed
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=show,
        )
        try:
            client.execute()
        except CellExecutionError as raised:
            failed, error = at, _last_words(code[at - 1]) or f"{raised.ename}: {raised.evalue}"
        except CellTimeoutError:
            failed, error = at, f"the cell did not end within {CELL_S} s"
        except DeadKernelError:
            failed, error = at, "the kernel died"
    page = _write_page(notebook, path.stem, html) if html else None
    return Executed(path.stem, len(code), time.monotonic() - began, failed, error, page)


def report(done: Sequence[Executed]) -> bool:
    """Say what became of each notebook; whether all ran to their end."""
    for one in done:
        if one.page:
            say(f"{one.name}: report in {one.page}")
        if one.failed_cell:
            say(f"{one.name}: cell {one.failed_cell} of {one.cells} failed:\n{one.error}")
    failed = [one.name for one in done if one.failed_cell]
    say(
        f"{len(done) - len(failed)} of {len(done)} notebooks ran to their end"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return not failed


def _last_words(cell: Any) -> str:
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
    exporter: Any = HTMLExporter(embed_images=True)  # type: ignore[no-untyped-call]
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    page.write_text(body, encoding="utf-8")
    return page
