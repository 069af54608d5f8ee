"""Rules of a published port, and captures, in the formats of firewalls and tcpdump."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import QUICK, mutated_json

from labhelpers.engine.host import Rule
from labhelpers.errors import BadInput
from labhelpers.networks import packets
from labhelpers.networks.firewall import PortRule, PortRules
from labhelpers.networks.maps import _translates_to

OWN = {"172.17.0.2", "fd00::2"}
PORT: dict[str, Any] = {"payload": {"protocol": "tcp", "field": "dport"}}
TO: dict[str, Any] = {"dnat": {"addr": "172.17.0.2", "port": 80}}


def saved(text: str, target: str = "DNAT") -> Rule:
    return Rule("iptables-nft", "ip", "nat", "DOCKER", text, target, 0, 0)


def nft(*expressions: Any) -> Rule:
    return Rule("nft", "ip", "docker-bridges", "nat", json.dumps(expressions), "DNAT", 0, 0)


def match(right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": PORT, "right": right}}


@pytest.mark.parametrize(
    ("rule", "sends"),
    [
        (saved("-p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80"), True),
        (saved("-p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"), False),
        (saved("-p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:8080"), False),
        (saved("-p tcp --dport 80 -j DNAT --to-destination 172.17.0.20:80"), False),
        (saved("-p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80 --random"), True),
        (saved("-p tcp --dport 80 -j DNAT --to-destination [fd00::2]:80"), True),
        (saved("-p tcp --dport 80 -j ACCEPT", "ACCEPT"), False),
        (nft(match(80), TO), True),
        (nft(match(8080), TO), False),
        (nft(match({"set": [22, 80]}), TO), True),
        (nft(match({"set": [22, {"range": [79, 81]}]}), TO), True),
        (nft(match({"range": [8000, 8080]}), TO), False),
        (nft(match(80, "!="), TO), False),
        (nft(match("@ports"), TO), False),
        (nft(match(80), {"dnat": {"addr": "172.17.0.20", "port": 80}}), False),
        (nft(match(80), {"dnat": None}), False),
        (nft({"match": {"left": {"meta": "iif"}, "right": 80}}, TO), False),
    ],
)
def test_a_rule_leads_to_a_port_by_its_number(rule: Rule, sends: bool) -> None:
    assert _translates_to(rule, 80, OWN, "80/tcp") is sends


@QUICK
@given(mutated_json([match({"set": [22, {"range": [79, 81]}]}), TO]))
def test_rules_of_nftables_in_any_form(expressions: Any) -> None:
    if isinstance(expressions, list):
        _translates_to(nft(*expressions), 80, OWN, "80/tcp")


def test_a_translation_is_known_by_its_target() -> None:
    rules = (
        PortRule("nat", "DOCKER", "-j DNAT --to-destination x"),
        PortRule("nat", "x", "-j MYDNAT"),
        PortRule("nat", "x", "-j ACCEPT"),
    )
    assert PortRules("80:80", "x", rules, 0).dnat_rules == (rules[0].rule,)


# --- captures

IPV4 = bytes.fromhex("4500002800010000400600000a0000010a000002") + struct.pack(
    "!HHIIBBHHH", 1000, 80, 1, 2, 0x50, 2, 0, 0, 0
)
ETHERNET = bytes(12) + b"\x08\x00" + IPV4
COOKED = struct.pack("!HHIHBB", 0x0800, 0, 7, 1, 4, 6) + bytes(8) + IPV4
COOKED_1 = struct.pack("!HHHQH", 4, 1, 6, 0, 0x0800) + IPV4


def capture(kind: int, data: bytes, order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 256, kind)
    return (
        head
        + struct.pack(
            f"{order}IIII", 1, 500_000_000 if magic == 0xA1B23C4D else 500_000, len(data), len(data)
        )
        + data
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
@pytest.mark.parametrize(("kind", "data"), [(1, ETHERNET), (276, COOKED), (113, COOKED_1)])
def test_a_capture_of_each_kind(order: str, magic: int, kind: int, data: bytes) -> None:
    (packet,) = packets.read(capture(kind, data, order, magic))
    assert packet.at_s == 1.5
    tcp = packet.header("TCP")
    assert tcp is not None
    assert (tcp.get("to"), tcp.get("flags")) == ("80", "SYN")
    assert packets.read(capture(999, data, order, magic))[0].headers == ()


@QUICK
@given(st.sampled_from([1, 113, 276, 999]), st.sampled_from([ETHERNET, COOKED, COOKED_1]), st.data())
def test_packets_in_any_form(kind: int, data: bytes, draw: st.DataObject) -> None:
    at, end = draw.draw(st.integers(0, len(data))), draw.draw(st.integers(0, len(data)))
    put = draw.draw(st.binary(max_size=4))
    for packet in packets.read(capture(kind, (data[:at] + put + data[at + len(put) :])[:end])):
        packet.frame()


def test_a_file_that_is_not_a_capture() -> None:
    for data in (b"", b"\n\r\r\n", bytes(24)):
        with pytest.raises(BadInput):
            packets.read(data)
