"""Doing as root what needs root: as root already, or through sudo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# users of Debian do not have the directories of iptables and dockerd in their PATH
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def may_be_root() -> bool:
    """Whether this process is root, or sudo makes it so (without a question, unless a person is there to answer)."""
    if os.geteuid() == 0:
        return True
    if not shutil.which("sudo"):
        return False
    quiet = subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return quiet or (sys.stdin.isatty() and subprocess.run(["sudo", "-v"]).returncode == 0)


def as_root(command: Sequence[str]) -> list[str]:
    """`command` as root runs it."""
    found = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") or command[0]
    return [*([] if os.geteuid() == 0 else ["sudo"]), found, *command[1:]]


def run_as_root(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` as root and keep what it says; a command that is not there ends with status 127."""
    try:
        return subprocess.run(as_root(command), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(list(command), 127, "", str(error))


def unmount_below(folder: Path) -> None:
    """Unmount what is mounted below `folder`, deepest first, so that it can be removed."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = [line.split(" ")[4].encode().decode("unicode_escape") for line in lines]
    for point in sorted((m for m in mounted if m.startswith(f"{folder}/")), key=len, reverse=True):
        run_as_root(["umount", "-l", point])
