"""Make the course's Python environment, then hand over to `labhelpers.cli` inside it.

`./lab` starts this file with whatever Python 3.11+ the machine has, so it uses the standard library only
and no other module of ours. Versions and hashes come from `requirements.lock`; the index is whatever this
machine's own pip is set to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

HELP = """usage: ./lab VERB [OPTIONS]

  up      set up what is missing, start JupyterLab and open the course
  run     execute notebooks without a browser; --html DIR writes a report
  test    the whole test suite, every notebook included
  doctor  what is here, what is missing, and what to do about it
  status  what the lab has running and what it has made
  clean   remove what the lab made on the engine
  down    stop JupyterLab and the private engine; --purge removes everything of ours
  bench   compare what things cost on this engine

The environment is not made yet: `./lab up` makes it. After that each verb has its own --help.
"""


def main(arguments: list[str]) -> None:
    """Make the environment if it is not there, and run the verb in it."""
    verb = next((word for word in arguments if not word.startswith("-")), None)
    made = _is_made()
    if not made and (verb is None or "--help" in arguments):
        print(HELP, end="")
        return
    if not made and verb == "doctor":
        _doctor_without_environment("--json" in arguments)
    if not made and verb in ("down", "status", "clean") and not _home().exists():
        print("nothing of ours is on this machine")
        return
    if not made:
        _make()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONPYCACHEPREFIX"] = str(_home() / "cache" / "python")
    # that forbids bytecode beside the sources; ours has a place of its own, and without it each process
    # compiles all that it imports
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.stdout.flush()
    os.execv(_python(), [str(_python()), "-m", "labhelpers", *arguments])


def _home() -> Path:
    # the same rule as labhelpers.state.home, which cannot be imported before its libraries are there
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("LABHELPERS_HOME") or Path(base) / "labhelpers").absolute()


def _python() -> Path:
    return _home() / "env" / "bin" / "python"


def _wanted() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _is_made() -> bool:
    try:
        return (_home() / "env" / "made-from").read_text() == _wanted() and _python().exists()
    except OSError:
        return False


def _make() -> None:
    home = _home()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(home / "locks" / "environment"):
        if _is_made():
            return
        began = time.monotonic()
        print(f"environment: {LOCK.read_text().count('==')} packages from requirements.lock", flush=True)
        environment = home / "env"
        if not _works(environment / "bin" / "python"):
            _venv(environment)
        _install(environment)
        (environment / "made-from").write_text(_wanted())
        print(f"environment: ready ({time.monotonic() - began:.0f} s)", flush=True)


def _works(python: Path) -> bool:
    """A Python whose interpreter was upgraded away is a dangling link; a half-made one has no pip."""
    return (
        python.exists()
        and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    )


def _venv(environment: Path) -> None:
    make = [sys.executable, "-m", "venv", "--clear", str(environment)]
    done = subprocess.run(make, capture_output=True, text=True)
    if done.returncode and "ensurepip" in done.stdout + done.stderr and shutil.which("apt-get"):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        install = [*_as_root(), "apt-get", "install", "-y", "--no-install-recommends", package]
        print(f"environment: installing the distribution's {package}", flush=True)
        subprocess.run([*_as_root(), "apt-get", "update", "-q"], capture_output=True)
        if subprocess.run(install, capture_output=True).returncode:
            _stop("this Python has no venv module", f"sudo apt-get install {package}")
        done = subprocess.run(make, capture_output=True, text=True)
    if done.returncode:
        _stop("the Python environment could not be made", "see the lines above", done.stdout + done.stderr)


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def _install(environment: Path) -> None:
    python = environment / "bin" / "python"
    settings = {**os.environ, **_index(python), "UV_CACHE_DIR": str(_home() / "cache" / "uv")}
    pip = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir", "--disable-pip-version-check"]
    only_uv = environment / "uv.lock"
    only_uv.write_text(re.search(r"^uv==.*?(?=^\S)", LOCK.read_text() + "end", re.M | re.S)[0])  # type: ignore[index]
    uv = [str(python), "-m", "uv", "pip", "sync", "--python", str(python), "--require-hashes", str(LOCK)]
    with_uv = (
        subprocess.run([*pip, "--require-hashes", "-r", str(only_uv)]).returncode == 0
        and subprocess.run(uv, env=settings).returncode == 0
    )
    # uv has no wheel for every platform; pip reads the same lock, only slower
    if not with_uv and subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)]).returncode:
        _stop(
            "the packages of requirements.lock could not be installed; the lines above say which",
            "check the network and `pip config list`, then run this again: it goes on where it stopped",
        )


def _index(python: Path) -> dict[str, str]:
    """uv does not read pip's settings: give it the index that this machine's pip uses."""
    told = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(
        re.findall(r"(?:global|site|user|install|:env:)\.(index-url|extra-index-url)='([^'\n]*)'", told)
    )
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
    return {
        names[key]: value for key, value in found.items() if names[key] not in os.environ and "http" in value
    }


def hub_answers(seconds: float) -> bool:
    """Whether Docker Hub answers this machine: any answer counts, it asks for a password (Registry API, GET /v2/)."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=seconds)
        except urllib.error.HTTPError:
            answered.append(True)
        except OSError:
            return
        answered.append(True)

    # no time limit ends a look-up of a name: the thread is left behind
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(answered)


def _doctor_without_environment(as_json: bool) -> None:
    what = {
        "what": "the Python environment of the course is not made yet",
        "why": f"there is no environment for this requirements.lock under {_home()}",
        "next": "./lab up",
    }
    report: dict[str, object] = {
        "ok": False,
        "engine": None,
        "hub_reachable": hub_answers(1.5),
        "images": {},
        "problems": [what],
    }
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"problem: {what['what']}\n  why:   {what['why']}\n  next:  {what['next']}")
    sys.exit(1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("environment: another lab command is making it; waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stop(message: str, hint: str, words: str = "") -> None:
    print(f"{words}error: {message}\n  next:    {hint}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
