"""One build or pull of an image on the engine: its progress, and why it failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docker.errors import APIError

from labhelpers.engine import registries
from labhelpers.engine.find import Engine
from labhelpers.engine.registries import PullFailure
from labhelpers.errors import DISK_FULL, BuildFailed

Echo = Callable[[str], object]

PROGRESS_INTERVAL_S = 10.0
LAST_LINES = 8
# The classic builder holds its layers by leases of containerd; one is lost now and then while other builds and
# removals are going on (seen with Engine 28 and the containerd image store).
_LOST_LEASE = "lease does not exist"
# the steps of a build that may take long
_LAYER_STEP = re.compile(r"Step \d+/\d+ : (RUN|COPY)")


def build(engine: Engine, context: Path, ref: str, base: str, labels: Mapping[str, str], echo: Echo) -> None:
    """Build the lab image whose folder is `context` on the image `base`, and tag it `ref`.

    Raises:
        BuildFailed: a step of its Dockerfile failed.
        requests.RequestException: the connection to the engine was lost.
    """
    output: list[str] = []
    show = _progress(f"image {context.name}", echo)
    try:
        for step in build_steps(
            engine.client.api.build, path=str(context), tag=ref, buildargs={"BASE": base}, labels=dict(labels)
        ):
            if "error" in step:
                raise _build_error(context.name, output, step["error"])
            for line in step.get("stream", "").splitlines():
                output.append(line)
                show(line, bool(_LAYER_STEP.match(line)))
    except APIError as error:
        raise _build_error(context.name, output, str(error.explanation)) from None


def build_steps(build: Callable[..., Iterator[dict[str, Any]]], **options: Any) -> Iterator[dict[str, Any]]:
    """The steps of a build as the engine reports them, with its error as the last one.

    Args:
        build: `APIClient.build` of the SDK.
    """
    for attempt in (1, 2):
        for step in build(**options, rm=True, forcerm=True, decode=True):
            if attempt == 1 and _LOST_LEASE in str(step.get("error")):
                break  # the cache has the steps that were finished
            yield step
        else:
            return


def _progress(title: str, echo: Echo) -> Callable[[str, bool], None]:
    """Report important lines at once, and of the others one every `PROGRESS_INTERVAL_S`."""
    last = time.monotonic()

    def show(line: str, important: bool) -> None:
        nonlocal last
        if important or (line.strip() and time.monotonic() - last > PROGRESS_INTERVAL_S):
            last = time.monotonic()
            echo(f"{title}: {line.strip()[:90]}")

    return show


def _build_error(name: str, output: list[str], message: str) -> BuildFailed:
    return BuildFailed(
        f"the lab image {name!r} could not be built; partial results were removed",
        hint=_next_step("\n".join([*output[-40:], message])),
        engine_message="\n".join([*[line for line in output if line.strip()][-LAST_LINES:], message]),
    )


def _next_step(message: str) -> str:
    if "no space left" in message.lower():
        return DISK_FULL
    if any(
        symptom in message
        for symptom in ("Temporary failure", "Could not resolve", "Failed to fetch", "Unable to")
    ):
        return "a download failed: check the engine's network and package mirror, then try again"
    return (
        "the last lines show the failed step; try again, and if it fails again, please report it with "
        "those lines"
    )


def pull(engine: Engine, ref: str, on_progress: Callable[[Mapping[str, Any]], object]) -> PullFailure | None:
    """Pull `ref`; the failure, or None on success."""
    repository, tag = registries.split(ref)
    try:
        for step in engine.client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in step:
                return registries.explain_failure(ref, str(step["error"]))
            on_progress(step)
    except APIError as error:
        return registries.pull_error(error, ref)
    return None


def pull_progress(title: str, echo: Echo) -> Callable[[Mapping[str, Any]], None]:
    """A callback for `pull` that reports the number of complete layers."""
    layers: set[str] = set()
    complete: set[str] = set()
    show = _progress(title, echo)

    def on_progress(step: Mapping[str, Any]) -> None:
        layer, status = step.get("id", ""), step.get("status", "")
        if status in ("Pulling fs layer", "Already exists"):
            layers.add(layer)
        if status in ("Pull complete", "Already exists"):
            complete.add(layer)
        show(f"{len(complete)} of {len(layers)} layers", False)

    return on_progress
