"""What a network namespace has received, from the kernel's own counters.

An exercise that asks for a packet to arrive, or not to, is decided on the receiving side.
Source: proc(5), /proc/PID/net/snmp, netstat and snmp6; the names are those of RFC 4293, 4022 and 5097.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from labhelpers.engine.host.text import integer, lines
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.host import HostView


@record
class Received(Result):
    """Counters of one network namespace, since it was made."""

    packets: int = column("IPv4 unicast packets, whether or not they were accepted")
    pings: int = column("ICMP echo requests, IPv4 and IPv6")
    connections: int = column("TCP connections that were accepted")


def received_traffic(host: HostView, container: Container | str) -> Received:
    """What the network namespace of a running container has received so far.

    Raises:
        LabError: there is no such container, or it does not run.
    """
    pid = host.process(container).pid
    paths = [f"/proc/{pid}/net/{name}" for name in ("snmp", "netstat", "snmp6")]
    return parse_counters(host.read_many(paths).values())


def parse_counters(texts: Iterable[str | None]) -> Received:
    """The counters in the texts of those files; what a kernel does not print counts as 0."""
    found: dict[str, int] = {}
    for text in texts:
        found |= _fields(text or "")
    packets = found.get("Ip InReceives", 0)
    packets -= found.get("IpExt InMcastPkts", 0) + found.get("IpExt InBcastPkts", 0)
    pings = found.get("Icmp InEchos", 0) + found.get("Icmp6InEchos", 0)
    return Received(packets, pings, found.get("Tcp PassiveOpens", 0))


def _fields(text: str) -> dict[str, int]:
    """name → value: from lines in pairs (`Ip: InReceives …` and `Ip: 7 …`), or of one name and its value each."""
    found: dict[str, int] = {}
    names: list[str] = []
    for line in lines(text):
        first, *rest = line.split()
        numbers = [number for word in rest if (number := integer(word)) is not None]
        if not first.endswith(":"):
            found |= {first: numbers[0]} if len(numbers) == len(rest) == 1 else {}
        elif len(numbers) == len(rest):
            group = first.removesuffix(":")
            found |= {f"{group} {name}": number for name, number in zip(names, numbers, strict=False)}
        else:
            names = rest
    return found
