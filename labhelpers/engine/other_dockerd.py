"""Another dockerd that runs on this machine, and its addresses, from its command line and configuration.

dockerd(8): `--host` and `-H` may be repeated, `hosts` in daemon.json is the same option, and the default is
/var/run/docker.sock. `fd://` is a socket opened by systemd, the same on every distribution.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labhelpers import state
from labhelpers.engine import unreachable
from labhelpers.engine.endpoint import EngineEndpoint
from labhelpers.errors import EngineUnreachable

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
CONFIG = "/etc/docker/daemon.json"
_NAME = "dockerd"


@dataclass(frozen=True, slots=True)
class Dockerd:
    """A dockerd in this network namespace that the lab did not start.

    Attributes:
        pid: its PID.
        addresses: the addresses at which it listens, as for `--engine`.
    """

    pid: int
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        """The preferred address: an existing socket, else the first one."""
        sockets = [host for host in self.addresses if host.startswith("unix:") and _is_there(host)]
        return (sockets or list(self.addresses))[0]


def running(own: int | None) -> Dockerd | None:
    """The first dockerd in this network namespace whose pid is not `own`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text(encoding="utf-8").strip() != _NAME or int(process.name) == own:
                continue
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            same_network = os.readlink(process / "ns/net") == os.readlink("/proc/self/ns/net")
        except PermissionError:
            same_network = True
        except OSError:
            continue
        if same_network:
            return Dockerd(int(process.name), addresses(arguments[1:]))
    return None


def addresses(arguments: Sequence[str]) -> tuple[str, ...]:
    """The addresses at which a dockerd with these arguments listens."""
    hosts = list(_values(arguments, "--host", "-H"))
    file = next(iter(_values(arguments, "--config-file")), CONFIG)
    try:
        listed = json.loads(Path(file).read_text(encoding="utf-8")).get("hosts") or []
        hosts += [str(host) for host in listed]
    except (OSError, ValueError, AttributeError, TypeError):
        pass  # missing or not readable: use only the command line
    return tuple(dict.fromkeys(_reachable(host) for host in hosts)) or (DEFAULT_ADDRESS,)


def _values(arguments: Sequence[str], *options: str) -> Iterator[str]:
    """The values of an option in the forms `--host X`, `--host=X`, `-H X`, `-H=X` and `-HX`."""
    for number, argument in enumerate(arguments):
        for option in options:
            if argument == option:
                yield from arguments[number + 1 : number + 2]
            elif argument.startswith(f"{option}="):
                yield argument.partition("=")[2]
            elif len(option) == 2 and argument.startswith(option):
                yield argument[2:]


def _reachable(host: str) -> str:
    """The address with which this machine connects to a dockerd that listens at `host`."""
    if host in ("", "unix://") or host.startswith("fd://"):
        return DEFAULT_ADDRESS
    if "://" not in host:
        host = f"tcp://{host}"
    # a wildcard is no address to connect to
    return re.sub(r"^tcp://(0\.0\.0\.0|\[::\]|(?=:))", "tcp://127.0.0.1", host)


def _is_there(address: str) -> bool:
    try:
        return Path(address.removeprefix("unix://")).is_socket()
    except OSError:
        return False


def conflict_error(other: Dockerd) -> EngineUnreachable:
    """The error for a dockerd that the lab cannot use, and that prevents the start of a private engine."""
    address = other.address
    path = address.removeprefix("unix://")
    runs = f"a dockerd (PID {other.pid}) is running on this machine at {state.abbreviate_home(address)}"
    if (
        address.startswith("unix:")
        and not os.access(path, os.W_OK)
        and (_is_there(address) or not _can_access(path))
    ):
        return unreachable.explain(
            EngineEndpoint(address, "that dockerd"), PermissionError(f"{path}: permission denied")
        )
    if address.startswith("unix:") and not _is_there(address):
        return EngineUnreachable(
            f"{runs}, but that socket does not exist: dockerd may run in a container, or the socket was "
            "removed",
            hint=f"restart it, or stop it (`sudo kill {other.pid}`), then try again",
        )
    return EngineUnreachable(
        f"{runs}. It owns docker0 and Docker's firewall chains; a second engine would break its published "
        "ports",
        hint=f"use it (`--engine {address}`) or stop it first",
    )


def _can_access(path: str) -> bool:
    return os.access(Path(path).parent, os.X_OK)
