"""Find a running engine: LABHELPERS_ENGINE, DOCKER_HOST, the docker context, the private engine, the usual sockets.

The order and the names are those of the docker CLI (docs.docker.com, "Docker contexts" and the environment variables
of `docker`). An engine is used with its own settings: nothing here changes them.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import docker
from docker.errors import APIError, DockerException, InvalidConfigFile, InvalidVersion
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from requests.exceptions import RequestException

from labhelpers import state
from labhelpers.engine import contexts, credentials, other_dockerd, podman, private, unreachable
from labhelpers.engine.dial import request_version
from labhelpers.engine.endpoint import EngineEndpoint, Tls
from labhelpers.engine.gateway import Gateway, forward, new_socket_path
from labhelpers.errors import EngineMissing, EngineUnreachable
from labhelpers.results import Result, column, record

INSTALL_PAGE = "https://docs.docker.com/get-started/get-docker/"
ENGINE_VARIABLE, ENDPOINT_VARIABLE = "LABHELPERS_ENGINE", "LABHELPERS_ENDPOINT"
"""The variables of `environment`: the engine's address, and its whole `EngineEndpoint` as JSON."""
PRIVATE = "the lab's private engine"
PIPES = ("docker_engine", "dockerDesktopLinuxEngine", "podman-machine-default")
# a requested address gets more time than a socket that happens to exist
PROBE_S, SLOW_PROBE_S = 3, 10
# a build step may print nothing for minutes
REQUEST_TIMEOUT_S = 600


@dataclass(frozen=True)
class Engine:
    """A running engine.

    Attributes:
        endpoint: its address; `engine.dial.dial` opens a raw connection to it.
        source: `private` (started by the lab, which may stop it) or `existing` (not started by the lab).
        client: the SDK's client.
    """

    endpoint: EngineEndpoint
    source: Literal["private", "existing"]
    client: docker.DockerClient

    @property
    def address(self) -> str:
        """`unix:///…`, `tcp://host:port`, `ssh://user@host` or `npipe:////./pipe/…`."""
        return self.endpoint.address

    @property
    def found_by(self) -> str:
        """How it was found, for messages: "DOCKER_HOST", "docker context desktop-linux", …"""
        return PRIVATE if self.source == "private" else self.endpoint.found_by

    @cached_property
    def info(self) -> dict[str, Any]:
        """The output of `docker info` as a dict (Engine API, GET /info)."""
        return self.client.info()

    @cached_property
    def version(self) -> dict[str, Any]:
        """The server part of `docker version` as a dict (Engine API, GET /version)."""
        return self.client.version()

    @property
    def identity(self) -> str:
        """See `identity`."""
        return identity(self.info)

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman."""
        return any("Podman" in part.get("Name", "") for part in self.version.get("Components") or [])

    @property
    def remaps_users(self) -> bool:
        """Whether containers run in a user namespace (dockerd's `userns-remap`)."""
        return "name=userns" in (self.info.get("SecurityOptions") or [])

    @property
    def product(self) -> str:
        """`Docker` or `Podman`."""
        return "Podman" if self.is_podman else "Docker"

    @property
    def warnings(self) -> list[str]:
        """Known deviations of this engine from the course text."""
        podmans = [
            "this is Podman, which serves the Docker API: containers have no daemon, there is no docker0 "
            "(its bridge is podman0), no swarm, and short image names are resolved differently; "
            f"{podman.supported_text()}, and the others stop at their first cell"
        ]
        logins = credentials.warning(credentials.logins(self.client.api))
        return podmans * self.is_podman + ([logins] if logins else [])

    def facts(self) -> EngineFacts:
        """What the engine reports about itself and its host."""
        return EngineFacts(
            version=self.version["Version"],
            api=self.version["ApiVersion"],
            host=state.abbreviate_home(self.address),
            source=self.source,
            storage_driver=self.info["Driver"],
            cgroup_version=int(self.info.get("CgroupVersion") or 1),
            cpus=self.info["NCPU"],
            memory_bytes=self.info["MemTotal"],
            kernel=self.info["KernelVersion"],
            operating_system=self.info["OperatingSystem"],
            found_by=self.found_by,
        )


@record
class EngineFacts(Result):
    """The engine and its host (Engine API, GET /version and GET /info)."""

    version: str = column("version of the server")
    api: str = column("version of the API")
    host: str = column("address of the engine, with `~` for your home directory")
    source: str = column("`private` (the lab's own engine) or `existing`")
    storage_driver: str = column("how layers are stored: `overlay2`, `overlayfs` (containerd), …")
    cgroup_version: int = column("version of the control groups: 1 or 2")
    cpus: int = column("processors of the engine's host")
    memory_bytes: int = column("memory of the engine's host")
    kernel: str = column("kernel release of the engine's host")
    operating_system: str = column("operating system of the engine's host")
    found_by: str = column("how the lab found the engine")


def connect(choice: str | None = None, *, revive: bool = True) -> Engine:
    """A connection to a running engine.

    Args:
        choice: `auto`, `private`, an address, or `context:NAME`; default: `LABHELPERS_ENGINE` if set, else `auto`.
        revive: whether the private engine is restarted if it was killed.

    Raises:
        EngineMissing: no engine is running.
        EngineUnreachable: an engine cannot be reached (permissions, certificates, a missing context, …).
    """
    choice = choice or os.environ.get(ENGINE_VARIABLE) or "auto"
    candidates = candidate_endpoints(choice)
    if revive and private.should_run() and private.address() in [endpoint.address for endpoint in candidates]:
        private.start(print)
    problems = []
    for endpoint in candidates:
        try:
            return _engine(endpoint)
        except EngineUnreachable as error:
            if endpoint.requested_address:
                raise
            problems.append(error)
        except EngineMissing:
            continue
    if problems:
        raise problems[0]
    if choice == "auto" and (other := other_dockerd.running(private.running_pid())):
        raise other_dockerd.conflict_error(other)
    raise EngineMissing(
        "no Docker engine is running on this machine"
        if choice == "auto"
        else f"no Docker engine found for “{choice}”",
        hint=_install_hint(),
    )


def environment(engine: Engine) -> dict[str, str]:
    """The variables with which a child process connects to the same engine, whatever its `DOCKER_HOST`.

    `DOCKER_HOST` is left to the reader's own tools. They contain no secrets: TLS files are named, not copied.
    """
    return {ENGINE_VARIABLE: engine.address, ENDPOINT_VARIABLE: json.dumps(asdict(engine.endpoint))}


def identity(info: Mapping[str, Any]) -> str:
    """An identifier of an engine that is stable as long as its data is kept.

    Args:
        info: the response to `GET /info`. Two engines of one machine with different data may have the same `ID`
            (20.10 reads it from /etc/docker/key.json); Podman sends a new `ID` with each response.
    """
    name = info["ID"] if info.get("ID") and "BuildahVersion" not in info else info.get("Name")
    return ":".join(str(part) for part in (name, info.get("DockerRootDir")) if part)


def candidate_endpoints(choice: str) -> list[EngineEndpoint]:
    """The addresses at which to look for an engine, in order.

    Raises:
        EngineUnreachable: the configured address, TLS file or docker context is missing or invalid.
    """
    if choice == "auto" and os.environ.get("DOCKER_HOST"):
        return [_endpoint_at(os.environ["DOCKER_HOST"], "DOCKER_HOST")]
    if choice == "auto":
        context = contexts.current_endpoint()
        return (
            [context]
            if context
            else [
                *_private_endpoint(),
                *(EngineEndpoint(address, "its default socket") for address in _default_endpoints()),
            ]
        )
    if choice == "private":
        return _private_endpoint()
    if choice.startswith("context:"):
        return [contexts.endpoint_of(choice.removeprefix("context:"), "--engine")]
    return [
        _inherited_endpoint(choice)
        or _endpoint_at(choice, ENGINE_VARIABLE if os.environ.get(ENGINE_VARIABLE) == choice else "--engine")
    ]


def _private_endpoint() -> list[EngineEndpoint]:
    return [] if platform.system() == "Windows" else [EngineEndpoint(private.address(), PRIVATE)]


def _endpoint_at(address: str, found_by: str) -> EngineEndpoint:
    """The endpoint at a requested address, with the TLS settings of the environment."""
    address = unreachable.normalize_address(address, found_by)
    if address == private.address():
        found_by = PRIVATE
    tls = contexts.tls_of_environment() if address.startswith("tcp:") else None
    return EngineEndpoint(address, found_by, tls, requested_address=True)


def _inherited_endpoint(address: str) -> EngineEndpoint | None:
    """The endpoint that a parent process passed on (see `environment`), if its address is `address`."""
    try:
        settings = json.loads(os.environ.get(ENDPOINT_VARIABLE, "null"))
        tls = settings["tls"] and Tls(**settings["tls"])
        return (
            EngineEndpoint(address, settings["found_by"], tls, settings["requested_address"])
            if settings["address"] == address
            else None
        )
    except (ValueError, TypeError, KeyError):  # not written by `environment`
        return None


def _default_endpoints() -> list[str]:
    """Existing sockets: the distribution's, rootless, Docker Desktop's, then Podman's."""
    if platform.system() == "Windows":
        return [f"npipe:////./pipe/{name}" for name in PIPES]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    home = Path(os.path.expanduser("~"))  # `Path.home` fails for a user without one
    usual = [
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    ]
    return [f"unix://{path}" for path in usual if _exists(path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def _engine(endpoint: EngineEndpoint) -> Engine:
    """The engine at `endpoint`.

    Raises:
        EngineMissing: nothing listens there, and the address was not requested.
        EngineUnreachable: it cannot be reached.
    """
    try:
        version = request_version(endpoint, SLOW_PROBE_S if endpoint.requested_address else PROBE_S)
    except (OSError, ValueError) as error:
        if not endpoint.requested_address and unreachable.is_not_listening(error):
            raise EngineMissing(
                f"nothing listens at {state.abbreviate_home(endpoint.address)}", hint=_install_hint()
            ) from error
        raise unreachable.explain(endpoint, error) from error
    try:
        client = _client(endpoint, str(version["ApiVersion"]))
        client.ping()
    except (APIError, InvalidVersion) as error:
        raise EngineUnreachable(
            f"the engine at {state.abbreviate_home(endpoint.address)} and the course's Docker SDK have no API "
            "version in common",
            hint=f"update the engine: {INSTALL_PAGE}",
            engine_message=str(error),
        ) from error
    except (InvalidConfigFile, ValueError, TypeError, AttributeError) as error:
        # the SDK does not check the types of the values in docker's configuration
        raise contexts.unreadable(error) from error
    except (DockerException, RequestException, OSError) as error:
        raise unreachable.explain(endpoint, error) from error
    return Engine(endpoint, "private" if endpoint.address == private.address() else "existing", client)


def _client(endpoint: EngineEndpoint, api: str) -> docker.DockerClient:
    """The SDK's client. Over ssh and TLS it connects to a gateway in this process: see `engine.gateway`."""
    if endpoint.scheme == "ssh" or (endpoint.tls and platform.system() != "Windows"):
        address = _gateway(endpoint, os.getpid())
        client = docker.DockerClient(base_url=address, version=api, timeout=REQUEST_TIMEOUT_S)
        client.api.mount("http+docker://", _SharedPoolAdapter(f"http+{address}", REQUEST_TIMEOUT_S))
    else:
        secure: dict[str, Any] = {"tls": _for_sdk(endpoint.tls)} if endpoint.tls else {}
        address = f"tcp://{endpoint.authority}" if endpoint.scheme == "tcp" else endpoint.address
        client = docker.DockerClient(base_url=address, version=api, timeout=REQUEST_TIMEOUT_S, **secure)
    credentials.tolerate_failing_helpers(client.api)
    # no proxy, and no CA but the one of the engine's own settings
    client.api.trust_env = False
    return client


class _SharedPoolAdapter(UnixHTTPAdapter):
    """Requests for all URLs share connections.

    The SDK's own adapter opens one for each URL, and over ssh that is a process each.
    """

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        return super().get_connection("http+docker://localhost", proxies)


def cli_address(engine: Engine) -> str:
    """An address at which docker's command line reaches the engine without TLS settings or a login of its own."""
    endpoint = engine.endpoint
    return _gateway(endpoint, os.getpid()) if endpoint.tls or endpoint.scheme == "ssh" else endpoint.address


@cache
def _gateway(endpoint: EngineEndpoint, pid: int) -> str:
    """The address of this process's gateway to `endpoint`. A forked process lacks the gateway thread of its parent."""
    if platform.system() == "Windows":
        raise EngineUnreachable(
            f"{endpoint.found_by} points at {endpoint.address}, and the course cannot use ssh on Windows",
            hint="run the course inside WSL 2 (https://learn.microsoft.com/windows/wsl/install)",
        )
    gateway = forward(new_socket_path(f"{pid}-{len(_gateways)}"), endpoint)
    _gateways.append(gateway)
    atexit.register(gateway.close)
    return gateway.address


_gateways: list[Gateway] = []


def _for_sdk(tls: Tls) -> TLSConfig:
    pair = (tls.cert, tls.key) if tls.cert and tls.key else None
    return TLSConfig(client_cert=pair, ca_cert=tls.ca, verify=tls.verify)


def _install_hint() -> str:
    if platform.system() == "Linux":
        return f"./lab up installs one on Debian and Ubuntu; elsewhere see {INSTALL_PAGE}"
    return f"install Docker Desktop and start it: {INSTALL_PAGE}"
