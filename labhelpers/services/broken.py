"""A database that is killed while it starts for the first time: what is left, and what the next start makes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.engine.removal import kill_container
from labhelpers.errors import LabError
from labhelpers.results import Result, table
from labhelpers.services.starting import MILESTONES, READY, TEMPORARY

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

WHILE_FILES, WHILE_TEMPORARY = "while it made its files", "when its temporary server had started"
DATA = "/var/lib/mysql"
_PATTERN = dict(MILESTONES)
_LOOK_S = 0.03
_LIMIT_S = 300.0
# what MySQL's log marks as an error, or the entrypoint
_ERROR = re.compile(r"\[ERROR\]|ERROR:")
_CLIENT = ["mysql", "--protocol=tcp", "-h127.0.0.1", "-uroot", "-pbook", "-e"]


@dataclass(frozen=True, slots=True)
class KilledStart(Result):
    """One first start that was killed, and the start after it, on the same data directory.

    Attributes:
        when: it was killed.
        killed_s: after how long.
        left: names in the data directory then.
        has_system: whether the directory `mysql` is among them, by which the next start takes it for made.
        ended: how the next start ended; None where it stayed up.
        said: errors in its log, at most three.
        client: what a client with the right password heard from it; "" where there was no server to ask.
    """

    when: str
    killed_s: float
    left: tuple[str, ...]
    has_system: bool
    ended: int | None
    said: tuple[str, ...]
    client: str

    @property
    def usable(self) -> bool:
        """Whether root gets in."""
        return self.ended is None and "ERROR" not in self.client


@dataclass(frozen=True, slots=True)
class KilledStarts(Result):
    """First starts that were killed at different moments.

    Attributes:
        cases: one for each moment.
    """

    cases: tuple[KilledStart, ...]

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
        LabError: a server did not come as far as that.
    """
    with lab.quiet(), ThreadPoolExecutor(2) as pool:
        cases = list(pool.map(lambda when: _killed(lab, image, when), (WHILE_FILES, WHILE_TEMPORARY)))
    return KilledStarts(tuple(cases))


def _killed(lab: Lab, image: str, when: str) -> KilledStart:
    name = f"killed-{token_hex(4)}"
    volume = lab.create_volume(name)
    place = str(volume.attrs["Mountpoint"])
    try:
        variables = {"MYSQL_ROOT_PASSWORD": "book"}
        options: dict[str, Any] = {
            "environment": variables,
            "volumes": [f"{name}:{DATA}"],
            "network": "none",
            "ulimits": mysql.open_files(lab),
        }
        container = lab.run(image, name=name, **options)
        began = time.monotonic()
        first_file = [f"{place}/ibdata1".strip("/")]
        moments: dict[str, Callable[[], bool]] = {
            WHILE_FILES: lambda: lab.host.entries("/", first_file)[first_file[0]] is not None,
            WHILE_TEMPORARY: lambda: bool(_PATTERN[TEMPORARY].search(_log(container))),
        }
        _until(container, moments[when], when)
        kill_container(container)
        killed_s = time.monotonic() - began
        container.wait()
        left = tuple(one.path for one in lab.host.directory(place))
        return _again(lab, container, KilledStart(when, killed_s, left, "mysql" in left, None, (), ""))
    finally:
        with suppress(LabError):
            lab.remove(name, force=True)
        volume.remove(force=True)


def _again(lab: Lab, container: Container, first: KilledStart) -> KilledStart:
    before = len(_log(container))
    container.start()

    def over() -> bool:
        container.reload()
        return container.status != "running" or bool(_PATTERN[READY].search(_log(container)[before:]))

    _until(container, over, "at its next start", alive=False)
    text, client = _log(container)[before:], ""
    ended = None if container.status == "running" else int(container.attrs["State"]["ExitCode"])
    if ended is None:
        answer = lab.exec(container, [*_CLIENT, "select 1"])
        client = "root gets in" if answer.exit_code == 0 else _error(answer.stderr)
    errors = [_words(line) for line in text.splitlines() if _ERROR.search(line)]
    said = tuple(dict.fromkeys(errors))[:3]
    return KilledStart(first.when, first.killed_s, first.left, first.has_system, ended, said, client)


def _log(container: Container) -> str:
    return container.logs().decode(errors="replace")


def _words(line: str) -> str:
    """A line of the log without its time, thread and numbers."""
    return re.sub(r"^\S+ \d+ |\[(ERROR|Server|InnoDB|Entrypoint|MY-\d+)\]:? ?|\S+Z ", "", line).strip()


def _error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else text.strip()


def _until(container: Container, what: Callable[[], bool], when: str, alive: bool = True) -> None:
    end = time.monotonic() + _LIMIT_S
    while not what():
        if alive:
            container.reload()
        if time.monotonic() > end or (alive and container.status not in ("created", "running")):
            raise LabError(
                f"the MySQL server in {container.name} did not come as far as {when}",
                hint="its last lines, above, say why; run the cell again",
                engine_words=_last(_log(container).splitlines()),
            )
        time.sleep(_LOOK_S)


def _last(lines: Sequence[str]) -> str:
    return "\n".join(lines[-6:])
