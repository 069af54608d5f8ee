"""The room of `05_networking`: who is joined to whom, what happens to a packet on its way, and what a way costs."""

from labhelpers.networks.census import census
from labhelpers.networks.drivers import host_driver, ipvlan, macvlan, no_network, reach, resolver
from labhelpers.networks.firewall import port_reach, port_rules, rules_of
from labhelpers.networks.follow import follow
from labhelpers.networks.limits import limits
from labhelpers.networks.live import live
from labhelpers.networks.maps import map
from labhelpers.networks.overlay import two_engines
from labhelpers.networks.paths import paths
from labhelpers.networks.swarm import across, crossing, lose_an_engine
from labhelpers.networks.wire import wire

__all__ = [
    "across",
    "census",
    "crossing",
    "follow",
    "host_driver",
    "ipvlan",
    "limits",
    "live",
    "lose_an_engine",
    "macvlan",
    "map",
    "no_network",
    "paths",
    "port_reach",
    "port_rules",
    "reach",
    "resolver",
    "rules_of",
    "two_engines",
    "wire",
]
