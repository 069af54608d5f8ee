"""The network map: how containers, bridges and the host are connected, from the kernel of the host and the engine."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine import host, responses
from labhelpers.errors import BadInput, ContainerMissing, EngineRefused, EngineUnreachable, LabError
from labhelpers.networks.rules import dnat_target, is_for_port
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

TRIES, STOPPING_TRIES, PAUSE_S = 4, 25, 0.2
MAX_PARALLEL = 8
# the kernel's fallback tunnels exist in every network namespace, and nothing is connected to them
FALLBACK_TUNNELS = ("sit", "ip6tnl", "ipip", "gre", "gretap", "erspan", "ip_vti", "ip6_vti", "ip6gre")


@record
class NetworkEndpoint(Result):
    """An interface of a container, and its other end on the host.

    Source: the kernel gives each end of a veth pair the index of the other end (IFLA_LINK; ip-link(8) writes
    `eth0@if42`), and a macvlan interface the index of its parent.
    """

    container: str = column("the container's name")
    interface: str = column("the interface in the container, such as `eth0`")
    index: int = column("index of the interface in the container")
    addresses: tuple[str, ...] = column("addresses with prefix length, IPv4 first")
    mac: str = column("MAC address")
    network: str = column("the engine's network, empty if the engine does not know the interface")
    host_interface: str | None = column("the other end of a veth pair, or the parent of a macvlan or ipvlan")
    host_index: int | None = column("index of the interface on the host")
    bridge: str | None = column("the bridge that the host interface is a port of")
    kind: str = column("`veth`, `macvlan`, `ipvlan`, …", shown=False)
    mtu_bytes: int = column("MTU of the interface", shown=False)
    gateway: str | None = column("next hop of the default route, if it uses this interface", shown=False)


@record
class MappedContainer(Result):
    """A container on the map."""

    name: str = column("the container's name")
    id: str = column("the container's ID")
    mode: str = column("network mode: `bridge`, `host`, `none`, `container:…`, or the name of a network")
    namespace: int | None = column("inode number of the network namespace, as in `lsns`; None if unreadable")
    shares_host: bool = column("whether it is the host's network namespace")


@record
class Network(Result):
    """A network of the engine."""

    name: str = column("the network's name")
    id: str = column("the network's ID")
    driver: str = column("the network driver")
    subnets: tuple[str, ...] = column("subnets with prefix length")
    gateway: str | None = column("the gateway that containers get, or None")
    interface: str | None = column("the bridge on the host, or the parent of macvlan and ipvlan interfaces")
    internal: bool = column("whether the network has no route out (`--internal`)")


@record
class Bridge(Result):
    """A bridge on the host."""

    name: str = column("the bridge's name: `docker0`, `br-…`")
    index: int = column("index of the interface")
    addresses: tuple[str, ...] = column("the host's addresses on the bridge, with prefix length")
    network: str = column("the engine's network, empty for a bridge that the engine did not create")
    ports: tuple[str, ...] = column("the interfaces that are ports of the bridge, sorted")


@record
class PublishedPort(Result):
    """A published port of a container."""

    container: str = column("the container's name")
    host_address: str = column("the host's address; `0.0.0.0` and `::` are all of its addresses")
    host_port: int = column("the port on the host")
    port: str = column("the port in the container, such as `80/tcp`")
    rules: tuple[str, ...] = column("the DNAT rules for the port, as `tool table/chain: text`")
    proxy: bool = column("whether a `docker-proxy` process listens on the port")


@record
class NetworkMap(Result):
    """The interfaces of the containers and their other ends on the engine's host."""

    containers: tuple[MappedContainer, ...] = column("the running containers, by name", shown=False)
    endpoints: tuple[NetworkEndpoint, ...] = rows(
        "their interfaces without loopback, by container and index", of=NetworkEndpoint
    )
    bridges: tuple[Bridge, ...] = column("the bridges on the host, by index", shown=False)
    networks: tuple[Network, ...] = column("the engine's networks, by name", shown=False)
    published: tuple[PublishedPort, ...] = column("published ports, by container and port", shown=False)
    host_interfaces: tuple[host.Interface, ...] = column("interfaces on the host, by index", shown=False)
    host_routes: tuple[host.Route, ...] = column("the host's main routing table", shown=False)
    unavailable: tuple[str, ...] = column("what the lab cannot read on the engine's host", shown=False)

    def __repr__(self) -> str:
        return (
            f"a map of {len(self.containers)} containers with {len(self.endpoints)} interfaces, "
            f"{len(self.bridges)} bridges and {len(self.networks)} networks"
        )

    def endpoints_of(self, container: str) -> tuple[NetworkEndpoint, ...]:
        """The interfaces of one container."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.container == container)

    def bridge(self, network: str) -> Bridge | None:
        """The bridge of a network, or None."""
        return next((bridge for bridge in self.bridges if bridge.network == network), None)


@experiment
def network_map(lab: Lab, containers: Sequence[str] | None = None) -> NetworkMap:
    """Map every running container, or `containers` only.

    A container that ends while it is inspected is left out: the map shows the state after the last reading.

    Args:
        containers: names; bridges, networks and ports that only other containers use are left out too.

    Raises:
        BadInput: a name does not belong to a running container.
        HostUnreadable: the engine does not give the lab access to its host.
    """
    wanted = None if containers is None else set(containers)
    lab.host.kernel()  # starts the lab's helper container, so that it is known and can be left out
    ids = _running(lab, wanted)
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        readings = dict(zip(ids, pool.map(lambda id: _read(lab, id), ids), strict=True))
    for attempt in range(TRIES):
        host_network = lab.host.network()
        # all containers are matched with the same reading of the host
        joined = {
            id: (reading[0], _endpoints(*reading, host_network))
            for id, reading in readings.items()
            if reading
        }
        unmatched = [id for id, (_, endpoints) in joined.items() if _has_missing_peer(endpoints)]
        if not unmatched:
            break
        if attempt == TRIES - 1:
            # a running container has its peer in another namespace, such as an overlay's; the others have ended
            for id in unmatched:
                if _read(lab, id) is None:
                    del joined[id]
            break
        # started or ended between the readings of the container and of the host
        time.sleep(PAUSE_S)
        readings.update({id: _read(lab, id) for id in unmatched})
    return _map(lab, list(joined.values()), host_network, lab.host.processes(), wanted is not None)


def _map(
    lab: Lab,
    joined: Sequence[tuple[Mapping[str, Any], list[NetworkEndpoint]]],
    host_network: host.Network,
    processes: Sequence[host.Process],
    only_used: bool,
) -> NetworkMap:
    namespaces = {process.pid: process.namespaces.get("net") for process in processes}
    helper = lab.host.helper
    host_namespace = namespaces.get(int(lab.inspect(helper)["State"]["Pid"]) if helper else 0)
    containers, endpoints = [], []
    for attrs, of_container in joined:
        mode = attrs["HostConfig"]["NetworkMode"]
        namespace = namespaces.get(attrs["State"]["Pid"])
        shares_host = mode == "host" or (namespace is not None and namespace == host_namespace)
        name = "bridge" if mode == "default" else mode
        containers.append(
            MappedContainer(attrs["Name"].lstrip("/"), attrs["Id"], name, namespace, shares_host)
        )
        endpoints += [] if shares_host else of_container
    networks = _networks(lab)
    bridges = _bridges(host_network, networks)
    if only_used:
        used_bridges = {endpoint.bridge for endpoint in endpoints}
        used_networks = {endpoint.network for endpoint in endpoints}
        bridges = [bridge for bridge in bridges if bridge.name in used_bridges]
        networks = [network for network in networks if network.name in used_networks]
    return NetworkMap(
        tuple(sorted(containers, key=lambda container: container.name)),
        tuple(sorted(endpoints, key=lambda endpoint: (endpoint.container, endpoint.index))),
        tuple(bridges),
        tuple(networks),
        tuple(_published(lab, [attrs for attrs, _ in joined], processes)),
        host_network.interfaces,
        host_network.routes,
        lab.host.unavailable,
    )


def _has_missing_peer(endpoints: Sequence[NetworkEndpoint]) -> bool:
    return any(endpoint.kind == "veth" and endpoint.host_interface is None for endpoint in endpoints)


def _read(lab: Lab, id: str) -> tuple[dict[str, Any], host.Network] | None:
    """The attributes of a container and its network namespace; None if it has ended or is ending."""
    for attempt in range(STOPPING_TRIES):
        attrs = _inspect_running(lab, id)
        if attrs is None:
            return None
        try:
            return attrs, lab.host.network(attrs["State"]["Pid"])
        except EngineUnreachable:
            raise
        except LabError:
            # the process has ended and the engine does not know it yet, or it cannot be read at all
            if attempt == STOPPING_TRIES - 1:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("unreachable")


def _running(lab: Lab, wanted: set[str] | None) -> list[str]:
    """The IDs of the running containers, without the lab's helper container."""
    containers = lab.list_containers()
    ids = {name.lstrip("/"): row["Id"] for row in containers for name in responses.nested_list(row, "Names")}
    if wanted is not None:
        if unknown := sorted(wanted - ids.keys()):
            raise BadInput(
                f"no container called {unknown[0]!r} is running",
                hint="`docker ps` lists the running containers; run the cell that creates it again",
            )
        return [ids[name] for name in sorted(wanted)]
    return [row["Id"] for row in containers if row["Id"] != lab.host.helper]


def _inspect_running(lab: Lab, id: str) -> dict[str, Any] | None:
    try:
        attrs = lab.inspect(id)
    except (ContainerMissing, EngineRefused):
        return None
    state = responses.nested_object(attrs, "State")
    return attrs if state.get("Running") and state.get("Pid") else None


def _endpoints(
    attrs: Mapping[str, Any], network: host.Network, host_network: host.Network
) -> list[NetworkEndpoint]:
    endpoints = []
    for interface in network.interfaces:
        if interface.kind in ("loopback", *FALLBACK_TUNNELS) or not interface.mac:
            continue
        peer = _peer(interface, network, host_network)
        addresses = _global_addresses(network, interface.name)
        endpoints.append(
            NetworkEndpoint(
                container=attrs["Name"].lstrip("/"),
                interface=interface.name,
                index=interface.index,
                addresses=addresses,
                mac=interface.mac,
                network=_network_of(attrs, addresses, interface.mac),
                host_interface=None if peer is None else peer.name,
                host_index=None if peer is None else peer.index,
                bridge=None if peer is None or interface.kind != "veth" else peer.master,
                kind=interface.kind,
                mtu_bytes=interface.mtu_bytes,
                gateway=next(
                    (
                        route.gateway
                        for route in network.routes
                        if route.destination == "default"
                        and route.interface == interface.name
                        and route.gateway
                    ),
                    None,
                ),
            )
        )
    return endpoints


def _peer(
    interface: host.Interface, network: host.Network, host_network: host.Network
) -> host.Interface | None:
    """The other end of a container's interface, if it is on the host."""
    in_container = interface.peer_namespace is None and any(
        other.index == interface.peer_index for other in network.interfaces
    )
    if interface.peer_index is None or in_container:
        return None
    peer = next((other for other in host_network.interfaces if other.index == interface.peer_index), None)
    if interface.kind == "veth" and peer is not None and peer.peer_index != interface.index:
        return None  # an index of another namespace that is by chance also one of the host's
    return peer


def _global_addresses(network: host.Network, interface: str) -> tuple[str, ...]:
    """The addresses of an interface with prefix length, IPv4 first."""
    return tuple(
        f"{address.address}/{address.prefix_length}"
        for address in sorted(network.addresses, key=lambda address: address.family)
        if address.interface == interface and address.scope == "global"
    )


def _network_of(attrs: Mapping[str, Any], addresses: Sequence[str], mac: str) -> str:
    own = {address.partition("/")[0] for address in addresses}
    for name, endpoint in responses.networks(attrs).items():
        allocated = {endpoint.get("IPAddress"), endpoint.get("GlobalIPv6Address")}
        if allocated & own or (endpoint.get("MacAddress") or "-") == mac:
            return str(name)
    return ""


def _networks(lab: Lab) -> list[Network]:
    networks = []
    for row in lab.list_networks():
        pools = responses.nested_list(row, "IPAM", "Config")
        interface = None
        if row["Driver"] == "bridge":
            interface = bridge_interface(row)
        elif row["Driver"] in ("macvlan", "ipvlan"):
            interface = (row.get("Options") or {}).get("parent")
        networks.append(
            Network(
                row["Name"],
                row["Id"],
                row["Driver"],
                tuple(responses.subnets(row)),
                next((str(pool["Gateway"]) for pool in pools if pool and pool.get("Gateway")), None),
                interface,
                bool(row.get("Internal")),
            )
        )
    return sorted(networks, key=lambda network: network.name)


def bridge_interface(network: Mapping[str, Any]) -> str:
    """The name of a bridge network's interface on the host: its option, or `br-` and the start of its ID."""
    name = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return str(name or f"br-{str(network['Id'])[:12]}")


def _bridges(host_network: host.Network, networks: Sequence[Network]) -> list[Bridge]:
    names = {network.interface: network.name for network in networks if network.driver == "bridge"}
    return [
        Bridge(
            interface.name,
            interface.index,
            _global_addresses(host_network, interface.name),
            names.get(interface.name, ""),
            tuple(
                sorted(port.interface for port in host_network.bridge_ports if port.bridge == interface.name)
            ),
        )
        for interface in host_network.interfaces
        if interface.kind == "bridge"
    ]


# --- published ports


def _published(
    lab: Lab, containers: Sequence[Mapping[str, Any]], processes: Sequence[host.Process]
) -> list[PublishedPort]:
    wanted = [
        (attrs, port, binding)
        for attrs in containers
        for port, bindings in sorted(responses.nested_object(attrs, "NetworkSettings", "Ports").items())
        for binding in bindings or []
    ]
    if not wanted:
        return []
    rules = lab.host.firewall().rules
    proxies = [process.command for process in processes if "docker-proxy" in process.command]
    published = []
    for attrs, port, binding in wanted:
        own = {
            endpoint[key]
            for endpoint in responses.networks(attrs).values()
            for key in ("IPAddress", "GlobalIPv6Address")
            if endpoint.get(key)
        }
        address, host_port = binding.get("HostIp") or "0.0.0.0", int(binding.get("HostPort") or 0)
        published.append(
            PublishedPort(
                attrs["Name"].lstrip("/"),
                address,
                host_port,
                port,
                tuple(
                    f"{rule.tool} {rule.table}/{rule.chain}: {rule.text}"
                    for rule in rules
                    if _translates_to(rule, host_port, own, port)
                    and (":" in address) == (rule.family == "ip6")
                ),
                any(re.search(rf"-host-port {host_port}(?!\S)", command) for command in proxies),
            )
        )
    return sorted(published, key=lambda each: (each.container, each.port, each.host_address))


def _translates_to(rule: host.Rule, host_port: int, addresses: set[str], port: str) -> bool:
    """Whether a DNAT rule for the host's port leads to `port` at one of a container's addresses."""
    target = dnat_target(rule)
    number = int(port.partition("/")[0])
    return (
        target is not None
        and target[0] in addresses
        and target[1] in (None, number)
        and is_for_port(rule, host_port)
    )
