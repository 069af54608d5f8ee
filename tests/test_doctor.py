"""What `./lab doctor` and `status` say of a real engine. `clean` is in faults/: it spares no open notebook."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid

import pytest

from labhelpers.doctor import FACTS, examine
from labhelpers.engine import Engine, smallest
from labhelpers.lab import Lab

IMAGE = "labhelpers/payload"
PROGRAM = smallest.program("x86_64")


def verb(engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labhelpers", *words, "--engine", engine.address]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


def test_the_report_has_its_shape(engine: Engine) -> None:
    done = verb(engine, "doctor", "--json")
    report = json.loads(done.stdout)
    assert set(report) == {"ok", "engine", "hub_reachable", "images", "problems"}
    assert tuple(report["engine"]) == FACTS
    assert report["engine"]["version"] == engine.version["Version"]
    assert report["images"]["tools"]["present"] is True
    assert all(set(image) == {"ref", "source", "present"} for image in report["images"].values())
    assert done.returncode == (0 if report["ok"] else 1)


def test_each_problem_says_what_to_do(engine: Engine) -> None:
    report = examine("tcp://127.0.0.1:1")
    assert report["ok"] is False
    assert report["engine"] is None
    for problem in report["problems"]:
        assert all(problem[part] for part in ("what", "why", "next"))


def test_an_engine_that_cannot_run_is_a_problem(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labhelpers.engine.smallest.WORD", b"something else\n")
    monkeypatch.setattr("labhelpers.engine.smallest.program", lambda machine: PROGRAM)
    report = examine(engine.address)
    assert report["engine"] is not None
    assert any("a first container" in problem["what"] for problem in report["problems"])


def test_status_names_what_was_made(engine: Engine) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    with Lab("test", engine=engine) as lab:
        lab.run(IMAGE, "sleep 300", name=name)
        assert f"container {name}" in verb(engine, "status").stdout
    assert f"container {name}" not in verb(engine, "status").stdout


@pytest.mark.parametrize("name", ["up", "run", "test", "doctor", "status", "clean", "down", "bench"])
def test_every_verb_has_its_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labhelpers", name, "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.startswith("Usage:")
    assert "--engine" in done.stdout
