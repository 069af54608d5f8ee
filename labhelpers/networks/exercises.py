"""The exercises of the chapter on networking: the engine's state, and requests that are really sent, prove them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course.checks import all_of, are_running, has_answer, has_network, runs, setup_runs
from labhelpers.course.containers import output_of, running, setup_changed, setup_container
from labhelpers.course.exercises import Check, Exercise, Task
from labhelpers.engine import responses
from labhelpers.engine.host.traffic import received_traffic
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.networks.broken import break_network, external_host
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.maps import network_map
from labhelpers.networks.veth import PEER_INTERFACE, run_in_tools

if TYPE_CHECKING:
    from labhelpers.lab import Lab

LEFT, RIGHT, BOTH = all_with_suffix("left", "right", "both-sides")
LEFT_ONE, RIGHT_ONE = all_with_suffix("left-one", "right-one")
TRACED = with_suffix("traced")
SEALED, IN_ONE, IN_TWO = all_with_suffix("sealed", "sealed-one", "sealed-two")
WORLD = with_suffix("world")
SETTLE_S = 0.5  # each check sends real requests: it lasts longer than a container that exits at run_in_tools
NO_DNS = ["127.0.0.1"]
"""Name servers of the lab's containers: nothing listens there, so no name of an exercise leaves the machine."""


# --- one container on two networks


def two_networks(lab: Lab) -> Exercise:
    """A container that reaches two networks which cannot reach each other.

    Promise: echo requests that `both-sides` sends to the *names* of the lab's two containers arrive in those two
    containers, and neither of the two reaches any address of the other.
    """
    image = lab.image("payload")
    for network, name in ((LEFT, LEFT_ONE), (RIGHT, RIGHT_ONE)):
        if has_network(network)(lab):
            with lab.hidden():
                lab.create_network(network)
        setup_container(lab, name, partial(lab.run, image, name=name, network=network, dns=NO_DNS))
    tasks = (
        runs(
            BOTH,
            "You need one more container, on one of the networks to begin with. labhelpers/payload keeps running.",
        ),
        Task(
            "reaches",
            f"It reaches {LEFT_ONE} and {RIGHT_ONE}, by their names",
            all_of(*(all_of(setup_runs(name), _reaches(BOTH, name)) for name in (LEFT_ONE, RIGHT_ONE))),
            _reaches_hint,
            ("runs",),
        ),
        Task(
            "apart",
            f"{LEFT_ONE} and {RIGHT_ONE} still cannot reach each other",
            _are_isolated,
            f"Only {BOTH} may be on both networks: take the other two back to one network each.",
            ("reaches",),
        ),
    )
    containers = (BOTH, LEFT_ONE, RIGHT_ONE)
    return Exercise(lab, "05", "two-networks", "One container, two networks", tasks, SETTLE_S, containers)


def _reaches_hint(lab: Lab) -> str:
    joined = sorted(_networks_of(lab, BOTH))
    if any("another machine" in (_reaches(BOTH, name)(lab) or "") for name in (LEFT_ONE, RIGHT_ONE)):
        return f"Look at /etc/hosts in {BOTH}, and at the aliases of other containers: which of them has that name?"
    if len(joined) < 2:
        return (
            f"{BOTH} is on {', '.join(joined) or 'no network'}. `docker run` takes one network; `docker network` has "
            "a command that joins a running container to one more."
        )
    return f"{BOTH} is on {', '.join(joined)}. Are these the networks of {LEFT_ONE} and {RIGHT_ONE}?"


def _are_isolated(lab: Lab) -> str | None:
    shared = _networks_of(lab, LEFT_ONE) & _networks_of(lab, RIGHT_ONE)
    if shared:
        return f"{LEFT_ONE} and {RIGHT_ONE} are both on the network {min(shared)}"
    if network_settings(lab).isolation(LEFT, RIGHT):
        return None  # this engine isolates no network (iptables=false)
    pairs = [
        (source, target, address)
        for source, target in ((LEFT_ONE, RIGHT_ONE), (RIGHT_ONE, LEFT_ONE))
        for address in _addresses(lab, target)
    ]
    with ThreadPoolExecutor() as pool:  # each waits a second for a reply that should not come
        arrived = list(pool.map(lambda pair: _ping_arrives(lab, *pair), pairs))
    for (source, target, _), has_arrived in zip(pairs, arrived, strict=True):
        if has_arrived:
            return f"{source} reaches {target}"
    return None


# --- the other end


def other_end(lab: Lab) -> Exercise:
    """Find the host's end of a container's veth pair.

    Promise: the reader's file in `traced` names that interface. The engine gives it another name at each start.
    """
    setup_container(lab, TRACED, partial(lab.run, lab.image("payload"), name=TRACED, dns=NO_DNS))
    answer = Task(
        "answer",
        f"The file /other-end in {TRACED} holds the name of the host's interface that its eth0 is joined to",
        all_of(setup_runs(TRACED), has_answer(TRACED, "/other-end", _judge_interface)),
        _interface_hint,
    )
    return Exercise(lab, "05", "other-end", "The other end of the wire", (answer,), SETTLE_S, (TRACED,))


def _judge_interface(lab: Lab, text: str) -> str | None:
    network = network_map(lab, [str(running(lab, TRACED).name)])
    if text == next((end.host_interface for end in network.endpoints if end.interface == "eth0"), None):
        return None
    kind = {interface.name: interface.kind for interface in network.host_interfaces}.get(text)
    if text.isdecimal():
        return f"{text} is a number; the file must hold the name of the interface that has it"
    if "@" in text:
        return f"`ip link` shows two names in “{text[:40]}”: an interface's own name ends before the @"
    if len(text.split()) > 1:
        return "/other-end holds more than one word: write the name alone"
    if kind == "bridge":
        return f"{text} is a bridge of the host: the end that you look for is a port of it"
    if kind == "veth":
        return f"{text} is the end of another container's wire"
    if kind:
        return f"{text} is an interface of the host, but not the end of a container's wire"
    return f"the host has no interface “{text[:40]}”"


def _interface_hint(lab: Lab) -> str:
    if setup_changed(lab, TRACED):
        return "Run the cell of this exercise again: it starts the container."
    if not output_of(lab, TRACED, ["cat", "/other-end"]):
        return (
            "`ip link` in the container writes eth0@ifN: N is the index of the other end. `networks.network_map(lab)` "
            "and `lab.host.interfaces()` list the host's interfaces with their indexes."
        )
    return "The two ends know each other's index, not each other's name. Compare the numbers."


# --- a network without a way out


def sealed(lab: Lab) -> Exercise:
    """Two containers that communicate on a network that has no way out.

    What would be outside is a neighbour of the host, at the other end of a veth pair of the lab.

    Promise: no packet of a container on this network arrives outside, whatever that container's own routes and
    capabilities are. Packets are counted where they would arrive: a missing reply proves nothing.
    """
    external_host(lab, WORLD)
    tasks = (
        Task(
            "there",
            f"There is a network {SEALED}",
            has_network(SEALED),
            "`docker network create --help` lists the options of a network.",
        ),
        Task(
            "talk",
            f"{IN_ONE} and {IN_TWO} run on it and reach each other by name",
            all_of(
                are_running(IN_ONE, IN_TWO),
                *(_on_network(IN_ONE, SEALED), _reaches(IN_ONE, IN_TWO)),
                *(_on_network(IN_TWO, SEALED), _reaches(IN_TWO, IN_ONE)),
            ),
            f"Start two containers with --network {SEALED}; names are found on every network that you make.",
            ("there",),
        ),
        Task(
            "shut",
            f"From it nobody gets out: {WORLD}, a neighbour of the host, gets no packet",
            all_of(setup_runs(WORLD), _is_shut),
            _shut_hint,
            ("talk",),
        ),
    )
    containers = (IN_ONE, IN_TWO, WORLD)
    return Exercise(lab, "05", "sealed", "A network without a way out", tasks, SETTLE_S, containers)


def _is_shut(lab: Lab) -> str | None:
    host = external_host(lab, WORLD)
    address = next(
        (one.address for one in lab.host.addresses(running(lab, WORLD)) if one.interface == PEER_INTERFACE),
        None,
    )
    if address is None or not _ping_arrives(lab, WORLD, None, host):
        return (
            f"{WORLD} has lost its connection to the host: remove it, and run the cell of this exercise again"
        )
    before = _packets(lab)
    with ThreadPoolExecutor() as pool:
        replies = list(pool.map(lambda name: _ping(lab, name, address), (IN_ONE, IN_TWO)))
    for name, has_reply in zip((IN_ONE, IN_TWO), replies, strict=True):
        if has_reply:
            return f"{name} reaches {address}, which is outside of the host"
    if _packets(lab) > before:
        return f"a packet from {IN_ONE} or {IN_TWO} arrives at {address}, which is outside of the host"
    if parent := _parent(lab):
        return f"{SEALED} is a part of the network of the host's interface {parent}: its packets leave the host there"
    if _packets_leave(lab, address):
        return (
            f"a packet from another container on {SEALED} arrives at {address}, which is outside of the host"
        )
    return None


def _packets(lab: Lab) -> int:
    return received_traffic(lab.host, running(lab, WORLD)).packets


def _packets_leave(lab: Lab, address: str) -> bool:
    """Whether packets of a new container on the network arrive outside.

    If the reader's two containers lack a route or a capability, that is no property of the network.
    """
    before = _packets(lab)
    send = f"ping -c 2 -W 1 {address}; echo | nc -u -w 1 {address} 9; echo | nc -w 1 {address} 80"
    with lab.hidden():
        run_in_tools(lab, send, network=_network_id(lab, SEALED), cap_add=["NET_RAW"], check=False)
    return _packets(lab) > before


def _parent(lab: Lab) -> str | None:
    """The host's interface that a macvlan or ipvlan network uses; None if it uses none that leads anywhere."""
    network = lab.inspect_network(_network_id(lab, SEALED))
    parent = str((network.get("Options") or {}).get("parent") or "")
    kinds = {interface.name: interface.kind for interface in lab.host.interfaces()}
    leads_out = network["Driver"] in ("macvlan", "ipvlan") and kinds.get(parent, "dummy") != "dummy"
    return parent if leads_out else None


def _shut_hint(lab: Lab) -> str:
    for name in (IN_ONE, IN_TWO):
        if others := _networks_of(lab, name) - {SEALED}:
            return f"{name} is also on {', '.join(sorted(others))}: it may leave by that network."
    if "another container" in (_is_shut(lab) or ""):
        return (
            "Your two containers cannot get out, but the next one on this network can. What keeps packets in must "
            "belong to the network: look at the options of `docker network create`."
        )
    return (
        "An option of an existing network cannot be changed: remove its containers, then the network, and create it "
        "again. Packets that get no reply have left all the same; an option of `docker network create` stops them."
    )


# --- broken networks


def repair(lab: Lab, number: int) -> Exercise:
    """Find and repair what is broken: the lab breaks one of five networks, numbered 1 to 5.

    Promise: the client's request is answered with the server's page, and it is the server of that name that accepted
    the connection; both still have a network namespace of their own (4: and the port is open on that side alone).

    Raises:
        BadInput: there is no case of that number.
    """
    case = break_network(lab, number)
    tasks = (
        Task(
            "runs",
            f"The containers {case.client} and {case.server} run",
            are_running(case.client, case.server),
            "Run the cell of this exercise again: it starts what is missing.",
        ),
        Task("works", case.expected, case.check, lambda lab: case.hint(lab), ("runs",)),
        Task("kept", case.unchanged_text, case.unchanged, case.unchanged_hint, ("works",)),
    )
    title = f"Broken network {number}: {case.title}"
    return Exercise(lab, "05", f"repair-{number}", title, tasks, SETTLE_S, (case.client, case.server))


# --- networks and packets


def _network_id(lab: Lab, name: str) -> str:
    return next(str(row["Id"]) for row in lab.list_networks() if row["Name"] == name)


def _networks_of(lab: Lab, name: str) -> set[str]:
    return set(responses.networks(running(lab, name).attrs))


def _on_network(name: str, network: str) -> Check:
    """A running container is on a network."""
    return lambda lab: None if network in _networks_of(lab, name) else f"{name} is not on {network}"


def _reaches(source: str, target: str) -> Check:
    """An echo request from a container to another container's name arrives there."""

    def check(lab: Lab) -> str | None:
        name = str(running(lab, target).name)
        if _ping_arrives(lab, source, target, name):
            return None
        if _ping(lab, source, name):
            return f"{source} reaches another machine by the name {target}, not {target} itself"
        return f"{source} does not reach {target} by that name"

    return check


def _addresses(lab: Lab, name: str) -> list[str]:
    """The addresses that a container has in the kernel, whatever the engine has recorded."""
    rows = lab.host.addresses(running(lab, name))
    return [row.address for row in rows if row.scope == "global"]


def _ping(lab: Lab, source: str, target: str) -> bool:
    """Send one echo request from a container; whether a reply came."""
    container = running(lab, source)
    ping = f"timeout 2 ping -c 1 -W 1 {target}"
    with lab.hidden():
        done = lab.exec(container, ["sh", "-c", ping])
        output = str(done)
        if done.exit_code in (126, 127):
            # its image has no ping: use one in its network namespace, with its routes, name servers and /etc/hosts
            output = run_in_tools(
                lab, ping, network=f"container:{container.id}", cap_add=["NET_RAW"], check=False
            )
    return " 0% packet loss" in output


def _ping_arrives(lab: Lab, source: str, target: str | None, address: str) -> bool:
    """Whether an echo request to `address` gets a reply, and arrives at the container `target` if that is given."""
    before = received_traffic(lab.host, running(lab, target)).pings if target else 0
    if not _ping(lab, source, address):
        return False
    return target is None or received_traffic(lab.host, running(lab, target)).pings > before
