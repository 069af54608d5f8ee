"""Packets as tcpdump writes them, taken apart layer by layer.

Sources: pcap-savefile(5); the link types of tcpdump.org (EN10MB, LINUX_SLL, LINUX_SLL2); RFC 791 (IPv4), 768 (UDP),
9293 (TCP), 792 (ICMP), 826 (ARP), 7348 (VXLAN).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from labhelpers.errors import BadInput
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

ETHERNET, LINUX_SLL, LINUX_SLL2 = 1, 113, 276
COOKED_BYTES = {LINUX_SLL: 16, LINUX_SLL2: 20}
VXLAN_PORT = 4789
# one in another; a packet may hold a thousand, more than Python's stack
MOST_TUNNELS = 8
# first bytes → byte order, and parts of a second in which times are written
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

    name: str = column("`Ethernet`, `IPv4`, `UDP`, `VXLAN`, …")
    bytes: int = column("how long the header is")
    fields: tuple[tuple[str, str], ...] = column(
        "(name, value) of those that the course looks at", shown=False
    )

    def get(self, name: str) -> str:
        """The value of one field; KeyError where the layer has none of that name."""
        return dict(self.fields)[name]


@record
class Packet(Result):
    """A packet as it was seen at one interface."""

    at_s: float = column("when, in seconds since 1970, on the clock of the engine's host")
    interface: int = column("the index of the interface, 0 where the capture does not tell")
    way: str = column(
        "`in`, `out`, `passing` (for somebody else), or an empty string where the capture does not tell"
    )
    bytes: int = column("how long the packet was on the wire")
    layers: tuple[Header, ...] = rows("its headers, the outermost first", of=Header)

    def frame(self) -> pd.DataFrame:
        """One row a header."""
        rows = [
            (layer.name, layer.bytes, ", ".join(f"{name} {value}" for name, value in layer.fields))
            for layer in self.layers
        ]
        return table(rows, ["header", "bytes", "says"])

    def layer(self, name: str, which: int = 0) -> Header | None:
        """The header called `name`, counted from the outermost; None where there is none."""
        found = [layer for layer in self.layers if layer.name == name]
        return found[which] if which < len(found) else None


def read(pcap: bytes) -> list[Packet]:
    """The packets of a file that tcpdump wrote on a machine with little-endian numbers, or big-endian ones.

    Raises:
        BadInput: that is no such file.
    """
    order, parts = MAGIC.get(pcap[:4], ("", 1))
    if not order or len(pcap) < 24:
        raise BadInput("these bytes are no capture", hint="tcpdump -w writes one")
    (kind,) = struct.unpack_from(f"{order}I", pcap, 20)
    packets = []
    at = 24
    while at + 16 <= len(pcap):
        seconds, micros, kept, length = struct.unpack_from(f"{order}IIII", pcap, at)
        data = pcap[at + 16 : at + 16 + kept]
        if len(data) < kept:
            break  # the last one was still being written
        packets.append(_packet(seconds + micros / parts, length, data, kind & 0xFFFF))
        at += 16 + kept
    return packets


def _packet(at_s: float, length: int, data: bytes, kind: int) -> Packet:
    cooked = COOKED_BYTES.get(kind, 0)
    if len(data) < cooked or (not cooked and kind != ETHERNET):
        return Packet(at_s, 0, "", length, ())
    if kind == LINUX_SLL2:
        protocol, _, index, _, way, _ = struct.unpack_from("!HHIHBB", data)
    elif kind == LINUX_SLL:
        # written by libpcap before 1.10; it does not say which interface
        way, *_, protocol = struct.unpack_from("!HHHQH", data)
        index = 0
    else:
        return Packet(at_s, 0, "", length, tuple(_ethernet(data)))
    layers = tuple(_network(protocol, data[cooked:]))
    return Packet(at_s, index, DIRECTIONS[min(way, 4)], length - cooked, layers)


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
        asks = "who has" if operation == 1 else "is at"
        who = str(ipaddress.IPv4Address(data[24:28] if operation == 1 else data[14:18]))
        return [Header("ARP", 28, ((asks, who), ("from", _mac(data[8:14]))))]
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
        if target == VXLAN_PORT and len(data) >= 16 and tunnels < MOST_TUNNELS:
            number = int.from_bytes(data[12:15], "big")
            return [
                header,
                Header("VXLAN", 8, (("network", str(number)),)),
                *_ethernet(data[16:], tunnels + 1),
            ]
        return [header]
    return []
