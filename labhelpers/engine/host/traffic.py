"""Packets that a network namespace has received, from the kernel's counters.

Exercises about packets that arrive, or do not, are checked on the receiving side.
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
    """Counters of one network namespace, since its creation."""

    packets: int = column("IPv4 unicast packets, whether or not they were accepted")
    pings: int = column("ICMP echo requests, IPv4 and IPv6")
    connections: int = column("TCP connections that were accepted")


def received_traffic(host: HostView, container: Container | str) -> Received:
    """The counters of a running container's network namespace.

    Raises:
        LabError: the container does not exist or is not running.
    """
    pid = host.process(container).pid
    paths = [f"/proc/{pid}/net/{name}" for name in ("snmp", "netstat", "snmp6")]
    return parse_counters(host.read_many(paths).values())


def parse_counters(texts: Iterable[str | None]) -> Received:
    """The counters in the texts of those files; missing counters are 0."""
    counters: dict[str, int] = {}
    for text in texts:
        counters |= _fields(text or "")
    packets = counters.get("Ip InReceives", 0)
    packets -= counters.get("IpExt InMcastPkts", 0) + counters.get("IpExt InBcastPkts", 0)
    pings = counters.get("Icmp InEchos", 0) + counters.get("Icmp6InEchos", 0)
    return Received(packets, pings, counters.get("Tcp PassiveOpens", 0))


def _fields(text: str) -> dict[str, int]:
    """name → value, from pairs of lines (`Ip: InReceives …` and `Ip: 7 …`) or from lines with a name and a value."""
    counters: dict[str, int] = {}
    names: list[str] = []
    for line in lines(text):
        first, *rest = line.split()
        numbers = [number for field in rest if (number := integer(field)) is not None]
        if not first.endswith(":"):
            counters |= {first: numbers[0]} if len(numbers) == len(rest) == 1 else {}
        elif len(numbers) == len(rest):
            group = first.removesuffix(":")
            counters |= {f"{group} {name}": number for name, number in zip(names, numbers, strict=False)}
        else:
            names = rest
    return counters
