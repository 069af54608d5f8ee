"""Two servers on one data directory: what the second one says, and what becomes of the first one."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from labhelpers.errors import LabError
from labhelpers.persistence.servers import (
    DATABASE,
    query,
    remove_server,
    says_ready,
    start_server,
    temporary_volume,
    wait_until_ready,
)
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

LOCKED = re.compile(r"^.*Unable to lock .*$", re.M)
"""InnoDB's words where another process holds its lock on a data file; it tries a hundred times, once a second."""
_TIMEOUT_S = 300.0
_POLL_S = 0.1


@record
class SharedDataDirectory(Result):
    """Two containers that mount one volume, and want to be its database."""

    words: str = column(
        "the line of the second one's log in which it says that it cannot have the files; empty if it "
        "said none"
    )
    second_answered: bool = column("whether the second one answered a client before that")
    waited_s: float = column("from its start to those words")
    rows_before: int = column(
        "what the first one holds, before the second one came and after it was removed; in between one "
        "row was written to the first one"
    )
    rows_after: int = column(
        "what the first one holds, before the second one came and after it was removed; in between one "
        "row was written to the first one"
    )
    check: str = column("what the first one says to `check table`")

    @property
    def message(self) -> str:
        """The words without their time stamp, number of thread and of message."""
        return re.sub(r"^\S+ +\d+ +", "", self.words)


def two_servers_one_volume(lab: Lab, image: str, source: str) -> SharedDataDirectory:
    """Start a second server on the data directory of a running one, and look at both.

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's table and is not in use; a copy of it is used.

    Raises:
        TimedOut: the second server neither ended nor complained about a lock in five minutes.
    """
    with lab.quiet(essential=["docker run -d"]), temporary_volume(lab, "twins", source) as volume:
        first = start_server(lab, image, volume, network="none")
        try:
            wait_until_ready(lab, first)
            before = _rows(lab, first)
            second = start_server(lab, image, volume, network="none")
            try:
                words, waited_s, answered = _listen(lab, second)
                query(lab, first, f"insert into {DATABASE}.mytab values(2,'b')")
            finally:
                remove_server(lab, second)
            check = query(lab, first, f"check table {DATABASE}.mytab")[-1][-1]
            return SharedDataDirectory(words, answered, waited_s, before, _rows(lab, first), check)
        finally:
            remove_server(lab, first)


def _rows(lab: Lab, server: Container) -> int:
    return int(query(lab, server, f"select count(*) from {DATABASE}.mytab")[0][0])


def _listen(lab: Lab, server: Container) -> tuple[str, float, bool]:
    """The second server's message about a lock, after how many seconds, and whether it answered a client."""
    begin = time.monotonic()

    def outcome() -> tuple[str, bool] | None:
        if found := LOCKED.search(lab.logs(server)):
            return found[0].strip(), _answers(lab, server)
        if says_ready(lab, str(server.name)):
            return "", _answers(lab, server)
        return None if lab.is_running(server) else ("", False)

    what = "the second server to report the lock"
    result = lab.wait_for(what, outcome, _TIMEOUT_S, every_s=_POLL_S, while_running=server)
    assert result is not None, "wait_for returns what is true"
    words, answered = result
    return words, time.monotonic() - begin, answered


def _answers(lab: Lab, server: Container) -> bool:
    try:
        return bool(query(lab, server, "select 1"))
    except LabError:
        return False
