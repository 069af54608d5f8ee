"""Subnets of networks and routes, in the forms that engines and kernels print, and one that none of them has."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labhelpers.engine import subnets
from labhelpers.engine.subnets import Subnet


@pytest.mark.parametrize(
    ("text", "subnet"),
    [
        ("172.17.0.0/16", "172.17.0.0/16"),
        ("172.28.5.3/16", "172.28.0.0/16"),  # given with host bits, and kept so by the engine
        ("10.8.0.1", "10.8.0.1/32"),  # a route to one host
        ("fd00:1::/64", "fd00:1::/64"),
        ("default", None),
        ("", None),
        (None, None),
        ("172.17.0.0/99", None),
    ],
)
def test_forms_of_a_subnet(text: object, subnet: str | None) -> None:
    found = subnets.parse_subnet(text)
    assert (None if found is None else str(found)) == subnet


def test_networks_without_addresses_are_left_out() -> None:
    rows = [
        {"Name": "bridge", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]}},
        {"Name": "host", "IPAM": {"Driver": "default", "Config": None}},
        {"Name": "none", "IPAM": None},
        {"Name": "odd", "IPAM": {"Config": [None, {}, {"Subnet": "invalid Prefix"}]}},
        {"Name": "dual", "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "10.1.0.0/24"}]}},
    ]
    found = [(str(subnet), name) for subnet, name in subnets.network_subnets(rows)]
    assert found == [("172.17.0.0/16", "bridge"), ("fd00::/64", "dual"), ("10.1.0.0/24", "dual")]


def test_parts_of_a_default_route_take_nothing() -> None:
    vpn = ["default", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "172.16.0.0/12"]
    taken = list(subnets.route_subnets(vpn))
    assert str(subnets.free_subnet(taken)) == "192.168.0.0/24"


SUBNETS = st.builds(
    lambda address, length: ipaddress.ip_network((address, length), strict=False),
    st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4),
    st.integers(8, 32),
)


@given(st.lists(SUBNETS, max_size=40))
def test_a_free_subnet_overlaps_nothing(taken: list[Subnet]) -> None:
    free = subnets.free_subnet(taken)
    if free is not None:
        assert not any(free.overlaps(item) for item in taken)  # type: ignore[arg-type]
        assert free.is_private or free.subnet_of(ipaddress.IPv4Network("100.64.0.0/10"))  # type: ignore[arg-type]


def test_there_may_be_none_free() -> None:
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    assert subnets.free_subnet(everything) is None
    assert subnets.free_subnet(everything, 6) is None
    assert str(subnets.free_subnet([], 6)) == "fd6c:6162::/64"
