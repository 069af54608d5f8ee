"""A database that is killed during its first start: what is left, and what the next start makes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.errors import ContainerMissing
from labhelpers.results import Result, column, record, rows, table
from labhelpers.services.startup import MILESTONES, READY, STARTS_TEMPORARY

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

WHILE_FILES, WHILE_TEMPORARY = "while it made its files", "when its temporary server had started"
DATA = "/var/lib/mysql"
_PATTERN = dict(MILESTONES)
_TIMEOUT_S = 300.0
# what MySQL's log marks as an error, or the entrypoint
_ERROR = re.compile(r"\[ERROR\]|ERROR:")
_CLIENT = ["mysql", "--protocol=tcp", "-h127.0.0.1", "-uroot", "-pbook", "-e"]


@record
class KilledStart(Result):
    """One first start that was killed, and the start after it, on the same data directory."""

    when: str = column("it was killed")
    killed_s: float = column("after how long")
    left: tuple[str, ...] = column("names in the data directory then")
    has_system: bool = column(
        "whether the directory `mysql` is among them, by which the next start takes it for made"
    )
    ended: int | None = column("how the next start ended; None where it stayed up")
    said: tuple[str, ...] = column("errors in its log, at most three")
    client: str = column(
        "what a client with the right password heard from it; an empty string where there was no server "
        "to ask"
    )

    @property
    def usable(self) -> bool:
        """Whether root gets in."""
        return self.ended is None and "ERROR" not in self.client


@record
class KilledStarts(Result):
    """First starts that were killed at different moments."""

    cases: tuple[KilledStart, ...] = rows("one for each moment", of=KilledStart)

    def of(self, when: str) -> KilledStart:
        """The case of one moment."""
        return next(one for one in self.cases if one.when == when)

    def frame(self) -> pd.DataFrame:
        """One row a case: killed, left, the next start, it says."""
        rows = [
            (
                f"{one.when} ({one.killed_s:.1f} s)",
                f"{len(one.left)} names" + (", `mysql` among them" if one.has_system else ""),
                "stays up" if one.ended is None else f"ends with exit code {one.ended}",
                "; ".join((*one.said, one.client)).strip("; "),
            )
            for one in self.cases
        ]
        return table(rows, ["killed", "left in the data directory", "the next start", "it says"])


def killed_starts(lab: Lab, image: str) -> KilledStarts:
    """Kill two first starts of a MySQL server, at two moments, and start each again. Both at once, side by side.

    Raises:
        NotRunning, TimedOut: a server did not get that far.
    """
    with lab.quiet(essential=["docker kill", "docker start"]), ThreadPoolExecutor(2) as pool:
        cases = list(pool.map(lambda when: _killed(lab, image, when), (WHILE_FILES, WHILE_TEMPORARY)))
    return KilledStarts(tuple(cases))


def _killed(lab: Lab, image: str, when: str) -> KilledStart:
    name = f"killed-{token_hex(4)}"
    place = lab.directory_of(lab.create_volume(name))
    try:
        variables = {"MYSQL_ROOT_PASSWORD": "book"}
        options: dict[str, Any] = {
            "environment": variables,
            "volumes": [f"{name}:{DATA}"],
            "network": "none",
            "ulimits": mysql.open_files_ulimit(lab),
        }
        container = lab.run(image, name=name, **options)
        began = time.monotonic()
        first_file = [f"{place}/ibdata1".strip("/")]
        moments: dict[str, Callable[[], bool]] = {
            WHILE_FILES: lambda: lab.host.entries("/", first_file)[first_file[0]] is not None,
            WHILE_TEMPORARY: lambda: bool(_PATTERN[STARTS_TEMPORARY].search(lab.logs(container))),
        }
        lab.wait_for(f"the kill {when}", moments[when], _TIMEOUT_S, while_running=container)
        lab.kill(container)
        killed_s = time.monotonic() - began
        left = tuple(one.path for one in lab.host.directory(place))
        return _restart(lab, container, KilledStart(when, killed_s, left, "mysql" in left, None, (), ""))
    finally:
        with suppress(ContainerMissing):
            lab.remove(name, force=True)
        lab.remove_volume(name)


def _restart(lab: Lab, container: Container, first: KilledStart) -> KilledStart:
    before = len(lab.logs(container))
    lab.start(container)

    def is_over() -> bool:
        return not lab.is_running(container) or bool(_PATTERN[READY].search(lab.logs(container)[before:]))

    lab.wait_for("the next start to succeed or to fail", is_over, _TIMEOUT_S)
    text, client = lab.logs(container)[before:], ""
    state = lab.inspect(container)["State"]
    ended = None if state["Running"] else int(state["ExitCode"])
    if ended is None:
        answer = lab.exec(container, [*_CLIENT, "select 1"])
        client = "root gets in" if answer.exit_code == 0 else _error(answer.stderr)
    errors = [_words(line) for line in text.splitlines() if _ERROR.search(line)]
    said = tuple(dict.fromkeys(errors))[:3]
    return KilledStart(first.when, first.killed_s, first.left, first.has_system, ended, said, client)


def _words(line: str) -> str:
    """A line of the log without its time, thread and numbers."""
    return re.sub(r"^\S+ \d+ |\[(ERROR|Server|InnoDB|Entrypoint|MY-\d+)\]:? ?|\S+Z ", "", line).strip()


def _error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else text.strip()
