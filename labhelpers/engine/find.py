"""Find the engine that is there: DOCKER_HOST, the docker context, the usual sockets, the lab's own.

The order and the names are those of the docker CLI (docs.docker.com, "Docker contexts" and the
environment variables of `docker`). What is found is used as it is: nothing here changes an engine.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import docker
from docker.context import ContextAPI
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from labhelpers import state
from labhelpers.engine import private
from labhelpers.errors import EngineMissing, EngineUnreachable, LabError
from labhelpers.results import Result, table

if TYPE_CHECKING:
    import pandas as pd

INSTALL_PAGE = "https://docs.docker.com/get-started/get-docker/"
PROBE_S = 3
# a step of a build may be silent for minutes
CALL_S = 600


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    Attributes:
        address: `unix:///…`, `tcp://host:port` or `npipe:////./pipe/…`; what `DOCKER_HOST` takes.
        source: `private` (the lab started it and may stop it) or `existing` (somebody else's, used as it is).
        found_by: how it was found, for people: "DOCKER_HOST", "docker context desktop-linux", …
        client: the SDK's client for it.
    """

    address: str
    source: Literal["private", "existing"]
    found_by: str
    client: docker.DockerClient

    @cached_property
    def info(self) -> dict[str, Any]:
        """What `docker info` says, as a dict (Engine API, GET /info)."""
        return self.client.info()

    @cached_property
    def version(self) -> dict[str, Any]:
        """What `docker version` says of the server, as a dict (Engine API, GET /version)."""
        return self.client.version()

    @property
    def is_podman(self) -> bool:
        """Whether Podman answers in Docker's place."""
        return any("Podman" in part.get("Name", "") for part in self.version.get("Components") or [])

    @property
    def remaps_users(self) -> bool:
        """Whether containers have user namespaces of their own: dockerd's `userns-remap`, in `docker info`."""
        return "name=userns" in (self.info.get("SecurityOptions") or [])

    @property
    def product(self) -> str:
        """What answers: `Docker` or `Podman`."""
        return "Podman" if self.is_podman else "Docker"

    @property
    def warnings(self) -> list[str]:
        """What will differ on this engine from what the course says."""
        if self.is_podman:
            return [
                "this is Podman, which speaks Docker's API: no daemon holds its containers, there is no docker0 "
                "(its bridge is podman0), no swarm, and short image names are resolved differently"
            ]
        return []

    def facts(self) -> EngineFacts:
        """What the engine says of itself, in the course's words."""
        return EngineFacts(
            version=self.version["Version"],
            api=self.version["ApiVersion"],
            host=state.shown(self.address),
            source=self.source,
            storage_driver=self.info["Driver"],
            cgroup_version=int(self.info.get("CgroupVersion") or 1),
            cpus=self.info["NCPU"],
            memory_bytes=self.info["MemTotal"],
            kernel=self.info["KernelVersion"],
            operating_system=self.info["OperatingSystem"],
            found_by=self.found_by,
        )


@dataclass(frozen=True, slots=True)
class EngineFacts(Result):
    """What an engine says of itself (Engine API, GET /version and GET /info).

    Attributes:
        version, api: of the server.
        host: its address, the reader's home directory written as `~`.
        source: `private` or `existing`, see `Engine`.
        storage_driver: overlay2, overlayfs (containerd's), …
        cgroup_version: 1 or 2.
        cpus, memory_bytes: of the machine that the engine runs on.
        kernel, operating_system: of that machine.
        found_by: how the lab found the engine.
    """

    version: str
    api: str
    host: str
    source: str
    storage_driver: str
    cgroup_version: int
    cpus: int
    memory_bytes: int
    kernel: str
    operating_system: str
    found_by: str

    def frame(self) -> pd.DataFrame:
        """One row a fact: fact, value."""
        return table([(field.name, getattr(self, field.name)) for field in fields(self)], ["fact", "value"])


@dataclass(frozen=True)
class Place:
    """Where an engine may be."""

    address: str
    found_by: str
    tls: TLSConfig | None = None
    # the reader named this one: if it does not answer, no other is taken in its place
    meant: bool = False


def connect(choice: str | None = None, *, revive: bool = True) -> Engine:
    """The engine that answers.

    Args:
        choice: `auto`, `private` or an address; None means what `LABHELPERS_ENGINE` says, else `auto`.
        revive: whether the lab's own engine is started again if it was killed.

    Raises:
        EngineMissing: none answers.
        EngineUnreachable: one is there but cannot be reached (rights, a context that points nowhere, …).
    """
    choice = choice or os.environ.get("LABHELPERS_ENGINE") or "auto"
    named = os.environ.get("DOCKER_HOST") or "private" if choice == "auto" else choice
    if revive and private.is_wanted() and named in ("private", private.address()):
        private.start(print)
    for place in places(choice):
        found = _ask(place)
        if found:
            return found
    raise EngineMissing(
        "no Docker engine answers on this machine"
        if choice == "auto"
        else f"no Docker engine answers as “{choice}”",
        hint=_how_to_get_one(),
    )


def places(choice: str) -> list[Place]:
    """Where to look for an engine, in order.

    Raises:
        EngineUnreachable: the docker context that is in use cannot be read.
    """
    own = Place(private.address(), "the lab's private engine")
    if choice == "private":
        return [own]
    if choice != "auto":
        return [Place(choice, "--engine", meant=True)]
    if os.environ.get("DOCKER_HOST"):
        return [Place(os.environ["DOCKER_HOST"], "DOCKER_HOST", _tls_of_environment(), meant=True)]
    context = _context()
    return (
        [context] if context else [own, *(Place(f"unix://{path}", "its usual socket") for path in _sockets())]
    )


def _context() -> Place | None:
    try:
        # the SDK knows the config file only; the command line asks this variable first
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT") or None)
    except (DockerException, OSError, ValueError, KeyError) as error:
        raise EngineUnreachable(
            "the docker context in use cannot be read",
            hint="see `docker context ls`, then `docker context use default`",
            engine_words=str(error),
        ) from error
    if context is None:
        raise EngineUnreachable(
            f"the docker context “{os.environ.get('DOCKER_CONTEXT', 'in use')}” does not exist",
            hint="see `docker context ls`, then `docker context use default`",
        )
    if context.Name == "default":
        return None
    return Place(context.Host or "", f"docker context {context.Name}", context.TLSConfig, meant=True)


def _sockets() -> list[Path]:
    """Sockets that exist here: the distribution's, rootless, Docker Desktop's, and last Podman's."""
    if platform.system() == "Windows":
        return [Path("//./pipe/docker_engine")]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    usual = [
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        Path.home() / ".docker/run/docker.sock",
        Path.home() / ".docker/desktop/docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    ]
    return [path for path in usual if _exists(path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def _tls_of_environment() -> TLSConfig | None:
    settings = kwargs_from_env()
    tls = settings.get("tls")
    return tls if isinstance(tls, TLSConfig) else None


def _ask(place: Place) -> Engine | None:
    """The engine at `place`, or None if nobody is there (and nobody said that it should be)."""
    secure: dict[str, Any] = {"tls": place.tls} if place.tls else {}
    secure |= {"use_ssh_client": True} if place.address.startswith("ssh://") else {}
    try:
        client = docker.DockerClient(base_url=place.address, timeout=PROBE_S, **secure)
        client.ping()
    except (DockerException, RequestException, OSError, ValueError) as error:
        problem = _explain(place, error)
        if problem is None:
            return None
        raise problem from error
    client.api.timeout = CALL_S
    own = place.address == private.address()
    found_by = "the lab's private engine" if own else place.found_by
    return Engine(place.address, "private" if own else "existing", found_by, client)


def _explain(place: Place, error: Exception) -> LabError | None:
    words, where = str(error), state.shown(place.address)
    if "Permission denied" in words or "Errno 13" in words:
        group = _group_of(place.address)
        return EngineUnreachable(
            f"an engine's socket is at {where}, but you may not use it: it belongs to the group “{group}”",
            hint=f"`sudo usermod -aG {group} $USER`, then log out and in again (members of that group are root "
            "on this machine in all but name)",
            engine_words=words,
        )
    if re.search(
        r"client version [\d.]+ is too (old|new)|minimum supported API version|no longer supported",
        words,
        re.I,
    ):
        return EngineUnreachable(
            f"the engine at {where} and the Docker SDK of this course share no version of the API",
            hint="update the engine: " + INSTALL_PAGE,
            engine_words=words,
        )
    if not place.meant:
        return None
    return EngineUnreachable(
        f"{place.found_by} points at {where}, and no engine answers there within {PROBE_S} s",
        hint="start that engine (Docker Desktop: open the app), or unset it: `unset DOCKER_HOST`, "
        "`docker context use default`",
        engine_words=words,
    )


def _group_of(address: str) -> str:
    try:
        return Path(address.removeprefix("unix://")).group()
    except (OSError, KeyError):
        return "docker"


def _how_to_get_one() -> str:
    if platform.system() == "Linux":
        return f"./lab up brings one on Debian and Ubuntu; elsewhere see {INSTALL_PAGE}"
    return f"install Docker Desktop and start it: {INSTALL_PAGE}"
