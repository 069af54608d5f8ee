"""The room of `05_networking`: network maps, packet traces, drivers, published ports, and the cost of each path."""

from labhelpers.networks.drivers import host_driver, ipvlan, macvlan, no_network, reachability, resolver
from labhelpers.networks.engine_settings import network_settings
from labhelpers.networks.firewall import bridge_rules, port_access, port_rules
from labhelpers.networks.host_snapshot import host_network_snapshot
from labhelpers.networks.live import live_map
from labhelpers.networks.maps import network_map
from labhelpers.networks.overlay import swarm_of_two
from labhelpers.networks.packet_trace import trace_packets
from labhelpers.networks.paths import paths
from labhelpers.networks.swarm import kill_engine, mtu_probe, overlay_ping
from labhelpers.networks.veth import veth_pair

__all__ = [
    "bridge_rules",
    "host_driver",
    "host_network_snapshot",
    "ipvlan",
    "kill_engine",
    "live_map",
    "macvlan",
    "mtu_probe",
    "network_map",
    "network_settings",
    "no_network",
    "overlay_ping",
    "paths",
    "port_access",
    "port_rules",
    "reachability",
    "resolver",
    "swarm_of_two",
    "trace_packets",
    "veth_pair",
]
