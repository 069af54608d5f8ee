"""`status`, `clean`, `down` and `doctor` without a usable Python environment; standard library only.

The verbs that remove resources must not install anything first: a full disk or a broken package index may be the reason
for the removal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from labhelpers import state
from labhelpers.engine import private
from labhelpers.errors import BadInput, SetupFailed

_KINDS = (
    ("containers", "docker ps -aq", "docker rm -fv"),
    ("networks", "docker network ls -q", "docker network rm"),
    ("volumes", "docker volume ls -q", "docker volume rm"),
)
_STOP_TIMEOUT_S = 15


def run(verb: str, arguments: Sequence[str]) -> None:
    """Run `verb` as far as possible, and report what could not be checked."""
    print("environment: not usable; continuing without it", flush=True)
    if verb == "status":
        _status()
    elif verb == "clean":
        if not _print_unchecked_engines():
            print("this state directory has no recorded sessions: nothing to remove")
            return
        sys.exit(1)
    else:
        _down("--purge" in arguments, "--yes" in arguments)


def _status() -> None:
    pid = jupyter_pid()
    print(f"JupyterLab: {f'running (PID {pid})' if pid else 'not running'}")
    print(
        f"engine:     the lab's private engine {'is running' if private.is_responding() else 'is not running'}"
    )
    print(f"files:      {state.home()}")
    _print_unchecked_engines()


def _down(purge: bool, yes: bool) -> None:
    home = state.home()
    if purge and not yes and not _ask(f"Remove all of the lab's data ({home}), including your progress?"):
        raise BadInput("nothing was removed", hint="answer y, or use --yes in a script")
    print(f"JupyterLab: {'stopped' if stop_jupyter() else 'not running'}")
    private.stop(lambda line: print(line, flush=True))
    _print_unchecked_engines()
    if purge:
        private.remove_data()
        kept = state.remove()
        if kept:
            print(
                f"removed the lab's files from {home}; kept, because they are not the lab's or cannot be "
                "removed:"
            )
            for path in kept:
                print(f"    {path}")
        else:
            print(f"removed {home}")


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _print_unchecked_engines() -> bool:
    """Print how to remove resources of sessions on an existing engine; False if there are no sessions."""
    sessions = sorted(file.stem for file in (state.home() / "sessions").glob("*.json"))
    if not sessions:
        return False
    print(
        "not checked: the lab's resources on an engine, which needs the environment. `./lab up` creates it;"
    )
    print("these commands work without it:")
    for session in sessions:
        for _, listed, removed in _KINDS:
            print(f"    {removed} $({listed} --filter label=labhelpers.session={session})")
    return True


def jupyter_pid() -> int | None:
    """The PID of the JupyterLab that the lab started, if it is running."""
    record = state.read_json("jupyter/server.json", {})
    pid = record.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 1:
        return None
    # the PID may have been reused
    return pid if "jupyterlab" in _command_line(pid) else None


def stop_jupyter() -> bool:
    """Stop the JupyterLab that the lab started, with its kernels; False if none is running."""
    pid = jupyter_pid()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_TIMEOUT_S
        while jupyter_pid() == pid and time.monotonic() < end:
            time.sleep(0.05)
        if jupyter_pid() == pid:
            os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise SetupFailed(
            f"JupyterLab (PID {pid}) belongs to another user and cannot be stopped",
            hint="run this command as that user",
            engine_message=str(error),
        ) from error
    return True


def _command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if it has exited."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        if Path("/proc/self").exists():
            return []
    # macOS has no /proc
    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, encoding="utf-8", errors="replace"
    )
    return listed.stdout.split()


def doctor(as_json: bool, hub_reachable: bool) -> None:
    """Print the report of `doctor` without an environment, and exit with status 1."""
    problem = {
        "what": "the course's Python environment does not exist yet",
        "why": f"there is no environment for this requirements.lock under {state.location()}",
        "next": "./lab up",
    }
    report: dict[str, object] = {
        "ok": False,
        "engine": None,
        "hub_reachable": hub_reachable,
        "images": {},
        "problems": [problem],
    }
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"problem: {problem['what']}\n  why:   {problem['why']}\n  next:  {problem['next']}")
    sys.exit(1)
