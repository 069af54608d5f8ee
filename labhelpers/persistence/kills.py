"""A database is killed in the middle of writes. Is every row there that it had acknowledged?

A row is *acknowledged* when the server has answered to its commit: the writer commits one row after the other, and
notes a number only after that answer. The kill is SIGKILL to the container's first process: no handler runs, nothing
is put in order. What the server had handed to the kernel stays in the page cache, though; a power cut takes that, too.
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
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.course.mysql import Connection
    from labhelpers.lab import Lab

MIN_S, MAX_S = 0.2, 0.5
"""How long the writer writes before the kill, from its first acknowledged row: a random time between these."""
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
        "`innodb_flush_log_at_trx_commit`. 1: the log is written and flushed to the disk at each commit; "
        "2: it is written at each commit and flushed once a second; 0: it is written and flushed once a "
        "second"
    )
    sync: int = column(
        "`sync_binlog`: after so many commits the binary log is flushed; 0: when the kernel likes to"
    )

    def __str__(self) -> str:
        return f"{self.flush} / {self.sync}"

    @property
    def arguments(self) -> list[str]:
        """As the server takes it on its command line."""
        return [f"--innodb-flush-log-at-trx-commit={self.flush}", f"--sync-binlog={self.sync}"]


FLUSHED_AT_COMMIT, FLUSHED_EACH_SECOND, WRITTEN_EACH_SECOND = (
    Durability(1, 1),
    Durability(2, 0),
    Durability(0, 0),
)
"""As MySQL sets it; handed to the kernel at each commit; handed to the kernel once a second."""


@record
class Kill(Result):
    """One kill."""

    acknowledged: int = column("rows whose commit the server had acknowledged in this round")
    lost: int = column("how many of these were not there afterwards")
    unacknowledged: int = column("rows that were there although their commit had not been acknowledged")
    wrote_s: float = column("from the first acknowledged row to the last one")
    down_s: float = column("from the kill until the server, started again, accepted a connection")

    @property
    def rows_per_s(self) -> float:
        """How fast rows were acknowledged; 0 where there was one only."""
        return (self.acknowledged - 1) / self.wrote_s if self.wrote_s else 0.0


@record
class Kills(Result):
    """A database that was killed several times under one setting."""

    setting: Durability = column("read back from the server", shown=False)
    kills: tuple[Kill, ...] = rows("one each", of=Kill)

    def __repr__(self) -> str:
        return f"{len(self.kills)} kills at {self.setting}: {self.acknowledged} rows acknowledged, {self.lost} lost"

    @property
    def acknowledged(self) -> int:
        """Acknowledged rows of all rounds."""
        return sum(one.acknowledged for one in self.kills)

    @property
    def lost(self) -> int:
        """Lost rows of all rounds."""
        return sum(one.lost for one in self.kills)

    @property
    def rows_per_s(self) -> float:
        """Acknowledged rows a second, over all rounds."""
        seconds = sum(one.wrote_s for one in self.kills)
        return (self.acknowledged - len(self.kills)) / seconds if seconds else 0.0

    def frame(self) -> pd.DataFrame:
        """One row a kill: kill, acknowledged, lost, unacknowledged, rows_per_s, down_s."""
        rows = [
            (
                number,
                one.acknowledged,
                one.lost,
                one.unacknowledged,
                round(one.rows_per_s),
                round(one.down_s, 2),
            )
            for number, one in enumerate(self.kills, 1)
        ]
        return table(rows, ["kill", "acknowledged", "lost", "unacknowledged", "rows_per_s", "down_s"])


@record
class DurabilityTradeoff(Result):
    """What safety costs and what speed costs: kills under several settings, and how fast each one commits."""

    runs: tuple[Kills, ...] = rows("the kills, one for each setting", of=Kills)
    rates: tuple[tuple[float, ...], ...] = column(
        "for each of them, rows acknowledged a second, measured several times while nothing else was written",
        shown=False,
    )

    def of(self, setting: Durability) -> Kills:
        """The kills under one setting."""
        return next(one for one in self.runs if one.setting == setting)

    def rows_per_s(self, setting: Durability) -> float:
        """Rows acknowledged a second: the median of what was measured."""
        pairs = zip(self.runs, self.rates, strict=True)
        return statistics.median(next(rates for run, rates in pairs if run.setting == setting))

    def gain(self, setting: Durability) -> float:
        """How many times as many rows a second as under `FLUSHED_AT_COMMIT`."""
        return self.rows_per_s(setting) / self.rows_per_s(FLUSHED_AT_COMMIT)

    def frame(self) -> pd.DataFrame:
        """One row a setting: flush, sync, rows_per_s, times_as_fast, kills, acknowledged, lost, most_lost."""
        columns = [
            "flush",
            "sync",
            "rows_per_s",
            "times_as_fast",
            "kills",
            "acknowledged",
            "lost",
            "most_lost",
        ]
        rows = [
            (
                one.setting.flush,
                one.setting.sync,
                round(self.rows_per_s(one.setting)),
                round(self.gain(one.setting), 1),
                len(one.kills),
                one.acknowledged,
                one.lost,
                max(kill.lost for kill in one.kills),
            )
            for one in self.runs
        ]
        return table(rows, columns)


def kills(lab: Lab, image: str, source: str, times: int = 10) -> Kills:
    """Kill a database in the middle of writes, as often as asked for. Its data directory is in a volume.

    Three servers take turns: one is written to while the others start again.

    Args:
        image: of MySQL.
        source: a volume with a data directory that is not in use; copies of it are used.

    Raises:
        BadInput: `times` is not 1 to `MAX_KILLS`.
    """
    _must_be_a_number_of_kills(times)
    lanes = [times // _SERVERS + (lane < times % _SERVERS) for lane in range(min(times, _SERVERS))]
    with (
        lab.quiet(essential=_ESSENTIAL),
        _servers(lab, image, source, [FLUSHED_AT_COMMIT] * len(lanes)) as servers,
    ):
        found = _side_by_side(lab, servers, lanes)
        setting = servers[0].setting()
    return Kills(setting, tuple(kill for one in found for kill in one))


def durability_tradeoff(lab: Lab, image: str, source: str, safe: Kills, times: int = 3) -> DurabilityTradeoff:
    """The same under `FLUSHED_EACH_SECOND` and `WRITTEN_EACH_SECOND`; and how fast all three commit, one at a time.

    Args:
        image, source: as for `kills`.
        safe: what `kills` gave: the kills under the safe setting.
        times: kills under each of the others.

    Raises:
        BadInput: `times` is not 1 to `MAX_KILLS`.
    """
    _must_be_a_number_of_kills(times)
    with (
        lab.quiet(essential=_ESSENTIAL),
        _servers(
            lab, image, source, [FLUSHED_AT_COMMIT, FLUSHED_EACH_SECOND, WRITTEN_EACH_SECOND]
        ) as servers,
    ):
        # in turns, so that a machine which is busy for a moment does not harm one setting alone
        rates = [[one.rate() for one in servers] for _ in range(_RATES)]
        killed = servers[1:]
        found = _side_by_side(lab, killed, [times] * len(killed))
        runs = [Kills(one.setting(), tuple(each)) for one, each in zip(killed, found, strict=True)]
    return DurabilityTradeoff((safe, *runs), tuple(zip(*rates, strict=True)))


def _must_be_a_number_of_kills(times: int) -> None:
    if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= MAX_KILLS:
        raise BadInput(f"{times!r} is no number of kills", hint=f"write a whole number, 1 to {MAX_KILLS}")


@contextmanager
def _servers(lab: Lab, image: str, source: str, settings: Sequence[Durability]) -> Iterator[list[_Server]]:
    """A server for each setting, each on a copy of `source` in a volume of its own, ready to be written to."""
    with ExitStack() as stack:
        volumes = [stack.enter_context(temporary_volume(lab, "kills")) for _ in settings]
        ports = {f"{mysql.PORT}/tcp": None}

        def begin(pair: tuple[Durability, str]) -> _Server:
            setting, volume = pair
            copy_volume(lab, source, volume)
            container = start_server(lab, image, volume, setting.arguments, ports=ports)
            stack.callback(remove_server, lab, container)
            return _Server(lab, container)

        # made at its first use, which must not be in several threads at once
        lab.image("payload")
        with ThreadPoolExecutor(len(settings)) as pool:
            yield list(pool.map(begin, zip(settings, volumes, strict=True)))


def _side_by_side(lab: Lab, servers: Sequence[_Server], times: Sequence[int]) -> list[list[Kill]]:
    # one writes at a time: whoever writes has the machine for itself but for those that start again
    writing = threading.Lock()
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(
            pool.map(lambda server, count: [server.kill(writing) for _ in range(count)], servers, times)
        )


class _Server:
    """A running server, and a connection to it."""

    def __init__(self, lab: Lab, container: Container) -> None:
        self._lab, self._container = lab, container
        self._connection = self._connect()
        mysql.rows(self._connection, f"create database if not exists {DATABASE}")
        mysql.rows(self._connection, f"create table {DATABASE}.numbered (n int primary key)")

    def setting(self) -> Durability:
        """What it does at a commit, as it says itself."""
        names = "@@innodb_flush_log_at_trx_commit, @@sync_binlog"
        ((flush, sync),) = mysql.rows(self._connection, f"select {names}")
        return Durability(int(flush), int(sync))

    def rate(self) -> float:
        """Rows committed a second, over a short while."""
        number = self._last()
        begin = now = time.monotonic()
        count = 0
        while now - begin < RATE_S or not count:
            count += 1
            mysql.rows(self._connection, _INSERT, number + count)
            now = time.monotonic()
        return count / (now - begin)

    def kill(self, writing: threading.Lock) -> Kill:
        """One round: write, kill, start again, count."""
        last = self._last()
        writer = _Writer(self._connection, last + 1)
        with writing:
            writer.start()
            writer.wait_for_the_first_row()
            time.sleep(random.uniform(MIN_S, MAX_S))
            killed = time.monotonic()
            self._lab.kill(self._container)
            writer.join()
        self._lab.start(self._container)
        self._connection = self._connect()
        down_s = time.monotonic() - killed
        query = f"select n from {DATABASE}.numbered where n > %s"
        there = {row[0] for row in mysql.rows(self._connection, query, last)}
        acknowledged = set(writer.acknowledged)
        return Kill(
            len(acknowledged),
            len(acknowledged - there),
            len(there - acknowledged),
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
    """Commits rows numbered from `first` on, one after the other, until the server is no more."""

    def __init__(self, connection: Connection, first: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[int] = []
        self.times: list[float] = []
        self._connection, self._next = connection, first
        self._begun = threading.Event()
        self._words = ""

    def run(self) -> None:
        try:
            while True:
                # the connection is in autocommit mode: the answer to the insert is the answer to its commit
                mysql.rows(self._connection, _INSERT, self._next)
                self.acknowledged.append(self._next)
                self.times.append(time.monotonic())
                self._next += 1
                self._begun.set()
        except (pymysql.err.MySQLError, OSError) as error:
            self._words = str(error)
        finally:
            self._begun.set()

    def wait_for_the_first_row(self) -> None:
        self._begun.wait(_FIRST_ROW_TIMEOUT_S)
        if not self.acknowledged:
            if self._words:
                raise ServerRefused(
                    "the database acknowledged no row",
                    hint="run the cell again; if it fails again, the server's message below shows why",
                    engine_message=self._words,
                )
            raise TimedOut(
                f"timed out after {_FIRST_ROW_TIMEOUT_S:g} s waiting for the first acknowledged row",
                hint="run the cell again; `./lab doctor` checks the engine",
            )
