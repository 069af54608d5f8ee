"""On which machine the engine resolves the source of a bind mount, and what happens if there is no such path."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.course.containers import container_named
from labhelpers.engine.differences import security_option
from labhelpers.errors import ContainerError, EngineRefused
from labhelpers.results import Result, column, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from labhelpers.lab import Lab


@record
class BindSource(Result):
    """The machine that has the source of a bind mount."""

    container: str = column("name of the container with the mount")
    mount_point: str = column("path of the mount in the container")
    directory: str = column("source of the mount, on the engine's host", shown=False, repr=False)
    is_local: bool = column(
        "whether the source is the notebook's own directory: the container sees a file created there"
    )
    engine_message: str | None = column(
        "why the container does not have the notebook's directory, without paths"
    )

    @property
    def is_consistent(self) -> bool:
        """Whether the engine either mounted the notebook's directory or reported why not."""
        return self.is_local == (self.engine_message is None)


@experiment
def resolve_bind_source(
    lab: Lab, container: str, local_directory: str | Path, mount_point: str, image: str, fallback_volume: str
) -> BindSource:
    """Check that a container sees the notebook's `local_directory`; otherwise mount a directory of the engine's host.

    The check creates a file with a random name in `local_directory`, looks for it in the container, and removes it.

    Args:
        container: its name. There is no such container if the engine refused the directory.
        local_directory: a directory on the notebook's machine.
        mount_point: path of the mount in the container.
        image: the image of the replacement container.
        fallback_volume: name of the volume whose directory on the engine's host replaces `local_directory`; it is
            created when needed.

    Raises:
        NotOwned: the container exists, but the lab did not create it.
    """
    with lab.quiet(essential=["docker volume create", f"docker run -d --name {container}"]):
        directory = Path(local_directory).absolute()
        message = _check_local(lab, container, directory, mount_point)
        if message is None:
            return BindSource(container, mount_point, str(directory), True, None)
        lab.create_volume(fallback_volume)
        source = common.directory_of(lab, fallback_volume)
        options = common.bind_options(lab, source, mount_point)
        lab.run(image, name=container, tty=True, stdin_open=True, **options)
    return BindSource(container, mount_point, source, False, message)


def _check_local(lab: Lab, container: str, directory: Path, mount_point: str) -> str | None:
    """Why the container does not have the directory; None if it does. A container with another one is removed."""
    if container_named(lab, container) is None:
        return _mount_error(lab, {"mounts": [f"type=bind,source={directory},target={mount_point}"]})
    token = f"labhelpers-{secrets.token_hex(4)}"
    (directory / token).touch()
    try:
        visible = lab.host.entries(mount_point, [token], container)[token] is not None
        if visible and security_option(lab.engine.info, "selinux"):
            _check_readable(lab, container, directory, mount_point)
    finally:
        (directory / token).unlink()
    if visible:
        return None
    lab.remove(container, force=True)
    return "no error: the engine's host has another directory with the same path"


def _check_readable(lab: Lab, container: str, directory: Path, mount_point: str) -> None:
    """List the directory in the container itself: SELinux confines it, but not the helper of `lab.host`.

    Raises:
        ContainerError: SELinux denies access. The lab does not change the label of a reader's directory.
    """
    result = lab.exec(container, ["ls", mount_point])
    if "Permission denied" in result.stderr:
        raise ContainerError(
            f"{container} has the directory at {mount_point}, but SELinux on the engine's host denies access to it",
            hint=f"docker rm -f {container}; then start it again with -v {directory}:{mount_point}:z, which gives the "
            "directory and everything below it the label of containers",
            engine_message=result.stderr,
        )


def _mount_error(lab: Lab, options: dict[str, Any]) -> str | None:
    """The engine's message, without paths, when it refuses a container with these mounts; None if it starts."""
    try:
        with lab.running(lab.image("payload"), common.KEEP_RUNNING, network="none", **options):
            return None
    except EngineRefused as error:
        message = (error.engine_message or error.message).strip()
        return " ".join(word for word in message.split() if "/" not in word).rstrip(": ")


# --- a source that does not exist


@record
class MissingSource:
    """A mount option whose source does not exist."""

    option: str = column("option of `docker run`")
    started: bool = column("whether the container started")
    error: str = column("the engine's error message, without the path")
    created: str = column("what the engine created on its host: `nothing`, `a directory` or `a volume`")
    owner_uid: int | None = column("owner of the created directory, as a UID of the host")


@record
class MissingSources(Result):
    """Mounts whose source does not exist."""

    cases: tuple[MissingSource, ...] = rows("one for each option", of=MissingSource)

    def of(self, option: str) -> MissingSource:
        """The case whose option starts with `option`."""
        return next(case for case in self.cases if case.option.startswith(option))


@experiment
def missing_sources(lab: Lab) -> MissingSources:
    """Bind mount a directory that does not exist, with `--mount`, with `-v`, and with `-v` and a missing slash.

    The paths are below the directory of a temporary volume and are removed with it.

    Source: docs.docker.com, storage/bind-mounts, "Differences between -v and --mount behavior".
    """
    mistyped = f"volumes-slip-{lab.session}"
    essential = ["docker run -d --network none --mount", "docker run -d --network none -v"]
    with lab.quiet(essential=essential), common.volume(lab, "missing") as name:
        parent = common.directory_of(lab, name)
        cases = []
        for option, options in (
            (
                "--mount type=bind,source=/…/missing",
                {"mounts": [f"type=bind,source={parent}/missing,target=/data"]},
            ),
            ("-v /…/missing:/data", {"volumes": [f"{parent}/missing:/data"]}),
        ):
            error = _mount_error(lab, options)
            entry = lab.host.entries(parent, ["missing"])["missing"]
            created, owner = ("nothing", None) if entry is None else (f"a {entry.kind}", entry.user)
            cases.append(MissingSource(option, error is None, error or "", created, owner))
        # without a leading slash the source is the name of a volume, not a path
        error = _mount_error(lab, {"volumes": [f"{mistyped}:/data"]})
        exists = mistyped in [row["Name"] for row in lab.list_volumes()]
        created = "a volume" if exists else "nothing"
        cases.append(MissingSource("-v missing:/data", error is None, error or "", created, None))
        lab.remove_volume(mistyped, made_by_run=True)
    return MissingSources(tuple(cases))
