"""The network drivers, the overlay network of two engines, and the cost of each path.

One file, so that only one process of pytest-xdist uses the two engines, whose names are fixed.
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

# --- network drivers and veth pairs


@pytest.fixture(scope="module")
def mac(shared_lab: Lab) -> Macvlan:
    return networks.macvlan(shared_lab)


def links(lab: Lab) -> set[str]:
    return {interface.name for interface in lab.host.interfaces()}


def test_default_and_own_bridges(shared_lab: Lab) -> None:
    mark = shared_lab.session[:4]
    names = [f"{name}-{mark}" for name in ("a", "b", "c", "d")]
    for network in ("one", "two"):
        shared_lab.create_network(f"{network}-{mark}")
    no_dns = {"dns": ["127.0.0.1"]}
    image = shared_lab.image("payload")
    shared_lab.run(image, name=names[0], **no_dns)
    shared_lab.run(image, name=names[1], network=f"one-{mark}", **no_dns)
    shared_lab.run(image, name=names[2], network=f"one-{mark}", **no_dns)
    shared_lab.run(image, name=names[3], network=f"two-{mark}", **no_dns)
    try:
        shared_lab.client.networks.get(f"two-{mark}").connect(names[2])
        reaches = networks.reachability(shared_lab, names)
        a, b, c, d = names
        assert not reaches.of(a, b).by_address
        assert (reaches.of(b, c).by_address, reaches.of(b, c).by_name) == (True, True)
        assert (reaches.of(b, d).by_address, reaches.of(b, d).by_name) == (False, False)
        assert reaches.of(c, d).by_name
        assert reaches.of(d, c).by_name
        assert networks.resolver(shared_lab, b).uses_docker_dns
        assert not networks.resolver(shared_lab, a).uses_docker_dns
        labels = [text.get_text() for text in reaches.plot().texts]
        assert labels.count("address\nand name") == 4
        assert labels.count("no") == len(reaches.pairs) - 4
    finally:
        for name in names:
            shared_lab.remove(name, force=True)
        for network in ("one", "two"):
            shared_lab.client.networks.get(f"{network}-{mark}").remove()


def test_a_container_that_does_not_exist(shared_lab: Lab) -> None:
    with pytest.raises(BadInput, match="no container 'no-such-container'"):
        networks.reachability(shared_lab, ["no-such-container"])
    assert networks.reachability(shared_lab, []).pairs == ()


def test_host(shared_lab: Lab) -> None:
    result = networks.host_driver(shared_lab)
    assert result.same_namespace
    assert result.answered
    assert result.second_status != 0
    assert "in use" in result.second_error


def test_none(shared_lab: Lab) -> None:
    result = networks.no_network(shared_lab)
    assert (result.interfaces, result.routes, result.loopback_answers) == (("lo",), 0, True)
    assert "unreachable" in result.error


def test_macvlan_is_reached_by_its_neighbours_and_not_by_its_host(mac: Macvlan) -> None:
    assert mac.containers_reach_each_other
    assert mac.reachable_from_neighbour
    assert not mac.reachable_from_host
    assert mac.host_arp_state in ("INCOMPLETE", "FAILED", "NONE")


def test_macvlan_has_its_own_mac_and_the_neighbour_sees_it(mac: Macvlan) -> None:
    assert len({mac.parent_mac, *(address for _, address in mac.macs)}) == 3
    assert mac.macs_seen_by_neighbour == mac.macs


def test_macvlan_is_drawn_on_its_parent_without_a_bridge(mac: Macvlan) -> None:
    assert {endpoint.kind for endpoint in mac.map.endpoints} == {"macvlan", "veth"}
    assert {endpoint.bridge for endpoint in mac.map.endpoints} == {None}
    assert {endpoint.host_interface for endpoint in mac.map.endpoints} == {mac.parent}
    labels = [" ".join(text.get_text().split()) for text in mac.plot().texts]
    assert mac.parent in labels
    assert labels.count("macvlan: no pair") == 2


def test_ipvlan_if_the_kernel_supports_it(shared_lab: Lab) -> None:
    result = networks.ipvlan(shared_lab)
    if not result.supported:
        assert result.error
        pytest.skip(f"this kernel has no ipvlan: {result.error}")
    assert result.same_mac


def is_gone(lab: Lab, link: str) -> bool:
    """Whether the kernel removes it: it cleans up a network namespace after its last process has ended."""
    end = time.monotonic() + 60
    while link in links(lab):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def test_a_veth_pair_is_removed_with_its_container(shared_lab: Lab) -> None:
    peer = f"peer-{shared_lab.session[:4]}"
    pair = networks.veth_pair(shared_lab, peer)
    assert pair.host_interface in links(shared_lab)
    with pytest.raises(NameTaken):
        networks.veth_pair(shared_lab, peer)
    shared_lab.remove(peer, force=True)
    assert is_gone(shared_lab, pair.host_interface)


def test_a_veth_pair_is_removed_when_the_notebook_is_killed(shared_lab: Lab) -> None:
    script = (
        "import sys, time\nfrom labhelpers import networks\nfrom labhelpers.lab import Lab\n"
        "lab = Lab('test')\npair = networks.veth_pair(lab, f'peer-{lab.session}')\n"
        "print(pair.host_interface, flush=True)\ntime.sleep(600)\n"
    )
    environment = os.environ | {
        "DOCKER_HOST": shared_lab.engine.address,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as notebook:
        assert notebook.stdout is not None
        link = notebook.stdout.readline().strip()
        assert link in links(shared_lab)
        notebook.send_signal(signal.SIGKILL)
    assert is_gone(shared_lab, link)


def test_what_changes_between_snapshots_is_not_left_behind() -> None:
    before = HostNetworkSnapshot(frozenset({"eth0"}), frozenset(), frozenset(), frozenset({"old"}))
    first = HostNetworkSnapshot(
        frozenset({"eth0", "veth1", "stays"}), frozenset({"br-1"}), frozenset(), frozenset({"old"})
    )
    second = HostNetworkSnapshot(
        frozenset({"eth0", "veth2", "stays"}), frozenset(), frozenset({"/n"}), frozenset({"old"})
    )
    assert first.staying(second, before).added_since(before) == ("interfaces: stays",)


def test_a_snapshot_contains_what_is_left_and_nothing_else(shared_lab: Lab) -> None:
    before = networks.host_network_snapshot(shared_lab)

    def leftovers() -> tuple[str, ...]:
        # resources of tests that run at the same time go again; what is left behind stays
        end = time.monotonic() + 15
        while (
            found := networks.host_network_snapshot(shared_lab, since=before).added_since(before)
        ) and time.monotonic() < end:
            time.sleep(0.5)
        return found

    network = shared_lab.create_network(f"counted-{shared_lab.session[:4]}")
    container = shared_lab.run(shared_lab.image("payload"), network=str(network.name), ports={"80/tcp": None})
    try:
        assert leftovers() == ()
    finally:
        shared_lab.remove(container, force=True)
        network.remove()
    assert leftovers() == ()
    more = HostNetworkSnapshot(
        before.interfaces | {"left0"}, before.bridges, before.namespaces, before.rules | {"a rule"}
    )
    assert more.added_since(before) == ("interfaces: left0", "rules: a rule")
    assert list(more.frame().columns) == ["interface_count", "bridge_count", "namespace_count", "rule_count"]
    assert more.interface_count == before.interface_count + 1


# --- packet traces, published ports, and the cost of each path


@pytest.fixture(scope="module")
def traces(shared_lab: Lab) -> PacketTraces:
    return networks.trace_packets(shared_lab)


@pytest.fixture(scope="module")
def rules(shared_lab: Lab) -> tuple[PortRules, PortRules]:
    return networks.port_rules(shared_lab, all_addresses=True), networks.port_rules(
        shared_lab, all_addresses=False
    )


@pytest.fixture(scope="module")
def reached(shared_lab: Lab) -> PortAccess:
    return networks.port_access(shared_lab)


def test_all_three_requests_were_answered(traces: PacketTraces) -> None:
    for trace in (traces.to_container, traces.to_host, traces.to_outside):
        assert trace.answered, trace.name
        assert trace.request[0].namespace == "client"
        assert trace.reply[-1].namespace == "client"
        assert trace.reply[-1].target == trace.request[0].source


def test_within_a_network_nothing_is_translated(traces: PacketTraces) -> None:
    request = traces.to_container.request
    assert [hop.namespace for hop in request] == ["client", "the host", "the host", "server"]
    assert len({(hop.source, hop.target) for hop in request}) == 1


def test_the_source_becomes_the_hosts_address_on_the_way_out(shared_lab: Lab, traces: PacketTraces) -> None:
    out = traces.to_outside
    assert out.source_translated
    assert not traces.to_host.source_translated
    assert [hop.namespace for hop in out.request] == ["client", "the host", "the host", "the host", "outside"]
    source, target = (
        ipaddress.ip_interface(f"{text.rpartition(':')[0]}/24").network
        for text in (out.request[-1].source, out.request[-1].target)
    )
    assert source == target, "the host's address is in the subnet of the veth pair"


def test_counters_of_the_path_increased(traces: PacketTraces) -> None:
    for trace in (traces.to_container, traces.to_host, traces.to_outside):
        assert trace.interfaces
        assert all(count.packets_after > count.packets_before for count in trace.interfaces)


def test_the_figure_of_a_trace_marks_the_translation(traces: PacketTraces) -> None:
    labels = [text.get_text() for text in traces.to_outside.plot().texts]
    assert len([text for text in labels if text.endswith("translated")]) == 2
    for hop in traces.to_outside.hops:
        assert f"{hop.namespace}\n{hop.interface}" in labels
    assert not [
        text.get_text() for text in traces.to_container.plot().texts if "translated" in text.get_text()
    ]


def test_the_rules_of_a_published_port(rules: tuple[PortRules, PortRules]) -> None:
    all_addresses, loopback = rules
    for each in rules:
        assert each.dnat_rules or each.userland_proxies
        assert all(each.container_address in rule.rule for rule in each.rules)
    assert list(loopback.frame().columns) == ["table", "chain", "rule"]
    assert not any("127.0.0.1" in text for text in all_addresses.dnat_rules)
    assert all("127.0.0.1" in text for text in loopback.dnat_rules)


def test_the_rules_are_removed_with_the_container(
    shared_lab: Lab, rules: tuple[PortRules, PortRules]
) -> None:
    port = rules[0].published.partition(":")[0]
    gone = [rule.text for rule in shared_lab.host.firewall().rules if f"--dport {port} " in rule.text]
    assert not [text for text in gone if rules[0].container_address in text]


def test_which_clients_a_published_port_answers(reached: PortAccess) -> None:
    assert reached.answered("127.0.0.1", "the host")
    assert not reached.answered("127.0.0.1", "the neighbour")
    assert reached.answered("the neighbour's side", "the neighbour")
    assert list(reached.frame().columns) == ["published_on", "client", "target", "answered"]


def test_every_path_within_one_engine_was_measured(paths: Paths) -> None:
    assert set(paths.names) | {name for name, _ in paths.skipped} == set(PATHS)
    assert {name for name, _ in paths.skipped} <= {"overlay"}
    assert all(reason for _, reason in paths.skipped)
    for sample in paths.samples:
        assert len(sample.round_trips_us) == 400
        assert min(sample.round_trips_us) > 0
        assert min(sample.one_stream_bits_per_s, sample.four_streams_bits_per_s) > 0


def test_the_figure_shows_every_path_in_the_order_of_its_median(paths: Paths) -> None:
    ax = paths.plot()
    left, right = ax.child_axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(paths.ranking)
    assert any(text.get_text() == "the host's own loopback" for text in right.texts)
    assert len(right.patches) == 2 * len(paths.names)


def test_a_number_of_rounds_that_is_out_of_range(shared_lab: Lab) -> None:
    for rounds in (0, -1, 51, True):
        with pytest.raises(BadInput):
            networks.paths(shared_lab, rounds=rounds)


def test_medians_and_percentiles_of_known_numbers() -> None:
    sample = Sample("host", 0, tuple(float(n) for n in range(1, 101)), 2e9, 4e9)
    paths = Paths((sample,), ())
    assert [paths.percentile_us("host", p) for p in (0, 50, 99, 100)] == [1.0, 51.0, 100.0, 100.0]
    assert paths.streams("host", 4) == [4e9]
    (row,) = paths.frame().to_dict("records")
    assert [row[f"one_stream{part}_gbit_per_s"] for part in ("", "_min", "_max")] == [2.0, 2.0, 2.0]
    assert [row[f"p{percent}_us"] for percent in (10, 90, 99)] == [11.0, 91.0, 100.0]


# --- two engines, in this order: the swarm, its overlay network, and the failure of an engine


@pytest.fixture(scope="module")
def ping(shared_lab: Lab, engines: SwarmEngines) -> OverlayPing:
    return networks.overlay_ping(shared_lab, engines)


def test_the_engines_are_a_swarm(engines: SwarmEngines) -> None:
    nodes = engines.docker(1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
    assert sorted(nodes) == ["engine-1 Ready", "engine-2 Ready"]
    assert engines.started_s > 0


def test_the_engines_publish_no_port(engines: SwarmEngines) -> None:
    for container in engines.containers:
        container.reload()
        assert not any(container.attrs["NetworkSettings"]["Ports"].values())
        assert not container.attrs["HostConfig"]["Privileged"]


def test_a_refusal_keeps_the_message(engines: SwarmEngines) -> None:
    with pytest.raises(BadInput, match="no engine 3"):
        engines.docker(3, "ps")
    with pytest.raises(LabError, match="refused") as refused:
        engines.docker(1, "inspect", "nobody")
    assert "nobody" in str(refused.value.engine_message)
    with pytest.raises(BadInput, match="not possible"):
        networks.mtu_probe(engines, -1)


def test_a_name_resolves_on_another_engine(ping: OverlayPing) -> None:
    assert ping.answered


def test_the_inner_packet_is_in_the_outer_one(ping: OverlayPing) -> None:
    request = ping.request
    outer, inner = request.header("IPv4"), request.header("IPv4", 1)
    assert outer is not None
    assert inner is not None
    assert [outer.get("from"), outer.get("to")] == [address for _, address in ping.engines]
    assert [inner.get("from"), inner.get("to")] == [address for _, address in ping.addresses]
    assert ping.headers_bytes == 50
    assert int(outer.get("length")) == int(inner.get("length")) + 50


def test_the_figure_has_every_header_and_both_packets(ping: OverlayPing) -> None:
    assert list(ping.frame().columns) == ["name", "bytes", "content"]
    assert len(ping.frame()) == len(ping.request.headers)
    labels = [" ".join(text.get_text().split()) for text in ping.plot().texts]
    assert labels.count("IPv4 20 bytes") == 2
    assert any("outer packet" in text and ping.engines[0][1] in text for text in labels)
    assert any("inner packet" in text and ping.addresses[1][1] in text for text in labels)


def test_the_largest_ping_that_is_answered(engines: SwarmEngines, ping: OverlayPing) -> None:
    largest = ping.mtu_bytes - 28
    assert networks.mtu_probe(engines, largest).answered
    assert not networks.mtu_probe(engines, largest + 1).answered


def test_a_network_with_an_oversized_mtu(engines: SwarmEngines, ping: OverlayPing) -> None:
    assert networks.mtu_probe(engines, ping.mtu_bytes - 28, oversized_mtu=True).answered
    lost = networks.mtu_probe(engines, ping.mtu_bytes - 27, oversized_mtu=True)
    assert not lost.answered
    assert lost.error


def test_the_overlay_is_measured_too(engines: SwarmEngines, paths: Paths) -> None:
    assert "overlay" in paths.names
    assert paths.skipped == ()


def test_a_lost_engine_is_replaced_and_nothing_is_left(shared_lab: Lab, engines: SwarmEngines) -> None:
    lost = networks.kill_engine(engines)
    assert dict(lost.before) == {"engine-1": 1, "engine-2": 1}
    assert dict(lost.after) == {"engine-1": 2, "engine-2": 0}
    assert 0 < lost.detected_s <= lost.rescheduled_s
    assert set(lost.addresses_before) != set(lost.addresses_after)
    labels = {text.get_text() for text in lost.plot().texts}
    assert {"2 replicas", "killed"} <= labels
    assert list(lost.frame().columns) == ["at_s", "event", "replicas", "service_addresses"]
    volumes = [
        mount["Name"]
        for container in engines.containers
        for mount in container.attrs["Mounts"]
        if mount["Type"] == "volume"
    ]
    assert len(volumes) == 2
    engines.close()
    names = {name.lstrip("/") for row in shared_lab.client.api.containers(all=True) for name in row["Names"]}
    assert not names & set(NAMES)
    assert UNDERLAY_NETWORK not in {row["Name"] for row in shared_lab.client.api.networks()}
    assert not {row["Name"] for row in shared_lab.client.api.volumes()["Volumes"] or []} & set(volumes)
    with pytest.raises(LabError, match="closed"):
        engines.docker(1, "ps")
