"""Requests followed, ports in the firewall, and what the ways cost."""

from __future__ import annotations

import ipaddress

import pytest

from labhelpers import networks
from labhelpers.errors import BadInput
from labhelpers.lab import Lab
from labhelpers.networks.firewall import PortReach, PortRules
from labhelpers.networks.follow import Journeys
from labhelpers.networks.paths import PATHS, Paths, Sample


@pytest.fixture(scope="module")
def journeys(there: Lab) -> Journeys:
    return networks.follow(there)


@pytest.fixture(scope="module")
def rules(there: Lab) -> tuple[PortRules, PortRules]:
    return networks.port_rules(there, everywhere=True), networks.port_rules(there, everywhere=False)


@pytest.fixture(scope="module")
def reached(there: Lab) -> PortReach:
    return networks.port_reach(there)


def test_all_three_requests_were_answered(journeys: Journeys) -> None:
    for journey in (journeys.to_container, journeys.to_host, journeys.to_outside):
        assert journey.answered, journey.name
        assert journey.request[0].place == "client"
        assert journey.reply[-1].place == "client"
        assert journey.reply[-1].target == journey.request[0].source


def test_inside_of_a_network_nothing_is_translated(journeys: Journeys) -> None:
    request = journeys.to_container.request
    assert [hop.place for hop in request] == ["client", "the host", "the host", "server"]
    assert len({(hop.source, hop.target) for hop in request}) == 1


def test_on_the_way_out_the_source_becomes_the_hosts(there: Lab, journeys: Journeys) -> None:
    out = journeys.to_outside
    assert out.source_changed
    assert not journeys.to_host.source_changed
    assert [hop.place for hop in out.request] == ["client", "the host", "the host", "the host", "outside"]
    source, target = (
        ipaddress.ip_interface(f"{text.rpartition(':')[0]}/24").network
        for text in (out.request[-1].source, out.request[-1].target)
    )
    assert source == target, "the host's address on the wire is in the wire's subnet"


def test_counters_on_the_way_went_up(journeys: Journeys) -> None:
    for journey in (journeys.to_container, journeys.to_host, journeys.to_outside):
        assert journey.interfaces
        assert all(count.after > count.before for count in journey.interfaces)


def test_the_drawing_of_a_journey_says_where_it_was_translated(journeys: Journeys) -> None:
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


def test_those_rules_go_with_the_container(there: Lab, rules: tuple[PortRules, PortRules]) -> None:
    port = rules[0].published.partition(":")[0]
    gone = [rule.text for rule in there.host.firewall().rules if f"--dport {port} " in rule.text]
    assert not [text for text in gone if rules[0].inside in text]


def test_who_reaches_a_published_port(reached: PortReach) -> None:
    assert reached.answered("127.0.0.1", "the host")
    assert not reached.answered("127.0.0.1", "the neighbour")
    assert reached.answered("the neighbour's side", "the neighbour")


def test_every_way_of_one_engine_was_measured(measured: Paths) -> None:
    assert set(measured.names) | {name for name, _ in measured.left_out} == set(PATHS)
    assert {name for name, _ in measured.left_out} <= {"overlay"}
    assert all(why for _, why in measured.left_out)
    for sample in measured.samples:
        assert len(sample.round_trips_us) == 400
        assert min(sample.round_trips_us) > 0
        assert min(sample.one_stream_bits_per_s, sample.four_streams_bits_per_s) > 0


def test_the_figure_of_the_ways_shows_them_all_in_their_order(measured: Paths) -> None:
    ax = measured.plot()
    left, right = ax.child_axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(measured.ranking)
    assert any(text.get_text() == "the host's own loopback" for text in right.texts)
    assert len(right.patches) == 2 * len(measured.names)


def test_no_rounds_are_no_measurement(there: Lab) -> None:
    for rounds in (0, -1, 51, True):
        with pytest.raises(BadInput):
            networks.paths(there, rounds=rounds)


def test_medians_and_percentiles_of_known_numbers() -> None:
    sample = Sample("host", 0, tuple(float(n) for n in range(1, 101)), 2e9, 4e9)
    ways = Paths((sample,), ())
    assert [ways.percentile_us("host", p) for p in (0, 50, 99, 100)] == [1.0, 51.0, 100.0, 100.0]
    assert ways.streams("host", 4) == [4e9]
    assert ways.frame().iloc[0]["1 stream Gbit/s"] == "2 (2 to 2)"
