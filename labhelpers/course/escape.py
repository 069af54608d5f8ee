"""Ways out of a container: whether its processes can control the engine, or read or change the engine's host.

Exercises that require an isolated container call `escape_paths`. It inspects the running container (mount table,
namespaces and capabilities) and sends requests to the sockets within its reach, instead of checking the options of
`docker run`: a volume of the `local` driver can be `/`, a symbolic link can lead to the socket, and `docker exec
--privileged` adds a privileged process to an unprivileged container.

Sources: proc(5), /proc/PID/mountinfo and /proc/PID/status; capabilities(7); docs.docker.com, "Docker Engine security".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound
from docker.models.containers import Container

from labhelpers.engine import responses
from labhelpers.engine.arguments import name_or_id
from labhelpers.errors import LabError

if TYPE_CHECKING:
    from labhelpers.engine.host import Mount, Process
    from labhelpers.lab import Lab

# capabilities (linux/capability.h) that are effective outside the container's namespaces
_CAPABILITIES = {
    2: "DAC_READ_SEARCH",
    16: "SYS_MODULE",
    17: "SYS_RAWIO",
    19: "SYS_PTRACE",
    21: "SYS_ADMIN",
    22: "SYS_BOOT",
    25: "SYS_TIME",
    32: "MAC_OVERRIDE",
    33: "MAC_ADMIN",
    34: "SYSLOG",
    38: "PERFMON",
    39: "BPF",
}
SECCOMP = "seccomp"
_NAMESPACES = {
    "pid": "processes",
    "net": "network",
    "ipc": "IPC",
    "uts": "host name",
    "mnt": "mounts",
}
# sockets of other services, and keys: accessible even through a read-only mount
_SENSITIVE_PATHS = ("/run", "/root", "/etc/docker", "/etc/shadow", "/home")
# directories of programs that the host runs
_SYSTEM_PATHS = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/spool/cron",
)
_ENGINE_PROCESSES = ("dockerd", "containerd", "podman")
_SO_ACCEPTCON, _TCP_LISTEN = 0x10000, "0A"  # /proc/net/unix: __SO_ACCEPTCON; /proc/net/tcp: TCP_LISTEN
_MAX_PROBES = 24


def escape_paths(lab: Lab, container: Container | str, *, allowed: Collection[str] = ()) -> list[str]:
    """How a running container can control the engine, or read or change its host; empty if it cannot.

    Args:
        allowed: privileges that the exercise requires and that are ignored: names of capabilities, such as `SYS_ADMIN`,
            and `seccomp`, `apparmor` and `label` for a container without that protection.

    Returns:
        A sentence for each escape path, which begins with “it”.

    Raises:
        LabError: the container is not running, or the engine does not allow the lab to inspect its host.
    """
    return _escape_paths(lab, _EngineHost(lab), _inspected(lab, container), frozenset(allowed), frozenset())


def _inspected(lab: Lab, container: Container | str) -> dict[str, Any]:
    inspected: dict[str, Any] = lab.client.api.inspect_container(name_or_id(container))
    return inspected


def _escape_paths(
    lab: Lab, host: _EngineHost, inspected: dict[str, Any], granted: frozenset[str], visited: frozenset[str]
) -> list[str]:
    processes = lab.host.processes(str(inspected["Id"]))
    mounts = host.mounts_of(inspected)
    paths = [
        *_namespaces(lab, processes),
        *_privileges(lab, inspected, processes, granted),
        *_mounted(mounts, host),
    ]
    # the next checks send requests, which is not necessary if a path is known
    paths = paths or [*_open_sockets(lab, inspected, mounts), *_open_ports(lab, host, inspected)]
    return paths or list(
        _shared_pid_namespace(lab, host, inspected, processes, granted, visited | {inspected["Id"]})
    )


# --- privileges


def _privileges(
    lab: Lab, inspected: dict[str, Any], processes: list[Process], granted: frozenset[str]
) -> Iterator[str]:
    host = inspected["HostConfig"]
    if host.get("Privileged"):
        yield "it is privileged and can access the host's disks and devices"
    engine_user = lab.host.process().namespaces.get("user")
    # a process in its own user namespace has all capabilities there, and none on the host
    texts = lab.host.read_many(
        f"/proc/{process.pid}/status"
        for process in processes
        if process.namespaces.get("user") == engine_user
    )
    held, unfiltered = 0, False
    for text in filter(None, texts.values()):
        for mask in ("CapEff", "CapBnd"):
            held |= int(_field(text, mask) or "0", 16)
        unfiltered |= _field(text, "Seccomp") == "0"
    names = [name for bit, name in _CAPABILITIES.items() if held >> bit & 1 and name not in granted]
    if names:
        yield f"it has the capability {', '.join(names)}"
    options = " ".join(lab.engine.info.get("SecurityOptions") or [])
    if unfiltered and "seccomp" in options and SECCOMP not in granted:
        yield "one of its processes runs without a seccomp filter"
    for option in host.get("SecurityOpt") or []:
        match = re.fullmatch(r"apparmor[=:]unconfined|label[=:]disable", option)
        if match and re.split("[=:]", option)[0] not in granted:
            yield f"it was started with the security option {option}"
    devices = [process["PathOnHost"] for process in host.get("Devices") or []]
    if devices or host.get("DeviceCgroupRules"):
        yield f"it can open devices of the host: {', '.join([*devices, *(host.get('DeviceCgroupRules') or [])])}"


def _field(status: str, name: str) -> str | None:
    match = re.search(rf"^{name}:\s*(\S+)", status, re.M)
    return match[1] if match else None


# --- namespaces


def _namespaces(lab: Lab, processes: list[Process]) -> Iterator[str]:
    host = lab.host.process()
    for kind, description in _NAMESPACES.items():
        if any(process.namespaces.get(kind, -1) == host.namespaces.get(kind) for process in processes):
            yield f"it shares a namespace with the host: {description} ({kind})"
    maps_users = any("userns" in process for process in lab.engine.info.get("SecurityOptions") or [])
    if maps_users and any(
        process.namespaces.get("user", -1) == host.namespaces.get("user") for process in processes
    ):
        yield "it is in a namespace of the host: users (user)"


def _shared_pid_namespace(
    lab: Lab,
    host: _EngineHost,
    inspected: dict[str, Any],
    processes: list[Process],
    granted: frozenset[str],
    visited: frozenset[str],
) -> Iterator[str]:
    """Escape paths of the containers that share its PID namespace: /proc/PID/root leads to their files."""
    own = {process.namespaces.get("pid") for process in processes}
    guests = {process.pid for process in lab.host.processes() if process.namespaces.get("pid") in own}
    for other in _running(lab) if guests - {process.pid for process in processes} else ():
        if other["Id"] in visited or other["State"]["Pid"] not in guests:
            continue
        for path in _escape_paths(lab, host, other, granted, visited)[:1]:
            name = other["Name"].lstrip("/")
            yield f"it shares a PID namespace with {name}, which can reach the host: {path}"


def _running(lab: Lab) -> Iterator[dict[str, Any]]:
    for row in lab.client.api.containers(filters={"status": "running"}):
        with suppress(NotFound):  # exited meanwhile
            yield _inspected(lab, row["Id"])


# --- mounts


class _EngineHost:
    """The engine's sockets and data root, as paths without symbolic links on its host."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._table = lab.host.mounts(None)
        self.inodes = _engine_inodes(lab)
        self.sockets = sorted({lab.host.real_path(path) for path in _socket_paths(lab, self.inodes)})
        self.data = lab.host.real_path(str(lab.engine.info["DockerRootDir"]))
        self.system = {lab.host.real_path(path) for path in _SYSTEM_PATHS}
        self.control = {lab.host.real_path(path) for path in _SENSITIVE_PATHS}

    def mounts_of(self, inspected: dict[str, Any]) -> list[tuple[Mount, list[str]]]:
        """Each mount in a container, with the paths on the host to the same files."""
        own = (mount for mount in self._lab.host.mounts(str(inspected["Id"])) if mount.point != "/")
        return [(mount, self._paths_of(mount)) for mount in own]

    def _paths_of(self, mount: Mount) -> list[str]:
        paths = []
        for other in self._table:
            if other.device != mount.device:
                continue
            if _is_below(mount.root, other.root):
                rest = mount.root[len(other.root.rstrip("/")) :]
                paths.append(f"{other.point.rstrip('/')}{rest}".rstrip("/") or "/")
            elif _is_below(other.root, mount.root):
                paths.append(other.point)
        return list(dict.fromkeys(paths))

    def exposes(self, path: str, read_only: bool) -> str | None:
        """What a mount of `path` gives access to; None if it is harmless."""
        if path == "/":
            return "the whole disk of the host"
        for socket in self.sockets:
            if _is_below(socket, path):
                return "the engine's socket" + (" (even read-only)" if read_only else "")
        if _is_below(path, self.data) and self._is_own(path):
            return None  # check first: the data root of a private engine is below its user's home directory
        if _is_below(self.data, path) or _is_below(path, self.data):
            return "the engine's own files"
        for directory in self.control:
            # bind mounts of a reader's directory below /home are allowed
            if _is_below(directory, path) or (_is_below(path, directory) and directory != "/home"):
                return f"{path} of the host"
        if not read_only and any(
            _is_below(path, directory) or _is_below(directory, path) for directory in self.system
        ):
            return f"{path} of the host, writable"
        return None

    def _is_own(self, path: str) -> bool:
        """Whether it is a volume, or a file that the engine mounts into every container."""
        rest = path.removeprefix(self.data).strip("/")
        own = r"containers/[0-9a-f]{64}/(hostname|hosts|resolv\.conf|mounts/.+)"
        return re.fullmatch(rf"volumes/[^/]+/_data(/.*)?|{own}", rest) is not None


def _is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory`, or below it."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def _engine_inodes(lab: Lab) -> set[str]:
    """The inodes of the open sockets of the engine's processes."""
    inodes: set[str] = set()
    own = lab.host.process().namespaces.get("mnt")
    for process in lab.host.processes():
        program = process.command.partition(" ")[0].rpartition("/")[2]
        if program not in _ENGINE_PROCESSES or process.namespaces.get("mnt") != own:
            continue
        with suppress(LabError):  # exited meanwhile
            targets = [entry.target for entry in lab.host.directory(f"/proc/{process.pid}/fd")]
            inodes |= {t.removeprefix("socket:[").rstrip("]") for t in targets if t.startswith("socket:[")}
    return inodes


def _socket_paths(lab: Lab, inodes: set[str]) -> list[str]:
    rows = (line.split(maxsplit=7) for line in lab.host.read("/proc/net/unix").splitlines()[1:])
    return [
        row[7]
        for row in rows
        if len(row) == 8 and int(row[3], 16) & _SO_ACCEPTCON and row[6] in inodes and row[7].startswith("/")
    ]


def _mounted(mounts: Iterable[tuple[Mount, list[str]]], host: _EngineHost) -> Iterator[str]:
    reported: list[str] = []
    for mount, paths in mounts:
        if any(_is_below(mount.point, point) for point in reported):
            continue  # the mounts below `-v /:/host` are part of the same escape path
        exposed = next(filter(None, (host.exposes(path, mount.is_read_only) for path in paths)), None)
        if exposed:
            reported.append(mount.point)
            yield f"its mount {mount.point} is {exposed}"
        elif mount.point == "/proc" and not mount.is_read_only and not _has_read_only(mounts, "/proc/sys"):
            yield "it can write to /proc/sys, the host kernel's settings"


def _has_read_only(mounts: Iterable[tuple[Mount, list[str]]], point: str) -> bool:
    return any(mount.point == point and mount.is_read_only for mount, _ in mounts)


# --- sockets and ports


def _open_sockets(
    lab: Lab, inspected: dict[str, Any], mounts: list[tuple[Mount, list[str]]]
) -> Iterator[str]:
    """Sockets in its volumes through which another program passes commands to the engine."""
    root = f"/proc/{inspected['State']['Pid']}/root"
    points = {mounted["Destination"].rstrip("/") for mounted in responses.nested_list(inspected, "Mounts")}
    tops = [f"{root}{mount.point}" for mount, _ in mounts if mount.point in points]
    sockets = lab.host.output(["find", *tops, "-xdev", "-type", "s"]).splitlines() if tops else []
    for path in sockets[:_MAX_PROBES]:
        if _accepts_commands(lab, ["--unix-socket", path], "http://engine", None):
            yield f"its socket {path.removeprefix(root)} forwards commands to the engine"


def _open_ports(lab: Lab, host: _EngineHost, inspected: dict[str, Any]) -> Iterator[str]:
    """The first TCP port within its reach on which the engine's API listens."""
    if responses.nested_object(inspected, "HostConfig").get("NetworkMode") == "none":
        return
    engine_ports = [port for port, inode in _listening(lab, "/proc/net") if inode in host.inodes]
    candidates = [(address, port) for port in engine_ports for address in _addresses_of_host(lab)]
    for other in _running(lab):
        if other["Id"] != inspected["Id"] and _holds_engine_socket(host, other):
            candidates += _ports_of(lab, other)
    for address, port in candidates[:_MAX_PROBES]:
        if _accepts_commands(lab, [], f"http://{address}:{port}", str(inspected["Id"])):
            yield f"it can reach the engine's API over the network at {address}:{port}"
            return


def _holds_engine_socket(host: _EngineHost, inspected: dict[str, Any]) -> bool:
    try:
        paths = [path for _, paths in host.mounts_of(inspected) for path in paths]
    except LabError:  # exited meanwhile
        return False
    return any(_is_below(socket, path) for path in paths for socket in host.sockets)


def _listening(lab: Lab, folder: str) -> list[tuple[int, str]]:
    """(port, inode) of the listening TCP sockets."""
    texts = lab.host.read_many([f"{folder}/tcp", f"{folder}/tcp6"]).values()
    rows = [line.split() for text in texts for line in (text or "").splitlines()[1:]]
    return sorted({(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == _TCP_LISTEN})


def _addresses_of_host(lab: Lab) -> list[str]:
    return [
        address.address
        for address in lab.host.addresses()
        if address.family == "inet" and not address.address.startswith("127.")
    ]


def _ports_of(lab: Lab, inspected: dict[str, Any]) -> list[tuple[str, int]]:
    """The addresses of a container's ports: its own addresses, and those of published ports."""
    inside = [port for port, _ in _listening(lab, f"/proc/{inspected['State']['Pid']}/net")]
    own = responses.addresses(inspected)
    published = responses.nested_object(inspected, "NetworkSettings", "Ports")
    outside = {number for port in published for _, number in responses.bindings(inspected, port)}
    on_host = [(address, port) for port in sorted(outside) for address in _addresses_of_host(lab)]
    return [(address, port) for port in inside for address in (*own, "127.0.0.1")] + on_host


def _accepts_commands(lab: Lab, options: list[str], url: str, container: str | None) -> bool:
    """Whether an engine answers at `url`, from a request to start a container that does not exist.

    Args:
        options: of curl.
        container: the request is sent from its network namespace; None for that of the helper.
    """
    name = f"none-{secrets.token_hex(8)}"
    command = ["curl", "-s", "-m", "1", "-X", "POST", *options, f"{url}/containers/{name}/start"]
    response = lab.host.output(command, container)
    return name in response and "no such container" in response.lower()
