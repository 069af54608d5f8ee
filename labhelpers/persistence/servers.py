"""MySQL servers of this chapter: start them with a data directory, wait for them, query them, copy the directory.

Queries run the `mysql` client in the server's container, over its loopback interface: this works on every engine, and
the container needs no network.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.course.mysql import READY_TIMEOUT_S, open_files_ulimit
from labhelpers.engine import responses
from labhelpers.engine.arguments import name_of
from labhelpers.errors import ContainerError, EngineRefused, ExperimentFailed, LabError, ServerRefused
from labhelpers.lab import Output
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

DATA = "/var/lib/mysql"
"""The server's data directory; the image declares it as a VOLUME."""
PASSWORD, DATABASE = "root", "dockertest"
ENVIRONMENT = {"MYSQL_ROOT_PASSWORD": PASSWORD}
FIRST_SESSION_SQL = (
    f"create database {DATABASE}; use {DATABASE}; "
    "create table mytab(c1 int, c2 char); insert into mytab values(1,'a');"
)
ROW = ("1", "a")
STOP_TIMEOUT_S = 300
"""Time limit of a clean stop, in seconds, before the engine kills the server. An idle machine needs one second."""

_POLL_S = 0.1
_COPY_TIMEOUT_S = 600.0
"""Time limit for the copy of a data directory, in seconds; it prints no output."""
# the server that initializes a directory reports port 0; MySQL 5.7 writes two lines
_READY = re.compile(r"ready for connections.*\n?.*port: 3306\b")
# the second line gives the copy a new server_uuid (MySQL 8.4 Reference Manual, 19.1.6)
_COPY = """cp -a /from/. /to/ || exit
[ -z "$0" ] || printf '[auto]\\nserver-uuid=%s\\n' "$0" > /to/auto.cnf
"""
# the capabilities that cp(1) needs to preserve owners and modes
_COPY_OPTIONS: dict[str, Any] = {
    "network": "none",
    "cap_drop": ["ALL"],
    "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
}


@record
class Ready(Result):
    """A server that answers queries."""

    container: str = column("name of the container")
    waited_s: float = column("time until the first answer")

    def __repr__(self) -> str:
        return f"{self.container} answers, after {self.waited_s:.1f} s"


@experiment
def wait_until_ready(lab: Lab, container: Container | str, limit_s: float = READY_TIMEOUT_S) -> Ready:
    """Wait until the server in `container` answers over TCP. While it initializes its directory, it does not.

    Raises:
        ContainerMissing: there is no such container.
        NotRunning, TimedOut: the container exited, or `limit_s` passed.
        ServerRefused: the server does not accept the password of this chapter.
    """
    name = name_of(container)
    begin = time.monotonic()

    def answers() -> bool:
        if not says_ready(lab, name):
            return False
        answer = _client(lab, name, "select 1")
        if "ERROR 1045" in answer.stderr:
            raise ServerRefused(
                f"the MySQL server in {name!r} does not accept the password {PASSWORD!r} for root",
                hint="its data directory was created with another password: start a server with an empty directory",
                engine_message=answer.stderr,
            )
        return answer.exit_code == 0

    with lab.quiet():
        what = "the MySQL server to answer"
        lab.wait_for(what, answers, limit_s, every_s=_POLL_S, while_running=name)
    return Ready(name, time.monotonic() - begin)


def wait_for_ready_log_line(lab: Lab, name: str, limit_s: float = READY_TIMEOUT_S) -> None:
    """Wait until the server reports in its log that it is ready: earlier attempts to connect would fail.

    On a remote engine each attempt is a process in a container.

    Raises:
        ContainerMissing: there is no such container.
        NotRunning, TimedOut: the container exited, or `limit_s` passed.
    """
    what = "the MySQL server to be ready"
    lab.wait_for(what, lambda: says_ready(lab, name), limit_s, every_s=_POLL_S, while_running=name)


def says_ready(lab: Lab, name: str) -> bool:
    """Whether the log since the last start has the message that the server is ready; far cheaper than an `exec`.

    Also true if the log cannot be read: then only a client can check.
    """
    state = lab.inspect(name)["State"]
    started = datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").timestamp()
    try:
        log = lab.logs(name, since=int(started))
    except EngineRefused:
        return True
    return bool(_READY.search(log))


@experiment
def query(lab: Lab, container: Container | str, sql: str) -> list[tuple[str, ...]]:
    """Run SQL as root on the server in `container`; gives the rows of all results, every value as text.

    Raises:
        ServerRefused: the server refuses the statement or does not answer.
    """
    with lab.quiet(essential=["docker exec"]):
        answer = _client(lab, container, sql)
    if answer.exit_code:
        # the first line is a warning about the password on the command line
        lines = [line for line in str(answer).splitlines() if "[Warning]" not in line]
        raise ServerRefused(
            "the MySQL server refused this statement",
            hint="fix the problem in the server's message, then run the cell again",
            engine_message="\n".join(lines),
        )
    return [tuple(line.split("\t")) for line in answer.stdout.splitlines()]


def _client(lab: Lab, container: Container | str, sql: str) -> Output:
    login = ["-uroot", f"-p{PASSWORD}", "--protocol=tcp", "--host=127.0.0.1"]
    try:
        return lab.exec(container, ["mysql", *login, "--batch", "--skip-column-names", "-e", sql])
    except LabError as error:
        return Output(1, "", str(error))


# --- starting and removing


_WAIT_FOR_COPY = "until [ -e /go ]; do sleep 0.1; done; exec docker-entrypoint.sh mysqld"
_FIRST_SQL = "/first.sql"


def start_server(
    lab: Lab, image: str, mount: str | None, arguments: Sequence[str] = (), **options: Any
) -> Container:
    """Start a server in the background.

    Args:
        mount: a volume or a directory of the engine's host for the data directory; None for no `-v` option.
        arguments: of `mysqld`.
        options: as for `lab.run`.
    """
    return lab.run(
        image,
        ["mysqld", *arguments] if arguments else None,
        environment=ENVIRONMENT,
        volumes=[f"{mount}:{DATA}"] if mount else None,
        ulimits=open_files_ulimit(lab),
        **options,
    )


def start_without_volume(
    lab: Lab, image: str, source: str, uuid: str = "", *, first_sql: str = "", **options: Any
) -> Container:
    """Start a server whose data directory is a copy of `source` in the anonymous volume that its image declares.

    The container waits for the copy at its first start only; later starts use the contents of the volume.

    Args:
        uuid: the server_uuid of the copy; "" for that of `source`.
        first_sql: SQL statements, separated by "; ", that the server runs at each start before it accepts connections.
    """
    command = ["sh", "-c", f"{_WAIT_FOR_COPY} --init-file={_FIRST_SQL}" if first_sql else _WAIT_FOR_COPY]
    server = lab.run(
        image, command, environment=ENVIRONMENT, network="none", ulimits=open_files_ulimit(lab), **options
    )
    if first_sql:
        # mysqld reads one statement per line
        lines = first_sql.replace("; ", ";\n")
        lab.exec(server, ["sh", "-c", f'echo "$1" >{_FIRST_SQL} && chmod 644 {_FIRST_SQL}', "sh", lines])
    mounts = lab.inspect(server)["Mounts"]
    copy_volume(lab, source, next(volume_name(each) for each in mounts if each["Destination"] == DATA), uuid)
    lab.exec(server, ["touch", "/go"])
    return server


@experiment
def ulimit_option(lab: Lab) -> str:
    """The `--ulimit` options that a server needs on this engine, or ""; see `course.mysql.open_files_ulimit`."""
    return " ".join(f"--ulimit {name}={limit}:{limit}" for name, limit in open_files_ulimit(lab).items())


def volume_name(mount: Mapping[str, Any]) -> str:
    """The name of the volume of a mount in `docker inspect`; Docker 28 omits it for an anonymous volume."""
    return str(mount.get("Name") or PurePosixPath(mount["Source"]).parent.name)


def remove_server(lab: Lab, container: Container) -> None:
    """Remove the container in any state, with its anonymous volumes; no error if it does not exist."""
    with suppress(LabError):
        lab.remove(container, force=True, volumes=True)


# --- data directories


@experiment
def copy_volume(lab: Lab, source: str, target: str, uuid: str = "") -> None:
    """Copy the volume `source` to `target`: the name of a volume, or a directory of the engine's host.

    Args:
        uuid: the server_uuid of the copy; "" for that of `source`.

    Raises:
        ContainerError: a running container can write to `source`, and the copy would be inconsistent.
        ExperimentFailed: the copy failed.
    """
    users = lab.list_containers(filters={"volume": source})
    # a container that mounts it read-only is most likely making another copy
    writer = next(
        (each for each in users if _mounts_writable(responses.nested_list(each, "Mounts"), source)), None
    )
    if writer:
        name = responses.name(writer)
        raise ContainerError(
            f"the container {name!r} is using the volume {source!r}: a copy would be inconsistent",
            hint=f"stop it first: docker stop {name}",
        )
    with lab.quiet(essential=["docker run --rm"]):
        result = lab.run_once(
            lab.image("payload"),
            ["sh", "-c", _COPY, uuid],
            limit_s=_COPY_TIMEOUT_S,
            volumes=[f"{source}:/from:ro", f"{target}:/to"],
            **_COPY_OPTIONS,
        )
    if result.exit_code:
        raise ExperimentFailed(
            f"the volume {source!r} could not be copied",
            hint="fix the problem in the message of cp, most likely a full disk, then run the cell again",
            engine_message=str(result),
        )


def _mounts_writable(mounts: Sequence[Mapping[str, Any]], volume: str) -> bool:
    return any(each["RW"] for each in mounts if each["Type"] == "volume" and volume_name(each) == volume)


@contextmanager
def temporary_volume(lab: Lab, purpose: str, source: str | None = None) -> Iterator[str]:
    """A volume for the block, empty or a copy of `source`; gives its name."""
    name = f"{purpose}-{lab.session}-{secrets.token_hex(2)}"
    lab.create_volume(name)
    try:
        if source is not None:
            copy_volume(lab, source, name)
        yield name
    finally:
        with suppress(EngineRefused):
            lab.remove_volume(name)


@experiment
def host_directory(lab: Lab, name: str) -> str:
    """Create a directory on the engine's host for a bind mount, in the new volume `name`, with which it is removed.

    A path of the notebook's machine would not exist on a remote engine, or be another directory.
    """
    with lab.quiet(essential=["docker volume create"]):
        lab.create_volume(name)
        make = ["mkdir", "-p", "/to/mysql"]
        lab.run_once(lab.image("payload"), make, volumes=[f"{name}:/to"], network="none")
    return f"{lab.directory_of(name)}/mysql"


@experiment
def data_directory(lab: Lab, image: str, name: str) -> None:
    """Create the volume `name` with a data directory that has the book's table and row, after a clean shutdown."""
    with lab.quiet(essential=["docker volume create", "docker run -d"]):
        lab.create_volume(name)
        server = start_server(lab, image, name, network="none")
        try:
            wait_until_ready(lab, server)
            query(lab, server, FIRST_SESSION_SQL)
            lab.stop(server, timeout_s=STOP_TIMEOUT_S)
        finally:
            remove_server(lab, server)
