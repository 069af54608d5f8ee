"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from labhelpers import persistence
from labhelpers.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.persistence import exercises
from labhelpers.persistence.kills import SAFE, Setting
from labhelpers.persistence.servers import DATA, SESSION, start, start_without_volume

pytestmark = pytest.mark.usefixtures("own_state")
OFFLINE: dict[str, Any] = {"network": "none"}


@contextmanager
def ends(lab: Lab, *names: str) -> Iterator[None]:
    """What an exercise is about is removed afterwards: the lab is shared, and another test may want the name."""
    try:
        yield
    finally:
        for name in names:
            found = lab.client.containers.list(all=True, filters={"name": f"^{name}$"})
            for one in found:
                lab.remove(str(one.name), force=True, volumes=True)


def again(lab: Lab, name: str) -> None:
    lab.remove(name, force=True, volumes=True)


def passes_twice(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict
    assert exercise.check().passed


def test_proof(shared: Lab, image: str, source: str) -> None:
    lab = shared
    with ends(lab, "proof"):
        exercise = exercises.proof(lab, source)
        assert "no container called proof" in str(exercise.check())
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
        start(lab, image, None, name="proof", **OFFLINE)
        assert "a new volume that nobody named" in str(exercise.check())
        again(lab, "proof")
        # the files, and nobody who reads them
        lab.run(lab.image("payload"), name="proof", volumes=[f"proof-data:{DATA}"], **OFFLINE)
        assert "proof has no MySQL" in str(exercise.check())
        assert "Which image" in exercise.hint()
        again(lab, "proof")
        start(lab, image, "proof-data", name="proof", **OFFLINE)
        persistence.wait(lab, "proof")
        passes_twice(exercise)
        # the cell that is run again keeps the data
        assert exercises.proof(lab, source).check().passed


def test_session(shared: Lab, image: str, source: str) -> None:
    lab = shared
    with ends(lab, "school"):
        exercise = exercises.session(lab)
        assert "no container called school" in str(exercise.check())
        start_without_volume(lab, image, source, name="school")
        persistence.wait(lab, "school")
        persistence.ask(lab, "school", "drop database dockertest")
        assert "it has no database dockertest" in str(exercise.check())
        assert "Which statement makes one?" in exercise.hint()
        persistence.ask(
            lab, "school", "create database other; use other; create table mytab(c1 int, c2 char)"
        )
        persistence.ask(lab, "school", "create database dockertest")
        assert "but in the database other" in str(exercise.check())
        persistence.ask(lab, "school", "use dockertest; create table mytab(c1 char, c2 int)")
        assert "has other columns: c1 char, c2 int" in str(exercise.check())
        persistence.ask(lab, "school", f"drop database dockertest; {SESSION}")
        persistence.ask(lab, "school", "insert into dockertest.mytab values(1,'a')")
        assert "mytab has 2 rows" in str(exercise.check())
        assert "adds a row" in exercise.hint()
        persistence.ask(lab, "school", f"drop database dockertest; {SESSION}")
        passes_twice(exercise)


def test_move(shared: Lab, image: str, source: str) -> None:
    lab = shared
    with ends(lab, "forgetful", "keeper"):
        exercise = exercises.move(lab, image, source)
        assert "no container called keeper" in str(exercise.check())
        assert "Stop forgetful" in exercise.hint()
        old = persistence.place(lab, "forgetful").name
        persistence.wait(lab, "forgetful")
        # a second server on the first one's data
        start(lab, image, old, name="keeper", **OFFLINE)
        assert "no MySQL server answers in keeper" in str(exercise.check())
        lab.stop("forgetful", timeout_s=300)
        again(lab, "keeper")
        # a container like the first one: without a name again
        start_without_volume(lab, image, source, name="keeper")
        persistence.wait(lab, "keeper")
        assert "is a volume without a name" in str(exercise.check())
        again(lab, "keeper")
        # a named volume that holds another database
        start(lab, image, source, name="keeper", **OFFLINE)
        persistence.wait(lab, "keeper")
        assert "has another data directory" in str(exercise.check())
        lab.stop("keeper", timeout_s=300)
        again(lab, "keeper")
        lab.create_volume(f"kept-{lab.session}")
        persistence.copy(lab, old, f"kept-{lab.session}")
        start(lab, image, f"kept-{lab.session}", name="keeper", **OFFLINE)
        persistence.wait(lab, "keeper")
        passes_twice(exercise)
        # the id of the old volume is a name that nobody remembers
        again(lab, "keeper")
        start(lab, image, old, name="keeper", **OFFLINE)
        persistence.wait(lab, "keeper")
        assert f"volume {old[:12]}…" in str(exercise.check())


def test_bank(shared: Lab, image: str, source: str) -> None:
    lab = shared
    with ends(lab, "bank"):
        exercise = exercises.bank(lab, image, source)
        persistence.wait(lab, "bank")
        assert "innodb_flush_log_at_trx_commit is 0, sync_binlog is 0" in str(exercise.check())
        persistence.ask(lab, "bank", "set global innodb_flush_log_at_trx_commit=1; set global sync_binlog=1")
        assert "its command line still says" in str(exercise.check())
        assert "gone at its next start" in exercise.hint()
        again(lab, "bank")
        # safe, and empty-handed
        start_without_volume(lab, image, source, name="bank")
        persistence.wait(lab, "bank")
        assert "has another data directory" in str(exercise.check())
        again(lab, "bank")
        # one of the two logs
        start(lab, image, "bank-data", Setting(1, 0).arguments, name="bank", **OFFLINE)
        persistence.wait(lab, "bank")
        assert "innodb_flush_log_at_trx_commit is 1, sync_binlog is 0" in str(exercise.check())
        again(lab, "bank")
        start(lab, image, "bank-data", SAFE.arguments, name="bank", **OFFLINE)
        persistence.wait(lab, "bank")
        passes_twice(exercise)
        # the cell that is run again makes nothing unsafe
        assert exercises.bank(lab, image, source).check().passed
