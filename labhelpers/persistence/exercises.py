"""The exercises of the chapter on data that outlive their container.

A data directory is told from others by its `server_uuid`: the lab gives each copy one of its own, and whoever starts an
empty directory gets a new one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from typing import TYPE_CHECKING, Any

from labhelpers.course.exercises import Exercise, Task, container_named, given, not_running, running
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
# a server that is killed as soon as it answers is no answer
SETTLE_S = 0.5
MARKS = "kept_marks"
_known: dict[str, frozenset[str]] = {}
"""session → the server_uuids that there were before its exercise on a new server."""
_NO_NAME = re.compile(r"[0-9a-f]{64}")
_uuids: dict[tuple[str, str], str] = {}
"""(session, exercise) → the server_uuid of its data directory: the cell that is run again keeps it."""


# --- looking


def ask(lab: Lab, name: str, sql: str) -> list[tuple[str, ...]]:
    """The rows that the server of a container gives; a check shows no command."""
    with lab.hidden():
        return servers.query(lab, name, sql)


def place(lab: Lab, name: str) -> DataLocation:
    """Where a container keeps its data directory; a check shows no command."""
    with lab.hidden():
        return data_location.find_data_location(lab, name)


def _server_in(lab: Lab, name: str) -> str | None:
    """Why no MySQL server of a container answers, to the reader; None where one does.

    It is a server that keeps its data at `DATA` and runs in that container: whatever else answers there computes no
    SHA-256 of a word that is drawn now, or has another host name.
    """
    container = running(lab, name)
    word = secrets.token_hex(8)
    try:
        rows = ask(lab, str(container.name), f"select sha2('{word}', 256), @@hostname, @@datadir")
    except LabError as error:
        words = str(error.engine_message)
        if "executable file not found" in words:
            return f"{name} has no MySQL: it was made from another image"
        if "1045" in words:
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


def _answers(lab: Lab, name: str) -> str | None:
    return not_running(lab, name) or _server_in(lab, name)


def _is_its_data(lab: Lab, name: str, wanted: str) -> str | None:
    if missing := _server_in(lab, name):
        return missing
    if ask(lab, name, "select @@server_uuid") != [(wanted,)]:
        return f"the server in {name} has another data directory: its server_uuid is not the one of yours"
    return _row(lab, name)


def _row(lab: Lab, name: str) -> str | None:
    try:
        rows = ask(lab, name, f"select * from {DATABASE}.mytab")
    except LabError as error:
        return str(error.engine_message)
    if rows == [ROW]:
        return None
    return f"mytab has {len(rows)} rows, and should have the one row {' '.join(ROW)}"


def _uuid(lab: Lab, exercise: str) -> tuple[str, bool]:
    """The server_uuid of an exercise's data, and whether it is new."""
    key = (lab.session, exercise)
    is_new = key not in _uuids
    return _uuids.setdefault(key, str(uuid.uuid4())), is_new


# --- the book's proof


def proof(lab: Lab, source: str) -> Exercise:
    """Prove that the data outlive a container; the book runs centos again, which mounts nothing of the database.

    Promise: a MySQL server in that container answers with the row, out of the data directory that the lab made: its
    server_uuid is drawn, and the server's own `datadir` is where the volume is mounted.
    """
    wanted, is_new = _uuid(lab, PROOF)
    if is_new:
        with lab.hidden():
            lab.create_volume(PROOF_DATA)
            copy_volume(lab, source, PROOF_DATA, wanted)
    tasks = (
        Task("runs", f"A container {PROOF} runs", lambda lab: not_running(lab, PROOF), _proof_hint),
        Task(
            "mounted",
            f"Its {DATA} is the volume {PROOF_DATA}",
            lambda lab: _proof_mounted(lab),
            _proof_hint,
            ("runs",),
        ),
        Task(
            "shows",
            "A MySQL server in it answers with the row of mytab out of that volume",
            lambda lab: _is_its_data(lab, PROOF, wanted),
            "Files alone prove little. Which image has a program that reads them as tables?",
            ("mounted",),
        ),
    )
    return Exercise(lab, "08", "proof", "A proof in place of the book's", tasks, SETTLE_S, (PROOF,))


def _proof_mounted(lab: Lab) -> str | None:
    found = place(lab, PROOF)
    if found.kind == CONTAINER_LAYER:
        return f"nothing is mounted at {DATA} of {PROOF}: what is in it has nothing to do with the database"
    if found.kind == ANONYMOUS_VOLUME:
        return f"{DATA} of {PROOF} is a new volume that nobody named, not {PROOF_DATA}"
    return None if found.name == PROOF_DATA else f"something else is mounted at {DATA} of {PROOF}"


def _proof_hint(lab: Lab) -> str:
    container = container_named(lab, PROOF)
    if container is None:
        return f"The data are in the volume {PROOF_DATA}: a stopped database. Who reads them, and where does it look?"
    points = [one["Destination"] for one in container.attrs["Mounts"] if one.get("Name") == PROOF_DATA]
    if points and points != [DATA]:
        return f"The volume is mounted at {points[0]}. MySQL looks in {DATA}."
    if container.status != "running":
        return "A container lives as long as its first process. `docker logs` tells what that one said last."
    return f"A container sees a volume only where it was made with it. {PROOF} has to be made anew, with a mount."


# --- the book's session, repaired


def session(lab: Lab) -> Exercise:
    """Run the book's session from its beginning: `use dockertest;` finds no database until there is one.

    Promise: the table is a table of a *new* server, not of a data directory in which an earlier cell had made it.
    """
    before = _known.setdefault(lab.session, _kept_uuids(lab))
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in a container {SCHOOL}, with the password root",
            lambda lab: _answers(lab, SCHOOL) or _is_old(lab, before),
            "The first start of a server takes some seconds: `docker logs` tells how far it is.",
        ),
        Task(
            "database",
            f"It has a database {DATABASE}",
            lambda lab: (
                None
                if (DATABASE,) in ask(lab, SCHOOL, "show databases")
                else f"it has no database {DATABASE}"
            ),
            "`use` goes into a database that is there. Which statement makes one?",
            ("answers",),
        ),
        Task(
            "table",
            f"In {DATABASE} there is a table mytab with the columns c1 int and c2 char",
            _table,
            "A table belongs to the database that is in use, or that stands before its name.",
            ("database",),
        ),
        Task(
            "row",
            "It has one row: 1, a",
            lambda lab: _row(lab, SCHOOL),
            "Each run of the book's insert adds a row, also the second one.",
            ("table",),
        ),
    )
    return Exercise(lab, "08", "session", "The book's session, repaired", tasks, SETTLE_S, (SCHOOL,))


def _kept_uuids(lab: Lab) -> frozenset[str]:
    """The server_uuid of every data directory that the notebook has so far."""
    rows = [row for row in lab.list_volumes() if (row["Labels"] or {}).get(sessions.SESSION) == lab.session]
    paths = [f"{row['Mountpoint']}/auto.cnf" for row in rows if row.get("Mountpoint")]
    texts = lab.host.read_many(paths).values()
    found = (re.search(r"^server[-_]uuid\s*=\s*(\S+)", text or "", re.M) for text in texts)
    return frozenset(one[1] for one in found if one)


def _is_old(lab: Lab, before: frozenset[str]) -> str | None:
    ((uuid,),) = ask(lab, SCHOOL, "select @@server_uuid")
    old = before | {known for (session, _), known in _uuids.items() if session == lab.session}
    return (
        f"the server in {SCHOOL} has the data of an earlier one: begin with an empty directory"
        if uuid in old
        else None
    )


def _table(lab: Lab) -> str | None:
    columns = "select table_schema, column_name, data_type from information_schema.columns"
    query = f"{columns} where table_name = 'mytab' order by 1, 2"
    tables = "select table_type from information_schema.tables where table_name = 'mytab'"
    if ask(lab, SCHOOL, f"{tables} and table_schema = '{DATABASE}'") not in ([], [("BASE TABLE",)]):
        return f"mytab of {DATABASE} is a view, and no table"
    found = ask(lab, SCHOOL, query)
    here = [row[1:] for row in found if row[0] == DATABASE]
    if here == [("c1", "int"), ("c2", "char")]:
        return None
    if here:
        return f"mytab of {DATABASE} has other columns: {', '.join(' '.join(one) for one in here)}"
    if found:
        return f"there is a table mytab, but in the database {found[0][0]}"
    return f"{DATABASE} has no table mytab"


# --- from a volume without a name into one with a name


def move(lab: Lab, image: str, source: str) -> Exercise:
    """Save the data of a container that was made without a volume.

    Promise: a server in `keeper` has the rows of `forgetful`, in a place that can be found again. Its files may have
    been copied (the server_uuid is the same), or its tables dumped and loaded (a word that is drawn is in one of them).

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's row and is not in use.
    """
    wanted, is_new = _uuid(lab, FORGETFUL)
    if is_new:
        with lab.hidden():
            given(
                lab,
                FORGETFUL,
                lambda: start_without_volume(
                    lab, image, source, wanted, first_sql=_marked(wanted), name=FORGETFUL
                ),
            )
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in a container {KEEPER}, with the password root",
            lambda lab: _answers(lab, KEEPER),
            _move_hint,
        ),
        Task(
            "named",
            f"Its {DATA} is a volume with a name that a person can remember, or a directory of the host",
            _named,
            f"What does `docker inspect` say that {FORGETFUL} has mounted? That is what you want under a name.",
            ("answers",),
        ),
        Task(
            "same",
            f"It has the data of {FORGETFUL}",
            lambda lab: _has_the_data(lab, wanted),
            _move_hint,
            ("named",),
        ),
    )
    return Exercise(lab, "08", "move", "Data without a name", tasks, SETTLE_S, (KEEPER,))


def _marked(word: str) -> str:
    """SQL that puts a word into a table of the book's database; run at every start, it changes nothing more."""
    table = f"{DATABASE}.{MARKS}"
    return f"create table if not exists {table}(word char(36) primary key); replace into {table} values('{word}');"


def _has_the_data(lab: Lab, wanted: str) -> str | None:
    """By the server's uuid, or by the word: a dump that was loaded into a new server has the one and not the other."""
    if missing := _server_in(lab, KEEPER):
        return missing
    tables = f"select table_name from information_schema.tables where table_schema = '{DATABASE}'"
    has_marks = (MARKS,) in ask(lab, KEEPER, tables)
    marks = ask(lab, KEEPER, f"select word from {DATABASE}.{MARKS}") if has_marks else []
    if (wanted,) in marks:
        return _row(lab, KEEPER)
    return _is_its_data(lab, KEEPER, wanted)


def _named(lab: Lab) -> str | None:
    found = place(lab, KEEPER)
    if found.kind == VOLUME and _is_memory(lab, found.name):
        return f"the volume {found.name} is memory (tmpfs): it is empty again after its last container"
    if found.kind == BIND or (
        found.kind not in (CONTAINER_LAYER, ANONYMOUS_VOLUME) and not _NO_NAME.fullmatch(found.name)
    ):
        return None
    return f"{DATA} of {KEEPER} is a {found.kind} {found.volume}".replace(found.name, f"{found.name[:12]}…")


def _is_memory(lab: Lab, volume: str) -> bool:
    return (lab.inspect_volume(volume).get("Options") or {}).get("type") == "tmpfs"


def _move_hint(lab: Lab) -> str:
    old, new = container_named(lab, FORGETFUL), container_named(lab, KEEPER)
    if old is None and new is None:
        return (
            f"{FORGETFUL} is gone. With `docker rm`, its volume still is there: `docker volume ls` has a filter for "
            "those that no container uses. With `docker rm -v` it is lost: restart the notebook."
        )
    words = lab.last_lines(new, 50) if new is not None else ""
    if "Unable to lock" in words:
        return "Two servers want one data directory. Stop the first one."
    if old is not None and old.status == "running" and new is None:
        return f"Stop {FORGETFUL} before you copy: the files of a running server are of different moments."
    return (
        "A container that mounts two volumes can copy one into the other: `cp -a`. An empty directory is filled with "
        "a new database by the first server that finds it."
    )


# --- safety put back


def bank(lab: Lab, image: str, source: str) -> Exercise:
    """Make a server safe that was set up to be fast, without losing what it holds.

    Promise: every commit waits for the disk, now and after the next start. What is in effect is asked of the server,
    and where it has that from: `performance_schema.variables_info` says which values were set while it ran.

    Args:
        image, source: as for `move`.
    """
    wanted, is_new = _uuid(lab, BANK)
    if is_new:
        with lab.hidden():
            lab.create_volume(BANK_DATA)
            copy_volume(lab, source, BANK_DATA, wanted)
            start_server(lab, image, BANK_DATA, WRITTEN_EACH_SECOND.arguments, name=BANK, network="none")
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in the container {BANK}",
            lambda lab: _answers(lab, BANK),
            "`docker logs` tells what it said last.",
        ),
        Task(
            "same",
            f"It has the data of the volume {BANK_DATA}",
            lambda lab: _is_its_data(lab, BANK, wanted),
            f"Whoever makes the container anew must give it its volume, {BANK_DATA}.",
            ("answers",),
        ),
        Task(
            "safe",
            "Every commit is on the disk before it is acknowledged",
            _safe,
            "Two logs are flushed at a commit, InnoDB's and the binary one. `select @@…` shows both settings.",
            ("same",),
        ),
        Task(
            "stays",
            "That stays so after a restart: it is what the server starts with",
            _stays,
            _stays_hint,
            ("safe",),
        ),
    )
    return Exercise(lab, "08", "bank", "A bank that may lose nothing", tasks, SETTLE_S, (BANK,))


FLUSH, SYNC, METHOD = "innodb_flush_log_at_trx_commit", "sync_binlog", "innodb_flush_method"


def _safe(lab: Lab) -> str | None:
    rows = ask(lab, BANK, f"select @@{FLUSH}, @@{SYNC}, @@{METHOD}, @@log_bin")
    flush, sync, method, has_binlog = rows[0]
    if method.lower() in ("nosync", "littlesync"):
        return f"{METHOD} is {method}: nothing is flushed to the disk"
    # without a binary log there is one log to flush
    if flush == str(FLUSHED_AT_COMMIT.flush) and (sync == str(FLUSHED_AT_COMMIT.sync) or has_binlog == "0"):
        return None
    return f"{FLUSH} is {flush}, {SYNC} is {sync}"


def _stays(lab: Lab) -> str | None:
    """None where both values come from what the server started with, or from what it will start with next."""
    table = "performance_schema.variables_info"
    rows = ask(
        lab,
        BANK,
        f"select variable_name, variable_source, coalesce(set_user, '') from {table} "
        f"where variable_name in ('{FLUSH}', '{SYNC}')",
    )
    if {name for name, *_ in rows} != {FLUSH, SYNC}:
        return "the server does not say where its settings come from: start it with its performance schema"
    # boot: an --init-file, which is read at every start
    dynamic = {name for name, source, user in rows if source == "DYNAMIC" and user != "boot"}
    kept = ask(lab, BANK, "select * from performance_schema.persisted_variables") if dynamic else []
    loads = dynamic and ask(lab, BANK, "select @@persisted_globals_load") == [("1",)]
    safe = {(FLUSH, str(FLUSHED_AT_COMMIT.flush)), (SYNC, str(FLUSHED_AT_COMMIT.sync))}
    open_ = sorted(dynamic - {name for name, value in kept if loads and (name, value) in safe})
    if not open_:
        return None
    return f"{' and '.join(open_)} was set in the running server: its next start does not know of that"


def _stays_hint(lab: Lab) -> str:
    risky = _risky(running(lab, BANK).attrs)
    if risky:
        return (
            f"What you set in a running server is gone at its next start, and its command line says {' '.join(risky)}. "
            "The arguments of a container never change."
        )
    return (
        "Restart it, and look again: what does it start with? A file with settings is read at the start only."
    )


def _risky(attrs: dict[str, Any]) -> list[str]:
    """The words of a command line about the two settings."""
    pattern = r"--(innodb[-_]flush[-_]log[-_]at[-_]trx[-_]commit|sync[-_]binlog)(=.*)?"
    return [word for word in attrs["Args"] if re.fullmatch(pattern, word)]
