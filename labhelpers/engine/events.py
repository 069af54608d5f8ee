"""The engine's event stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from labhelpers.engine.find import Engine

Event = dict[str, Any]
"""One event as in the Engine API (GET /events): Type, Action, Actor, timeNano."""

_RETRY_S = 1.0


class Events:
    """One background thread on the engine's event stream; it survives the engine's restart."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client
        self._callbacks: list[Callable[[Event], object]] = []
        self._closed = threading.Event()
        self._stream: Any = None
        # on the engine's clock, so that no event before the thread connects is missed
        self._last_ns = int(datetime.fromisoformat(self._client.info()["SystemTime"]).timestamp() * 1e9)
        self._thread = threading.Thread(target=self._listen, name="labhelpers-events", daemon=True)
        self._thread.start()

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with every new event, in the background thread; returns a function that unsubscribes it."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def close(self) -> None:
        """End the thread and its connection. A second call does nothing."""
        self._closed.set()
        self._disconnect()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _listen(self) -> None:
        api: Any = self._client.api  # the stubs do not know that `since` may have a fraction
        while not self._closed.is_set():
            try:
                since = f"{self._last_ns // 10**9}.{self._last_ns % 10**9:09d}"
                self._stream = api.events(since=since, decode=True)
                if self._closed.is_set():
                    self._disconnect()
                for event in self._stream:
                    self._deliver(event)
            except Exception as error:
                # the connection was lost, or closed by close(): the SDK raises various exceptions for it
                logging.getLogger(__name__).debug("event stream ended: %s", error)
            self._closed.wait(_RETRY_S)

    def _deliver(self, event: Event) -> None:
        if event.get("timeNano", 0) <= self._last_ns:
            return  # `since` returns the last event again
        self._last_ns = event["timeNano"]
        for callback in [*self._callbacks]:
            try:
                callback(event)
            except Exception:
                # a failing listener must not affect the others
                logging.getLogger(__name__).debug("a listener failed", exc_info=True)

    def _disconnect(self) -> None:
        try:
            if self._stream is not None:
                self._stream.close()
        except Exception as error:
            logging.getLogger(__name__).debug("closing the event stream: %s", error)
