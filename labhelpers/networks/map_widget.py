"""A map that is drawn again as containers come and go: shows `networks.network_map`, and computes nothing."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labhelpers.errors import LabError, TimedOut
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.networks.maps import NetworkMap

PAUSE_S, POLL_S = 0.5, 10.0
EVENT_TYPES = ("container", "network")


class LiveMap:
    """A drawing in the page that follows the engine. `stop()`, the end of the lab or of the kernel ends it.

    Attributes:
        drawn: how often it was drawn so far.
        last: the map that is drawn now, None before the first.
    """

    def __init__(self, lab: Lab, look: Callable[[], NetworkMap]) -> None:
        self._lab, self._look = lab, look
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._image: Any = None
        self.drawn = 0
        self.last: NetworkMap | None = None
        self._unsubscribe = lab.events.subscribe(self._heard)
        self._thread = threading.Thread(target=self._run, name="live map", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Draw no more. A second call does nothing."""
        self._stopped.set()
        self._wake.set()
        self._unsubscribe()

    def shows(self, container: str, within_s: float = 90.0) -> bool:
        """Whether a container is on the map, once it is; False if it is not within that time."""

        def is_shown() -> bool:
            return self.last is not None and container in {node.name for node in self.last.nodes}

        try:
            return self._lab.wait_for(f"{container} on the map", is_shown, within_s, every_s=0.1)
        except TimedOut:
            return False

    def _heard(self, event: dict[str, Any]) -> None:
        # an exec, of this lab's own looks among them, changes nothing on the map
        if event.get("Type") in EVENT_TYPES and not str(event.get("Action", "")).startswith("exec_"):
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set() and sessions.is_alive(self._lab.session):
            self._wake.clear()
            try:
                seen = self._look()
            except LabError:
                seen = None  # the engine is away, or what was to be shown is: look again later
            if (
                seen is not None
                and not self._stopped.is_set()
                and _visible_state(seen) != _visible_state(self.last)
            ):
                self.last = seen
                self.drawn += 1
                if self._image is not None:
                    self._image.value = render_png(seen)
            self._wake.wait(POLL_S)
            self._stopped.wait(PAUSE_S)  # one `docker run` makes several events; one look is enough
        self._unsubscribe()

    def __repr__(self) -> str:
        return "The map of the networks, drawn anew as containers come and go (in a live page)."

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

        from labhelpers.results import with_text_fallback

        if self._image is None:
            layout = widgets.Layout(max_width="100%")
            seen = self.last
            self._image = widgets.Image(format="png", value=render_png(seen) if seen else b"", layout=layout)
        return with_text_fallback(self._image, repr(self))


def _visible_state(seen: NetworkMap | None) -> object:
    """What of a map can be seen in its drawing: counters of packets cannot."""
    return None if seen is None else (seen.nodes, seen.ends, seen.bridges, seen.published)


def render_png(seen: NetworkMap) -> bytes:
    """A map as PNG, drawn without pyplot, which is for one thread alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    seen.plot(figure.add_subplot())
    made = io.BytesIO()
    figure.savefig(made, format="png")
    return made.getvalue()
