"""Two engines in one: a swarm, an overlay, its packets, its MTU, and the loss of one of them. In this order."""

from __future__ import annotations

import pytest

from labhelpers import networks
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.networks.overlay import NAMES, WIRE, Engines
from labhelpers.networks.paths import Paths
from labhelpers.networks.swarm import Across


@pytest.fixture(scope="module")
def across(there: Lab, engines: Engines) -> Across:
    return networks.across(there, engines)


def test_they_are_a_swarm(engines: Engines) -> None:
    nodes = engines.docker(1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
    assert sorted(nodes) == ["engine-1 Ready", "engine-2 Ready"]
    assert engines.started_s > 0


def test_no_port_of_theirs_is_published(engines: Engines) -> None:
    for container in engines.containers:
        container.reload()
        assert not any(container.attrs["NetworkSettings"]["Ports"].values())
        assert not container.attrs["HostConfig"]["Privileged"]


def test_what_they_refuse_is_said(engines: Engines) -> None:
    with pytest.raises(BadInput, match="no engine 3"):
        engines.docker(3, "ps")
    with pytest.raises(LabError, match="said no") as refused:
        engines.docker(1, "inspect", "nobody")
    assert "nobody" in str(refused.value.engine_words)
    with pytest.raises(BadInput, match="not possible"):
        networks.crossing(engines, -1)


def test_names_are_found_across(across: Across) -> None:
    assert across.answered


def test_the_inner_packet_is_in_the_outer_one(across: Across) -> None:
    request = across.request
    outer, inner = request.layer("IPv4"), request.layer("IPv4", 1)
    assert outer is not None
    assert inner is not None
    assert [outer.get("from"), outer.get("to")] == [address for _, address in across.engines]
    assert [inner.get("from"), inner.get("to")] == [address for _, address in across.addresses]
    assert across.headers_bytes == 50
    assert int(outer.get("length")) == int(inner.get("length")) + 50


def test_its_drawing_has_every_header_and_whose_it_is(across: Across) -> None:
    said = [text.get_text() for text in across.plot().texts]
    assert len([text for text in said if text.startswith("IPv4\n")]) == 2
    assert any("outer packet" in text and across.engines[0][1] in text for text in said)
    assert any("inner packet" in text and across.addresses[1][1] in text for text in said)


def test_the_largest_that_crosses(engines: Engines, across: Across) -> None:
    largest = across.mtu_bytes - 28
    assert networks.crossing(engines, largest).crossed
    assert not networks.crossing(engines, largest + 1).crossed


def test_a_network_that_promises_too_much(engines: Engines, across: Across) -> None:
    assert networks.crossing(engines, across.mtu_bytes - 28, wide=True).crossed
    lost = networks.crossing(engines, across.mtu_bytes - 27, wide=True)
    assert not lost.crossed
    assert lost.words


def test_the_overlay_is_measured_too(engines: Engines, measured: Paths) -> None:
    assert "overlay" in measured.names
    assert measured.left_out == ()


def test_a_lost_engine_is_replaced_and_nothing_is_left(there: Lab, engines: Engines) -> None:
    lost = networks.lose_an_engine(engines)
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
    left = {name.lstrip("/") for row in there.client.api.containers(all=True) for name in row["Names"]}
    assert not left & set(NAMES)
    assert WIRE not in {row["Name"] for row in there.client.api.networks()}
    assert not {row["Name"] for row in there.client.api.volumes()["Volumes"] or []} & set(volumes)
    with pytest.raises(LabError, match="closed"):
        engines.docker(1, "ps")
