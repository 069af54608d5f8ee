"""Network drivers: what each gives a container, and which containers, hosts and neighbours it can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.engine.arguments import name_of
from labhelpers.errors import BadInput, ContainerMissing, EngineRefused, PortTaken, TimedOut
from labhelpers.networks.maps import NetworkMap, network_map
from labhelpers.networks.veth import VethPair, free_subnet, run_in_tools, veth_pair
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

PING = "ping -c 1 -W 2"
RESOLVE_TIMEOUT_S = 3
"""For one ping by name: the resolver retries an unknown name for longer, and resolves a known one in milliseconds."""
ATTEMPTS = 10


@record
class Reachability(Result):
    """Whether one container reaches another."""

    source: str = column("the container that pings")
    target: str = column("the container that is pinged")
    by_address: bool = column("whether one of the target's addresses answered a ping")
    by_name: bool = column("whether the target's name resolved and answered a ping")


@record
class ReachabilityMatrix(Result):
    """Which container reaches which, by address and by name."""

    names: tuple[str, ...] = column("the containers, in the order of the call")
    pairs: tuple[Reachability, ...] = rows("every ordered pair of containers", of=Reachability)

    def of(self, source: str, target: str) -> Reachability:
        """Whether `source` reaches `target`."""
        return next(pair for pair in self.pairs if (pair.source, pair.target) == (source, target))


@record
class Resolver(Result):
    """How a container resolves names."""

    container: str = column("the container's name")
    uses_docker_dns: bool = column(
        "whether the first name server in /etc/resolv.conf is 127.0.0.11, Docker's embedded DNS server"
    )
    hosts_names: tuple[str, ...] = column("names that /etc/hosts gives to the container's own addresses")


@record
class HostDriver(Result):
    """A container with `--network host`."""

    namespace: int = column("inode number of the container's network namespace")
    host_namespace: int = column("inode number of the host's network namespace")
    interfaces: int = column("number of interfaces in the container")
    host_interfaces: int = column("number of interfaces on the host")
    answered: bool = column(
        "whether its web server answered on the host's 127.0.0.1 without a published port"
    )
    second_status: int = column("exit status of a second server on the same port")
    second_error: str = column("error message of the second server")

    @property
    def same_namespace(self) -> bool:
        """Whether the container is in the host's network namespace."""
        return self.namespace == self.host_namespace


@record
class NoNetwork(Result):
    """A container with `--network none`."""

    interfaces: tuple[str, ...] = column("the container's interfaces that are up")
    routes: int = column("number of IPv4 routes in the container")
    loopback_answers: bool = column("whether a ping to 127.0.0.1 is answered")
    error: str = column("error message of a ping to any other address")


@record
class Macvlan(Result):
    """Two containers on a macvlan network, a neighbour on the parent's link, and the host."""

    parent: str = column("the host's interface that is the parent of the macvlan interfaces")
    parent_mac: str = column("MAC address of the parent")
    macs: tuple[tuple[str, str], ...] = column("(container, its MAC address)", shown=False)
    macs_seen_by_neighbour: tuple[tuple[str, str], ...] = column(
        "(container, its MAC address in the neighbour's ARP table)", shown=False
    )
    containers_reach_each_other: bool = column("whether the containers ping each other")
    reachable_from_neighbour: bool = column("whether the neighbour pings both containers")
    reachable_from_host: bool = column("whether the host pings a container through the parent")
    host_arp_state: str = column(
        "the container's state in the host's ARP table: `INCOMPLETE` or `FAILED` without an answer"
    )
    map: NetworkMap = column("the map of the two containers and the neighbour", shown=False)


@record
class Ipvlan(Result):
    """A container on an ipvlan network, if the kernel supports ipvlan."""

    supported: bool = column("whether the engine created the network")
    same_mac: bool | None = column("whether the container has the MAC address of the parent")
    error: str = column("the engine's error message, empty if ipvlan is supported")


# --- reaching


@experiment
def reachability(lab: Lab, containers: Sequence[Container | str]) -> ReachabilityMatrix:
    """Ping every container from every other container, by address and by name.

    The containers need `ping` and `sh`; `labhelpers/payload` has both.

    Raises:
        BadInput: a container does not exist.
        ContainerError: a container is not running.
    """
    names = [name_of(container) for container in containers]
    addresses = {name: _addresses(lab, name) for name in names}
    first = f"docker exec {names[0]}" if names else "docker exec"
    with lab.quiet(essential=[first]), ThreadPoolExecutor(len(names) or 1) as pool:
        answers = pool.map(lambda source: _answers(lab, source, addresses), names)
        answered = dict(zip(names, answers, strict=True))
    pairs = [
        Reachability(
            source,
            target,
            any((target, address) in answered[source] for address in addresses[target]),
            (target, target) in answered[source],
        )
        for source in names
        for target in names
        if target != source
    ]
    return ReachabilityMatrix(tuple(names), tuple(pairs))


def _answers(lab: Lab, source: str, addresses: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    """What answers a ping from `source`: (container, its address or name)."""
    pings = [(name, to) for name, own in addresses.items() if name != source for to in (*own, name)]
    script = "\n".join(
        f"(timeout {RESOLVE_TIMEOUT_S} {PING} {to} >/dev/null 2>&1 && echo {number}) &"
        for number, (_, to) in enumerate(pings)
    )
    output = lab.exec(source, ["sh", "-c", f"{script}\nwait"]).stdout
    return {pings[int(number)] for number in output.split()}


def _addresses(lab: Lab, name: str) -> list[str]:
    try:
        return responses.addresses(lab.inspect(name))
    except ContainerMissing:
        raise BadInput(
            f"there is no container {name!r}",
            hint="`docker ps -a` lists the containers; run the cell that creates it again",
        ) from None


@experiment
def resolver(lab: Lab, container: Container | str) -> Resolver:
    """Read a container's /etc/resolv.conf and /etc/hosts."""
    name = name_of(container)
    with lab.quiet(essential=["docker exec"]):
        output = lab.exec(name, ["sh", "-c", "cat /etc/resolv.conf; echo ---; cat /etc/hosts"]).stdout
    resolv_conf, _, hosts = output.partition("---")
    server = re.search(r"^nameserver\s+(\S+)", resolv_conf, re.M)
    own = set(_addresses(lab, name))
    entries = [line.split() for line in hosts.splitlines() if line.strip()]
    names = tuple(name for address, *names in entries if address in own for name in names)
    return Resolver(name, bool(server and server[1] == "127.0.0.11"), names)


# --- host and none


@experiment
def host_driver(lab: Lab) -> HostDriver:
    """Run a web server with `--network host`, send it a request, and start a second server on the same port."""
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
            interfaces, host_interfaces = _interfaces(lab, first)
            namespaces = {process.pid: process.namespaces.get("net", 0) for process in lab.host.processes()}
            return HostDriver(
                namespaces[lab.inspect(first)["State"]["Pid"]],
                namespaces[lab.inspect(str(lab.host.helper))["State"]["Pid"]],
                interfaces,
                host_interfaces,
                "200" in answer,
                second.exit_code,
                str(second).strip(),
            )
        finally:
            lab.remove(first, force=True)


def _interfaces(lab: Lab, container: Container) -> tuple[int, int]:
    """How many interfaces the container and the host have; read again if an interface comes or goes meanwhile."""

    def names() -> list[str]:
        return sorted(interface.name for interface in lab.host.network().interfaces)

    before = names()
    for _ in range(ATTEMPTS):
        count = len(lab.host.network(container).interfaces)
        after = names()
        if after == before:
            break
        before = after
    return count, len(after)


def _serve(port: int) -> list[str]:
    return ["httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/www"]


def _server_on_host(lab: Lab) -> tuple[Container, int]:
    """A server in the host's network namespace, on a free port of 127.0.0.1."""
    for attempt in range(20):
        port = 20000 + (int(lab.session, 16) + 997 * attempt) % 10000
        container = lab.run(lab.image("payload"), _serve(port), network="host")
        try:
            lab.wait(container, limit_s=1)
        except TimedOut:  # still running: the port was free
            return container, port
        lab.remove(container, force=True)
    raise PortTaken(
        "all 20 ports that were tried on the engine's host are in use",
        hint="`ss -ltnp` on the engine's host lists the ports and their processes",
    )


@experiment
def no_network(lab: Lab) -> NoNetwork:
    """Run a container with `--network none`, and ping its loopback address and another address from it."""
    with (
        lab.quiet(essential=["docker run -d --network none"]),
        lab.running(lab.image("payload"), network="none") as container,
    ):
        network = lab.host.network(container)
        loopback = lab.exec(container, f"{PING} 127.0.0.1")
        other = lab.exec(container, f"{PING} {free_subnet(lab)[1]}")
    up = tuple(interface.name for interface in network.interfaces if "UP" in interface.flags)
    routes = sum(route.family == "inet" for route in network.routes)
    return NoNetwork(up, routes, loopback.exit_code == 0, str(other).strip().splitlines()[-1])


# --- macvlan and ipvlan


@contextmanager
def _on_parent(lab: Lab, driver: str) -> Iterator[tuple[VethPair, str, str]]:
    """A veth pair and a network of `driver` on its host end: (pair, network, suffix of the names)."""
    suffix = lab.session[:4]
    neighbour, name = f"neighbour-{suffix}", f"{driver}-{suffix}"
    with ExitStack() as stack:
        pair = veth_pair(lab, neighbour)
        stack.callback(lab.remove, neighbour, force=True)
        lab.create_network(
            name,
            driver=driver,
            subnet=pair.subnet,
            gateway=pair.host_address,
            options={"parent": pair.host_interface},
        )
        stack.callback(lab.remove_network, name)
        yield pair, name, suffix


@experiment
def macvlan(lab: Lab) -> Macvlan:
    """Run two containers on a macvlan network whose parent is the host end of a veth pair.

    The container at the other end of the pair plays a machine on the same Ethernet segment.

    Raises:
        EngineRefused: the kernel does not support macvlan.
    """
    with ExitStack() as stack:
        stack.enter_context(lab.quiet(essential=["docker network create --driver macvlan"]))
        pair, network, suffix = stack.enter_context(_on_parent(lab, "macvlan"))
        names = (f"one-{suffix}", f"two-{suffix}")
        for name in names:
            stack.enter_context(lab.running(lab.image("payload"), name=name, network=network))
        addresses = {name: _addresses(lab, name)[0] for name in names}
        each_other = lab.exec(names[0], f"{PING} {addresses[names[1]]}").exit_code == 0
        neighbour = [
            lab.exec(pair.peer_container, f"{PING} {addresses[name]}").exit_code == 0 for name in names
        ]
        neighbour_arp = {entry.address: entry.mac for entry in lab.host.neighbours(pair.peer_container)}
        # bound to the parent: without a route, the packet would leave by the default route
        output = run_in_tools(
            lab,
            f"ping -c 1 -W 1 -I {pair.host_interface} {addresses[names[0]]}",
            network="host",
            cap_add=["NET_RAW"],
            check=False,
        )
        host_arp = {
            entry.address: entry.state
            for entry in lab.host.neighbours()
            if entry.interface == pair.host_interface
        }
        joined = network_map(lab, [*names, pair.peer_container])
        macs = {endpoint.container: endpoint.mac for endpoint in joined.endpoints}
    return Macvlan(
        pair.host_interface,
        _mac_of(joined, pair.host_interface),
        tuple((name, macs[name]) for name in names),
        tuple((name, neighbour_arp.get(addresses[name]) or "") for name in names),
        each_other,
        all(neighbour),
        " 0% packet loss" in output,
        host_arp.get(addresses[names[0]], "NONE"),
        joined,
    )


@experiment
def ipvlan(lab: Lab) -> Ipvlan:
    """Create an ipvlan network on the host end of a veth pair, and keep the engine's message if that fails."""
    with lab.quiet(essential=["docker network create --driver ipvlan"]):
        try:
            with (
                _on_parent(lab, "ipvlan") as (pair, network, suffix),
                lab.running(lab.image("payload"), name=f"ip-{suffix}", network=network) as container,
            ):
                joined = network_map(lab, [str(container.name)])
                same = joined.endpoints[0].mac == _mac_of(joined, pair.host_interface)
                return Ipvlan(True, same, "")
        except EngineRefused as error:
            return Ipvlan(False, None, error.engine_message or error.message)


def _mac_of(joined: NetworkMap, host_interface: str) -> str:
    return next(interface.mac for interface in joined.host_interfaces if interface.name == host_interface)
