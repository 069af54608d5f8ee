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
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from labhelpers.course.mysql import READY_S, open_files
from labhelpers.engine import answers
from labhelpers.engine.once import last_lines
from labhelpers.errors import LabError
from labhelpers.lab import Output
from labhelpers.results import Result

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

DATA = "/var/lib/mysql"
"""Where the server keeps its data directory; the image declares it as a VOLUME."""
PASSWORD, DATABASE = "root", "dockertest"
ENVIRONMENT = {"MYSQL_ROOT_PASSWORD": PASSWORD}
SESSION = (
    f"create database {DATABASE}; use {DATABASE}; "
    "create table mytab(c1 int, c2 char); insert into mytab values(1,'a');"
)
ROW = ("1", "a")
STOP_S = 300
"""How long a clean stop may take before the engine kills: an idle machine needs one second."""

_LOOK_S = 0.1
_COPY_S = 600.0
"""How long a copy of a data directory may take, in seconds; it prints nothing meanwhile."""
_LAST_LINES = 6
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


@dataclass(frozen=True, slots=True)
class Ready(Result):
    """A server that answers.

    Attributes:
        container: its name.
        waited_s: from the call until its first answer.
    """

    container: str
    waited_s: float

    def __repr__(self) -> str:
        return f"{self.container} answers, after {self.waited_s:.1f} s"


def wait(lab: Lab, container: Container | str, limit_s: float = READY_S) -> Ready:
    """Wait until the server in `container` answers over TCP. (The one that initialises a directory has no TCP.)

    Raises:
        LabError: the container ended, `limit_s` passed, or it does not take the password of this chapter.
    """
    name = container if isinstance(container, str) else str(container.name)
    begin = time.monotonic()
    with lab.quiet():
        while _runs(lab, name) and time.monotonic() - begin < limit_s:
            if _says_ready(lab, name):
                said = _client(lab, name, "select 1")
                if said.exit_code == 0:
                    return Ready(name, time.monotonic() - begin)
                if "ERROR 1045" in said.stderr:
                    break
            time.sleep(_LOOK_S)
    words = last_lines(lab.client.api, name, _LAST_LINES)
    raise LabError(
        f"the MySQL server in {name!r} does not answer",
        hint=f"docker logs {name} says how far it came; its last lines are above",
        engine_words=words,
    )


def until_it_says_ready(lab: Lab, name: str, limit_s: float = READY_S) -> None:
    """Wait for the server's own word in its log, or for its end: before that a client need not try.

    On a remote engine each try is a process in a container.
    """
    begin = time.monotonic()
    while _runs(lab, name) and not _says_ready(lab, name) and time.monotonic() - begin < limit_s:
        time.sleep(_LOOK_S)


def _says_ready(lab: Lab, name: str) -> bool:
    """Whether its log says so, since its last start: a look that costs next to nothing, which an `exec` does not.

    Also where no log can be read: then only a client can find out.
    """
    state = lab.client.api.inspect_container(name)["State"]
    begun = datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").timestamp()
    try:
        log = lab.client.api.logs(name, since=int(begun))
    except APIError as error:
        if isinstance(error, NotFound):
            raise
        return True
    return bool(_READY.search(log.decode(errors="replace")))


def ask(lab: Lab, container: Container | str, sql: str) -> list[tuple[str, ...]]:
    """Run SQL as root in the server of `container`; the rows of its answers, every value as text.

    Raises:
        LabError: the server refuses, or does not answer; its words are kept.
    """
    with lab.quiet():
        said = _client(lab, container, sql)
    if said.exit_code:
        # the first line warns of a password on a command line
        words = [line for line in str(said).splitlines() if "[Warning]" not in line]
        raise LabError(
            "the MySQL server did not do it",
            hint="its words say why",
            engine_words="\n".join(words),
        )
    return [tuple(line.split("\t")) for line in said.stdout.splitlines()]


def _client(lab: Lab, container: Container | str, sql: str) -> Output:
    login = ["-uroot", f"-p{PASSWORD}", "--protocol=tcp", "--host=127.0.0.1"]
    try:
        return lab.exec(container, ["mysql", *login, "--batch", "--skip-column-names", "-e", sql])
    except LabError as error:
        return Output(1, "", str(error))


def _runs(lab: Lab, name: str) -> bool:
    try:
        return bool(lab.client.api.inspect_container(name)["State"]["Running"])
    except NotFound as error:
        raise LabError(
            f"there is no container {name!r}",
            hint="run the cell that makes it again",
            engine_words=str(error.explanation),
        ) from None


# --- starting and ending


_HELD = "until [ -e /go ]; do sleep 0.1; done; exec docker-entrypoint.sh mysqld"
_FIRST_SQL = "/first.sql"


def start(
    lab: Lab, image: str, mount: str | None, arguments: Sequence[str] = (), **options: Any
) -> Container:
    """A server in the background, with `mount` (as `-v` takes it, without the inside) at its data directory."""
    return lab.run(
        image,
        ["mysqld", *arguments] if arguments else None,
        environment=ENVIRONMENT,
        volumes=[f"{mount}:{DATA}"] if mount else None,
        ulimits=open_files(lab),
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
    command = ["sh", "-c", f"{_HELD} --init-file={_FIRST_SQL}" if first_sql else _HELD]
    server = lab.run(
        image, command, environment=ENVIRONMENT, network="none", ulimits=open_files(lab), **options
    )
    if first_sql:
        # mysqld reads one statement a line
        lines = first_sql.replace("; ", ";\n")
        lab.exec(server, ["sh", "-c", f'echo "$1" >{_FIRST_SQL} && chmod 644 {_FIRST_SQL}', "sh", lines])
    mounts = lab.client.api.inspect_container(str(server.id))["Mounts"]
    copy(lab, source, next(volume_name(one) for one in mounts if one["Destination"] == DATA), uuid)
    lab.exec(server, ["touch", "/go"])
    return server


def ulimit(lab: Lab) -> str:
    """What a `docker run` of a server needs in addition on this engine: "" or `--ulimit nofile=…`; see `open_files`."""
    return " ".join(f"--ulimit {name}={limit}:{limit}" for name, limit in open_files(lab).items())


def volume_name(mount: Mapping[str, Any]) -> str:
    """The name of a volume as `docker inspect` says it; Docker 28 leaves out that of one which nobody named."""
    return str(mount.get("Name") or PurePosixPath(mount["Source"]).parent.name)


def remove(lab: Lab, container: Container) -> None:
    """Remove it with its volumes that have no name, in whatever state; nothing is said where it is gone."""
    with suppress(LabError):
        lab.remove(container, force=True, volumes=True)


# --- data directories


def copy(lab: Lab, source: str, target: str, uuid: str = "") -> None:
    """Copy the volume `source` to `target`: a volume's name, or a directory of the engine's host.

    Args:
        uuid: the server_uuid that the copy gets; "" for the one of its source.

    Raises:
        LabError: a running container may write to `source`, so what is copied would belong to different moments.
    """
    users: Any = lab.client.api.containers(filters={"volume": source})
    # one that reads is another copy's, most likely: several are made at once
    busy = next((one for one in users if _may_write(answers.rows(one, "Mounts"), source)), None)
    if busy:
        name = answers.name(busy)
        raise LabError(
            f"the container {name!r} runs on the volume {source!r}: a copy would be of different moments",
            hint=f"stop it first: docker stop {name}",
        )
    with lab.quiet():
        done = lab.once(
            lab.image("payload"),
            ["sh", "-c", _COPY, uuid],
            limit_s=_COPY_S,
            volumes=[f"{source}:/from:ro", f"{target}:/to"],
            **_COPIES,
        )
    if done.exit_code:
        raise LabError(
            f"the volume {source!r} could not be copied",
            hint="its words say what it misses: room on the disk, most often",
            engine_words=str(done),
        )


def _may_write(mounts: Sequence[Mapping[str, Any]], volume: str) -> bool:
    return any(one["RW"] for one in mounts if one["Type"] == "volume" and volume_name(one) == volume)


@contextmanager
def a_volume(lab: Lab, purpose: str, source: str | None = None) -> Iterator[str]:
    """A volume that is there for a while, empty or a copy of another one; gives its name."""
    with lab.quiet():
        volume = lab.create_volume(f"{purpose}-{lab.session}-{secrets.token_hex(2)}")
    try:
        if source is not None:
            copy(lab, source, str(volume.name))
        yield str(volume.name)
    finally:
        with suppress(APIError):
            volume.remove()


def host_directory(lab: Lab, name: str) -> str:
    """A directory of the engine's host to bind mount: it lies in the volume `name`, which is made, and goes with it.

    On a remote engine a path of the notebook's machine would name nothing, or something else.
    """
    with lab.quiet():
        volume = lab.create_volume(name)
        maker = lab.run(
            lab.image("payload"), ["mkdir", "-p", "/to/mysql"], volumes=[f"{name}:/to"], network="none"
        )
        try:
            maker.wait()
        finally:
            remove(lab, maker)
    return f"{volume.attrs['Mountpoint']}/mysql"


def data_directory(lab: Lab, image: str, name: str) -> None:
    """Make the volume `name` with a data directory in it that has the book's table and row, stopped cleanly."""
    with lab.quiet():
        lab.create_volume(name)
        server = start(lab, image, name, network="none")
        try:
            wait(lab, server)
            ask(lab, server, SESSION)
            lab.stop(server, timeout_s=STOP_S)
        finally:
            remove(lab, server)
