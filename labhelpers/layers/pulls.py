"""Two example images in the lab's registry, and a timed `docker pull` of an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.course.pulls import PulledLayer, PullTracker
from labhelpers.layers.builds import build, unique_name
from labhelpers.layers.digests import is_in_lab_registry, layer_descriptors
from labhelpers.layers.live import live_pull
from labhelpers.layers.recipes import FIRST, SECOND
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab


@record
class ExampleImages(Result):
    """Two images in the lab's registry that the engine does not have."""

    first: str = column("reference of an image with five layers")
    second: str = column("reference of an image with the same five layers and a sixth")


@experiment
def example_images(lab: Lab) -> ExampleImages:
    """Build two images, the second on top of the first, push them to the lab's registry, and remove them locally.

    Their layers are new in each call, so no other image of the engine shares them.

    Raises:
        BuildFailed, EngineRefused: the engine could not build or push them.
    """
    base = lab.image("payload")
    with lab.quiet(["docker build"]):
        first = build(lab, FIRST, unique_name(lab, "first:1"), BASE=base, SALT=str(time.time_ns()))
        second = build(lab, SECOND, unique_name(lab, "second:1"), BASE=first)
        pushed = [lab.registry.push(ref, ref.partition("/")[2]) for ref in (first, second)]
        for ref in (second, first):
            lab.remove_image(ref)
    return ExampleImages(*pushed)


@record
class Pull(Result):
    """Layers of a `docker pull`, from the lowest to the highest."""

    ref: str = column("the image")
    layers: tuple[PulledLayer, ...] = rows(
        "in the order in which the engine reported them, the lowest first", of=PulledLayer
    )
    total_ms: float = column("wall time since the start")
    done: bool = column("whether the pull has ended")

    @property
    def existing_layers(self) -> int:
        """How many layers the engine had before the pull."""
        return sum(layer.already_exists for layer in self.layers)

    @property
    def downloaded_layers(self) -> int:
        """How many layers were downloaded."""
        return len(self.layers) - self.existing_layers

    @property
    def max_parallel_downloads(self) -> int:
        """The largest number of layers that were downloaded at the same time."""
        spans = [p for layer in self.layers for p in layer.phases if p.name == "download"]
        return max((sum(o.start_ms <= p.start_ms < o.end_ms for o in spans) for p in spans), default=0)

    @property
    def extracted_in_order(self) -> bool:
        """Whether no layer was complete before the layer below it."""
        ends = [layer.phases[-1].end_ms for layer in self.layers if layer.phases]
        return all(before <= after for before, after in pairwise(ends))


@experiment
def pull(lab: Lab, ref: str, on_progress: Callable[[Pull], object] | None = None) -> Pull:
    """A real `docker pull`, timed layer by layer from the progress that the engine reports.

    Args:
        on_progress: called with the pull so far at each message of the engine; None for a live panel if the
            notebook can show one.

    Raises:
        BadInput: `ref` is not a valid image reference.
        ImageMissing: the registry does not have the image or does not respond, or the engine rejected its content.
    """
    report = on_progress or live_pull()
    tracker = PullTracker()

    def update(message: Mapping[str, Any]) -> None:
        if tracker.update(message):
            report(Pull(ref, tracker.layers(), tracker.total_ms, done=False))

    with lab.quiet(["docker pull"]):
        image = lab.pull(ref, on_progress=update)
        tracker.stop()
        digests = image.attrs["RootFS"]["Layers"]
        if is_in_lab_registry(lab, ref):
            digests = [layer.digest for layer in layer_descriptors(lab, ref)]
    # without a manifest, a layer that the engine did not report is known by its diff ID only
    ids = [digest.removeprefix("sha256:")[:12] for digest in digests]
    result = Pull(ref, tracker.layers(ids), tracker.total_ms, done=True)
    report(result)
    return result
