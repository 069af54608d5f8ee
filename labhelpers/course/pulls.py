"""A `docker pull`, timed layer by layer from the progress that the engine reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from labhelpers.results import column, derived, record

ALREADY_EXISTS, PULL_COMPLETE = "Already exists", "Pull complete"

PhaseName = Literal["waiting", "download", "verification", "queued", "extraction"]
# status of a layer → the phase that it starts (moby, distribution/xfer and image/pull progress)
_PHASE_STARTS: Mapping[str, PhaseName] = {
    "Pulling fs layer": "waiting",
    "Waiting": "waiting",
    "Downloading": "download",
    "Verifying Checksum": "verification",
    "Download complete": "queued",
    "Extracting": "extraction",
}


@record
class Phase:
    """One phase in the pull of a layer."""

    name: PhaseName = column("activity; `queued` waits for the extraction of the layer below")
    start_ms: float = column("start, counted from the start of the pull")
    end_ms: float = column("end, counted from the start of the pull")


@record
class PulledLayer:
    """One layer of a pull."""

    id: str = column("first twelve digits of the digest, as docker shows it")
    status: str = column("last status that the engine reported")
    bytes: int = column("compressed size, 0 if the engine did not report it")
    done_bytes: int = column("compressed bytes downloaded or extracted so far")
    phases: tuple[Phase, ...] = column(
        "phases without gaps, none for a layer that already existed", shown=False
    )

    @derived
    def already_exists(self) -> bool:
        """Whether the engine had the layer before the pull."""
        return self.status == ALREADY_EXISTS

    @derived
    def start_ms(self) -> float | None:
        """First status of the layer, counted from the start of the pull."""
        return self.phases[0].start_ms if self.phases else None

    @derived
    def downloaded_ms(self) -> float | None:
        """End of the download, counted from the start of the pull."""
        local = (phase.start_ms for phase in self.phases if phase.name in ("queued", "extraction"))
        return next(local, self.end_ms)

    @derived
    def end_ms(self) -> float | None:
        """End of the extraction, counted from the start of the pull."""
        return self.phases[-1].end_ms if self.phases else None


class PullTracker:
    """Collects the progress messages of a pull (Engine API, POST /images/create). The pull starts now."""

    def __init__(self) -> None:
        self._start_s, self._total_ms = time.monotonic(), 0.0
        self._marks: dict[str, list[tuple[str, float]]] = {}
        self._progress: dict[str, tuple[int, int]] = {}

    @property
    def total_ms(self) -> float:
        """Duration of the pull, so far or in total."""
        return self._total_ms or (time.monotonic() - self._start_s) * 1000

    def update(self, message: Mapping[str, Any]) -> bool:
        """Record one message; whether it is about a layer, not about the image as a whole."""
        layer, status = str(message.get("id", "")), str(message.get("status", ""))
        if status not in (*_PHASE_STARTS, ALREADY_EXISTS, PULL_COMPLETE):
            return False
        marks = self._marks.setdefault(layer, [])
        if not marks or marks[-1][0] != status:
            marks.append((status, self.total_ms))
        detail = message.get("progressDetail") or {}
        # during an extraction, containerd reports elapsed seconds in these fields
        if detail.get("total") and detail.get("units") != "s":
            self._progress[layer] = (int(detail.get("current") or 0), int(detail["total"]))
        return True

    def stop(self) -> None:
        """The pull ends now."""
        self._total_ms = self.total_ms

    def layers(self, ids: Sequence[str] = ()) -> tuple[PulledLayer, ...]:
        """The layers in the order in which the engine reported them.

        Args:
            ids: all layers of the image from the lowest to the highest. They set the order, and those that the engine
                did not report are added: the containerd image store reports only the layers that it downloads.
        """
        unreported = max(len(ids) - len(self._marks), 0)
        existing = [id for id in ids if id not in self._marks][:unreported]
        marks = {id: [(ALREADY_EXISTS, 0.0)] for id in existing} | self._marks
        position = {id: number for number, id in enumerate(ids)}
        return tuple(
            self._layer(id, marks[id]) for id in sorted(marks, key=lambda id: position.get(id, len(ids)))
        )

    def _layer(self, id: str, marks: Sequence[tuple[str, float]]) -> PulledLayer:
        current, total = self._progress.get(id, (0, 0))
        last = marks[-1][0]
        ends = [*marks[1:], (last, self.total_ms)]
        phases: list[Phase] = []
        for (status, at), (_, end) in zip(marks, ends, strict=True):
            if name := _PHASE_STARTS.get(status):
                same = phases and phases[-1].name == name
                phases.append(Phase(name, phases.pop().start_ms if same else at, end))
        return PulledLayer(id, last, total, total if last == PULL_COMPLETE else current, tuple(phases))
