"""The widget of the live map: it displays maps of `labhelpers.networks.maps` and computes nothing."""

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
    """A picture on the page that follows the engine. `stop()`, or the end of the lab or the kernel, ends it.

    Attributes:
        drawings: number of maps drawn.
        last: the current map, None before the first.
    """

    def __init__(self, lab: Lab, take: Callable[[], NetworkMap]) -> None:
        from labhelpers.drawing.style import use_style

        use_style()  # here, since the thread that draws must not use pyplot
        self._lab, self._take = lab, take
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._image: Any = None
        self.drawings = 0
        self.last: NetworkMap | None = None
        self._unsubscribe = lab.events.subscribe(self._on_event)
        self._thread = threading.Thread(target=self._run, name="live map", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop drawing. A second call does nothing."""
        self._stopped.set()
        self._wake.set()
        self._unsubscribe()

    def shows(self, container: str, within_s: float = 90.0) -> bool:
        """Wait until a container is on the map; False if it is not within that time."""

        def is_shown() -> bool:
            return self.last is not None and container in {each.name for each in self.last.containers}

        try:
            return self._lab.wait_for(f"{container} on the map", is_shown, within_s, every_s=0.1)
        except TimedOut:
            return False

    def _on_event(self, event: dict[str, Any]) -> None:
        # an exec does not change the map; the lab's own readings are execs
        if event.get("Type") in EVENT_TYPES and not str(event.get("Action", "")).startswith("exec_"):
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set() and sessions.is_alive(self._lab.session):
            self._wake.clear()
            try:
                current = self._take()
            except LabError:
                current = None  # the engine or a container is unavailable: try again later
            if (
                current is not None
                and not self._stopped.is_set()
                and _visible_state(current) != _visible_state(self.last)
            ):
                self.last = current
                self.drawings += 1
                if self._image is not None:
                    self._image.value = render_png(current)
            self._wake.wait(POLL_S)
            self._stopped.wait(PAUSE_S)  # one `docker run` causes several events
        self._unsubscribe()

    def __repr__(self) -> str:
        return "The live map of the networks: in a running notebook, it is redrawn when containers start or stop."

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

        from labhelpers.results import with_text_fallback

        if self._image is None:
            layout = widgets.Layout(max_width="100%")
            value = render_png(self.last) if self.last else b""
            self._image = widgets.Image(format="png", value=value, layout=layout)
        return with_text_fallback(self._image, repr(self))


def _visible_state(current: NetworkMap | None) -> object:
    """What the drawing of a map shows; packet counters are not part of it."""
    if current is None:
        return None
    return current.containers, current.endpoints, current.bridges, current.published


def render_png(network_map: NetworkMap) -> bytes:
    """A map as PNG, drawn without pyplot, which is not thread-safe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    network_map.plot(figure.add_subplot())
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
