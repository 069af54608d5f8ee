"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

from typing import Any

import pytest

from labhelpers.errors import BadInput
from labhelpers.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.networks import exercises

SERVE = ["httpd", "-f", "-p", "8080", "-h", "/www"]
QUIET: dict[str, Any] = {"dns": ["127.0.0.1"]}


pytestmark = pytest.mark.usefixtures("own_state")


def connect(lab: Lab, network: str, name: str) -> None:
    lab.client.networks.get(network).connect(name)


def disconnect(lab: Lab, network: str, name: str) -> None:
    lab.client.networks.get(network).disconnect(name)


def passes_twice(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert verdict.passed, verdict
    assert exercise.check().passed


def test_two_networks(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.two_networks(lab)
    assert "no container called both-sides" in str(exercise.check())
    lab.run(lab.image("payload"), name="both-sides", network="left", **QUIET)
    assert "does not reach right-one" in str(exercise.check())
    assert "joins a running container to one more" in exercise.hint()
    connect(lab, "right", "left-one")
    connect(lab, "right", "both-sides")
    assert "both on the network right" in str(exercise.check())
    assert "take the other two back" in exercise.hint()
    disconnect(lab, "right", "left-one")
    passes_twice(exercise)


def test_other_end(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.other_end(lab)
    assert "no file /other-end" in str(exercise.check())
    assert "eth0@ifN" in exercise.hint()

    def write(text: str) -> str:
        lab.exec("traced", ["sh", "-c", f"echo {text} > /other-end"])
        return str(exercise.check())

    assert "is a bridge of the host" in write("docker0")
    assert "no interface" in write("eth77")
    other = lab.run(lab.image("payload"))
    from labhelpers import networks

    wrong = networks.map(lab, [str(other.name)]).ends[0].host_interface
    assert "another container's wire" in write(str(wrong))
    assert "Compare the numbers" in exercise.hint()
    write(str(networks.map(lab, ["traced"]).ends[0].host_interface))
    passes_twice(exercise)


def test_sealed(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.sealed(lab)
    assert "no network called sealed" in str(exercise.check())
    network = lab.create_network("sealed")
    names = ("sealed-one", "sealed-two")
    for name in names:
        lab.run(lab.image("payload"), name=name, network="sealed", **QUIET)
    assert "which is outside of the host" in str(exercise.check())
    assert "make it anew" in exercise.hint()
    for name in names:
        lab.remove(name, force=True)
    network.remove()
    lab.create_network("sealed", internal=True)
    lab.run(lab.image("payload"), name=names[0], network="sealed", **QUIET)
    lab.run(lab.image("payload"), name=names[1], **QUIET)
    assert "does not reach sealed-two" in str(exercise.check())
    assert "names are found" in exercise.hint()
    lab.remove(names[1], force=True)
    lab.run(lab.image("payload"), name=names[1], network="sealed", **QUIET)
    passes_twice(exercise)


def test_no_sixth_broken_network(quiet: Lab) -> None:
    for number in (0, 6, True):
        with pytest.raises(BadInput):
            exercises.repair(quiet, number)


def test_repair_wrong_subnet(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.repair(lab, 1)
    assert "gets no page" in str(exercise.check())
    assert "Compare what `docker inspect` says" in exercise.hint()
    disconnect(lab, "shop-floor", "stock")
    assert "gets no page" in str(exercise.check())
    connect(lab, "shop-floor", "stock")
    passes_twice(exercise)
    # the cell that is run again does not break it again
    assert exercises.repair(lab, 1).check().passed


def test_repair_wrong_network(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.repair(lab, 2)
    assert "gets no page" in str(exercise.check())
    assert "two bridges" in exercise.hint()
    lab.remove("waiter", force=True)
    lab.run(lab.image("payload"), name="waiter", network="container:kitchen")
    # in one namespace, and still not by name: that is not a network
    assert not exercise.check().passed
    lab.remove("waiter", force=True)
    lab.run(lab.image("payload"), name="waiter", network="restaurant", **QUIET)
    connect(lab, "restaurant", "kitchen")
    passes_twice(exercise)


def test_repair_names_on_the_default_bridge(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.repair(lab, 3)
    assert "but not by the name library" in str(exercise.check())
    assert "the default bridge has none" in exercise.hint()
    network = lab.create_network(f"n-{lab.session}")
    connect(lab, str(network.name), "reader")
    assert "not by the name" in str(exercise.check())
    assert "a network which you made" in exercise.hint()
    connect(lab, str(network.name), "library")
    passes_twice(exercise)


def test_repair_published_on_the_wrong_address(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.repair(lab, 4)
    said = str(exercise.check())
    assert "published are: 127.0.0.1:" in said
    hint = exercise.hint()
    assert "decided when it is made" in hint
    address = hint.partition("by the address ")[2].partition(". What")[0]

    def again(**options: Any) -> str:
        lab.remove("front-desk", force=True)
        lab.run(lab.image("payload"), SERVE, name="front-desk", **QUIET, **options)
        return str(exercise.check())

    assert "no port of front-desk is published" in again()
    assert "published are" in again(ports={"80/tcp": (address, None)})
    assert "at which port" in exercise.hint()
    assert "on every address of the host" in again(ports={"8080/tcp": ("0.0.0.0", None)})
    assert "takes an address" in exercise.hint()
    again(ports={"8080/tcp": (address, None)})
    passes_twice(exercise)


def test_repair_listening_on_loopback(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.repair(lab, 5)
    assert "gets no page" in str(exercise.check())
    assert "a loopback of its own" in exercise.hint()
    lab.remove("doctor", force=True)
    lab.run(lab.image("payload"), ["sleep", "600"], name="doctor", network="clinic", **QUIET)
    assert "Nothing answers" in exercise.hint()
    lab.remove("doctor", force=True)
    lab.run(lab.image("payload"), SERVE, name="doctor", network="clinic", **QUIET)
    passes_twice(exercise)
