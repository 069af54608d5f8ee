"""A database that is killed during its first start: the files that remain, and what the next start does with them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.course.arguments import experiment
from labhelpers.errors import ContainerMissing
from labhelpers.results import Result, column, derived, record, rows
from labhelpers.services.startup import MILESTONES, READY, STARTS_TEMPORARY

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

WHILE_FILES, WHILE_TEMPORARY = "while it made its files", "when its temporary server had started"
DATA = "/var/lib/mysql"
_PATTERN = dict(MILESTONES)
_TIMEOUT_S = 300.0
# how MySQL's log and the entrypoint mark errors
_ERROR = re.compile(r"\[ERROR\]|ERROR:")
_CLIENT = ["mysql", "--protocol=tcp", "-h127.0.0.1", "-uroot", "-pbook", "-e"]


@record
class KilledStart(Result):
    """One first start that was killed, and the start after it, on the same data directory."""

    when: str = column("step of the start at which the container was killed")
    killed_s: float = column("time from the start of the container to the kill")
    remaining_files: tuple[str, ...] = column("names that remained in the data directory", shown=False)
    has_system_schema: bool = column(
        "whether the directory `mysql` remained: if so, the next start treats the data directory as complete"
    )
    exit_code: int | None = column(
        "exit code of the next start, None if the server kept running", shown=False
    )
    errors: tuple[str, ...] = column("errors in the log of the next start, at most three")
    client_result: str = column(
        "what a client with the right password gets from the next start, empty if no server is running"
    )

    @derived
    def file_count(self) -> int:
        """Number of names that remained in the data directory"""
        return len(self.remaining_files)

    @derived
    def next_start(self) -> str:
        """Whether the server of the next start keeps running"""
        return "keeps running" if self.exit_code is None else f"exits with code {self.exit_code}"

    @property
    def usable(self) -> bool:
        """Whether root can log in after the next start."""
        return self.exit_code is None and "ERROR" not in self.client_result


@record
class KilledStarts(Result):
    """First starts that were killed, and the next start on the same data directory."""

    cases: tuple[KilledStart, ...] = rows("one for each step at which a start was killed", of=KilledStart)

    def of(self, when: str) -> KilledStart:
        """The case of one step."""
        return next(case for case in self.cases if case.when == when)


@experiment
def killed_starts(lab: Lab, image: str) -> KilledStarts:
    """Kill two first starts of a MySQL server, at two steps, and start each again. Both run in parallel.

    Raises:
        NotRunning, TimedOut: a server did not reach the step.
    """
    with lab.quiet(essential=["docker kill", "docker start"]), ThreadPoolExecutor(2) as pool:
        cases = list(
            pool.map(lambda when: _kill_and_restart(lab, image, when), (WHILE_FILES, WHILE_TEMPORARY))
        )
    return KilledStarts(tuple(cases))


def _kill_and_restart(lab: Lab, image: str, when: str) -> KilledStart:
    name = f"killed-{token_hex(4)}"
    directory = lab.directory_of(lab.create_volume(name))
    try:
        variables = {"MYSQL_ROOT_PASSWORD": "book"}
        options: dict[str, Any] = {
            "environment": variables,
            "volumes": [f"{name}:{DATA}"],
            "network": "none",
            "ulimits": mysql.open_files_ulimit(lab),
        }
        container = lab.run(image, name=name, **options)
        started = time.monotonic()
        first_file = [f"{directory}/ibdata1".strip("/")]
        conditions: dict[str, Callable[[], bool]] = {
            WHILE_FILES: lambda: lab.host.entries("/", first_file)[first_file[0]] is not None,
            WHILE_TEMPORARY: lambda: bool(_PATTERN[STARTS_TEMPORARY].search(lab.logs(container))),
        }
        lab.wait_for(
            f"the step at which to kill it ({when})", conditions[when], _TIMEOUT_S, while_running=container
        )
        lab.kill(container)
        killed_s = time.monotonic() - started
        files = tuple(entry.path for entry in lab.host.directory(directory))
        exit_code, errors, client_result = _restart(lab, container)
        return KilledStart(when, killed_s, files, "mysql" in files, exit_code, errors, client_result)
    finally:
        with suppress(ContainerMissing):
            lab.remove(name, force=True)
        lab.remove_volume(name)


def _restart(lab: Lab, container: Container) -> tuple[int | None, tuple[str, ...], str]:
    """The exit code of the next start, the errors in its log, and what a client gets from it."""
    before = len(lab.logs(container))
    lab.start(container)

    def is_decided() -> bool:
        return not lab.is_running(container) or bool(_PATTERN[READY].search(lab.logs(container)[before:]))

    lab.wait_for("the next start to succeed or to fail", is_decided, _TIMEOUT_S)
    log = lab.logs(container)[before:]
    errors = tuple(dict.fromkeys(_message(line) for line in log.splitlines() if _ERROR.search(line)))[:3]
    state = lab.inspect(container)["State"]
    if not state["Running"]:
        return int(state["ExitCode"]), errors, ""
    output = lab.exec(container, [*_CLIENT, "select 1"])
    return None, errors, "root can log in" if output.exit_code == 0 else _client_error(output.stderr)


def _message(line: str) -> str:
    """A line of the log without its time, thread and error number."""
    return re.sub(r"^\S+ \d+ |\[(ERROR|Server|InnoDB|Entrypoint|MY-\d+)\]:? ?|\S+Z ", "", line).strip()


def _client_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else text.strip()
