"""Where the source of a bind mount is looked for, and what happens where there is none."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.containers import container_named
from labhelpers.engine.differences import security_option
from labhelpers.errors import ContainerError, EngineRefused
from labhelpers.results import Result, column, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab


@record
class BindSource(Result):
    """Whose directory a bind mount shows."""

    container: str = column("the container that runs with the mount")
    inside: str = column("where it is mounted")
    directory: str = column("the source, on the engine's host", repr=False)
    is_here: bool = column(
        "whether that is the notebook's own directory: what was put into it here was seen inside"
    )
    engine_said: str | None = column(
        "what the engine said to the notebook's directory where it does not have it, else None. Paths are "
        "left out"
    )

    @property
    def holds_together(self) -> bool:
        """Whether the engine either took the notebook's directory or said why not."""
        return self.is_here == (self.engine_said is None)

    def frame(self) -> pd.DataFrame:
        """One row: whose directory it is, and what the engine said of the notebook's."""
        whose = "this notebook's machine" if self.is_here else "the engine's host, not this machine"
        heads = ["container", "mounted at", "the source is on", "the engine said"]
        return table([(self.container, self.inside, whose, self.engine_said or "")], heads)


def resolve_bind_source(
    lab: Lab, container: str, here: str | Path, inside: str, image: str, there: str
) -> BindSource:
    """Find out whether a container has the notebook's directory `here`; if not, run it with one of the engine's host.

    A file with a random name is put into `here` on this machine, looked for inside, and removed.

    Args:
        container: its name. Where the engine refused the directory there is none of that name.
        here: a directory of the notebook's machine.
        inside: where it is mounted.
        image: what a container that has to be made anew runs.
        there: the volume whose directory on the engine's host is then the source; made if it is needed.

    Raises:
        NotOurs: a container of that name is there, and the lab did not make it.
    """
    with lab.quiet(essential=["docker volume create", f"docker run -d --name {container}"]):
        return _go_on(lab, container, Path(here).absolute(), inside, image, there)


def _go_on(lab: Lab, container: str, directory: Path, inside: str, image: str, there: str) -> BindSource:
    said = None
    token = f"is-it-here-{secrets.token_hex(4)}"
    if container_named(lab, container) is None:
        said = _refused(lab, {"mounts": [f"type=bind,source={directory},target={inside}"]})
    else:
        (directory / token).touch()
        try:
            seen = lab.host.entries(inside, [token], container)[token] is not None
            if seen and security_option(lab.engine.info, "selinux"):
                _must_read(lab, container, directory, inside)
        finally:
            (directory / token).unlink()
        if seen:
            return BindSource(container, inside, str(directory), True, None)
        said = "(it has a directory of that path, and it is another one)"
        lab.remove(container, force=True)
    lab.create_volume(there)
    source = common.directory_of(lab, there)
    lab.run(image, name=container, tty=True, stdin_open=True, **common.bind_options(lab, source, inside))
    return BindSource(container, inside, source, False, said)


def _must_read(lab: Lab, container: str, directory: Path, inside: str) -> None:
    """Let the container itself list the directory: the helper of `lab.host` is not confined by SELinux, it is.

    Raises:
        ContainerError: SELinux keeps it from doing so. The lab does not change the label of a reader's directory.
    """
    said = lab.exec(container, ["ls", inside])
    if "Permission denied" in said.stderr:
        raise ContainerError(
            f"{container} has the directory at {inside}, and SELinux on the engine's host keeps it from reading it",
            hint=f"docker rm -f {container}; then start it again with -v {directory}:{inside}:z, which gives the "
            "directory and what is in it the label of containers",
            engine_message=said.stderr,
        )


def _refused(lab: Lab, options: dict[str, Any]) -> str | None:
    """What the engine says to a container with these mounts, without paths; None where it starts."""
    try:
        with lab.running(lab.image("payload"), common.KEEP_RUNNING, network="none", **options):
            return None
    except EngineRefused as error:
        words = (error.engine_message or error.message).strip()
        return " ".join(word for word in words.split() if "/" not in word).rstrip(": ")


# --- a source that does not exist


@record
class MissingSource:
    """One way of writing a mount whose source is not there."""

    typed: str = column("the option")
    started: bool = column("whether a container started")
    words: str = column("what the engine said where it did not, without the path")
    made: str = column(
        "what is on the engine's host afterwards that was not there before: `nothing`, `a directory`, `a "
        "volume`"
    )
    owner: int | None = column("of a directory that was made, as the host counts; None for anything else")


@record
class MissingSources(Result):
    """What becomes of a source that does not exist, in each way of writing it."""

    ways: tuple[MissingSource, ...] = rows("one for each way to write it", of=MissingSource)

    def of(self, typed: str) -> MissingSource:
        """The way that begins so."""
        return next(way for way in self.ways if way.typed.startswith(typed))

    def frame(self) -> pd.DataFrame:
        """One row a way."""
        rows = [
            (
                one.typed,
                one.started,
                one.words,
                one.made if one.owner is None else f"{one.made}, owner {one.owner}",
            )
            for one in self.ways
        ]
        return table(rows, ["typed", "started", "the engine said", "made on the engine's host"])


def missing_sources(lab: Lab) -> MissingSources:
    """Ask for a bind mount of a directory that is not there, with `--mount` and with `-v`; then with a slip in `-v`.

    All of it is below the directory of a volume of the lab, and goes with it.

    Source: docs.docker.com, storage/bind-mounts, "Differences between -v and --mount behavior".
    """
    slip = f"volumes-slip-{lab.session}"
    essential = ["docker run -d --network none --mount", "docker run -d --network none -v"]
    with lab.quiet(essential=essential), common.volume(lab, "missing") as name:
        above = common.directory_of(lab, name)
        ways = []
        for typed, options in (
            (
                "--mount type=bind,source=/…/missing",
                {"mounts": [f"type=bind,source={above}/missing,target=/data"]},
            ),
            ("-v /…/missing:/data", {"volumes": [f"{above}/missing:/data"]}),
        ):
            words = _refused(lab, options)
            made = lab.host.entries(above, ["missing"])["missing"]
            kind = "nothing" if made is None else f"a {made.kind}"
            ways.append(
                MissingSource(typed, words is None, words or "", kind, None if made is None else made.user)
            )
        # without a slash in front it is no path: it is the name of a volume
        words = _refused(lab, {"volumes": [f"{slip}:/data"]})
        made_volume = slip in [row["Name"] for row in lab.list_volumes()]
        kind = "a volume" if made_volume else "nothing"
        ways.append(MissingSource("-v missing:/data", words is None, words or "", kind, None))
        lab.remove_volume(slip, made_by_run=True)
    return MissingSources(tuple(ways))
