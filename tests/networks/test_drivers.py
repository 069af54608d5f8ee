"""The drivers, each as the engine makes it; and the wire, which goes with its container however that goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from labhelpers import networks
from labhelpers.errors import BadInput, NameTaken
from labhelpers.lab import Lab
from labhelpers.networks.census import Census
from labhelpers.networks.drivers import Macvlan


@pytest.fixture(scope="module")
def mac(there: Lab) -> Macvlan:
    return networks.macvlan(there)


def links(lab: Lab) -> set[str]:
    return {one.name for one in lab.host.interfaces()}


def test_default_and_own_bridges(there: Lab) -> None:
    mark = there.session[:4]
    names = [f"{name}-{mark}" for name in ("a", "b", "c", "d")]
    for network in ("one", "two"):
        there.create_network(f"{network}-{mark}")
    quiet = {"dns": ["127.0.0.1"]}
    image = there.image("payload")
    there.run(image, name=names[0], **quiet)
    there.run(image, name=names[1], network=f"one-{mark}", **quiet)
    there.run(image, name=names[2], network=f"one-{mark}", **quiet)
    there.run(image, name=names[3], network=f"two-{mark}", **quiet)
    try:
        there.client.networks.get(f"two-{mark}").connect(names[2])
        reaches = networks.reach(there, names)
        a, b, c, d = names
        assert not reaches.of(a, b).by_address
        assert (reaches.of(b, c).by_address, reaches.of(b, c).by_name) == (True, True)
        assert (reaches.of(b, d).by_address, reaches.of(b, d).by_name) == (False, False)
        assert reaches.of(c, d).by_name
        assert reaches.of(d, c).by_name
        assert networks.resolver(there, b).server
        assert not networks.resolver(there, a).server
        said = [text.get_text() for text in reaches.plot().texts]
        assert said.count("address\nand name") == 4
        assert said.count("no") == len(reaches.pairs) - 4
    finally:
        for name in names:
            there.remove(name, force=True)
        for network in ("one", "two"):
            there.client.networks.get(f"{network}-{mark}").remove()


def test_who_is_not_there_reaches_nobody(there: Lab) -> None:
    with pytest.raises(BadInput, match="no container 'nobody-here'"):
        networks.reach(there, ["nobody-here"])
    assert networks.reach(there, []).pairs == ()


def test_host(there: Lab) -> None:
    found = networks.host_driver(there)
    assert found.same_namespace
    assert found.answered
    assert found.second_status != 0
    assert "in use" in found.second_words


def test_none(there: Lab) -> None:
    found = networks.no_network(there)
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


def test_ipvlan_where_the_kernel_has_it(there: Lab) -> None:
    found = networks.ipvlan(there)
    if not found.supported:
        assert found.words
        pytest.skip(f"this kernel has no ipvlan: {found.words}")
    assert found.same_mac


def test_a_wire_goes_with_its_container(there: Lab) -> None:
    far = f"far-{there.session[:4]}"
    laid = networks.wire(there, far)
    assert laid.link in links(there)
    with pytest.raises(NameTaken):
        networks.wire(there, far)
    there.remove(far, force=True)
    assert laid.link not in links(there)


def test_a_wire_goes_when_the_notebook_is_killed(there: Lab) -> None:
    script = (
        "import sys, time\nfrom labhelpers import networks\nfrom labhelpers.lab import Lab\n"
        "lab = Lab('test')\nlaid = networks.wire(lab, f'far-{lab.session}')\n"
        "print(laid.link, flush=True)\ntime.sleep(600)\n"
    )
    environment = os.environ | {
        "DOCKER_HOST": there.engine.address,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as it:
        assert it.stdout is not None
        link = it.stdout.readline().strip()
        assert link in links(there)
        it.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while link in links(there) and time.monotonic() < end:
        time.sleep(0.5)
    assert link not in links(there)


def test_the_census_sees_what_is_left_and_nothing_else(there: Lab) -> None:
    before = networks.census(there)
    network = there.create_network(f"counted-{there.session[:4]}")
    container = there.run(there.image("payload"), network=str(network.name), ports={"80/tcp": None})
    try:
        assert networks.census(there, since=before).since(before) == ()
    finally:
        there.remove(container, force=True)
        network.remove()
    assert networks.census(there, since=before).since(before) == ()
    more = Census(before.interfaces | {"left0"}, before.bridges, before.namespaces, before.rules | {"a rule"})
    assert more.since(before) == ("interfaces: left0", "rules: a rule")
