"""Captured packets, parsed header by header.

Sources: pcap-savefile(5); the link types of tcpdump.org (EN10MB, LINUX_SLL, LINUX_SLL2); RFC 791 (IPv4), 768 (UDP),
9293 (TCP), 792 (ICMP), 826 (ARP), 7348 (VXLAN).
"""

from __future__ import annotations

import ipaddress
import struct

from labhelpers.errors import BadInput
from labhelpers.results import Result, column, derived, record, rows

ETHERNET, LINUX_SLL, LINUX_SLL2 = 1, 113, 276
COOKED_BYTES = {LINUX_SLL: 16, LINUX_SLL2: 20}
VXLAN_PORT = 4789
# nested tunnels: a crafted packet can contain a thousand, more than Python can recurse
MAX_TUNNELS = 8
# magic number → byte order, fractions of a second in timestamps
MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e6),
    b"\xa1\xb2\xc3\xd4": (">", 1e6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e9),
    b"\xa1\xb2\x3c\x4d": (">", 1e9),
}
DIRECTIONS = ("in", "in (broadcast)", "in (multicast)", "passing", "out")
ICMP = {0: "echo reply", 3: "unreachable", 8: "echo request"}
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


@record
class Header(Result):
    """One header of a packet."""

    name: str = column("the protocol: `Ethernet`, `IPv4`, `UDP`, `VXLAN`, …")
    bytes: int = column("the length of the header")
    fields: tuple[tuple[str, str], ...] = column("(name, value) of the main fields", shown=False)

    def get(self, name: str) -> str:
        """The value of one field.

        Raises:
            KeyError: the header has no field of that name.
        """
        return dict(self.fields)[name]

    @derived
    def content(self) -> str:
        """The main fields of the header."""
        return ", ".join(f"{name} {value}" for name, value in self.fields)


@record
class Packet(Result):
    """The headers of a packet at one interface, outermost first."""

    at_s: float = column("time of the capture in seconds since 1970, on the clock of the engine's host")
    interface: int = column("the index of the interface, 0 if the capture does not contain it")
    direction: str = column(
        "`in`, `out`, `passing` (to another machine), or an empty string if the capture does not contain it"
    )
    bytes: int = column("the length of the packet on the network")
    headers: tuple[Header, ...] = rows("the headers, outermost first", of=Header)

    def header(self, name: str, number: int = 0) -> Header | None:
        """The header of a protocol; `number` counts headers of the same protocol, outermost first. None if absent."""
        headers = [header for header in self.headers if header.name == name]
        return headers[number] if number < len(headers) else None


def read(pcap: bytes) -> list[Packet]:
    """The packets of a capture file, in either byte order; a last packet that is incomplete is left out.

    Raises:
        BadInput: `pcap` is not a capture file.
    """
    order, fractions = MAGIC.get(pcap[:4], ("", 1))
    if not order or len(pcap) < 24:
        raise BadInput("this is not a capture file", hint="`tcpdump -w FILE` writes one")
    (link_type,) = struct.unpack_from(f"{order}I", pcap, 20)
    packets = []
    offset = 24
    while offset + 16 <= len(pcap):
        seconds, fraction, captured, length = struct.unpack_from(f"{order}IIII", pcap, offset)
        data = pcap[offset + 16 : offset + 16 + captured]
        if len(data) < captured:
            break  # tcpdump is still writing it
        packets.append(_packet(seconds + fraction / fractions, length, data, link_type & 0xFFFF))
        offset += 16 + captured
    return packets


def _packet(at_s: float, length: int, data: bytes, link_type: int) -> Packet:
    cooked = COOKED_BYTES.get(link_type, 0)
    if len(data) < cooked or (not cooked and link_type != ETHERNET):
        return Packet(at_s, 0, "", length, ())
    if link_type == LINUX_SLL2:
        protocol, _, index, _, direction, _ = struct.unpack_from("!HHIHBB", data)
    elif link_type == LINUX_SLL:
        # written by libpcap before 1.10; it does not contain the interface
        direction, *_, protocol = struct.unpack_from("!HHHQH", data)
        index = 0
    else:
        return Packet(at_s, 0, "", length, tuple(_ethernet(data)))
    headers = tuple(_network(protocol, data[cooked:]))
    return Packet(at_s, index, DIRECTIONS[min(direction, 4)], length - cooked, headers)


def _mac(data: bytes) -> str:
    return data.hex(":")


def _ethernet(data: bytes, tunnels: int = 0) -> list[Header]:
    if len(data) < 14:
        return []
    (protocol,) = struct.unpack_from("!H", data, 12)
    header = Header("Ethernet", 14, (("from", _mac(data[6:12])), ("to", _mac(data[:6]))))
    return [header, *_network(protocol, data[14:], tunnels)]


def _network(protocol: int, data: bytes, tunnels: int = 0) -> list[Header]:
    if protocol == 0x0806 and len(data) >= 28:
        (operation,) = struct.unpack_from("!H", data, 6)
        question = "who has" if operation == 1 else "is at"
        address = str(ipaddress.IPv4Address(data[24:28] if operation == 1 else data[14:18]))
        return [Header("ARP", 28, ((question, address), ("from", _mac(data[8:14]))))]
    if protocol != 0x0800 or len(data) < 20:
        return []
    length = (data[0] & 15) * 4
    total, _, fragment = struct.unpack_from("!HHH", data, 2)
    fields = [
        ("from", str(ipaddress.IPv4Address(data[12:16]))),
        ("to", str(ipaddress.IPv4Address(data[16:20]))),
        ("ttl", str(data[8])),
        ("length", str(total)),
    ]
    offset = (fragment & 0x1FFF) * 8
    if fragment & 0x2000 or offset:
        fields.append(("fragment", f"at {offset}" + (", more follow" if fragment & 0x2000 else ", the last")))
    header = Header("IPv4", length, tuple(fields))
    return [header, *([] if offset else _transport(data[9], data[length:], tunnels))]


def _transport(protocol: int, data: bytes, tunnels: int) -> list[Header]:
    if protocol == 1 and len(data) >= 8:
        number, sequence = struct.unpack_from("!HH", data, 4)
        return [
            Header(
                "ICMP",
                8,
                (("is", ICMP.get(data[0], str(data[0]))), ("id", str(number)), ("seq", str(sequence))),
            )
        ]
    if protocol == 6 and len(data) >= 20:
        source, target, sequence, acknowledged = struct.unpack_from("!HHII", data)
        flags = " ".join(name for bit, name in enumerate(FLAGS) if data[13] >> bit & 1)
        fields = (
            ("from", str(source)),
            ("to", str(target)),
            ("flags", flags),
            ("seq", str(sequence)),
            ("ack", str(acknowledged)),
        )
        return [Header("TCP", (data[12] >> 4) * 4, fields)]
    if protocol == 17 and len(data) >= 8:
        source, target = struct.unpack_from("!HH", data)
        header = Header("UDP", 8, (("from", str(source)), ("to", str(target))))
        if target == VXLAN_PORT and len(data) >= 16 and tunnels < MAX_TUNNELS:
            number = int.from_bytes(data[12:15], "big")
            return [
                header,
                Header("VXLAN", 8, (("network", str(number)),)),
                *_ethernet(data[16:], tunnels + 1),
            ]
        return [header]
    return []
