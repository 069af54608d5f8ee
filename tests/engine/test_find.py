"""Finding an engine: the order, and what is said where it cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labhelpers.engine import Engine, connect
from labhelpers.errors import EngineMissing, EngineUnreachable


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that knows of no engine: no DOCKER_HOST, no context, a state directory of its own."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "LABHELPERS_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path


def test_docker_host_comes_first(engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    found = connect()
    assert (found.address, found.found_by, found.source) == (engine.address, "DOCKER_HOST", "existing")
    assert found.info["ID"] == engine.info["ID"]


def test_a_docker_host_that_points_nowhere_is_said(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{alone}/none.sock")
    with pytest.raises(EngineUnreachable, match="DOCKER_HOST points at") as caught:
        connect()
    assert "unset DOCKER_HOST" in caught.value.hint
    assert caught.value.engine_words


@pytest.mark.parametrize("address", ["unix://{there}", "unix:///nowhere.sock"])
def test_the_context_in_use_comes_next(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    there = address.format(there=engine.address.removeprefix("unix://"))
    docker = ["docker", "context"]
    subprocess.run([*docker, "create", "mine", "--docker", f"host={there}"], check=True, capture_output=True)
    subprocess.run([*docker, "use", "mine"], check=True, capture_output=True)
    if "nowhere" in address:
        with pytest.raises(EngineUnreachable, match="docker context mine points at"):
            connect()
    else:
        assert connect().found_by == "docker context mine"


def test_a_context_that_does_not_exist_is_said(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such")
    with pytest.raises(EngineUnreachable, match="no-such"):
        connect()


def test_an_engine_that_was_asked_for_and_is_not_there(alone: Path) -> None:
    with pytest.raises(EngineUnreachable, match="--engine points at"):
        connect("tcp://127.0.0.1:1")
    with pytest.raises(EngineMissing):
        connect("private")


@pytest.mark.skipif(
    not shutil.which("setpriv") or os.geteuid() != 0, reason="taking a right away needs root and setpriv"
)
def test_a_socket_without_permission_names_its_group(alone: Path) -> None:
    path = alone / "closed.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        shutil.chown(path, "daemon", "games")
        path.chmod(0o600)
        # root without its right to pass over permissions is a user like any other
        rights = "-dac_override,-dac_read_search"
        done = subprocess.run(
            [
                "setpriv",
                f"--bounding-set={rights}",
                f"--inh-caps={rights}",
                sys.executable,
                "-c",
                "from labhelpers.engine import connect; connect()",
            ],
            env={**os.environ, "DOCKER_HOST": f"unix://{path}"},
            capture_output=True,
            encoding="utf-8",
        )
    assert "EngineUnreachable" in done.stderr
    assert "it belongs to the group “games”" in done.stderr


def test_the_facts_are_the_engines_own(engine: Engine) -> None:
    facts = engine.facts()
    said = json.loads(
        subprocess.run(
            ["docker", "-H", engine.address, "info", "--format", "{{json .}}"],
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
    )
    assert facts.version == said["ServerVersion"]
    assert facts.storage_driver == said["Driver"]
    assert facts.cgroup_version == int(said["CgroupVersion"])
    assert (facts.cpus, facts.memory_bytes, facts.kernel) == (
        said["NCPU"],
        said["MemTotal"],
        said["KernelVersion"],
    )
