"""Packet traces: the interfaces that a request passes, its addresses at each, and the counters that it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine import host, responses
from labhelpers.errors import TimedOut
from labhelpers.networks.capture import CaptureResult, capture
from labhelpers.networks.maps import bridge_interface
from labhelpers.networks.packets import Packet
from labhelpers.networks.rules import mentions
from labhelpers.networks.veth import VethPair, veth_pair
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

PORTS = {"to a container": 8000, "to the host": 8001, "to the outside": 8002}
CLIENT, SERVER, HOST, EXTERNAL = "client", "server", "the host", "outside"
REPLY_TIMEOUT_S = 10


@record
class Hop(Result):
    """A packet at one interface."""

    at_us: float = column("time since the first hop of the request, on the clock of the engine's host")
    namespace: str = column("the network namespace: `client`, `server`, `the host` or `outside`")
    interface: str = column("the interface in that namespace")
    direction: str = column("`in` or `out`, as seen from that namespace")
    source: str = column("source address and port at this interface")
    target: str = column("destination address and port at this interface")
    flags: str = column("TCP flags: `SYN` for the request, `SYN ACK` for the reply")


@record
class CounterChange(Result):
    """A packet counter before and after the request."""

    counter: str = column("an interface with its namespace, or a firewall rule with its table and chain")
    packets_before: int = column("the counter before the request")
    packets_after: int = column("the counter after the reply")


@record
class CounterChanges(Result):
    """Packet counters of firewall rules and interfaces before and after the request."""

    changes: tuple[CounterChange, ...] = rows("rules first, then interfaces", of=CounterChange)


@record
class PacketTrace(Result):
    """The first packet of a request and of its reply at every interface, in order of time."""

    name: str = column("the destination: `to a container`, `to the host` or `to the outside`")
    answered: bool = column("whether the client received the page")
    hops: tuple[Hop, ...] = rows("the SYN of the request, then the SYN ACK of the reply", of=Hop)
    interfaces: tuple[CounterChange, ...] = column("packet counters of the interfaces", shown=False)
    rules: tuple[CounterChange, ...] = column(
        "packet counters of firewall rules for the network, its bridge or its containers that changed",
        shown=False,
    )

    def __repr__(self) -> str:
        return f"a request {self.name}, captured at {len(self.hops)} interfaces"

    @property
    def request(self) -> tuple[Hop, ...]:
        """The hops of the request's first packet."""
        return tuple(hop for hop in self.hops if hop.flags == "SYN")

    @property
    def reply(self) -> tuple[Hop, ...]:
        """The hops of the reply's first packet."""
        return tuple(hop for hop in self.hops if hop.flags == "SYN ACK")

    @property
    def counters(self) -> CounterChanges:
        """Every counter of the trace: rules, then interfaces."""
        return CounterChanges((*self.rules, *self.interfaces))

    @derived
    def request_path(self) -> str:
        """The namespaces and interfaces that the request passes."""
        return " → ".join(dict.fromkeys(f"{hop.namespace}: {hop.interface}" for hop in self.request))

    @derived
    def source_translated(self) -> bool:
        """Whether the source address of the request changed on its way."""
        first, last = (hop.source.rpartition(":")[0] for hop in (self.request[0], self.request[-1]))
        return first != last

    @derived
    def reply_returned(self) -> bool:
        """Whether the reply reached the address and port that the request was sent from."""
        return bool(self.reply) and self.reply[-1].target == self.request[0].source


@record
class PacketTraces(Result):
    """Three requests of one container: to a container, to the host, and to the outside."""

    traces: tuple[PacketTrace, ...] = rows("one trace for each request", of=PacketTrace)

    @property
    def to_container(self) -> PacketTrace:
        """To another container on the same network."""
        return self.traces[0]

    @property
    def to_host(self) -> PacketTrace:
        """To the host's address on the bridge."""
        return self.traces[1]

    @property
    def to_outside(self) -> PacketTrace:
        """To a neighbour of the host."""
        return self.traces[2]


@experiment
def trace_packets(lab: Lab) -> PacketTraces:
    """Send three requests from one container, and capture them in every network namespace on their way.

    The outside is a container at the other end of a veth pair, without any other network: no packet leaves the
    machine.

    Raises:
        TimedOut: a request was not captured.
    """
    suffix = lab.session[:4]
    names = {namespace: f"{namespace}-{suffix}" for namespace in (CLIENT, SERVER, EXTERNAL)}
    # the three requests, and tcpdump on the host
    essential = [f"docker exec {names[CLIENT]}", "docker run -d --network host --cap-add NET_RAW"]
    with lab.quiet(essential=essential), ExitStack() as stack:
        pair = veth_pair(lab, names[EXTERNAL])
        stack.callback(lab.remove, pair.peer_container, force=True)
        network = lab.create_network(f"street-{suffix}")
        stack.callback(lab.remove_network, network)
        bridge = bridge_interface(network.attrs)
        addresses = _start_servers(lab, stack, names, str(network.name), bridge, pair)
        first, last = min(PORTS.values()), max(PORTS.values())
        captured_hosts = " or ".join(
            f"host {addresses[namespace]}" for namespace in (CLIENT, SERVER, EXTERNAL)
        )
        captured = stack.enter_context(
            capture(
                lab,
                {namespace: f"container:{name}" for namespace, name in names.items()} | {HOST: "host"},
                f"tcp portrange {first}-{last} and ({captured_hosts})",
            )
        )
        subnets = responses.subnets(lab.inspect_network(network))
        scope = (bridge, addresses[SERVER], *subnets, pair.host_interface)
        # by address, since a name may resolve to an IPv6 address and the captures are of IPv4
        targets = zip(PORTS.items(), (SERVER, HOST, EXTERNAL), strict=True)
        return PacketTraces(
            tuple(
                _trace(lab, name, names, (addresses[target], port), scope, captured)
                for (name, port), target in targets
            )
        )


def _start_servers(
    lab: Lab, stack: ExitStack, names: Mapping[str, str], network: str, bridge: str, pair: VethPair
) -> dict[str, str]:
    """Start a web server in each namespace; their addresses by namespace."""
    image, serve = lab.image("payload"), ["httpd", "-f", "-h", "/www", "-p"]
    to_container, to_host, to_outside = PORTS.values()
    for namespace in (CLIENT, SERVER):
        options = {"name": names[namespace], "network": network}
        stack.enter_context(lab.running(image, [*serve, str(to_container)], **options))
    gateway = next(
        address.address
        for address in lab.host.addresses()
        if address.interface == bridge and address.family == "inet"
    )
    stack.enter_context(lab.running(image, [*serve, f"{gateway}:{to_host}"], network="host"))
    lab.exec(names[EXTERNAL], ["httpd", "-p", str(to_outside), "-h", "/www"])
    addresses = {namespace: lab.address_of(names[namespace]) for namespace in (CLIENT, SERVER)}
    return addresses | {HOST: gateway, EXTERNAL: pair.peer_address}


def _trace(
    lab: Lab,
    name: str,
    names: Mapping[str, str],
    target: tuple[str, int],
    scope: Sequence[str],
    captured: CaptureResult,
) -> PacketTrace:
    address, port = target
    namespaces: dict[str, str | None] = {**names, HOST: None}
    before = {namespace: lab.host.interfaces(process) for namespace, process in namespaces.items()}
    rules_before = _rules(lab, scope)
    wget = ["timeout", str(REPLY_TIMEOUT_S), "wget", "-q", "-O", "-", f"http://{address}:{port}/"]
    output = lab.exec(names[CLIENT], wget)

    def is_complete(packets: Mapping[str, Sequence[Packet]]) -> bool:
        return any(_flags(packet, port) == "SYN ACK" for packet in packets[CLIENT])

    packets = captured(is_complete)
    after = {namespace: lab.host.interfaces(process) for namespace, process in namespaces.items()}
    rules_after = _rules(lab, scope)
    hops = _hops(packets, after, port)
    if not hops:
        raise TimedOut(
            f"the request {name} was not captured",
            hint="run the cell again; a firewall on the engine's host may drop the request",
            engine_message=str(output),
        )
    rules = [
        CounterChange(rule, rules_before.get(rule, 0), count)
        for rule, count in rules_after.items()
        if count > rules_before.get(rule, 0)
    ]
    return PacketTrace(
        name, "page" in output.stdout, hops, _interface_counters(hops, before, after), tuple(rules)
    )


def _interface_counters(
    hops: Sequence[Hop],
    before: Mapping[str, Sequence[host.Interface]],
    after: Mapping[str, Sequence[host.Interface]],
) -> tuple[CounterChange, ...]:
    passed = {(hop.namespace, hop.interface) for hop in hops}
    return tuple(
        CounterChange(
            f"{namespace}: {interface.name} {direction}", getattr(old, field), getattr(interface, field)
        )
        for namespace, interfaces in after.items()
        for interface in interfaces
        if (namespace, interface.name) in passed
        for old in before[namespace]
        if old.index == interface.index
        for direction, field in (("in", "received_packets"), ("out", "sent_packets"))
    )


def _flags(packet: Packet, port: int) -> str | None:
    """The flags of a packet from or to a TCP port; None for any other packet."""
    tcp = packet.header("TCP")
    if tcp is None or str(port) not in (tcp.get("from"), tcp.get("to")):
        return None
    return tcp.get("flags")


def _hops(
    packets: Mapping[str, Sequence[Packet]], interfaces: Mapping[str, Sequence[host.Interface]], port: int
) -> tuple[Hop, ...]:
    hops = []
    for namespace, captured in packets.items():
        names = {interface.index: interface.name for interface in interfaces[namespace]}
        for packet in captured:
            ip, tcp, flags = packet.header("IPv4"), packet.header("TCP"), _flags(packet, port)
            if ip is None or tcp is None or flags not in ("SYN", "SYN ACK"):
                continue
            hops.append(
                Hop(
                    packet.at_s * 1e6,
                    namespace,
                    names.get(packet.interface, f"index {packet.interface}"),
                    packet.direction,
                    f"{ip.get('from')}:{tcp.get('from')}",
                    f"{ip.get('to')}:{tcp.get('to')}",
                    flags,
                )
            )
    hops.sort(key=lambda hop: hop.at_us)
    return tuple(dataclasses.replace(hop, at_us=hop.at_us - hops[0].at_us) for hop in hops)


def _rules(lab: Lab, scope: Sequence[str]) -> dict[str, int]:
    """Firewall rules that contain something of `scope` → packets that they have matched."""
    counts: dict[str, int] = {}
    for rule in lab.host.firewall().rules:
        if rule.packets is not None and mentions(rule, scope):
            name = f"{rule.table}/{rule.chain}: {rule.text}"
            counts[name] = counts.get(name, 0) + rule.packets
    return counts
