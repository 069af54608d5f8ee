"""An image of a service, pulled from a registry layer by layer."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.course.pulls import PulledLayer, PullTracker
from labhelpers.errors import ExperimentFailed
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.engine.images import HubImage
    from labhelpers.lab import Lab

# settings in the directory that the official image reads; the salt makes the layers new to every engine
_RECIPE = """\
FROM {base}
COPY names.cnf /etc/mysql/conf.d/names.cnf
COPY zone.cnf /etc/mysql/conf.d/zone.cnf
"""
_SETTINGS = {
    "names.cnf": "# {salt}\n[mysqld]\ncharacter-set-server = utf8mb4\n",
    "zone.cnf": "# {salt}\n[mysqld]\ndefault-time-zone = '+00:00'\n",
}
_TIMEOUT_S = 900.0


@record
class Pulled(Result):
    """A `docker pull` of a service's image."""

    ref: str = column("reference of the image")
    layers: tuple[PulledLayer, ...] = rows(
        "layers in the order in which the engine reported them", of=PulledLayer
    )
    total_s: float = column("duration of the pull")
    size_bytes: int = column("size of the image, as the engine reports it")

    @property
    def downloaded_layers(self) -> int:
        """How many layers were downloaded."""
        return sum(not layer.already_exists for layer in self.layers)


class PushedImage:
    """An image that is being pushed to the lab's registry, to be pulled from there: see `push_image`."""

    def __init__(self, lab: Lab, image: str) -> None:
        self._lab, self._image = lab, image
        self._ref, self._error = "", ""
        self._thread = threading.Thread(target=self._push, name="push-image", daemon=True)
        self._thread.start()

    @property
    def ref(self) -> str:
        """The reference to pull; waits until the registry has the image.

        Raises:
            ExperimentFailed: the image could not be built or pushed.
        """
        self._thread.join(_TIMEOUT_S)
        if not self._ref:
            raise ExperimentFailed(
                f"the image {self._image} could not be pushed to the lab's registry",
                hint="run the cell again; if it fails again, run `./lab doctor`",
                engine_message=self._error or f"not finished after {_TIMEOUT_S:.0f} s",
            )
        return self._ref

    def _push(self) -> None:
        tag = f"push-{token_hex(4)}:8.4"
        try:
            with tempfile.TemporaryDirectory() as folder:
                files = {"Dockerfile": _RECIPE.format(base=self._image)}
                files |= {name: text.format(salt=token_hex(8)) for name, text in _SETTINGS.items()}
                for name, text in files.items():
                    (Path(folder) / name).write_text(text, encoding="utf-8")
                self._lab.build(folder, tag)
            ref = self._lab.registry.push(tag, "mysql:8.4")
            # the pull must download it from the registry
            self._lab.remove_image(tag)
            self._ref = ref
        except Exception as error:  # raised in the thread that needs the reference
            self._error = str(error)


@experiment
def push_image(lab: Lab, image: HubImage) -> PushedImage | HubImage:
    """An image to pull: its `.ref`. If `image` is not a substitute, it is returned as it is.

    To a substitute the lab adds two small layers of settings, and pushes the result to its own registry in the
    background: the engine compresses hundreds of MB for that.
    """
    return PushedImage(lab, image.ref) if image.is_substitute else image


@experiment
def pull(lab: Lab, ref: str) -> Pulled:
    """A real `docker pull`, timed layer by layer from the engine's progress (Engine API, POST /images/create).

    Raises:
        BadInput: `ref` is not a valid reference.
        ImageMissing: the registry does not have the image, or does not respond.
    """
    tracker = PullTracker()
    with lab.quiet(essential=["docker pull"]):
        image = lab.pull(ref, on_progress=tracker.update)
    tracker.stop()
    return Pulled(ref, tracker.layers(), tracker.total_ms / 1000, int(image.attrs["Size"]))
