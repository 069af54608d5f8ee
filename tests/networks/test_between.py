"""The drivers, the overlay between two engines, and what each way costs.

One file, so that one process of pytest-xdist has the two engines, whose names are fixed, for itself.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time

import pytest

from labhelpers import networks
from labhelpers.errors import BadInput, LabError, NameTaken
from labhelpers.lab import Lab
from labhelpers.networks.drivers import Macvlan
from labhelpers.networks.firewall import PortAccess, PortRules
from labhelpers.networks.host_snapshot import HostNetworkSnapshot
from labhelpers.networks.overlay import NAMES, UNDERLAY_NETWORK, SwarmEngines
from labhelpers.networks.packet_trace import PacketTraces
from labhelpers.networks.paths import PATHS, Paths, Sample
from labhelpers.networks.swarm import OverlayPing

# --- The drivers, each as the engine makes it; and the wire, which goes with its container however that goes.


@pytest.fixture(scope="module")
def mac(shared_lab: Lab) -> Macvlan:
    return networks.macvlan(shared_lab)


def links(lab: Lab) -> set[str]:
    return {one.name for one in lab.host.interfaces()}


def test_default_and_own_bridges(shared_lab: Lab) -> None:
    mark = shared_lab.session[:4]
    names = [f"{name}-{mark}" for name in ("a", "b", "c", "d")]
    for network in ("one", "two"):
        shared_lab.create_network(f"{network}-{mark}")
    quiet = {"dns": ["127.0.0.1"]}
    image = shared_lab.image("payload")
    shared_lab.run(image, name=names[0], **quiet)
    shared_lab.run(image, name=names[1], network=f"one-{mark}", **quiet)
    shared_lab.run(image, name=names[2], network=f"one-{mark}", **quiet)
    shared_lab.run(image, name=names[3], network=f"two-{mark}", **quiet)
    try:
        shared_lab.client.networks.get(f"two-{mark}").connect(names[2])
        reaches = networks.reachability(shared_lab, names)
        a, b, c, d = names
        assert not reaches.of(a, b).by_address
        assert (reaches.of(b, c).by_address, reaches.of(b, c).by_name) == (True, True)
        assert (reaches.of(b, d).by_address, reaches.of(b, d).by_name) == (False, False)
        assert reaches.of(c, d).by_name
        assert reaches.of(d, c).by_name
        assert networks.resolver(shared_lab, b).server
        assert not networks.resolver(shared_lab, a).server
        said = [text.get_text() for text in reaches.plot().texts]
        assert said.count("address\nand name") == 4
        assert said.count("no") == len(reaches.pairs) - 4
    finally:
        for name in names:
            shared_lab.remove(name, force=True)
        for network in ("one", "two"):
            shared_lab.client.networks.get(f"{network}-{mark}").remove()


def test_who_is_not_there_reaches_nobody(shared_lab: Lab) -> None:
    with pytest.raises(BadInput, match="no container 'nobody-here'"):
        networks.reachability(shared_lab, ["nobody-here"])
    assert networks.reachability(shared_lab, []).pairs == ()


def test_host(shared_lab: Lab) -> None:
    found = networks.host_driver(shared_lab)
    assert found.same_namespace
    assert found.answered
    assert found.second_status != 0
    assert "in use" in found.second_words


def test_none(shared_lab: Lab) -> None:
    found = networks.no_network(shared_lab)
    assert (found.interfaces, found.routes, found.loopback_answers) == (("lo",), 0, True)
    assert "unreachable" in found.words


def test_macvlan_is_reached_by_its_neighbours_and_not_by_its_host(mac: Macvlan) -> None:
    assert mac.between
    assert mac.from_neighbour
    assert not mac.from_host
    assert mac.host_neighbour in ("INCOMPLETE", "FAILED", "NONE")


def test_macvlan_has_its_own_mac_and_the_neighbour_sees_it(mac: Macvlan) -> None:
    assert len({mac.parent_mac, *(address for _, address in mac.macs)}) == 3
    assert mac.neighbour_saw == mac.macs


def test_macvlan_is_drawn_on_its_parent_without_a_bridge(mac: Macvlan) -> None:
    assert {end.kind for end in mac.map.ends} == {"macvlan", "veth"}
    assert {end.bridge for end in mac.map.ends} == {None}
    assert {end.host_interface for end in mac.map.ends} == {mac.parent}
    said = [text.get_text() for text in mac.plot().texts]
    assert mac.parent in said
    assert said.count("macvlan: no pair") == 2


def test_ipvlan_where_the_kernel_has_it(shared_lab: Lab) -> None:
    found = networks.ipvlan(shared_lab)
    if not found.supported:
        assert found.words
        pytest.skip(f"this kernel has no ipvlan: {found.words}")
    assert found.same_mac


def is_gone(lab: Lab, link: str) -> bool:
    """Whether it goes: the kernel takes a network namespace apart after its last process has ended."""
    end = time.monotonic() + 60
    while link in links(lab):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def test_a_wire_goes_with_its_container(shared_lab: Lab) -> None:
    far = f"far-{shared_lab.session[:4]}"
    laid = networks.veth_pair(shared_lab, far)
    assert laid.link in links(shared_lab)
    with pytest.raises(NameTaken):
        networks.veth_pair(shared_lab, far)
    shared_lab.remove(far, force=True)
    assert is_gone(shared_lab, laid.link)


def test_a_wire_goes_when_the_notebook_is_killed(shared_lab: Lab) -> None:
    script = (
        "import sys, time\nfrom labhelpers import networks\nfrom labhelpers.lab import Lab\n"
        "lab = Lab('test')\nlaid = networks.veth_pair(lab, f'far-{lab.session}')\n"
        "print(laid.link, flush=True)\ntime.sleep(600)\n"
    )
    environment = os.environ | {
        "DOCKER_HOST": shared_lab.engine.address,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as it:
        assert it.stdout is not None
        link = it.stdout.readline().strip()
        assert link in links(shared_lab)
        it.send_signal(signal.SIGKILL)
    assert is_gone(shared_lab, link)


def test_what_comes_and_goes_while_it_is_counted_is_not_left_behind() -> None:
    before = HostNetworkSnapshot(frozenset({"eth0"}), frozenset(), frozenset(), frozenset({"old"}))
    first = HostNetworkSnapshot(
        frozenset({"eth0", "veth1", "stays"}), frozenset({"br-1"}), frozenset(), frozenset({"old"})
    )
    second = HostNetworkSnapshot(
        frozenset({"eth0", "veth2", "stays"}), frozenset(), frozenset({"/n"}), frozenset({"old"})
    )
    assert first.staying(second, before).since(before) == ("interfaces: stays",)


def test_the_census_sees_what_is_left_and_nothing_else(shared_lab: Lab) -> None:
    before = networks.host_network_snapshot(shared_lab)

    def left() -> tuple[str, ...]:
        # what other tests start and end beside this one goes again; what is left behind stays
        end = time.monotonic() + 15
        while (
            found := networks.host_network_snapshot(shared_lab, since=before).since(before)
        ) and time.monotonic() < end:
            time.sleep(0.5)
        return found

    network = shared_lab.create_network(f"counted-{shared_lab.session[:4]}")
    container = shared_lab.run(shared_lab.image("payload"), network=str(network.name), ports={"80/tcp": None})
    try:
        assert left() == ()
    finally:
        shared_lab.remove(container, force=True)
        network.remove()
    assert left() == ()
    more = HostNetworkSnapshot(
        before.interfaces | {"left0"}, before.bridges, before.namespaces, before.rules | {"a rule"}
    )
    assert more.since(before) == ("interfaces: left0", "rules: a rule")


# --- Requests followed, ports in the firewall, and what the ways cost.


@pytest.fixture(scope="module")
def journeys(shared_lab: Lab) -> PacketTraces:
    return networks.trace_packets(shared_lab)


@pytest.fixture(scope="module")
def rules(shared_lab: Lab) -> tuple[PortRules, PortRules]:
    return networks.port_rules(shared_lab, everywhere=True), networks.port_rules(shared_lab, everywhere=False)


@pytest.fixture(scope="module")
def reached(shared_lab: Lab) -> PortAccess:
    return networks.port_access(shared_lab)


def test_all_three_requests_were_answered(journeys: PacketTraces) -> None:
    for journey in (journeys.to_container, journeys.to_host, journeys.to_outside):
        assert journey.answered, journey.name
        assert journey.request[0].place == "client"
        assert journey.reply[-1].place == "client"
        assert journey.reply[-1].target == journey.request[0].source


def test_inside_of_a_network_nothing_is_translated(journeys: PacketTraces) -> None:
    request = journeys.to_container.request
    assert [hop.place for hop in request] == ["client", "the host", "the host", "server"]
    assert len({(hop.source, hop.target) for hop in request}) == 1


def test_on_the_way_out_the_source_becomes_the_hosts(shared_lab: Lab, journeys: PacketTraces) -> None:
    out = journeys.to_outside
    assert out.source_changed
    assert not journeys.to_host.source_changed
    assert [hop.place for hop in out.request] == ["client", "the host", "the host", "the host", "outside"]
    source, target = (
        ipaddress.ip_interface(f"{text.rpartition(':')[0]}/24").network
        for text in (out.request[-1].source, out.request[-1].target)
    )
    assert source == target, "the host's address on the wire is in the wire's subnet"


def test_counters_on_the_way_went_up(journeys: PacketTraces) -> None:
    for journey in (journeys.to_container, journeys.to_host, journeys.to_outside):
        assert journey.interfaces
        assert all(count.after > count.before for count in journey.interfaces)


def test_the_drawing_of_a_journey_says_where_it_was_translated(journeys: PacketTraces) -> None:
    said = [text.get_text() for text in journeys.to_outside.plot().texts]
    assert len([text for text in said if text.endswith("translated")]) == 2
    for hop in journeys.to_outside.hops:
        assert f"{hop.place}\n{hop.interface}" in said
    assert not [
        text.get_text() for text in journeys.to_container.plot().texts if "translated" in text.get_text()
    ]


def test_what_publishing_writes(rules: tuple[PortRules, PortRules]) -> None:
    everywhere, local = rules
    for one in rules:
        assert one.translations or one.proxies
        assert all(one.inside in text for _, _, text in one.rules)
    assert not any("127.0.0.1" in text for text in everywhere.translations)
    assert all("127.0.0.1" in text for text in local.translations)


def test_those_rules_go_with_the_container(shared_lab: Lab, rules: tuple[PortRules, PortRules]) -> None:
    port = rules[0].published.partition(":")[0]
    gone = [rule.text for rule in shared_lab.host.firewall().rules if f"--dport {port} " in rule.text]
    assert not [text for text in gone if rules[0].inside in text]


def test_who_reaches_a_published_port(reached: PortAccess) -> None:
    assert reached.answered("127.0.0.1", "the host")
    assert not reached.answered("127.0.0.1", "the neighbour")
    assert reached.answered("the neighbour's side", "the neighbour")


def test_every_way_of_one_engine_was_measured(paths: Paths) -> None:
    assert set(paths.names) | {name for name, _ in paths.left_out} == set(PATHS)
    assert {name for name, _ in paths.left_out} <= {"overlay"}
    assert all(why for _, why in paths.left_out)
    for sample in paths.samples:
        assert len(sample.round_trips_us) == 400
        assert min(sample.round_trips_us) > 0
        assert min(sample.one_stream_bits_per_s, sample.four_streams_bits_per_s) > 0


def test_the_figure_of_the_ways_shows_them_all_in_their_order(paths: Paths) -> None:
    ax = paths.plot()
    left, right = ax.child_axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(paths.ranking)
    assert any(text.get_text() == "the host's own loopback" for text in right.texts)
    assert len(right.patches) == 2 * len(paths.names)


def test_no_rounds_are_no_measurement(shared_lab: Lab) -> None:
    for rounds in (0, -1, 51, True):
        with pytest.raises(BadInput):
            networks.paths(shared_lab, rounds=rounds)


def test_medians_and_percentiles_of_known_numbers() -> None:
    sample = Sample("host", 0, tuple(float(n) for n in range(1, 101)), 2e9, 4e9)
    ways = Paths((sample,), ())
    assert [ways.percentile_us("host", p) for p in (0, 50, 99, 100)] == [1.0, 51.0, 100.0, 100.0]
    assert ways.streams("host", 4) == [4e9]
    assert ways.frame().iloc[0]["1 stream Gbit/s"] == "2 (2 to 2)"


# --- Two engines in one: a swarm, an overlay, its packets, its MTU, and the loss of one of them. In this order.


@pytest.fixture(scope="module")
def across(shared_lab: Lab, engines: SwarmEngines) -> OverlayPing:
    return networks.overlay_ping(shared_lab, engines)


def test_they_are_a_swarm(engines: SwarmEngines) -> None:
    nodes = engines.docker(1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
    assert sorted(nodes) == ["engine-1 Ready", "engine-2 Ready"]
    assert engines.started_s > 0


def test_no_port_of_theirs_is_published(engines: SwarmEngines) -> None:
    for container in engines.containers:
        container.reload()
        assert not any(container.attrs["NetworkSettings"]["Ports"].values())
        assert not container.attrs["HostConfig"]["Privileged"]


def test_what_they_refuse_is_said(engines: SwarmEngines) -> None:
    with pytest.raises(BadInput, match="no engine 3"):
        engines.docker(3, "ps")
    with pytest.raises(LabError, match="said no") as refused:
        engines.docker(1, "inspect", "nobody")
    assert "nobody" in str(refused.value.engine_message)
    with pytest.raises(BadInput, match="not possible"):
        networks.mtu_probe(engines, -1)


def test_names_are_found_across(across: OverlayPing) -> None:
    assert across.answered


def test_the_inner_packet_is_in_the_outer_one(across: OverlayPing) -> None:
    request = across.request
    outer, inner = request.layer("IPv4"), request.layer("IPv4", 1)
    assert outer is not None
    assert inner is not None
    assert [outer.get("from"), outer.get("to")] == [address for _, address in across.engines]
    assert [inner.get("from"), inner.get("to")] == [address for _, address in across.addresses]
    assert across.headers_bytes == 50
    assert int(outer.get("length")) == int(inner.get("length")) + 50


def test_its_drawing_has_every_header_and_whose_it_is(across: OverlayPing) -> None:
    said = [text.get_text() for text in across.plot().texts]
    assert len([text for text in said if text.startswith("IPv4\n")]) == 2
    assert any("outer packet" in text and across.engines[0][1] in text for text in said)
    assert any("inner packet" in text and across.addresses[1][1] in text for text in said)


def test_the_largest_that_crosses(engines: SwarmEngines, across: OverlayPing) -> None:
    largest = across.mtu_bytes - 28
    assert networks.mtu_probe(engines, largest).crossed
    assert not networks.mtu_probe(engines, largest + 1).crossed


def test_a_network_that_promises_too_much(engines: SwarmEngines, across: OverlayPing) -> None:
    assert networks.mtu_probe(engines, across.mtu_bytes - 28, wide=True).crossed
    lost = networks.mtu_probe(engines, across.mtu_bytes - 27, wide=True)
    assert not lost.crossed
    assert lost.words


def test_the_overlay_is_measured_too(engines: SwarmEngines, paths: Paths) -> None:
    assert "overlay" in paths.names
    assert paths.left_out == ()


def test_a_lost_engine_is_replaced_and_nothing_is_left(shared_lab: Lab, engines: SwarmEngines) -> None:
    lost = networks.kill_engine(engines)
    assert dict(lost.before) == {"engine-1": 1, "engine-2": 1}
    assert dict(lost.after) == {"engine-1": 2, "engine-2": 0}
    assert 0 < lost.noticed_s <= lost.replaced_s
    assert set(lost.addresses_before) != set(lost.addresses_after)
    said = {text.get_text() for text in lost.plot().texts}
    assert {"2 replicas", "killed"} <= said
    volumes = [
        mount["Name"]
        for one in engines.containers
        for mount in one.attrs["Mounts"]
        if mount["Type"] == "volume"
    ]
    assert len(volumes) == 2
    engines.close()
    left = {name.lstrip("/") for row in shared_lab.client.api.containers(all=True) for name in row["Names"]}
    assert not left & set(NAMES)
    assert UNDERLAY_NETWORK not in {row["Name"] for row in shared_lab.client.api.networks()}
    assert not {row["Name"] for row in shared_lab.client.api.volumes()["Volumes"] or []} & set(volumes)
    with pytest.raises(LabError, match="closed"):
        engines.docker(1, "ps")
