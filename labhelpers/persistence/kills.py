"""Kill a database during writes, and check that it has every row that it acknowledged.

A row is *acknowledged* when the server has answered to its commit: the writer commits one row at a time and records
its number only after the answer. The kill is a SIGKILL to the container's first process: the server runs no handler and
cannot shut down cleanly. Data that it has passed to the kernel stay in the page cache; only a power failure loses them.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pymysql

from labhelpers.course import mysql
from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import is_integer
from labhelpers.errors import BadInput, ServerRefused, TimedOut
from labhelpers.persistence.servers import (
    DATABASE,
    PASSWORD,
    copy_volume,
    remove_server,
    start_server,
    temporary_volume,
    wait_for_ready_log_line,
)
from labhelpers.results import Result, column, derived, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.course.mysql import Connection
    from labhelpers.lab import Lab

MIN_S, MAX_S = 0.2, 0.5
"""Limits of the random delay between the first acknowledged row and the kill, in seconds."""
MAX_KILLS = 100
_FIRST_ROW_TIMEOUT_S = 300.0
_SERVERS = 3
RATE_S = 0.3
_RATES = 3
_ESSENTIAL = ("docker kill",)
_INSERT = f"insert into {DATABASE}.numbered values (%s)"


@record
class Durability(Result):
    """What the server does at a commit (MySQL 8.4 Reference Manual, 17.14 and 19.1.6.4)."""

    flush: int = column(
        "`innodb_flush_log_at_trx_commit`, 1: the log is written and flushed to the disk at each commit; 2: it is "
        "written at each commit and flushed once per second; 0: it is written and flushed once per second"
    )
    sync: int = column(
        "`sync_binlog`, the number of commits after which the binary log is flushed; 0: the kernel decides when"
    )

    def __str__(self) -> str:
        return f"{self.flush} / {self.sync}"

    @property
    def arguments(self) -> list[str]:
        """Arguments of `mysqld`."""
        return [f"--innodb-flush-log-at-trx-commit={self.flush}", f"--sync-binlog={self.sync}"]


FLUSHED_AT_COMMIT, FLUSHED_EACH_SECOND, WRITTEN_EACH_SECOND = (
    Durability(1, 1),
    Durability(2, 0),
    Durability(0, 0),
)
"""MySQL's default; written to the kernel at each commit; written to the kernel once per second."""


@record
class Kill(Result):
    """A kill of the server while a client writes."""

    acknowledged: int = column("rows whose commit the server acknowledged before this kill")
    lost: int = column("acknowledged rows that are missing after the restart")
    unacknowledged: int = column("rows that exist after the restart, but whose commit was not acknowledged")
    write_s: float = column("time from the first acknowledged row to the last one")
    down_s: float = column("time from the kill until the restarted server accepts a connection")

    @derived
    def rows_per_s(self) -> float:
        """Acknowledged rows per second, 0 for a single row."""
        return (self.acknowledged - 1) / self.write_s if self.write_s else 0.0


@record
class Kills(Result):
    """Kills of a database with one durability setting."""

    setting: Durability = column("durability setting, as reported by the server", shown=False)
    kills: tuple[Kill, ...] = rows("one for each kill", of=Kill)

    def __repr__(self) -> str:
        return f"{len(self.kills)} kills at {self.setting}: {self.acknowledged} rows acknowledged, {self.lost} lost"

    @property
    def acknowledged(self) -> int:
        """Acknowledged rows before all kills."""
        return sum(kill.acknowledged for kill in self.kills)

    @property
    def lost(self) -> int:
        """Rows lost in all kills."""
        return sum(kill.lost for kill in self.kills)

    @property
    def rows_per_s(self) -> float:
        """Acknowledged rows per second, before all kills."""
        seconds = sum(kill.write_s for kill in self.kills)
        return (self.acknowledged - len(self.kills)) / seconds if seconds else 0.0


@record
class DurabilityTradeoff(Result):
    """Commit rate and lost rows of each durability setting."""

    runs: tuple[Kills, ...] = rows("the kills with each setting", of=Kills)
    rates: tuple[tuple[float, ...], ...] = column(
        "acknowledged rows per second with each setting, measured several times without other writes",
        shown=False,
    )

    def of(self, setting: Durability) -> Kills:
        """The kills with one setting."""
        return next(run for run in self.runs if run.setting == setting)

    def rows_per_s(self, setting: Durability) -> float:
        """Acknowledged rows per second with one setting, the median of its measurements."""
        pairs = zip(self.runs, self.rates, strict=True)
        return statistics.median(next(rates for run, rates in pairs if run.setting == setting))

    def speedup(self, setting: Durability) -> float:
        """Commit rate relative to `FLUSHED_AT_COMMIT`."""
        return self.rows_per_s(setting) / self.rows_per_s(FLUSHED_AT_COMMIT)

    def frame(self) -> pd.DataFrame:
        """One row for each setting: commit rate, speed-up, number of kills, and rows lost in all and in one kill."""
        rows = [
            (
                run.setting.flush,
                run.setting.sync,
                self.rows_per_s(run.setting),
                self.speedup(run.setting),
                len(run.kills),
                run.acknowledged,
                run.lost,
                max(kill.lost for kill in run.kills),
            )
            for run in self.runs
        ]
        names = ("flush", "sync", "rows_per_s", "speedup", "kills", "acknowledged", "lost", "max_lost")
        return table(rows, names)


@experiment
def kills(lab: Lab, image: str, source: str, count: int = 10) -> Kills:
    """Kill a database `count` times during writes. Its data directory is in a volume.

    Three servers take turns: one is written to while the others restart.

    Args:
        image: the MySQL image.
        source: a volume with a data directory that is not in use; each server works on a copy.
        count: number of kills, in total.

    Raises:
        BadInput: `count` is not between 1 and `MAX_KILLS`.
    """
    _check_count(count)
    shares = [count // _SERVERS + (index < count % _SERVERS) for index in range(min(count, _SERVERS))]
    with (
        lab.quiet(essential=_ESSENTIAL),
        _servers(lab, image, source, [FLUSHED_AT_COMMIT] * len(shares)) as servers,
    ):
        by_server = _kill_in_parallel(servers, shares)
        setting = servers[0].setting()
    return Kills(setting, tuple(kill for kills in by_server for kill in kills))


@experiment
def durability_tradeoff(lab: Lab, image: str, source: str, safe: Kills, count: int = 3) -> DurabilityTradeoff:
    """Kill a database with two faster settings, and measure the commit rate of all three settings in turn.

    Args:
        image, source: as for `kills`.
        safe: the result of `kills`, with the setting `FLUSHED_AT_COMMIT`.
        count: number of kills with `FLUSHED_EACH_SECOND` and with `WRITTEN_EACH_SECOND`.

    Raises:
        BadInput: `count` is not between 1 and `MAX_KILLS`.
    """
    _check_count(count)
    with (
        lab.quiet(essential=_ESSENTIAL),
        _servers(
            lab, image, source, [FLUSHED_AT_COMMIT, FLUSHED_EACH_SECOND, WRITTEN_EACH_SECOND]
        ) as servers,
    ):
        # in turn: a load peak of the machine must not affect a single setting
        rates = [[server.rate() for server in servers] for _ in range(_RATES)]
        faster = servers[1:]
        by_server = _kill_in_parallel(faster, [count] * len(faster))
        runs = [
            Kills(server.setting(), tuple(kills)) for server, kills in zip(faster, by_server, strict=True)
        ]
    return DurabilityTradeoff((safe, *runs), tuple(zip(*rates, strict=True)))


def _check_count(count: int) -> None:
    if not is_integer(count) or not 1 <= count <= MAX_KILLS:
        raise BadInput(
            f"invalid number of kills: {count!r}", hint=f"use an integer between 1 and {MAX_KILLS}"
        )


@contextmanager
def _servers(lab: Lab, image: str, source: str, settings: Sequence[Durability]) -> Iterator[list[_Server]]:
    """A running server for each setting, each with a copy of `source` in a separate volume."""
    with ExitStack() as stack:
        volumes = [stack.enter_context(temporary_volume(lab, "kills")) for _ in settings]
        ports = {f"{mysql.PORT}/tcp": None}

        def begin(setting: Durability, volume: str) -> _Server:
            copy_volume(lab, source, volume)
            container = start_server(lab, image, volume, setting.arguments, ports=ports)
            stack.callback(remove_server, lab, container)
            return _Server(lab, container)

        # built at its first use, which must not be in several threads at once
        lab.image("payload")
        with ThreadPoolExecutor(len(settings)) as pool:
            yield list(pool.map(begin, settings, volumes))


def _kill_in_parallel(servers: Sequence[_Server], counts: Sequence[int]) -> list[list[Kill]]:
    # one writer at a time: it shares the machine only with servers that restart
    writing = threading.Lock()
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(
            pool.map(lambda server, count: [server.kill(writing) for _ in range(count)], servers, counts)
        )


class _Server:
    """A running server with a connection."""

    def __init__(self, lab: Lab, container: Container) -> None:
        self._lab, self._container = lab, container
        self._connection = self._connect()
        mysql.rows(self._connection, f"create database if not exists {DATABASE}")
        mysql.rows(self._connection, f"create table {DATABASE}.numbered (n int primary key)")

    def setting(self) -> Durability:
        """The durability setting that the server reports."""
        names = "@@innodb_flush_log_at_trx_commit, @@sync_binlog"
        ((flush, sync),) = mysql.rows(self._connection, f"select {names}")
        return Durability(int(flush), int(sync))

    def rate(self) -> float:
        """Committed rows per second, measured for `RATE_S`."""
        number = self._last()
        begin = now = time.monotonic()
        count = 0
        while now - begin < RATE_S or not count:
            count += 1
            mysql.rows(self._connection, _INSERT, number + count)
            now = time.monotonic()
        return count / (now - begin)

    def kill(self, writing: threading.Lock) -> Kill:
        """Write, kill the server, restart it, and count the rows."""
        last = self._last()
        writer = _Writer(self._connection, last + 1)
        with writing:
            writer.start()
            writer.wait_for_first_row()
            time.sleep(random.uniform(MIN_S, MAX_S))
            killed = time.monotonic()
            self._lab.kill(self._container)
            writer.join()
        self._lab.start(self._container)
        self._connection = self._connect()
        down_s = time.monotonic() - killed
        query = f"select n from {DATABASE}.numbered where n > %s"
        existing = {row[0] for row in mysql.rows(self._connection, query, last)}
        acknowledged = set(writer.acknowledged)
        return Kill(
            len(acknowledged),
            len(acknowledged - existing),
            len(existing - acknowledged),
            writer.times[-1] - writer.times[0],
            down_s,
        )

    def _connect(self) -> Connection:
        wait_for_ready_log_line(self._lab, str(self._container.name))
        return mysql.wait_until_ready(self._lab, self._container, password=PASSWORD)

    def _last(self) -> int:
        ((last,),) = mysql.rows(self._connection, f"select coalesce(max(n), 0) from {DATABASE}.numbered")
        return int(last)


class _Writer(threading.Thread):
    """Commits rows with increasing numbers, starting with `first`, until the server is killed."""

    def __init__(self, connection: Connection, first: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[int] = []
        self.times: list[float] = []
        self._connection, self._next = connection, first
        self._first_row = threading.Event()
        self._error = ""

    def run(self) -> None:
        try:
            while True:
                # in autocommit mode the answer to an insert acknowledges its commit
                mysql.rows(self._connection, _INSERT, self._next)
                self.acknowledged.append(self._next)
                self.times.append(time.monotonic())
                self._next += 1
                self._first_row.set()
        except (pymysql.err.MySQLError, OSError) as error:
            self._error = str(error)
        finally:
            self._first_row.set()

    def wait_for_first_row(self) -> None:
        self._first_row.wait(_FIRST_ROW_TIMEOUT_S)
        if not self.acknowledged:
            if self._error:
                raise ServerRefused(
                    "the database acknowledged no row",
                    hint="run the cell again; if it fails again, the server's message shows the cause",
                    engine_message=self._error,
                )
            raise TimedOut(
                f"timed out after {_FIRST_ROW_TIMEOUT_S:g} s waiting for the first acknowledged row",
                hint="run the cell again; `./lab doctor` checks the engine",
            )
