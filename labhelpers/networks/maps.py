"""The map: what is joined to what, as the kernel of the engine's host and the engine itself say it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from labhelpers.engine import host, responses
from labhelpers.errors import BadInput, ContainerMissing, EngineRefused, EngineUnreachable, LabError
from labhelpers.networks.rules import dnat_target, is_for_port
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

TRIES, STOPPING_TRIES, PAUSE_S = 4, 25, 0.2
MAX_PARALLEL = 8


@record
class NetworkEndpoint(Result):
    """One interface of a container, and where its other end is.

    Source: the kernel gives each end of a veth pair the index of the other one (IFLA_LINK; ip-link(8) writes
    `eth0@if42`). A macvlan gives the index of its parent.
    """

    container: str = column("the container's name")
    interface: str = column("its name inside: `eth0`")
    index: int = column("its number inside")
    kind: str = column("`veth`, `macvlan`, `ipvlan`, …; `loopback` is left out")
    mac: str = column("its hardware address")
    addresses: tuple[str, ...] = column("with prefix length, IPv4 first")
    mtu_bytes: int = column("the longest packet that it takes")
    network: str = column(
        "the engine's name of the network, or an empty string where the engine does not say"
    )
    host_index: int | None = column("the other end on the host; None where it is in another namespace")
    host_interface: str | None = column("the other end on the host; None where it is in another namespace")
    bridge: str | None = column("the bridge that the host end is a port of, or None")
    gateway: str | None = column(
        "the next hop of its default route, or None where the default route is elsewhere"
    )


@record
class MappedContainer(Result):
    """A container on the map."""

    name: str = column("the engine's")
    id: str = column("the engine's")
    mode: str = column("its network mode: `bridge`, `host`, `none`, `container:…`, or a network's name")
    namespace: int | None = column(
        "the id of its network namespace (the inode that `lsns` shows), None where the host hides it"
    )
    shares_host: bool = column("whether that is the host's own network namespace")


@record
class Network(Result):
    """A network of the engine."""

    name: str = column("the engine's")
    id: str = column("the engine's")
    driver: str = column("the engine's")
    subnets: tuple[str, ...] = column("with prefix length")
    gateway: str | None = column("the address that the engine gives out as the next hop, or None")
    interface: str | None = column(
        "its bridge on the host, or the parent of its macvlans; None where the host has none"
    )
    internal: bool = column("whether it has no way out")


@record
class Bridge(Result):
    """A bridge of the host."""

    name: str = column("of the interface: `docker0`, `br-…`")
    index: int = column("its number")
    addresses: tuple[str, ...] = column("the host's own on it, with prefix length")
    network: str = column(
        "the engine's network that it is for, or an empty string for somebody else's bridge"
    )
    ports: tuple[str, ...] = column("the interfaces that are its ports, sorted")


@record
class PublishedPort(Result):
    """A port of the host that leads to a container."""

    container: str = column("its name")
    host_address: str = column("where it is published; `0.0.0.0` and `::` mean every address of the host")
    host_port: int = column("where it is published; `0.0.0.0` and `::` mean every address of the host")
    port: str = column("the port inside, as `80/tcp`")
    rules: tuple[str, ...] = column(
        "the firewall's rules that send packets there, each as `tool table/chain: text`"
    )
    proxy: bool = column("whether a process of the engine (`docker-proxy`) listens on the port, too")


@record
class NetworkMap(Result):
    """Who is joined to whom on the engine's host, at one moment."""

    nodes: tuple[MappedContainer, ...] = column("the containers that ran, by name", shown=False)
    ends: tuple[NetworkEndpoint, ...] = column(
        "every interface of theirs but loopback, by container and index", shown=False
    )
    bridges: tuple[Bridge, ...] = column("those of the host, by index", shown=False)
    networks: tuple[Network, ...] = column("the engine's, by name", shown=False)
    published: tuple[PublishedPort, ...] = column("by container and port", shown=False)
    host_interfaces: tuple[host.Interface, ...] = column("every interface of the host, by index", shown=False)
    host_routes: tuple[host.Route, ...] = column("the host's main routing table", shown=False)
    cannot_show: tuple[str, ...] = column(
        "what the engine's host hides from the lab; empty where all is shown"
    )

    def frame(self) -> pd.DataFrame:
        """One row an interface of a container."""
        columns = ["container", "interface", "addresses", "mac", "host end", "bridge", "network"]
        rows = [
            (
                end.container,
                f"{end.interface} ({end.index})",
                ", ".join(end.addresses),
                end.mac,
                f"{end.host_interface} ({end.host_index})" if end.host_interface else "",
                end.bridge or "",
                end.network,
            )
            for end in self.ends
        ]
        return table(rows, columns)

    def __repr__(self) -> str:
        return (
            f"a map of {len(self.nodes)} containers, {len(self.ends)} interfaces of theirs, "
            f"{len(self.bridges)} bridges and {len(self.networks)} networks"
        )

    def ends_of(self, container: str) -> tuple[NetworkEndpoint, ...]:
        """The interfaces of one container."""
        return tuple(end for end in self.ends if end.container == container)

    def bridge(self, network: str) -> Bridge | None:
        """The bridge of one of the engine's networks."""
        return next((bridge for bridge in self.bridges if bridge.network == network), None)


def network_map(lab: Lab, containers: Sequence[str] | None = None) -> NetworkMap:
    """The map of every container that runs, or of those named.

    A container that ends while it is looked at is left out: the map shows what is there when the look is over.

    Args:
        containers: names; the bridges, networks and ports of the others are then left out, too.

    Raises:
        BadInput: one of the names belongs to no container.
        LabError: the engine does not let the lab see its host.
    """
    wanted = None if containers is None else set(containers)
    lab.host.kernel()  # starts the view: its helper is then known, and left out
    ids = _running(lab, wanted)
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        seen = {id: one for id, one in zip(ids, pool.map(lambda id: _seen(lab, id), ids), strict=True) if one}
    for attempt in range(TRIES):
        here = lab.host.network()
        # all of them against one look at the host
        joined = [(row, _ends(row, inside, here)) for row, inside in seen.values()]
        loose = [row["Id"] for row, ends in joined if _has_missing_peer(ends)]
        if not loose:
            break
        if attempt == TRIES - 1:
            # one that still runs is joined to another namespace (an overlay's, say); one that does not has ended
            ended = {id for id in loose if _seen(lab, id) is None}
            joined = [(row, ends) for row, ends in joined if row["Id"] not in ended]
            break
        # made, or ended, between the look at it and the look at the host: look at these again
        time.sleep(PAUSE_S)
        for id in loose:
            again = _seen(lab, id)
            if again is None:
                del seen[id]
            else:
                seen[id] = again
    processes = lab.host.processes()
    return _map(lab, joined, here, processes, wanted is not None)


def _map(
    lab: Lab,
    joined: Sequence[tuple[Mapping[str, Any], list[NetworkEndpoint]]],
    here: host.Network,
    processes: Sequence[host.Process],
    only_used: bool,
) -> NetworkMap:
    spaces = {one.pid: one.namespaces.get("net") for one in processes}
    helper = lab.host.helper
    here_pid = int(lab.inspect(helper)["State"]["Pid"]) if helper else 0
    nodes, ends = [], []
    for row, found in joined:
        mode = row["HostConfig"]["NetworkMode"]
        space = spaces.get(row["State"]["Pid"])
        shares = mode == "host" or (space is not None and space == spaces.get(here_pid))
        name = "bridge" if mode == "default" else mode
        nodes.append(MappedContainer(row["Name"].lstrip("/"), row["Id"], name, space, shares))
        ends += [] if shares else found
    networks = _networks(lab)
    bridges = _bridges(here, networks)
    if only_used:
        used = {end.bridge for end in ends}
        names = {end.network for end in ends}
        bridges = [bridge for bridge in bridges if bridge.name in used]
        networks = [network for network in networks if network.name in names]
    return NetworkMap(
        tuple(sorted(nodes, key=lambda node: node.name)),
        tuple(sorted(ends, key=lambda end: (end.container, end.index))),
        tuple(bridges),
        tuple(networks),
        tuple(_published(lab, [row for row, _ in joined], processes)),
        here.interfaces,
        here.routes,
        lab.host.unavailable,
    )


def _has_missing_peer(ends: Sequence[NetworkEndpoint]) -> bool:
    return any(end.kind == "veth" and end.host_interface is None for end in ends)


def _seen(lab: Lab, id: str) -> tuple[dict[str, Any], host.Network] | None:
    """A container and its network; None for one that has ended, or is being ended."""
    for attempt in range(STOPPING_TRIES):
        row = _inspected(lab, id)
        if row is None:
            return None
        try:
            return row, lab.host.network(row["State"]["Pid"])
        except EngineUnreachable:
            raise
        except LabError:
            # the kernel has ended it, and the engine has not heard of it yet; or it really cannot be seen
            if attempt == STOPPING_TRIES - 1:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("unreachable")


def _running(lab: Lab, wanted: set[str] | None) -> list[str]:
    """The ids of the containers that run, without the one that looks."""
    rows = lab.list_containers()
    names = {name.lstrip("/"): row["Id"] for row in rows for name in responses.nested_list(row, "Names")}
    if wanted is not None:
        if unknown := sorted(wanted - names.keys()):
            raise BadInput(
                f"no container called {unknown[0]!r} runs",
                hint="`docker ps` lists those that do; run the cell that makes it again",
            )
        return [names[name] for name in sorted(wanted)]
    return [row["Id"] for row in rows if row["Id"] != lab.host.helper]


def _inspected(lab: Lab, id: str) -> dict[str, Any] | None:
    try:
        row = lab.inspect(id)
    except (ContainerMissing, EngineRefused):
        return None
    state = responses.nested_object(row, "State")
    return row if state.get("Running") and state.get("Pid") else None


def _ends(row: Mapping[str, Any], inside: host.Network, here: host.Network) -> list[NetworkEndpoint]:
    on_host = {one.index: one for one in here.interfaces}
    ends = []
    for one in inside.interfaces:
        if one.kind == "loopback" or not one.mac:
            continue
        if one.kind in ("sit", "ip6tnl", "ipip", "gre", "gretap", "erspan", "ip_vti", "ip6_vti", "ip6gre"):
            continue  # the kernel's own fallback tunnels are in every namespace; nothing is joined to them
        stays = one.peer_namespace is None and one.peer_index in {other.index for other in inside.interfaces}
        other = None if one.peer_index is None or stays else on_host.get(one.peer_index)
        if one.kind == "veth" and other is not None and other.peer_index != one.index:
            other = None  # a number of another namespace that happens to be one of the host's, too
        addresses = tuple(
            f"{a.address}/{a.prefix_length}"
            for a in sorted(inside.addresses, key=lambda a: a.family)
            if a.interface == one.name and a.scope == "global"
        )
        gateway = next(
            (
                r.gateway
                for r in inside.routes
                if r.destination == "default" and r.interface == one.name and r.gateway
            ),
            None,
        )
        ends.append(
            NetworkEndpoint(
                container=row["Name"].lstrip("/"),
                interface=one.name,
                index=one.index,
                kind=one.kind,
                mac=one.mac,
                addresses=addresses,
                mtu_bytes=one.mtu_bytes,
                network=_network_of(row, addresses, one.mac),
                host_index=None if other is None else other.index,
                host_interface=None if other is None else other.name,
                bridge=None if other is None or one.kind != "veth" else other.master,
                gateway=gateway,
            )
        )
    return ends


def _network_of(row: Mapping[str, Any], addresses: Sequence[str], mac: str) -> str:
    own = {address.partition("/")[0] for address in addresses}
    for name, endpoint in responses.networks(row).items():
        given = {endpoint.get("IPAddress"), endpoint.get("GlobalIPv6Address")}
        if given & own or (endpoint.get("MacAddress") or "-") == mac:
            return str(name)
    return ""


def _networks(lab: Lab) -> list[Network]:
    found = []
    for row in lab.list_networks():
        pools = responses.nested_list(row, "IPAM", "Config")
        options = row.get("Options") or {}
        interface = None
        if row["Driver"] == "bridge":
            interface = bridge_interface(row)
        elif row["Driver"] in ("macvlan", "ipvlan"):
            interface = options.get("parent")
        found.append(
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
    return sorted(found, key=lambda one: one.name)


def bridge_interface(network: Mapping[str, Any]) -> str:
    """The name that a network of the driver `bridge` has on the host: its option's, or `br-` and the id's beginning."""
    name = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return str(name or f"br-{str(network['Id'])[:12]}")


def _bridges(here: host.Network, networks: Sequence[Network]) -> list[Bridge]:
    names = {network.interface: network.name for network in networks if network.driver == "bridge"}
    return [
        Bridge(
            one.name,
            one.index,
            tuple(
                f"{a.address}/{a.prefix_length}"
                for a in sorted(here.addresses, key=lambda a: a.family)
                if a.interface == one.name and a.scope == "global"
            ),
            names.get(one.name, ""),
            tuple(sorted(port.interface for port in here.bridge_ports if port.bridge == one.name)),
        )
        for one in here.interfaces
        if one.kind == "bridge"
    ]


# --- published ports


def _published(
    lab: Lab, rows: Sequence[Mapping[str, Any]], processes: Sequence[host.Process]
) -> list[PublishedPort]:
    wanted = [
        (row, inside, binding)
        for row in rows
        for inside, bindings in sorted(responses.nested_object(row, "NetworkSettings", "Ports").items())
        for binding in bindings or []
    ]
    if not wanted:
        return []
    rules = lab.host.firewall().rules
    proxies = [one.command for one in processes if "docker-proxy" in one.command]
    found = []
    for row, inside, binding in wanted:
        own = {
            endpoint[key]
            for endpoint in responses.networks(row).values()
            for key in ("IPAddress", "GlobalIPv6Address")
            if endpoint.get(key)
        }
        address, port = binding.get("HostIp") or "0.0.0.0", int(binding.get("HostPort") or 0)
        found.append(
            PublishedPort(
                row["Name"].lstrip("/"),
                address,
                port,
                inside,
                tuple(
                    f"{rule.tool} {rule.table}/{rule.chain}: {rule.text}"
                    for rule in rules
                    if _translates_to(rule, port, own, inside) and (":" in address) == (rule.family == "ip6")
                ),
                any(re.search(rf"-host-port {port}(?!\S)", command) for command in proxies),
            )
        )
    return sorted(found, key=lambda one: (one.container, one.port, one.host_address))


def _translates_to(rule: host.Rule, port: int, own: set[str], inside: str) -> bool:
    """Whether a rule translates packets for the host's `port` to the container."""
    target = dnat_target(rule)
    number = int(inside.partition("/")[0])
    return target is not None and target[0] in own and target[1] in (None, number) and is_for_port(rule, port)
