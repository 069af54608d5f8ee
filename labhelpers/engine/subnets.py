"""Subnets: those that an engine's networks and its host's routes have, and a free one.

Addresses that an engine or a kernel reports are read tolerantly: what is no subnet is left out.
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
"""RFC 1918 and RFC 6598 (shared address space); first a part that Docker's default pools do not have."""
UNIQUE_LOCAL = ipaddress.IPv6Network("fd6c:6162::/48")
"""Out of RFC 4193, for networks with IPv6."""
MIN_PREFIX_LENGTH = 8
"""Prefix lengths below this are parts of a default route, as VPN clients write them (0.0.0.0/1); nobody's subnet."""


def parse_subnet(text: object) -> Subnet | None:
    """The subnet that `text` writes, host bits or not; None where it is something else."""
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
    """The subnets out of destinations of routes, without default routes and their parts."""
    for destination in destinations:
        subnet = parse_subnet(destination)
        if subnet is not None and subnet.prefixlen >= MIN_PREFIX_LENGTH:
            yield subnet


def free_subnet(taken: Sequence[Subnet], version: int = 4) -> Subnet | None:
    """A private subnet (/24, or /64 of IPv6) that overlaps none of `taken`; None where there is none."""
    blocks: Iterable[Subnet] = PRIVATE if version == 4 else (UNIQUE_LOCAL,)
    length = 24 if version == 4 else 64
    for block in blocks:
        near = [one for one in taken if overlaps(block, [one])]
        if any(one.prefixlen <= block.prefixlen for one in near):
            continue  # all of the block is taken
        for subnet in block.subnets(new_prefix=length):
            if not overlaps(subnet, near):
                return subnet
    return None


def overlaps(subnet: Subnet, taken: Iterable[Subnet]) -> bool:
    """Whether it shares an address with one of `taken`; IPv4 and IPv6 share none."""
    return any(subnet.version == one.version and subnet.overlaps(one) for one in taken)
