"""What a rule of the firewall names and where it sends packets; forms of iptables-save(8) and libnftables-json(5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labhelpers.engine.host import Rule, network
from labhelpers.networks.rules import dnat_target, is_for_port, mentions


def iptables(text: str, chain: str = "DOCKER", family: str = "ip") -> Rule:
    found = network.firewall(
        [("iptables-nft", family, f"*nat\n:{chain} - [0:0]\n[1:60] -A {chain} {text}\n")], ""
    )
    return found.rules[0]


def nft(*expressions: Any, chain: str = "nat-prerouting-and-output") -> Rule:
    row = {"family": "ip", "table": "docker-bridges", "chain": chain, "handle": 7, "expr": list(expressions)}
    return network.firewall([], json.dumps({"nftables": [{"metainfo": {}}, {"rule": row}]})).rules[0]


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
DNAT = "-p tcp -m tcp --dport {} -j DNAT --to-destination {}"
PUBLISHED = nft(
    match({"meta": {"key": "iifname"}}, "docker0", "!="),
    match(DPORT, 8080),
    {"counter": {"packets": 0, "bytes": 0}},
    {"dnat": {"addr": "172.17.0.2", "port": 80}},
)
"""A published port as the nftables backend of Engine 29 writes it."""


@pytest.mark.parametrize(
    ("rule", "port", "is_for_it"),
    [
        (iptables(DNAT.format("8080", "172.17.0.2:80")), 8080, True),
        (iptables(DNAT.format("8080", "172.17.0.2:80")), 80, False),
        (iptables(DNAT.format("80", "172.17.0.2:80")), 8080, False),
        (iptables("-p tcp -m tcp ! --dport 80 -j DROP"), 80, False),
        (iptables("-p tcp -m multiport --dports 80,443,8000:8090 -j ACCEPT"), 8080, True),
        (iptables("-p tcp -m multiport --dports 80,443,8000:8090 -j ACCEPT"), 444, False),
        (PUBLISHED, 8080, True),
        (PUBLISHED, 80, False),
        (nft(match(DPORT, {"set": [80, {"range": [8000, 8090]}]})), 8080, True),
        (nft(match(DPORT, {"set": [80, {"range": [8000, 8090]}]})), 8091, False),
        (nft(match(DPORT, 80, "!=")), 80, False),
        (nft(match({"payload": {"protocol": "tcp", "field": "sport"}}, 80)), 80, False),
    ],
)
def test_a_port_is_the_whole_number(rule: Rule, port: int, is_for_it: bool) -> None:
    assert is_for_port(rule, port) is is_for_it


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        (iptables(DNAT.format("8080", "172.17.0.2:80")), ("172.17.0.2", 80)),
        (iptables(DNAT.format("8080", "172.17.0.2:80 --random")), ("172.17.0.2", 80)),
        (iptables(DNAT.format("8080", "[fd00::2]:80"), family="ip6"), ("fd00::2", 80)),
        (iptables(DNAT.format("8080", "fd00::2"), family="ip6"), ("fd00::2", None)),
        (iptables(DNAT.format("8080", "172.17.0.2-172.17.0.9:80-90")), ("172.17.0.2", 80)),
        (iptables("-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"), None),
        (PUBLISHED, ("172.17.0.2", 80)),
        (nft({"masquerade": None}), None),
    ],
)
def test_where_packets_are_sent(rule: Rule, target: tuple[str, int | None] | None) -> None:
    assert dnat_target(rule) == target


def test_a_rule_names_whole_words() -> None:
    rule = iptables("-d 172.17.0.20/32 ! -i br-12 -o br-123 -j ACCEPT")
    assert mentions(rule, ["172.17.0.20"])
    assert mentions(rule, ["other", "br-123"])
    assert not mentions(rule, ["172.17.0.2", "br-1", "72.17.0.20", ""])
    assert mentions(iptables("-j DNAT --to-destination 172.17.0.2:80"), ["172.17.0.2"])
    six = iptables("-d fd00::2:1/128 -j ACCEPT", family="ip6")
    assert not mentions(six, ["fd00::2"])
    assert mentions(six, ["fd00::2:1"])
    subnet = nft(match({"payload": {}}, {"prefix": {"addr": "172.17.0.0", "len": 16}}), {"masquerade": None})
    assert mentions(subnet, ["172.17.0.0/16"])
    assert not mentions(subnet, ["172.17.0.0/1"])
    assert mentions(nft({"drop": None}, chain="filter-forward-in__docker0"), ["docker0"])


NOT_KNOWN = [
    {},
    {"rule": None},
    {
        "rule": {
            "family": "ip",
            "table": "t",
            "chain": "c",
            "expr": ["x", {}, None, {"counter": "named"}, {"jump": None}],
        }
    },
    {"chain": {"family": "ip", "table": "t", "name": "c", "policy": None, "hook": "input"}},
    {"flowtable": {"name": "f"}},
    7,
]


def test_what_is_not_known_of_a_ruleset_is_skipped() -> None:
    found = network.firewall(
        [("iptables-nft", "ip", "# comment\n:BROKEN\n-A NO-TABLE -j DROP\n")],
        json.dumps({"nftables": NOT_KNOWN}),
    )
    assert [(one.chain, one.target, one.packets) for one in found.rules] == [
        ("NO-TABLE", "DROP", None),
        ("c", None, None),
    ]
    assert [one.name for one in found.chains if one.tool == "nft"] == ["c"]
