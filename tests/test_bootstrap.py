"""What `./lab` does before there is an environment: it must help, and must not install what nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from labhelpers.state import ROOT


def lab(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LABHELPERS_HOME": str(home), **more}
    return subprocess.run([ROOT / "lab", *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("up", "--help")])
def test_help_installs_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = lab(tmp_path / "home", *arguments)
    assert done.returncode == 0
    for verb in ("up", "run", "test", "doctor", "status", "clean", "down"):
        assert f"\n  {verb} " in done.stdout
    assert not (tmp_path / "home").exists()


def test_doctor_installs_nothing(tmp_path: Path) -> None:
    done = lab(tmp_path / "home", "doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert set(report) == {"ok", "engine", "hub_reachable", "images", "problems"}
    assert report["ok"] is False
    assert report["problems"][0]["next"] == "./lab up"
    assert not (tmp_path / "home").exists()


def test_down_has_nothing_to_do_on_a_bare_machine(tmp_path: Path) -> None:
    done = lab(tmp_path / "home", "down", "--purge", "--yes")
    assert (done.returncode, done.stdout) == (0, "nothing of ours is on this machine\n")
    assert not (tmp_path / "home").exists()


def test_a_verb_keeps_its_bytecode_in_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "made-from").write_text(sha256((ROOT / "requirements.lock").read_bytes()).hexdigest())
    python = tmp_path / "env" / "bin" / "python"
    python.write_text("#!/bin/sh\nenv\n")
    python.chmod(0o755)
    said = lab(tmp_path, "status", PYTHONDONTWRITEBYTECODE="1").stdout
    assert "PYTHONDONTWRITEBYTECODE" not in said
    assert f"PYTHONPYCACHEPREFIX={tmp_path}/" in said


def test_a_machine_without_python_is_told_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    (tmp_path / "cat").symlink_to("/bin/cat")
    text = (ROOT / "lab").read_text().replace("/usr/bin/python3", "/nowhere/python3")
    (tmp_path / "lab").write_text(text)
    done = subprocess.run(
        ["/bin/sh", tmp_path / "lab", "up"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "python.org" in done.stderr
