"""The map compared with `ip`, `bridge` and `docker inspect`, for one container and for twenty."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Any

import pytest
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from labhelpers import networks
from labhelpers.errors import BadInput
from labhelpers.lab import Lab, sessions
from labhelpers.networks.map_widget import render_png
from labhelpers.networks.maps import NetworkMap
from labhelpers.networks.veth import free_subnet

MANY, FIVE = 20, 5
DUAL = "10.213.9.0/24"


OBSERVER: dict[str, Any] = {
    "pid": "host",
    "network": "host",
    "cap_drop": ["ALL"],
    "cap_add": ["SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN"],
    "security_opt": ["apparmor=unconfined"],
}


@pytest.fixture(scope="module")
def observer(shared_lab: Lab) -> Iterator[Container]:
    """A container whose tools read the host independently of the lab."""
    container = shared_lab.run(shared_lab.image("tools"), ["sleep", "6000"], **OBSERVER)
    yield container
    shared_lab.remove(container, force=True)


def outputs(lab: Lab, observer: Container, *commands: str) -> list[Any]:
    """The JSON output of each command in the observer."""
    result = lab.exec(observer, ["sh", "-c", "; echo; ".join(commands)])
    assert result.exit_code == 0, result
    return [json.loads(line) for line in result.stdout.splitlines() if line.strip()]


def check_against_tools(lab: Lab, observer: Container, network_map: NetworkMap, names: list[str]) -> None:
    pids = [lab.client.api.inspect_container(name)["State"]["Pid"] for name in names]
    inside = [f"nsenter --net=/proc/{pid}/ns/net ip -j address" for pid in pids]
    all_links, all_ports, *addresses = outputs(lab, observer, "ip -j -d link", "bridge -j link", *inside)
    links = {row["ifindex"]: row for row in all_links if row}
    ports = {row["ifname"]: row["master"] for row in all_ports if "master" in row}
    spaces = dict(zip(names, addresses, strict=True))
    for name in names:
        real = {
            row["ifname"]: row
            for row in spaces[name]
            if "LOOPBACK" not in row["flags"] and "link_index" in row
        }
        ends = {end.interface: end for end in network_map.endpoints_of(name)}
        assert ends.keys() == real.keys()
        for interface, row in real.items():
            end = ends[interface]
            assert (end.index, end.mac, end.mtu_bytes) == (row["ifindex"], row["address"], row["mtu"])
            assert end.host_index == row["link_index"]
            assert links[row["link_index"]]["ifname"] == end.host_interface
            assert links[row["link_index"]]["link_index"] == end.index
            assert end.bridge == ports[str(end.host_interface)]
            own = {f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"] if a["scope"] == "global"}
            assert set(end.addresses) == own


def check_against_engine(lab: Lab, network_map: NetworkMap, names: list[str]) -> None:
    for network in {end.network for name in names for end in network_map.endpoints_of(name)}:
        row: dict[str, Any] = lab.client.api.inspect_network(network)
        members = {one["Name"]: one for one in row["Containers"].values() if one["Name"] in names}
        mapped = {
            end.container: end
            for end in network_map.endpoints
            if end.network == network and end.container in names
        }
        assert members.keys() == mapped.keys()
        for name, one in members.items():
            assert one["IPv4Address"] in mapped[name].addresses
            assert one["MacAddress"] == mapped[name].mac
        on_map = next(one for one in network_map.networks if one.name == network)
        assert on_map.subnets[0] == row["IPAM"]["Config"][0]["Subnet"]
        assert on_map.interface == next(iter(mapped.values())).bridge
        bridge = network_map.bridge(network)
        assert bridge is not None
        assert set(bridge.ports) >= {end.host_interface for end in mapped.values()}


@pytest.fixture(scope="module")
def many(shared_lab: Lab) -> Iterator[list[str]]:
    """Twenty containers on five networks, two of them on two."""
    mark = shared_lab.session[:4]
    wide = [f"net{number}-{mark}" for number in range(FIVE)]
    for network in wide:
        shared_lab.create_network(network)
    names = [f"m{number:02}-{mark}" for number in range(MANY)]
    image = shared_lab.image("payload")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: shared_lab.run(image, name=names[n], network=wide[n % FIVE]), range(MANY)))
    for number in (0, 1):
        shared_lab.client.networks.get(wide[number + 1]).connect(names[number])
    yield names
    with ThreadPoolExecutor(4) as pool:
        # those that died in a test are gone
        left = {name for row in shared_lab.client.api.containers(all=True) for name in row["Names"]}
        list(
            pool.map(lambda name: shared_lab.remove(name, force=True), [n for n in names if f"/{n}" in left])
        )
    for network in wide:
        shared_lab.client.networks.get(network).remove()


def test_one_container(shared_lab: Lab, observer: Container) -> None:
    web = shared_lab.run(shared_lab.image("payload"), ports={"80/tcp": None})
    try:
        name = str(web.name)
        network_map = networks.network_map(shared_lab)
        check_against_tools(shared_lab, observer, network_map, [name])
        check_against_engine(shared_lab, network_map, [name])
        web.reload()
        (published,) = [one for one in network_map.published if one.container == name]
        binding = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]
        assert (published.host_address, str(published.host_port)) == (binding["HostIp"], binding["HostPort"])
        assert published.rules or published.proxy, "nothing leads to the port"
        own = network_map.endpoints_of(name)[0].addresses[0].partition("/")[0]
        assert all(own in rule and str(published.host_port) in rule for rule in published.rules)
    finally:
        shared_lab.remove(web, force=True)


def test_twenty_containers_on_five_networks(shared_lab: Lab, observer: Container, many: list[str]) -> None:
    network_map = networks.network_map(shared_lab)
    check_against_tools(shared_lab, observer, network_map, many)
    check_against_engine(shared_lab, network_map, many)
    assert len(network_map.endpoints_of(many[0])) == 2


def test_a_map_of_some(shared_lab: Lab, many: list[str]) -> None:
    network_map = networks.network_map(shared_lab, many[:2])
    assert [each.name for each in network_map.containers] == many[:2]
    assert {network.name for network in network_map.networks} == {
        end.network for end in network_map.endpoints
    }
    assert {bridge.name for bridge in network_map.bridges} == {end.bridge for end in network_map.endpoints}
    with pytest.raises(BadInput, match="no container called"):
        networks.network_map(shared_lab, ["no-such-container"])


def test_the_figure_labels_every_endpoint_once(shared_lab: Lab, many: list[str]) -> None:
    network_map = networks.network_map(shared_lab, many)
    ax = network_map.plot()
    ax.figure.canvas.draw()
    labels = [" ".join(text.get_text().split()) for text in ax.texts]
    for end in network_map.endpoints:
        assert labels.count(f"{end.host_interface} · {end.host_index}") == 1
        assert f"{end.interface} · {end.index}" in labels
    for bridge in network_map.bridges:
        assert bridge.name in labels
    whole = ax.figure.bbox
    for text in ax.texts:
        extent = text.get_window_extent()
        assert whole.contains(extent.x0, extent.y0), text
        assert whole.contains(extent.x1, extent.y1), text


def test_a_container_on_two_bridges_is_one_box(shared_lab: Lab, many: list[str]) -> None:
    first = networks.network_map(shared_lab, [many[0]])
    names = [text.get_text() for text in first.plot().texts]
    assert names.count(many[0]) == 1
    assert f"{many[0]} (again)" not in names


def test_host_and_none_are_drawn_without_a_link(shared_lab: Lab) -> None:
    mark = shared_lab.session[:4]
    on_host = shared_lab.run(
        shared_lab.image("payload"), ["sleep", "600"], name=f"own-{mark}", network="host"
    )
    nobody = shared_lab.run(
        shared_lab.image("payload"), ["sleep", "600"], name=f"none-{mark}", network="none"
    )
    try:
        network_map = networks.network_map(shared_lab, [f"own-{mark}", f"none-{mark}"])
        assert {each.name: each.shares_host for each in network_map.containers} == {
            f"own-{mark}": True,
            f"none-{mark}": False,
        }
        assert network_map.endpoints == ()
        labels = {text.get_text() for text in network_map.plot().texts}
        assert {"network: host", "only lo"} <= labels
    finally:
        for container in (on_host, nobody):
            shared_lab.remove(container, force=True)


def test_the_live_map_follows(shared_lab: Lab, many: list[str]) -> None:
    live = networks.live_map(shared_lab, "m0")
    try:
        assert live.shows(many[0])
        name = f"m0-late-{shared_lab.session[:4]}"
        late = shared_lab.run(shared_lab.image("payload"), name=name)
        assert live.shows(name)
        assert live.last is not None
        assert render_png(live.last).startswith(b"\x89PNG")
        shared_lab.remove(late, force=True)
    finally:
        live.stop()


def test_while_containers_die(shared_lab: Lab, observer: Container, many: list[str]) -> None:
    """Every map is consistent: no endpoint without its other end, none of a container that has ended."""
    doomed = many[10:]
    done = threading.Event()

    def kill() -> None:
        for name in doomed:
            shared_lab.remove(name, force=True)
        done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    maps = 0
    while not done.is_set() or maps == 0:
        network_map = networks.network_map(shared_lab)
        maps += 1
        by_index = {one.index: one for one in network_map.host_interfaces}
        for end in (one for one in network_map.endpoints if one.container in many):
            assert end.host_index is not None, end
            assert by_index[end.host_index].peer_index == end.index
    killer.join()
    network_map = networks.network_map(shared_lab)
    assert not {each.name for each in network_map.containers} & set(doomed)
    check_against_tools(shared_lab, observer, network_map, many[:4])


def test_a_network_with_ipv4_and_ipv6(shared_lab: Lab, observer: Container) -> None:
    mark = shared_lab.session[:4]
    name, six = f"dual-{mark}", f"fd00:{mark}::/64"
    pools = [IPAMPool(subnet=six), IPAMPool(subnet=DUAL)]  # IPv6 first, as an engine may list them
    ipam, labels = IPAMConfig(pool_configs=pools), sessions.labels("network", "test", shared_lab.session)
    shared_lab.client.networks.create(name, enable_ipv6=True, ipam=ipam, labels=labels)
    try:
        container = shared_lab.run(
            shared_lab.image("payload"),
            ["httpd", "-f", "-p", "80"],
            name=name,
            network=name,
            ports={80: None},
        )
        network_map = networks.network_map(shared_lab, [name])
        check_against_tools(shared_lab, observer, network_map, [name])
        check_against_engine(shared_lab, network_map, [name])
        (end,) = network_map.endpoints
        assert [":" in address for address in end.addresses] == [False, True]
        assert (end.network, end.gateway) == (name, str(IPv4Network(DUAL)[1]))
        bridge = network_map.bridge(name)
        assert bridge is not None
        assert [":" in address for address in bridge.addresses] == [False, True]
        assert network_map.published
        assert all(str(one.host_port) in rule for one in network_map.published for rule in one.rules)
        network_map.plot()
        shared_lab.remove(container, force=True)
        # the free subnet of a veth pair overlaps no network's, whichever family comes first
        assert not free_subnet(shared_lab).overlaps(IPv4Network(DUAL))
    finally:
        shared_lab.client.networks.get(name).remove()
