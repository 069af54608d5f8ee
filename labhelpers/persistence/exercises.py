"""The exercises of the chapter on data that outlive their container.

A data directory is told from others by its `server_uuid`: the lab gives each copy one of its own, and whoever starts an
empty directory gets a new one.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from labhelpers.errors import LabError
from labhelpers.exercises import Exercise, Task, container_named, not_running
from labhelpers.names import all_named, named
from labhelpers.persistence.kills import FAST, SAFE
from labhelpers.persistence.places import ANONYMOUS, BIND, LAYER, place
from labhelpers.persistence.servers import DATA, DATABASE, ROW, ask, copy, start, start_without_volume

if TYPE_CHECKING:
    from labhelpers.lab import Lab

PROOF, PROOF_DATA = all_named("proof", "proof-data")
SCHOOL = named("school")
FORGETFUL, KEEPER = all_named("forgetful", "keeper")
BANK, BANK_DATA = all_named("bank", "bank-data")
# a server that is killed as soon as it answers is no answer
SETTLE_S = 0.5
_NO_NAME = re.compile(r"[0-9a-f]{64}")
_uuids: dict[tuple[str, str], str] = {}
"""(session, exercise) → the server_uuid of its data directory: the cell that is run again keeps it."""


# --- looking


def _server_in(lab: Lab, name: str) -> str | None:
    """Why no server answers in a container, in the reader's words; None where one does."""
    try:
        ask(lab, name, "select 1")
    except LabError as error:
        words = str(error.engine_words)
        if "executable file not found" in words:
            return f"{name} has no MySQL: it was made from another image"
        if "1045" in words:
            return f"the server in {name} takes another password than root"
        return f"no MySQL server answers in {name}, or not yet"
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
        return str(error.engine_words)
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
    """Prove that the data outlive a container; the book runs centos again, which mounts nothing of the database."""
    wanted, is_new = _uuid(lab, PROOF)
    if is_new:
        with lab.quiet():
            lab.create_volume(PROOF_DATA)
            copy(lab, source, PROOF_DATA, wanted)
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
    return Exercise(lab, "08", "proof", "A proof in place of the book's", tasks, SETTLE_S)


def _proof_mounted(lab: Lab) -> str | None:
    found = place(lab, PROOF)
    if found.kind == LAYER:
        return f"nothing is mounted at {DATA} of {PROOF}: what is in it has nothing to do with the database"
    if found.kind == ANONYMOUS:
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
    """Run the book's session from its beginning: `use dockertest;` finds no database until there is one."""
    tasks = (
        Task(
            "answers",
            f"A MySQL server answers in a container {SCHOOL}, with the password root",
            lambda lab: _answers(lab, SCHOOL),
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
    return Exercise(lab, "08", "session", "The book's session, repaired", tasks, SETTLE_S)


def _table(lab: Lab) -> str | None:
    columns = "select table_schema, column_name, data_type from information_schema.columns"
    query = f"{columns} where table_name = 'mytab' order by 1, 2"
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

    Args:
        image: of MySQL.
        source: a volume with a data directory that has the book's row and is not in use.
    """
    wanted, is_new = _uuid(lab, FORGETFUL)
    if is_new:
        with lab.quiet():
            start_without_volume(lab, image, source, wanted, name=FORGETFUL)
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
            lambda lab: _is_its_data(lab, KEEPER, wanted),
            _move_hint,
            ("named",),
        ),
    )
    return Exercise(lab, "08", "move", "Data without a name", tasks, SETTLE_S)


def _named(lab: Lab) -> str | None:
    found = place(lab, KEEPER)
    if found.kind == BIND or (found.kind not in (LAYER, ANONYMOUS) and not _NO_NAME.fullmatch(found.name)):
        return None
    return f"{DATA} of {KEEPER} is a {found.kind} {found.short}".replace(found.name, f"{found.name[:12]}…")


def _move_hint(lab: Lab) -> str:
    old, new = container_named(lab, FORGETFUL), container_named(lab, KEEPER)
    if old is None and new is None:
        return (
            f"{FORGETFUL} is gone. With `docker rm`, its volume still is there: `docker volume ls` has a filter for "
            "those that no container uses. With `docker rm -v` it is lost: restart the notebook."
        )
    if new is not None and "Unable to lock" in new.logs(tail=50).decode(errors="replace"):
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

    Args:
        image, source: as for `move`.
    """
    wanted, is_new = _uuid(lab, BANK)
    if is_new:
        with lab.quiet():
            lab.create_volume(BANK_DATA)
            copy(lab, source, BANK_DATA, wanted)
            start(lab, image, BANK_DATA, FAST.arguments, name=BANK, network="none")
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
            "That stays so after a restart: its command line does not ask for less",
            _stays,
            "What you set in a running server is gone at its next start; the arguments of a container never change.",
            ("safe",),
        ),
    )
    return Exercise(lab, "08", "bank", "A bank that may lose nothing", tasks, SETTLE_S)


def _safe(lab: Lab) -> str | None:
    ((flush, sync),) = ask(lab, BANK, "select @@innodb_flush_log_at_trx_commit, @@sync_binlog")
    if (flush, sync) == (str(SAFE.flush), str(SAFE.sync)):
        return None
    return f"innodb_flush_log_at_trx_commit is {flush}, sync_binlog is {sync}"


def _stays(lab: Lab) -> str | None:
    found: dict[str, Any] = lab.client.api.inspect_container(BANK)
    risky = [
        word
        for word in found["Args"]
        if re.fullmatch(
            r"--(innodb[-_]flush[-_]log[-_]at[-_]trx[-_]commit=[02]|sync[-_]binlog=(?!1$).*)", word
        )
    ]
    return f"its command line still says {' '.join(risky)}" if risky else None
