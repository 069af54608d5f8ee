"""What containers and networks leave behind in the host's network configuration."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.errors import ContainerMissing, EngineRefused, TimedOut
from labhelpers.networks.maps import NetworkMap, network_map
from labhelpers.networks.rules import is_for_port, mentions
from labhelpers.results import Result, column, derived, record

if TYPE_CHECKING:
    from labhelpers.lab import Lab

SETTLE_S, PAUSE_S = 10.0, 0.5


@record
class HostNetworkSnapshot(Result):
    """The host's interfaces, bridges, network namespaces and firewall rules that no container or network uses.

    What running containers use is left out, because other containers start and stop while a notebook runs.
    """

    interfaces: frozenset[str] = column(
        "interfaces that are not the host end of a running container's interface", shown=False
    )
    bridges: frozenset[str] = column("bridges that belong to no network of the engine", shown=False)
    namespaces: frozenset[str] = column(
        "files that keep a network namespace without a container", shown=False
    )
    rules: frozenset[str] = column(
        "firewall rules without the address of a container, the bridge or the subnet of a network",
        shown=False,
    )

    @derived
    def interface_count(self) -> int:
        """Interfaces that are not the host end of a running container's interface."""
        return len(self.interfaces)

    @derived
    def bridge_count(self) -> int:
        """Bridges that belong to no network of the engine."""
        return len(self.bridges)

    @derived
    def namespace_count(self) -> int:
        """Network namespaces that a file keeps without a container."""
        return len(self.namespaces)

    @derived
    def rule_count(self) -> int:
        """Firewall rules that belong to no container and no network."""
        return len(self.rules)

    def staying(self, later: HostNetworkSnapshot, before: HostNetworkSnapshot) -> HostNetworkSnapshot:
        """What is in `later` and also in this snapshot or in `before`."""
        return HostNetworkSnapshot(
            later.interfaces & (self.interfaces | before.interfaces),
            later.bridges & (self.bridges | before.bridges),
            later.namespaces & (self.namespaces | before.namespaces),
            later.rules & (self.rules | before.rules),
        )

    def added_since(self, before: HostNetworkSnapshot) -> tuple[str, ...]:
        """What is in this snapshot and not in `before`."""
        kinds = ("interfaces", "bridges", "namespaces", "rules")
        return tuple(
            f"{kind}: {name}"
            for kind in kinds
            for name in sorted(getattr(self, kind) - getattr(before, kind))
        )


@experiment
def host_network_snapshot(lab: Lab, since: HostNetworkSnapshot | None = None) -> HostNetworkSnapshot:
    """Take a snapshot; with `since`, only of what stays.

    The kernel and the engine clean up shortly after a container ends, and other containers come and go, so the
    snapshot is repeated: what is missing from any of the snapshots was not left behind.
    """
    snapshot = _take(lab)
    if since is None:
        return snapshot

    def is_clean() -> bool:
        nonlocal snapshot
        snapshot = snapshot.staying(_take(lab), since)
        return not snapshot.added_since(since)

    with suppress(TimedOut):  # what stays is the result
        lab.wait_for("the clean-up after containers", is_clean, SETTLE_S, every_s=PAUSE_S)
    return snapshot


def _take(lab: Lab) -> HostNetworkSnapshot:
    current = network_map(lab)
    host_ends = {endpoint.host_interface for endpoint in current.endpoints}
    bridges = {bridge.name for bridge in current.bridges}
    of_networks = {bridge.name for bridge in current.bridges if bridge.network}
    return HostNetworkSnapshot(
        frozenset(
            interface.name
            for interface in current.host_interfaces
            if interface.name not in host_ends | bridges
        ),
        frozenset(bridges - of_networks),
        frozenset(_namespaces(lab)),
        frozenset(_rules(lab, current, of_networks)),
    )


def _namespaces(lab: Lab) -> list[str]:
    """Files that keep a network namespace (`nsfs` mounts) in the engine's directory, without a container.

    Another engine on the same host has its own directory. `/var/run` is a link to `/run`.
    """
    points = [mount.point for mount in lab.host.mounts() if mount.kind == "nsfs"]
    used = set()
    for row in lab.list_containers(stopped=True):
        try:
            settings = responses.nested_object(lab.inspect(row["Id"]), "NetworkSettings")
        except (ContainerMissing, EngineRefused):  # removed since it was listed
            continue
        used.add(str(settings.get("SandboxKey") or "").removeprefix("/var"))
    # the lab's helper container uses the host's network, so there is always at least one directory
    folders = {key.rpartition("/")[0] for key in used if key}
    used |= {f"{folder}/default" for folder in folders}
    paths = {point.removeprefix("/var"): point for point in points}
    return [point for path, point in paths.items() if path.rpartition("/")[0] in folders and path not in used]


def _rules(lab: Lab, current: NetworkMap, bridges: set[str]) -> list[str]:
    addresses = [
        address.partition("/")[0] for endpoint in current.endpoints for address in endpoint.addresses
    ]
    subnets = [subnet for network in current.networks for subnet in network.subnets]
    # a rule may contain only the published port: Docker 28 drops packets for 127.0.0.1 from other interfaces
    ports = {published.host_port for published in current.published}
    used = [*bridges, *addresses, *subnets]
    return [
        f"{rule.tool} {rule.table}/{rule.chain}: {rule.text}"
        for rule in lab.host.firewall().rules
        if not mentions(rule, used) and not any(is_for_port(rule, port) for port in ports)
    ]
