"""What `./lab doctor` and `status` say of a real engine. `clean` is in faults/: it spares no open notebook."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import docker
import pytest

from labhelpers.commandline import doctor
from labhelpers.commandline.doctor import FACTS, run_checks
from labhelpers.engine import Engine, smoke_test
from labhelpers.engine.dial import Streams, dial, join
from labhelpers.engine.endpoint import EngineEndpoint
from labhelpers.engine.gateway import Gateway
from labhelpers.lab import Lab, sessions

IMAGE = "labhelpers/payload"
PROGRAM = smoke_test.program("x86_64")


def verb(engine: Engine, *text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labhelpers", *text, "--engine", engine.address]
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
    report = run_checks("tcp://127.0.0.1:1")
    assert report["ok"] is False
    assert report["engine"] is None
    for problem in report["problems"]:
        assert all(problem[part] for part in ("what", "why", "next"))


def test_an_engine_that_cannot_run_is_a_problem(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labhelpers.engine.smoke_test.EXPECTED_OUTPUT", b"something else\n")
    monkeypatch.setattr("labhelpers.engine.smoke_test.program", lambda machine: PROGRAM)
    report = run_checks(engine.address)
    assert report["engine"] is not None
    assert any("the test container" in problem["what"] for problem in report["problems"])


@contextmanager
def slow(engine: Engine, path: Path, seconds: float, slow_path: bytes) -> Iterator[Engine]:
    """The suite's engine, whose answers to requests that begin with `slow_path` come late; what they ask is done."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = Streams(reader, writer), await dial(engine.endpoint)
        head = await near.read(1 << 16)
        await far.write(head)
        if re.match(rb"\w+ /v[\d.]+" + slow_path, head):
            await asyncio.sleep(seconds)
        await join(near, far)
        await far.close()
        await near.close()

    gateway = Gateway(path, handle)
    client = docker.DockerClient(base_url=gateway.address, version=engine.client.api.api_version)
    yield Engine(EngineEndpoint(gateway.address, "test"), "existing", client)
    gateway.close()


def left(engine: Engine) -> set[str]:
    return {thing.id for thing in sessions.session_resources(engine.client) if thing.chapter == "doctor"}


def test_a_slow_engine_is_called_slow_and_nothing_else(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labhelpers.commandline.doctor.SLOW_S", 1)
    with slow(engine, tmp_path / "s.sock", 1.5, b"/images/create") as late:
        monkeypatch.setattr("labhelpers.commandline.doctor.connect", lambda *_, **__: late)
        report = run_checks(late.address)
    caught = [problem for problem in report["problems"] if "slow" in problem["what"]]
    assert [problem["kind"] for problem in caught] == ["note"]
    assert "more than 1 s" in caught[0]["what"]
    assert not [problem for problem in report["problems"] if "test container" in problem["what"]]


@pytest.mark.parametrize("request_path", [b"/images/create", b"/containers/create"])
def test_an_engine_that_answers_too_late_is_left_as_it_was(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_path: bytes
) -> None:
    monkeypatch.setattr("labhelpers.commandline.doctor.REQUEST_TIMEOUT_S", 3)
    before = left(engine)
    with slow(engine, tmp_path / "s.sock", 6, request_path) as late:
        monkeypatch.setattr("labhelpers.commandline.doctor.connect", lambda *_, **__: late)
        report = run_checks(late.address)
    (caught,) = [problem for problem in report["problems"] if "slow" in problem["what"]]
    assert "provider" not in caught["next"]
    assert "kind" not in caught
    # the doctor of another test may be at work; what it made goes within seconds
    end = time.monotonic() + 20
    while left(engine) - before and time.monotonic() < end:
        time.sleep(0.2)
    assert left(engine) <= before


class Engine29(BaseHTTPRequestHandler):
    """What an engine says to a client that is older than its `MinAPIVersion` (moby, daemon/server/middleware)."""

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        version = re.match(r"/v([\d.]+)/", self.path)
        text = f"client version {version and version[1]} is too old. Minimum supported API version is 1.99, "
        body = json.dumps({"message": text + "please upgrade your client to a newer version"})
        self._answer(200 if self.path.endswith("/_ping") else 400, body.encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in (("Api-Version", "1.99"), ("Content-Type", "application/json")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker command on this machine")
@pytest.mark.parametrize("pinned", ["", "1.30"])
def test_a_docker_command_that_is_too_old_for_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, pinned: str
) -> None:
    monkeypatch.delenv("DOCKER_API_VERSION", raising=False)
    assert doctor._docker_cli_problem(engine) == []
    if pinned:
        monkeypatch.setenv("DOCKER_API_VERSION", pinned)
    with HTTPServer(("127.0.0.1", 0), Engine29) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        newer = replace(engine, endpoint=EngineEndpoint(f"tcp://127.0.0.1:{server.server_port}", "test"))
        (problem,) = doctor._docker_cli_problem(newer)
        server.shutdown()
    assert "is too old" in problem["why"]
    assert ("unset DOCKER_API_VERSION" if pinned else "update the `docker` command") in problem["next"]


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
