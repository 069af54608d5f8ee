"""When a database becomes ready: its log, the engine's health check and a client, on one clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.responses import seconds
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER
from labhelpers.errors import EngineRefused, ExperimentFailed, LabError, NotRunning, ServerRefused, TimedOut
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
# messages of the official image's entrypoint (docker-library/mysql, docker-entrypoint.sh) and of MySQL's log since
# version 5.7; the lab's image prints the same. The temporary server logs `port: 0`.
MILESTONES = (
    (INITIALIZES_FILES, re.compile(r"Initializing database files")),
    (STARTS_TEMPORARY, re.compile(r"Starting temporary server")),
    (STOPS_TEMPORARY, re.compile(r"Stopping temporary server")),
    (INITIALIZED, re.compile(r"init process done")),
    (READY, re.compile(r"ready for connections\. .*port: [1-9]")),
)
POLL_S = 0.05
HEALTHY_TIMEOUT_S = 60.0
"""How long the health check may take to pass after the first accepted connection."""
CHECK = "mysqladmin ping -h 127.0.0.1 --silent"
"""A health check over the network. It also passes if the login is denied: the server responded (mysqladmin(1))."""
REFUSED, CLOSED, ACCEPTED = "refused", "accepted, then closed", "accepted"
"""The outcomes of an attempt to connect."""
# PyMySQL: the errors of MySQL's own client library, "Client Error Message Reference"
_CANNOT_CONNECT = "(2003,"


@record
class Milestone:
    """A line of the log that marks a step of the start."""

    at_s: float = column("time since the container's first process started, on the engine's clock")
    name: str = column("the step, one of the names in `MILESTONES`")
    line: str = column("line of the log")


@record
class HealthProbe:
    """One run of the health check."""

    start_s: float = column("start of the check, since the container's first process started")
    end_s: float = column("end of the check, since the container's first process started")
    exit_code: int = column("exit code of the check, 0 for healthy")


@record
class ConnectionAttempt:
    """A client's attempt to connect."""

    at_s: float = column("end of the attempt, since the container's first process started")
    outcome: str = column(
        "`refused`, `accepted, then closed` (a proxy accepts the connection while no server listens behind it), "
        "or `accepted`"
    )


@record
class Startup(Result):
    """A MySQL server from the start of its container to the first accepted connection, and to `healthy`."""

    name: str = column("name of the container")
    milestones: tuple[Milestone, ...] = column("steps of the start, in order", shown=False)
    probes: tuple[HealthProbe, ...] = column("runs of the health check, in order", shown=False)
    attempts: tuple[ConnectionAttempt, ...] = column("attempts to connect, in order", shown=False)
    healthy_s: float | None = column(
        "end of the first check that passed, None without a health check or if none passed within "
        "`HEALTHY_TIMEOUT_S`"
    )
    clock_ms: float = column(
        "accuracy of the comparison of the client's clock with the engine's: half of the shortest round trip"
    )

    @property
    def accepted_s(self) -> float:
        """When the first connection was accepted."""
        return next(attempt.at_s for attempt in self.attempts if attempt.outcome == ACCEPTED)

    def at(self, name: str) -> float:
        """When the log reports a step.

        Raises:
            ExperimentFailed: the log does not report it.
        """
        for milestone in self.milestones:
            if milestone.name == name:
                return milestone.at_s
        raise ExperimentFailed(
            f"the log of {self.name} does not report “{name}”",
            hint=f"see the log: docker logs {self.name}; an existing data directory is not initialized again",
        )

    def frame(self) -> pd.DataFrame:
        """One row for each event, in order of time: at_s, source, event. Of equal attempts in a row, only the first."""
        events = [(milestone.at_s, "log", milestone.name) for milestone in self.milestones]
        events += [
            (probe.end_s, "health check", "failed" if probe.exit_code else "passed") for probe in self.probes
        ]
        events += [
            (attempt.at_s, "client", attempt.outcome)
            for before, attempt in zip((None, *self.attempts), self.attempts, strict=False)
            if before is None or before.outcome != attempt.outcome
        ]
        return table(sorted(events), ["at_s", "source", "event"])


@experiment
def watch_startup(
    lab: Lab, container: Container | str, *, password: str, limit_s: float = mysql.READY_TIMEOUT_S
) -> Startup:
    """Watch a MySQL server that was just started until root can log in and its health check has passed.

    Raises:
        NotRunning, TimedOut: the container exited, or was not ready within `limit_s`.
        ServerRefused: the password is wrong.
    """
    name = name_of(container)
    probes: dict[str, Mapping[str, Any]] = {}
    attempts: list[tuple[float, str]] = []
    end = time.monotonic() + limit_s
    while True:
        state = lab.inspect(name)["State"]
        health = state.get("Health")
        for probe in (health or {}).get("Log") or []:
            probes[probe["Start"]] = probe
        if not attempts or attempts[-1][1] != ACCEPTED:
            attempts.append(_try_connection(lab, name, password))
        elif (
            health is None
            or health["Status"] == "healthy"
            or time.time() - attempts[-1][0] > HEALTHY_TIMEOUT_S
        ):
            break
        if not state["Running"] or time.monotonic() > end:
            raise _not_ready(lab, name, state["Running"], limit_s)
        time.sleep(POLL_S)
    offset_s, accuracy_s = _clock(lab)
    start = seconds(state["StartedAt"])
    checks = [
        HealthProbe(seconds(probe["Start"]) - start, seconds(probe["End"]) - start, probe["ExitCode"])
        for _, probe in sorted(probes.items())
    ]
    return Startup(
        name,
        tuple(milestones(log(lab, name), start)),
        tuple(checks),
        tuple(ConnectionAttempt(at + offset_s - start, outcome) for at, outcome in attempts),
        next((check.end_s for check in checks if check.exit_code == 0), None),
        accuracy_s * 1000,
    )


def log(lab: Lab, name: str) -> list[tuple[float, str]]:
    """The lines of a container's log: (seconds since 1970 on the engine's clock, line)."""
    try:
        text = lab.logs(name, timestamps=True)
    except EngineRefused as error:
        driver = lab.inspect(name)["HostConfig"]["LogConfig"]["Type"]
        raise EngineRefused(
            f"the engine cannot read the log of {name!r}: its log driver is {driver!r}",
            hint="remove the container, and start it again with a log driver that `docker logs` can read: "
            f"docker run --log-driver {DEFAULT_LOG_DRIVER} …",
            engine_message=error.engine_message,
        ) from None
    pairs = (line.partition(" ") for line in text.splitlines())
    return [(seconds(at), line) for at, _, line in pairs if at[:1].isdigit() and "T" in at]


def milestones(lines: Iterable[tuple[float, str]], start: float) -> list[Milestone]:
    """The lines of a log that mark a step of the start.

    Args:
        lines: what `log` returns.
        start: when the container started; lines of an earlier start are left out.
    """
    return [
        Milestone(at - start, name, line)
        for at, line in lines
        for name, pattern in MILESTONES
        if pattern.search(line) and at - start > -1
    ]


def _try_connection(lab: Lab, name: str, password: str) -> tuple[float, str]:
    try:
        mysql.connect(lab, name, password=password).close()
        outcome = ACCEPTED
    except ServerRefused:
        raise
    except LabError as error:
        outcome = REFUSED if str(error.engine_message).startswith(_CANNOT_CONNECT) else CLOSED
    return time.time(), outcome


def _clock(lab: Lab) -> tuple[float, float]:
    """The offset of the engine's clock from this machine's, and its accuracy; in seconds."""
    best = (0.0, float("inf"))
    for _ in range(3):
        before = time.time()
        engine_time = seconds(lab.engine_time())
        after = time.time()
        if (after - before) / 2 < best[1]:
            best = (engine_time - (before + after) / 2, (after - before) / 2)
    return best


def _not_ready(lab: Lab, name: str, running: bool, limit_s: float) -> LabError:
    return (TimedOut if running else NotRunning)(
        f"the MySQL server in {name!r} " + (f"is not ready after {limit_s:.0f} s" if running else "exited"),
        hint=f"the last lines of its log show the reason; for the whole log: docker logs {name}",
        engine_message=lab.last_lines(name),
    )
