"""Interfaces, addresses, routes, neighbours, bridge ports and firewall rules of a network namespace."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from labhelpers.results import Result, table

if TYPE_CHECKING:
    import pandas as pd

LINKS = ["ip", "-j", "-d", "-s", "link", "show"]
ADDRESSES = ["ip", "-j", "address", "show"]
ROUTES = [["ip", "-j", f"-{version}", "route", "show", "table", "main"] for version in (4, 6)]
NEIGHBOURS = ["ip", "-j", "neighbour", "show"]
PORTS = ["bridge", "-j", "-d", "link", "show"]
SAVES = {
    (f"iptables-{backend}", family): [f"{family}tables-{backend}-save", "-c"]
    for backend in ("nft", "legacy")
    for family in ("ip", "ip6")
}
NFT = ["nft", "-j", "list", "ruleset"]


@dataclass(frozen=True, slots=True)
class Interface(Result):
    """A network interface (ip-link(8)).

    Attributes:
        index: its number in its namespace.
        name: `eth0`, `docker0`, …
        kind: `veth`, `bridge`, `vxlan`, …; "loopback", or "physical" for one that no driver of links made.
        mac: its hardware address, "" if it has none.
        mtu_bytes: the longest packet that it takes.
        state: `UP`, `DOWN`, `UNKNOWN` (loopback).
        flags: as `ip` names them.
        master: the bridge or bond that it is a port of, or None.
        peer_index: of the other end of a veth pair (or the parent of a macvlan), or None.
        peer_namespace: the number by which this namespace knows the other end's one; None if it is the same one.
        received_bytes, sent_bytes, received_packets, sent_packets, received_dropped, sent_dropped: since it was made.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu_bytes: int
    state: str
    flags: tuple[str, ...]
    master: str | None
    peer_index: int | None
    peer_namespace: int | None
    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    received_dropped: int
    sent_dropped: int


@dataclass(frozen=True, slots=True)
class Address(Result):
    """An address of an interface (ip-address(8)).

    Attributes:
        interface: its name.
        family: `inet` or `inet6`.
        address: without the prefix length.
        prefix_length: in bits.
        scope: `global`, `link` or `host`.
    """

    interface: str
    family: str
    address: str
    prefix_length: int
    scope: str


@dataclass(frozen=True, slots=True)
class Route(Result):
    """A route of the main table (ip-route(8)).

    Attributes:
        family: `inet` or `inet6`.
        destination: `default`, or a network with its prefix length.
        gateway: the next hop, or None where the destination is on the link.
        interface: where packets leave; "" for a route that goes nowhere (`unreachable`, …).
        source: the address that packets get as their source, or None.
        metric: the lower wins.
    """

    family: str
    destination: str
    gateway: str | None
    interface: str
    source: str | None
    metric: int


@dataclass(frozen=True, slots=True)
class Neighbour(Result):
    """A neighbour: who has which hardware address on a link (ip-neighbour(8)).

    Attributes:
        address: its network address.
        interface: where it is.
        mac: its hardware address, or None where nobody answered.
        state: `REACHABLE`, `STALE`, `FAILED`, …
    """

    address: str
    interface: str
    mac: str | None
    state: str


@dataclass(frozen=True, slots=True)
class BridgePort(Result):
    """An interface that is a port of a bridge (bridge(8)).

    Attributes:
        interface: its name.
        bridge: the bridge's name.
        state: `forwarding`, `disabled`, `blocking`, …
    """

    interface: str
    bridge: str
    state: str


@dataclass(frozen=True, slots=True)
class Chain(Result):
    """A chain of the firewall.

    Attributes:
        tool: what it was written with: `iptables-nft`, `iptables-legacy` or `nft`.
        family: `ip`, `ip6`, `inet`, `bridge`, …
        table, name: where it is.
        policy: `ACCEPT` or `DROP` at the end of a base chain; None for a chain that others jump to.
    """

    tool: str
    family: str
    table: str
    name: str
    policy: str | None


@dataclass(frozen=True, slots=True)
class Rule(Result):
    """A rule of the firewall.

    Attributes:
        tool, family, table, chain: where it is, as in `Chain`.
        text: for iptables what one types after `-A CHAIN`; for nft the rule's expressions as JSON
            (libnftables-json(5)).
        target: what happens to a packet that it matches: `ACCEPT`, `DROP`, `MASQUERADE`, a chain, …; None for
            a rule that only counts.
        packets, bytes: matched so far; None where the rule does not count.
    """

    tool: str
    family: str
    table: str
    chain: str
    text: str
    target: str | None
    packets: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Firewall(Result):
    """Every chain and rule of a network namespace, of iptables and of nftables, in order.

    Attributes:
        chains, rules: as above.
    """

    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]

    def of(self, table: str, chain: str) -> tuple[Rule, ...]:
        """The rules of one chain: `firewall.of("nat", "DOCKER")`."""
        return tuple(rule for rule in self.rules if (rule.table, rule.chain) == (table, chain))

    def frame(self) -> pd.DataFrame:
        """One row a rule."""
        return table([astuple(rule) for rule in self.rules], Rule.__slots__)


@dataclass(frozen=True, slots=True)
class Network(Result):
    """A network namespace, all of it read in one go.

    Attributes:
        interfaces, addresses, routes, neighbours, bridge_ports: as above.
    """

    interfaces: tuple[Interface, ...]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]
    bridge_ports: tuple[BridgePort, ...]

    def frame(self) -> pd.DataFrame:
        """One row an interface."""
        return table([astuple(one) for one in self.interfaces], Interface.__slots__)


def interfaces(text: str) -> list[Interface]:
    """From `ip -j -d -s link`."""
    return [_interface(row) for row in _rows(text)]


def _interface(row: dict[str, Any]) -> Interface:
    loopback = "LOOPBACK" in row["flags"]
    received, sent = (row.get("stats64", {}).get(way, {}) for way in ("rx", "tx"))
    return Interface(
        index=row["ifindex"],
        name=row["ifname"],
        kind=row.get("linkinfo", {}).get("info_kind") or ("loopback" if loopback else "physical"),
        mac="" if loopback else row.get("address", ""),
        mtu_bytes=row["mtu"],
        state=row["operstate"],
        flags=tuple(row["flags"]),
        master=row.get("master"),
        peer_index=row.get("link_index"),
        peer_namespace=row.get("link_netnsid"),
        received_bytes=received.get("bytes", 0),
        sent_bytes=sent.get("bytes", 0),
        received_packets=received.get("packets", 0),
        sent_packets=sent.get("packets", 0),
        received_dropped=received.get("dropped", 0),
        sent_dropped=sent.get("dropped", 0),
    )


def addresses(text: str) -> list[Address]:
    """From `ip -j address`."""
    return [
        Address(row["ifname"], one["family"], one["local"], one["prefixlen"], one["scope"])
        for row in _rows(text)
        for one in row["addr_info"]
        if "local" in one
    ]


def routes(text: str, family: str) -> list[Route]:
    """From `ip -j route`."""
    return [
        Route(
            family,
            row["dst"],
            row.get("gateway"),
            row.get("dev", ""),
            row.get("prefsrc"),
            row.get("metric", 0),
        )
        for row in _rows(text)
    ]


def neighbours(text: str) -> list[Neighbour]:
    """From `ip -j neighbour`."""
    return [
        Neighbour(row["dst"], row["dev"], row.get("lladdr"), " ".join(row.get("state", ["NONE"])))
        for row in _rows(text)
    ]


def bridge_ports(text: str) -> list[BridgePort]:
    """From `bridge -j link`."""
    return [BridgePort(row["ifname"], row["master"], row["state"]) for row in _rows(text) if "master" in row]


def _rows(text: str) -> list[dict[str, Any]]:
    # -d writes an empty object for what it leaves out
    return [row for row in json.loads(text or "[]") if row]


def firewall(saved: Sequence[tuple[str, str, str]], ruleset: str) -> Firewall:
    """The firewall.

    Args:
        saved: (tool, family, text) of each iptables-save -c.
        ruleset: the JSON of `nft -j list ruleset`; of it, the tables that iptables has told of are left out.
    """
    chains: list[Chain] = []
    rules: list[Rule] = []
    for tool, family, text in saved:
        _add_saved(tool, family, text, chains, rules)
    told = {(chain.family, chain.table) for chain in chains if chain.tool == "iptables-nft"}
    for row in json.loads(ruleset or "{}").get("nftables", []):
        (kind, one), *_ = row.items()
        if kind in ("chain", "rule") and (one["family"], one["table"]) not in told:
            if kind == "chain":
                policy = one["policy"].upper() if "policy" in one else None
                chains.append(Chain("nft", one["family"], one["table"], one["name"], policy))
            else:
                rules.append(_nft_rule(one))
    return Firewall(tuple(chains), tuple(rules))


def _add_saved(tool: str, family: str, text: str, chains: list[Chain], rules: list[Rule]) -> None:
    """Read what iptables-save(8) writes: iptables has no JSON, and nft's hides its matches (`xt`)."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chains.append(Chain(tool, family, table, name, None if policy == "-" else policy))
        elif found := re.match(r"\[(\d+):(\d+)\] -A (\S+) ?(.*)", line):
            packets, size, chain, words = found.groups()
            target = re.search(r"(?:^| )-[jg] (\S+)", words)
            rules.append(
                Rule(
                    tool,
                    family,
                    table,
                    chain,
                    words,
                    target[1] if target else None,
                    int(packets),
                    int(size),
                )
            )


def _nft_rule(rule: dict[str, Any]) -> Rule:
    counter: dict[str, int] = {}
    target = None
    for expression in rule["expr"]:
        (name, value), *_ = expression.items()
        if name == "counter" and isinstance(value, dict):
            counter = value
        elif name in ("jump", "goto"):
            target = value["target"]
        elif name in ("accept", "drop", "return", "reject", "masquerade", "snat", "dnat", "redirect"):
            target = name.upper()
    return Rule(
        "nft",
        rule["family"],
        rule["table"],
        rule["chain"],
        json.dumps(rule["expr"]),
        target,
        counter.get("packets"),
        counter.get("bytes"),
    )
