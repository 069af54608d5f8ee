"""The timeline of a container: what the engine reports (`docker events`) and what the container prints (`docker logs`).

Both have the time of the engine's clock: events in nanoseconds, log lines in RFC 3339 format (docs.docker.com,
"docker container logs", --timestamps; Engine API, GET /events).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError, NotFound

from labhelpers.course.arguments import experiment
from labhelpers.errors import ContainerMissing, TimedOut
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# event → state of the container after it
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
    """An event or a log line of a container."""

    at_s: float = column("time since the first event, on the engine's clock")
    kind: str = column("`event` from the engine, or `log` from the container")
    text: str = column("the event with its exit code or signal, or the log line")


@record
class Timeline(Result):
    """The events and log lines of a container, in order of time."""

    entries: tuple[TimelineEntry, ...] = rows("in order of time", of=TimelineEntry)
    states: tuple[tuple[str, float, float], ...] = column(
        "(state, start in seconds, end in seconds): created, running, paused, down", shown=False
    )
    follow_calls: int = column("calls of `docker logs -f` until every run was followed")
    log_lines: tuple[str, ...] = column("the lines of `docker logs` at the end, from every run", shown=False)

    @property
    def events(self) -> tuple[TimelineEntry, ...]:
        """The engine's events."""
        return tuple(entry for entry in self.entries if entry.kind == "event")

    @property
    def lines(self) -> tuple[TimelineEntry, ...]:
        """The container's log lines, as `docker logs -f` showed them."""
        return tuple(entry for entry in self.entries if entry.kind == "log")


@experiment
def timeline(lab: Lab) -> Timeline:
    """Run a container three times, and record the engine's events and the container's log.

    Its program fails and the engine restarts it; it is paused, unpaused, stopped, started, killed and removed.

    Raises:
        TimedOut: an event or a log line did not arrive.
    """
    name = f"story-{lab.session}"
    recorder = _Recorder(lab, name)
    with lab.quiet(essential=["docker pause", "docker stop", "docker kill"]):
        try:
            log = _run(lab, name, recorder)
        finally:
            recorder.close()
            with suppress(ContainerMissing):  # removed already, if everything worked
                lab.remove(name, force=True)
    return _timeline(recorder, log)


def _run(lab: Lab, name: str, recorder: _Recorder) -> list[str]:
    """Take the container through its states; the lines of its complete log."""
    program = Path(__file__).with_name("inside").joinpath("story.sh").read_text(encoding="utf-8")
    options: dict[str, Any] = {"network": "none", "cap_drop": ["ALL"], "restart": "on-failure"}
    container = lab.run(lab.image("payload"), ["sh", "-c", program], name=name, **options)
    recorder.wait(lambda: recorder.count("log", "run 2 works") > 0)
    lab.pause(container)
    time.sleep(0.6)
    lab.unpause(container)
    time.sleep(0.3)
    recorder.wait(lambda: recorder.last() == "log")
    lab.stop(container, timeout_s=10)
    lab.start(container)
    recorder.wait(lambda: recorder.count("log", "run 3, line 2") > 0)
    lab.kill(container)
    recorder.wait(lambda: recorder.count("event", "die") == 3)
    log = lab.logs(container, timestamps=True).splitlines()
    lab.remove(container)
    recorder.wait(lambda: recorder.count("event", "destroy") > 0)
    return log


class _Recorder:
    """Records the events and log lines of one container until it is closed."""

    def __init__(self, lab: Lab, name: str) -> None:
        api: Any = lab.client.api
        self._api = api
        self._name = name
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self.entries: list[tuple[int, str, str]] = []  # (time in ns, kind, text)
        self.follow_calls = 0
        since = datetime.fromisoformat(lab.engine_time()).timestamp()
        self._stream: Any = api.events(since=f"{since:.6f}", filters={"container": [name]}, decode=True)
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read_events, self._read_logs)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError, ValueError, AttributeError):
            self._stream.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def count(self, kind: str, prefix: str) -> int:
        return sum(each == kind and text.startswith(prefix) for _, each, text in self.entries)

    def last(self) -> str:
        return max(self.entries)[1]

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout=TIMEOUT_S):
                raise TimedOut(
                    f"timed out after {TIMEOUT_S:g} s waiting for the next event or log line of the container",
                    hint="the machine may be very busy: run the cell again",
                )

    def _record(self, at_ns: int, kind: str, text: str) -> None:
        with self._changed:
            self.entries.append((at_ns, kind, text))
            self._changed.notify_all()

    def _read_events(self) -> None:
        # close() ends the stream, for which the SDK raises one of several errors
        with suppress(requests.RequestException, OSError, ValueError, AttributeError):
            for event in self._stream:
                if event["Type"] == "container" and event["Action"].partition(":")[0] not in IGNORED_EVENTS:
                    self._record(event["timeNano"], "event", _event_text(event))

    def _read_logs(self) -> None:
        """Like `docker logs -f --timestamps`, which ends with each run of the container, so it is called again."""
        last, starts = 0, 0
        while not self._closed.is_set():
            if self.count("event", "start") <= starts:
                with self._changed:
                    self._changed.wait(timeout=0.2)
                continue
            starts = self.count("event", "start")
            with suppress(NotFound, APIError, requests.RequestException):
                stream = self._api.logs(self._name, stream=True, follow=True, timestamps=True)
                before = last
                for line in _lines(stream):
                    at_ns, text = _parse_line(line)
                    if at_ns > last:
                        last = at_ns
                        self._record(at_ns, "log", text)
                self.follow_calls += last > before


def _lines(stream: Any) -> Iterator[str]:
    rest = b""
    for chunk in stream:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in complete)


def _parse_line(line: str) -> tuple[int, str]:
    """A log line's timestamp, in nanoseconds since 1970, and its text."""
    timestamp, _, text = line.partition(" ")
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    whole_s = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
    return whole_s * 10**9 + int(fraction.ljust(9, "0")[:9] or 0), text


def _event_text(event: Mapping[str, Any]) -> str:
    attributes = event["Actor"]["Attributes"]
    if event["Action"] == "die":
        return f"die, exit code {attributes['exitCode']}"
    return f"kill, signal {attributes['signal']}" if event["Action"] == "kill" else str(event["Action"])


def _timeline(recorder: _Recorder, log: Sequence[str]) -> Timeline:
    recorded = sorted(recorder.entries)
    first_ns = recorded[0][0]
    entries = tuple(TimelineEntry((at_ns - first_ns) / 1e9, kind, text) for at_ns, kind, text in recorded)
    changes = [
        (STATE_AFTER[action], entry.at_s)
        for entry in entries
        if entry.kind == "event" and (action := entry.text.partition(",")[0]) in STATE_AFTER
    ]
    states = [(state, at_s, changes[number + 1][1]) for number, (state, at_s) in enumerate(changes[:-1])]
    lines = tuple(_parse_line(line)[1] for line in log)
    return Timeline(entries, tuple(states), recorder.follow_calls, lines)
