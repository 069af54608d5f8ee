"""Root through sudo: proxies arrive, and a password in them is on no command line; paths of mounts are read right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from labhelpers.engine import root

PROXY = "http://reader:secret word's@proxy.example:3128"


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `sudo` that resets the environment as the real one does (sudoers(5), env_reset), and notes its command line."""
    program, noted = tmp_path / "sudo", tmp_path / "noted"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{noted}\nexec env -i PATH=/usr/bin:/bin "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return noted


def test_proxies_reach_what_sudo_starts(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in root.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("no_proxy", "localhost,192.0.2.0/24")
    with root.with_proxies(["env"]) as (command, stdin):
        output = subprocess.run(command, stdin=stdin, capture_output=True, encoding="utf-8").stdout
    assert f"HTTPS_PROXY={PROXY}\n" in output
    assert "no_proxy=localhost,192.0.2.0/24\n" in output
    assert "/usr/sbin" in output.split("PATH=")[1].splitlines()[0]
    assert "secret" not in " ".join(command) + sudo.read_text(encoding="utf-8")


def test_without_a_proxy_the_command_reads_end_of_file(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in root.PROXIES:
        monkeypatch.delenv(name, raising=False)
    with root.with_proxies(["cat"]) as (command, stdin):
        done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_program_that_is_not_there_is_status_127() -> None:
    assert root.run_as_root(["no-such-program-of-ours"]).returncode == 127


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\134b", "/a\\b"),
        ("/한글/x", "/한글/x"),
        (r"/line\012end", "/line\nend"),
    ],
)
def test_paths_of_the_mount_table(written: str, path: str) -> None:
    assert root._unescaped(written) == path
