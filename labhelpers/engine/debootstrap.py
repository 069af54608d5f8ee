"""A base image of the machine's own distribution, made with debootstrap from the mirror that its apt uses.

For use without Docker Hub. The mirror, its suites and apt's proxy are copied from the machine into the image, so that
builds on it use the same mirror.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labhelpers import state
from labhelpers.engine import apt, install
from labhelpers.engine.find import Engine
from labhelpers.engine.root import as_root, may_be_root, run_as_root, unmount_below
from labhelpers.errors import ImageMissing, SetupFailed
from labhelpers.terminal import echo

Echo = Callable[[str], object]

PREFIX = "debootstrap-"
# what debian:bookworm-slim leaves out as well: documentation, and translations of it
SLIM = "".join(f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "info", "locale", "man"))
# the settings of apt that it needs to reach and verify the mirror (apt.conf(5))
APT_SETTINGS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Source:
    """One repository of the machine's distribution, as its apt names it.

    Attributes:
        uri: of the mirror.
        codename: `bookworm`, `bookworm-updates`, …
        component: `main`, `universe`, …
    """

    uri: str
    codename: str
    component: str


def make_base_image(engine: Engine, ref: str, labels: Mapping[str, str], echo: Echo) -> None:
    """Create a minimal system of the machine's distribution and import it into the engine as `ref`.

    Raises:
        ImageMissing: this machine is not Debian or Ubuntu, the user cannot become root, or the
            engine has another architecture.
        SetupFailed: debootstrap or the import failed; the message includes its last output.
    """
    _check_possible(engine)
    install.ensure(install.IMAGE_PACKAGES, "building a base image from packages")
    cache = state.path("cache", "x").parent
    for stale in cache.glob(f"{PREFIX}*"):
        _remove(stale)  # left behind by a killed command
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
    try:
        _run_debootstrap(folder, sources())
        echo("base: importing it into the engine")
        _import(engine, folder, ref, labels)
    finally:
        _remove(folder)


def sources() -> list[Source]:
    """The distribution's own repositories on this machine (apt-get(8), indextargets), its main one first.

    Raises:
        ImageMissing: apt has no network mirror of the distribution configured.
    """
    fields = "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    if not (rows := _rows(command)):
        apt.update(install.run, echo)  # origins are known from the mirror's own lists
        rows = _rows(command)
    repositories = [Source(uri, codename, component) for origin, uri, codename, component in rows]
    if not repositories:
        raise ImageMissing(
            "cannot build a base image: apt has no mirror configured for this distribution",
            hint="give the engine access to Docker Hub, or set LABHELPERS_REGISTRY to a registry with the lab's images",
        )
    return sorted(repositories, key=lambda source: len(source.codename))


def _rows(command: Sequence[str]) -> list[list[str]]:
    output = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace").stdout
    return _targets(output)


def _targets(output: str) -> list[list[str]]:
    """Rows of four fields; other lines, such as apt's own warnings, are skipped."""
    rows = [line.strip().split("|") for line in dict.fromkeys(output.splitlines())]
    return [
        row
        for row in rows
        if len(row) == 4 and row[0] in ("Debian", "Ubuntu") and row[1].startswith("http") and all(row)
    ]


def apt_settings() -> str:
    """The lines of apt.conf(5) that the base needs to reach the same mirror."""
    output = subprocess.run(
        ["apt-config", "dump"], capture_output=True, encoding="utf-8", errors="replace"
    ).stdout
    return "".join(f"{line}\n" for line in output.splitlines() if line.split(" ")[0] in APT_SETTINGS)


def _check_possible(engine: Engine) -> None:
    engine_machine, local_machine = engine.info["Architecture"], platform.machine()
    if not install.is_debian():
        reason = "this machine is not Debian or Ubuntu"
    elif ARCHITECTURES.get(engine_machine, engine_machine) != ARCHITECTURES.get(local_machine, local_machine):
        reason = f"the engine's architecture is {engine_machine}, this machine's is {local_machine}"
    elif not may_be_root():
        reason = "it needs root, and you cannot use sudo"
    else:
        return
    raise ImageMissing(
        f"Docker Hub is not reachable, and no base image can be built here: {reason}",
        hint="give the engine access to Docker Hub, or set LABHELPERS_REGISTRY=host:port "
        "to a registry that holds the lab's images",
    )


def _run_debootstrap(folder: Path, repositories: Sequence[Source]) -> None:
    main = repositories[0]
    components = ",".join(dict.fromkeys(s.component for s in repositories if s.codename == main.codename))
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", f"--components={components}"]
    root = folder / "root"
    status, output = install.run(
        [*command, main.codename, str(root), main.uri], f"base: debootstrap {main.codename}"
    )
    if status:
        why, hint = apt.known_cause(output) or ("", "check debootstrap's message and the mirror in /etc/apt")
        raise SetupFailed(
            "debootstrap could not create a base image; its files were removed" + (f": {why}" if why else ""),
            hint=f"{hint}; the base image is built in {state.abbreviate_home(state.home())}",
            engine_message="\n".join(output.splitlines()[-6:]),
        )
    lines = "".join(f"deb {s.uri} {s.codename} {s.component}\n" for s in repositories)
    _write(root / "etc/apt/sources.list", lines)
    _write(root / "etc/apt/apt.conf.d/90labhelpers", apt_settings() + 'APT::Install-Recommends "false";\n')
    _write(root / "etc/dpkg/dpkg.cfg.d/labhelpers", SLIM)
    excluded = [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        *(line.split()[1][1:-2] for line in SLIM.splitlines()),
    ]
    for name in (*excluded, "var/log", "dev"):
        run_as_root(["find", str(root / name), "-mindepth", "1", "-delete"])


def _write(file: Path, text: str) -> None:
    run_as_root(["mkdir", "-p", str(file.parent)])
    subprocess.run(
        as_root(["tee", str(file)]),
        input=text,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _import(engine: Engine, folder: Path, ref: str, labels: Mapping[str, str]) -> None:
    repository, _, tag = ref.partition(":")
    changes = ['CMD ["bash"]', *(f"LABEL {name}={value}" for name, value in labels.items())]
    packed = as_root(["tar", "-C", str(folder / "root"), "--numeric-owner", "-c", "."])
    with subprocess.Popen(packed, stdout=subprocess.PIPE) as tar:
        output = engine.client.api.import_image_from_stream(
            tar.stdout, repository=repository, tag=tag, changes=changes
        )
    if tar.returncode or '"error"' in output:
        raise SetupFailed(
            "the base image could not be imported into the engine",
            hint="the disk may be full: check `docker system df`, then try again",
            engine_message=output,
        )
    # Podman 4.3 imports it as `latest`, whatever the tag
    imported = json.loads(output.strip().splitlines()[-1])["status"]
    engine.client.api.tag(imported, repository, tag)


def _remove(folder: Path) -> None:
    unmount_below(folder)  # debootstrap mounts /proc and /sys while it runs
    run_as_root(["rm", "-rf", "--one-file-system", str(folder)])
    shutil.rmtree(folder, ignore_errors=True)
