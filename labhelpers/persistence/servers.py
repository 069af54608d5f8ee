"""MySQL servers of this chapter: started on a data directory, waited for, asked, and their directories copied.

They are asked with the `mysql` of their own container, over its loopback: that works on every engine, and a
container needs no network for it.
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

from labhelpers.course.mysql import READY_TIMEOUT_S, open_files_ulimit
from labhelpers.engine import responses
from labhelpers.errors import ContainerError, EngineRefused, LabError, ServerRefused
from labhelpers.lab import Output
from labhelpers.lab.base import name_of
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

DATA = "/var/lib/mysql"
"""Where the server keeps its data directory; the image declares it as a VOLUME."""
PASSWORD, DATABASE = "root", "dockertest"
ENVIRONMENT = {"MYSQL_ROOT_PASSWORD": PASSWORD}
FIRST_SESSION_SQL = (
    f"create database {DATABASE}; use {DATABASE}; "
    "create table mytab(c1 int, c2 char); insert into mytab values(1,'a');"
)
ROW = ("1", "a")
STOP_TIMEOUT_S = 300
"""How long a clean stop may take before the engine kills: an idle machine needs one second."""

_POLL_S = 0.1
_COPY_TIMEOUT_S = 600.0
"""How long a copy of a data directory may take, in seconds; it prints nothing meanwhile."""
# the server that initialises a directory says port 0; MySQL 5.7 writes two lines
_READY = re.compile(r"ready for connections.*\n?.*port: 3306\b")
# the second line gives the copy a server_uuid of its own (MySQL 8.4 Reference Manual, 19.1.6)
_COPY = """cp -a /from/. /to/ || exit
[ -z "$0" ] || printf '[auto]\\nserver-uuid=%s\\n' "$0" > /to/auto.cnf
"""
# of root's capabilities, those that cp(1) needs to keep owners and modes
_COPIES: dict[str, Any] = {
    "network": "none",
    "cap_drop": ["ALL"],
    "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
}


@record
class Ready(Result):
    """A server that answers."""

    container: str = column("its name")
    waited_s: float = column("from the call until its first answer")

    def __repr__(self) -> str:
        return f"{self.container} answers, after {self.waited_s:.1f} s"


def wait_until_ready(lab: Lab, container: Container | str, limit_s: float = READY_TIMEOUT_S) -> Ready:
    """Wait until the server in `container` answers over TCP. (The one that initialises a directory has no TCP.)

    Raises:
        ContainerMissing: there is no such container.
        NotRunning, TimedOut: the container ended, or `limit_s` passed.
        ServerRefused: it does not take the password of this chapter.
    """
    name = name_of(container)
    begin = time.monotonic()

    def answers() -> bool:
        if not says_ready(lab, name):
            return False
        answer = _client(lab, name, "select 1")
        if "ERROR 1045" in answer.stderr:
            raise ServerRefused(
                f"the MySQL server in {name!r} does not take the password {PASSWORD!r} for root",
                hint="its data directory was made with another one: start a server on an empty directory",
                engine_message=answer.stderr,
            )
        return answer.exit_code == 0

    with lab.quiet():
        what = "the MySQL server to answer"
        lab.wait_for(what, answers, limit_s, every_s=_POLL_S, while_running=name)
    return Ready(name, time.monotonic() - begin)


def wait_for_ready_log_line(lab: Lab, name: str, limit_s: float = READY_TIMEOUT_S) -> None:
    """Wait until the server's log says that it is ready: before that a client need not try.

    On a remote engine each try is a process in a container.

    Raises:
        ContainerMissing: there is no such container.
        NotRunning, TimedOut: the container ended, or `limit_s` passed.
    """
    what = "the MySQL server to be ready"
    lab.wait_for(what, lambda: says_ready(lab, name), limit_s, every_s=_POLL_S, while_running=name)


def says_ready(lab: Lab, name: str) -> bool:
    """Whether its log since its last start says so, which is much cheaper than an `exec`.

    Also true where no log can be read: then only a client can find out.
    """
    state = lab.inspect(name)["State"]
    begun = datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").timestamp()
    try:
        log = lab.logs(name, since=int(begun))
    except EngineRefused:
        return True
    return bool(_READY.search(log))


def query(lab: Lab, container: Container | str, sql: str) -> list[tuple[str, ...]]:
    """Run SQL as root in the server of `container`; the rows of its answers, every value as text.

    Raises:
        ServerRefused: the server refuses, or does not answer; its message is kept.
    """
    with lab.quiet(essential=["docker exec"]):
        answer = _client(lab, container, sql)
    if answer.exit_code:
        # the first line warns of a password on a command line
        words = [line for line in str(answer).splitlines() if "[Warning]" not in line]
        raise ServerRefused(
            "the MySQL server refused this statement",
            hint="fix what its message names, then run the cell again",
            engine_message="\n".join(words),
        )
    return [tuple(line.split("\t")) for line in answer.stdout.splitlines()]


def _client(lab: Lab, container: Container | str, sql: str) -> Output:
    login = ["-uroot", f"-p{PASSWORD}", "--protocol=tcp", "--host=127.0.0.1"]
    try:
        return lab.exec(container, ["mysql", *login, "--batch", "--skip-column-names", "-e", sql])
    except LabError as error:
        return Output(1, "", str(error))


# --- starting and ending


_WAIT_FOR_COPY = "until [ -e /go ]; do sleep 0.1; done; exec docker-entrypoint.sh mysqld"
_FIRST_SQL = "/first.sql"


def start_server(
    lab: Lab, image: str, mount: str | None, arguments: Sequence[str] = (), **options: Any
) -> Container:
    """A server in the background, with `mount` (as `-v` takes it, without the inside) at its data directory."""
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
    """A server whose data directory is a copy of `source` in the volume without a name that the image declares.

    The server is held until the copy is there, once: a later start finds what is in the volume, whatever that is.

    Args:
        first_sql: one line of SQL that the server runs at each start, before it accepts connections.
    """
    command = ["sh", "-c", f"{_WAIT_FOR_COPY} --init-file={_FIRST_SQL}" if first_sql else _WAIT_FOR_COPY]
    server = lab.run(
        image, command, environment=ENVIRONMENT, network="none", ulimits=open_files_ulimit(lab), **options
    )
    if first_sql:
        # mysqld reads one statement a line
        lines = first_sql.replace("; ", ";\n")
        lab.exec(server, ["sh", "-c", f'echo "$1" >{_FIRST_SQL} && chmod 644 {_FIRST_SQL}', "sh", lines])
    mounts = lab.inspect(server)["Mounts"]
    copy_volume(lab, source, next(volume_name(one) for one in mounts if one["Destination"] == DATA), uuid)
    lab.exec(server, ["touch", "/go"])
    return server


def ulimit_option(lab: Lab) -> str:
    """What `docker run` of a server also needs on this engine: "" or `--ulimit nofile=…`; see `open_files_ulimit`."""
    return " ".join(f"--ulimit {name}={limit}:{limit}" for name, limit in open_files_ulimit(lab).items())


def volume_name(mount: Mapping[str, Any]) -> str:
    """The name of a volume as `docker inspect` says it; Docker 28 leaves out that of one which nobody named."""
    return str(mount.get("Name") or PurePosixPath(mount["Source"]).parent.name)


def remove_server(lab: Lab, container: Container) -> None:
    """Remove it with its anonymous volumes, in whatever state; nothing happens where it is gone already."""
    with suppress(LabError):
        lab.remove(container, force=True, volumes=True)


# --- data directories


def copy_volume(lab: Lab, source: str, target: str, uuid: str = "") -> None:
    """Copy the volume `source` to `target`: a volume's name, or a directory of the engine's host.

    Args:
        uuid: the server_uuid that the copy gets; "" for the one of its source.

    Raises:
        ContainerError: a running container may write to `source`, so the copy would be of different moments; or the
            copy failed.
    """
    users = lab.list_containers(filters={"volume": source})
    # one that reads is another copy's, most likely: several are made at once
    busy = next(
        (one for one in users if _mounts_writable(responses.nested_list(one, "Mounts"), source)), None
    )
    if busy:
        name = responses.name(busy)
        raise ContainerError(
            f"the container {name!r} runs on the volume {source!r}: a copy would be of different moments",
            hint=f"stop it first: docker stop {name}",
        )
    with lab.quiet(essential=["docker run --rm"]):
        done = lab.run_once(
            lab.image("payload"),
            ["sh", "-c", _COPY, uuid],
            limit_s=_COPY_TIMEOUT_S,
            volumes=[f"{source}:/from:ro", f"{target}:/to"],
            **_COPIES,
        )
    if done.exit_code:
        raise ContainerError(
            f"the volume {source!r} could not be copied",
            hint="fix what the message of cp names, most often a full disk, then run the cell again",
            engine_message=str(done),
        )


def _mounts_writable(mounts: Sequence[Mapping[str, Any]], volume: str) -> bool:
    return any(one["RW"] for one in mounts if one["Type"] == "volume" and volume_name(one) == volume)


@contextmanager
def temporary_volume(lab: Lab, purpose: str, source: str | None = None) -> Iterator[str]:
    """The name of a volume for the block, empty or a copy of another one."""
    name = f"{purpose}-{lab.session}-{secrets.token_hex(2)}"
    lab.create_volume(name)
    try:
        if source is not None:
            copy_volume(lab, source, name)
        yield name
    finally:
        with suppress(EngineRefused):
            lab.remove_volume(name)


def host_directory(lab: Lab, name: str) -> str:
    """A directory of the engine's host to bind mount: it lies in the volume `name`, which is made, and goes with it.

    On a remote engine a path of the notebook's machine would name nothing, or something else.
    """
    with lab.quiet(essential=["docker volume create"]):
        lab.create_volume(name)
        make = ["mkdir", "-p", "/to/mysql"]
        lab.run_once(lab.image("payload"), make, volumes=[f"{name}:/to"], network="none")
    return f"{lab.directory_of(name)}/mysql"


def data_directory(lab: Lab, image: str, name: str) -> None:
    """Make the volume `name` with a data directory in it that has the book's table and row, stopped cleanly."""
    with lab.quiet(essential=["docker volume create", "docker run -d"]):
        lab.create_volume(name)
        server = start_server(lab, image, name, network="none")
        try:
            wait_until_ready(lab, server)
            query(lab, server, FIRST_SESSION_SQL)
            lab.stop(server, timeout_s=STOP_TIMEOUT_S)
        finally:
            remove_server(lab, server)
