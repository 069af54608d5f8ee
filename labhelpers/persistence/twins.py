"""Two servers on one data directory: what the second one says, and what becomes of the first one."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labhelpers.errors import LabError
from labhelpers.persistence.servers import DATABASE, a_volume, ask, remove, start, wait
from labhelpers.results import Result

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

LOCKED = re.compile(r"^.*Unable to lock .*$", re.M)
"""InnoDB's words where another process holds its lock on a data file; it tries a hundred times, once a second."""
_LIMIT_S = 300.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Twins(Result):
    """Two containers that mount one volume, and want to be its database.

    Attributes:
        words: the line of the second one's log in which it says that it cannot have the files; empty if it said none.
        second_answered: whether the second one answered a client before that.
        waited_s: from its start to those words.
        rows_before, rows_after: what the first one holds, before the second one came and after it was removed; in
            between one row was written to the first one.
        check: what the first one says to `check table`.
    """

    words: str
    second_answered: bool
    waited_s: float
    rows_before: int
    rows_after: int
    check: str

    @property
    def message(self) -> str:
        """The words without their time stamp, number of thread and of message."""
        return re.sub(r"^\S+ +\d+ +", "", self.words)


def two_on_one(lab: Lab, image: str, source: str) -> Twins:
    """Start a second server on the data directory of a running one, and look at both.

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's table and is not in use; a copy of it is used.

    Raises:
        LabError: the second server neither ended nor said anything of a lock in five minutes.
    """
    with lab.quiet(), a_volume(lab, "twins", source) as volume:
        first = start(lab, image, volume, network="none")
        try:
            wait(lab, first)
            before = _rows(lab, first)
            second = start(lab, image, volume, network="none")
            try:
                words, waited_s, answered = _listen(lab, second)
                ask(lab, first, f"insert into {DATABASE}.mytab values(2,'b')")
            finally:
                remove(lab, second)
            check = ask(lab, first, f"check table {DATABASE}.mytab")[-1][-1]
            return Twins(words, answered, waited_s, before, _rows(lab, first), check)
        finally:
            remove(lab, first)


def _rows(lab: Lab, server: Container) -> int:
    return int(ask(lab, server, f"select count(*) from {DATABASE}.mytab")[0][0])


def _listen(lab: Lab, server: Container) -> tuple[str, float, bool]:
    """What the second one says of a lock, after how long, and whether it answered a client."""
    begin = time.monotonic()
    while time.monotonic() - begin < _LIMIT_S:
        found = LOCKED.search(server.logs().decode(errors="replace"))
        if found:
            return found[0].strip(), time.monotonic() - begin, _answers(lab, server)
        server.reload()
        if server.status == "exited" or _answers(lab, server):
            return "", time.monotonic() - begin, server.status != "exited"
        time.sleep(_LOOK_S)
    raise LabError(
        "the second server says nothing of a lock",
        hint="the engine's machine may be very busy: run the cell again",
        engine_words=server.logs(tail=5).decode(errors="replace"),
    )


def _answers(lab: Lab, server: Container) -> bool:
    try:
        return bool(ask(lab, server, "select 1"))
    except LabError:
        return False
