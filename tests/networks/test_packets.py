"""The parser of captured packets, with bytes that are written by hand here."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labhelpers.errors import BadInput
from labhelpers.networks.packets import read

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
RED, BLUE = bytes.fromhex("0242 0a00 0102".replace(" ", "")), bytes.fromhex("0242 0a00 0104".replace(" ", ""))


def file(*packets: bytes, kind: int = 1) -> bytes:
    head = HEADER[:20] + struct.pack("<I", kind)
    return head + b"".join(struct.pack("<IIII", 7, 500_000, len(p), len(p)) + p for p in packets)


def ethernet(payload: bytes, protocol: int = 0x0800) -> bytes:
    return BLUE + RED + struct.pack("!H", protocol) + payload


def ipv4(payload: bytes, protocol: int, source: bytes, target: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return head + source + target + payload


PING = struct.pack("!BBHHH", 8, 0, 0, 54, 1) + b"x" * 56
INNER = ethernet(ipv4(PING, 1, bytes([10, 0, 1, 2]), bytes([10, 0, 1, 4])))
VXLAN = struct.pack("!BBHI", 8, 0, 0, 4097 << 8) + INNER
OUTER = ethernet(
    ipv4(
        struct.pack("!HHHH", 40000, 4789, 8 + len(VXLAN), 0) + VXLAN,
        17,
        bytes([172, 20, 0, 2]),
        bytes([172, 20, 0, 3]),
    )
)


def test_a_thousand_tunnels_in_one_another_are_not_followed() -> None:
    frame = INNER
    while len(frame) < 60_000:
        udp = struct.pack("!HHHHBBHI", 40000, 4789, 0, 0, 8, 0, 0, 1 << 8) + frame
        frame = ethernet(ipv4(b"", 17, bytes(4), bytes(4)) + udp)
    (packet,) = read(file(frame))
    assert 2 <= sum(header.name == "VXLAN" for header in packet.headers) < 20


def test_both_headers_of_vxlan() -> None:
    (packet,) = read(file(OUTER))
    assert [header.name for header in packet.headers] == [
        "Ethernet",
        "IPv4",
        "UDP",
        "VXLAN",
        "Ethernet",
        "IPv4",
        "ICMP",
    ]
    outer, inner = packet.header("IPv4"), packet.header("IPv4", 1)
    assert outer is not None
    assert inner is not None
    assert (outer.get("from"), outer.get("to")) == ("172.20.0.2", "172.20.0.3")
    assert (inner.get("from"), inner.get("to")) == ("10.0.1.2", "10.0.1.4")
    ping, vxlan = packet.header("ICMP"), packet.header("VXLAN")
    assert ping is not None
    assert vxlan is not None
    assert (ping.get("is"), vxlan.get("network")) == ("echo request", "4097")
    assert sum(header.bytes for header in packet.headers[:4]) == 50
    assert packet.at_s == 7.5


def test_tcp_with_its_flags_as_a_cooked_capture_has_it() -> None:
    syn = struct.pack("!HHIIBBHHH", 50000, 80, 9, 0, 0x50, 0x12, 0, 0, 0)
    cooked = struct.pack("!HHIHBB8s", 0x0800, 0, 42, 1, 4, 6, RED + b"\0\0")
    (packet,) = read(file(cooked + ipv4(syn, 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])), kind=276))
    port = packet.header("TCP")
    assert port is not None
    assert (packet.interface, packet.direction, port.get("flags")) == (42, "out", "SYN ACK")


def test_a_later_fragment_has_no_port() -> None:
    (packet,) = read(file(ethernet(ipv4(b"\x00" * 20, 17, bytes(4), bytes(4), fragment=100))))
    assert [header.name for header in packet.headers] == ["Ethernet", "IPv4"]
    address = packet.header("IPv4")
    assert address is not None
    assert address.get("fragment") == "at 800, the last"


def test_arp_asks_and_answers() -> None:
    asks = (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        + RED
        + bytes([10, 0, 0, 1])
        + bytes(6)
        + bytes([10, 0, 0, 9])
    )
    (packet,) = read(file(ethernet(asks, 0x0806)))
    arp = packet.header("ARP")
    assert arp is not None
    assert arp.get("who has") == "10.0.0.9"


def test_a_file_that_is_not_a_capture_is_refused() -> None:
    with pytest.raises(BadInput):
        read(b"GIF89a" + bytes(40))
    with pytest.raises(BadInput):
        read(b"")


@given(st.integers(24, len(file(OUTER, OUTER))))
def test_a_capture_that_is_still_being_written_gives_its_complete_packets(length: int) -> None:
    complete = file(OUTER, OUTER)
    packets = read(complete[:length])
    assert len(packets) == (length - 24) // (16 + len(OUTER))


@given(st.binary(max_size=200))
def test_every_packet_can_be_parsed(data: bytes) -> None:
    (packet,) = read(file(data))
    assert packet.bytes == len(data)
