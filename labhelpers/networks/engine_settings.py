"""Settings of an engine under which a finding of the chapter does not apply.

They are read from the engine and its host, never inferred from an experiment that failed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine.host import Firewall
from labhelpers.errors import BadInput, EngineRefused, LabError
from labhelpers.networks.maps import bridge_interface
from labhelpers.networks.rules import mentions

if TYPE_CHECKING:
    from labhelpers.lab import Lab

DEFAULT = "bridge"
OPTION = "com.docker.network.bridge."
ICC_OFF = "containers on the network {name} cannot reach each other (icc=false)"
OTHER_BRIDGE = "the default bridge of this engine is called {interface} (bridge={interface})"
NO_RULES = "the engine adds no firewall rules for the network {name} (iptables=false)"
NO_FORWARDING = "the engine's host does not forward packets (net.ipv4.ip_forward=0)"
NO_MASQUERADE = "the engine does not translate source addresses of the network {name} ({option})"
NO_NAT = "the engine routes the network {name} without address translation (gateway_mode_ipv4={mode})"
HOST_FIREWALL = (
    "a firewall on the engine's host drops packets from containers to the host (policy of {chain}: DROP)"
)


class NetworkSettings:
    """Reasons why networks of this engine behave differently; None where they have Docker's default behaviour.

    Printed, it lists the differences of the default bridge.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def icc(self, *networks: str) -> str | None:
        """Why containers on one of these bridge networks cannot reach each other (dockerd's `icc`)."""
        return next(
            (
                ICC_OFF.format(name=name)
                for name in networks
                if self._options(name).get(f"{OPTION}enable_icc") == "false"
            ),
            None,
        )

    def rules(self, *networks: str) -> str | None:
        """Why one of these bridge networks has no firewall rules."""
        return next((NO_RULES.format(name=name) for name in networks if not self._has_rules(name)), None)

    def isolation(self, *networks: str) -> str | None:
        """Why one of these networks is not isolated from the others."""
        return next((reason for name in networks if (reason := self.translation(name))), None)

    def masquerade(self, name: str) -> str | None:
        """Why packets that leave the network keep the container's address."""
        if self._options(name).get(f"{OPTION}enable_ip_masquerade") == "false":
            return NO_MASQUERADE.format(name=name, option="ip-masq=false")
        return self.forwarding or self.translation(name)

    @property
    def forwarding(self) -> str | None:
        """Why the host does not forward packets between interfaces, such as those to published ports."""
        return NO_FORWARDING if self._lab.engine.info.get("IPv4Forwarding") is False else None

    def translation(self, name: str) -> str | None:
        """Why no firewall rule translates a published port of the network."""
        mode = self._options(name).get(f"{OPTION}gateway_mode_ipv4", "nat")
        return self.rules(name) if mode.startswith("nat") else NO_NAT.format(name=name, mode=mode)

    @property
    def docker0(self) -> str | None:
        """Why the default bridge is not docker0."""
        interface = bridge_interface(self._network(DEFAULT))
        return None if interface == "docker0" else OTHER_BRIDGE.format(interface=interface)

    @cached_property
    def host(self) -> str | None:
        """Why containers cannot send requests to programs on the host."""
        for chain in self._firewall.chains if self._firewall else ():
            if (
                chain.name == "INPUT"
                and chain.table == "filter"
                and chain.family == "ip"
                and chain.policy == "DROP"
            ):
                return HOST_FIREWALL.format(chain=f"{chain.table}/{chain.name}")
        return None

    def __repr__(self) -> str:
        reasons = [self.docker0, self.icc(DEFAULT), self.rules(DEFAULT), self.masquerade(DEFAULT), self.host]
        differences = list(dict.fromkeys(reason for reason in reasons if reason))
        if not differences:
            return "This engine's networks have Docker's default settings."
        return "\n".join(["What is different on this engine:", *(f"- {reason}" for reason in differences)])

    @property
    def _firewall(self) -> Firewall | None:
        """Read each time, since rules change with networks; None if the lab cannot read them."""
        try:
            return self._lab.host.firewall()
        except LabError:
            return None

    def _has_rules(self, name: str) -> bool:
        firewall = self._firewall
        bridge = bridge_interface(self._network(name))
        return firewall is None or any(mentions(rule, [bridge]) for rule in firewall.rules)

    def _options(self, name: str) -> dict[str, str]:
        return dict(self._network(name).get("Options") or {})

    def _network(self, name: str) -> dict[str, Any]:
        row = next((row for row in self._lab.list_networks() if row.get("Name") == name), None)
        if row is None:
            raise BadInput(
                f"the engine has no network called {name!r}",
                hint="run the cell that creates it again; `docker network ls` lists the networks",
            )
        return dict(row)


@experiment
def network_settings(lab: Lab) -> NetworkSettings:
    """How this engine's network settings differ from Docker's defaults.

    Raises:
        EngineRefused: the engine has no default bridge network.
    """
    if DEFAULT not in {row.get("Name") for row in lab.list_networks()}:
        raise EngineRefused(
            "this engine has no network called bridge, and this chapter needs it: dockerd creates it unless it was "
            "started with bridge=none",
            hint='remove "bridge": "none" from its daemon.json and restart it; or use the lab\'s own engine: '
            "`./lab up --engine private`, then open this notebook again",
        )
    return NetworkSettings(lab)
