"""The engine's socket on its host: its path, what a container with access to it can read, and proxies in its place.

Source: docs.docker.com, "Docker Engine security", "Docker daemon attack surface"; unix(7); capabilities(7).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine.find import identity
from labhelpers.engine.host.text import lines
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER
from labhelpers.errors import BadInput, ExperimentFailed, LabError, NotAvailable
from labhelpers.lab import sessions
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

SOCKET_PATH = "/var/run/docker.sock"
PROXY_DIRECTORY = "/proxied"
FILE_IN_CONTAINER = "/tmp/inside"
READY_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 600.0
"""The program prints at its end, and each of its requests may take a minute."""
SO_ACCEPTCON = 0x10000  # include/uapi/linux/net.h, __SO_ACCEPTCON: the socket is listening
TCP_LISTEN = "0A"  # proc(5), /proc/net/tcp; include/net/tcp_states.h
# the kernel writes addresses in the byte order of its CPU
ANY_ADDRESS = {
    "00000000",
    "0100007F",
    "7F000001",
    "0" * 32,
    "00000000000000000000000001000000",
    "0" * 31 + "1",
}
"""Addresses in /proc/net/tcp and tcp6 that a connection to 127.0.0.1 or ::1 reaches."""
NO_PRIVILEGES: dict[str, Any] = {"cap_drop": ["ALL"], "network": "none", "read_only": True}
"""The containers with access to the socket have no capability, no network, and no writable file system."""


def _no_privileges(lab: Lab) -> dict[str, Any]:
    """`NO_PRIVILEGES`; with userns-remap, in the host's user namespace: a remapped root may not open the socket."""
    return NO_PRIVILEGES | ({"userns_mode": "host"} if lab.engine.remaps_users else {})


def _proxy_privileges(lab: Lab) -> dict[str, Any]:
    """The same for a proxy, which writes to a volume: with userns-remap, volumes belong to the remapped root."""
    return _no_privileges(lab) | ({"cap_add": ["DAC_OVERRIDE"]} if lab.engine.remaps_users else {})


@record
class EngineSocket(Result):
    """The Unix socket of the Engine API on the engine's host."""

    path: str = column("path of the socket on the host", shown=False)
    created_by_lab: bool = column("whether the lab created it, for an engine that listens on a TCP port only")
    rootless: bool = column("whether the engine runs without root privileges")

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        # notebooks are stored with their outputs, which must not contain a path of the machine
        location = "/var/run/docker.sock" if self.path == SOCKET_PATH else "not in /var/run"
        if self.created_by_lab:
            location = "created by the lab, since the engine listens on a TCP port only"
        return f"the engine's socket on its host ({location})"

    def _repr_html_(self) -> str:
        return repr(self)


@experiment
def find_engine_socket(lab: Lab) -> EngineSocket:
    """Find the engine's socket on the engine's host, and check through it that it belongs to this engine.

    It is a listening socket (/proc/net/unix) of a process called dockerd. If the engine listens on a TCP port only, a
    container of the lab forwards a socket to that port. Only existing paths are mounted: `-v` would create a directory.

    Raises:
        NotAvailable: there is no socket, or the engine does not give the lab access to its host.
    """
    with lab.quiet():
        rootless = any("rootless" in option for option in lab.engine.info.get("SecurityOptions") or [])
        inodes = _engine_socket_inodes(lab)
        for path in sockets(lab.host.read("/proc/net/unix"), inodes):
            if _is_this_engine(lab, [f"{path}:{SOCKET_PATH}"]):
                return EngineSocket(path, False, rootless)
        for port in ports(lab.host.read_many(["/proc/net/tcp", "/proc/net/tcp6"]).values(), inodes):
            path = f"{lab.directory_of(_forwarded(lab, port))}/docker.sock"
            if _is_this_engine(lab, [f"{path}:{SOCKET_PATH}"]):
                return EngineSocket(path, True, rootless)
    raise NotAvailable(
        "the engine's socket was not found on its host, so access through it cannot be demonstrated",
        hint="`docker context inspect` shows where its API is",
        engine_message="; ".join(lab.host.unavailable) or None,
    )


def _engine_socket_inodes(lab: Lab) -> set[str]:
    """The inodes of the sockets of every engine in the mount namespace of this engine's host."""
    mount_namespace = lab.host.process().namespaces.get("mnt")
    inodes: set[str] = set()
    for process in lab.host.processes():
        name = process.command.partition(" ")[0].rpartition("/")[2]
        if name in ("dockerd", "podman") and process.namespaces.get("mnt") == mount_namespace:
            with suppress(LabError):  # the process has ended: other engines start and stop on this host
                targets = [entry.target for entry in lab.host.directory(f"/proc/{process.pid}/fd")]
                inodes |= {
                    t.removeprefix("socket:[").rstrip("]") for t in targets if t.startswith("socket:[")
                }
    return inodes


def sockets(text: str, inodes: set[str]) -> list[str]:
    """Paths in /proc/net/unix (proc(5)) of listening sockets with one of these inodes; docker.sock first."""
    rows = [line.split(maxsplit=7) for line in lines(text)]
    listening = (
        row
        for row in rows
        if len(row) == 8 and row[6] in inodes and (_hexadecimal(row[3]) or 0) & SO_ACCEPTCON
    )
    # dockerd also has sockets for metrics and for its network controller (/run/docker/libnetwork/….sock)
    paths = {row[7] for row in listening if row[7].startswith("/")}
    return sorted(paths, key=lambda path: (not path.endswith("docker.sock"), path))


def ports(texts: Iterable[str | None], inodes: set[str]) -> list[int]:
    """Ports in /proc/net/tcp and tcp6 of listening sockets with one of these inodes, reachable at 127.0.0.1."""
    rows = [line.split() for text in texts for line in lines(text)]
    endpoints = [
        row[1].rpartition(":") for row in rows if len(row) > 9 and row[3] == TCP_LISTEN and row[9] in inodes
    ]
    numbers = {_hexadecimal(port) for address, _, port in endpoints if address in ANY_ADDRESS}
    return sorted(number for number in numbers if number is not None)


def _hexadecimal(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,16}", text) else None


def _is_this_engine(lab: Lab, volumes: list[str]) -> bool:
    command = ["curl", "-s", "--max-time", "30", "--unix-socket", SOCKET_PATH, "http://engine/info"]
    info = lab.run_once(lab.image("tools"), command, volumes=volumes, **_no_privileges(lab)).stdout
    try:
        return bool(identity(json.loads(info)) == lab.engine.identity)
    except (ValueError, AttributeError):
        return False


def _program(name: str, *arguments: str) -> list[str]:
    text = Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")
    return ["python3", "-I", "-c", text, *arguments]


def _forwarded(lab: Lab, port: int) -> str:
    """A volume with a socket that is forwarded to a port of the engine's host; removed with the lab."""
    volume = str(lab.create_volume(f"socket-{lab.session}").name)
    options = {**_proxy_privileges(lab), "network": "host", "volumes": [f"{volume}:{PROXY_DIRECTORY}"]}
    proxy = lab.run(lab.image("tools"), _program("proxy.py", PROXY_DIRECTORY, str(port)), **options)
    _wait_until_ready(lab, proxy)
    return volume


def _wait_until_ready(lab: Lab, container: Container) -> None:
    """Wait until the program in a container prints “ready”."""
    condition = f"{container.name} to be ready"
    lab.wait_for(condition, lambda: "ready" in lab.logs(container), READY_TIMEOUT_S, while_running=container)


# --- access through the socket

ACCESS_METHODS = ("docker.sock", "docker.sock, read-only", "proxy: GET only", "proxy: list of paths")
TARGETS = ("names", "environment", "file_of_container", "file_of_host")
TARGET_DESCRIPTIONS = {
    "names": "lists the containers",
    "environment": "reads another's environment",
    "file_of_container": "reads another's files",
    "file_of_host": "reads files of the host",
}


@record
class ApiRequest(Result):
    """A request to the Engine API."""

    method: str = column("HTTP method")
    path: str = column("path without the query, with shortened IDs")
    status: int = column("HTTP status of the response")


@record
class AccessResult(Result):
    """What a container can do with one kind of access to the engine, and the requests that it sends."""

    access: str = column("the kind of access, one of `ACCESS_METHODS`")
    granted: Mapping[str, bool] = column("target → whether the container could read it", shown=False)
    requests: tuple[ApiRequest, ...] = rows("the requests, in order", of=ApiRequest)
    output: Mapping[str, str] = column("target → what the container read", shown=False, repr=False)

    @derived
    def lists_containers(self) -> bool:
        """Whether it lists the names of containers."""
        return self.granted["names"]

    @derived
    def reads_environment(self) -> bool:
        """Whether it reads the environment of another container."""
        return self.granted["environment"]

    @derived
    def reads_container_files(self) -> bool:
        """Whether it reads a file of another container."""
        return self.granted["file_of_container"]

    @derived
    def reads_host_files(self) -> bool:
        """Whether it reads a file of the engine's host."""
        return self.granted["file_of_host"]

    def status_of(self, method: str, path: str) -> int | None:
        """The status of the first request with that method and path; None if it was not sent."""
        matching = (each for each in self.requests if (each.method, each.path) == (method, path))
        return next((each.status for each in matching), None)


@record
class SocketAccess(Result):
    """What a container can read with each kind of access to the engine."""

    results: tuple[AccessResult, ...] = rows("in the order of `ACCESS_METHODS`", of=AccessResult)
    os_release: str = column("PRETTY_NAME in /etc/os-release of the engine's host, read through the socket")
    container_os_release: str = column("PRETTY_NAME in the container's own /etc/os-release")
    open_error: str = column("error message when the container opens the host's file by its path")

    def of(self, access: str) -> AccessResult:
        """The result for one kind of access.

        Raises:
            BadInput: there is no such kind of access.
        """
        for result in self.results:
            if result.access == access:
                return result
        raise BadInput(f"there is no access {access!r}", hint=f"use one of: {', '.join(ACCESS_METHODS)}")


@experiment
def socket_access(lab: Lab, socket: EngineSocket) -> SocketAccess:
    """Run a container with each kind of access to the engine, and let it try to read each target.

    The containers have no capability, no network and no writable file system. The lab created what they try to read: a
    file in a volume's directory on the host, a file of another container, and its environment. The container that they
    create to read the host's file mounts it read-only.

    Raises:
        ExperimentFailed: the program in a container failed.
    """
    secret = {target: secrets.token_hex(8) for target in TARGETS[1:]}
    with lab.quiet(), _test_data(lab, secret) as parameters, socket_proxy(lab, socket) as proxy:
        mounts = {
            ACCESS_METHODS[0]: (f"{socket}:{SOCKET_PATH}", SOCKET_PATH),
            ACCESS_METHODS[1]: (f"{socket}:{SOCKET_PATH}:ro", SOCKET_PATH),
            ACCESS_METHODS[2]: (f"{proxy}:{PROXY_DIRECTORY}:ro", f"{PROXY_DIRECTORY}/get.sock"),
            ACCESS_METHODS[3]: (f"{proxy}:{PROXY_DIRECTORY}:ro", f"{PROXY_DIRECTORY}/list.sock"),
        }
        with ThreadPoolExecutor(2) as pool:
            results = tuple(
                pool.map(
                    lambda access: _try_access(lab, access, *mounts[access], parameters, secret),
                    ACCESS_METHODS,
                )
            )
        own = lab.run_once(
            lab.image("tools"), ["sh", "-c", _OWN, "sh", parameters["path"]], **_no_privileges(lab)
        ).stdout
    release, _, error = own.partition("\n")
    return SocketAccess(
        results, _pretty_name(results[0].output["file_of_host"]), _pretty_name(release), error.strip()
    )


_OWN = 'grep PRETTY_NAME /etc/os-release; cat "$1" 2>&1 >/dev/null | sed "s/.*: //"'


def _pretty_name(os_release: str) -> str:
    lines = (line for line in os_release.splitlines() if line.startswith("PRETTY_NAME="))
    return next(lines, "").partition("=")[2].strip('"')


@contextmanager
def _test_data(lab: Lab, secret: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Create what the containers try to read, and remove it at the end; the parameters of `socket_probe.py`."""
    volume = lab.create_volume(f"secrets-{lab.session}")
    script = (
        'echo "$1" >/keep/note; chmod 600 /keep/note; echo "$2" >/tmp/inside; echo ready; exec sleep 3600'
    )
    other = lab.run(
        lab.image("tools"),
        ["sh", "-c", script, "sh", secret["file_of_host"], secret["file_of_container"]],
        environment={"PASSWORD": secret["environment"]},
        volumes=[f"{volume.name}:/keep"],
        network="none",
        cap_drop=["ALL"],
    )
    try:
        _wait_until_ready(lab, other)
        path = f"{lab.directory_of(volume)}/note"
        mounts = [_read_only_bind(path, "/of-the-host/note")]
        command = ["cat", "/of-the-host/note"]
        release = lab.host.real_path("/etc/os-release")
        if any(entry.path == "os-release" for entry in lab.host.directory(release.rpartition("/")[0])):
            mounts.append(_read_only_bind(release, "/of-the-host/os-release"))
            command.append("/of-the-host/os-release")
        reader = {
            "Image": lab.image("payload"),
            "Cmd": command,
            "Labels": sessions.labels("container", lab.chapter, lab.session),
            "HostConfig": {
                "Mounts": mounts,
                "NetworkMode": "none",
                "CapDrop": ["ALL"],
                "ReadonlyRootfs": True,
                # its output is read from its log
                "LogConfig": {"Type": DEFAULT_LOG_DRIVER},
            },
        }
        label = f"{sessions.SESSION}={lab.session}"
        yield {
            "other": str(other.name),
            "file": FILE_IN_CONTAINER,
            "label": label,
            "reader": reader,
            "path": path,
        }
    finally:
        lab.remove(other, force=True)
        lab.remove_volume(volume)


def _read_only_bind(source: str, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def _try_access(
    lab: Lab,
    access: str,
    volume: str,
    socket_path: str,
    parameters: Mapping[str, Any],
    secret: Mapping[str, str],
) -> AccessResult:
    for_probe = {name: parameters[name] for name in ("other", "file", "label", "reader")}
    result = lab.run_once(
        lab.image("tools"),
        _program("socket_probe.py", socket_path),
        limit_s=PROBE_TIMEOUT_S,
        volumes=[volume],
        environment={"PARAMETERS": json.dumps(for_probe)},
        **_no_privileges(lab),
    )
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        raise ExperimentFailed(
            f"the program in the container with the access “{access}” failed",
            hint="run the cell again",
            engine_message=str(result),
        ) from None
    output = answer["output"]
    granted = {"names": parameters["other"] in output["names"]}
    granted |= {target: secret[target] in output[target] for target in TARGETS[1:]}
    requests = (ApiRequest(method, _short_path(path), status) for method, path, status in answer["requests"])
    return AccessResult(access, granted, tuple(requests), output)


def _short_path(path: str) -> str:
    """A path of the API without its query, with the first 12 characters of each ID."""
    return "/".join(part if len(part) < 64 else part[:12] + "…" for part in path.partition("?")[0].split("/"))


@contextmanager
def socket_proxy(lab: Lab, socket: EngineSocket) -> Iterator[str]:
    """A volume with two proxy sockets, `get.sock` (GET only) and `list.sock` (a list of paths).

    The proxy, the only container with the engine's socket, runs while the block lasts.
    """
    volume = str(lab.create_volume(f"proxy-{lab.session}").name)
    proxy = start_proxy(lab, socket, volume)
    try:
        yield volume
    finally:
        lab.remove(proxy, force=True)
        lab.remove_volume(volume)


def start_proxy(lab: Lab, socket: EngineSocket, volume: str, name: str | None = None) -> Container:
    """Start a container with the engine's socket that serves the two proxy sockets in a volume."""
    proxy = lab.run(
        lab.image("tools"),
        _program("proxy.py", PROXY_DIRECTORY),
        name=name,
        volumes=[f"{socket}:{SOCKET_PATH}", f"{volume}:{PROXY_DIRECTORY}"],
        **_proxy_privileges(lab),
    )
    _wait_until_ready(lab, proxy)
    return proxy
