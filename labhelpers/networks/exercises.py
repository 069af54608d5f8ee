"""The exercises of the chapter on networking: the engine's state, and requests that are really sent, prove them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course.exercises import Exercise, Task, given, not_as_given, not_running, output_of, running
from labhelpers.engine import responses
from labhelpers.engine.host.traffic import received_traffic
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.networks.broken import break_network, external_host
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.maps import network_map
from labhelpers.networks.veth import run_in_tools

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

LEFT, RIGHT, BOTH = all_with_suffix("left", "right", "both-sides")
LEFT_ONE, RIGHT_ONE = all_with_suffix("left-one", "right-one")
TRACED = with_suffix("traced")
SEALED, IN_ONE, IN_TWO = all_with_suffix("sealed", "sealed-one", "sealed-two")
WORLD = with_suffix("world")
SETTLE_S = 0.5  # each look sends real requests: it lasts longer than a container that ends at once
QUIET = ["127.0.0.1"]
"""Name servers of the lab's containers: nobody is there, so no name of an exercise leaves the machine."""


# --- one container on two networks


def two_networks(lab: Lab) -> Exercise:
    """A container that reaches two networks which cannot reach each other.

    Promise: echo requests that `both-sides` sends to the *names* of the lab's two containers arrive in those two
    containers, and neither of the two reaches any address of the other.
    """
    with lab.hidden():
        for network, name in ((LEFT, LEFT_ONE), (RIGHT, RIGHT_ONE)):
            if network not in _network_names(lab):
                lab.create_network(network)
            given(lab, name, partial(lab.run, lab.image("payload"), name=name, network=network, dns=QUIET))
    runs = Task(
        "runs",
        f"A container {BOTH} runs",
        lambda lab: not_running(lab, BOTH),
        "You need one more container, on one of the networks to begin with. labhelpers/payload keeps running.",
    )
    reaches = Task(
        "reaches",
        f"It reaches {LEFT_ONE} and {RIGHT_ONE}, by their names",
        lambda lab: next(
            (
                missing
                for name in (LEFT_ONE, RIGHT_ONE)
                if (missing := not_as_given(lab, name) or _does_not_reach(lab, BOTH, name))
            ),
            None,
        ),
        _reaches_hint,
        ("runs",),
    )
    apart = Task(
        "apart",
        f"{LEFT_ONE} and {RIGHT_ONE} still cannot reach each other",
        _apart_if_isolated,
        f"Only {BOTH} may be on both networks: take the other two back to one network each.",
        ("reaches",),
    )
    return Exercise(
        lab,
        "05",
        "two-networks",
        "One container, two networks",
        (runs, reaches, apart),
        SETTLE_S,
        (BOTH, LEFT_ONE, RIGHT_ONE),
    )


def _reaches_hint(lab: Lab) -> str:
    joined = sorted(_networks_of(lab, BOTH))
    if "another machine" in (
        _does_not_reach(lab, BOTH, LEFT_ONE) or _does_not_reach(lab, BOTH, RIGHT_ONE) or ""
    ):
        return (
            f"Look at /etc/hosts in {BOTH}, and at the aliases of other containers: who else has that name?"
        )
    if len(joined) < 2:
        return (
            f"{BOTH} is on {', '.join(joined) or 'no network'}. `docker run` takes one network; `docker network` has "
            "a verb that joins a running container to one more."
        )
    return f"{BOTH} is on {', '.join(joined)}. Are these the networks of {LEFT_ONE} and {RIGHT_ONE}?"


def _apart_if_isolated(lab: Lab) -> str | None:
    """As `_apart`; where the engine isolates no network (iptables=false), they must only not share one."""
    if network_settings(lab).isolation(LEFT, RIGHT) and not _networks_of(lab, LEFT_ONE) & _networks_of(
        lab, RIGHT_ONE
    ):
        return None
    return _apart(lab)


def _apart(lab: Lab) -> str | None:
    shared = _networks_of(lab, LEFT_ONE) & _networks_of(lab, RIGHT_ONE)
    if shared:
        return f"{LEFT_ONE} and {RIGHT_ONE} are both on the network {min(shared)}"
    pairs = [
        (source, target, address)
        for source, target in ((LEFT_ONE, RIGHT_ONE), (RIGHT_ONE, LEFT_ONE))
        for address in _addresses(lab, target)
    ]
    with ThreadPoolExecutor() as pool:  # each waits a second for an answer that should not come
        arrived = list(pool.map(lambda pair: _ping_arrives(lab, *pair), pairs))
    found = next((pair for pair, is_there in zip(pairs, arrived, strict=True) if is_there), None)
    return f"{found[0]} reaches {found[1]}" if found else None


# --- the other end


def other_end(lab: Lab) -> Exercise:
    """Find the host's end of a container's veth pair.

    Promise: the reader's file in `traced` names that interface. The engine gives it another name at each start.
    """
    with lab.hidden():
        given(lab, TRACED, partial(lab.run, lab.image("payload"), name=TRACED, dns=QUIET))
    answer = Task(
        "answer",
        f"The file /other-end in {TRACED} holds the name of the host's interface that its eth0 is joined to",
        _other_end,
        _other_end_hint,
    )
    return Exercise(lab, "05", "other-end", "The other end of the wire", (answer,), SETTLE_S, (TRACED,))


def _other_end(lab: Lab) -> str | None:
    if missing := not_as_given(lab, TRACED):
        return missing
    written = _output(lab, TRACED, ["cat", "/other-end"])
    if not written:
        return f"{TRACED} has no file /other-end, or it is empty"
    seen = network_map(lab, [str(running(lab, TRACED).name)])
    right = next((end.host_interface for end in seen.ends if end.interface == "eth0"), None)
    if written == right:
        return None
    kinds = {one.name: one.kind for one in seen.host_interfaces}
    if written.isdecimal():
        return f"{written} is a number; what is asked for is the name of the interface that has it"
    if "@" in written:
        return f"`ip link` shows two names in “{written[:40]}”: an interface's own name ends before the @"
    if len(written.split()) > 1:
        return "/other-end holds more than one word: write the one name"
    if kinds.get(written) == "bridge":
        return f"{written} is a bridge of the host: the end that you look for is a port of it"
    if kinds.get(written) == "veth":
        return f"{written} is the end of another container's wire"
    if written in kinds:
        return f"{written} is an interface of the host, but not the end of a container's wire"
    return f"the host has no interface “{written[:40]}”"


def _other_end_hint(lab: Lab) -> str:
    if not_as_given(lab, TRACED):
        return "Run the cell of this exercise again: it makes the container."
    if not _output(lab, TRACED, ["cat", "/other-end"]):
        return (
            "`ip link` in the container writes eth0@ifN: N is the index of the other end. `networks.network_map(lab)` "
            "and `lab.host.interfaces()` list the host's interfaces with their indexes."
        )
    return "The two ends know each other's index, not each other's name. Compare the numbers."


# --- a network without a way out


def sealed(lab: Lab) -> Exercise:
    """Two containers that talk to each other on a network that has no way out.

    What would be outside is a neighbour of the host, at the other end of a wire of the lab's own.

    Promise: no packet of a container on this network arrives outside, whatever that container's own routes and
    rights are. Packets are counted where they would arrive: an answer that does not come back proves nothing.
    """
    external_host(lab, WORLD)
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
        _sealed_hint,
        ("talk",),
    )
    return Exercise(
        lab,
        "05",
        "sealed",
        "A network without a way out",
        (there, talk, shut),
        SETTLE_S,
        (IN_ONE, IN_TWO, WORLD),
    )


def _sealed_talk(lab: Lab) -> str | None:
    for source, target in ((IN_ONE, IN_TWO), (IN_TWO, IN_ONE)):
        missing = not_running(lab, source) or not_running(lab, target)
        if missing:
            return missing
        if SEALED not in _networks_of(lab, source):
            return f"{source} is not on {SEALED}"
        if missing := _does_not_reach(lab, source, target):
            return missing
    return None


def _sealed_shut(lab: Lab) -> str | None:
    if missing := not_as_given(lab, WORLD):
        return missing
    host = external_host(lab, WORLD)
    address = next(
        (one.address for one in lab.host.addresses(running(lab, WORLD)) if one.interface == "wire"), None
    )
    if address is None or not _ping_arrives(lab, WORLD, None, host):
        return (
            f"{WORLD} has lost its connection to the host: remove it, and run the cell of this exercise again"
        )
    before = received_traffic(lab.host, running(lab, WORLD)).packets
    with ThreadPoolExecutor() as pool:
        answered = list(pool.map(lambda name: _ping(lab, name, address), (IN_ONE, IN_TWO)))
    if any(answered):
        name = (IN_ONE, IN_TWO)[answered.index(True)]
        return f"{name} reaches {address}, which is outside of the host"
    if received_traffic(lab.host, running(lab, WORLD)).packets > before:
        return f"a packet from {IN_ONE} or {IN_TWO} arrives at {address}, which is outside of the host"
    if parent := _parent(lab):
        return f"{SEALED} is a part of the network of the host's interface {parent}: its packets leave the host there"
    # what the two containers lack themselves, a route or a right, is no property of the network
    before = received_traffic(lab.host, running(lab, WORLD)).packets
    sends = f"ping -c 2 -W 1 {address}; echo | nc -u -w 1 {address} 9; echo | nc -w 1 {address} 80"
    with lab.hidden():
        run_in_tools(lab, sends, network=_network_id(lab, SEALED), cap_add=["NET_RAW"], check=False)
    if received_traffic(lab.host, running(lab, WORLD)).packets > before:
        return (
            f"a packet from another container on {SEALED} arrives at {address}, which is outside of the host"
        )
    return None


def _parent(lab: Lab) -> str | None:
    """The host's interface that a macvlan or ipvlan network uses; None where it uses none that leads anywhere."""
    network = lab.inspect_network(_network_id(lab, SEALED))
    parent = str((network.get("Options") or {}).get("parent") or "")
    kinds = {one.name: one.kind for one in lab.host.interfaces()}
    return (
        parent
        if network["Driver"] in ("macvlan", "ipvlan") and kinds.get(parent, "dummy") != "dummy"
        else None
    )


def _sealed_hint(lab: Lab) -> str:
    missing = _sealed_shut(lab) or ""
    elsewhere = {name: _networks_of(lab, name) - {SEALED} for name in (IN_ONE, IN_TWO)}
    for name, others in elsewhere.items():
        if others:
            return f"{name} is also on {', '.join(sorted(others))}: it may leave by that network."
    if "another container" in missing:
        return (
            "Your two containers cannot get out, but the next one on this network can. What keeps packets in must "
            "belong to the network: look at the options of `docker network create`."
        )
    return (
        "An option of an existing network cannot be changed: remove its containers, then the network, and create it "
        "again. Packets that get no answer have left all the same; an option of `docker network create` stops them."
    )


# --- what is broken


def repair(lab: Lab, number: int) -> Exercise:
    """Find and repair what is broken: the lab breaks one of five networks, numbered 1 to 5.

    Promise: the client's request is answered with the server's page, and it is the server of that name that accepted
    the connection; both still have a network namespace of their own (4: and the port is open on that side alone).

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
    title = f"Broken network {number}: {case.title}"
    containers = (case.client, case.server)
    return Exercise(lab, "05", f"repair-{number}", title, (runs, works, kept), SETTLE_S, containers)


# --- looking


def _network_names(lab: Lab) -> set[str]:
    return {row["Name"] for row in lab.list_networks()}


def _network_id(lab: Lab, name: str) -> str:
    return next(str(row["Id"]) for row in lab.list_networks() if row["Name"] == name)


def _networks_of(lab: Lab, name: str) -> set[str]:
    return set(responses.networks(running(lab, name).attrs))


def _addresses(lab: Lab, name: str) -> list[str]:
    """The addresses that a container really has, whatever the engine thinks."""
    found = lab.host.addresses(running(lab, name))
    return [one.address for one in found if one.scope == "global"]


def _output(lab: Lab, name: str, command: list[str]) -> str:
    """The output of a command in a container; empty where it fails."""
    return output_of(lab, name, command)


def _ping(lab: Lab, source: str, target: str) -> bool:
    """Send one echo request from a container; whether it was answered."""
    container: Container = running(lab, source)
    ping = f"timeout 2 ping -c 1 -W 1 {target}"
    with lab.hidden():
        done = lab.exec(container, ["sh", "-c", ping])
        output = str(done)
        if done.exit_code in (126, 127):
            # its image has no ping: one from beside it, with its routes, its name servers and its /etc/hosts
            beside = f"container:{container.id}"
            output = run_in_tools(lab, ping, network=beside, cap_add=["NET_RAW"], check=False)
    return " 0% packet loss" in output


def _ping_arrives(lab: Lab, source: str, target: str | None, address: str) -> bool:
    """Whether an echo request to `address` is answered, and arrives at the container `target` if that is given."""
    before = received_traffic(lab.host, running(lab, target)).pings if target else 0
    if not _ping(lab, source, address):
        return False
    return target is None or received_traffic(lab.host, running(lab, target)).pings > before


def _does_not_reach(lab: Lab, source: str, target: str) -> str | None:
    """Why an echo request to a container's name does not arrive there, to the reader; None where it does."""
    name = str(running(lab, target).name)
    if _ping_arrives(lab, source, target, name):
        return None
    if _ping(lab, source, name):
        return f"{source} reaches another machine by the name {target}, not {target} itself"
    return f"{source} does not reach {target} by that name"
