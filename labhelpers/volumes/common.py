"""Volumes and directories for the time of one experiment, and programs that run in containers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine.differences import security_option
from labhelpers.errors import ContainerError, EngineRefused, NameTaken
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

TIMEOUT_S = 120.0
"""How long to wait for a container or a program: a container takes 8 s to start on an engine in an emulated machine."""
KEEP_RUNNING = ("sleep", "3600")


def program(name: str) -> str:
    """The text of a program that runs inside a container: a file of `inside/`."""
    return Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")


@contextmanager
def volume(lab: Lab, purpose: str) -> Iterator[str]:
    """The name of a new, empty volume, for the block."""
    name = f"volumes-{purpose}-{lab.session}"
    lab.create_volume(name)
    try:
        yield name
    finally:
        lab.remove_volume(name)


def directory_of(lab: Lab, name: str) -> str:
    """The directory of a volume on the engine's host (Engine API, GET /volumes/{name}: `Mountpoint`).

    It is a directory of that host like any other, so a bind mount may have it as its source, and it goes with the
    volume.

    Raises:
        EngineRefused: there is no such volume, or its driver keeps it in no directory.
    """
    found = lab.inspect_volume(name)
    if not found.get("Mountpoint"):
        raise EngineRefused(
            f"the driver {found['Driver']!r} of the volume {name!r} names no directory",
            hint="this chapter needs a volume of the driver `local`",
        )
    return str(found["Mountpoint"])


def bind_options(
    lab: Lab, source: str, inside: str, *, readonly: bool = False, **options: Any
) -> dict[str, Any]:
    """`options` of `lab.run` with a bind mount of a directory that the lab made.

    Where SELinux confines containers the directory gets the label of containers (`:z`), which `--mount` cannot ask for.
    Only for a directory of the lab: the label of a reader's directory is left alone.

    Source: docs.docker.com, storage/bind-mounts, "Configure the SELinux label".
    """
    if security_option(lab.engine.info, "selinux"):
        mode = "ro,z" if readonly else "z"
        return options | {"volumes": [*options.get("volumes", ()), f"{source}:{inside}:{mode}"]}
    mount = f"type=bind,source={source},target={inside}" + (",readonly" if readonly else "")
    return options | {"mounts": [*options.get("mounts", ()), mount]}


def owned_volume(lab: Lab, name: str) -> str:
    """`name`, if this session, or its reader in an earlier one, made the volume of that name.

    `docker volume create` answers for a volume that was there before as for a new one, so this is looked at before
    anything is written or removed.

    Raises:
        EngineRefused: there is no such volume.
        NameTaken: neither this session nor its reader made it.
    """
    if not sessions.is_usable_volume(lab.inspect_volume(name).get("Labels"), lab.session):
        raise NameTaken(
            f"the volume {name!r} was there before and this notebook did not make it, so it stays untouched",
            hint="if it is yours and not needed, remove it in a terminal; if another notebook made it, close that one",
        )
    return name


def display_path(lab: Lab, path: str) -> str:
    """`path` of the engine's host as the course shows it: below `DATA`, the engine's data directory, where it is.

    Of a path elsewhere only the last name is kept: notebooks are stored with what they show.
    """
    root = str(lab.engine.info["DockerRootDir"]).rstrip("/")
    place = (
        f"DATA{path.removeprefix(root)}"
        if f"{path}/".startswith(f"{root}/")
        else f"…/{path.rpartition('/')[2]}"
    )
    return re.sub(r"[0-9a-z]{25,}|[0-9a-f]{13,}", lambda id: f"{id[0][:7]}…", place)


def output(
    lab: Lab,
    command: Sequence[str],
    *,
    image: str = "payload",
    limit_s: float = TIMEOUT_S,
    **options: Any,
) -> str:
    """What a command writes in a container of its own, without a network, which is removed.

    Args:
        image: a lab image.
        limit_s: how long it may be silent, in seconds.
        options: as for `lab.run`.

    Raises:
        ContainerError: it ended with another exit code than 0.
        LabError: it was silent for `limit_s`.
    """
    done = lab.run_once(lab.image(image), command, limit_s=limit_s, **{"network": "none", **options})
    if done.exit_code:
        raise _failed(str(done))
    return done.stdout


def result_of(lab: Lab, container: Container) -> str:
    """What a container has written, once it has ended with exit code 0.

    Raises:
        ContainerError: it ended with another exit code.
        TimedOut: it still runs after `TIMEOUT_S`.
    """
    code = lab.wait(container, limit_s=TIMEOUT_S)
    text = lab.logs(container)
    if code:
        raise _failed(text)
    return text


def _failed(words: str) -> ContainerError:
    return ContainerError(
        "a program that the lab runs in a container failed",
        hint="if the engine's disk is full (`docker system df`), free some space; then run the cell again",
        engine_message=words[-500:],
    )
