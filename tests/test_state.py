"""The state directory: whatever names it, whatever its files hold, and on file systems without locks."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labhelpers import errors, state
from labhelpers.commandline import jupyter
from labhelpers.errors import SetupFailed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("LABHELPERS_LOCKS", raising=False)
    return tmp_path / "state"


def test_a_tilde_and_a_relative_path_are_made_absolute(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", "~/lab")
    assert state.location() == tmp_path / "user" / "lab"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABHELPERS_HOME", "here/it is")
    assert state.location() == tmp_path / "here" / "it is"
    monkeypatch.chdir("/")
    assert state.location() == tmp_path / "here" / "it is", "it moved with the working directory"


def test_an_xdg_directory_that_is_relative_is_ignored(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABHELPERS_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state.location() == tmp_path / "user/.local/state/labhelpers"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state.location() == tmp_path / "xdg/labhelpers"


def test_a_user_without_a_home_directory_is_asked_for_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABHELPERS_HOME")
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(SetupFailed) as raised:
        state.location()
    assert "LABHELPERS_HOME=" in raised.value.hint


needs_another_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="only root may become a user id; that user needs a Python",
)


@needs_another_user
@pytest.mark.parametrize("verb", ["up", "doctor", "down"])
def test_a_user_id_without_a_passwd_entry(verb: str) -> None:
    names = ("HOME", "LABHELPERS_HOME", "XDG_STATE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        ["/usr/bin/python3", state.ROOT / "labhelpers/commandline/bootstrap.py", verb],
        env=environment,
        user=4242,
        group=4242,
        extra_groups=[],
        capture_output=True,
        encoding="utf-8",
    )
    if "Permission denied" in done.stderr and "bootstrap.py" in done.stderr:
        pytest.skip("another user may not read this checkout or its Python")
    assert done.returncode == 1
    assert "you have no home directory" in done.stderr
    assert "export LABHELPERS_HOME=" in done.stderr


@pytest.mark.parametrize("name", ["a%20b", 'it\'s "quoted"', "two\nlines", "한글 이름", "-dash"])
def test_any_name_will_do(name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / name))
    state.write_json("x.json", {"a": "é"})
    with state.locked("one"):
        assert state.read_json("x.json", {}) == {"a": "é"}


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_its_place_is_named(
    below: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "file" / below))
    with pytest.raises(SetupFailed, match="or one of its parents is a file"):
        state.home()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "no permission to write"), (errno.EIO, "cannot be used")],
)
def test_what_the_disk_says_is_reported_with_a_next_step(number: int, message: str, home: Path) -> None:
    error = state.directory_error(OSError(number, os.strerror(number)), home)
    assert message in error.message
    assert "LABHELPERS_HOME" in error.hint
    assert os.strerror(number) in (error.engine_message or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_while_writing_leaves_the_old_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.write_json("kept.json", {"old": 1})
    partial = home / f"kept.json.{os.getpid()}.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(SetupFailed, match="no space left on device"):
        state.write_json("kept.json", {"new": "x" * 10_000})
    assert state.read_json("kept.json", {}) == {"old": 1}
    assert not partial.is_symlink()


@pytest.mark.parametrize("text", ["", "[1]", "7", '"x"', "{", "null", '{"pid":', "\ud800", "[" * 100_000])
def test_a_damaged_file_is_the_default(text: str, home: Path) -> None:
    state.path("x.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert state.read_json("x.json", {"default": 1}) == {"default": 1}


@pytest.mark.parametrize(
    "record", ["[1]", '{"pid":"x"}', '{"pid":', '"x"', "null", "{}", '{"pid":1,"port":"y"}', "[[]]"]
)
def test_a_damaged_record_of_jupyterlab_is_no_server(record: str, home: Path) -> None:
    state.path(jupyter.SERVER_FILE).write_text(record, encoding="utf-8")
    assert jupyter.running() is None
    assert jupyter.stop() is False
    assert not state.path(jupyter.SERVER_FILE).exists()


def test_purge_removes_what_is_the_labs_and_nothing_else(home: Path) -> None:
    for name in ("engine/data", "cache/uv", "sessions"):
        (home / name).mkdir(parents=True)
    state.write_json("progress.json", {})
    (home / "photos").mkdir()
    assert state.remove() == [home / "photos"]
    (home / "photos").rmdir()
    assert state.remove() == []
    assert not home.exists()


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="flock(2)")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_gets_them_on_another_disk(
    number: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    locks = fcntl.flock

    def without(file: Any, operation: int) -> None:
        if str(home) in os.readlink(f"/proc/self/fd/{file.fileno()}"):
            raise OSError(number, os.strerror(number))
        locks(file, operation)

    monkeypatch.setattr(fcntl, "flock", without)
    with state.locked("engine"):
        with pytest.raises(SetupFailed, match="another lab command"), state.locked("engine", timeout_s=0):
            pass
        used = state.lock_file("locks", "engine")
    assert not used.is_relative_to(home)
    assert stat.S_IMODE(used.parent.parent.stat().st_mode) == 0o700
    assert (home / "locks/engine").exists(), "whoever lists the locks finds them"
    with state.locked("engine", timeout_s=0):
        pass
    assert capsys.readouterr().err.count("does not support them") == 1, "it is said once"


def test_a_lock_ends_with_its_process(home: Path) -> None:
    code = (
        "import os; from labhelpers import state; lock = state.locked('one'); lock.__enter__(); "
        "print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(state.ROOT)},
    )  # fmt: skip
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == "held\n"
    waited: list[bool] = []
    with pytest.raises(SetupFailed), state.locked("one", 0, lambda: waited.append(True)):
        pass
    holder.kill()
    holder.wait()
    with state.locked("one", 5):
        assert waited == [True]
    holder.stdin.close()
    holder.stdout.close()


# ── this process ──────────────────────────────────────────────────────────────────────────────────────


def test_a_useless_umask_and_tmpdir_are_repaired(home: Path, tmp_path: Path) -> None:
    code = (
        "import os, tempfile; os.umask(0o777); from labhelpers import state; state.normalize_environment();"
        "state.write_json('x.json', {}); print(os.environ.get('TMPDIR'), oct(os.umask(0)))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "gone"), "PYTHONPATH": str(state.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "None 0o77\n"
    assert stat.S_IMODE((home / "x.json").stat().st_mode) == 0o600


def test_an_installed_package_names_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    error = errors.BadInput("no", hint="`./lab down`, then ./lab up")
    assert "./lab down" in str(error)
    monkeypatch.setattr(errors, "_FROM_WHEEL", True)
    assert "`labhelpers down`, then labhelpers up" in str(error)


def test_an_installed_package_works_on_a_copy(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "bundle/notebooks"
    shipped.mkdir(parents=True)
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (shipped / name).write_text("first edition", encoding="utf-8")
    monkeypatch.setattr(state, "IS_CHECKOUT", False)
    monkeypatch.setattr(state, "ROOT", tmp_path / "bundle")
    copy = state.course_directory() / "notebooks"
    assert copy.is_relative_to(home)
    (copy / "01_b.ipynb").write_text("the reader's", encoding="utf-8")
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (shipped / name).write_text("second edition", encoding="utf-8")
    state.course_directory()
    texts = [(copy / name).read_text(encoding="utf-8") for name in ("00_a.ipynb", "01_b.ipynb")]
    assert texts == ["second edition", "the reader's"]


def test_a_directory_whose_name_is_no_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path / "caf\u00e9") + b"\xff\n x")
    monkeypatch.setenv("LABHELPERS_HOME", folder)
    state.write_json("progress.json", {"where": str(state.home())})
    assert state.read_json("progress.json", {}) == {"where": folder}
    with state.locked("any"):
        assert state.home().is_dir()
