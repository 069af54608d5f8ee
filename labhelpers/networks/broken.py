"""Five broken networks for the exercises: the lab creates them, and the learner finds and repairs the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labhelpers.course.containers import container_named, running, setup_container
from labhelpers.engine.host.traffic import received_traffic
from labhelpers.errors import BadInput, ContainerError, EngineRefused, ExperimentFailed
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.veth import PEER_INTERFACE, run_in_tools, veth_pair

if TYPE_CHECKING:
    from labhelpers.lab import Lab

NO_DNS = ["127.0.0.1"]
PORT = 8080
PAGE = "one page"
"""A part of the page that the payload serves."""
SERVE = ["httpd", "-f", "-p", str(PORT), "-h", "/www"]
SERVE_LOOPBACK = ["httpd", "-f", "-p", f"127.0.0.1:{PORT}", "-h", "/www"]


@dataclass(frozen=True)
class BrokenNetwork:
    """A broken network.

    Attributes:
        title: the problem, as a user would report it.
        client, server: the names of its two containers.
        expected: what works once it is repaired.
        check: sends the request; None if it is answered, else the problem.
        hint: a hint for the current state.
        unchanged_text: what a repair must not change.
        unchanged: None if that is so, else the problem.
        unchanged_hint: a hint for that problem.
    """

    title: str
    client: str
    server: str
    expected: str
    check: Callable[[Lab], str | None]
    hint: Callable[[Lab], str]
    unchanged_text: str
    unchanged: Callable[[Lab], str | None]
    unchanged_hint: str


def break_network(lab: Lab, number: int) -> BrokenNetwork:
    """Create a broken network, as far as it does not exist yet.

    Raises:
        BadInput: there is no broken network `number`.
    """
    if isinstance(number, bool) or number not in range(1, len(CASES) + 1):
        raise BadInput(f"there is no broken network {number!r}", hint=f"use 1 to {len(CASES)}")
    with lab.hidden():
        return CASES[number - 1](lab)


# --- 1: an address of another subnet


def _wrong_subnet(lab: Lab) -> BrokenNetwork:
    client, server, network = "till", "stock", "shop-floor"
    _network(lab, network)
    _container(lab, client, network=network)
    if _container(lab, server, SERVE, network=network):
        # as if set by hand: `docker inspect` still shows the address that the engine allocated
        other = "192.0.2.77/24"  # RFC 5737, reserved for documentation
        run_in_tools(
            lab,
            f"ip address flush dev eth0 && ip address add {other} dev eth0",
            network=f"container:{server}",
            cap_add=["NET_ADMIN"],
        )

    def hint(lab: Lab) -> str:
        actual = [
            address.address
            for address in lab.host.addresses(running(lab, server))
            if address.family == "inet" and address.scope == "global"
        ]
        if _engine_address(lab, server) in actual:
            return f"{server} has the address that the engine allocated. Is {client} on the same network?"
        return (
            f"Compare the address of {server} in `docker inspect` with `ip address` in the container. The engine sets "
            "the address when it connects a container to a network."
        )

    return _by_name(client, server, "the till does not reach the stock", hint)


# --- 2: another network


def _wrong_network(lab: Lab) -> BrokenNetwork:
    client, server = "waiter", "kitchen"
    for network in ("restaurant", "cellar"):
        _network(lab, network)
    _container(lab, client, network="restaurant")
    _container(lab, server, SERVE, network="cellar")

    def hint(lab: Lab) -> str:
        shared = set(_networks(lab, client)) & set(_networks(lab, server))
        if shared:
            return f"Both are on {', '.join(sorted(shared))}. Does {server} still run its web server?"
        return (
            f"{client} is on {', '.join(_networks(lab, client))}, {server} on {', '.join(_networks(lab, server))}: two "
            "bridges, and a name resolves only on the networks of its container."
        )

    return _by_name(client, server, "the waiter does not find the kitchen", hint)


# --- 3: names on the default bridge


def _name_on_default(lab: Lab) -> BrokenNetwork:
    client, server = "reader", "library"
    _container(lab, client)
    _container(lab, server, SERVE)

    def hint(lab: Lab) -> str:
        on = sorted({*_networks(lab, client), *_networks(lab, server)})
        if on == ["bridge"]:
            by_address = (
                "" if network_settings(lab).icc("bridge") else f"{server} answers {client} by its address. "
            )
            return (
                f"{by_address}Docker's embedded DNS server resolves names, and the default bridge does not use it. "
                "Which networks do?"
            )
        return (
            f"They are on {', '.join(on)}. Names resolve between containers on the same user-defined network."
        )

    return _by_name(client, server, "the reader does not find the library by its name", hint)


# --- 4: published on another address


def _wrong_address(lab: Lab) -> BrokenNetwork:
    client, server = "guest", "front-desk"
    address = external_host(lab, client)
    _container(lab, server, SERVE, ports={f"{PORT}/tcp": ("127.0.0.1", None)})

    def published() -> list[tuple[str, int]]:
        ports: dict[str, Any] = running(lab, server).attrs["NetworkSettings"]["Ports"] or {}
        return [
            (binding["HostIp"], int(binding["HostPort"]))
            for bindings in ports.values()
            for binding in bindings or []
        ]

    def check(lab: Lab) -> str | None:
        ports = published()
        if not ports:
            return f"no port of {server} is published"
        before = received_traffic(lab.host, running(lab, server)).connections
        if any(_page(lab, client, f"http://{address}:{port}/") for _, port in ports):
            if received_traffic(lab.host, running(lab, server)).connections > before:
                return None
            return f"{client} gets a page from {address}, but another container than {server} sends it"
        addresses = ", ".join(f"{ip}:{port}" for ip, port in ports)
        return f"{client} gets no page from {address}; published addresses: {addresses}"

    def unchanged(lab: Lab) -> str | None:
        others = {ip for ip, _ in published()} - {address, "127.0.0.1", "::1"}
        if others & {"0.0.0.0", "::", ""}:
            return f"{server} is published on every address of the host"
        return f"{server} is also published on {min(others)}, another address of the host" if others else None

    def hint(lab: Lab) -> str:
        if any(ip == address for ip, _ in published()):
            return "The port is published on that address. On which address and port does the server itself listen?"
        return (
            f"A port published on 127.0.0.1 is reachable from the host only. {client} is outside of the host and "
            f"reaches it at {address}. Published ports are set when a container is created."
        )

    return BrokenNetwork(
        "the guest outside does not reach the front desk",
        client,
        server,
        f"{client} gets the page of {server} from the published port at the host's address on its side",
        check,
        hint,
        "The port is published on the guest's side only, not on every address of the host",
        unchanged,
        "`-p` takes an address before the port of the host.",
    )


# --- 5: an app that listens on 127.0.0.1


def _loopback_only(lab: Lab) -> BrokenNetwork:
    client, server, network = "patient", "doctor", "clinic"
    _network(lab, network)
    _container(lab, client, network=network)
    _container(lab, server, SERVE_LOOPBACK, network=network)

    def hint(lab: Lab) -> str:
        if _page(lab, server, f"http://127.0.0.1:{PORT}/"):
            return (
                f"{server} answers on its own 127.0.0.1 only. Each container has its own loopback interface: which "
                "address does the command of the container listen on?"
            )
        return f"Nothing listens on port {PORT} in {server}. `docker logs` and `docker inspect` show what it runs."

    return _by_name(client, server, "the patient reaches the doctor's machine, but gets no answer", hint)


CASES: tuple[Callable[[Lab], BrokenNetwork], ...] = (
    _wrong_subnet,
    _wrong_network,
    _name_on_default,
    _wrong_address,
    _loopback_only,
)


def external_host(lab: Lab, name: str) -> str:
    """Create a neighbour of the host called `name` unless it exists; the host's address on the link to it.

    Raises:
        ExperimentFailed: the link is broken.
    """
    setup_container(lab, name, lambda: veth_pair(lab, name))
    interfaces = lab.host.interfaces(running(lab, name))
    peer_index = next((each.peer_index for each in interfaces if each.name == PEER_INTERFACE), None)
    host_end = next((each.name for each in lab.host.interfaces() if each.index == peer_index), None)
    address = next((each.address for each in lab.host.addresses() if each.interface == host_end), None)
    if host_end is None or address is None:
        raise ExperimentFailed(
            f"{name} has lost its connection to the host",
            hint=f"remove {name}, and run the cell of this exercise again",
        )
    return address


# --- shared by the broken networks


def _by_name(client: str, server: str, title: str, hint: Callable[[Lab], str]) -> BrokenNetwork:
    def check(lab: Lab) -> str | None:
        # the server's own counter: another container may have its name as an alias, or in /etc/hosts
        before = received_traffic(lab.host, running(lab, server)).connections
        output = _fetch(lab, client, f"http://{server}:{PORT}/")
        if PAGE in output:
            if received_traffic(lab.host, running(lab, server)).connections > before:
                return None
            return f"{client} gets a page from http://{server}:{PORT}/, but another container than {server} sends it"
        if "executable file not found" in output or "'wget'" in output:
            return f"{client} has no wget: create it from labhelpers/payload"
        # on a shared user-defined network the name resolves; without a shared network no address is reachable
        if set(_networks(lab, client)) & set(_networks(lab, server)) != {"bridge"} or "refused" in output:
            return f"{client} gets no page from http://{server}:{PORT}/"
        address = next(iter(_engine_addresses(lab, server)), None)
        if address and _page(lab, client, f"http://{address}:{PORT}/"):
            return f"{client} gets the page by the address {address}, but not by the name {server}"
        return f"{client} gets no page from http://{server}:{PORT}/"

    def unchanged(lab: Lab) -> str | None:
        for name in (client, server):
            mode = running(lab, name).attrs["HostConfig"]["NetworkMode"]
            if mode == "host" or mode.startswith("container:"):
                return f"{name} does not have its own network namespace ({mode})"
        ids = [lab.host.process(running(lab, name)).namespaces.get("net") for name in (client, server)]
        return f"{client} and {server} share one network namespace" if ids[0] and ids[0] == ids[1] else None

    return BrokenNetwork(
        title,
        client,
        server,
        f"{client} gets the page of http://{server}:{PORT}/",
        check,
        hint,
        "Each of the two has its own network namespace",
        unchanged,
        "Containers that share a network namespace are not isolated from each other: use a network instead.",
    )


def _network(lab: Lab, name: str) -> None:
    if name not in {row["Name"] for row in lab.list_networks()}:
        lab.create_network(name)


def _container(lab: Lab, name: str, command: list[str] | None = None, **options: Any) -> bool:
    """Run a container unless one of that name exists; whether it was created."""
    if container_named(lab, name) is not None:
        return False
    lab.run(lab.image("payload"), command, name=name, dns=NO_DNS, **options)
    return True


def _networks(lab: Lab, name: str) -> list[str]:
    return sorted(running(lab, name).attrs["NetworkSettings"]["Networks"] or {})


def _engine_addresses(lab: Lab, name: str) -> list[str]:
    networks = running(lab, name).attrs["NetworkSettings"]["Networks"] or {}
    return [endpoint["IPAddress"] for endpoint in networks.values() if endpoint.get("IPAddress")]


def _engine_address(lab: Lab, name: str) -> str:
    return next(iter(_engine_addresses(lab, name)), "")


def _page(lab: Lab, name: str, url: str) -> bool:
    """Whether a request from a container returns the payload's page."""
    return PAGE in _fetch(lab, name, url)


def _fetch(lab: Lab, name: str, url: str) -> str:
    """The response to a request from a container, or the error message."""
    container = running(lab, name)
    with lab.hidden():
        try:
            return str(lab.exec(container, ["timeout", "3", "wget", "-q", "-O", "-", url]))
        except (ContainerError, EngineRefused):  # the container has ended, or has no wget
            return ""
