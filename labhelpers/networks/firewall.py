"""What publishing a port writes into the host's firewall, and who reaches the port then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.engine import responses
from labhelpers.engine.host import Rule
from labhelpers.engine.host.text import contains_word
from labhelpers.errors import BadInput
from labhelpers.networks.maps import bridge_interface
from labhelpers.networks.rules import mentions
from labhelpers.networks.veth import run_in_tools, veth_pair
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab


UNPUBLISHED = "nothing leads to a published port: no rule (iptables=false), no process (userland-proxy=false)"
WITHOUT_PROXY = "the engine was started with userland-proxy=false: the kernel alone forwards to the container"


@record
class PortRules(Result):
    """The rules that came with one container, and went with it."""

    published: str = column("how the port was published, as one writes it after `-p`")
    inside: str = column("the container's address")
    rules: tuple[tuple[str, str, str], ...] = column(
        "(table, chain, text) of each rule that names the container", shown=False
    )
    proxies: int = column("how many processes of the engine listen on the port")

    def frame(self) -> pd.DataFrame:
        """One row a rule."""
        return table(list(self.rules), ["table", "chain", "rule"])

    @property
    def translations(self) -> tuple[str, ...]:
        """The rules that give packets a new destination: the container's."""
        return tuple(text for _, _, text in self.rules if contains_word(text, "DNAT") or '"dnat"' in text)

    @property
    def unpublished(self) -> str | None:
        """Why the port leads nowhere; None where a rule or a process leads to the container."""
        return None if self.translations or self.proxies else UNPUBLISHED

    @property
    def without_proxy(self) -> str | None:
        """Why no process copies what comes in; None where a docker-proxy listens on the port."""
        return None if self.proxies else WITHOUT_PROXY


@record
class NetworkRules(Result):
    """The firewall's rules that name the bridge of one network."""

    network: str = column("its name")
    rules: tuple[Rule, ...] = rows("those that filter; rules of address translation are left out", of=Rule)


@record
class PortAccess(Result):
    """Who gets an answer from a published port."""

    rows: tuple[tuple[str, str, str, bool], ...] = column(
        "(published on, asked from, asked at, whether it answered)", shown=False
    )

    def frame(self) -> pd.DataFrame:
        """One row a request."""
        return table(list(self.rows), ["published on", "asked from", "asked at", "answered"])

    def answered(self, published: str, source: str) -> bool:
        """Whether the port published on `published` answered `source`."""
        return next(row[3] for row in self.rows if row[:2] == (published, source))


def bridge_rules(lab: Lab, network: str) -> NetworkRules:
    """The firewall's rules that name the bridge of a network and filter what passes.

    Raises:
        BadInput: the engine has no bridge network of that name.
    """
    row = next((one for one in lab.list_networks() if one["Name"] == network), None)
    if row is None or row["Driver"] != "bridge":
        raise BadInput(
            f"the engine has no bridge network called {network!r}",
            hint="`docker network ls` lists them; run the cell that creates it again",
        )
    bridge = bridge_interface(row)
    rules = [one for one in lab.host.firewall().rules if one.table != "nat" and mentions(one, [bridge])]
    return NetworkRules(network, tuple(one for one in rules if one.family != "ip6"))


def port_rules(lab: Lab, *, everywhere: bool) -> PortRules:
    """What `-p` writes into the firewall for a container in which nothing listens.

    Args:
        everywhere: published on every address of the host, as `-p 8080:80` does; else on 127.0.0.1 alone.
            Nothing listens behind it, so nobody is let in for the moment that it takes.
    """
    address = "0.0.0.0" if everywhere else "127.0.0.1"
    ports: Mapping[str | int, Any] = {"80/tcp": (address, None)}
    with (
        lab.quiet(essential=["docker run -d -p"]),
        lab.running(lab.image("payload"), ["sleep", "600"], ports=ports) as container,
    ):
        own = lab.address_of(container)
        port = responses.bindings(lab.inspect(container), "80/tcp")[0][1]
        rules = [rule for rule in lab.host.firewall().rules if mentions(rule, [own])]
        proxies = [
            one
            for one in lab.host.processes()
            if "docker-proxy" in one.command and f"-host-port {port} " in f"{one.command} "
        ]
    shown = f"{port}:80" if everywhere else f"127.0.0.1:{port}:80"
    return PortRules(shown, own, tuple((r.table, r.chain, r.text) for r in rules), len(proxies))


def port_access(lab: Lab) -> PortAccess:
    """Publish one server on 127.0.0.1 and one on an address that a neighbour can see, and ask both from both.

    The neighbour is at the other end of a wire of the lab's own: nobody else can reach that address.
    """
    mark = lab.session[:4]
    serve = ["httpd", "-f", "-p", "80", "-h", "/www"]
    rows = []
    with lab.quiet(essential=["docker run -d -p"]), ExitStack() as stack:
        laid = veth_pair(lab, f"outside-{mark}")
        stack.callback(lab.remove, laid.far, force=True)
        for address, place in (("127.0.0.1", "127.0.0.1"), (laid.host_address, "the neighbour's side")):
            ports: Mapping[str | int, Any] = {"80/tcp": (address, None)}
            server = stack.enter_context(lab.running(lab.image("payload"), serve, ports=ports))
            port = responses.bindings(lab.inspect(server), "80/tcp")[0][1]
            from_host = run_in_tools(lab, _ask(address, port), network="host", check=False)
            rows.append((place, "the host", "the address that it is published on", "page" in from_host))
            request = ["sh", "-c", f"timeout 5 wget -q -O - http://{laid.host_address}:{port}/"]
            page = lab.exec(laid.far, request).stdout
            rows.append((place, "the neighbour", "the host's address on the wire", "page" in page))
    return PortAccess(tuple(rows))


def _ask(address: str, port: int) -> str:
    # without a proxy a published port refuses until the program behind it listens
    return f"curl -s -m 10 --retry 5 --retry-delay 1 --retry-connrefused --retry-max-time 15 http://{address}:{port}/"
