"""Temporary volumes and directories of an experiment, and programs that run in containers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine.differences import security_option
from labhelpers.errors import ExperimentFailed, NameTaken, NotAvailable
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

TIMEOUT_S = 120.0
"""Time limit for a container or a program. On an engine in an emulated machine a container takes 8 s to start."""
KEEP_RUNNING = ("sleep", "3600")


def program(name: str) -> str:
    """The source of a program in `inside/`, which runs in a container."""
    return Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")


@contextmanager
def volume(lab: Lab, purpose: str) -> Iterator[str]:
    """A new, empty volume for the block; gives its name."""
    name = f"volumes-{purpose}-{lab.session}"
    lab.create_volume(name)
    try:
        yield name
    finally:
        lab.remove_volume(name)


def directory_of(lab: Lab, name: str) -> str:
    """The directory of a volume on the engine's host (Engine API, GET /volumes/{name}: `Mountpoint`).

    It can be the source of a bind mount, like any other directory, and it is removed with the volume.

    Raises:
        EngineRefused: there is no such volume.
        NotAvailable: its driver does not store it in a directory.
    """
    inspected = lab.inspect_volume(name)
    if not inspected.get("Mountpoint"):
        raise NotAvailable(
            f"the driver {inspected['Driver']!r} of the volume {name!r} does not store it in a directory",
            hint="create the volume with the driver `local`",
        )
    return str(inspected["Mountpoint"])


def bind_options(
    lab: Lab, source: str, mount_point: str, *, readonly: bool = False, **options: Any
) -> dict[str, Any]:
    """`options` of `lab.run` with a bind mount of a directory that the lab created.

    With SELinux, the mount gives the directory the label of containers (`:z`), for which `--mount` has no field. Use it
    only for a directory of the lab: the label of a reader's directory must not change.

    Source: docs.docker.com, storage/bind-mounts, "Configure the SELinux label".
    """
    if security_option(lab.engine.info, "selinux"):
        mode = "ro,z" if readonly else "z"
        return options | {"volumes": [*options.get("volumes", ()), f"{source}:{mount_point}:{mode}"]}
    mount = f"type=bind,source={source},target={mount_point}" + (",readonly" if readonly else "")
    return options | {"mounts": [*options.get("mounts", ()), mount]}


def owned_volume(lab: Lab, name: str) -> str:
    """Check that the volume was created by this session, or by its reader in an earlier one; gives `name`.

    `docker volume create` succeeds for an existing volume, so call this before anything is written or removed.

    Raises:
        EngineRefused: there is no such volume.
        NameTaken: the volume was created by neither of them.
    """
    if not sessions.is_usable_volume(lab.inspect_volume(name).get("Labels"), lab.session):
        raise NameTaken(
            f"the volume {name!r} was not created by this notebook and stays untouched",
            hint="if you do not need it, remove it in a terminal; if another notebook created it, close that notebook",
        )
    return name


def display_path(lab: Lab, path: str) -> str:
    """`path` of the engine's host as the course shows it: relative to `DATA`, the engine's data directory.

    Of a path elsewhere only the last component remains: a stored notebook must not contain paths of a machine.
    """
    root = str(lab.engine.info["DockerRootDir"]).rstrip("/")
    is_below = f"{path}/".startswith(f"{root}/")
    short = f"DATA{path.removeprefix(root)}" if is_below else f"…/{path.rpartition('/')[2]}"
    return re.sub(r"[0-9a-z]{25,}|[0-9a-f]{13,}", lambda id: f"{id[0][:7]}…", short)


def output(
    lab: Lab,
    command: Sequence[str],
    *,
    image: str = "payload",
    limit_s: float = TIMEOUT_S,
    **options: Any,
) -> str:
    """Run a command in a temporary container without a network, and give its standard output.

    Args:
        image: a lab image.
        limit_s: time limit without output, in seconds.
        options: as for `lab.run`.

    Raises:
        ExperimentFailed: the exit code is not 0.
        TimedOut: the command wrote nothing for `limit_s`.
    """
    result = lab.run_once(lab.image(image), command, limit_s=limit_s, **{"network": "none", **options})
    if result.exit_code:
        raise _program_failed(str(result))
    return result.stdout


def result_of(lab: Lab, container: Container) -> str:
    """Wait until a container exits, and give its output.

    Raises:
        ExperimentFailed: the exit code is not 0.
        TimedOut: the container is still running after `TIMEOUT_S`.
    """
    code = lab.wait(container, limit_s=TIMEOUT_S)
    text = lab.logs(container)
    if code:
        raise _program_failed(text)
    return text


def _program_failed(output: str) -> ExperimentFailed:
    return ExperimentFailed(
        "a program of the lab failed in its container",
        hint="if the engine's disk is full (`docker system df`), free some space; then run the cell again",
        engine_message=output[-500:],
    )
