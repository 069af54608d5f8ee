"""Subnets of an engine's networks and its host's routes, and a free one.

Invalid subnets in the output of an engine or a kernel are skipped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE = tuple(
    ipaddress.IPv4Network(block)
    for block in ("10.200.0.0/16", "192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "100.64.0.0/10")
)
"""RFC 1918 and RFC 6598 (shared address space); first a part that is not in Docker's default pools."""
UNIQUE_LOCAL = ipaddress.IPv6Network("fd6c:6162::/48")
"""A prefix of RFC 4193 for IPv6 networks."""
MIN_PREFIX_LENGTH = 8
"""Shorter prefixes are not subnets but halves of a default route, as VPN clients add them (0.0.0.0/1)."""


def parse_subnet(text: object) -> Subnet | None:
    """The subnet in `text`, with or without host bits; None if it is not a subnet."""
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return None


def network_subnets(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Subnet, str]]:
    """(subnet, name) of each pool of the engine's networks (Engine API, `GET /networks`)."""
    for row in rows:
        for pool in (row.get("IPAM") or {}).get("Config") or []:
            subnet = parse_subnet((pool or {}).get("Subnet") or "")
            if subnet is not None:
                yield subnet, str(row.get("Name", ""))


def route_subnets(destinations: Iterable[str]) -> Iterator[Subnet]:
    """The subnets among destinations of routes, without default routes and their halves."""
    for destination in destinations:
        subnet = parse_subnet(destination)
        if subnet is not None and subnet.prefixlen >= MIN_PREFIX_LENGTH:
            yield subnet


def free_subnet(taken: Sequence[Subnet], version: int = 4) -> Subnet | None:
    """A private subnet (/24, or /64 of IPv6) that does not overlap any of `taken`; None if there is none."""
    blocks: Iterable[Subnet] = PRIVATE if version == 4 else (UNIQUE_LOCAL,)
    length = 24 if version == 4 else 64
    for block in blocks:
        near = [other for other in taken if overlaps(block, [other])]
        if any(other.prefixlen <= block.prefixlen for other in near):
            continue  # the whole block is taken
        for subnet in block.subnets(new_prefix=length):
            if not overlaps(subnet, near):
                return subnet
    return None


def overlaps(subnet: Subnet, taken: Iterable[Subnet]) -> bool:
    """Whether it shares an address with one of `taken`; IPv4 and IPv6 never do."""
    return any(subnet.version == other.version and subnet.overlaps(other) for other in taken)
