"""The distribution's packages that the lab needs on a Debian or Ubuntu that has no engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labhelpers import state
from labhelpers.engine import apt
from labhelpers.engine.find import INSTALL_PAGE
from labhelpers.engine.root import SYSTEM_PATH, as_root, may_be_root, run_as_root, with_proxies
from labhelpers.errors import EngineMissing, SetupFailed
from labhelpers.terminal import run_shown, say

ENGINE = ("docker.io", "containerd", "runc", "iptables", "iproute2")
IMAGES = ("debootstrap",)
GUESTS = ("qemu-system-x86", "e2fsprogs")
BROWSER = ("chromium", "fonts-noto-cjk")
PROGRAMS = {
    "docker.io": "dockerd",
    "docker-cli": "docker",
    "iproute2": "ip",
    "qemu-system-x86": "qemu-system-x86_64",
    "e2fsprogs": "mke2fs",
    "fonts-noto-cjk": "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
}
INSTALLED = "packages.json"


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` whose program is not on this machine."""
    there = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return [name for name in packages if not shutil.which(PROGRAMS.get(name, name), mode=os.F_OK, path=there)]


def is_debian() -> bool:
    """Whether this is Debian, Ubuntu or one of their children (os-release(5))."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    words = {
        word for line in lines if line.startswith(("ID=", "ID_LIKE=")) for word in line.split("=")[1].split()
    }
    return bool({word.strip('"') for word in words} & {"debian", "ubuntu"})


def ensure(packages: Sequence[str], why: str) -> None:
    """Install those of `packages` that are missing, saying which first.

    Raises:
        EngineMissing: this is not a Debian or Ubuntu, or this user may not install packages.
        SetupFailed: apt-get failed, or would remove or downgrade one of the machine's packages.
    """
    wanted = missing(packages)
    if "docker.io" in wanted and not shutil.which("docker"):
        wanted += ["docker-cli"] if _known("docker-cli") else []
    if not wanted:
        return
    if not is_debian() or not apt.is_here():
        raise EngineMissing(
            f"{why}: {', '.join(wanted)} is not installed, and the lab can install packages only on Debian "
            "and Ubuntu",
            hint=f"install and start Docker ({INSTALL_PAGE}), then try again",
        )
    if not may_be_root():
        raise EngineMissing(
            f"{why}: packages are missing, and you are neither root nor allowed to use sudo",
            hint="have an administrator run these two commands, log in again, then try again:\n"
            "    sudo apt-get update && sudo apt-get install --no-remove --no-install-recommends "
            f"{' '.join(wanted)}\n"
            "    sudo usermod -aG docker $USER",
        )
    with state.locked(
        "packages", waiting=lambda: say("packages: waiting for another lab command to install them")
    ):
        wanted = [name for name in wanted if name in missing(packages) or name == "docker-cli"]
        if wanted:
            _install(wanted, why)


def run(command: Sequence[str], title: str) -> tuple[int, str]:
    """Run `command` as root with this process's proxies, showing its newest line: (exit status, its last 20 lines)."""
    with with_proxies(command) as (as_it_runs, proxies):
        return run_shown(as_it_runs, title, stdin=proxies)


def installed_by_the_lab() -> list[str]:
    """The packages that the lab asked for on this machine, with what came along."""
    return [str(name) for name in state.read_json(INSTALLED, [])]


def _install(wanted: list[str], why: str) -> None:
    say(f"packages: {why}; installing the distribution's {', '.join(wanted)}")
    before = _packages()
    not_read, output = apt.update(run, say)
    try:
        with _no_service_starts("docker.io" in wanted):
            apt.install(wanted, run)
    except SetupFailed as error:
        if not_read and (known := apt.cause(output)):
            raise SetupFailed(
                f"{error.message} ({known[0]})", hint=known[1], engine_message=output
            ) from error
        raise
    finally:
        state.write_json(INSTALLED, sorted({*installed_by_the_lab(), *(_packages() - before)}))


def _packages() -> set[str]:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    return {line.split()[0] for line in listed.stdout.splitlines() if line.endswith(" installed")}


def _known(package: str) -> bool:
    return (
        "Package:"
        in subprocess.run(
            ["apt-cache", "show", package], capture_output=True, encoding="utf-8", errors="replace"
        ).stdout
    )


@contextmanager
def _no_service_starts(concerned: bool) -> Iterator[None]:
    """Keep docker.io from starting an engine of its own: invoke-rc.d(8) asks /usr/sbin/policy-rc.d.

    The distribution's service would listen on the usual socket, come back at every boot, and share docker0
    with the private engine. It stays installed and disabled.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    ours = concerned and not policy.exists()
    if ours:
        text = "#!/bin/sh\n# put here by labhelpers while it installs packages\nexit 101\n"
        subprocess.run(
            as_root(["tee", str(policy)]),
            input=text,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.DEVNULL,
        )
        run_as_root(["chmod", "755", str(policy)])
    try:
        yield
    finally:
        if ours:
            run_as_root(["rm", "-f", str(policy)])
        if concerned and Path("/run/systemd/system").exists():
            run_as_root(
                ["systemctl", "disable", "--quiet", "docker.service", "docker.socket", "containerd.service"]
            )
