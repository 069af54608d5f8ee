"""Draw the course's own pictures from what is measured: `python -m labhelpers.assets [ROOM…]`, every room without one.

A room declares its pictures in its `figures.py`: `assets(lab)` yields results. Each is drawn into
`assets/ROOM/NAME.png`; its name is that of its `draw_NAME` function, and its alternative text is in the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from labhelpers.results import figure_name
from labhelpers.state import ROOT

if TYPE_CHECKING:
    from labhelpers.results import Result

ROOMS = {
    "start": "00",
    "vm": "01",
    "layers": "02",
    "namespaces": "03",
    "cgroups": "04",
    "networks": "05",
    "services": "06",
    "volumes": "07",
    "persistence": "08",
    "monitoring": "09",
}
"""The rooms in the course's order, and the chapter that each belongs to."""


def draw(result: Result, folder: Path) -> Path:
    """Write the picture of a result into `folder`, at double resolution."""
    import matplotlib.pyplot as plt

    from labhelpers.drawing import alternative_text

    name = figure_name(type(result))
    figure = result.plot().get_figure(root=True)
    assert figure is not None
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{name}.png"
    figure.savefig(picture, metadata={"Description": alternative_text(figure)})
    plt.close("all")
    return picture


def pictures(room: str) -> Iterator[Path]:
    """Measure and draw what a room declares, one picture after the other."""
    from labhelpers.lab import Lab

    figures = import_module(f"labhelpers.{room}.figures")
    with Lab(ROOMS[room]) as lab, lab.quiet():
        for result in figures.assets(lab):
            yield draw(result, ROOT / "assets" / room)


def main(names: Sequence[str]) -> None:
    """Draw the pictures of these rooms, or of all."""
    import matplotlib

    matplotlib.use("agg")
    unknown = sorted(set(names) - set(ROOMS))
    if unknown:
        sys.exit(f"no such room: {', '.join(unknown)}; the rooms are {', '.join(ROOMS)}")
    for room in names or ROOMS:
        for picture in pictures(room):
            print(f"drawn: {picture.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
