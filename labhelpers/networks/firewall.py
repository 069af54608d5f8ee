"""The firewall rules of a published port and of a bridge, and which clients a published port answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.engine.host import Rule
from labhelpers.engine.host.text import contains_word
from labhelpers.errors import BadInput
from labhelpers.networks.maps import bridge_interface
from labhelpers.networks.rules import mentions
from labhelpers.networks.veth import run_in_tools, veth_pair
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab


UNREACHABLE = (
    "this engine forwards no published port: no rules (iptables=false), no proxy (userland-proxy=false)"
)
NO_PROXY = "the engine was started with userland-proxy=false: only firewall rules forward to the container"


@record
class PortRule(Result):
    """A firewall rule that contains a container's address."""

    table: str = column("the firewall table")
    chain: str = column("the chain of the rule")
    rule: str = column("the rule, in the notation of iptables or of nft")


@record
class PortRules(Result):
    """The firewall rules that the engine adds for one published port."""

    published: str = column("the published port, as after `-p`")
    container_address: str = column("the container's IP address")
    rules: tuple[PortRule, ...] = rows("the rules that contain the container's address", of=PortRule)
    userland_proxies: int = column("number of `docker-proxy` processes that listen on the port")

    @property
    def dnat_rules(self) -> tuple[str, ...]:
        """The rules that change the destination of packets to the container."""
        texts = (each.rule for each in self.rules)
        return tuple(text for text in texts if contains_word(text, "DNAT") or '"dnat"' in text)

    @property
    def unreachable_reason(self) -> str | None:
        """Why nothing forwards to the container; None if a rule or a process does."""
        return None if self.dnat_rules or self.userland_proxies else UNREACHABLE

    @property
    def no_proxy_reason(self) -> str | None:
        """Why no `docker-proxy` listens on the port; None if one does."""
        return None if self.userland_proxies else NO_PROXY


@record
class NetworkRules(Result):
    """The filter rules for the bridge of one network."""

    network: str = column("the network's name")
    rules: tuple[Rule, ...] = rows(
        "the IPv4 rules that contain the bridge's name, without the nat table", of=Rule
    )

    def frame(self) -> pd.DataFrame:
        """The chain, the text and the counter of packets: the other columns are the same for every rule."""
        # not super() without arguments: a class with slots is made twice
        return Result.frame(self)[["chain", "text", "packets"]]


@record
class PortRequest(Result):
    """A request to a published port."""

    published_on: str = column("the address that the port is published on")
    client: str = column("where the request comes from")
    target: str = column("the address that the request is sent to")
    answered: bool = column("whether the server answered")


@record
class PortAccess(Result):
    """Which clients a published port answers."""

    requests: tuple[PortRequest, ...] = rows("one request for each address and client", of=PortRequest)

    def answered(self, published_on: str, client: str) -> bool:
        """Whether the port published on `published_on` answered `client`."""
        return next(
            request.answered
            for request in self.requests
            if (request.published_on, request.client) == (published_on, client)
        )


@experiment
def bridge_rules(lab: Lab, network: str) -> NetworkRules:
    """The IPv4 filter rules that contain the name of a network's bridge.

    Raises:
        BadInput: the engine has no bridge network of that name.
    """
    row = next((row for row in lab.list_networks() if row["Name"] == network), None)
    if row is None or row["Driver"] != "bridge":
        raise BadInput(
            f"the engine has no bridge network called {network!r}",
            hint="`docker network ls` lists them; run the cell that creates it again",
        )
    bridge = bridge_interface(row)
    rules = lab.host.firewall().rules
    return NetworkRules(
        network,
        tuple(
            rule
            for rule in rules
            if rule.table != "nat" and rule.family != "ip6" and mentions(rule, [bridge])
        ),
    )


@experiment
def port_rules(lab: Lab, *, all_addresses: bool) -> PortRules:
    """Publish a port of a container, and list the firewall rules that the engine adds for it.

    No program listens in the container, so the port is not a risk while it is published.

    Args:
        all_addresses: publish on every address of the host, as `-p 8080:80` does; else on 127.0.0.1 only.
    """
    address = "0.0.0.0" if all_addresses else "127.0.0.1"
    ports: Mapping[str | int, Any] = {"80/tcp": (address, None)}
    with (
        lab.quiet(essential=["docker run -d -p"]),
        lab.running(lab.image("payload"), ["sleep", "600"], ports=ports) as container,
    ):
        container_address = lab.address_of(container)
        port = responses.bindings(lab.inspect(container), "80/tcp")[0][1]
        rules = [rule for rule in lab.host.firewall().rules if mentions(rule, [container_address])]
        proxies = [
            process
            for process in lab.host.processes()
            if "docker-proxy" in process.command and f"-host-port {port} " in f"{process.command} "
        ]
    published = f"{port}:80" if all_addresses else f"127.0.0.1:{port}:80"
    container_rules = tuple(PortRule(rule.table, rule.chain, rule.text) for rule in rules)
    return PortRules(published, container_address, container_rules, len(proxies))


@experiment
def port_access(lab: Lab) -> PortAccess:
    """Publish one server on 127.0.0.1 and one on an address of the host's link to a neighbour; request both from both.

    The neighbour is at the other end of a veth pair of the lab, so no other machine can reach that address.
    """
    suffix = lab.session[:4]
    serve = ["httpd", "-f", "-p", "80", "-h", "/www"]
    requests = []
    with lab.quiet(essential=["docker run -d -p"]), ExitStack() as stack:
        pair = veth_pair(lab, f"outside-{suffix}")
        stack.callback(lab.remove, pair.peer_container, force=True)
        for address, side in (("127.0.0.1", "127.0.0.1"), (pair.host_address, "the neighbour's side")):
            ports: Mapping[str | int, Any] = {"80/tcp": (address, None)}
            server = stack.enter_context(lab.running(lab.image("payload"), serve, ports=ports))
            port = responses.bindings(lab.inspect(server), "80/tcp")[0][1]
            page = run_in_tools(lab, _curl(address, port), network="host", check=False)
            requests.append(PortRequest(side, "the host", "the published address", "page" in page))
            wget = ["sh", "-c", f"timeout 5 wget -q -O - http://{pair.host_address}:{port}/"]
            page = lab.exec(pair.peer_container, wget).stdout
            requests.append(
                PortRequest(
                    side, "the neighbour", "the host's address on the neighbour's link", "page" in page
                )
            )
    return PortAccess(tuple(requests))


def _curl(address: str, port: int) -> str:
    # without docker-proxy, a published port refuses connections until the server listens
    return f"curl -s -m 10 --retry 5 --retry-delay 1 --retry-connrefused --retry-max-time 15 http://{address}:{port}/"
