"""One request on its way: where its packets were seen, what their addresses were there, and who counted them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labhelpers.engine import responses
from labhelpers.errors import TimedOut
from labhelpers.networks.capture import CaptureResult, capture
from labhelpers.networks.maps import bridge_interface
from labhelpers.networks.packets import Packet
from labhelpers.networks.rules import mentions
from labhelpers.networks.veth import veth_pair
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

PORTS = {"to a container": 8000, "to the host": 8001, "to the outside": 8002}
CLIENT, SERVER, HOST, EXTERNAL = "client", "server", "the host", "outside"
REPLY_TIMEOUT_S = 10


@record
class Hop(Result):
    """A packet, seen at one interface."""

    at_us: float = column("since the first hop of the request, on the clock of the engine's host")
    place: str = column("whose network namespace: `client`, `server`, `the host`, `outside`")
    interface: str = column("the name of the interface there")
    way: str = column("`in` or `out`, as that namespace sees it")
    source: str = column("address and port, as they are there")
    target: str = column("address and port, as they are there")
    flags: str = column("of TCP: `SYN` asks for the connection, `SYN ACK` answers")


@record
class CounterChange(Result):
    """What one counter of packets gained while the request was on its way."""

    where: str = column("an interface with its place, or a rule of the firewall with its table and chain")
    before: int = column("its value")
    after: int = column("its value")


@record
class PacketTrace(Result):
    """The first packet of a request and the first of its answer, hop by hop, in the order of their time."""

    name: str = column("`to a container`, `to the host`, `to the outside`")
    answered: bool = column("whether the page came")
    hops: tuple[Hop, ...] = column("the SYN of the request, then the SYN ACK of the answer", shown=False)
    interfaces: tuple[CounterChange, ...] = column(
        "packets counted at the interfaces on the way", shown=False
    )
    rules: tuple[CounterChange, ...] = column(
        "the rules of the firewall that counted packets and name the network's bridge, subnet or server",
        shown=False,
    )

    def __repr__(self) -> str:
        return f"a request {self.name}, seen at {len(self.hops)} places"

    @property
    def request(self) -> tuple[Hop, ...]:
        """The hops of the packet that asks."""
        return tuple(hop for hop in self.hops if hop.flags == "SYN")

    @property
    def reply(self) -> tuple[Hop, ...]:
        """The hops of the packet that answers."""
        return tuple(hop for hop in self.hops if hop.flags == "SYN ACK")

    @property
    def came_back(self) -> bool:
        """Whether the last packet of the answer went to the address and port that the first request came from."""
        return bool(self.reply) and self.reply[-1].target == self.request[0].source

    @property
    def source_changed(self) -> bool:
        """Whether the source address of the request was another one at its end."""
        return self.request[0].source.rpartition(":")[0] != self.request[-1].source.rpartition(":")[0]

    def frame(self) -> pd.DataFrame:
        """One row a hop."""
        rows = [(round(h.at_us), h.place, h.interface, h.way, h.source, h.target, h.flags) for h in self.hops]
        return table(rows, ["µs", "place", "interface", "way", "from", "to", "TCP"])


@record
class PacketTraces(Result):
    """Three requests of one container."""

    to_container: PacketTrace = column("to another container on its network", shown=False)
    to_host: PacketTrace = column("to the host's address on its bridge", shown=False)
    to_outside: PacketTrace = column("to a neighbour of the host, by a way that leaves the host", shown=False)

    def frame(self) -> pd.DataFrame:
        """One row a journey."""
        rows = [
            (
                j.name,
                " → ".join(dict.fromkeys(f"{h.place}: {h.interface}" for h in j.request)),
                j.source_changed,
            )
            for j in (self.to_container, self.to_host, self.to_outside)
        ]
        return table(rows, ["journey", "the request's way", "source translated"])


def trace_packets(lab: Lab) -> PacketTraces:
    """Send three requests from one container and watch them in every network namespace on their way.

    The outside is a container at the other end of a wire of the lab's own, which has no other network: no packet
    leaves the machine.
    """
    mark = lab.session[:4]
    names = {place: f"{place}-{mark}" for place in (CLIENT, SERVER, EXTERNAL)}
    # the three requests, and the tcpdump on the host
    essential = [f"docker exec {names[CLIENT]}", "docker run -d --network host --cap-add NET_RAW"]
    with lab.quiet(essential=essential), ExitStack() as stack:
        laid = veth_pair(lab, names[EXTERNAL])
        stack.callback(lab.remove, laid.far, force=True)
        network = lab.create_network(f"street-{mark}")
        stack.callback(lab.remove_network, network)
        image, serve = lab.image("payload"), ["httpd", "-f", "-h", "/www", "-p"]
        to_container, to_host, to_outside = PORTS.values()
        for place in (CLIENT, SERVER):
            options = {"name": names[place], "network": str(network.name)}
            stack.enter_context(lab.running(image, [*serve, str(to_container)], **options))
        bridge = bridge_interface(network.attrs)
        gateway = next(
            one.address for one in lab.host.addresses() if one.interface == bridge and one.family == "inet"
        )
        own = {place: lab.address_of(names[place]) for place in (CLIENT, SERVER)}
        stack.enter_context(lab.running(image, [*serve, f"{gateway}:{to_host}"], network="host"))
        lab.exec(names[EXTERNAL], ["httpd", "-p", str(to_outside), "-h", "/www"])
        # by address: a name may lead to an IPv6 address, and what follows is about IPv4
        targets = zip(PORTS.items(), (own[SERVER], gateway, laid.far_address), strict=True)
        places = {place: f"container:{name}" for place, name in names.items()} | {HOST: "host"}
        whose = " or ".join(f"host {address}" for address in {*own.values(), laid.far_address})
        what = f"tcp portrange {to_container}-{to_outside} and ({whose})"
        scope = (bridge, own[SERVER], *responses.subnets(lab.inspect_network(network)), laid.link)
        seen = stack.enter_context(capture(lab, places, what))
        journeys = [
            _journey(lab, name, names, f"http://{target}:{port}/", port, scope, seen)
            for (name, port), target in targets
        ]
    return PacketTraces(*journeys)


def _journey(
    lab: Lab,
    name: str,
    names: Mapping[str, str],
    url: str,
    port: int,
    scope: Sequence[str],
    seen: CaptureResult,
) -> PacketTrace:
    spaces: dict[str, str | None] = {**names, HOST: None}
    before = {place: lab.host.interfaces(where) for place, where in spaces.items()}
    rules_before = _rules(lab, scope)
    said = lab.exec(names[CLIENT], ["timeout", str(REPLY_TIMEOUT_S), "wget", "-q", "-O", "-", url])

    def is_back(found: Mapping[str, Sequence[Packet]]) -> bool:
        return any(_flags(one, port) == "SYN ACK" for one in found[CLIENT])

    packets = seen(is_back)
    after = {place: lab.host.interfaces(where) for place, where in spaces.items()}
    rules_after = _rules(lab, scope)
    links = {place: {one.index: one.name for one in found} for place, found in after.items()}
    hops = _hops(packets, links, port)
    if not hops:
        raise TimedOut(
            f"the request {name} was not seen on its way",
            hint="run the cell again; a firewall of the engine's host may drop it",
            engine_message=str(said),
        )
    on_way = {(hop.place, hop.interface) for hop in hops}
    counts = [
        CounterChange(
            f"{place}: {one.name} {way}", getattr(old, f"{field}_packets"), getattr(one, f"{field}_packets")
        )
        for place, found in after.items()
        for one in found
        if (place, one.name) in on_way
        and (old := next((o for o in before[place] if o.index == one.index), None))
        for way, field in (("in", "received"), ("out", "sent"))
    ]
    rules = [
        CounterChange(where, rules_before.get(where, 0), value)
        for where, value in rules_after.items()
        if value > rules_before.get(where, 0)
    ]
    return PacketTrace(name, "page" in said.stdout, tuple(hops), tuple(counts), tuple(rules))


def _flags(packet: Packet, number: int) -> str | None:
    """The flags of a packet from or to a TCP port, None of another packet."""
    port = packet.layer("TCP")
    if port is None or str(number) not in (port.get("from"), port.get("to")):
        return None
    return port.get("flags")


def _hops(
    packets: Mapping[str, Sequence[Packet]], links: Mapping[str, Mapping[int, str]], number: int
) -> list[Hop]:
    found = []
    for place, ones in packets.items():
        for packet in ones:
            address, port, flags = packet.layer("IPv4"), packet.layer("TCP"), _flags(packet, number)
            if address is None or port is None or flags not in ("SYN", "SYN ACK"):
                continue
            found.append(
                Hop(
                    packet.at_s,
                    place,
                    links[place].get(packet.interface, f"number {packet.interface}"),
                    packet.way,
                    f"{address.get('from')}:{port.get('from')}",
                    f"{address.get('to')}:{port.get('to')}",
                    flags,
                )
            )
    found.sort(key=lambda hop: hop.at_us)
    if not found:
        return []
    start = found[0].at_us
    return [
        Hop((h.at_us - start) * 1e6, h.place, h.interface, h.way, h.source, h.target, h.flags) for h in found
    ]


def _rules(lab: Lab, scope: Sequence[str]) -> dict[str, int]:
    """The rules that name something of the lab's street, with the packets that each has counted."""
    found: dict[str, int] = {}
    for rule in lab.host.firewall().rules:
        if rule.packets is not None and mentions(rule, scope):
            where = f"{rule.table}/{rule.chain}: {rule.text}"
            found[where] = found.get(where, 0) + rule.packets
    return found
