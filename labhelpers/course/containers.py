"""The containers of an exercise: found by name, read from outside, set up for the reader, cloned for an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import docker.errors

from labhelpers.engine.arguments import name_of
from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import execute
from labhelpers.errors import ContainerMissing, LabClosed, LabError, NotRunning
from labhelpers.lab import sessions

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

T = TypeVar("T")
MAX_TEXT_BYTES = 1 << 16


# --- found by name


def container_named(lab: Lab, name: str) -> Container | None:
    """The container called `name` on the lab's engine, however it was created; None if there is none.

    A container that another learner's lab, or another open notebook, created does not count.

    Raises:
        BadInput: `name` is no name.
    """
    try:
        container: Container = lab.client.containers.get(name_of(name))
    except docker.errors.NotFound:
        return None
    if sessions.has_lab_labels("container", container.labels) and not sessions.may_modify(
        container.labels.get(sessions.SESSION, lab.session), lab.session
    ):
        return None
    return container if container.name == name else None  # the engine also finds by the start of an id


def not_running(lab: Lab, name: str) -> str | None:
    """Why no container called `name` runs, for the reader; None if one does."""
    return _not_running(container_named(lab, name), name)


def _not_running(container: Container | None, name: str) -> str | None:
    if container is None:
        return f"there is no container named {name}"
    if container.status == "running":
        return None
    code = f", exit code {container.attrs['State']['ExitCode']}" if container.status == "exited" else ""
    return f"{name} is not running: its state is “{container.status}”{code}"


def existing(lab: Lab, name: str) -> Container:
    """The container called `name`, running or not.

    Raises:
        ContainerMissing: there is none.
    """
    container = container_named(lab, name)
    if container is None:
        raise ContainerMissing(
            f"there is no container named {name}", hint="`docker ps -a` lists the containers"
        )
    return container


def running(lab: Lab, name: str) -> Container:
    """The running container called `name`.

    Raises:
        ContainerMissing: there is none.
        NotRunning: it does not run.
    """
    container = existing(lab, name)
    if missing := _not_running(container, name):
        raise NotRunning(missing, hint="`docker ps -a` lists the containers and their exit codes")
    return container


# --- read


def command_of(container: Container) -> str:
    """The command of a container's first process, as one line."""
    return " ".join([container.attrs["Path"], *container.attrs["Args"]])


def environment_of(container: Container) -> dict[str, str]:
    """The environment variables in a container's configuration."""
    pairs = (pair.partition("=") for pair in container.attrs["Config"].get("Env") or [])
    return {name: value for name, separator, value in pairs if separator}


def output_of(lab: Lab, name: str, command: list[str]) -> str:
    """The output of a command in a container, stripped; empty if the command fails.

    Raises:
        LabError: there is no such container, or it does not run.
    """
    done = execute(lab.client.api, str(running(lab, name).id), command)
    return done.stdout.decode(errors="replace").strip() if done.exit_code == 0 else ""


def file_in(lab: Lab, name: str, path: str) -> str:
    """The text of a file in a container, stripped; empty if there is no such file.

    It is read from the engine's host, through /proc/PID/root: a container's own `cat` could print anything.

    Raises:
        LabError: there is no such container, or it does not run.
    """
    container = running(lab, name)
    if lab.host.unavailable:
        return output_of(lab, name, ["cat", path])
    pid = lab.host.process(container).pid
    try:
        real_path = lab.host.real_path(path, container)
        return lab.host.read(f"/proc/{pid}/root{real_path}", begin_bytes=MAX_TEXT_BYTES).strip()
    except LabError:  # no such file, or not a regular file
        return ""


# --- set up for an exercise

_setup: dict[tuple[str, str], str] = {}
"""(session, name) → id of the container that an exercise starts from."""
_stored: dict[tuple[str, str], Any] = {}
"""(session, key) → value of an exercise."""


def setup_container(lab: Lab, name: str, start: Callable[[], object]) -> None:
    """Call `start` to create the container `name` that an exercise starts from, unless it exists already.

    No command is shown: it could give away the answer.
    """
    exists = container_named(lab, name) is not None
    if not exists:
        with lab.hidden():
            start()
    container = container_named(lab, name)
    if container is not None and not (exists and (lab.session, name) in _setup):
        _setup[lab.session, name] = str(container.id)


def setup_changed(lab: Lab, *names: str) -> str | None:
    """Why one of these is no longer the running container of `setup_container`, for the reader; None if all are."""
    for name in names:
        container = container_named(lab, name)
        if container is None:
            return f"there is no container named {name}: run the cell of this exercise again"
        if container.id != _setup.get((lab.session, name), container.id):
            return f"{name} has been replaced: remove it, then run this exercise's cell again"
        if missing := _not_running(container, name):
            return missing
    return None


def store_value(lab: Lab, key: str, value: T) -> T:
    """Store a value of an exercise for this session, such as the id of an image: the reader may move its tag later."""
    _stored[lab.session, key] = value
    return value


def stored_value(lab: Lab, key: str) -> Any:
    """The value stored in this session; None if there is none."""
    return _stored.get((lab.session, key))


def session_value(lab: Lab, key: str, create: Callable[[], T]) -> T:
    """The value stored in this session; `create` makes it once. A cell that is run again gets the same value."""
    value: T = _stored[lab.session, key] if (lab.session, key) in _stored else store_value(lab, key, create())
    return value


# --- cloned for an experiment


@contextmanager
def cloned_container(lab: Lab, container: Container) -> Iterator[Container]:
    """A container created like `container`, with its files as they are now, for the block, which starts it.

    A check that stops, signals or speeds up a container does so to a clone. The clone publishes no port, has no
    restart policy, and has empty volumes in place of the mounts, so that no two programs write to one volume.

    Raises:
        APIError: the engine does not create it.
        LabClosed: the lab is closed.
    """
    _check_lab_open(lab)
    api: Any = lab.client.api
    labels = sessions.labels("image", lab.chapter, lab.session)
    changes = [f"LABEL {key}={value}" for key, value in labels.items()]
    image = api.commit(container.id, pause=False, changes=changes)["Id"]
    try:
        labels = sessions.labels("container", lab.chapter, lab.session)
        clone = api.create_container_from_config(_create_options_from(container.attrs, image, labels))
        try:
            _check_lab_open(lab)  # a background check may continue while the lab closes
            yield lab.client.containers.get(clone["Id"])
        finally:
            with suppress(docker.errors.NotFound):
                remove_container(api, clone["Id"], v=True)
    finally:
        with suppress(docker.errors.APIError):
            api.remove_image(image)


def _check_lab_open(lab: Lab) -> None:
    if lab.is_closed:
        raise LabClosed(
            "the lab is closed; exercises are no longer checked", hint="run the notebook from the first cell"
        )


def _create_options_from(attrs: dict[str, Any], image: str, labels: dict[str, str]) -> dict[str, Any]:
    config, host = attrs["Config"], attrs["HostConfig"]
    network = host["NetworkMode"]
    return {
        **{
            key: config.get(key)
            for key in ("Cmd", "Entrypoint", "Env", "User", "WorkingDir", "Tty", "OpenStdin")
        },
        "Image": image,
        "Labels": {**(config.get("Labels") or {}), **labels},
        "Volumes": {mount["Destination"]: {} for mount in attrs["Mounts"]},
        "HostConfig": {
            **host,
            # on the host's network its port would be in use
            "NetworkMode": "default" if network == "host" else network,
            "PortBindings": {},
            "PublishAllPorts": False,
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "ReadonlyRootfs": False,
            "Binds": None,
            "Mounts": None,
            "VolumesFrom": None,
        },
    }


_CHECK_CACHE: dict[tuple[str, str, str], str | None] = {}


def cached_check(container: Container, what: str, check: Callable[[], str | None]) -> str | None:
    """The result of `check`, once for each start of a container: for a check that takes seconds and cannot change."""
    key = (what, str(container.id), container.attrs["State"]["StartedAt"])
    if key not in _CHECK_CACHE:
        _CHECK_CACHE[key] = check()
    return _CHECK_CACHE[key]
