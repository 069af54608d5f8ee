"""The room of `05_networking`: who is joined to whom, what happens to a packet on its way, and what a way costs."""

from labhelpers.networks.drivers import host_driver, ipvlan, macvlan, no_network, reach, resolver
from labhelpers.networks.maps import map

__all__ = ["host_driver", "ipvlan", "macvlan", "map", "no_network", "reach", "resolver"]
