"""Every exercise: untouched it fails, wrong answers fail with a message that fits, right ones pass from fresh.

Each start of a server costs seconds of a processor, so one serves for several answers.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from labhelpers import persistence
from labhelpers.course.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.persistence import exercises
from labhelpers.persistence.kills import FLUSHED_AT_COMMIT, Durability
from labhelpers.persistence.servers import (
    DATA,
    ENVIRONMENT,
    FIRST_SESSION_SQL,
    start_server,
    start_without_volume,
)

pytestmark = pytest.mark.usefixtures("temporary_state")
OFFLINE: dict[str, Any] = {"network": "none"}
AS_MYSQL = "exec setpriv --reuid=mysql --regid=mysql --init-groups"


@contextmanager
def ends(lab: Lab, *names: str) -> Iterator[None]:
    """What an exercise is about is removed afterwards: the lab is shared, and another test may want the name."""
    try:
        yield
    finally:
        for name in names:
            found = lab.client.containers.list(all=True, filters={"name": f"^{name}$"}, ignore_removed=True)
            for one in found:
                lab.remove(str(one.name), force=True, volumes=True)


def again(lab: Lab, name: str) -> None:
    lab.remove(name, force=True, volumes=True)


def fails(exercise: Exercise, words: str) -> None:
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), verdict


def passes_twice(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict
    assert exercise.check().passed


def test_proof(shared_lab: Lab, image: str, source: str) -> None:
    lab = shared_lab
    with ends(lab, "proof"):
        exercise = exercises.proof(lab, source)
        assert "no container named proof" in str(exercise.check())
        assert "stopped database" in exercise.hint()
        # the book's: another image, and no mount
        lab.run(lab.image("payload"), name="proof", **OFFLINE)
        assert "nothing is mounted at /var/lib/mysql" in str(exercise.check())
        assert "made anew" in exercise.hint()
        again(lab, "proof")
        # the volume, at the path of the book's other example
        lab.run(lab.image("payload"), name="proof", volumes=["proof-data:/var/log"], **OFFLINE)
        assert "nothing is mounted" in str(exercise.check())
        assert "mounted at /var/log" in exercise.hint()
        again(lab, "proof")
        # MySQL, with a database of its own
        start_server(lab, image, None, name="proof", **OFFLINE)
        assert "a new volume that nobody named" in str(exercise.check())
        again(lab, "proof")
        # the files, and nobody who reads them
        lab.run(lab.image("payload"), name="proof", volumes=[f"proof-data:{DATA}"], **OFFLINE)
        assert "proof has no MySQL" in str(exercise.check())
        assert "Which image" in exercise.hint()
        again(lab, "proof")
        # a program that is called mysql, and is none
        liar = "printf '#!/bin/sh\\necho 1' >/bin/mysql; chmod +x /bin/mysql; exec sleep 600"
        lab.run(
            lab.image("payload"), ["sh", "-c", liar], name="proof", volumes=[f"proof-data:{DATA}"], **OFFLINE
        )
        fails(exercise, "what answers in proof is no MySQL server")
        again(lab, "proof")
        # the volume is mounted, and the server reads a copy
        command = ["sh", "-c", f"cp -a {DATA} {DATA}-2; {AS_MYSQL} mysqld --datadir={DATA}-2"]
        lab.run(image, command, name="proof", volumes=[f"proof-data:{DATA}"], entrypoint="", **OFFLINE)
        persistence.wait_until_ready(lab, "proof")
        fails(exercise, "keeps its data in /var/lib/mysql-2/")
        again(lab, "proof")
        start_server(lab, image, "proof-data", name="proof", **OFFLINE)
        persistence.wait_until_ready(lab, "proof")
        passes_twice(exercise)
        # the cell that is run again keeps the data
        assert exercises.proof(lab, source).check().passed
        lab.stop("proof", timeout_s=300)
        again(lab, "proof")
        # another way to mount it, and to start the server
        mount = {"mounts": [f"type=volume,source=proof-data,target={DATA}"], "entrypoint": ""}
        lab.run(image, ["sh", "-c", f"{AS_MYSQL} mysqld --skip-log-bin"], name="proof", **mount, **OFFLINE)
        persistence.wait_until_ready(lab, "proof")
        passes_twice(exercise)


def test_session(shared_lab: Lab, image: str, source: str) -> None:
    lab = shared_lab
    with ends(lab, "school"):
        exercise = exercises.session(lab)
        assert "no container named school" in str(exercise.check())
        # a server of an earlier cell, in which all is there already
        start_without_volume(lab, image, source, name="school")
        persistence.wait_until_ready(lab, "school")
        fails(exercise, "has the data of an earlier one")
        again(lab, "school")
        start_without_volume(lab, image, source, str(uuid.uuid4()), name="school")
        persistence.wait_until_ready(lab, "school")
        persistence.query(lab, "school", "drop database dockertest")
        assert "it has no database dockertest" in str(exercise.check())
        assert "Which statement makes one?" in exercise.hint()
        persistence.query(
            lab, "school", "create database other; use other; create table mytab(c1 int, c2 char)"
        )
        persistence.query(lab, "school", "create database dockertest")
        assert "but in the database other" in str(exercise.check())
        persistence.query(lab, "school", "use dockertest; create table mytab(c1 char, c2 int)")
        assert "has other columns: c1 char, c2 int" in str(exercise.check())
        view = "drop table mytab; create view mytab as select cast(1 as signed) c1, cast('a' as char(1)) c2"
        persistence.query(lab, "school", f"use dockertest; {view}")
        fails(exercise, "is a view, and no table")
        persistence.query(lab, "school", f"drop database dockertest; {FIRST_SESSION_SQL}")
        persistence.query(lab, "school", "insert into dockertest.mytab values(1,'a')")
        assert "mytab has 2 rows" in str(exercise.check())
        assert "adds a row" in exercise.hint()
        persistence.query(
            lab,
            "school",
            "update dockertest.mytab set c2 = 'b' limit 1; delete from dockertest.mytab where c2 = 'a'",
        )
        fails(exercise, "should have the one row 1 a")
        persistence.query(lab, "school", f"drop database dockertest; {FIRST_SESSION_SQL}")
        passes_twice(exercise)
        # in other words, with more than one way to write them
        other = "create schema dockertest; create table dockertest.mytab (c1 integer, c2 character(3)) engine=myisam"
        persistence.query(lab, "school", f"drop database dockertest; {other}")
        persistence.query(lab, "school", "insert into dockertest.mytab set c2 = 'a', c1 = 1")
        passes_twice(exercises.session(lab))


def test_move(shared_lab: Lab, image: str, source: str) -> None:
    lab = shared_lab
    with ends(lab, "forgetful", "keeper"):
        exercise = exercises.move(lab, image, source)
        assert "no container named keeper" in str(exercise.check())
        assert "Stop forgetful" in exercise.hint()
        old = persistence.find_data_location(lab, "forgetful").name
        persistence.wait_until_ready(lab, "forgetful")
        # another name for the same thing
        lab.client.containers.get("forgetful").rename("keeper")
        fails(exercise, "is a volume without a name")
        lab.client.containers.get("keeper").rename("forgetful")
        dump = lab.exec(
            "forgetful",
            ["mysqldump", "-uroot", "-proot", "--set-gtid-purged=OFF", "--databases", "dockertest"],
        ).stdout
        # a second server on the first one's data
        start_server(lab, image, old, name="keeper", **OFFLINE)
        assert "no MySQL server answers in keeper" in str(exercise.check())
        lab.stop("forgetful", timeout_s=300)
        again(lab, "keeper")
        # a container like the first one: without a name again
        start_without_volume(lab, image, source, name="keeper")
        persistence.wait_until_ready(lab, "keeper")
        assert "is a volume without a name" in str(exercise.check())
        again(lab, "keeper")
        # a named volume that holds another database
        lab.create_volume(f"other-{lab.session}")
        persistence.copy_volume(lab, source, f"other-{lab.session}", str(uuid.uuid4()))
        start_server(lab, image, f"other-{lab.session}", name="keeper", **OFFLINE)
        persistence.wait_until_ready(lab, "keeper")
        fails(exercise, "has another data directory")
        # the tables, dumped and loaded
        loaded = ["sh", "-c", 'printf "%s" "$1" >/dump; mysql -uroot -proot </dump', "sh", dump]
        assert lab.exec("keeper", loaded).exit_code == 0
        passes_twice(exercise)
        lab.stop("keeper", timeout_s=300)
        again(lab, "keeper")
        lab.create_volume(f"kept-{lab.session}")
        persistence.copy_volume(lab, old, f"kept-{lab.session}")
        start_server(lab, image, f"kept-{lab.session}", name="keeper", **OFFLINE)
        persistence.wait_until_ready(lab, "keeper")
        passes_twice(exercise)
        # the id of the old volume is a name that nobody remembers
        again(lab, "keeper")
        start_server(lab, image, old, name="keeper", **OFFLINE)
        persistence.wait_until_ready(lab, "keeper")
        assert f"volume {old[:12]}…" in str(exercise.check())


def test_bank(shared_lab: Lab, image: str, source: str) -> None:
    lab = shared_lab
    with ends(lab, "bank"):
        exercise = exercises.bank(lab, image, source)
        persistence.wait_until_ready(lab, "bank")
        assert "innodb_flush_log_at_trx_commit is 0, sync_binlog is 0" in str(exercise.check())
        settings = "innodb_flush_log_at_trx_commit=1; set global sync_binlog=1"
        persistence.query(lab, "bank", f"set global {settings}")
        fails(exercise, "was set in the running server")
        assert "gone at its next start" in exercise.hint()
        # kept in the data directory, and read at each start after the command line (SET PERSIST)
        persistence.query(lab, "bank", f"set global {settings}".replace("set global", "set persist"))
        passes_twice(exercise)
        persistence.query(lab, "bank", "reset persist")
        fails(exercise, "was set in the running server")
        persistence.query(lab, "bank", "set persist sync_binlog=0; set global sync_binlog=1")
        fails(exercise, "innodb_flush_log_at_trx_commit and sync_binlog was set")
        persistence.query(lab, "bank", "reset persist")
        again(lab, "bank")
        # safe, and empty-handed
        start_without_volume(lab, image, source, str(uuid.uuid4()), name="bank")
        persistence.wait_until_ready(lab, "bank")
        fails(exercise, "has another data directory")
        again(lab, "bank")
        # one of the two logs; the argument in two words
        start_server(
            lab,
            image,
            "bank-data",
            [*Durability(1, 1).arguments[:1], "--sync-binlog", "0"],
            name="bank",
            **OFFLINE,
        )
        persistence.wait_until_ready(lab, "bank")
        fails(exercise, "innodb_flush_log_at_trx_commit is 1, sync_binlog is 0")
        persistence.query(lab, "bank", "set global sync_binlog=1")
        fails(exercise, "sync_binlog was set in the running server")
        assert "--sync-binlog" in exercise.hint()
        again(lab, "bank")
        start_server(lab, image, "bank-data", FLUSHED_AT_COMMIT.arguments, name="bank", **OFFLINE)
        persistence.wait_until_ready(lab, "bank")
        passes_twice(exercise)
        # the cell that is run again makes nothing unsafe
        assert exercises.bank(lab, image, source).check().passed
        again(lab, "bank")
        # a file with settings, which are set at its start; and no second log to flush
        settings = [
            "innodb_flush_log_at_trx_commit=0",
            "sync_binlog=0",
            "skip-log-bin",
            "init-file=/etc/start.sql",
        ]
        script = (
            f"printf '%s\\n' '[mysqld]' {' '.join(settings)} >/etc/mysql/conf.d/z.cnf; "
            "echo 'set global innodb_flush_log_at_trx_commit=1;' >/etc/start.sql; "
            "exec docker-entrypoint.sh mysqld"
        )
        lab.run(
            image,
            ["sh", "-c", script],
            name="bank",
            volumes=[f"bank-data:{DATA}"],
            environment=ENVIRONMENT,
            **OFFLINE,
        )
        persistence.wait_until_ready(lab, "bank")
        passes_twice(exercise)
