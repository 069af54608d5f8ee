"""A veth pair between the host and a container: one end in the host's network namespace, the other in the container's.

Nothing else uses the pair. When the container ends, its network namespace goes with its end of the pair, and the kernel
removes the other end too (veth(4)). Removing the container is therefore enough, also after a crash of the notebook.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine import subnets
from labhelpers.errors import ExperimentFailed, NotAvailable
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# RFC 2544: reserved for benchmarks of network devices
BENCHMARK_BLOCK = ipaddress.IPv4Network("198.18.0.0/15")
# RFC 5737: reserved for documentation; some VPN clients and proxies use 198.18.0.0/15
DOCUMENTATION_BLOCKS = tuple(ipaddress.IPv4Network(block) for block in ("198.51.100.0/24", "203.0.113.0/24"))
PEER_INTERFACE = "eth0"
RUN_TIMEOUT_S = 60


@record
class VethPair(Result):
    """A veth pair between the host and a container."""

    host_interface: str = column("the host's end of the pair")
    peer_container: str = column("the container with the other end, `eth0`")
    subnet: str = column("the subnet of both ends")
    host_address: str = column("the host's address, without the prefix length")
    peer_address: str = column("the container's address, without the prefix length")


@experiment
def veth_pair(lab: Lab, peer_container: str) -> VethPair:
    """Create a container that has no other network, and a veth pair between it and the host.

    The container has NET_ADMIN in its own network namespace only. A short-lived container creates the pair: it has
    NET_ADMIN in the host's network namespace, no other capability, and shares the PID namespace of `peer_container`
    to refer to its network namespace. `lab.remove(peer_container)` removes the pair.

    Raises:
        NameTaken: the container's name is in use.
        ExperimentFailed: the pair could not be created or configured.
    """
    subnet = free_subnet(lab)
    # the engine allocates addresses from the start of a subnet: the peer gets the last one
    host_address, peer_address = str(subnet[1]), str(subnet[254])
    with lab.quiet(essential=["docker run --rm --network host", "docker exec"]):
        peer = lab.run(
            lab.image("payload"),
            ["sh", "-c", "httpd -h /www; exec sleep 86400"],
            name=peer_container,
            network="none",
            cap_drop=["ALL"],
            cap_add=["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"],
            init=True,
        )
        host_interface = f"lab-{str(peer.id)[:8]}"
        try:
            on_host = [
                f"ip link add {host_interface} type veth peer name {PEER_INTERFACE} netns 1",
                f"ip address add {host_address}/{subnet.prefixlen} dev {host_interface}",
                f"ip link set {host_interface} up",
            ]
            run_in_tools(
                lab,
                " && ".join(on_host),
                network="host",
                pid=f"container:{peer_container}",
                cap_add=["NET_ADMIN"],
            )
            in_peer = [
                f"ip address add {peer_address}/{subnet.prefixlen} dev {PEER_INTERFACE}",
                f"ip link set {PEER_INTERFACE} up",
                "ip link set lo up",
            ]
            configured = lab.exec(peer, ["sh", "-c", " && ".join(in_peer)])
            if configured.exit_code:
                raise ExperimentFailed(
                    f"the interface {PEER_INTERFACE} of {peer_container} could not be configured",
                    hint="run the cell again",
                    engine_message=str(configured),
                )
        except BaseException:
            lab.remove(peer, force=True)
            raise
    return VethPair(host_interface, peer_container, str(subnet), host_address, peer_address)


def free_subnet(lab: Lab) -> ipaddress.IPv4Network:
    """A /24 subnet of the benchmark block that the engine's host has no route to.

    Raises:
        NotAvailable: the host has routes, such as those of a VPN, to all of them.
    """
    # a route to more than the whole block is a default route of some kind, not a route to these addresses
    used = [
        subnet
        for subnet in subnets.route_subnets(route.destination for route in lab.host.routes())
        if subnet.version == 4 and subnet.prefixlen >= BENCHMARK_BLOCK.prefixlen
    ]
    # the host has no route to a network of the engine that has no interface on the host
    used += [subnet for subnet, _ in subnets.network_subnets(lab.list_networks()) if subnet.version == 4]
    start = int(lab.session, 16) % 512  # so that two notebooks choose different ones
    candidates = list(BENCHMARK_BLOCK.subnets(new_prefix=24))
    for subnet in [*candidates[start:], *candidates[:start], *DOCUMENTATION_BLOCKS]:
        if not subnets.overlaps(subnet, used):
            return subnet
    raise NotAvailable(
        f"the engine's host has routes to all of {BENCHMARK_BLOCK}, the addresses that the lab uses for its networks",
        hint="disconnect the VPN or stop the proxy that added them (`ip route` lists them), then run the cell again",
    )


def run_in_tools(
    lab: Lab,
    script: str,
    *,
    network: str = "none",
    pid: str | None = None,
    cap_add: Sequence[str] = (),
    check: bool = True,
) -> str:
    """Run a shell script in a container of the image `tools` that has only the capabilities `cap_add`.

    Args:
        check: raise an error if the script fails.

    Returns:
        The script's output, with its error messages.

    Raises:
        ExperimentFailed: the script failed; its output is kept.
    """
    with lab.quiet():
        result = lab.run_once(
            lab.image("tools"),
            ["sh", "-c", script],
            limit_s=RUN_TIMEOUT_S,
            network=network,
            pid=pid,
            cap_drop=["ALL"],
            cap_add=list(cap_add),
        )
    if check and result.exit_code:
        raise ExperimentFailed(
            "a network command failed on the engine's host",
            hint="the message shows why; `./lab doctor` describes this engine",
            engine_message=str(result),
        )
    return str(result)
