"""Install packages of the distribution without removing, downgrading or changing installed ones.

Imports the standard library only: `labhelpers.commandline.bootstrap` uses it before there is an environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

from labhelpers.errors import SetupFailed

Run = Callable[[Sequence[str], str], tuple[int, str]]
"""Runs a command as root under a title: (exit status, the end of its output)."""
Echo = Callable[[str], object]

LOCK_TIMEOUT_S = 300
LAST_LINES = 6
_ENGINES = re.compile(r"containerd|docker|runc|moby|podman")
# what apt-get prints (in English, LC_ALL=C), why it fails, and what to do
_LOCKED = r"Could not get lock|is another process using it|locked by another process"
_CAUSES = (
    (
        _LOCKED,
        f"another program has held the package lock for more than {LOCK_TIMEOUT_S} s",
        "wait for it to finish (`ps -e | grep -E 'apt|dpkg|unattended'`), then try again",
    ),
    (
        r"are you root\?|lock file \S+ - open \(13: Permission denied\)",
        "you do not have permission to install packages",
        "run this as root, or as a user with sudo rights",
    ),
    (
        r"Read-only file system",
        "the system's files are read-only",
        "install the packages where this machine's image is built, then try again",
    ),
    (
        r"No space left on device|don't have enough free space",
        "the disk is full",
        "free some space (`sudo apt-get clean`, `df -h / /var`), then try again",
    ),
    (
        r"dpkg was interrupted",
        "an earlier installation was interrupted",
        "`sudo dpkg --configure -a`, then try again",
    ),
    (
        r"Packages need to be removed|Remv |Purg ",
        "that would remove a package that is installed",
        "nothing was changed, because the package database changed in the meantime: try again",
    ),
    (
        r"[Hh]eld packages were changed",
        "that would change a package that is on hold on this machine",
        "see `apt-mark showhold`; nothing was changed. Release it yourself (`sudo apt-mark unhold NAME`) if you may",
    ),
    (
        r"trying to overwrite .* which is also in package",
        "a package that is installed has the same files",
        "its name is in apt-get's message: remove that package yourself if this machine can do without it",
    ),
    (
        r"Errors were encountered while processing",
        "the script of a package failed while it was set up",
        "`sudo dpkg --configure -a` shows the cause and resumes; then try again",
    ),
    (
        r"unmet dependencies|held broken packages|Unmet dependencies",
        "the packages conflict with installed packages",
        "`sudo apt-get -f install` repairs a half-installed package; then try again",
    ),
    (
        r"407 |Proxy Authentication",
        "the proxy requires a user name and a password",
        "set them in http_proxy and https_proxy or in apt's configuration, then try again",
    ),
    (
        r"not valid yet|is expired",
        "the package lists are not valid at this machine's time",
        "correct the clock (`date`), then try again",
    ),
    (
        r"[Cc]ertificate verification",
        "the certificate of the package mirror is not trusted here",
        "a company's proxy often replaces it: put its authority into /usr/local/share/ca-certificates, then "
        "`sudo update-ca-certificates`",
    ),
    (
        r"(does not have|no longer has) a Release file|changed its '\w+' value",
        "a package source is gone, or has become that of another release of the distribution",
        "`sudo apt-get update` names it: repair it in /etc/apt (or accept it: --allow-releaseinfo-change)",
    ),
    (
        r"Malformed (entry|line|stanza)|list of sources could not be read|status file could not be parsed",
        "the settings or lists of apt on this machine are corrupted",
        "repair the file in apt-get's message, then try again",
    ),
    (
        r"403 +Forbidden",
        "the package mirror, or a proxy before it, refuses",
        "check the proxy (http_proxy, or apt's own) and the mirror in /etc/apt, then try again",
    ),
    (
        r"NO_PUBKEY|is not signed|signatures were invalid|unauthenticated packages",
        "a package source cannot be verified",
        "repair the source that is named in /etc/apt, then try again",
    ),
    (
        r"Failed getting release file|[Uu]nable to resolve|Could not resolve|"
        r"Temporary failure resolving|Could not connect|Unable to connect|Cannot initiate|"
        r"Connection (timed out|refused|failed|reset)|Network is unreachable",
        "the package mirror cannot be reached",
        "check the network, the proxy (http_proxy, or apt's own) and the mirror in /etc/apt, then try again",
    ),
    (
        r"404 +Not Found|Hash Sum mismatch|unexpected size|Mirror sync in progress",
        "the package lists are out of date or the mirror is being updated",
        "`sudo apt-get update`, then try again; a mirror update usually finishes within an hour",
    ),
    (
        r"Unable to locate package|has no installation candidate",
        "this machine's package sources do not provide them",
        "`sudo apt-get update`; check the sources in /etc/apt (on Ubuntu: `universe`), then try again",
    ),
)


def command(*arguments: str) -> list[str]:
    """The apt-get command line for `arguments`: no prompts, English messages, a bounded wait for another apt.

    needrestart(1), on Ubuntu, neither prompts nor restarts services.
    """
    return [
        *("env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "NEEDRESTART_MODE=l"),
        *("apt-get", "-y"),
        *("-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT_S}", "-o", "APT::Get::AutomaticRemove=false"),
        *arguments,
    ]


def update(run: Run, echo: Echo) -> tuple[int, str]:
    """Read the package lists: (exit status, the end of its output). It waits while another program holds the lock."""
    end = time.monotonic() + LOCK_TIMEOUT_S
    waiting = False
    while True:
        # apt waits for dpkg's lock, not for that of the lists
        status, output = run(command("update"), "packages: reading the lists")
        if not status or not re.search(_LOCKED, output) or time.monotonic() > end:
            return status, output
        if not waiting:
            holder = re.search(r"held by (process \d+( \([^)]*\))?)", output)
            program = holder[1] if holder else "apt"
            echo(f"packages: another program ({program}) is reading them; waiting up to {LOCK_TIMEOUT_S} s")
        waiting = True
        time.sleep(3)


def install(packages: Sequence[str], run: Run) -> None:
    """Install `packages` if that removes, downgrades and changes nothing that is held.

    Raises:
        SetupFailed: it would, or apt-get failed; the message includes the last lines of its output.
    """
    check(packages)
    status, output = run(
        command("install", "--no-remove", "--no-install-recommends", *packages), "packages: installing"
    )
    if status:
        raise failed(packages, output)


def check(packages: Sequence[str], options: Sequence[str] = ()) -> None:
    """Simulate the installation of `packages`; `options` go to apt-get.

    Raises:
        SetupFailed: it would remove or downgrade a package, change a held one, or fail.
    """
    simulated = subprocess.run(
        [*command(), *options, "--simulate", "--no-install-recommends", "install", *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    )
    if lines := removed_or_downgraded(simulated.stdout):
        names = ", ".join(line.split()[1] for line in lines)
        raise SetupFailed(
            f"installing {', '.join(packages)} would remove or downgrade installed packages: {names}; "
            "nothing was changed",
            hint=_without(names, packages),
            engine_message="\n".join(lines),
        )
    if simulated.returncode:
        raise failed(packages, simulated.stdout)


def removed_or_downgraded(simulated: str) -> list[str]:
    """The lines of `apt-get --simulate` that remove or purge an installed package, or downgrade it.

    `Remv NAME [OLD]`, `Purg NAME [OLD]`, `Inst NAME [OLD] (NEW ORIGIN)`: apt-get(8), --simulate.
    """
    changes = []
    for line in simulated.splitlines():
        installs = re.match(r"Inst \S+ \[([^\]]+)\] \((\S+)", line)
        if line.startswith(("Remv ", "Purg ")) or (installs and _is_newer(installs[1], installs[2])):
            changes.append(line.strip())
    return changes


def _is_newer(old: str, new: str) -> bool:
    compared = subprocess.run(["dpkg", "--compare-versions", old, "gt", new], capture_output=True)
    return compared.returncode == 0


def _without(names: str, packages: Sequence[str]) -> str:
    if _ENGINES.search(names) and {"docker.io", "containerd", "runc"} & set(packages):
        return (
            "start the engine that these packages belong to (`sudo systemctl start docker`), or install "
            "Docker from the same source; the lab uses any running engine"
        )
    return (
        "if you do not need them, install the packages yourself and check what apt asks: `sudo apt-get "
        f"install {' '.join(packages)}`; then try again"
    )


def failed(packages: Sequence[str], output: str) -> SetupFailed:
    """The error for a failed installation of `packages`, from the output of apt-get."""
    why, hint = known_cause(output) or ("", "fix the problem in apt-get's message, then try again")
    return SetupFailed(
        f"apt-get could not install {', '.join(packages)}{': ' + why if why else ''}",
        hint=hint,
        engine_message="\n".join(output.strip().splitlines()[-LAST_LINES:]),
    )


def known_cause(output: str) -> tuple[str, str] | None:
    """The cause of apt-get's failure and a hint; None if its output matches no known cause."""
    return next(((why, hint) for pattern, why, hint in _CAUSES if re.search(pattern, output)), None)


def is_available() -> bool:
    """Whether this machine installs packages with apt-get."""
    return os.name == "posix" and shutil.which("apt-get") is not None
