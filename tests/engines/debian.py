"""A Debian system in a directory, made with debootstrap from the mirror that this machine's apt uses."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from labhelpers import state
from labhelpers.engine import debootstrap, install
from labhelpers.engine.root import as_root, run_as_root, unmount_below, with_proxies
from labhelpers.errors import SetupFailed
from labhelpers.terminal import run_with_status

Echo = Callable[[str], object]

PREFIX = "test-engine-"
# packages of an engine; procps is for `docker top`
ENGINE = ("docker.io", "docker-cli", "docker-buildx", "iptables", "iproute2", "procps", "ca-certificates")
REMOVED_PATHS = (
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The specification of a Debian system.

    Attributes:
        suite: Debian's name: `trixie`, `sid`.
        packages: in addition to the minimal system.
        files: path → text; files that begin with `#!` are executable.
        commands: run in it at the end (chroot(8)).
    """

    suite: str
    packages: Sequence[str]
    files: Mapping[str, str]
    commands: Sequence[Sequence[str]] = ()

    @property
    def content(self) -> str:
        """The SHA-256 of the whole recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@contextmanager
def debian_root(recipe: Recipe, name: str, echo: Echo) -> Iterator[Path]:
    """Build the system for the block; yields its root directory.

    Raises:
        ImageMissing: apt has no network mirror configured.
        SetupFailed: debootstrap or a command failed; the message includes its last output.
    """
    install.ensure(install.IMAGE_PACKAGES, f"engine {name} is built from packages")
    cache = state.path("cache", "x").parent
    for stale in cache.glob(f"{PREFIX}*"):
        _remove(stale)  # left behind by a killed command
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
    try:
        _fill(folder / "root", recipe, name)
        yield folder / "root"
    finally:
        _remove(folder)


def _fill(root: Path, recipe: Recipe, name: str) -> None:
    mirror = debootstrap.sources()[0].uri
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(recipe.packages)}"]
    _run_step([*command, recipe.suite, str(root), mirror], f"engine {name}: debootstrap {recipe.suite}", name)
    for path, text in recipe.files.items():
        run_as_root(["mkdir", "-p", str((root / path).parent)])
        subprocess.run(
            as_root(["tee", str(root / path)]),
            input=text,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.DEVNULL,
            check=True,
        )
        if text.startswith("#!"):
            run_as_root(["chmod", "755", str(root / path)])
    for step in recipe.commands:
        _run_step(["chroot", str(root), *step], f"engine {name}: {' '.join(step[:2])}", name)
    for path in REMOVED_PATHS:
        run_as_root(["find", str(root / path), "-mindepth", "1", "-delete"])


def _run_step(command: Sequence[str], title: str, name: str) -> None:
    with with_proxies(["env", "LC_ALL=C", *command]) as (command_line, proxies):
        status, output = run_with_status(command_line, title, stdin=proxies)
    if status:
        raise SetupFailed(
            f"engine {name} could not be built; partial results were removed",
            hint="it is built from Debian packages: check the mirror in /etc/apt and the free space of "
            f"{state.abbreviate_home(state.home())}; then try again",
            engine_message="\n".join(output.splitlines()[-6:]),
        )


def _remove(folder: Path) -> None:
    unmount_below(folder)  # debootstrap mounts /proc and /sys while it runs
    run_as_root(["rm", "-rf", "--one-file-system", str(folder)])
    shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(address: str, seconds: float, is_alive: Callable[[], bool], name: str) -> None:
    """Wait until an engine responds.

    Raises:
        SetupFailed: it exited, or `seconds` passed.
    """
    import time

    import docker
    import requests
    from docker.errors import DockerException

    end = time.monotonic() + seconds
    message = ""
    while is_alive() and time.monotonic() < end:
        client = None
        try:
            client = docker.DockerClient(base_url=address, timeout=10)
            client.ping()
            return
        except (DockerException, requests.RequestException, OSError) as error:
            message = str(error)
            time.sleep(0.3)
        finally:
            if client is not None:
                client.close()
    raise SetupFailed(
        f"engine {name} did not respond within {seconds:.0f} s"
        if is_alive()
        else f"engine {name} exited immediately",
        hint="see its last log lines, then try again",
        engine_message=message,
    )
