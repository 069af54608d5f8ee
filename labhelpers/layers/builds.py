"""Builds: how the order of instructions affects the build cache, and what a multi-stage build leaves out."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from labhelpers.course.arguments import experiment
from labhelpers.layers import recipes
from labhelpers.layers.recipes import BuildContext
from labhelpers.layers.sources import BufferedSource, Chunks
from labhelpers.layers.tarstream import members
from labhelpers.results import Result, column, derived, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab
    from labhelpers.lab.base import ProgressCallback

MAX_TEXT_BYTES = 1 << 20
"""The most that is read of a file of an image."""


def unique_name(lab: Lab, name: str) -> str:
    """An image name that no other session of the lab uses."""
    return f"lab-{lab.session}/{name}"


def build(
    lab: Lab, context: BuildContext, tag: str, on_progress: ProgressCallback | None = None, **buildargs: str
) -> str:
    """Build an image from a temporary directory, and return its tag.

    Raises:
        BuildFailed: a step failed.
        NameTaken: the tag belongs to an image that this session did not create.
    """
    with tempfile.TemporaryDirectory() as directory, lab.quiet():
        for name, text in {"Dockerfile": context.dockerfile, **context.files}.items():
            Path(directory, name).write_text(text, encoding="utf-8")
        lab.build(directory, tag, on_progress=on_progress, buildargs=buildargs)
    return tag


# --- the cache


@record
class Step:
    """One step of a build."""

    instruction: str = column("instruction in the Dockerfile")
    cached: bool = column("whether the result came from the build cache")
    duration_s: float = column("wall time")


@record
class BuildRun:
    """One build of a Dockerfile."""

    order: str = column("order of the instructions: `dependencies first` or `source first`")
    when: str = column("`first build` or `one line changed`")
    steps: tuple[Step, ...] = column("steps in order", shown=False)

    @derived
    def duration_s(self) -> float:
        """Wall time of all steps."""
        return sum(step.duration_s for step in self.steps)

    @property
    def executed(self) -> tuple[str, ...]:
        """The instructions that were executed, not taken from the cache; without FROM and ARG, which do nothing."""
        return tuple(
            step.instruction for step in self.steps if not step.cached and _creates_layer(step.instruction)
        )


def _creates_layer(instruction: str) -> bool:
    return not instruction.startswith(("FROM", "ARG"))


@record
class BuildCache(Result):
    """Steps of four builds: two orders of the same Dockerfile, each built twice, with one line changed in between."""

    builds: tuple[BuildRun, ...] = rows("the four builds", of=BuildRun)

    def of(self, order: str, when: str) -> BuildRun:
        """The build with that order at that time."""
        return next(build for build in self.builds if (build.order, build.when) == (order, when))

    @property
    def saved_s(self) -> float:
        """Time that the order with dependencies first saves when one line has changed, in seconds."""
        slow, fast = (self.of(order, LINE_CHANGED) for order in (SOURCE_FIRST, DEPENDENCIES_FIRST))
        return slow.duration_s - fast.duration_s

    def frame(self) -> pd.DataFrame:
        """One row for each build and step: order, when, instruction, cached, duration_s."""
        rows = [
            (build.order, build.when, step.instruction, step.cached, step.duration_s)
            for build in self.builds
            for step in build.steps
        ]
        return table(rows, ["order", "when", "instruction", "cached", "duration_s"])


DEPENDENCIES_FIRST, SOURCE_FIRST = "dependencies first", "source first"
FIRST_BUILD, LINE_CHANGED = "first build", "one line changed"


@experiment
def build_cache(lab: Lab) -> BuildCache:
    """Build a Dockerfile in two orders, change one line of the source code, and build both again.

    The first builds get nothing from the cache, because a file that they copy is new in each call. The steps are those
    that the engine's classic builder reports; BuildKit has the same cache rules (Docker docs, "Build cache
    invalidation").

    Raises:
        BuildFailed: a step failed.
    """
    base, salt = lab.image("tools"), str(time.time_ns())
    orders = {DEPENDENCIES_FIRST: recipes.DEPENDENCIES_FIRST, SOURCE_FIRST: recipes.SOURCE_FIRST}
    builds = []
    with lab.quiet(["docker build"]):
        for order, (version, when) in product(orders, enumerate((FIRST_BUILD, LINE_CHANGED), 1)):
            parser = _BuildOutputParser()
            files = {
                "deps_txt": recipes.DEPS.format(salt=salt),
                "main_py": recipes.SOURCE.format(version=version),
            }
            tag = unique_name(lab, f"{order.split()[0]}:{version}")
            build(lab, orders[order].with_files(**files), tag, parser.feed, BASE=base)
            builds.append(BuildRun(order, when, parser.steps()))
    return BuildCache(tuple(builds))


class _BuildOutputParser:
    """Parses the steps from the output of the classic builder: `Step 2/7 : COPY …` and ` ---> Using cache`."""

    def __init__(self) -> None:
        self._started: list[tuple[str, float]] = []
        self._cached: set[int] = set()

    def feed(self, message: Mapping[str, Any]) -> None:
        """Parse one message of the build (Engine API, POST /build)."""
        text = str(message.get("stream", ""))
        if step := re.match(r"Step \d+/\d+ : (.*)", text):
            self._started.append((step[1].strip(), time.monotonic()))
        elif "Using cache" in text and self._started:
            self._cached.add(len(self._started) - 1)

    def steps(self) -> tuple[Step, ...]:
        """The steps so far; the last one ends now."""
        ends = [at for _, at in self._started[1:]] + [time.monotonic()]
        steps = (
            Step(instruction, number in self._cached, end - at)
            for number, ((instruction, at), end) in enumerate(zip(self._started, ends, strict=True))
        )
        # the lab adds its labels as a last step that is not in the Dockerfile
        return tuple(step for step in steps if not step.instruction.startswith("LABEL labhelpers"))


# --- stages


@record
class Built:
    """An image that contains the page."""

    name: str = column("`one stage` or `two stages`")
    bytes: int = column("size of the image as the engine reports it")
    layers: int = column("number of layers")
    page: str = column("the page that the build generated", shown=False)
    has_python: bool = column("whether the image still contains Python, which generated the page")


@record
class Stages(Result):
    """Image with the same page, from a single-stage and from a multi-stage build."""

    images: tuple[Built, Built] = rows("the two images", of=Built)

    @property
    def single_stage(self) -> Built:
        """The image of the single-stage build."""
        return self.images[0]

    @property
    def multi_stage(self) -> Built:
        """The image of the multi-stage build."""
        return self.images[1]

    @property
    def ratio(self) -> float:
        """Size of the single-stage image divided by that of the multi-stage image."""
        return self.single_stage.bytes / self.multi_stage.bytes


@experiment
def stages(lab: Lab) -> Stages:
    """Generate a page with Python: in a single stage, and in a separate stage that the image does not include.

    Raises:
        BuildFailed: a step failed.
    """
    tools, small = lab.image("tools"), lab.image("payload")
    with lab.quiet(["docker build"]):
        single = build(lab, recipes.ONE_STAGE, unique_name(lab, "page:one"), BASE=tools)
        multi = build(lab, recipes.MULTI_STAGE, unique_name(lab, "page:two"), BASE=tools, SMALL=small)
        return Stages((_built(lab, "one stage", single), _built(lab, "two stages", multi)))


def _built(lab: Lab, name: str, ref: str) -> Built:
    image = lab.inspect_image(ref)
    page, python = files_of(lab, ref, ("/www/index.html", "/usr/bin/python3"))
    assert page is not None  # both Dockerfiles create it
    return Built(name, int(image["Size"]), len(image["RootFS"]["Layers"]), page, python is not None)


def files_of(lab: Lab, ref: str, paths: tuple[str, ...]) -> list[str | None]:
    """The first `MAX_TEXT_BYTES` of files of an image, as text; None for each that does not exist.

    The image must contain `true`.
    """
    with lab.running(ref, network="none", entrypoint="true") as container:
        return [_text_of(lab, str(container.id), path) for path in paths]


def _text_of(lab: Lab, container: str, path: str) -> str | None:
    try:
        chunks, _ = lab.client.api.get_archive(container, path)
    except NotFound:
        return None
    flow = BufferedSource(Chunks(chunks), path)
    first = next(members(flow))
    return flow.take(min(first.stored_bytes, MAX_TEXT_BYTES)).decode(errors="replace")
