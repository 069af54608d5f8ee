"""Every exercise: untouched it fails, wrong answers fail with a message that fits, right ones pass from fresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from labhelpers import networks
from labhelpers.course.exercises import Exercise
from labhelpers.errors import BadInput
from labhelpers.lab import Lab
from labhelpers.networks import exercises

SERVE = ["httpd", "-f", "-p", "8080", "-h", "/www"]
QUIET: dict[str, Any] = {"dns": ["127.0.0.1"]}
Act = Callable[[Lab], Any]


pytestmark = pytest.mark.usefixtures("temporary_state")


def connect(lab: Lab, network: str, name: str, **options: Any) -> None:
    lab.client.networks.get(network).connect(name, **options)


def disconnect(lab: Lab, network: str, name: str) -> None:
    lab.client.networks.get(network).disconnect(name, force=True)


def put(lab: Lab, name: str, command: Any = None, image: str = "payload", **options: Any) -> None:
    """A container of that name, as from a terminal, in place of one that is there."""
    with suppress(NotFound):
        lab.client.containers.get(name).remove(force=True)
    options = {**QUIET, "labels": lab._labels("container"), **options}
    lab.client.containers.run(lab.image(image), command, name=name, detach=True, **options)


def gone(lab: Lab, *names: str) -> None:
    """Containers and networks are removed, where they are there."""
    for name in names:
        with suppress(NotFound):
            lab.client.containers.get(name).remove(force=True)
    for name in names:
        with suppress(NotFound):
            lab.client.networks.get(name).remove()


def passes(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict


def fails(exercise: Exercise, words: str) -> None:
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), verdict


# --- one container on two networks


def both(lab: Lab, *networks: str, **options: Any) -> None:
    put(lab, "both-sides", network=networks[0], **options)
    for network in networks[1:]:
        connect(lab, network, "both-sides")


def address(lab: Lab, name: str) -> str:
    found = lab.client.api.inspect_container(name)["NetworkSettings"]["Networks"]
    return str(next(iter(found.values()))["IPAddress"])


def impostor(lab: Lab) -> None:
    """Another container of the first network has the name of the second network's as an alias."""
    put(lab, "impostor", network="left")
    disconnect(lab, "left", "impostor")
    connect(lab, "left", "impostor", aliases=["right-one"])
    both(lab, "left")


def joined(lab: Lab) -> None:
    both(lab, "left", "right")
    connect(lab, "right", "left-one")


def another_right_one(lab: Lab) -> None:
    both(lab, "left", "right")
    put(lab, "right-one", network="right")


TWO_WRONG: list[tuple[Act, str]] = [
    (lambda lab: both(lab, "left"), "does not reach right-one"),
    (lambda lab: both(lab, "left", extra_hosts=["right-one:127.0.0.1"]), "not right-one itself"),
    (impostor, "not right-one itself"),
    (lambda lab: both(lab, "bridge"), "does not reach left-one"),
    (joined, "both on the network right"),
    (lambda lab: (both(lab, "left", "right"), lab.client.containers.get("both-sides").pause()), "“paused”"),
    (another_right_one, "right-one has been replaced"),
]


@pytest.fixture(scope="module")
def room(shared_lab: Lab) -> Iterator[Lab]:
    """The lab of the room, without what the exercises of this file made in it."""
    yield shared_lab
    gone(shared_lab, "both-sides", "left-one", "right-one", "impostor", "left", "right")


@pytest.mark.parametrize(("wrong", "words"), TWO_WRONG)
def test_two_networks_wrong(room: Lab, wrong: Act, words: str) -> None:
    gone(room, "both-sides", "impostor")
    exercise = exercises.two_networks(room)
    fails(exercise, "no container named both-sides")
    wrong(room)
    fails(exercise, words)
    with suppress(APIError):
        disconnect(room, "right", "left-one")
    if wrong is another_right_one:
        gone(room, "right-one")


def test_two_networks_hints(room: Lab) -> None:
    exercise = exercises.two_networks(room)
    both(room, "left")
    assert "joins a running container to one more" in exercise.hint()
    both(room, "left", extra_hosts=["right-one:127.0.0.1"])
    assert "Look at /etc/hosts" in exercise.hint()
    both(room, "left", "right")
    connect(room, "right", "left-one")
    assert "take the other two back" in exercise.hint()
    disconnect(room, "right", "left-one")


@pytest.mark.parametrize(
    "right",
    [
        lambda lab: both(lab, "left", "right"),
        # no ping in its image
        lambda lab: both(lab, "right", "left", image="base", command=["sleep", "600"]),
        # the names from /etc/hosts, the networks all the same
        lambda lab: both(lab, "left", "right", extra_hosts=[f"right-one:{address(lab, 'right-one')}"]),
    ],
)
def test_two_networks_right(room: Lab, right: Act) -> None:
    gone(room, "both-sides", "impostor", "left-one", "right-one", "left", "right")
    exercises.two_networks(room)
    right(room)
    passes(exercises.two_networks(room))  # the cell that is run again changes nothing


# --- the other end of the wire


def host_end(lab: Lab, name: str) -> str:
    return str(networks.network_map(lab, [name]).endpoints[0].host_interface)


@pytest.fixture(scope="module")
def traced(shared_lab: Lab) -> Iterator[Exercise]:
    exercise = exercises.other_end(shared_lab)
    fails(exercise, "no file /other-end")
    put(shared_lab, "another")
    yield exercise
    gone(shared_lab, "traced", "another")


def write(lab: Lab, text: str) -> None:
    lab.exec("traced", ["sh", "-c", 'echo "$1" > /other-end', "sh", text])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda lab: "docker0", "is a bridge of the host"),
        (lambda lab: "eth77", "no interface"),
        (lambda lab: "lo", "not the end of a container's wire"),
        (lambda lab: host_end(lab, "another"), "another container's wire"),
        (lambda lab: f"{host_end(lab, 'traced')}@if9", "ends before the @"),
        (lambda lab: f"{host_end(lab, 'traced')} {host_end(lab, 'another')}", "more than one word"),
        (lambda lab: "12", "is a number"),
    ],
)
def test_other_end_wrong(shared_lab: Lab, traced: Exercise, answer: Act, words: str) -> None:
    write(shared_lab, answer(shared_lab))
    fails(traced, words)
    assert "Compare the numbers" in traced.hint()


def test_other_end_right(shared_lab: Lab, traced: Exercise) -> None:
    write(shared_lab, "")
    assert "eth0@ifN" in traced.hint()
    write(shared_lab, f"  {host_end(shared_lab, 'traced')}")
    passes(traced)
    shared_lab.client.containers.get("traced").restart(timeout=0)
    # an answer is of one start
    fails(traced, "the host has no interface")
    write(shared_lab, host_end(shared_lab, "traced"))
    passes(traced)
    put(shared_lab, "traced", ["sh", "-c", "echo docker0 >/other-end; exec sleep 600"])
    fails(traced, "traced has been replaced")
    gone(shared_lab, "traced")
    fails(traced, "no container named traced")
    exercises.other_end(shared_lab)
    write(shared_lab, host_end(shared_lab, "traced"))
    passes(traced)


# --- a network without a way out

IN = ("sealed-one", "sealed-two")


def network(lab: Lab, **options: Any) -> None:
    gone(lab, *IN, "sealed")
    lab.client.networks.create("sealed", labels=lab._labels("network"), **options)


def inhabit(lab: Lab, **options: Any) -> None:
    for name in IN:
        put(lab, name, network="sealed", **options)


def without_a_route(lab: Lab) -> None:
    """Only these two containers have no way out, and the network has one."""
    network(lab)
    inhabit(lab, cap_add=["NET_ADMIN"])
    for name in IN:
        lab.exec(name, ["ip", "route", "del", "default"])


def one_leg_outside(lab: Lab) -> None:
    network(lab, internal=True)
    inhabit(lab)
    connect(lab, "bridge", "sealed-two")


def one_elsewhere(lab: Lab) -> None:
    network(lab, internal=True)
    put(lab, "sealed-one", network="sealed")
    put(lab, "sealed-two")


def on_a_parent(lab: Lab) -> None:
    network(lab, driver="macvlan", options={"parent": host_end(lab, "sealed-parent")})
    inhabit(lab)


def made(**options: Any) -> Act:
    return lambda lab: (network(lab, **options), inhabit(lab))


NO_MASQUERADE = {"com.docker.network.bridge.enable_ip_masquerade": "false"}


@pytest.fixture(scope="module")
def world(shared_lab: Lab) -> Iterator[Exercise]:
    exercise = exercises.sealed(shared_lab)
    fails(exercise, "no network called sealed")
    yield exercise
    gone(shared_lab, *IN, "sealed", "sealed-parent", "world")


@pytest.mark.parametrize(
    ("wrong", "words", "hint"),
    [
        (made(), "which is outside of the host", "cannot be changed"),
        # no answer comes back, and every packet leaves
        (made(options=NO_MASQUERADE), "arrives at", "have left all the same"),
        (without_a_route, "another container on sealed", "must belong to the network"),
        (one_leg_outside, "sealed-two reaches", "may leave by that network"),
        (one_elsewhere, "does not reach sealed-two", "names are found"),
    ],
)
def test_sealed_wrong(shared_lab: Lab, world: Exercise, wrong: Act, words: str, hint: str) -> None:
    wrong(shared_lab)
    fails(world, words)
    assert hint in world.hint()


def test_sealed_on_an_interface_of_the_host(shared_lab: Lab, world: Exercise) -> None:
    put(shared_lab, "sealed-parent")
    try:
        on_a_parent(shared_lab)
    except APIError as error:
        pytest.skip(f"macvlan: {error.explanation}")
    fails(world, "its packets leave the host there")


@pytest.mark.parametrize("right", [made(internal=True), made(driver="macvlan"), made(driver="ipvlan")])
def test_sealed_right(shared_lab: Lab, world: Exercise, right: Act) -> None:
    try:
        right(shared_lab)
    except APIError as error:
        pytest.skip(f"no such network here: {error.explanation}")
    passes(world)


def test_sealed_needs_an_outside(shared_lab: Lab, world: Exercise) -> None:
    made(internal=True)(shared_lab)
    shared_lab.exec("world", ["ip", "link", "set", "eth0", "down"])
    fails(world, "has lost its connection to the host")
    gone(shared_lab, "world")
    fails(world, "no container named world")
    exercises.sealed(shared_lab)
    passes(world)


# --- five broken networks


def test_no_sixth_broken_network(shared_lab: Lab) -> None:
    for number in (0, 6, True):
        with pytest.raises(BadInput):
            exercises.repair(shared_lab, number)


@pytest.fixture
def broken(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Exercise]:
    """The broken network of that number, fresh."""
    yield exercises.repair(shared_lab, request.param)
    names = ("till", "stock", "waiter", "kitchen", "reader", "library", "guest", "front-desk", "patient")
    gone(shared_lab, *names, "doctor", "impostor", "shop-floor", "restaurant", "cellar", "clinic", "extra")


def serves(lab: Lab, name: str, **options: Any) -> None:
    put(lab, name, SERVE, **options)


def alias(lab: Lab, network: str, name: str) -> None:
    """Another container answers to a server's name."""
    serves(lab, "impostor", network=network)
    disconnect(lab, network, "impostor")
    connect(lab, network, "impostor", aliases=[name])


@pytest.mark.parametrize("broken", [1], indirect=True)
def test_repair_wrong_subnet(shared_lab: Lab, broken: Exercise) -> None:
    lab = shared_lab
    fails(broken, "gets no page")
    assert "Compare the address of stock" in broken.hint()
    # its own page under the server's name
    serves(lab, "till", network="shop-floor", extra_hosts=["stock:127.0.0.1"])
    fails(broken, "another container than stock sends it")
    put(lab, "till", network="shop-floor", image="base", command=["sleep", "600"])
    fails(broken, "no wget")
    put(lab, "till", ["sleep", "600"], network="container:stock", dns=None)
    fails(broken, "stock")
    put(lab, "till", network="shop-floor")
    disconnect(lab, "shop-floor", "stock")
    fails(broken, "gets no page")
    connect(lab, "shop-floor", "stock")
    passes(broken)
    passes(exercises.repair(lab, 1))  # the cell that is run again does not break it again


@pytest.mark.parametrize("broken", [1], indirect=True)
def test_repair_wrong_subnet_by_a_restart(shared_lab: Lab, broken: Exercise) -> None:
    shared_lab.client.containers.get("stock").restart(timeout=0)
    passes(broken)


@pytest.mark.parametrize("broken", [2], indirect=True)
def test_repair_wrong_network(shared_lab: Lab, broken: Exercise) -> None:
    lab = shared_lab
    fails(broken, "gets no page")
    assert "two bridges" in broken.hint()
    alias(lab, "restaurant", "kitchen")
    fails(broken, "another container than kitchen sends it")
    gone(lab, "impostor")
    # in one namespace, and by the container's own name in its /etc/hosts
    put(lab, "waiter", ["sleep", "600"], network="container:kitchen", dns=None)
    fails(broken, "does not have its own network namespace")
    gone(lab, "kitchen")
    fails(broken, "no container named kitchen")
    serves(lab, "kitchen", network="cellar")
    put(lab, "waiter", network="cellar")
    passes(broken)
    put(lab, "waiter", network="restaurant")
    connect(lab, "restaurant", "kitchen")
    passes(broken)


@pytest.mark.parametrize("broken", [3], indirect=True)
def test_repair_names_on_the_default_bridge(shared_lab: Lab, broken: Exercise) -> None:
    lab = shared_lab
    fails(broken, "but not by the name library")
    assert "the default bridge does not use it" in broken.hint()
    # the reader asks itself: labhelpers/payload has a page of its own
    put(lab, "reader", extra_hosts=["library:127.0.0.1"])
    fails(broken, "another container than library sends it")
    put(lab, "reader")
    lab.client.networks.create("extra", labels=lab._labels("network"))
    connect(lab, "extra", "reader")
    fails(broken, "not by the name")
    assert "the same user-defined network" in broken.hint()
    connect(lab, "extra", "library")
    passes(broken)
    gone(lab, "reader")
    put(lab, "reader", links={"library": "library"})  # the old way
    passes(broken)


@pytest.mark.parametrize("broken", [4], indirect=True)
def test_repair_published_on_the_wrong_address(shared_lab: Lab, broken: Exercise) -> None:
    lab = shared_lab
    fails(broken, "published addresses: 127.0.0.1:")
    hint = broken.hint()
    assert "set when a container is created" in hint
    address = hint.partition("reaches it at ")[2].partition(". Published")[0]

    def again(**options: Any) -> None:
        serves(lab, "front-desk", **options)

    again()
    fails(broken, "no port of front-desk is published")
    again(ports={"80/tcp": (address, None)})
    fails(broken, "published addresses")
    assert "address and port does" in broken.hint()
    again(ports={"8080/tcp": ("0.0.0.0", None)})
    fails(broken, "on every address of the host")
    assert "takes an address" in broken.hint()
    again(ports={"8080/tcp": [(address, None), ("127.0.0.7", None)]})
    fails(broken, "is also published on 127.0.0.7")
    # another container has that port on the guest's side
    again(ports={"8080/tcp": ("127.0.0.1", None)})
    port = lab.client.containers.get("front-desk").ports["8080/tcp"][0]["HostPort"]
    serves(lab, "impostor", ports={"8080/tcp": (address, int(port))})
    fails(broken, "another container than front-desk sends it")
    again(ports={"8080/tcp": [(address, None), ("127.0.0.1", None)]})
    passes(broken)
    again(ports={"8080/tcp": (address, None)})
    passes(broken)


@pytest.mark.parametrize("broken", [5], indirect=True)
def test_repair_listening_on_loopback(shared_lab: Lab, broken: Exercise) -> None:
    lab = shared_lab
    fails(broken, "gets no page")
    assert "its own loopback interface" in broken.hint()
    put(lab, "doctor", ["sleep", "600"], network="clinic")
    fails(broken, "gets no page")
    assert "Nothing listens" in broken.hint()
    put(lab, "doctor", ["httpd", "-f", "-p", "8081", "-h", "/www"], network="clinic")
    fails(broken, "gets no page")
    alias(lab, "clinic", "doctor")
    fails(broken, "doctor")
    gone(lab, "impostor")
    # a page at that port for a moment only
    brief = ["sh", "-c", "httpd -p 8080 -h /www; sleep 0.4"]
    put(lab, "doctor", brief, network="clinic", restart_policy={"Name": "always"})
    assert not broken.check().passed
    serves(lab, "doctor", network="clinic")
    passes(broken)
    put(lab, "doctor", ["httpd", "-f", "-p", "[::]:8080", "-h", "/www"], network="clinic")
    passes(broken)
