"""Experiments on the overlay network of a swarm: its packets, its MTU, and the failure of an engine."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.waiting import wait_for
from labhelpers.errors import BadInput, TimedOut
from labhelpers.networks.capture import capture
from labhelpers.networks.overlay import IMAGE, NAMES, OVERLAY, SwarmEngines
from labhelpers.networks.packets import Header, Packet
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

RED, BLUE = "red", "blue"
OVERSIZED, OVERSIZED_RED, OVERSIZED_BLUE = "too-wide", "wide-red", "wide-blue"
SERVICE = "web"
PING_HEADERS = 28
"""IPv4 and ICMP headers, which `ping -s` does not count."""
VXLAN_HEADERS = 50
"""Inner Ethernet 14 + VXLAN 8 + UDP 8 + IPv4 20 (RFC 7348); an MTU does not count the outer Ethernet header."""
FAILOVER_TIMEOUT_S = 90.0
POLL_S = 0.5
"""Each poll starts several processes on a machine that has just lost an engine."""


@record
class OverlayPing(Result):
    """The headers of a ping between containers on two engines, captured between the engines."""

    addresses: tuple[tuple[str, str], ...] = column(
        "(container, its address on the overlay network)", shown=False
    )
    engines: tuple[tuple[str, str], ...] = column(
        "(engine, its address on the underlay network)", shown=False
    )
    answered: bool = column("whether the ping by name was answered")
    mtu_bytes: int = column("MTU of the container's interface")
    underlay_mtu_bytes: int = column("MTU of the engine's interface")
    packets: tuple[Packet, ...] = column("the VXLAN packets that were captured", shown=False)

    @property
    def request(self) -> Packet:
        """The first echo request."""
        return next(packet for packet in self.packets if _is_request(packet))

    @property
    def headers_bytes(self) -> int:
        """What VXLAN adds to the inner frame, with the outer Ethernet header."""
        names = [header.name for header in self.request.headers]
        return sum(header.bytes for header in self.request.headers[: names.index("VXLAN") + 1])

    def _records(self) -> tuple[type, Sequence[object]]:
        """The table shows the headers of the echo request."""
        return Header, self.request.headers


@record
class MtuProbe(Result):
    """A ping of one size across the overlay network, with the don't-fragment bit set."""

    payload_bytes: int = column("the size for `ping -s`, 28 bytes less than the IPv4 packet")
    answered: bool = column("whether the ping was answered")
    error: str = column("the error message of ping, if there is one")


@record
class EngineFailure(Result):
    """A service with two replicas before and after one of two engines was killed."""

    before: tuple[tuple[str, int], ...] = column("(engine, running replicas) at the start", shown=False)
    after: tuple[tuple[str, int], ...] = column(
        "(engine, running replicas) at the end, as the manager reports them", shown=False
    )
    detected_s: float = column("time from the kill until the manager reported the engine as down")
    rescheduled_s: float = column("time from the kill until the remaining engine ran two replicas")
    addresses_before: tuple[str, ...] = column("addresses of the service's name at the start")
    addresses_after: tuple[str, ...] = column("addresses of the service's name at the end")
    answered_requests: int = column("requests by name that were answered between the kill and the end")
    requests: int = column("requests by name between the kill and the end")

    def frame(self) -> pd.DataFrame:
        """One row for each event: the kill, its detection, the replacement."""
        rows = [
            (0.0, f"{NAMES[1]} is killed", dict(self.before), self.addresses_before),
            (self.detected_s, "the manager reports it as down", None, None),
            (self.rescheduled_s, "two replicas run again", dict(self.after), self.addresses_after),
        ]
        return table(rows, ["at_s", "event", "replicas", "service_addresses"])


def _is_request(packet: Packet) -> bool:
    icmp = packet.header("ICMP")
    return icmp is not None and icmp.get("is") == "echo request"


@experiment
def overlay_ping(lab: Lab, engines: SwarmEngines) -> OverlayPing:
    """Run `red` on engine 1 and `blue` on engine 2, ping blue from red by name, and capture between the engines.

    Raises:
        NotRunning: the engines are closed.
        TimedOut: no packet was captured.
    """
    tcpdump = f"docker run -d --network container:{NAMES[0]}"
    with lab.quiet(essential=[f"docker exec {NAMES[0]} docker exec {RED} ping", tcpdump]):
        addresses = (
            (RED, _ensure_running(engines, 1, RED, OVERLAY)),
            (BLUE, _ensure_running(engines, 2, BLUE, OVERLAY)),
        )
        namespaces = {"underlay": f"container:{NAMES[0]}"}
        with capture(lab, namespaces, "udp port 4789", interface="eth0") as captured:
            output = engines.docker(1, "exec", RED, "ping", "-c", "2", "-W", "5", BLUE, check=False)
            packets = captured(lambda by_label: any(map(_is_request, by_label["underlay"])))["underlay"]
        if not any(map(_is_request, packets)):
            raise TimedOut(
                "no VXLAN packet was captured between the engines",
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


def _ensure_running(engines: SwarmEngines, number: int, name: str, network: str) -> str:
    """Start the container unless it exists, for a cell that runs again; its address."""
    return engines.address_of(number, name, network, check=False) or engines.start(number, name, network)


def _mtu(text: str) -> int:
    match = re.search(r"mtu (\d+)", text)
    assert match is not None
    return int(match[1])


@experiment
def mtu_probe(engines: SwarmEngines, payload_bytes: int, *, oversized_mtu: bool = False) -> MtuProbe:
    """Send one ping of a given size from a container on engine 1 to a container on engine 2, unfragmented.

    Args:
        oversized_mtu: on a network whose interfaces have an MTU of 1,500, which leaves no room for the VXLAN headers
            on an underlay of 1,500; else on the overlay network with the engine's own MTU.

    Raises:
        BadInput: the size is out of range.
        NotRunning: the engines are closed.
    """
    if not 0 <= payload_bytes <= 65_507:
        raise BadInput(f"a ping of {payload_bytes} bytes is not possible", hint="use 0 to 65507")
    on_1 = f"docker exec {NAMES[0]}"
    with engines.lab.quiet(essential=[f"{on_1} docker network create", f"{on_1} sh -c 'nsenter"]):
        return _probe(engines, payload_bytes, oversized_mtu)


def _probe(engines: SwarmEngines, payload_bytes: int, oversized_mtu: bool) -> MtuProbe:
    network, source, target = OVERLAY, RED, BLUE
    if oversized_mtu:
        network, source, target = OVERSIZED, OVERSIZED_RED, OVERSIZED_BLUE
        if network not in engines.docker(1, "network", "ls", "--format", "{{.Name}}").split():
            mtu = f"com.docker.network.driver.mtu={1500 + VXLAN_HEADERS}"
            engines.docker(1, "network", "create", "-d", "overlay", "--attachable", "--opt", mtu, network)
    _ensure_running(engines, 1, source, network)
    address = _ensure_running(engines, 2, target, network)
    enter = engines.nsenter_command(1, source)
    # the first packet to a new neighbour also waits until the engines have exchanged its address
    engines.run_in(1, [*enter, "ping", "-c", "1", "-W", "5", address], check=False)
    ping = [*enter, "ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(payload_bytes), address]
    output = engines.run_in(1, ["sh", "-c", f"{' '.join(ping)} 2>&1"], check=False)
    if " 0% packet loss" in output:
        return MtuProbe(payload_bytes, True, "")
    errors = [line.strip() for line in output.splitlines() if "needed" in line or "too long" in line]
    return MtuProbe(payload_bytes, False, next(iter(errors), "no answer"))


@experiment
def kill_engine(engines: SwarmEngines) -> EngineFailure:
    """Run a service with a replica on each engine, kill engine 2, and wait until two replicas run again.

    The service has no virtual IP (`--endpoint-mode dnsrr`): its name resolves to the addresses of its replicas, so it
    works on a kernel without IPVS.

    Raises:
        NotRunning: the engines are closed.
        TimedOut: the service did not start, or the lost replica was not replaced.
    """
    create = f"docker exec {NAMES[0]} docker service create"
    with engines.lab.quiet(essential=[create, f"docker kill {NAMES[1]}"]):
        return _kill_engine(engines)


def _kill_engine(engines: SwarmEngines) -> EngineFailure:
    _ensure_running(engines, 1, RED, OVERLAY)
    engines.docker(
        1,
        *("service", "create", "--detach", "--name", SERVICE, "--replicas", "2", "--network", OVERLAY),
        *("--endpoint-mode", "dnsrr", "--no-resolve-image", "--restart-delay", "0s"),
        *("--replicas-max-per-node", "2", "--stop-grace-period", "1s"),
        *(IMAGE, "httpd", "-f", "-p", "80", "-h", "/www"),
    )
    before = _one_replica_each(engines)
    addresses = _resolve(engines)
    began = time.monotonic()
    engines.lab.kill(engines.containers[1])
    detected_s = rescheduled_s = 0.0
    answered = requests = 0
    while not rescheduled_s:
        if time.monotonic() - began > FAILOVER_TIMEOUT_S:
            raise TimedOut(
                "the swarm did not replace the lost replica", hint="run the notebook again from the top"
            )
        wget = ("timeout", "1", "wget", "-q", "-O", "-", f"http://{SERVICE}/")
        answered += "page" in engines.docker(1, "exec", RED, *wget, check=False)
        requests += 1
        if not detected_s:
            nodes = engines.docker(1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
            detected_s = time.monotonic() - began if f"{NAMES[1]} Down" in nodes else 0.0
        if detected_s and _replicas(engines).get(NAMES[0]) == 2:
            rescheduled_s = time.monotonic() - began
        else:
            time.sleep(POLL_S)
    after = _replicas(engines)
    return EngineFailure(
        tuple(sorted(before.items())),
        tuple((name, after.get(name, 0)) for name in NAMES),
        detected_s,
        rescheduled_s,
        addresses,
        _resolve(engines, other_than=addresses),
        answered,
        requests,
    )


def _replicas(engines: SwarmEngines) -> dict[str, int]:
    """Engine → replicas that run and should run."""
    desired = ("--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
    counts: dict[str, int] = {}
    for line in engines.docker(1, "service", "ps", SERVICE, *desired).splitlines():
        node, state, *_ = line.split()
        if state == "Running":
            counts[node] = counts.get(node, 0) + 1
    return counts


def _one_replica_each(engines: SwarmEngines) -> dict[str, int]:
    """Wait until each engine runs one replica."""

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


def _resolve(engines: SwarmEngines, other_than: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Wait until the service's name resolves to two addresses that differ from `other_than`."""

    def addresses() -> tuple[str, ...]:
        answer = engines.docker(1, "exec", RED, "nslookup", SERVICE, check=False).partition("Name:")[2]
        resolved = tuple(sorted(set(re.findall(r"Address:\s+(\d+\.\d+\.\d+\.\d+)", answer))))
        return resolved if len(resolved) == 2 and set(resolved) != set(other_than) else ()

    condition = f"the name {SERVICE} to resolve to the addresses of two replicas"
    return engines.lab.wait_for(condition, addresses, FAILOVER_TIMEOUT_S, every_s=POLL_S)
