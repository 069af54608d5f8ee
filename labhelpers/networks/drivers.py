"""The drivers: what each gives a container, who reaches whom, and what cannot be reached and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from labhelpers.engine import responses
from labhelpers.errors import BadInput, ContainerMissing, EngineRefused, PortTaken, TimedOut
from labhelpers.lab.base import name_of
from labhelpers.networks.maps import NetworkMap, network_map
from labhelpers.networks.veth import free_subnet, run_in_tools, veth_pair
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

PING = "ping -c 1 -W 2"
RESOLVE_TIMEOUT_S = 3
ATTEMPTS = 10
"""A name that nobody knows is asked for again and again; one that is known takes milliseconds."""


@record
class Reachability(Result):
    """Whether one container reaches another."""

    source: str = column("their names")
    target: str = column("their names")
    by_address: bool = column("whether one of the target's addresses answered a ping")
    by_name: bool = column("whether the target's name was found and answered")


@record
class ReachabilityMatrix(Result):
    """Who reaches whom."""

    names: tuple[str, ...] = column("of the containers, in the order in which they were given")
    pairs: tuple[Reachability, ...] = rows("every ordered pair of them", of=Reachability)

    def of(self, source: str, target: str) -> Reachability:
        """One pair."""
        return next(one for one in self.pairs if (one.source, one.target) == (source, target))


@record
class Resolver(Result):
    """Whom a container asks for names."""

    container: str = column("its name")
    server: bool = column(
        "the first name server of its /etc/resolv.conf is 127.0.0.11, Docker's own: whether it is"
    )
    host_file: tuple[str, ...] = column("the names that its /etc/hosts gives to its own addresses")


@record
class HostDriver(Result):
    """A container with `--network host`."""

    namespace: int = column("ids of the network namespaces (inode numbers)")
    host_namespace: int = column("ids of the network namespaces (inode numbers)")
    interfaces: int = column("how many interfaces each sees")
    host_interfaces: int = column("how many interfaces each sees")
    answered: bool = column("whether its web server answered on the host's 127.0.0.1, with no port published")
    second_status: int = column("the exit status of a second server that wants the same port")
    second_words: str = column("what that one said")

    @property
    def same_namespace(self) -> bool:
        """Whether the container is in the host's network namespace."""
        return self.namespace == self.host_namespace


@record
class NoNetwork(Result):
    """A container with `--network none`."""

    interfaces: tuple[str, ...] = column("the names of its interfaces that are up")
    routes: int = column("how many routes it has")
    loopback_answers: bool = column("whether it reaches itself")
    words: str = column("what it says when it tries to reach somebody")


@record
class Macvlan(Result):
    """Two containers on a macvlan network, a neighbour at the other end of the parent's wire, and the host."""

    parent: str = column("the host's interface that the macvlans stand on")
    parent_mac: str = column("the host's interface that the macvlans stand on")
    macs: tuple[tuple[str, str], ...] = column("container → its own hardware address", shown=False)
    neighbour_saw: tuple[tuple[str, str], ...] = column(
        "container → the hardware address that the neighbour's ARP table has for it", shown=False
    )
    between: bool = column("whether the containers reach each other")
    from_neighbour: bool = column("whether the neighbour reaches one of them")
    from_host: bool = column("whether the host does, sent out of the parent")
    host_neighbour: str = column(
        "what the host's ARP table says of that container: `INCOMPLETE` or `FAILED` where none answered"
    )
    map: NetworkMap = column("how it was joined", shown=False)


@record
class Ipvlan(Result):
    """A container on an ipvlan network, where the kernel has it."""

    supported: bool = column("whether the engine's kernel could make one")
    same_mac: bool | None = column(
        "whether its hardware address is the parent's; None where it is not supported"
    )
    words: str = column("what the engine said, an empty string where it is supported")


# --- reaching


def reachability(lab: Lab, containers: Sequence[Container | str]) -> ReachabilityMatrix:
    """Let every container ping every other one, by its addresses and by its name.

    The containers need `ping` and `sh`: those of `labhelpers/payload` have them.

    Raises:
        BadInput: there is no container of one of the names.
        LabError: one of them does not run.
    """
    names = [name_of(container) for container in containers]
    found = {name: _addresses(lab, name) for name in names}
    first = f"docker exec {names[0]}" if names else "docker exec"
    with lab.quiet(essential=[first]), ThreadPoolExecutor(len(names) or 1) as pool:
        answered = dict(zip(names, pool.map(lambda source: _answers(lab, source, found), names), strict=True))
    pairs = [
        Reachability(
            source,
            name,
            any((name, address) in answered[source] for address in found[name]),
            (name, name) in answered[source],
        )
        for source in names
        for name in names
        if name != source
    ]
    return ReachabilityMatrix(tuple(names), tuple(pairs))


def _answers(lab: Lab, source: str, found: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    """Whom `source` reaches: (container, the address or name that answered)."""
    tries = [(name, to) for name, own in found.items() if name != source for to in (*own, name)]
    script = "\n".join(
        f"(timeout {RESOLVE_TIMEOUT_S} {PING} {to} >/dev/null 2>&1 && echo {number}) &"
        for number, (_, to) in enumerate(tries)
    )
    said = lab.exec(source, ["sh", "-c", f"{script}\nwait"]).stdout.split()
    return {tries[int(number)] for number in said}


def _addresses(lab: Lab, name: str) -> list[str]:
    try:
        return responses.addresses(lab.inspect(name))
    except ContainerMissing:
        raise BadInput(
            f"there is no container {name!r}",
            hint="`docker ps -a` lists what is there; run the cell that makes it again",
        ) from None


def resolver(lab: Lab, container: Container | str) -> Resolver:
    """Whom the container asks for names, and whom its own list of hosts knows."""
    name = name_of(container)
    with lab.quiet(essential=["docker exec"]):
        said = lab.exec(name, ["sh", "-c", "cat /etc/resolv.conf; echo ---; cat /etc/hosts"]).stdout
    servers, _, hosts = said.partition("---")
    first = re.search(r"^nameserver\s+(\S+)", servers, re.M)
    own = set(_addresses(lab, name))
    known = [
        word
        for line in hosts.splitlines()
        if (words := line.split()) and words[0] in own
        for word in words[1:]
    ]
    return Resolver(name, bool(first and first[1] == "127.0.0.11"), tuple(known))


# --- host and none


def host_driver(lab: Lab) -> HostDriver:
    """Run a web server with `--network host`, ask it, and start a second one on the same port."""
    with lab.quiet(essential=["docker run -d --network host"]):
        first, port = _server_on_host(lab)
        try:
            second = lab.run_once(lab.image("payload"), _serve(port), network="host")
            answer = run_in_tools(
                lab,
                f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/",
                network="host",
                check=False,
            )
            own, here = _interfaces(lab, first)
            spaces = {one.pid: one.namespaces.get("net", 0) for one in lab.host.processes()}
            return HostDriver(
                spaces[lab.inspect(first)["State"]["Pid"]],
                spaces[lab.inspect(str(lab.host.helper))["State"]["Pid"]],
                own,
                here,
                "200" in answer,
                second.exit_code,
                str(second).strip(),
            )
        finally:
            lab.remove(first, force=True)


def _interfaces(lab: Lab, container: Container) -> tuple[int, int]:
    """How many the container sees, and the host: read until nobody made one or took one away meanwhile."""

    def names() -> list[str]:
        return sorted(one.name for one in lab.host.network().interfaces)

    before = names()
    for _ in range(ATTEMPTS):
        own = len(lab.host.network(container).interfaces)
        after = names()
        if after == before:
            break
        before = after
    return own, len(after)


def _serve(port: int) -> list[str]:
    return ["httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/www"]


def _server_on_host(lab: Lab) -> tuple[Container, int]:
    """A server in the host's namespace, on a port of 127.0.0.1 that nobody has."""
    for attempt in range(20):
        port = 20000 + (int(lab.session, 16) + 997 * attempt) % 10000
        container = lab.run(lab.image("payload"), _serve(port), network="host")
        try:
            lab.wait(container, limit_s=1)
        except TimedOut:  # it serves
            return container, port
        lab.remove(container, force=True)
    raise PortTaken(
        "twenty ports of the engine's host were taken",
        hint="see who has them: `ss -ltn` on the engine's host",
    )


def no_network(lab: Lab) -> NoNetwork:
    """Run a container with `--network none` and let it try to reach somebody."""
    with (
        lab.quiet(essential=["docker run -d --network none"]),
        lab.running(lab.image("payload"), network="none") as container,
    ):
        inside = lab.host.network(container)
        own = lab.exec(container, f"{PING} 127.0.0.1")
        other = lab.exec(container, f"{PING} {free_subnet(lab)[1]}")
    up = tuple(one.name for one in inside.interfaces if "UP" in one.flags)
    routes = len([one for one in inside.routes if one.family == "inet"])
    return NoNetwork(up, routes, own.exit_code == 0, str(other).strip().splitlines()[-1])


# --- macvlan and ipvlan


@contextmanager
def _on_parent(lab: Lab, driver: str) -> Iterator[tuple[Any, str, str]]:
    """A wire and a network of `driver` on its host end: (wire, network, how names of this try end)."""
    mark = lab.session[:4]
    far, name = f"neighbour-{mark}", f"{driver}-{mark}"
    with ExitStack() as stack:
        laid = veth_pair(lab, far)
        stack.callback(lab.remove, far, force=True)
        lab.create_network(
            name, driver=driver, subnet=laid.subnet, gateway=laid.host_address, options={"parent": laid.link}
        )
        stack.callback(lab.remove_network, name)
        yield laid, name, mark


def macvlan(lab: Lab) -> Macvlan:
    """Two containers on a macvlan network, whose parent is the host's end of a wire of the lab's own.

    The neighbour at the other end of the wire stands for a machine on the same Ethernet.

    Raises:
        LabError: the engine's kernel has no macvlan.
    """
    with ExitStack() as stack:
        stack.enter_context(lab.quiet(essential=["docker network create --driver macvlan"]))
        laid, network, mark = stack.enter_context(_on_parent(lab, "macvlan"))
        names = (f"one-{mark}", f"two-{mark}")
        for name in names:
            stack.enter_context(lab.running(lab.image("payload"), name=name, network=network))
        addresses = {name: _addresses(lab, name)[0] for name in names}
        between = lab.exec(names[0], f"{PING} {addresses[names[1]]}").exit_code == 0
        neighbour = [lab.exec(laid.far, f"{PING} {addresses[name]}").exit_code == 0 for name in names]
        saw = {one.address: one.mac for one in lab.host.neighbours(laid.far)}
        # out of the parent and nowhere else: without a route it would go to the world
        words = run_in_tools(
            lab,
            f"ping -c 1 -W 1 -I {laid.link} {addresses[names[0]]}",
            network="host",
            cap_add=["NET_RAW"],
            check=False,
        )
        met = {one.address: one.state for one in lab.host.neighbours() if one.interface == laid.link}
        seen = network_map(lab, [*names, laid.far])
        macs = {end.container: end.mac for end in seen.ends}
        parent = next(one for one in seen.host_interfaces if one.name == laid.link)
    return Macvlan(
        laid.link,
        parent.mac,
        tuple((name, macs[name]) for name in names),
        tuple((name, saw.get(addresses[name]) or "") for name in names),
        between,
        all(neighbour),
        " 0% packet loss" in words,
        met.get(addresses[names[0]], "NONE"),
        seen,
    )


def ipvlan(lab: Lab) -> Ipvlan:
    """Try an ipvlan network on a wire of the lab's own; what the engine says where its kernel has none."""
    with lab.quiet(essential=["docker network create --driver ipvlan"]):
        try:
            with (
                _on_parent(lab, "ipvlan") as (laid, network, mark),
                lab.running(lab.image("payload"), name=f"ip-{mark}", network=network) as container,
            ):
                seen = network_map(lab, [str(container.name)])
                parent = next(one for one in seen.host_interfaces if one.name == laid.link)
                return Ipvlan(True, seen.ends[0].mac == parent.mac, "")
        except EngineRefused as error:
            return Ipvlan(False, None, error.engine_message or error.message)
