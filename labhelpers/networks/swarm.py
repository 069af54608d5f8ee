"""What the overlay network of two engines does: its packets, its MTU, and a service that loses an engine."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from labhelpers.engine.waiting import wait_for
from labhelpers.errors import BadInput, TimedOut
from labhelpers.networks.capture import capture
from labhelpers.networks.overlay import IMAGE, NAMES, OVERLAY, SwarmEngines
from labhelpers.networks.packets import Packet
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

RED, BLUE = "red", "blue"
WIDE, WIDE_RED, WIDE_BLUE = "too-wide", "wide-red", "wide-blue"
SERVICE = "web"
PING_HEADERS = 28
"""IPv4 and ICMP: what `ping -s` does not count."""
VXLAN_HEADERS = 50
"""Outer Ethernet 14 (not counted in an MTU) is replaced by the inner one: 14 + 8 VXLAN + 8 UDP + 20 IPv4 (RFC 7348)."""
FAILOVER_TIMEOUT_S = 90.0
POLL_S = 0.5
"""Between two looks: each is a few processes on a machine that has just lost half of itself."""


@record
class OverlayPing(Result):
    """A ping from a container on one engine to a container on the other, seen on the wire between the engines."""

    addresses: tuple[tuple[str, str], ...] = column(
        "(container, its address on the overlay) of both", shown=False
    )
    engines: tuple[tuple[str, str], ...] = column(
        "(engine, its address on the wire between them) of both", shown=False
    )
    answered: bool = column("whether the other container answered to its name")
    mtu_bytes: int = column("of the container's interface")
    wire_mtu_bytes: int = column("of the engine's interface, where the packet leaves")
    packets: tuple[Packet, ...] = rows("those seen on the wire", of=Packet)

    @property
    def request(self) -> Packet:
        """The first echo request."""
        return next(one for one in self.packets if _is_request(one))

    @property
    def headers_bytes(self) -> int:
        """What VXLAN adds to the inner packet, outer Ethernet included."""
        names = [layer.name for layer in self.request.layers]
        return sum(layer.bytes for layer in self.request.layers[: names.index("VXLAN") + 1])

    def frame(self) -> pd.DataFrame:
        """One row a header of the request."""
        return self.request.frame()


@record
class MtuProbe(Result):
    """Whether a ping of one size crosses, not allowed to be cut into fragments."""

    payload_bytes: int = column("as given to `ping -s`; the packet is 28 bytes longer")
    crossed: bool = column("whether it was answered")
    words: str = column("what ping said where it was not")


@record
class EngineFailure(Result):
    """A service with two replicas, and what happened when one of the engines was killed."""

    before: tuple[tuple[str, int], ...] = column("(engine, running replicas) at the start", shown=False)
    after: tuple[tuple[str, int], ...] = column(
        "(engine, running replicas) at the end, by the manager's word", shown=False
    )
    noticed_s: float = column("from the kill until the manager called the engine down")
    replaced_s: float = column("from the kill until two replicas ran again on the engine that is left")
    addresses_before: tuple[str, ...] = column(
        "what the service's name meant, for a container on the network"
    )
    addresses_after: tuple[str, ...] = column("what the service's name meant, for a container on the network")
    served_meanwhile: int = column(
        "how many of the requests by name were answered between the kill and the end"
    )
    asked_meanwhile: int = column("how many there were")

    def frame(self) -> pd.DataFrame:
        """One row a moment."""
        rows = [
            (0.0, f"{NAMES[1]} is killed", _said(self.before), ", ".join(self.addresses_before)),
            (round(self.noticed_s, 1), "the manager calls it down", "", ""),
            (
                round(self.replaced_s, 1),
                "two replicas run again",
                _said(self.after),
                ", ".join(self.addresses_after),
            ),
        ]
        return table(rows, ["s", "what", "replicas", f"“{SERVICE}” means"])


def _said(counts: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts)


def _is_request(packet: Packet) -> bool:
    ping = packet.layer("ICMP")
    return ping is not None and ping.get("is") == "echo request"


def overlay_ping(lab: Lab, engines: SwarmEngines) -> OverlayPing:
    """Run `red` on engine 1 and `blue` on engine 2, let red ping blue by name, and capture packets between the engines.

    Raises:
        NotRunning: there are no engines here.
        TimedOut: no packet was captured.
    """
    tcpdump = f"docker run -d --network container:{NAMES[0]}"
    with lab.quiet(essential=[f"docker exec {NAMES[0]} docker exec {RED} ping", tcpdump]):
        addresses = (
            (RED, _started(engines, 1, RED, OVERLAY)),
            (BLUE, _started(engines, 2, BLUE, OVERLAY)),
        )
        with capture(lab, {"wire": f"container:{NAMES[0]}"}, "udp port 4789", interface="eth0") as seen:
            output = engines.docker(1, "exec", RED, "ping", "-c", "2", "-W", "5", BLUE, check=False)
            packets = seen(lambda found: any(_is_request(one) for one in found["wire"]))["wire"]
        if not any(_is_request(one) for one in packets):
            raise TimedOut(
                "no VXLAN packet was seen between the engines",
                hint="run the cell again",
                engine_message=output,
            )
        return OverlayPing(
            addresses,
            tuple(zip(NAMES, engines.addresses, strict=True)),
            " 0% packet loss" in output,
            _mtu(engines.docker(1, "exec", RED, "ip", "link", "show", "eth0")),
            _mtu(engines.run_in(1, ["ip", "link", "show", "eth0"])),
            tuple(packets),
        )


def _started(engines: SwarmEngines, number: int, name: str, network: str) -> str:
    form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    # a cell that is run again finds the container that it made
    return engines.docker(number, "inspect", "-f", form, name, check=False) or engines.start(
        number, name, network
    )


def _mtu(text: str) -> int:
    found = re.search(r"mtu (\d+)", text)
    assert found is not None
    return int(found[1])


def mtu_probe(engines: SwarmEngines, payload_bytes: int, *, wide: bool = False) -> MtuProbe:
    """Send one ping of a size from engine 1's container to engine 2's, with the don't-fragment bit set.

    Args:
        wide: on a network whose interfaces claim an MTU of 1,500, which does not leave room for VXLAN's headers
            on a wire of 1,500; else on the overlay as the engine makes it.

    Raises:
        BadInput: a size that no ping has.
        NotRunning: there are no engines here.
    """
    if not 0 <= payload_bytes <= 65_507:
        raise BadInput(f"a ping of {payload_bytes} bytes is not possible", hint="give 0 to 65507")
    on_1 = f"docker exec {NAMES[0]}"
    with engines.lab.quiet(essential=[f"{on_1} docker network create", f"{on_1} sh -c 'nsenter"]):
        return _crossing(engines, payload_bytes, wide)


def _crossing(engines: SwarmEngines, payload_bytes: int, wide: bool) -> MtuProbe:
    if wide:
        if WIDE not in engines.docker(1, "network", "ls", "--format", "{{.Name}}").split():
            mtu = f"com.docker.network.driver.mtu={1500 + VXLAN_HEADERS}"
            engines.docker(1, "network", "create", "-d", "overlay", "--attachable", "--opt", mtu, WIDE)
        _started(engines, 1, WIDE_RED, WIDE)
        target = _started(engines, 2, WIDE_BLUE, WIDE)
        source = WIDE_RED
    else:
        _started(engines, 1, RED, OVERLAY)
        target, source = _started(engines, 2, BLUE, OVERLAY), RED
    ping = ["ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(payload_bytes), target]
    # the first packet to a new neighbour also waits until the engines have exchanged its address
    engines.run_in(1, [*engines.enter(1, source), "ping", "-c", "1", "-W", "5", target], check=False)
    output = engines.run_in(
        1, ["sh", "-c", " ".join([*engines.enter(1, source), *ping]) + " 2>&1"], check=False
    )
    crossed = " 0% packet loss" in output
    errors = [line.strip() for line in output.splitlines() if "needed" in line or "too long" in line]
    return MtuProbe(payload_bytes, crossed, "" if crossed else next(iter(errors), "no answer"))


def kill_engine(engines: SwarmEngines) -> EngineFailure:
    """Run a service with a replica on each engine, kill engine 2, and wait until two replicas run again.

    The service has no virtual address (`--endpoint-mode dnsrr`): its name resolves to the addresses of its replicas.
    So it works where the kernel has no IPVS.

    Raises:
        NotRunning: there are no engines here.
        TimedOut: the service did not come up, or its lost replica was not replaced.
    """
    create = f"docker exec {NAMES[0]} docker service create"
    with engines.lab.quiet(essential=[create, f"docker kill {NAMES[1]}"]):
        return _lose_an_engine(engines)


def _lose_an_engine(engines: SwarmEngines) -> EngineFailure:
    _started(engines, 1, RED, OVERLAY)
    engines.docker(
        1,
        *("service", "create", "--detach", "--name", SERVICE, "--replicas", "2", "--network", OVERLAY),
        *(
            "--endpoint-mode",
            "dnsrr",
            "--no-resolve-image",
            "--restart-delay",
            "0s",
            "--replicas-max-per-node",
            "2",
        ),
        *("--stop-grace-period", "1s", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www"),
    )
    before = _spread(engines)
    addresses = _resolved(engines)
    began = time.monotonic()
    engines.lab.kill(engines.containers[1])
    noticed = replaced = 0.0
    served = asked = 0
    while time.monotonic() - began < FAILOVER_TIMEOUT_S:
        answer = engines.docker(
            1, "exec", RED, "timeout", "1", "wget", "-q", "-O", "-", f"http://{SERVICE}/", check=False
        )
        asked += 1
        served += "page" in answer
        if not noticed:
            nodes = engines.docker(1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
            noticed = time.monotonic() - began if f"{NAMES[1]} Down" in nodes else 0.0
        if noticed and _replicas(engines).get(NAMES[0]) == 2:
            replaced = time.monotonic() - began
            break
        time.sleep(POLL_S)
    if not replaced:
        raise TimedOut("the swarm did not replace what it lost", hint="run the notebook again from the top")
    after = _replicas(engines)
    return EngineFailure(
        tuple(sorted(before.items())),
        tuple((name, after.get(name, 0)) for name in NAMES),
        noticed,
        replaced,
        addresses,
        _resolved(engines, other_than=addresses),
        served,
        asked,
    )


def _replicas(engines: SwarmEngines) -> dict[str, int]:
    """Engine → how many replicas run there and should."""
    tasks = engines.docker(
        1,
        "service",
        "ps",
        SERVICE,
        "--filter",
        "desired-state=running",
        "--format",
        "{{.Node}} {{.CurrentState}}",
    )
    found: dict[str, int] = {}
    for line in tasks.splitlines():
        node, state, *_ = line.split()
        if state == "Running":
            found[node] = found.get(node, 0) + 1
    return found


def _spread(engines: SwarmEngines) -> dict[str, int]:
    """The replicas, once there is one on each engine."""

    def replicas() -> dict[str, int]:
        counts = _replicas(engines)
        return counts if counts == dict.fromkeys(NAMES, 1) else {}

    return wait_for(
        "one replica of the service on each engine",
        replicas,
        FAILOVER_TIMEOUT_S,
        every_s=POLL_S,
        details=lambda: engines.docker(1, "service", "ps", SERVICE, check=False),
    )


def _resolved(engines: SwarmEngines, other_than: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The addresses of the service's name, once there are two of them and they are not those `other_than`."""

    def addresses() -> tuple[str, ...]:
        answer = engines.docker(1, "exec", RED, "nslookup", SERVICE, check=False).partition("Name:")[2]
        found = tuple(sorted(set(re.findall(r"Address:\s+(\d+\.\d+\.\d+\.\d+)", answer))))
        return found if len(found) == 2 and set(found) != set(other_than) else ()

    what = f"the name {SERVICE} to resolve to the addresses of two replicas"
    return engines.lab.wait_for(what, addresses, FAILOVER_TIMEOUT_S, every_s=POLL_S)
