"""Five networks that do not work, each for another reason. The lab makes them; the reader finds out which is which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labhelpers.course.containers import container_named, running, setup_container
from labhelpers.engine.host.traffic import received_traffic
from labhelpers.errors import BadInput, ContainerError, EngineRefused, LabError
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.veth import run_in_tools, veth_pair

if TYPE_CHECKING:
    from labhelpers.lab import Lab

NO_DNS = ["127.0.0.1"]
PORT = 8080
PAGE = "one page"
SERVE = ["httpd", "-f", "-p", str(PORT), "-h", "/www"]
INSIDE_ONLY = ["httpd", "-f", "-p", f"127.0.0.1:{PORT}", "-h", "/www"]


@dataclass(frozen=True)
class BrokenNetwork:
    """One broken network.

    Attributes:
        title: what a user of it would say.
        client, server: the names of its two containers.
        wanted: what works once it is repaired.
        check: sends the request; None when it is answered, else what is seen.
        hint: from the state, the likely next look.
        kept_text, kept, kept_hint: what a repair must not give up, how that is seen, and what then helps.
    """

    title: str
    client: str
    server: str
    wanted: str
    check: Callable[[Lab], str | None]
    hint: Callable[[Lab], str]
    kept_text: str
    kept: Callable[[Lab], str | None]
    kept_hint: str


def break_network(lab: Lab, number: int) -> BrokenNetwork:
    """Make the broken network of that number, as far as it is not there.

    Raises:
        BadInput: there is none.
    """
    if isinstance(number, bool) or number not in range(1, len(CASES) + 1):
        raise BadInput(f"there is no broken network {number!r}", hint=f"they are 1 to {len(CASES)}")
    with lab.hidden():
        return CASES[number - 1](lab)


# --- 1: an address of another subnet


def _wrong_subnet(lab: Lab) -> BrokenNetwork:
    client, server, network = "till", "stock", "shop-floor"
    _network(lab, network)
    _container(lab, client, network=network)
    if _container(lab, server, SERVE, network=network):
        # as if somebody had set it by hand: the engine still says the address that it gave
        other = "192.0.2.77/24"  # RFC 5737: for documentation, so nobody's
        run_in_tools(
            lab,
            f"ip address flush dev eth0 && ip address add {other} dev eth0",
            network=f"container:{server}",
            cap_add=["NET_ADMIN"],
        )

    def hint(lab: Lab) -> str:
        seen = [
            a.address
            for a in lab.host.addresses(running(lab, server))
            if a.family == "inet" and a.scope == "global"
        ]
        if _engine_address(lab, server) in seen:
            return f"{server} has the address that the engine gave it. Is {client} on the same network?"
        return (
            f"Compare what `docker inspect` says of the address of {server} with what `ip address` in it says. The "
            "engine sets the address when it joins a container to a network."
        )

    return _by_name(client, server, "the till does not reach the stock", network, hint)


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
            return f"Both are on {', '.join(sorted(shared))}. Does {server} still run what it did?"
        return (
            f"{client} is on {', '.join(_networks(lab, client))}, {server} on {', '.join(_networks(lab, server))}: two "
            "bridges, and a name is found only by containers on the same network."
        )

    return _by_name(client, server, "the waiter does not find the kitchen", "restaurant", hint)


# --- 3: names on the default bridge


def _name_on_default(lab: Lab) -> BrokenNetwork:
    client, server = "reader", "library"
    _container(lab, client)
    _container(lab, server, SERVE)

    def hint(lab: Lab) -> str:
        on = sorted({*_networks(lab, client), *_networks(lab, server)})
        if on == ["bridge"]:
            by_address = (
                "" if network_settings(lab).icc("bridge") else f"By its address, {server} answers {client}. "
            )
            return (
                f"{by_address}Names are found by Docker's own name server, and the default bridge has none: which "
                "networks have it?"
            )
        return f"They are on {', '.join(on)}. Names are found between containers that share a network which you made."

    return _by_name(client, server, "the reader does not find the library by its name", None, hint)


# --- 4: published on another address


def _wrong_address(lab: Lab) -> BrokenNetwork:
    client, server = "guest", "front-desk"
    address = external_host(lab, client)
    _container(lab, server, SERVE, ports={f"{PORT}/tcp": ("127.0.0.1", None)})

    def published() -> list[tuple[str, int]]:
        found: dict[str, Any] = running(lab, server).attrs["NetworkSettings"]["Ports"] or {}
        return [
            (one["HostIp"], int(one["HostPort"])) for bindings in found.values() for one in bindings or []
        ]

    def check(lab: Lab) -> str | None:
        ports = published()
        if not ports:
            return f"no port of {server} is published"
        before = received_traffic(lab.host, running(lab, server)).connections
        if any(_page(lab, client, f"http://{address}:{port}/") for _, port in ports):
            if received_traffic(lab.host, running(lab, server)).connections > before:
                return None
            return f"{client} gets a page from {address}, but it is not {server} that sends it"
        told = ", ".join(f"{ip}:{port}" for ip, port in ports)
        return f"{client} gets no page from {address}; published are: {told}"

    def kept(lab: Lab) -> str | None:
        others = {ip for ip, _ in published()} - {address, "127.0.0.1", "::1"}
        if others & {"0.0.0.0", "::", ""}:
            return f"{server} is published on every address of the host"
        return f"{server} is also published on {min(others)}, another address of the host" if others else None

    def hint(lab: Lab) -> str:
        if any(ip == address for ip, _ in published()):
            return f"It is published where {client} asks. What does the server inside listen on, and at which port?"
        return (
            f"A port published on 127.0.0.1 is for programs of the host. {client} is outside and knows the host by "
            f"the address {address}. What a container publishes is decided when it is made."
        )

    return BrokenNetwork(
        "the guest outside does not reach the front desk",
        client,
        server,
        f"{client} gets the page of {server} from the host's address on its side, at the port that is published",
        check,
        hint,
        "The port is published for the guest's side alone, not on every address of the host",
        kept,
        "`-p` takes an address before the port of the host.",
    )


# --- 5: an app that listens on 127.0.0.1


def _loopback_only(lab: Lab) -> BrokenNetwork:
    client, server, network = "patient", "doctor", "clinic"
    _network(lab, network)
    _container(lab, client, network=network)
    _container(lab, server, INSIDE_ONLY, network=network)

    def hint(lab: Lab) -> str:
        if _page(lab, server, f"http://127.0.0.1:{PORT}/"):
            return (
                f"{server} answers itself on 127.0.0.1, and nobody else. Each container has a loopback of its own: "
                "look at the command of the container, at the address that it listens on."
            )
        return f"Nothing answers at port {PORT} in {server}. `docker logs` and `docker inspect` say what it runs."

    return _by_name(
        client, server, "the patient reaches the doctor's machine, but gets no answer", network, hint
    )


CASES: tuple[Callable[[Lab], BrokenNetwork], ...] = (
    _wrong_subnet,
    _wrong_network,
    _name_on_default,
    _wrong_address,
    _loopback_only,
)


def external_host(lab: Lab, name: str) -> str:
    """A neighbour of the host called `name`, made if it is not there; gives the host's address on its side."""
    setup_container(lab, name, lambda: veth_pair(lab, name))
    link = next((one for one in lab.host.interfaces(running(lab, name)) if one.name == "wire"), None)
    here = {one.index: one.name for one in lab.host.interfaces()}
    end = here.get(link.peer_index or 0) if link else None
    address = next((one.address for one in lab.host.addresses() if one.interface == end), None)
    if end is None or address is None:
        raise LabError(
            f"{name} has lost its connection to the host",
            hint=f"remove {name}, and run the cell of this exercise again",
        )
    return address


# --- what the cases share


def _by_name(
    client: str, server: str, title: str, network: str | None, hint: Callable[[Lab], str]
) -> BrokenNetwork:
    def check(lab: Lab) -> str | None:
        # who answers is seen at the server: another container may have its name as an alias, or a line in /etc/hosts
        before = received_traffic(lab.host, running(lab, server)).connections
        said = _fetch(lab, client, f"http://{server}:{PORT}/")
        if PAGE in said:
            if received_traffic(lab.host, running(lab, server)).connections > before:
                return None
            return f"{client} gets a page from http://{server}:{PORT}/, but it is not {server} that sends it"
        if "executable file not found" in said or "'wget'" in said:
            return f"{client} has no wget to ask with: make it from labhelpers/payload"
        # where they share a network of their own the name is found, and where they share none no address helps
        if set(_networks(lab, client)) & set(_networks(lab, server)) != {"bridge"} or "refused" in said:
            return f"{client} gets no page from http://{server}:{PORT}/"
        address = next(iter(_engine_addresses(lab, server)), None)
        if address and _page(lab, client, f"http://{address}:{PORT}/"):
            return f"{client} gets the page by the address {address}, but not by the name {server}"
        return f"{client} gets no page from http://{server}:{PORT}/"

    def kept(lab: Lab) -> str | None:
        for name in (client, server):
            mode = running(lab, name).attrs["HostConfig"]["NetworkMode"]
            if mode == "host" or mode.startswith("container:"):
                return f"{name} has no network namespace of its own now ({mode})"
        ids = [lab.host.process(running(lab, name)).namespaces.get("net") for name in (client, server)]
        return f"{client} and {server} share one network namespace" if ids[0] and ids[0] == ids[1] else None

    return BrokenNetwork(
        title,
        client,
        server,
        f"{client} gets the page of http://{server}:{PORT}/",
        check,
        hint,
        "Each of the two has a network namespace of its own",
        kept,
        "What shares a namespace needs no network, and has no isolation either: give it one of its own again.",
    )


def _network(lab: Lab, name: str) -> None:
    if name not in {row["Name"] for row in lab.list_networks()}:
        lab.create_network(name)


def _container(lab: Lab, name: str, command: list[str] | None = None, **options: Any) -> bool:
    """Run a container of that name if there is none; whether it was made now."""
    if container_named(lab, name) is not None:
        return False
    lab.run(lab.image("payload"), command, name=name, dns=NO_DNS, **options)
    return True


def _networks(lab: Lab, name: str) -> list[str]:
    return sorted(running(lab, name).attrs["NetworkSettings"]["Networks"] or {})


def _engine_addresses(lab: Lab, name: str) -> list[str]:
    networks = running(lab, name).attrs["NetworkSettings"]["Networks"] or {}
    return [one["IPAddress"] for one in networks.values() if one.get("IPAddress")]


def _engine_address(lab: Lab, name: str) -> str:
    return next(iter(_engine_addresses(lab, name)), "")


def _page(lab: Lab, name: str, url: str) -> bool:
    """Whether a request from a container gets the page of the payload."""
    return PAGE in _fetch(lab, name, url)


def _fetch(lab: Lab, name: str, url: str) -> str:
    """What a request from a container gets, or why it gets nothing."""
    container = running(lab, name)
    with lab.hidden():
        try:
            return str(lab.exec(container, ["timeout", "3", "wget", "-q", "-O", "-", url]))
        except (ContainerError, EngineRefused):  # it has ended meanwhile, or cannot run this
            return ""
