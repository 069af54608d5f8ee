"""Outputs as the repository stores them: without widgets, without paths of this machine, and small.

Most people first see the notebooks on a web page, where no kernel runs.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from labhelpers import state

WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = "image/png"
# a figure of the course has few colours: a palette makes it a quarter of the size
PALETTE_COLOURS = 128


def write(path: Path, executed: Any) -> None:
    """Write the outputs of `executed` into the notebook at `path`, whose cells it has; nothing else changes."""
    stored = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    names = _machine_names(path.parent)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    run = [cell for cell in executed.cells if cell.cell_type == "code"]
    for number, (cell, source) in enumerate(zip(code, run, strict=True), 1):
        cell.execution_count = number
        cell.outputs = _outputs(source.outputs, number, names)
    stored.metadata.pop("widgets", None)
    text = nbformat.writes(stored, indent=1, ensure_ascii=False)  # type: ignore[no-untyped-call]
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def _machine_names(notebooks: Path) -> list[tuple[str, str]]:
    """(what is specific to this machine, what a reader with an engine of the distribution would see), in order."""
    home = str(state.home())
    engine = [
        (f"{home}/engine/data", "/var/lib/docker"),
        (f"{home}/engine/docker.sock", "/var/run/docker.sock"),
    ]
    directories = [(str(notebooks.resolve()), "/home/reader/notebooks"), (home, "/home/reader/.labhelpers")]
    abbreviated = [(state.abbreviate_home(Path(name)), put) for name, put in engine]
    # one directory may contain the other
    return [*engine, *abbreviated, *sorted(directories, key=lambda pair: -len(pair[0]))]


def _outputs(outputs: Sequence[Any], number: int, names: Sequence[tuple[str, str]]) -> list[Any]:
    result: list[Any] = []
    for output in map(nbformat.from_dict, outputs):
        if "data" in output:
            output.data.pop(WIDGET, None)
            if not output.data:
                continue
            output.data = {kind: _data(kind, value, names) for kind, value in output.data.items()}
            # the alternative text of a figure names the same things as its text
            output.metadata = {kind: _data(kind, value, names) for kind, value in output.metadata.items()}
        if "execution_count" in output:
            output.execution_count = number
        if output.output_type == "stream":
            output.text = _without(output.text, names)
            # a page shows each stream output as a block of its own
            if result and result[-1].output_type == "stream" and result[-1].name == output.name:
                result[-1].text += output.text
                continue
        result.append(output)
    return result


def _data(kind: str, value: Any, names: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _data(key, item, names) for key, item in value.items()}
    if kind == PNG:
        return _smaller(value)
    return _without(value, names) if isinstance(value, str) else value


def _without(text: str, names: Sequence[tuple[str, str]]) -> str:
    for name, put in names:
        text = re.sub(re.escape(name) + r"(?![\w-])", put, text)
    return text


def _smaller(figure: str) -> str:
    original = base64.b64decode(figure)
    image = Image.open(io.BytesIO(original))
    reduced = io.BytesIO()
    image.convert("RGB").quantize(PALETTE_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        reduced, "PNG", optimize=True, dpi=image.info.get("dpi", (72, 72))
    )
    return base64.b64encode(min(original, reduced.getvalue(), key=len)).decode()
