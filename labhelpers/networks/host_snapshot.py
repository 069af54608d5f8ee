"""What a chapter on networks could leave on a host: counted before and after."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from labhelpers.engine import responses
from labhelpers.errors import ContainerMissing, EngineRefused, TimedOut
from labhelpers.networks.maps import NetworkMap, network_map
from labhelpers.networks.rules import is_for_port, mentions
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

SETTLE_S, PAUSE_S = 10.0, 0.5


@record
class HostNetworkSnapshot(Result):
    """What is on the host's side of networks and belongs to no container that runs and no network that is there.

    Other people's containers come and go while a notebook runs: what belongs to them is left out.
    """

    interfaces: frozenset[str] = column("names of interfaces that are no other end of a running container's")
    bridges: frozenset[str] = column("names of bridges that no network of the engine is for")
    namespaces: frozenset[str] = column(
        "files that hold a network namespace without a container of the engine"
    )
    rules: frozenset[str] = column(
        "the firewall's rules, without those that name a container or a network's bridge that is there"
    )

    def frame(self) -> pd.DataFrame:
        """One row: how many of each."""
        row = [len(part) for part in (self.interfaces, self.bridges, self.namespaces, self.rules)]
        return table([row], ["interfaces", "bridges", "namespaces", "firewall rules"])

    def staying(self, later: HostNetworkSnapshot, before: HostNetworkSnapshot) -> HostNetworkSnapshot:
        """What `later` has and was here already, now or at `before`."""
        return HostNetworkSnapshot(
            later.interfaces & (self.interfaces | before.interfaces),
            later.bridges & (self.bridges | before.bridges),
            later.namespaces & (self.namespaces | before.namespaces),
            later.rules & (self.rules | before.rules),
        )

    def since(self, before: HostNetworkSnapshot) -> tuple[str, ...]:
        """What is here and was not at `before`."""
        kinds = ("interfaces", "bridges", "namespaces", "rules")
        return tuple(
            f"{kind}: {one}" for kind in kinds for one in sorted(getattr(self, kind) - getattr(before, kind))
        )


def host_network_snapshot(lab: Lab, since: HostNetworkSnapshot | None = None) -> HostNetworkSnapshot:
    """Count now; with `since`, only what stays.

    What a container leaves goes a moment after it, so the count is repeated. On an engine where other people's
    containers come and go, each count sees something in passing: what is not in every count was not left behind.
    """
    found = _count(lab)
    if since is None:
        return found

    def is_gone() -> bool:
        nonlocal found
        found = found.staying(_count(lab), since)
        return not found.since(since)

    with suppress(TimedOut):  # what stays is the result
        lab.wait_for("what containers leave to go", is_gone, SETTLE_S, every_s=PAUSE_S)
    return found


def _count(lab: Lab) -> HostNetworkSnapshot:
    seen = network_map(lab)
    joined = {end.host_interface for end in seen.ends}
    bridges = {bridge.name for bridge in seen.bridges}
    known = {bridge.name for bridge in seen.bridges if bridge.network}
    return HostNetworkSnapshot(
        frozenset(one.name for one in seen.host_interfaces if one.name not in joined | bridges),
        frozenset(bridges - known),
        frozenset(_namespaces(lab)),
        frozenset(_rules(lab, seen, known)),
    )


def _namespaces(lab: Lab) -> list[str]:
    """The engine keeps each sandbox's namespace by mounting it on a file (`nsfs`), all in one directory.

    Another engine of the machine has a directory of its own. `/var/run` leads to `/run`.
    """
    kept = [mount.point for mount in lab.host.mounts() if mount.kind == "nsfs"]
    own = set()
    for row in lab.list_containers(stopped=True):
        try:
            settings = responses.nested_object(lab.inspect(row["Id"]), "NetworkSettings")
        except (ContainerMissing, EngineRefused):  # it went between the list and the look
            continue
        own.add(str(settings.get("SandboxKey") or "").removeprefix("/var"))
    # the helper that looks shares the host's network, so the directory is known
    folders = {key.rpartition("/")[0] for key in own if key}
    own |= {f"{folder}/default" for folder in folders}
    paths = {point.removeprefix("/var"): point for point in kept}
    return [point for path, point in paths.items() if path.rpartition("/")[0] in folders and path not in own]


def _rules(lab: Lab, seen: NetworkMap, bridges: set[str]) -> list[str]:
    addresses = [address.partition("/")[0] for end in seen.ends for address in end.addresses]
    subnets = [subnet for network in seen.networks for subnet in network.subnets]
    # a rule may name a published port alone: Docker 28 drops what comes for 127.0.0.1 from elsewhere
    ports = {one.host_port for one in seen.published}
    theirs = [*bridges, *addresses, *subnets]
    return [
        f"{rule.tool} {rule.table}/{rule.chain}: {rule.text}"
        for rule in lab.host.firewall().rules
        if not mentions(rule, theirs) and not any(is_for_port(rule, port) for port in ports)
    ]
