"""Interfaces, addresses, routes, neighbours, bridge ports and firewall rules of a network namespace."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from labhelpers.errors import LabError
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
    return [_interface(row) for row in _rows(text, "ifname", "ifindex")]


def _interface(row: dict[str, Any]) -> Interface:
    flags = tuple(map(str, _list(row, "flags")))
    received, sent = (_table(_table(row, "stats64"), way) for way in ("rx", "tx"))
    kind = _table(row, "linkinfo").get("info_kind")
    loopback = "LOOPBACK" in flags
    return Interface(
        index=int(row["ifindex"]),
        name=str(row["ifname"]),
        kind=str(kind or ("loopback" if loopback else "physical")),
        mac="" if loopback else str(row.get("address") or ""),
        mtu_bytes=_number(row, "mtu"),
        state=str(row.get("operstate") or "UNKNOWN"),
        flags=flags,
        master=row.get("master"),
        peer_index=row.get("link_index"),
        peer_namespace=row.get("link_netnsid"),
        received_bytes=_number(received, "bytes"),
        sent_bytes=_number(sent, "bytes"),
        received_packets=_number(received, "packets"),
        sent_packets=_number(sent, "packets"),
        received_dropped=_number(received, "dropped"),
        sent_dropped=_number(sent, "dropped"),
    )


def addresses(text: str) -> list[Address]:
    """From `ip -j address`."""
    return [
        Address(
            str(row["ifname"]),
            str(one.get("family") or ("inet6" if ":" in str(one["local"]) else "inet")),
            str(one["local"]),
            _number(one, "prefixlen"),
            str(one.get("scope") or "global"),
        )
        for row in _rows(text, "ifname")
        for one in _list(row, "addr_info")
        if isinstance(one, dict) and one.get("local")
    ]


def routes(text: str, family: str) -> list[Route]:
    """From `ip -j route`. A route with several next hops (ECMP) is listed with the first of them."""
    return [
        Route(
            family,
            str(row["dst"]),
            hop.get("gateway") or _table(hop, "via").get("host"),
            str(hop.get("dev") or ""),
            row.get("prefsrc"),
            _number(row, "metric"),
        )
        for row in _rows(text, "dst")
        for hop in [next((one for one in _list(row, "nexthops") if isinstance(one, dict)), row)]
    ]


def neighbours(text: str) -> list[Neighbour]:
    """From `ip -j neighbour`."""
    return [
        Neighbour(
            str(row["dst"]),
            str(row["dev"]),
            row.get("lladdr"),
            " ".join(map(str, _list(row, "state"))) or "NONE",
        )
        for row in _rows(text, "dst", "dev")
    ]


def bridge_ports(text: str) -> list[BridgePort]:
    """From `bridge -j link`."""
    return [
        BridgePort(str(row["ifname"]), str(row["master"]), str(row.get("state") or "unknown"))
        for row in _rows(text, "ifname", "master")
    ]


def _rows(text: str, *needed: str) -> list[dict[str, Any]]:
    """The objects of a JSON list that have the keys `needed`; ip -d writes `{}` for what it leaves out.

    Raises:
        LabError: `text` is no JSON.
    """
    found = _json(text, "[]")
    rows = found if isinstance(found, list) else []
    return [
        row for row in rows if isinstance(row, dict) and all(row.get(key) not in (None, "") for key in needed)
    ]


def _json(text: str, empty: str) -> Any:
    try:
        return json.loads(text.strip() or empty)
    except ValueError:
        raise LabError(
            "the network tools on the engine's host printed something other than JSON",
            hint="`./lab doctor` says which engine this is; please report it with the output below",
            engine_words=text[:300],
        ) from None


def _list(row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _table(row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _number(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) else 0


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
    found = _json(ruleset, "{}")
    for row in _list(found, "nftables") if isinstance(found, dict) else []:
        for kind in ("chain", "rule"):
            one = _table(row, kind) if isinstance(row, dict) else {}
            family, table, name = (
                str(one.get(key) or "") for key in ("family", "table", "name" if kind == "chain" else "chain")
            )
            if not (family and table and name) or (family, table) in told:
                continue
            if kind == "chain":
                policy = str(one["policy"]).upper() if one.get("policy") else None
                chains.append(Chain("nft", family, table, name, policy))
            else:
                rules.append(_nft_rule(family, table, name, _list(one, "expr")))
    return Firewall(tuple(chains), tuple(rules))


def _add_saved(tool: str, family: str, text: str, chains: list[Chain], rules: list[Rule]) -> None:
    """Read what iptables-save(8) writes: iptables has no JSON, and nft's hides its matches (`xt`)."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif found := re.match(r":(\S+)\s+(\S+)", line):
            name, policy = found.groups()
            chains.append(Chain(tool, family, table, name, None if policy == "-" else policy))
        elif found := re.match(r"(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)", line):
            packets, size, chain, words = found.groups()
            target = re.search(r"(?:^| )(?:-[jg]|--jump|--goto) (\S+)", words)
            rules.append(
                Rule(
                    tool,
                    family,
                    table,
                    chain,
                    words,
                    target[1] if target else None,
                    None if packets is None else int(packets),
                    None if size is None else int(size),
                )
            )


def _nft_rule(family: str, table: str, chain: str, expressions: list[Any]) -> Rule:
    counter: dict[str, Any] = {}
    target = None
    for expression in expressions:
        if not isinstance(expression, dict):
            continue
        for name, value in expression.items():
            if name == "counter" and isinstance(value, dict):
                counter = value
            elif name in ("jump", "goto") and isinstance(value, dict):
                target = value.get("target")
            elif name in ("accept", "drop", "return", "reject", "masquerade", "snat", "dnat", "redirect"):
                target = name.upper()
    return Rule(
        "nft",
        family,
        table,
        chain,
        json.dumps(expressions),
        target,
        counter.get("packets"),
        counter.get("bytes"),
    )
