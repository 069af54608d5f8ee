"""What `./lab` does before there is an environment: it must help, and must not install what nobody asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from labhelpers import state
from labhelpers.commandline import bootstrap
from labhelpers.errors import SetupFailed
from labhelpers.state import ROOT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test leaves out of the environment, no verb may reach the reader's own state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


def lab(home: Path | str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LABHELPERS_HOME": str(home), **more}
    return subprocess.run(
        [ROOT / "lab", *arguments], env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )


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
    assert (done.returncode, done.stdout) == (0, "the lab has nothing on this machine\n")
    assert not (tmp_path / "home").exists()


def test_a_verb_keeps_its_bytecode_in_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "made-from").write_text(
        sha256((ROOT / "requirements.lock").read_bytes()).hexdigest(), encoding="utf-8"
    )
    python = tmp_path / "env" / "bin" / "python"
    python.write_text("#!/bin/sh\nenv\n", encoding="utf-8")
    python.chmod(0o755)
    printed = lab(tmp_path, "status", PYTHONDONTWRITEBYTECODE="1").stdout
    assert "PYTHONDONTWRITEBYTECODE" not in printed
    assert f"PYTHONPYCACHEPREFIX={tmp_path}/" in printed


def test_a_machine_without_python_shows_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    (tmp_path / "cat").symlink_to("/bin/cat")
    text = (ROOT / "lab").read_text(encoding="utf-8").replace("/usr/bin/python3", "/nowhere/python3")
    (tmp_path / "lab").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["/bin/sh", tmp_path / "lab", "up"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "python.org" in done.stderr


# ── without a usable environment ──────────────────────────────────────────────────────────────────────


def unreachable_index() -> dict[str, str]:
    """The settings of a machine on which each download fails."""
    return {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def half_made(home: Path) -> Path:
    """A state directory whose environment was never finished, with a session, progress and a reader's own file."""
    for folder in ("env/bin", "sessions", "cache/uv", "engine"):
        (home / folder).mkdir(parents=True)
    (home / "env/bin/python").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (home / "env/bin/python").chmod(0o755)
    (home / "sessions/abcd1234.json").write_text("{}", encoding="utf-8")
    (home / "progress.json").write_text("{}", encoding="utf-8")
    return home


def test_status_and_clean_download_nothing(tmp_path: Path) -> None:
    home = half_made(tmp_path / "home")
    done = lab(home, "status", **unreachable_index())
    assert done.returncode == 0, done.stderr
    assert "JupyterLab: not running" in done.stdout
    cleaned = lab(home, "clean", **unreachable_index())
    assert cleaned.returncode == 1
    assert "docker rm -fv $(docker ps -aq --filter label=labhelpers.session=abcd1234)" in cleaned.stdout


def test_purge_works_without_an_environment_and_spares_what_is_not_the_labs(tmp_path: Path) -> None:
    home = half_made(tmp_path / "home")
    (home / "thesis.txt").write_text("mine", encoding="utf-8")
    done = lab(home, "down", "--purge", "--yes", **unreachable_index())
    assert done.returncode == 0, done.stderr
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    assert f"{home}/thesis.txt" in done.stdout
    (home / "thesis.txt").unlink()
    half_made(home)
    done = lab(home, "down", "--purge", "--yes", **unreachable_index())
    assert (done.returncode, home.exists()) == (0, False)


def test_purge_without_an_environment_asks_first(tmp_path: Path) -> None:
    home = half_made(tmp_path / "home")
    done = lab(home, "down", "--purge", **unreachable_index())
    assert done.returncode == 1
    assert "nothing was removed" in done.stderr
    assert (home / "progress.json").exists()


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="the stand-in is found by its command line in /proc"
)
def test_down_without_an_environment_stops_jupyterlab_and_no_other_process(tmp_path: Path) -> None:
    home = half_made(tmp_path / "home")
    (home / "jupyter").mkdir()
    sleeping = "import time; time.sleep(600)"
    server = subprocess.Popen([sys.executable, "-c", sleeping, "jupyterlab"], start_new_session=True)
    other = subprocess.Popen([sys.executable, "-c", sleeping])
    try:
        for process, outcome in ((other, "not running"), (server, "stopped")):
            (home / "jupyter/server.json").write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
            assert f"JupyterLab: {outcome}\n" in lab(home, "down").stdout
        assert server.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (server, other):
            process.kill()
            process.wait()


def test_an_outdated_environment_is_good_enough_to_remove_things(tmp_path: Path) -> None:
    home = half_made(tmp_path / "home")
    (home / "env/made-from").write_text("another lock", encoding="utf-8")
    (home / "env/bin/python").write_text('#!/bin/sh\necho "ran: $*"\n', encoding="utf-8")
    assert "ran: -m labhelpers down\n" in lab(home, "down", **unreachable_index()).stdout


def test_a_damaged_environment_is_noticed_and_done_without(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "env"], check=True)
    wanted = sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    (home / "env/made-from").write_text(wanted, encoding="utf-8")
    done = lab(home, "status", **unreachable_index(), PYTHONPATH="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "continuing without it" in done.stdout
    assert not (home / "env/made-from").exists()


def test_an_unreachable_index_is_named_once(tmp_path: Path) -> None:
    done = lab(tmp_path / "home", "up", **unreachable_index())
    assert done.returncode == 1
    assert "the package index (http://127.0.0.1:1/simple) cannot be reached" in done.stderr
    assert done.stderr.count("No matching distribution") == 1, "pip was tried again"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "no space left",
        ),
        ("  cause: failed to write to file `/x`: No space left on device (os error 28)", "no space left"),
        (
            "  cause: error sending request for url (http://x/six/)\n  cause: client error (Connect)",
            "cannot be reached",
        ),
        ("NewConnectionError('<x>: Failed to establish a new connection: [Errno 111]", "cannot be reached"),
        (
            "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy Auth",
            "password",
        ),
        (
            "  cause: Hash mismatch for `six==1.17.0`\n\n  Expected:\n    sha256:0000",
            "does not match its hash",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "does not match its hash",
        ),
        ("OSError: [Errno 30] Read-only file system: '/x/env/lib'", "do not have permission to write"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            "certificate",
        ),
        ("invalid peer certificate: UnknownIssuer", "certificate"),
        ("ERROR: HTTP error 401 while getting https://x/simple", "user name and password"),
    ],
)
def test_the_cause_of_a_failed_environment(
    output: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    found = bootstrap._cause(output, "")
    assert found is not None
    assert why in found[0]
    assert "password" not in str(bootstrap._failed("x", f"{output} http://me:password@index/", ""))[-60:]


def test_what_pip_may_still_manage_is_not_a_known_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    assert bootstrap._cause("error: no wheel of uv for this platform", "") is None


def test_too_small_a_disk_is_named_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: SimpleNamespace(free=60_000_000))
    with pytest.raises(SetupFailed, match=r"no space left on device: 60 MB free in .*, about 900 MB needed"):
        bootstrap._create_environment()


# ── the state directory, and the script itself ────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["up", "doctor", "down", "status"])
def test_a_state_directory_that_cannot_be_is_named(verb: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = lab(tmp_path / "file" / "below", verb)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    if verb == "up":
        assert "one of its parents is a file" in done.stderr
        assert "  next:" in done.stderr


def test_a_python_of_the_readers_choice_is_one_word(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/python").symlink_to(sys.executable)
    assert lab(tmp_path, "--help", LABHELPERS_PYTHON=str(tmp_path / "a b/python")).returncode == 0
    for wrong in (f"x; touch {tmp_path}/made", f"touch {tmp_path}/made", "/bin/true", "/nowhere/python"):
        done = lab(tmp_path, "--help", LABHELPERS_PYTHON=wrong)
        assert done.returncode == 1
        assert wrong in done.stderr
        assert "  next:" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("shell", ["sh", "dash", "busybox", "bash"])
def test_the_script_is_found_through_links_and_from_elsewhere(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    (tmp_path / "one").symlink_to(os.path.relpath(ROOT / "lab", tmp_path))
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "labhelpers").mkdir()
    command = [shell, "sh"] if shell == "busybox" else [shell]
    environment = {**os.environ, "LABHELPERS_HOME": str(tmp_path / "home"), "CDPATH": f"{tmp_path}:/"}
    done = subprocess.run(
        [*command, "two", "--help"], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "usage: ./lab VERB" in done.stdout


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "euc_kr"}]
)
@pytest.mark.parametrize("verb", ["doctor", "status"])
def test_a_terminal_without_utf8(verb: str, locale: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labhelpers", verb, "--engine", "tcp://127.0.0.1:1"],
        env={**os.environ, "LABHELPERS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **locale},
        cwd=tmp_path,
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"127.0.0.1:1" in done.stdout + done.stderr


def test_the_environment_imports_the_checkout_that_ran_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    packages = tmp_path / "env/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    for checkout in (tmp_path / "first", tmp_path / "두 번째 'quoted\nline"):
        monkeypatch.setattr(state, "ROOT", checkout)
        bootstrap._point_at_checkout()
        line = (packages / "labhelpers-checkout.pth").read_text(encoding="ascii")
        assert line.count("\n") == 1, "site(7) executes a single line"
        monkeypatch.setattr(sys, "path", [])
        exec(line)
        assert sys.path == [str(checkout)]
