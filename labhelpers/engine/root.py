"""Run commands as root, directly or with sudo."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# on Debian, the PATH of users lacks the directories of iptables and dockerd
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_UPPER = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
PROXIES = (*_UPPER, *(name.lower() for name in _UPPER))
"""The proxy variables; curl, apt and older programs read only the lower-case ones."""
# A proxy URL may contain a password, and command lines are visible to every user and logged by sudo: pass them through
# standard input. dockerd and debootstrap find programs of the system's directories in PATH.
_WITH_PROXIES = (
    f'PATH="$PATH:{SYSTEM_PATH}"; export PATH; '
    'while IFS= read -r setting; do export "$setting"; done; exec "$@" </dev/null'
)


def may_be_root() -> bool:
    """Whether this process is root or can use sudo (with a password prompt only on a terminal)."""
    if os.geteuid() == 0:
        return True
    if not shutil.which("sudo"):
        return False
    quiet = subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return quiet or (sys.stdin.isatty() and subprocess.run(["sudo", "-v"]).returncode == 0)


def as_root(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` as root."""
    return [*([] if os.geteuid() == 0 else ["sudo"]), *_absolute_command(command)]


def _absolute_command(command: Sequence[str]) -> list[str]:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    return [program or command[0], *command[1:]]


@contextmanager
def with_proxies(command: Sequence[str]) -> Iterator[tuple[list[str], BinaryIO]]:
    """The command line that runs `command` as root with this process's proxies, which sudo would drop, and its stdin.

    The command itself reads end of file from its standard input.
    """
    settings = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    lines = "".join(f"{name}={value}\n" for name, value in settings.items() if "\n" not in value)
    reading, writing = os.pipe()
    with open(reading, "rb") as source:
        with open(writing, "wb") as sink:
            sink.write(os.fsencode(lines))
        yield as_root(["sh", "-c", _WITH_PROXIES, "labhelpers", *_absolute_command(command)]), source


def run_as_root(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` as root and capture its output; the exit status is 127 if it is not installed."""
    try:
        return subprocess.run(
            as_root(command),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 127, "", str(error))


def unmount_below(folder: Path) -> None:
    """Unmount all file systems below `folder`, deepest first, so that it can be removed."""
    lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    mounted = [_unescaped(line.split(" ")[4]) for line in lines if line.count(" ") > 4]
    for point in sorted((m for m in mounted if m.startswith(f"{folder}/")), key=len, reverse=True):
        run_as_root(["umount", "-l", point])


def _unescaped(path: str) -> str:
    """A path of /proc/PID/mountinfo, where space, tab, newline and backslash are written in octal (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
