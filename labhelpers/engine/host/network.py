"""Interfaces, addresses, routes, neighbours, bridge ports and firewall rules of a network namespace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from labhelpers.engine.host.text import integer, json_of, lines
from labhelpers.results import Result, column, record, rows

Parsed = TypeVar("Parsed")
IP_LINK = ["ip", "-j", "-d", "-s", "link", "show"]
IP_ADDRESS = ["ip", "-j", "address", "show"]
IP_ROUTE = [["ip", "-j", f"-{version}", "route", "show", "table", "main"] for version in (4, 6)]
IP_NEIGHBOUR = ["ip", "-j", "neighbour", "show"]
BRIDGE_LINK = ["bridge", "-j", "-d", "link", "show"]
IPTABLES_SAVE = {
    (f"iptables-{backend}", family): [f"{family}tables-{backend}-save", "-c"]
    for backend in ("nft", "legacy")
    for family in ("ip", "ip6")
}
NFT_RULESET = ["nft", "-j", "list", "ruleset"]


@record
class Interface(Result):
    """A network interface (ip-link(8))."""

    index: int = column("index of the interface in its namespace")
    name: str = column("name of the interface: `eth0`, `docker0`, …")
    kind: str = column("`veth`, `bridge`, `vxlan`, …; `loopback`; `physical` for all others")
    mac: str = column("hardware address, empty if there is none")
    mtu_bytes: int = column("longest packet that the interface sends")
    state: str = column("`UP`, `DOWN`, `UNKNOWN` (loopback)")
    flags: tuple[str, ...] = column("flags as `ip` shows them")
    master: str | None = column("the bridge or bond that the interface is a port of, or None")
    peer_index: int | None = column(
        "index of the other end of a veth pair, or of the parent of a macvlan, or None"
    )
    peer_namespace: int | None = column(
        "ID of the peer's namespace (link-netnsid), None if the peer is in the same namespace"
    )
    received_bytes: int = column("bytes received since the interface was created")
    sent_bytes: int = column("bytes sent since the interface was created")
    received_packets: int = column("packets received since the interface was created")
    sent_packets: int = column("packets sent since the interface was created")
    received_dropped: int = column("received packets that were dropped")
    sent_dropped: int = column("packets that were dropped instead of sent")


@record
class Address(Result):
    """An address of an interface (ip-address(8))."""

    interface: str = column("name of the interface")
    family: str = column("`inet` or `inet6`")
    address: str = column("address without the prefix length")
    prefix_length: int = column("prefix length in bits")
    scope: str = column("`global`, `link` or `host`")


@record
class Route(Result):
    """A route of the main table (ip-route(8))."""

    family: str = column("`inet` or `inet6`")
    destination: str = column("`default`, or a network with its prefix length")
    gateway: str | None = column("next hop, None if the destination is on the link")
    interface: str = column("outgoing interface, empty for a route such as `unreachable`")
    source: str | None = column("preferred source address, or None")
    metric: int = column("priority: the route with the lowest metric is used")


@record
class Neighbour(Result):
    """A neighbour: the hardware address of an IP address on a link (ip-neighbour(8))."""

    address: str = column("IP address of the neighbour")
    interface: str = column("interface that reaches the neighbour")
    mac: str | None = column("hardware address, None if the neighbour did not answer")
    state: str = column("`REACHABLE`, `STALE`, `FAILED`, …")


@record
class BridgePort(Result):
    """An interface that is a port of a bridge (bridge(8))."""

    interface: str = column("name of the interface")
    bridge: str = column("name of the bridge")
    state: str = column("`forwarding`, `disabled`, `blocking`, …")


@record
class Chain(Result):
    """A chain of the firewall."""

    tool: str = column("tool that manages the chain: `iptables-nft`, `iptables-legacy` or `nft`")
    family: str = column("`ip`, `ip6`, `inet`, `bridge`, …")
    table: str = column("table of the chain")
    name: str = column("name of the chain")
    policy: str | None = column(
        "verdict at the end of a base chain: `ACCEPT` or `DROP`; None for a chain that others jump to"
    )


@record
class Rule(Result):
    """A rule of the firewall."""

    tool: str = column("tool that manages the rule: `iptables-nft`, `iptables-legacy` or `nft`")
    family: str = column("`ip`, `ip6`, `inet`, `bridge`, …")
    table: str = column("table of the rule")
    chain: str = column("chain of the rule")
    text: str = column(
        "for iptables the arguments after `-A CHAIN`; for nft the rule's expressions as JSON (libnftables-json(5))"
    )
    target: str | None = column(
        "what happens to a matching packet: `ACCEPT`, `DROP`, `MASQUERADE`, a chain, …; None for a rule "
        "that only counts"
    )
    packets: int | None = column("packets that matched, None if the rule does not count")
    bytes: int | None = column("bytes of the packets that matched, None if the rule does not count")


@record
class Firewall(Result):
    """Every rule of iptables and nftables in a network namespace, in order."""

    chains: tuple[Chain, ...] = column("the chains, in order", shown=False)
    rules: tuple[Rule, ...] = rows("the rules, in order", of=Rule)

    def of(self, table: str, chain: str) -> tuple[Rule, ...]:
        """The rules of one chain: `firewall.of("nat", "DOCKER")`."""
        return tuple(rule for rule in self.rules if (rule.table, rule.chain) == (table, chain))


@record
class Network(Result):
    """The interfaces of a network namespace, with its addresses, routes, neighbours and bridge ports."""

    interfaces: tuple[Interface, ...] = rows("the interfaces", of=Interface)
    addresses: tuple[Address, ...] = column("the addresses of the interfaces", shown=False)
    routes: tuple[Route, ...] = column("the routes of the main table", shown=False)
    neighbours: tuple[Neighbour, ...] = column("the neighbours", shown=False)
    bridge_ports: tuple[BridgePort, ...] = column("the ports of bridges", shown=False)


def interfaces(text: str) -> list[Interface]:
    """From `ip -j -d -s link`."""
    rows = _rows(text, "ip")
    # the peer is given by its index if it is in another namespace, else by its name
    indexes = {str(row["ifname"]): row.get("ifindex") for row in rows if "ifname" in row}
    return _each(rows, lambda row: _interface(row, indexes))


def _each(rows: Iterable[Any], read: Callable[[Any], Parsed]) -> list[Parsed]:
    """The result of `read` for each row; rows in an unknown format are skipped."""
    parsed = []
    for row in rows:
        with suppress(AttributeError, KeyError, TypeError):
            parsed.append(read(row))
    return parsed


def _interface(row: dict[str, Any], indexes: Mapping[str, int | None]) -> Interface:
    flags = _list(row, "flags")
    loopback = "LOOPBACK" in flags
    counters = _dict(row, "stats64") or _dict(row, "stats")
    received, sent = _dict(counters, "rx"), _dict(counters, "tx")
    return Interface(
        index=row["ifindex"],
        name=row["ifname"],
        kind=_dict(row, "linkinfo").get("info_kind") or ("loopback" if loopback else "physical"),
        mac="" if loopback else row.get("address", ""),
        mtu_bytes=row.get("mtu", 0),
        state=row.get("operstate", "UNKNOWN"),
        flags=tuple(flags),
        master=row.get("master"),
        peer_index=row.get("link_index") or indexes.get(str(row.get("link", ""))),
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
    rows = ((row, info) for row in _rows(text, "ip") for info in _list(row, "addr_info"))
    return _each(rows, _address)


def _address(row: tuple[dict[str, Any], dict[str, Any]]) -> Address:
    interface, info = row
    is_6 = ":" in info["local"]
    return Address(
        interface["ifname"],
        info.get("family", "inet6" if is_6 else "inet"),
        info["local"],
        info.get("prefixlen", 128 if is_6 else 32),
        info.get("scope", "global"),
    )


def routes(text: str, family: str) -> list[Route]:
    """From `ip -j route`; only the first of several next hops."""
    return _each(_rows(text, "ip"), lambda row: _route(row, family))


def _route(row: dict[str, Any], family: str) -> Route:
    hop = next((next_hop for next_hop in _list(row, "nexthops") if isinstance(next_hop, dict)), row)
    # an IPv4 route through an IPv6 router has `via`
    gateway = hop.get("gateway") or _dict(hop, "via").get("host")
    metric = row.get("metric", 0)
    return Route(family, row["dst"], gateway, hop.get("dev", ""), row.get("prefsrc"), metric)


def neighbours(text: str) -> list[Neighbour]:
    """From `ip -j neighbour`."""
    return _each(
        _rows(text, "ip"),
        lambda row: Neighbour(
            row["dst"], row.get("dev", ""), row.get("lladdr"), " ".join(_list(row, "state")) or "NONE"
        ),
    )


def bridge_ports(text: str) -> list[BridgePort]:
    """From `bridge -j link`."""
    return _each(
        _rows(text, "bridge"),
        lambda row: BridgePort(row["ifname"], row["master"], row.get("state", "")),
    )


def _rows(text: str, tool: str) -> list[dict[str, Any]]:
    value = json_of(text, f"{tool} -j")
    # -d prints an empty object for omitted entries
    return [row for row in value if isinstance(row, dict) and row] if isinstance(value, list) else []


def _dict(row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _list(row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def firewall(saved: Sequence[tuple[str, str, str]], ruleset: str) -> Firewall:
    """The firewall.

    Args:
        saved: (tool, family, text) of each iptables-save -c.
        ruleset: the JSON of `nft -j list ruleset`; without the tables that iptables has listed.
    """
    chains: list[Chain] = []
    rules: list[Rule] = []
    for tool, family, text in saved:
        _add_saved(tool, family, text, chains, rules)
    iptables_tables = [(chain.family, chain.table) for chain in chains if chain.tool == "iptables-nft"]
    document = json_of(ruleset, "nft -j list ruleset")
    listed = _list(document, "nftables") if isinstance(document, dict) else []
    nft_rows = [
        row
        for row in listed
        if isinstance(row, dict)
        and not any(
            (_dict(row, kind).get("family"), _dict(row, kind).get("table")) in iptables_tables for kind in row
        )
    ]
    chains += _each([row["chain"] for row in nft_rows if "chain" in row], _nft_chain)
    rules += _each([row["rule"] for row in nft_rows if "rule" in row], _nft_rule)
    return Firewall(tuple(chains), tuple(rules))


def _nft_chain(chain: dict[str, Any]) -> Chain:
    policy = str(chain["policy"]).upper() if chain.get("policy") else None
    return Chain("nft", chain["family"], chain["table"], chain["name"], policy)


def _add_saved(tool: str, family: str, text: str, chains: list[Chain], rules: list[Rule]) -> None:
    """Parse the output of iptables-save(8): iptables has no JSON, and nft's hides its matches (`xt`)."""
    table = ""
    for line in lines(text):
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = [*line[1:].split(), "-", "-"][:2]
            chains.append(Chain(tool, family, table, name, None if policy == "-" else policy))
        # no counters without -c, or from a kernel without counters
        elif match := re.match(r"(?:\[([0-9]+):([0-9]+)\] )?-A (\S+) ?(.*)", line):
            packets, size, chain, text_of_rule = match.groups()
            rules.append(
                Rule(
                    tool,
                    family,
                    table,
                    chain,
                    text_of_rule.strip(),
                    _target(text_of_rule),
                    integer(packets),
                    integer(size),
                )
            )


def _target(rule: str) -> str | None:
    """The target after -j or -g, outside of comments."""
    # comments are quoted; a quotation mark in one is escaped with a backslash
    without_comments = re.sub(r'"(?:[^"\\]|\\.)*"', '""', rule)
    target = re.search(r"(?:^| )(?:-[jg]|--jump|--goto) (\S+)", without_comments)
    return target[1] if target else None


def _nft_rule(rule: dict[str, Any]) -> Rule:
    counter: dict[str, Any] = {}
    target = None
    expressions = _list(rule, "expr")
    for expression in expressions:
        name, value = (
            next(iter(expression.items()), ("", None)) if isinstance(expression, dict) else ("", None)
        )
        if name == "counter" and isinstance(value, dict):
            counter = value
        elif name in ("jump", "goto"):
            target = value.get("target") if isinstance(value, dict) else None
        elif name in ("accept", "drop", "return", "reject", "masquerade", "snat", "dnat", "redirect"):
            target = name.upper()
    return Rule(
        "nft",
        rule["family"],
        rule["table"],
        rule["chain"],
        json.dumps(expressions),
        target,
        counter.get("packets"),
        counter.get("bytes"),
    )
