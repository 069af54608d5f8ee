"""The engine's socket on its host: where it is, what can be had through it, and what can be held in its place.

Source: docs.docker.com, "Docker Engine security", "Docker daemon attack surface"; unix(7); capabilities(7).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine.find import identity
from labhelpers.engine.host.text import lines
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER
from labhelpers.errors import ContainerError, LabError
from labhelpers.lab import sessions
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

SOCKET_PATH = "/var/run/docker.sock"
PROXY_DIRECTORY = "/proxied"
FILE = "/tmp/inside"
READY_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 600.0
"""How long a holder may be silent: it prints at its end, and each of its requests may take a minute."""
SO_ACCEPTCON = 0x10000  # include/uapi/linux/net.h, __SO_ACCEPTCON: it accepts connections
TCP_LISTEN = "0A"  # proc(5), /proc/net/tcp; include/net/tcp_states.h
# the kernel writes the bytes of an address in the order of its processor
ANY_ADDRESS = {
    "00000000",
    "0100007F",
    "7F000001",
    "0" * 32,
    "00000000000000000000000001000000",
    "0" * 31 + "1",
}
"""Addresses of /proc/net/tcp and tcp6 by which 127.0.0.1 (or ::) reaches."""
NO_PRIVILEGES: dict[str, Any] = {"cap_drop": ["ALL"], "network": "none", "read_only": True}
"""What a holder has besides the socket: no capability, no network, nothing to write."""


def _nothing(lab: Lab) -> dict[str, Any]:
    """`NO_PRIVILEGES`; in the host's user namespace if the engine maps users: a mapped root cannot open the socket."""
    return NO_PRIVILEGES | ({"userns_mode": "host"} if lab.engine.remaps_users else {})


def _proxy_rights(lab: Lab) -> dict[str, Any]:
    """The same for a proxy: where the engine maps users, volumes belong to the mapped root, and it writes into one."""
    return _nothing(lab) | ({"cap_add": ["DAC_OVERRIDE"]} if lab.engine.remaps_users else {})


@record
class EngineSocket(Result):
    """Where the engine's API is open on its own host."""

    path: str = column("of a socket there through which the whole API goes")
    made: bool = column("whether the lab made that socket, because the engine listens on a port alone")
    rootless: bool = column(
        "whether the engine runs without root's rights: then this door leads to one user's files"
    )

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        # a notebook is stored with its outputs: a path of a machine does not belong there
        where = (
            "it is where it is on most machines" if self.path == SOCKET_PATH else "it is not in /var/run here"
        )
        if self.made:
            where = "this engine has none: the lab made one out of its port"
        return f"the engine's socket on its host ({where})"

    def _repr_html_(self) -> str:
        return repr(self)


def find_engine_socket(lab: Lab) -> EngineSocket:
    """Find the engine's socket on the engine's host, and ask through it whether it is this engine's.

    A process of the host that is called dockerd holds it, and the kernel lists it (/proc/net/unix). Where the
    engine listens on a TCP port alone, a container of the lab makes a socket of that.

    Nothing is mounted that is not there: `-v` would make a directory of that name on the host.

    Raises:
        LabError: there is none, or the engine keeps the lab from seeing it.
    """
    with lab.quiet():
        return _docker_sock(lab)


def _docker_sock(lab: Lab) -> EngineSocket:
    rootless = any("rootless" in one for one in lab.engine.info.get("SecurityOptions") or [])
    held = _engine_socket_inodes(lab)
    for path in _sockets(lab, held):
        if _is_this_engine(lab, [f"{path}:{SOCKET_PATH}"]):
            return EngineSocket(path, False, rootless)
    for port in _ports(lab, held):
        volume = _forwarded(lab, port)
        path = f"{lab.directory_of(volume)}/docker.sock"
        if _is_this_engine(lab, [f"{path}:{SOCKET_PATH}"]):
            return EngineSocket(path, True, rootless)
    raise LabError(
        "no socket of this engine was found on its host, so what can be had through it cannot be shown",
        hint="`docker context inspect` says where its API is",
        engine_message="; ".join(lab.host.unavailable) or None,
    )


def _engine_socket_inodes(lab: Lab) -> set[str]:
    """The inodes of the sockets that engines hold which see the same files as ours."""
    own = lab.host.process().namespaces.get("mnt")
    found: set[str] = set()
    for one in lab.host.processes():
        name = one.command.partition(" ")[0].rpartition("/")[2]
        if name in ("dockerd", "podman") and one.namespaces.get("mnt") == own:
            with suppress(LabError):  # it ended meanwhile: other engines come and go on this host
                targets = [entry.target for entry in lab.host.directory(f"/proc/{one.pid}/fd")]
                found |= {t.removeprefix("socket:[").rstrip("]") for t in targets if t.startswith("socket:[")}
    return found


def _sockets(lab: Lab, held: set[str]) -> list[str]:
    return sockets(lab.host.read("/proc/net/unix"), held)


def sockets(text: str, held: set[str]) -> list[str]:
    """The paths of /proc/net/unix (proc(5)) where one of those inodes listens; Docker's usual one first."""
    rows = [line.split(maxsplit=7) for line in lines(text)]
    listening = (
        row for row in rows if len(row) == 8 and row[6] in held and (_hexadecimal(row[3]) or 0) & SO_ACCEPTCON
    )
    # dockerd has others of its own: its metrics, its network controller (`/run/docker/libnetwork/….sock`)
    paths = {row[7] for row in listening if row[7].startswith("/")}
    return sorted(paths, key=lambda path: (not path.endswith("docker.sock"), path))


def _ports(lab: Lab, held: set[str]) -> list[int]:
    texts = lab.host.read_many(["/proc/net/tcp", "/proc/net/tcp6"]).values()
    return ports(texts, held)


def ports(texts: Iterable[str | None], held: set[str]) -> list[int]:
    """The ports of /proc/net/tcp and tcp6 on which one of those inodes listens, on every address."""
    rows = [line.split() for text in texts for line in lines(text)]
    places = [
        row[1].rpartition(":") for row in rows if len(row) > 9 and row[3] == TCP_LISTEN and row[9] in held
    ]
    found = {_hexadecimal(port) for address, _, port in places if address in ANY_ADDRESS}
    return sorted(port for port in found if port is not None)


def _hexadecimal(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,16}", text) else None


def _is_this_engine(lab: Lab, volumes: list[str]) -> bool:
    words = ["curl", "-s", "--max-time", "30", "--unix-socket", SOCKET_PATH, "http://engine/info"]
    answer = lab.run_once(lab.image("tools"), words, volumes=volumes, **_nothing(lab)).stdout
    try:
        return bool(identity(json.loads(answer)) == lab.engine.identity)
    except (ValueError, AttributeError):
        return False


def _program(name: str, *words: str) -> list[str]:
    text = Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")
    return ["python3", "-I", "-c", text, *words]


def _forwarded(lab: Lab, port: int) -> str:
    """A volume with a socket in it that leads to a port of the engine's host; it goes with the lab."""
    volume = str(lab.create_volume(f"door-{lab.session}").name)
    options = {**_proxy_rights(lab), "network": "host", "volumes": [f"{volume}:{PROXY_DIRECTORY}"]}
    proxy = lab.run(lab.image("tools"), _program("proxy.py", PROXY_DIRECTORY, str(port)), **options)
    _wait_until_ready(lab, proxy)
    return volume


def _wait_until_ready(lab: Lab, container: Container) -> None:
    """Wait until the program in a container prints that it is ready."""
    what = f"{container.name} to be ready"
    lab.wait_for(what, lambda: "ready" in lab.logs(container), READY_TIMEOUT_S, while_running=container)


# --- what can be had through it

ACCESS_METHODS = ("docker.sock", "docker.sock, read-only", "a proxy: GET alone", "a proxy: a list of paths")
TARGETS = ("names", "environment", "file_of_container", "file_of_host")
TARGET_DESCRIPTIONS = {
    "names": "lists the containers",
    "environment": "reads another's environment",
    "file_of_container": "reads another's files",
    "file_of_host": "reads files of the host",
}


@record
class AccessResult(Result):
    """What a container had that holds one way to the engine, and nothing else."""

    way: str = column("one of `ACCESS_METHODS`")
    got: Mapping[str, bool] = column(
        "thing → whether it had it; the things are `names`, `environment`, `file_of_container`, "
        "`file_of_host`",
        shown=False,
    )
    requests: tuple[tuple[str, str, int], ...] = column(
        "(method, path, status) of what it sent, in order; ids are cut", shown=False
    )
    said: Mapping[str, str] = column("thing → what it read", shown=False, repr=False)

    def frame(self) -> pd.DataFrame:
        """One row a request: request, status."""
        return table(
            [(f"{method} {path}", status) for method, path, status in self.requests], ["request", "status"]
        )


@record
class SocketAccess(Result):
    """What can be had by each way to the engine."""

    holders: tuple[AccessResult, ...] = rows(
        "one for each way, in the order of `ACCESS_METHODS`", of=AccessResult
    )
    os_release: str = column(
        "the line PRETTY_NAME of /etc/os-release of the engine's host, as the first holder read it"
    )
    own_os_release: str = column("the same line of the holder's own file system")
    forbidden: str = column(
        "what the kernel said when the holder opened the host's file by its path, without the engine"
    )

    def of(self, way: str) -> AccessResult:
        """What the one with that way had.

        Raises:
            LabError: there is no such way.
        """
        for one in self.holders:
            if one.way == way:
                return one
        raise LabError(f"no holder had {way!r}", hint=f"they are: {', '.join(ACCESS_METHODS)}")

    def frame(self) -> pd.DataFrame:
        """One row a way, one column a thing."""
        rows = [
            [one.way, *(("yes" if one.got[thing] else "no") for thing in TARGETS)] for one in self.holders
        ]
        return table(rows, ["it holds", *TARGET_DESCRIPTIONS.values()])


def socket_access(lab: Lab, door: EngineSocket) -> SocketAccess:
    """Let four containers try, each with one way to the engine, no capability, no network, and nothing to write.

    What they try to read the lab made itself: a word in a volume's directory on the host, in a file of another
    container, and in its environment. The container that reads the host's file for them has it read-only.

    Raises:
        ContainerError: the program in a holder failed.
    """
    words = {thing: secrets.token_hex(8) for thing in TARGETS[1:]}
    with lab.quiet(), _test_data(lab, words) as ask, socket_proxy(lab, door) as proxy:
        mounts = {
            ACCESS_METHODS[0]: ([f"{door}:{SOCKET_PATH}"], SOCKET_PATH),
            ACCESS_METHODS[1]: ([f"{door}:{SOCKET_PATH}:ro"], SOCKET_PATH),
            ACCESS_METHODS[2]: ([f"{proxy}:{PROXY_DIRECTORY}:ro"], f"{PROXY_DIRECTORY}/get.sock"),
            ACCESS_METHODS[3]: ([f"{proxy}:{PROXY_DIRECTORY}:ro"], f"{PROXY_DIRECTORY}/list.sock"),
        }
        with ThreadPoolExecutor(2) as pool:
            found = tuple(
                pool.map(lambda way: _try_access(lab, way, *mounts[way], ask, words), ACCESS_METHODS)
            )
        own = lab.run_once(lab.image("tools"), ["sh", "-c", _OWN, "sh", ask["path"]], **_nothing(lab)).stdout
    first = found[0].said["file_of_host"]
    pretty, _, forbidden = own.partition("\n")
    return SocketAccess(found, _pretty(first), pretty.partition("=")[2].strip('"'), forbidden.strip())


_OWN = 'grep PRETTY_NAME /etc/os-release; cat "$1" 2>&1 >/dev/null | sed "s/.*: //"'


def _pretty(text: str) -> str:
    lines = (line for line in text.splitlines() if line.startswith("PRETTY_NAME="))
    return next(lines, "").partition("=")[2].strip('"')


@contextmanager
def _test_data(lab: Lab, words: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the holders look for; removed at the end."""
    volume = lab.create_volume(f"treasure-{lab.session}")
    script = (
        'echo "$1" >/keep/note; chmod 600 /keep/note; echo "$2" >/tmp/inside; echo ready; exec sleep 3600'
    )
    # the container's own layer takes the file: it is not read-only
    other = lab.run(
        lab.image("tools"),
        ["sh", "-c", script, "sh", words["file_of_host"], words["file_of_container"]],
        environment={"PASSWORD": words["environment"]},
        volumes=[f"{volume.name}:/keep"],
        network="none",
        cap_drop=["ALL"],
    )
    try:
        _wait_until_ready(lab, other)
        path = f"{lab.directory_of(volume)}/note"
        mounts = [{"Type": "bind", "Source": path, "Target": "/of-the-host/note", "ReadOnly": True}]
        show = ["cat", "/of-the-host/note"]
        release = lab.host.real_path("/etc/os-release")
        if any(one.path == "os-release" for one in lab.host.directory(release.rpartition("/")[0])):
            mounts.append(
                {"Type": "bind", "Source": release, "Target": "/of-the-host/os-release", "ReadOnly": True}
            )
            show.append("/of-the-host/os-release")
        reader = {
            "Image": lab.image("payload"),
            "Cmd": show,
            "Labels": sessions.labels("container", lab.chapter, lab.session),
            "HostConfig": {
                "Mounts": mounts,
                "NetworkMode": "none",
                "CapDrop": ["ALL"],
                "ReadonlyRootfs": True,
                # the holder reads its log
                "LogConfig": {"Type": DEFAULT_LOG_DRIVER},
            },
        }
        label = f"{sessions.SESSION}={lab.session}"
        yield {"other": str(other.name), "file": FILE, "label": label, "reader": reader, "path": path}
    finally:
        lab.remove(other, force=True)
        lab.remove_volume(volume)


def _try_access(
    lab: Lab, way: str, volumes: Sequence[str], path: str, ask: Mapping[str, Any], words: Mapping[str, str]
) -> AccessResult:
    asked = json.dumps({name: ask[name] for name in ("other", "file", "label", "reader")})
    done = lab.run_once(
        lab.image("tools"),
        _program("socket_probe.py", path),
        limit_s=PROBE_TIMEOUT_S,
        volumes=volumes,
        environment={"ASK": asked},
        **_nothing(lab),
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise ContainerError(
            f"the program in the container that holds {way} failed",
            hint="run the cell again",
            engine_message=str(done),
        ) from None
    got = {thing: words[thing] in answer["got"][thing] for thing in TARGETS[1:]}
    got = {"names": ask["other"] in answer["got"]["names"], **got}
    requests = tuple((method, _cut(target), status) for method, target, status in answer["requests"])
    return AccessResult(way, got, requests, answer["got"])


def _cut(target: str) -> str:
    """A path of the API without its query, and with the beginning of each id."""
    return "/".join(
        part if len(part) < 64 else part[:12] + "…" for part in target.partition("?")[0].split("/")
    )


@contextmanager
def socket_proxy(lab: Lab, door: EngineSocket) -> Iterator[str]:
    """A volume with two sockets in it: `get.sock` lets every GET through, `list.sock` a list of paths.

    The container that holds the engine's socket for them runs while the block lasts.
    """
    volume = str(lab.create_volume(f"proxy-{lab.session}").name)
    holder = start_proxy(lab, door, volume)
    try:
        yield volume
    finally:
        lab.remove(holder, force=True)
        lab.remove_volume(volume)


def start_proxy(lab: Lab, door: EngineSocket, volume: str, name: str | None = None) -> Container:
    """A container that holds the engine's socket and makes the two others, in a volume."""
    volumes = [f"{door}:{SOCKET_PATH}", f"{volume}:{PROXY_DIRECTORY}"]
    holder = lab.run(
        lab.image("tools"),
        _program("proxy.py", PROXY_DIRECTORY),
        name=name,
        volumes=volumes,
        **_proxy_rights(lab),
    )
    _wait_until_ready(lab, holder)
    return holder
