"""A database becomes ready: what its log, the engine's health check and a client say, on one clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER
from labhelpers.errors import EngineRefused, LabError, NotRunning, ServerRefused, TimedOut
from labhelpers.lab.base import name_of
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

INITIALIZES_FILES, STARTS_TEMPORARY, STOPS_TEMPORARY, INITIALIZED, READY = (
    "makes the data directory",
    "starts a temporary server",
    "stops the temporary server",
    "all is made",
    "the server is ready for connections",
)
# words that the official image's entrypoint (docker-library/mysql, docker-entrypoint.sh) and MySQL's own log have used
# since version 5.7; the lab's image uses the same. The temporary server says `port: 0`.
MILESTONES = (
    (INITIALIZES_FILES, re.compile(r"Initializing database files")),
    (STARTS_TEMPORARY, re.compile(r"Starting temporary server")),
    (STOPS_TEMPORARY, re.compile(r"Stopping temporary server")),
    (INITIALIZED, re.compile(r"init process done")),
    (READY, re.compile(r"ready for connections\. .*port: [1-9]")),
)
POLL_S = 0.05
HEALTHY_TIMEOUT_S = 60.0
"""How long a server that takes clients may wait for its health check to pass."""
CHECK = "mysqladmin ping -h 127.0.0.1 --silent"
"""A health check over the network. It passes also where it may not log in: somebody answered (mysqladmin(1))."""
_NOBODY, _CLOSED = "nobody listens", "taken, then closed"
ACCEPTED = "accepted"
# PyMySQL: the errors of MySQL's own client library, "Client Error Message Reference"
_CANNOT_CONNECT = "(2003,"


@record
class Milestone:
    """A line of the log that says how far the start is."""

    at_s: float = column("since the container's first process started, on the engine's clock")
    what: str = column("one of the names in `MILESTONES`")
    line: str = column("what the log says")


@record
class HealthProbe:
    """One run of the health check."""

    start_s: float = column("since the container's first process started, on the engine's clock")
    end_s: float = column("since the container's first process started, on the engine's clock")
    exit_code: int = column("0 is healthy")


@record
class ConnectionAttempt:
    """A client that tried to connect."""

    at_s: float = column("when it was answered, since the container's first process started")
    outcome: str = column(
        "`nobody listens`; `taken, then closed` (something in between takes the connection, with no "
        "server behind it yet); `accepted`"
    )


@record
class Startup(Result):
    """A MySQL server from the start of its container to the first accepted connection, and to `healthy`."""

    name: str = column("of the container")
    milestones: tuple[Milestone, ...] = column("in order", shown=False)
    probes: tuple[HealthProbe, ...] = column("in order", shown=False)
    tries: tuple[ConnectionAttempt, ...] = column("in order", shown=False)
    healthy_s: float | None = column(
        "when a check passed first; None where there is no health check, or none passed within `HEALTHY_TIMEOUT_S`"
    )
    clock_ms: float = column(
        "how well the client's clock and the engine's are compared: half of the shortest question"
    )

    @property
    def accepted_s(self) -> float:
        """When a client got in first."""
        return next(one.at_s for one in self.tries if one.outcome == ACCEPTED)

    def at(self, what: str) -> float:
        """When the log told of a milestone.

        Raises:
            LabError: it did not.
        """
        for one in self.milestones:
            if one.what == what:
                return one.at_s
        raise LabError(
            f"the log of {self.name} does not say that it {what}",
            hint=f"read it: docker logs {self.name}; a data directory that was there before is not made again",
        )

    def frame(self) -> pd.DataFrame:
        """One row a thing that happened, in order of time: time_s, who, what."""
        rows = [(one.at_s, "log", one.what) for one in self.milestones]
        rows += [
            (one.end_s, "health check", "passed" if one.exit_code == 0 else "failed") for one in self.probes
        ]
        rows += [
            (one.at_s, "client", one.outcome)
            for before, one in zip((None, *self.tries), self.tries, strict=False)
            if before is None or before.outcome != one.outcome
        ]
        return table(sorted(rows), ["time_s", "who", "what"])


def watch_startup(
    lab: Lab, container: Container | str, *, password: str, limit_s: float = mysql.READY_TIMEOUT_S
) -> Startup:
    """Look on while a MySQL server that was just started becomes ready for its root.

    Raises:
        NotRunning, TimedOut: the container ended, or was not ready within `limit_s`.
        ServerRefused: the password is wrong.
    """
    name = name_of(container)
    probes: dict[str, Mapping[str, Any]] = {}
    tries: list[tuple[float, str]] = []
    end = time.monotonic() + limit_s
    while True:
        found = lab.inspect(name)
        health = found["State"].get("Health")
        for one in (health or {}).get("Log") or []:
            probes[one["Start"]] = one
        if not tries or tries[-1][1] != ACCEPTED:
            tries.append(_try_connection(lab, name, password))
        elif (
            health is None or health["Status"] == "healthy" or time.time() - tries[-1][0] > HEALTHY_TIMEOUT_S
        ):
            break
        if not found["State"]["Running"] or time.monotonic() > end:
            raise _not_ready(lab, name, found, limit_s)
        time.sleep(POLL_S)
    offset, half = _clock(lab)
    zero = seconds(found["State"]["StartedAt"])
    seen = [
        HealthProbe(seconds(p["Start"]) - zero, seconds(p["End"]) - zero, p["ExitCode"])
        for p in probes.values()
    ]
    seen.sort(key=lambda one: one.start_s)
    return Startup(
        name,
        tuple(milestones(log(lab, name), zero)),
        tuple(seen),
        tuple(ConnectionAttempt(at + offset - zero, outcome) for at, outcome in tries),
        next((one.end_s for one in seen if one.exit_code == 0), None),
        half * 1000,
    )


def log(lab: Lab, name: str) -> list[tuple[float, str]]:
    """The lines of a container's log: (seconds since 1970 on the engine's clock, line)."""
    try:
        text = lab.logs(name, timestamps=True)
    except EngineRefused as error:
        driver = lab.inspect(name)["HostConfig"]["LogConfig"]["Type"]
        raise EngineRefused(
            f"the engine keeps no log of {name!r}: its log driver is {driver!r}",
            hint="remove it, and start it again with a log that can be read: "
            f"docker run --log-driver {DEFAULT_LOG_DRIVER} …",
            engine_message=error.engine_message,
        ) from None
    pairs = (line.partition(" ") for line in text.splitlines())
    return [(seconds(at), line) for at, _, line in pairs if at[:1].isdigit() and "T" in at]


def milestones(lines: Iterable[tuple[float, str]], zero: float) -> list[Milestone]:
    """The lines of a log that tell how far a start is, `zero` being when the container started."""
    found = [
        Milestone(at - zero, what, line)
        for at, line in lines
        for what, pattern in MILESTONES
        if pattern.search(line)
    ]
    return [one for one in found if one.at_s > -1]


def seconds(stamp: str) -> float:
    """A time of the engine (RFC 3339, with nanoseconds) in seconds since 1970."""
    # fromisoformat() takes six digits of a fraction at most
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", stamp)).timestamp()


def _try_connection(lab: Lab, name: str, password: str) -> tuple[float, str]:
    try:
        mysql.connect(lab, name, password=password).close()
        outcome = ACCEPTED
    except ServerRefused:
        raise
    except LabError as error:
        outcome = _NOBODY if str(error.engine_message).startswith(_CANNOT_CONNECT) else _CLOSED
    return time.time(), outcome


def _clock(lab: Lab) -> tuple[float, float]:
    """What to add to this machine's clock for the engine's, and how far off that may be; in seconds."""
    best = (0.0, float("inf"))
    for _ in range(3):
        before = time.time()
        there = seconds(lab.engine_time())
        after = time.time()
        if (after - before) / 2 < best[1]:
            best = (there - (before + after) / 2, (after - before) / 2)
    return best


def _not_ready(lab: Lab, name: str, found: Mapping[str, Any], limit_s: float) -> LabError:
    running = found["State"]["Running"]
    return (TimedOut if running else NotRunning)(
        f"the MySQL server in {name!r} " + (f"is not ready after {limit_s:.0f} s" if running else "ended"),
        hint=f"its last lines, above, show why; for the whole log: docker logs {name}",
        engine_message=lab.last_lines(name),
    )
