"""One container's life on one axis: what the engine notes (`docker events`) and what it says itself (`docker logs`).

Both carry the time of the engine's clock: an event in nanoseconds, a log line in the form of RFC 3339 (docs.docker.com,
"docker container logs", --timestamps; Engine API, GET /events).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError, NotFound

from labhelpers.errors import ContainerMissing, TimedOut
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

# what the state of a container becomes with an event
STATE_AFTER = {
    "create": "created",
    "start": "running",
    "pause": "paused",
    "unpause": "running",
    "die": "down",
    "destroy": "gone",
}
IGNORED_EVENTS = ("attach", "exec_create", "exec_start", "exec_die", "resize")
TIMEOUT_S = 120.0


@record
class TimelineEntry(Result):
    """Something that happened."""

    at_s: float = column("since the first event, on the engine's clock")
    kind: str = column("`event` (the engine noted it) or `log` (the container said it)")
    words: str = column("the event with what belongs to it (`die, exit code 1`), or the line")


@record
class Timeline(Result):
    """A container's life."""

    moments: tuple[TimelineEntry, ...] = rows("in the order of time", of=TimelineEntry)
    states: tuple[tuple[str, float, float], ...] = column(
        "(state, from second, to second), one after the other: created, running, paused, down", shown=False
    )
    follows: int = column("how many calls of `docker logs -f` it took to hear all lives")
    said: tuple[str, ...] = column(
        "the lines that `docker logs` had at the end, all of the container's lives"
    )

    @property
    def events(self) -> tuple[TimelineEntry, ...]:
        """What the engine noted."""
        return tuple(one for one in self.moments if one.kind == "event")

    @property
    def lines(self) -> tuple[TimelineEntry, ...]:
        """What the container said, as it was followed."""
        return tuple(one for one in self.moments if one.kind == "log")

    def within(self, state: str) -> tuple[TimelineEntry, ...]:
        """The lines that were said in a state."""
        spells = [(begin, end) for name, begin, end in self.states if name == state]
        return tuple(one for one in self.lines if any(begin < one.at_s < end for begin, end in spells))

    def frame(self) -> pd.DataFrame:
        """One row a moment: at_s, docker events, docker logs."""
        rows = [
            (round(one.at_s, 3), *((one.words, "") if one.kind == "event" else ("", one.words)))
            for one in self.moments
        ]
        return table(rows, ["at_s", "docker events", "docker logs"])


def timeline(lab: Lab) -> Timeline:
    """Let a container live three lives, and listen to the engine and to the container meanwhile.

    It fails and is started again by its policy; it is paused, goes on, is stopped, started, killed, and removed.

    Raises:
        TimedOut: an event or a line of it did not come.
    """
    name = f"story-{lab.session}"
    image = lab.image("payload")
    ears = _Recorder(lab, name)
    with lab.quiet(essential=["docker pause", "docker stop", "docker kill"]):
        try:
            logged = _live(lab, name, image, ears)
        finally:
            ears.close()
            with suppress(ContainerMissing):  # it has lived to its end
                lab.remove(name, force=True)
    return _joined(ears, logged)


def _live(lab: Lab, name: str, image: str, ears: _Recorder) -> list[str]:
    """Let the container live its lives; give the lines of its whole log."""
    story = Path(__file__).with_name("inside").joinpath("story.sh").read_text(encoding="utf-8")
    options: dict[str, Any] = {"network": "none", "cap_drop": ["ALL"], "restart": "on-failure"}
    container = lab.run(image, ["sh", "-c", story], name=name, **options)
    ears.wait(lambda: ears.count("log", "life 2 works") > 0)
    lab.pause(container)
    time.sleep(0.6)
    lab.unpause(container)
    time.sleep(0.3)
    ears.wait(lambda: ears.last() == "log")
    lab.stop(container, timeout_s=10)
    lab.start(container)
    ears.wait(lambda: ears.count("log", "life 3, line 2") > 0)
    lab.kill(container)
    ears.wait(lambda: ears.count("event", "die") == 3)
    logged = lab.logs(container, timestamps=True).splitlines()
    lab.remove(container)
    ears.wait(lambda: ears.count("event", "destroy") > 0)
    return logged


class _Recorder:
    """Listens to the engine and to one container, until it is closed."""

    def __init__(self, lab: Lab, name: str) -> None:
        api: Any = lab.client.api
        self._api = api
        self._name = name
        self._closed = threading.Event()
        self._news = threading.Condition()
        self.heard: list[tuple[int, str, str]] = []  # (time in ns, kind, words)
        self.follows = 0
        since = datetime.fromisoformat(lab.engine_time()).timestamp()
        self._stream: Any = api.events(since=f"{since:.6f}", filters={"container": [name]}, decode=True)
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._events, self._logs)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError, ValueError, AttributeError):
            self._stream.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def count(self, kind: str, begin: str) -> int:
        return sum(k == kind and words.startswith(begin) for _, k, words in self.heard)

    def last(self) -> str:
        return max(self.heard)[1]

    def wait(self, happened: Callable[[], bool]) -> None:
        with self._news:
            if not self._news.wait_for(happened, timeout=TIMEOUT_S):
                raise TimedOut(
                    f"timed out after {TIMEOUT_S:g} s waiting for the next event or line of the container",
                    hint="the machine may be very busy: run the cell again",
                )

    def _hear(self, at_ns: int, kind: str, words: str) -> None:
        with self._news:
            self.heard.append((at_ns, kind, words))
            self._news.notify_all()

    def _events(self) -> None:
        # close() hangs up under it: the SDK has no one error for that
        with suppress(requests.RequestException, OSError, ValueError, AttributeError):
            for event in self._stream:
                if event["Type"] == "container" and event["Action"].partition(":")[0] not in IGNORED_EVENTS:
                    self._hear(event["timeNano"], "event", _words(event))

    def _logs(self) -> None:
        """As `docker logs -f --timestamps`: it ends when the container does, so it is called again."""
        last, starts = 0, 0
        while not self._closed.is_set():
            if self.count("event", "start") <= starts:
                with self._news:
                    self._news.wait(timeout=0.2)
                continue
            starts = self.count("event", "start")
            with suppress(NotFound, APIError, requests.RequestException):
                stream = self._api.logs(self._name, stream=True, follow=True, timestamps=True)
                before = last
                for line in _lines(stream):
                    at_ns, words = _stamped(line)
                    if at_ns > last:
                        last = at_ns
                        self._hear(at_ns, "log", words)
                self.follows += last > before


def _lines(stream: Any) -> Any:
    text = b""
    for part in stream:
        *whole, text = (text + part).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)


def _stamped(line: str) -> tuple[int, str]:
    """When a line was said, in nanoseconds since 1970, and the line."""
    stamp, _, words = line.partition(" ")
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
    return whole * 10**9 + int(fraction.ljust(9, "0")[:9] or 0), words


def _words(event: Mapping[str, Any]) -> str:
    about = event["Actor"]["Attributes"]
    if event["Action"] == "die":
        return f"die, exit code {about['exitCode']}"
    return f"kill, signal {about['signal']}" if event["Action"] == "kill" else str(event["Action"])


def _joined(ears: _Recorder, logged: list[str]) -> Timeline:
    heard = sorted(ears.heard)
    begin = heard[0][0]
    moments = tuple(TimelineEntry((at - begin) / 1e9, kind, words) for at, kind, words in heard)
    changes = [
        (STATE_AFTER[one.words.partition(",")[0]], one.at_s)
        for one in moments
        if one.kind == "event" and one.words.partition(",")[0] in STATE_AFTER
    ]
    states = [(state, at, changes[n + 1][1]) for n, (state, at) in enumerate(changes[:-1])]
    return Timeline(moments, tuple(states), ears.follows, tuple(_stamped(line)[1] for line in logged))
