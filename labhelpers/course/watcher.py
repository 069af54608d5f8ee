"""A background thread that checks an exercise whenever something changes on the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from labhelpers.course.verdicts import Verdict
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from labhelpers.course.exercises import Exercise

POLL_S = 5.0
DEBOUNCE_S = 0.3


class Watcher:
    """Checks an exercise until it passes, the lab closes, or `stop` is called.

    A cell that is run again creates its exercise again: the newer watcher stops the older one.
    """

    _latest: ClassVar[dict[tuple[str, str, str], Watcher]] = {}

    def __init__(self, exercise: Exercise, callback: Callable[[Verdict], object]) -> None:
        key = (exercise.lab.session, exercise.chapter, exercise.slug)
        if key in self._latest:
            self._latest[key].stop()
        self._latest[key] = self
        self._exercise, self._callback = exercise, callback
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._unsubscribe = exercise.lab.events.subscribe(lambda _event: self._wake.set())
        threading.Thread(target=self._run, name=f"watch {exercise.slug}", daemon=True).start()

    def stop(self) -> None:
        """End the thread; it may be called twice."""
        self._stopped.set()
        self._wake.set()
        self._unsubscribe()

    def _run(self) -> None:
        last: Verdict | None = None
        pause_s = DEBOUNCE_S
        try:
            while not self._stopped.is_set() and sessions.is_alive(self._exercise.lab.session):
                self._wake.clear()
                verdict = self._check()
                # a check may cause events itself (an exec, a helper container): if nothing has changed, the next
                # check waits longer, so that no event is lost and the checks do not trigger one another
                pause_s = min(2 * pause_s, POLL_S) if verdict == last else DEBOUNCE_S
                if verdict != last and not self._stopped.is_set():
                    self._callback(verdict)
                last = verdict
                if verdict.passed:
                    return
                if self._wake.wait(POLL_S):
                    self._stopped.wait(pause_s)  # one `docker run` causes five events; one check is enough
                else:
                    pause_s = DEBOUNCE_S
        finally:
            self._unsubscribe()

    def _check(self) -> Verdict:
        try:
            return self._exercise.check()
        except Exception as error:  # a bug in a check must not leave the panel waiting for ever
            message = f"the check itself failed: {type(error).__name__}: {error}"
            return Verdict(self._exercise.title, (), message)
