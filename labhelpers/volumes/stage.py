"""Volumes, directories and containers for the time of one experiment."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError, NotFound

from labhelpers.engine.differences import security
from labhelpers.engine.removal import remove_container
from labhelpers.errors import LabError, NameTaken
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

LIMIT_S = 120.0
"""How long a state is waited for: a container takes 8 s to start on an engine in a translated machine."""
STAY = ("sleep", "3600")


@contextmanager
def volume(lab: Lab, purpose: str) -> Iterator[str]:
    """The name of a new, empty volume, for the block."""
    name = f"volumes-{purpose}-{lab.session}"
    with lab.quiet():
        made = lab.create_volume(name)
        try:
            yield name
        finally:
            with suppress(NotFound):
                made.remove(force=True)


@contextmanager
def running(
    lab: Lab, command: Sequence[str] = STAY, *, image: str = "payload", **options: Any
) -> Iterator[Container]:
    """A container without a network, for the block; its anonymous volumes go with it.

    Args:
        image: a lab image.
        options: as for `lab.run`.
    """
    with lab.quiet():
        made = lab.run(lab.image(image), command, **{"network": "none", **options})
        try:
            yield made
        finally:
            with suppress(NotFound):
                remove_container(lab.client.api, str(made.id), v=True)


def directory_of(lab: Lab, name: str) -> str:
    """The directory of a volume on the engine's host (Engine API, GET /volumes/{name}: `Mountpoint`).

    It is a directory of that host like any other, so a bind mount may have it as its source, and it goes with the
    volume.

    Raises:
        LabError: there is no such volume, or its driver keeps it in no directory.
    """
    try:
        found = lab.client.api.inspect_volume(name)
    except NotFound as error:
        raise LabError(
            f"there is no volume {name!r}",
            hint="run the cell that makes it again; `docker volume ls` lists what is there",
            engine_words=str(error.explanation),
        ) from None
    if not found.get("Mountpoint"):
        raise LabError(
            f"the driver {found['Driver']!r} of the volume {name!r} names no directory",
            hint="this chapter needs a volume of the driver `local`",
        )
    return str(found["Mountpoint"])


def bound(lab: Lab, source: str, inside: str, *, readonly: bool = False, **options: Any) -> dict[str, Any]:
    """`options` of `lab.run` with a bind mount of a directory that the lab made.

    Where SELinux confines containers the directory gets the label of containers (`:z`), which `--mount` cannot ask for.
    Only for a directory of the lab: the label of a reader's directory is left alone.

    Source: docs.docker.com, storage/bind-mounts, "Configure the SELinux label".
    """
    if security(lab.engine.info, "selinux"):
        mode = "ro,z" if readonly else "z"
        return options | {"volumes": [*options.get("volumes", ()), f"{source}:{inside}:{mode}"]}
    mount = f"type=bind,source={source},target={inside}" + (",readonly" if readonly else "")
    return options | {"mounts": [*options.get("mounts", ()), mount]}


def ours(lab: Lab, name: str) -> str:
    """`name`, if this session, or its reader in an earlier one, made the volume of that name.

    `docker volume create` answers for a volume that was there before as for a new one, so this is looked at before
    anything is written or removed.

    Raises:
        LabError: there is no such volume.
        NameTaken: neither this session nor its reader made it.
    """
    directory_of(lab, name)
    if not sessions.is_usable_volume(lab.client.api.inspect_volume(name).get("Labels"), lab.session):
        raise NameTaken(
            f"the volume {name!r} was there before and this notebook did not make it, so it stays untouched",
            hint="if it is yours and not needed, remove it in a terminal; if another notebook made it, close that one",
        )
    return name


def shown(lab: Lab, path: str) -> str:
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


def wait_for(what: str, is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait until `is_so`.

    Raises:
        LabError: it was not so within `limit_s` seconds; `what` says what was waited for.
    """
    end = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end:
            raise LabError(
                f"waited {limit_s:.0f} s for this, in vain: {what}",
                hint="run the cell again; `./lab doctor` says whether the engine is well",
            )
        time.sleep(0.03)


def output(
    lab: Lab,
    command: Sequence[str],
    *,
    image: str = "payload",
    limit_s: float = LIMIT_S,
    **options: Any,
) -> str:
    """What a command writes in a container of its own, without a network, which is removed.

    Args:
        image: a lab image.
        limit_s: how long it may be silent, in seconds.
        options: as for `lab.run`.

    Raises:
        LabError: it ended with another exit code than 0, or was silent for `limit_s`.
    """
    with lab.quiet():
        done = lab.once(lab.image(image), command, limit_s=limit_s, **{"network": "none", **options})
    if done.exit_code:
        raise _failed(str(done))
    return done.stdout


def said(container: Container, limit_s: float = LIMIT_S) -> str:
    """What a container wrote, once it has ended well.

    Raises:
        LabError: it ended with another exit code than 0, or did not end within `limit_s` seconds.
    """
    try:
        code = int(container.wait(timeout=limit_s)["StatusCode"])
        text: str = container.logs().decode(errors="replace")
    except (requests.RequestException, APIError) as error:
        code, text = -1, f"it did not end within {limit_s:g} s ({error})"
    if code:
        raise _failed(text)
    return text


def _failed(words: str) -> LabError:
    return LabError(
        "a program that the lab runs in a container failed",
        hint="is the engine's disk full? `docker system df` tells; then run the cell again",
        engine_words=words[-500:],
    )
