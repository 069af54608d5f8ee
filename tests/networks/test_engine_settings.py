"""Network settings that differ from Docker's defaults, and exhausted address pools."""

from __future__ import annotations

import ipaddress
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labhelpers import networks
from labhelpers.course import nested_engine
from labhelpers.course.nested_engine import REMOUNT_CGROUPS_SCRIPT
from labhelpers.engine import connect
from labhelpers.errors import EngineRefused, LabError, NameTaken
from labhelpers.lab import Lab
from labhelpers.results import finding
from tests.engines.debian import wait_until_it_answers

BRIDGE = "com.docker.network.bridge."
NO_BRIDGE = "--bridge=none --iptables=false --default-address-pool base=10.99.0.0/24,size=25"


@pytest.fixture(scope="module")
def closed(shared_lab: Lab) -> Iterator[str]:
    """A network whose containers may not reach each other, and whose addresses are not translated."""
    name = f"closed-{shared_lab.session[:4]}"
    options = {f"{BRIDGE}enable_icc": "false", f"{BRIDGE}enable_ip_masquerade": "false"}
    network = shared_lab.create_network(name, options=options)
    yield name
    network.remove()


@pytest.fixture(scope="module")
def ordinary(shared_lab: Lab) -> Iterator[str]:
    name = f"ordinary-{shared_lab.session[:4]}"
    network = shared_lab.create_network(name, options={f"{BRIDGE}enable_icc": "true"})
    yield name
    network.remove()


def test_the_settings_of_a_network_that_differ(shared_lab: Lab, closed: str, ordinary: str) -> None:
    settings = networks.network_settings(shared_lab)
    assert "icc=false" in (settings.icc(ordinary, closed) or "")
    assert "ip-masq=false" in (settings.masquerade(closed) or "")
    assert settings.rules(closed, ordinary) is None
    assert [settings.icc(ordinary), settings.masquerade(ordinary), settings.isolation(ordinary)] == [
        None,
        None,
        None,
    ]
    with pytest.raises(LabError, match="no network called 'no-such-network'"):
        settings.icc("no-such-network")


def test_a_network_without_rules(shared_lab: Lab) -> None:
    # the network `none` has no bridge, so no rule of the firewall is for it: as for every network with iptables=false
    settings = networks.network_settings(shared_lab)
    answers = [
        settings.rules("none"),
        settings.isolation("none"),
        settings.masquerade("none"),
        settings.translation("none"),
    ]
    assert all("iptables=false" in (reason or "") for reason in answers)
    with pytest.raises(LabError, match="no bridge network"):
        networks.bridge_rules(shared_lab, "none")


def test_a_finding_does_not_apply_where_the_setting_differs(
    shared_lab: Lab, closed: str, ordinary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    settings = networks.network_settings(shared_lab)
    try:
        for network in (closed, ordinary):
            pair = [f"{one}-{network}" for one in ("one", "two")]
            made += [shared_lab.run("labhelpers/payload", name=name, network=network) for name in pair]
            found = networks.reachability(shared_lab, pair).of(*pair)
            assert found.by_address is (network == ordinary)
            finding("one reaches two", found.by_address, unless=settings.icc(network))
    finally:
        for container in made:
            shared_lab.remove(container, force=True)
    assert capsys.readouterr().out == (
        f"one reaches two: not applicable here: {settings.icc(closed)}\none reaches two: yes\n"
    )


def test_the_rules_of_a_network_name_its_bridge(shared_lab: Lab, ordinary: str) -> None:
    found = networks.bridge_rules(shared_lab, ordinary)
    bridge = f"br-{shared_lab.client.networks.get(ordinary).id[:12]}"
    assert found.rules
    assert all(bridge in f"{rule.text} {rule.chain}" for rule in found.rules)
    assert list(found.frame().columns) == ["chain", "text", "packets"]


def test_a_network_without_a_free_address(shared_lab: Lab) -> None:
    # of four addresses one is the gateway's, and two are those of the network and of broadcasts
    network = shared_lab.create_network(f"tiny-{shared_lab.session[:4]}", subnet="10.213.11.0/30")
    first = shared_lab.run("labhelpers/payload", network=network.name)
    try:
        with pytest.raises(EngineRefused, match="has no free address left") as raised:
            shared_lab.run("labhelpers/payload", network=network.name)
        assert "no available IPv4" in (raised.value.engine_message or "")
    finally:
        shared_lab.remove(first, force=True)
        network.remove()


# --- an engine with two subnets, and no default bridge


@pytest.fixture(scope="module")
def small(shared_lab: Lab) -> Iterator[Lab]:
    """A lab on an engine whose address pool has two subnets."""
    if not shared_lab.engine.address.startswith("unix:"):
        pytest.skip("the other engine shares a socket with this machine, and the engine is elsewhere")
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    script = f"{REMOUNT_CGROUPS_SCRIPT}exec dockerd --host=unix:///run/outside/docker.sock {NO_BRIDGE}"
    options = {"volumes": ["/var/lib/docker", f"{folder}:/run/outside"], "network": "none"}
    container = nested_engine.engine_container(shared_lab, shared_lab.image("engine"), script, **options)
    address = f"unix://{folder}/docker.sock"
    try:
        wait_until_it_answers(address, nested_engine.START_TIMEOUT_S, lambda: True, "small")
        with Lab("test", engine=connect(address)) as lab, lab.quiet():
            yield lab
    finally:
        shared_lab.remove(container, force=True, volumes=True)
        shutil.rmtree(folder)


def test_used_up_address_pools(small: Lab) -> None:
    for name in ("first", "second"):
        small.create_network(name)
    with pytest.raises(EngineRefused, match="2 networks, 2 of them unused") as raised:
        small.create_network("third")
    assert "docker network rm first second" in raised.value.hint
    assert "address pool" in (raised.value.engine_message or "")
    free = ipaddress.ip_network(raised.value.hint.partition("subnet='")[2].partition("'")[0])
    third = small.create_network("third", subnet=str(free))
    assert third.attrs["IPAM"]["Config"][0]["Subnet"] == str(free)
    with pytest.raises(NameTaken, match="overlaps with the network 'third'") as taken:
        small.create_network("fourth", subnet=str(free))
    assert str(free) not in taken.value.hint


def test_no_default_bridge_is_said_at_the_start(small: Lab) -> None:
    with pytest.raises(EngineRefused, match="bridge=none"):
        networks.network_settings(small)
