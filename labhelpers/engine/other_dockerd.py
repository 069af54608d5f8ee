"""A dockerd of somebody else's that runs on this machine: where it listens, by its command line and configuration.

dockerd(8): `--host` and `-H` may come more than once, daemon.json has them as `hosts`, and without either it listens
on /var/run/docker.sock. `fd://` is a socket that systemd opened for it, which is the same one on every distribution.
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
# at the front of the name of a dockerd: Debian's and Docker's, and that of Docker's snap
_NAME = "dockerd"


@dataclass(frozen=True, slots=True)
class Dockerd:
    """One that is not the lab's, in this network namespace.

    Attributes:
        pid: its process.
        addresses: where it listens, as `--engine` takes them.
    """

    pid: int
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        """The best of its addresses: a socket that exists here, else the first."""
        sockets = [one for one in self.addresses if one.startswith("unix:") and _is_there(one)]
        return (sockets or list(self.addresses))[0]


def running(own: int | None) -> Dockerd | None:
    """The first dockerd in this network namespace whose pid is not `own`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text(encoding="utf-8").strip() != _NAME or int(process.name) == own:
                continue
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            same_network = os.readlink(process / "ns/net") == os.readlink("/proc/self/ns/net")
        except PermissionError:
            same_network = True
        except OSError:
            continue
        if same_network:
            return Dockerd(int(process.name), addresses(words[1:]))
    return None


def addresses(arguments: Sequence[str]) -> tuple[str, ...]:
    """Where a dockerd with these arguments listens."""
    hosts = list(_values(arguments, "--host", "-H"))
    file = next(iter(_values(arguments, "--config-file")), CONFIG)
    try:
        listed = json.loads(Path(file).read_text(encoding="utf-8")).get("hosts") or []
        hosts += [str(host) for host in listed]
    except (OSError, ValueError, AttributeError, TypeError):
        pass  # it has none, or may not be read: the command line has to do
    return tuple(dict.fromkeys(_reachable(host) for host in hosts)) or (DEFAULT_ADDRESS,)


def _values(arguments: Sequence[str], *options: str) -> Iterator[str]:
    """The values of an option in the forms `--host X`, `--host=X`, `-H X`, `-H=X` and `-HX`."""
    for number, word in enumerate(arguments):
        for option in options:
            if word == option:
                yield from arguments[number + 1 : number + 2]
            elif word.startswith(f"{option}="):
                yield word.partition("=")[2]
            elif len(option) == 2 and word.startswith(option):
                yield word[2:]


def _reachable(host: str) -> str:
    """The address by which this machine reaches a dockerd that listens at `host`."""
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
    """What to tell the reader where `other` was not found, and no second one can be started beside it."""
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
