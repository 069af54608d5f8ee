"""The exercises of the chapter on data that outlive their container.

A data directory is identified by its `server_uuid`: the lab gives each copy its own, and a server that starts on an
empty directory generates a new one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from labhelpers.course.checks import all_of, are_running, is_anonymous, mounts, not_persistent, runs
from labhelpers.course.containers import container_named, running, session_value, setup_container
from labhelpers.course.exercises import Check, Exercise, Task
from labhelpers.errors import LabError
from labhelpers.lab import sessions
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.persistence import data_location, servers
from labhelpers.persistence.data_location import ANONYMOUS_VOLUME, BIND, CONTAINER_LAYER, VOLUME, DataLocation
from labhelpers.persistence.kills import FLUSHED_AT_COMMIT, WRITTEN_EACH_SECOND
from labhelpers.persistence.servers import (
    DATA,
    DATABASE,
    ROW,
    copy_volume,
    start_server,
    start_without_volume,
)

if TYPE_CHECKING:
    from labhelpers.lab import Lab

PROOF, PROOF_DATA = all_with_suffix("proof", "proof-data")
SCHOOL = with_suffix("school")
FORGETFUL, KEEPER = all_with_suffix("forgetful", "keeper")
BANK, BANK_DATA = all_with_suffix("bank", "bank-data")
# a server that is killed as soon as it answers does not pass
SETTLE_S = 0.5
MARKS = "kept_marks"
LOGIN_HINT = "`docker logs` shows its last messages."


# --- servers


def query(lab: Lab, name: str, sql: str) -> list[tuple[str, ...]]:
    """The rows that the server of a container returns; a check shows no command."""
    with lab.hidden():
        return servers.query(lab, name, sql)


def find_data_location(lab: Lab, name: str) -> DataLocation:
    """Where a container keeps its data directory; a check shows no command."""
    with lab.hidden():
        return data_location.find_data_location(lab, name)


def _server_in(lab: Lab, name: str) -> str | None:
    """Why no MySQL server of a container answers, for the reader; None if one does.

    It is a server that keeps its data at `DATA` and runs in that container: any other program cannot compute the
    SHA-256 of a random word, or has another host name.
    """
    container = running(lab, name)
    word = secrets.token_hex(8)
    try:
        rows = query(lab, str(container.name), f"select sha2('{word}', 256), @@hostname, @@datadir")
    except LabError as error:
        message = str(error.engine_message)
        if "executable file not found" in message:
            return f"{name} has no MySQL: it was made from another image"
        if "1045" in message:
            return f"the server in {name} takes another password than root"
        return f"no MySQL server answers in {name}, or not yet"
    digest, host, directory = rows[0] if len(rows) == 1 and len(rows[0]) == 3 else ("", "", "")
    if digest != hashlib.sha256(word.encode()).hexdigest():
        return f"what answers in {name} is no MySQL server"
    own = container.attrs["Config"].get("Hostname")
    if own and host != own and not container.attrs["HostConfig"].get("UTSMode"):
        return f"it is not {name} that answers, but a server on {host}"
    if directory.rstrip("/") != DATA:
        return f"the server in {name} keeps its data in {directory}, and not in {DATA}"
    return None


def _answers(name: str) -> Check:
    """A MySQL server answers in a running container."""
    return all_of(are_running(name), lambda lab: _server_in(lab, name))


def _has_data(name: str, server_uuid: str) -> Check:
    """The server of a container has the data directory with that `server_uuid`, and the row."""

    def check(lab: Lab) -> str | None:
        if query(lab, name, "select @@server_uuid") == [(server_uuid,)]:
            return None
        return f"the server in {name} has another data directory: its server_uuid is not the one of yours"

    return all_of(lambda lab: _server_in(lab, name), check, _has_row(name))


def _has_row(name: str) -> Check:
    """The table of the book has its one row."""

    def check(lab: Lab) -> str | None:
        try:
            rows = query(lab, name, f"select * from {DATABASE}.mytab")
        except LabError as error:
            return str(error.engine_message)
        if rows == [ROW]:
            return None
        return f"mytab has {len(rows)} rows, and should have the one row {' '.join(ROW)}"

    return check


def _server_uuid(lab: Lab, exercise: str, set_up: Callable[[str], object]) -> str:
    """The server_uuid of an exercise's data; `set_up` creates the data, once in a session."""

    def create() -> str:
        server_uuid = str(uuid.uuid4())
        with lab.hidden():
            set_up(server_uuid)
        return server_uuid

    server_uuid = session_value(lab, f"{exercise} server_uuid", create)
    session_value(lab, "server_uuids", lambda: set[str]()).add(server_uuid)
    return server_uuid


# --- the book's proof


def proof(lab: Lab, source: str) -> Exercise:
    """Prove that the data outlive a container; the book runs centos again, which mounts nothing of the database.

    Promise: a MySQL server in that container answers with the row, from the data directory that the lab created: its
    server_uuid is random, and the server's own `datadir` is where the volume is mounted.
    """

    def set_up(server_uuid: str) -> None:
        lab.create_volume(PROOF_DATA)
        copy_volume(lab, source, PROOF_DATA, server_uuid)

    server_uuid = _server_uuid(lab, PROOF, set_up)
    tasks = (
        runs(PROOF, _proof_hint),
        Task("mounted", f"Its {DATA} is the volume {PROOF_DATA}", _proof_mounted, _proof_hint, ("runs",)),
        Task(
            "shows",
            "A MySQL server in it answers with the row of mytab out of that volume",
            _has_data(PROOF, server_uuid),
            "Files alone prove little. Which image has a program that reads them as tables?",
            ("mounted",),
        ),
    )
    return Exercise(lab, "08", "proof", "A proof in place of the book's", tasks, SETTLE_S, (PROOF,))


def _proof_mounted(lab: Lab) -> str | None:
    if find_data_location(lab, PROOF).kind == ANONYMOUS_VOLUME:
        return f"{DATA} of {PROOF} is a new volume that nobody named, not {PROOF_DATA}"
    return mounts(PROOF, DATA, PROOF_DATA)(lab)


def _proof_hint(lab: Lab) -> str:
    container = container_named(lab, PROOF)
    if container is None:
        return (
            f"The data are in the volume {PROOF_DATA}: a stopped database. Which program reads them, and where does it "
            "look?"
        )
    points = [mount["Destination"] for mount in container.attrs["Mounts"] if mount.get("Name") == PROOF_DATA]
    if points and points != [DATA]:
        return f"The volume is mounted at {points[0]}. MySQL looks in {DATA}."
    if container.status != "running":
        return f"A container lives as long as its first process. {LOGIN_HINT}"
    return f"Mounts are set when a container is created: {PROOF} has to be made anew, with a mount."


# --- the book's session, repaired


def session(lab: Lab) -> Exercise:
    """Run the book's session from its beginning: `use dockertest;` finds no database until it is created.

    Promise: the table is a table of a *new* server, not of a data directory in which an earlier cell had created it.
    """
    known = session_value(lab, "known server_uuids", lambda: _existing_server_uuids(lab))
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in a container {SCHOOL}, with the password root",
            all_of(_answers(SCHOOL), lambda lab: _is_old(lab, known)),
            "The first start of a server takes some seconds: `docker logs` shows its progress.",
        ),
        Task(
            "database",
            f"It has a database {DATABASE}",
            _has_database,
            "`use` selects a database that exists. Which statement makes one?",
            ("answers",),
        ),
        Task(
            "table",
            f"In {DATABASE} there is a table mytab with the columns c1 int and c2 char",
            _has_table,
            "A table belongs to the database that is in use, or that is named in front of it.",
            ("database",),
        ),
        Task(
            "row",
            "It has one row: 1, a",
            _has_row(SCHOOL),
            "Each run of the book's insert adds a row, also the second one.",
            ("table",),
        ),
    )
    return Exercise(lab, "08", "session", "The book's session, repaired", tasks, SETTLE_S, (SCHOOL,))


def _existing_server_uuids(lab: Lab) -> frozenset[str]:
    """The server_uuid of every data directory that the notebook has so far."""
    rows = [row for row in lab.list_volumes() if (row["Labels"] or {}).get(sessions.SESSION) == lab.session]
    paths = [f"{row['Mountpoint']}/auto.cnf" for row in rows if row.get("Mountpoint")]
    texts = lab.host.read_many(paths).values()
    matches = (re.search(r"^server[-_]uuid\s*=\s*(\S+)", text or "", re.M) for text in texts)
    return frozenset(match[1] for match in matches if match)


def _is_old(lab: Lab, known: frozenset[str]) -> str | None:
    ((server_uuid,),) = query(lab, SCHOOL, "select @@server_uuid")
    if server_uuid in known | session_value(lab, "server_uuids", lambda: set[str]()):
        return f"the server in {SCHOOL} has the data of an earlier one: begin with an empty directory"
    return None


def _has_database(lab: Lab) -> str | None:
    exists = (DATABASE,) in query(lab, SCHOOL, "show databases")
    return None if exists else f"it has no database {DATABASE}"


def _has_table(lab: Lab) -> str | None:
    columns = "select table_schema, column_name, data_type from information_schema.columns"
    tables = "select table_type from information_schema.tables where table_name = 'mytab'"
    if query(lab, SCHOOL, f"{tables} and table_schema = '{DATABASE}'") not in ([], [("BASE TABLE",)]):
        return f"mytab of {DATABASE} is a view, and no table"
    rows = query(lab, SCHOOL, f"{columns} where table_name = 'mytab' order by 1, 2")
    own = [tuple(column) for schema, *column in rows if schema == DATABASE]
    if own == [("c1", "int"), ("c2", "char")]:
        return None
    if own:
        return f"mytab of {DATABASE} has other columns: {', '.join(map(' '.join, own))}"
    if rows:
        return f"there is a table mytab, but in the database {rows[0][0]}"
    return f"{DATABASE} has no table mytab"


# --- from an anonymous volume into a named one


def move(lab: Lab, image: str, source: str) -> Exercise:
    """Save the data of a container that was created without a named volume.

    Promise: a server in `keeper` has the rows of `forgetful`, in a place that can be found again. Its files may have
    been copied (the server_uuid is the same), or its tables dumped and loaded (one of them has a random word).

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's row and is not in use.
    """

    def set_up(server_uuid: str) -> None:
        sql = _mark(server_uuid)
        start_server = partial(
            start_without_volume, lab, image, source, server_uuid, first_sql=sql, name=FORGETFUL
        )
        setup_container(lab, FORGETFUL, start_server)

    server_uuid = _server_uuid(lab, FORGETFUL, set_up)
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in a container {KEEPER}, with the password root",
            _answers(KEEPER),
            _move_hint,
        ),
        Task(
            "named",
            f"Its {DATA} is a volume with a name that a person can remember, or a directory of the host",
            _has_name,
            f"What does `docker inspect` list as mounted in {FORGETFUL}? That is what you want under a name.",
            ("answers",),
        ),
        Task(
            "same",
            f"It has the data of {FORGETFUL}",
            lambda lab: _has_the_data(lab, server_uuid),
            _move_hint,
            ("named",),
        ),
    )
    return Exercise(lab, "08", "move", "Data without a name", tasks, SETTLE_S, (KEEPER,))


def _mark(word: str) -> str:
    """SQL that puts a word into a table of the book's database; it may be run at every start."""
    table = f"{DATABASE}.{MARKS}"
    return f"create table if not exists {table}(word char(36) primary key); replace into {table} values('{word}');"


def _has_the_data(lab: Lab, server_uuid: str) -> str | None:
    """By the server_uuid, or by the word: a dump that was loaded into a new server has only the word."""
    if missing := _server_in(lab, KEEPER):
        return missing
    tables = f"select table_name from information_schema.tables where table_schema = '{DATABASE}'"
    has_marks = (MARKS,) in query(lab, KEEPER, tables)
    marks = query(lab, KEEPER, f"select word from {DATABASE}.{MARKS}") if has_marks else []
    check = _has_row(KEEPER) if (server_uuid,) in marks else _has_data(KEEPER, server_uuid)
    return check(lab)


def _has_name(lab: Lab) -> str | None:
    data = find_data_location(lab, KEEPER)
    if data.kind == VOLUME and (missing := not_persistent(lab, data.name)):
        return missing
    if data.kind == BIND or (
        data.kind not in (CONTAINER_LAYER, ANONYMOUS_VOLUME) and not is_anonymous(data.name)
    ):
        return None
    return f"{DATA} of {KEEPER} is a {data.kind} {data.volume}".replace(data.name, f"{data.name[:12]}…")


def _move_hint(lab: Lab) -> str:
    old, new = container_named(lab, FORGETFUL), container_named(lab, KEEPER)
    if old is None and new is None:
        return (
            f"{FORGETFUL} is gone. After `docker rm`, its volume still exists: `docker volume ls` has a filter for "
            "those that no container uses. After `docker rm -v` it is lost: restart the notebook."
        )
    if new is not None and "Unable to lock" in lab.last_lines(new, 50):
        return "Two servers want one data directory. Stop the first one."
    if old is not None and old.status == "running" and new is None:
        return f"Stop {FORGETFUL} before you copy: the files of a running server are not consistent."
    return (
        "A container that mounts two volumes can copy one into the other: `cp -a`. An empty directory is filled with "
        "a new database by the first server that starts on it."
    )


# --- durability restored


def bank(lab: Lab, image: str, source: str) -> Exercise:
    """Make a server durable that was set up to be fast, without losing its data.

    Promise: every commit waits for the disk, now and after the next start. The server reports the values in effect,
    and their source: `performance_schema.variables_info` says which values were set while it ran.

    Args:
        image, source: as for `move`.
    """

    def set_up(server_uuid: str) -> None:
        lab.create_volume(BANK_DATA)
        copy_volume(lab, source, BANK_DATA, server_uuid)
        start_server(lab, image, BANK_DATA, WRITTEN_EACH_SECOND.arguments, name=BANK, network="none")

    server_uuid = _server_uuid(lab, BANK, set_up)
    tasks = (
        Task("answers", f"A MySQL server answers in the container {BANK}", _answers(BANK), LOGIN_HINT),
        Task(
            "same",
            f"It has the data of the volume {BANK_DATA}",
            _has_data(BANK, server_uuid),
            f"A new container needs the volume of the old one, {BANK_DATA}.",
            ("answers",),
        ),
        Task(
            "safe",
            "Every commit is on the disk before it is acknowledged",
            _is_safe,
            "Two logs are flushed at a commit, InnoDB's and the binary log. `select @@…` shows both settings.",
            ("same",),
        ),
        Task(
            "stays",
            "That stays so after a restart: it is what the server starts with",
            _stays_safe,
            _stays_hint,
            ("safe",),
        ),
    )
    return Exercise(lab, "08", "bank", "A bank that may lose nothing", tasks, SETTLE_S, (BANK,))


FLUSH, SYNC, METHOD = "innodb_flush_log_at_trx_commit", "sync_binlog", "innodb_flush_method"


def _is_safe(lab: Lab) -> str | None:
    rows = query(lab, BANK, f"select @@{FLUSH}, @@{SYNC}, @@{METHOD}, @@log_bin")
    flush, sync, method, has_binlog = rows[0]
    if method.lower() in ("nosync", "littlesync"):
        return f"{METHOD} is {method}: nothing is flushed to the disk"
    # without a binary log there is one log to flush
    if flush == str(FLUSHED_AT_COMMIT.flush) and (sync == str(FLUSHED_AT_COMMIT.sync) or has_binlog == "0"):
        return None
    return f"{FLUSH} is {flush}, {SYNC} is {sync}"


def _stays_safe(lab: Lab) -> str | None:
    """None if the server started with both values, or will start with them next time."""
    table = "performance_schema.variables_info"
    rows = query(
        lab,
        BANK,
        f"select variable_name, variable_source, coalesce(set_user, '') from {table} "
        f"where variable_name in ('{FLUSH}', '{SYNC}')",
    )
    if {name for name, *_ in rows} != {FLUSH, SYNC}:
        return "the server does not report the source of its settings: start it with its performance schema"
    # boot: an --init-file, which is read at every start
    dynamic = {name for name, source, user in rows if source == "DYNAMIC" and user != "boot"}
    persisted = query(lab, BANK, "select * from performance_schema.persisted_variables") if dynamic else []
    loads = dynamic and query(lab, BANK, "select @@persisted_globals_load") == [("1",)]
    safe = {(FLUSH, str(FLUSHED_AT_COMMIT.flush)), (SYNC, str(FLUSHED_AT_COMMIT.sync))}
    lost = sorted(dynamic - {name for name, value in persisted if loads and (name, value) in safe})
    return (
        f"{' and '.join(lost)} was set in the running server: it is lost at its next start" if lost else None
    )


def _stays_hint(lab: Lab) -> str:
    options = _durability_options(running(lab, BANK).attrs)
    if options:
        return (
            "What you set in a running server is gone at its next start, and its command line has "
            f"{' '.join(options)}. The arguments of a container never change."
        )
    return (
        "Restart it, and look again: what does it start with? A configuration file is read at the start only."
    )


def _durability_options(attrs: dict[str, Any]) -> list[str]:
    """The arguments of a command line about the two settings."""
    pattern = r"--(innodb[-_]flush[-_]log[-_]at[-_]trx[-_]commit|sync[-_]binlog)(=.*)?"
    return [argument for argument in attrs["Args"] if re.fullmatch(pattern, argument)]
