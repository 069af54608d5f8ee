"""Install the packages that the lab needs on Debian and Ubuntu machines without an engine."""

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
from labhelpers.terminal import echo, run_with_status

ENGINE_PACKAGES = ("docker.io", "containerd", "runc", "iptables", "iproute2")
IMAGE_PACKAGES = ("debootstrap",)
GUEST_PACKAGES = ("qemu-system-x86", "e2fsprogs")
BROWSER_PACKAGES = ("chromium", "fonts-noto-cjk")
PACKAGE_PROGRAMS = {
    "docker.io": "dockerd",
    "docker-cli": "docker",
    "iproute2": "ip",
    "qemu-system-x86": "qemu-system-x86_64",
    "e2fsprogs": "mke2fs",
    "fonts-noto-cjk": "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
}
RECORD_FILE = "packages.json"


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` whose program is not on this machine."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return [
        name
        for name in packages
        if not shutil.which(PACKAGE_PROGRAMS.get(name, name), mode=os.F_OK, path=path)
    ]


def is_debian() -> bool:
    """Whether this is Debian, Ubuntu or a derivative (os-release(5))."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    names = {
        word for line in lines if line.startswith(("ID=", "ID_LIKE=")) for word in line.split("=")[1].split()
    }
    return bool({word.strip('"') for word in names} & {"debian", "ubuntu"})


def ensure(packages: Sequence[str], reason: str) -> None:
    """Install those of `packages` that are missing, after printing their names.

    Raises:
        EngineMissing: this is not a Debian or Ubuntu, or this user may not install packages.
        SetupFailed: apt-get failed, or would remove or downgrade one of the machine's packages.
    """
    to_install = missing(packages)
    if "docker.io" in to_install and not shutil.which("docker"):
        to_install += ["docker-cli"] if _is_available("docker-cli") else []
    if not to_install:
        return
    if not is_debian() or not apt.is_available():
        raise EngineMissing(
            f"{reason}: {', '.join(to_install)} is not installed, and the lab can install packages only on Debian "
            "and Ubuntu",
            hint=f"install and start Docker ({INSTALL_PAGE}), then try again",
        )
    if not may_be_root():
        raise EngineMissing(
            f"{reason}: packages are missing, and you are neither root nor allowed to use sudo",
            hint="have an administrator run these two commands, log in again, then try again:\n"
            "    sudo apt-get update && sudo apt-get install --no-remove --no-install-recommends "
            f"{' '.join(to_install)}\n"
            "    sudo usermod -aG docker $USER",
        )
    with state.locked(
        "packages", waiting=lambda: echo("packages: waiting for another lab command to install them")
    ):
        to_install = [name for name in to_install if name in missing(packages) or name == "docker-cli"]
        if to_install:
            _install(to_install, reason)


def run(command: Sequence[str], title: str) -> tuple[int, str]:
    """Run `command` as root with this process's proxies, showing its newest line: (exit status, its last 20 lines)."""
    with with_proxies(command) as (as_it_runs, proxies):
        return run_with_status(as_it_runs, title, stdin=proxies)


def installed_by_the_lab() -> list[str]:
    """The packages that the lab installed on this machine, including dependencies."""
    return [str(name) for name in state.read_json(RECORD_FILE, [])]


def _install(packages: list[str], reason: str) -> None:
    echo(f"packages: {reason}; installing the distribution's {', '.join(packages)}")
    before = _packages()
    not_read, output = apt.update(run, echo)
    try:
        with _policy_rc_d("docker.io" in packages):
            apt.install(packages, run)
    except SetupFailed as error:
        if not_read and (known := apt.known_cause(output)):
            raise SetupFailed(
                f"{error.message} ({known[0]})", hint=known[1], engine_message=output
            ) from error
        raise
    finally:
        state.write_json(RECORD_FILE, sorted({*installed_by_the_lab(), *(_packages() - before)}))


def _packages() -> set[str]:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    return {line.split()[0] for line in listed.stdout.splitlines() if line.endswith(" installed")}


def _is_available(package: str) -> bool:
    return (
        "Package:"
        in subprocess.run(
            ["apt-cache", "show", package], capture_output=True, encoding="utf-8", errors="replace"
        ).stdout
    )


@contextmanager
def _policy_rc_d(installs_docker: bool) -> Iterator[None]:
    """Prevent docker.io from starting its service, with /usr/sbin/policy-rc.d (invoke-rc.d(8)).

    The service would listen on the default socket, start at every boot, and share docker0 with the private engine. It
    stays installed but disabled.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    is_created = installs_docker and not policy.exists()
    if is_created:
        text = "#!/bin/sh\n# created by labhelpers while it installs packages\nexit 101\n"
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
        if is_created:
            run_as_root(["rm", "-f", str(policy)])
        if installs_docker and Path("/run/systemd/system").exists():
            run_as_root(
                ["systemctl", "disable", "--quiet", "docker.service", "docker.socket", "containerd.service"]
            )
