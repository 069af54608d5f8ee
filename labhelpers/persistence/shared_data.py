"""Two servers with the same data directory: the second one's error, and the state of the first one."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
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
"""InnoDB's log line while another process has a lock on a data file. InnoDB tries 100 times, once per second."""
_TIMEOUT_S = 300.0
_POLL_S = 0.1


@record
class SharedDataDirectory(Result):
    """Two database servers with the same data directory."""

    log_line: str = column("log line in which the second server reports the lock, empty if there is none")
    second_answered: bool = column("whether the second server answered a client")
    waited_s: float = column("time from the start of the second server to this log line")
    rows_before: int = column("rows of the first server before the second one started")
    rows_after: int = column(
        "rows of the first server after one more insert and the removal of the second one"
    )
    check: str = column("result of `check table` on the first server")

    @property
    def message(self) -> str:
        """The log line without its time stamp and thread number."""
        return re.sub(r"^\S+ +\d+ +", "", self.log_line)


@experiment
def two_servers_one_volume(lab: Lab, image: str, source: str) -> SharedDataDirectory:
    """Start a second server with the data directory of a running one, and check both servers.

    Args:
        image: the MySQL image.
        source: a volume with a data directory that has the book's table and is not in use; the servers use a copy.

    Raises:
        TimedOut: the second server neither exited nor reported a lock within five minutes.
    """
    with lab.quiet(essential=["docker run -d"]), temporary_volume(lab, "shared", source) as volume:
        first = start_server(lab, image, volume, network="none")
        try:
            wait_until_ready(lab, first)
            before = _rows(lab, first)
            second = start_server(lab, image, volume, network="none")
            try:
                line, waited_s, answered = _wait_for_lock_error(lab, second)
                query(lab, first, f"insert into {DATABASE}.mytab values(2,'b')")
            finally:
                remove_server(lab, second)
            check = query(lab, first, f"check table {DATABASE}.mytab")[-1][-1]
            return SharedDataDirectory(line, answered, waited_s, before, _rows(lab, first), check)
        finally:
            remove_server(lab, first)


def _rows(lab: Lab, server: Container) -> int:
    return int(query(lab, server, f"select count(*) from {DATABASE}.mytab")[0][0])


def _wait_for_lock_error(lab: Lab, server: Container) -> tuple[str, float, bool]:
    """The server's log line about the lock, the time until then in seconds, and whether it answered a client."""
    begin = time.monotonic()

    def outcome() -> tuple[str, bool] | None:
        if match := LOCKED.search(lab.logs(server)):
            return match[0].strip(), _answers(lab, server)
        if says_ready(lab, str(server.name)):
            return "", _answers(lab, server)
        return None if lab.is_running(server) else ("", False)

    what = "the second server to report the lock"
    result = lab.wait_for(what, outcome, _TIMEOUT_S, every_s=_POLL_S, while_running=server)
    assert result is not None, "wait_for returns a true value"
    line, answered = result
    return line, time.monotonic() - begin, answered


def _answers(lab: Lab, server: Container) -> bool:
    try:
        return bool(query(lab, server, "select 1"))
    except LabError:
        return False
