"""The exercises of the chapter on networking: the engine's state, and requests that are really sent, prove them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from labhelpers.exercises import Exercise, Task, container_named, not_running, output_of
from labhelpers.names import all_named, named
from labhelpers.networks.broken import break_network, outside
from labhelpers.networks.maps import map

if TYPE_CHECKING:
    from labhelpers.lab import Lab

LEFT, RIGHT, BOTH = all_named("left", "right", "both-sides")
LEFT_ONE, RIGHT_ONE = all_named("left-one", "right-one")
TRACED = named("traced")
SEALED, IN_ONE, IN_TWO = all_named("sealed", "sealed-one", "sealed-two")
WORLD = named("world")
SETTLE_S = 0.5  # each look sends real requests: it lasts longer than a container that ends at once
QUIET = ["127.0.0.1"]
"""Name servers of the lab's containers: nobody is there, so no name of an exercise leaves the machine."""


# --- one container on two networks


def two_networks(lab: Lab) -> Exercise:
    """A container that reaches two networks which cannot reach each other."""
    with lab.quiet():
        for network, name in ((LEFT, LEFT_ONE), (RIGHT, RIGHT_ONE)):
            if network not in _network_names(lab):
                lab.create_network(network)
            if container_named(lab, name) is None:
                lab.run(lab.image("payload"), name=name, network=network, dns=QUIET)
    runs = Task(
        "runs",
        f"A container {BOTH} runs",
        lambda lab: not_running(lab, BOTH),
        "You need one more container, on one of the networks to begin with. labhelpers/payload stays by itself.",
    )
    reaches = Task(
        "reaches",
        f"It reaches {LEFT_ONE} and {RIGHT_ONE}, by their names",
        lambda lab: next((m for name in (LEFT_ONE, RIGHT_ONE) if (m := _no_ping(lab, BOTH, name))), None),
        _reaches_hint,
        ("runs",),
    )
    apart = Task(
        "apart",
        f"{LEFT_ONE} and {RIGHT_ONE} still cannot reach each other",
        _apart,
        f"Only {BOTH} may be on both networks: take the other two back to one network each.",
        ("reaches",),
    )
    return Exercise(
        lab, "05", "two-networks", "One container, two networks", (runs, reaches, apart), SETTLE_S
    )


def _reaches_hint(lab: Lab) -> str:
    joined = sorted(_networks_of(lab, BOTH))
    if len(joined) < 2:
        return (
            f"{BOTH} is on {', '.join(joined) or 'no network'}. `docker run` takes one network; `docker network` has "
            "a verb that joins a running container to one more."
        )
    return f"{BOTH} is on {', '.join(joined)}. Are these the networks of {LEFT_ONE} and {RIGHT_ONE}?"


def _apart(lab: Lab) -> str | None:
    shared = _networks_of(lab, LEFT_ONE) & _networks_of(lab, RIGHT_ONE)
    if shared:
        return f"{LEFT_ONE} and {RIGHT_ONE} are both on the network {min(shared)}"
    for address in _addresses(lab, RIGHT_ONE):
        if _pings(lab, LEFT_ONE, address):
            return f"{LEFT_ONE} reaches {RIGHT_ONE}"
    return None


# --- the other end


def other_end(lab: Lab) -> Exercise:
    """Find the host's end of a container's veth pair."""
    with lab.quiet():
        if container_named(lab, TRACED) is None:
            lab.run(lab.image("payload"), name=TRACED, dns=QUIET)
    answer = Task(
        "answer",
        f"The file /other-end in {TRACED} holds the name of the host's interface that its eth0 is joined to",
        _other_end,
        _other_end_hint,
    )
    return Exercise(lab, "05", "other-end", "The other end of the wire", (answer,), SETTLE_S)


def _other_end(lab: Lab) -> str | None:
    if missing := not_running(lab, TRACED):
        return missing
    written = _output(lab, TRACED, ["cat", "/other-end"])
    if not written:
        return f"{TRACED} has no file /other-end, or it is empty"
    seen = map(lab, [TRACED])
    right = next((end.host_interface for end in seen.ends if end.interface == "eth0"), None)
    if written == right:
        return None
    kinds = {one.name: one.kind for one in seen.host_interfaces}
    if kinds.get(written) == "bridge":
        return f"{written} is a bridge of the host: the end that you look for is a port of it"
    if kinds.get(written) == "veth":
        return f"{written} is the end of another container's wire"
    return f"the host has no interface “{written[:40]}”"


def _other_end_hint(lab: Lab) -> str:
    if not_running(lab, TRACED):
        return "Run the cell of this exercise again: it makes the container."
    if not _output(lab, TRACED, ["cat", "/other-end"]):
        return (
            "`ip link` in the container writes eth0@ifN: N is the index of the other end. `networks.map(lab)` and "
            "`lab.host.interfaces()` list the host's interfaces with their indexes."
        )
    return "The two ends know each other's index, not each other's name. Compare the numbers."


# --- a network without a way out


def sealed(lab: Lab) -> Exercise:
    """Two containers that talk to each other on a network that has no way out.

    What would be outside is a neighbour of the host, at the other end of a wire of the lab's own.
    """
    with lab.quiet():
        outside(lab, WORLD)
    there = Task(
        "there",
        f"There is a network {SEALED}",
        lambda lab: None if SEALED in _network_names(lab) else f"the engine has no network called {SEALED}",
        "`docker network create --help` lists what a network can be.",
    )
    talk = Task(
        "talk",
        f"{IN_ONE} and {IN_TWO} run on it and reach each other by name",
        _sealed_talk,
        f"Start two containers with --network {SEALED}; names are found on every network that you make.",
        ("there",),
    )
    shut = Task(
        "shut",
        f"From it nobody gets out: {WORLD}, a neighbour of the host, gets no packet",
        _sealed_shut,
        "A network that is there cannot be changed. Remove its containers and it, and make it anew: one option of "
        "`docker network create` restricts it to itself.",
        ("talk",),
    )
    return Exercise(lab, "05", "sealed", "A network without a way out", (there, talk, shut), SETTLE_S)


def _sealed_talk(lab: Lab) -> str | None:
    for source, target in ((IN_ONE, IN_TWO), (IN_TWO, IN_ONE)):
        missing = not_running(lab, source) or not_running(lab, target)
        if missing:
            return missing
        if SEALED not in _networks_of(lab, source):
            return f"{source} is not on {SEALED}"
        if missing := _no_ping(lab, source, target):
            return missing
    return None


def _sealed_shut(lab: Lab) -> str | None:
    address = next(one.address for one in lab.host.addresses(WORLD) if one.interface == "wire")
    names = (IN_ONE, IN_TWO)
    with ThreadPoolExecutor(2) as pool:
        out = list(pool.map(lambda name: _pings(lab, name, address), names))
    found = next((name for name, is_out in zip(names, out, strict=True) if is_out), None)
    return f"{found} reaches {address}, which is outside of the host" if found else None


# --- what is broken


def repair(lab: Lab, number: int) -> Exercise:
    """Find and repair what is broken: the lab breaks one of five networks, numbered 1 to 5.

    Raises:
        BadInput: there is no case of that number.
    """
    case = break_network(lab, number)
    runs = Task(
        "runs",
        f"The containers {case.client} and {case.server} run",
        lambda lab: not_running(lab, case.client) or not_running(lab, case.server),
        "Run the cell of this exercise again: it makes what is missing.",
    )
    works = Task("works", case.wanted, case.check, lambda lab: case.hint(lab), ("runs",))
    kept = Task("kept", case.kept_text, case.kept, case.kept_hint, ("works",))
    return Exercise(
        lab, "05", f"repair-{number}", f"Broken network {number}: {case.title}", (runs, works, kept), SETTLE_S
    )


# --- looking


def _network_names(lab: Lab) -> set[str]:
    return {row["Name"] for row in lab.client.api.networks()}


def _networks_of(lab: Lab, name: str) -> set[str]:
    settings: dict[str, Any] = lab.client.api.inspect_container(name)["NetworkSettings"]
    return set(settings["Networks"] or {})


def _addresses(lab: Lab, name: str) -> list[str]:
    settings: dict[str, Any] = lab.client.api.inspect_container(name)["NetworkSettings"]
    return [one["IPAddress"] for one in (settings["Networks"] or {}).values() if one.get("IPAddress")]


def _output(lab: Lab, name: str, command: list[str]) -> str:
    """What a command in a container says; empty where it fails."""
    try:
        return output_of(lab, name, command)
    except APIError:
        return ""


def _pings(lab: Lab, source: str, target: str) -> bool:
    return "0% packet loss" in _output(lab, source, ["sh", "-c", f"timeout 2 ping -c 1 -W 1 {target}"])


def _no_ping(lab: Lab, source: str, target: str) -> str | None:
    return None if _pings(lab, source, target) else f"{source} does not reach {target} by that name"
