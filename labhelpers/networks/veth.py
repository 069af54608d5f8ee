"""A wire of the lab's own into the host: a veth pair, one end in a container's namespace, the other in the host's.

Nothing else holds the pair. When the container goes, its namespace goes, and with it that end; the kernel then
removes the other end, too (veth(4)). So what removes the lab's containers removes the wire, also when the
notebook's process is killed: the reaper needs to know of no links.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.engine import subnets
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# RFC 2544: set aside for measurements of networks, so nobody's in the internet
BENCHMARK_BLOCK = ipaddress.IPv4Network("198.18.0.0/15")
# RFC 5737: for documentation; some VPN clients and proxies take 198.18.0.0/15 for themselves
DOCUMENTATION_BLOCKS = tuple(ipaddress.IPv4Network(block) for block in ("198.51.100.0/24", "203.0.113.0/24"))
RUN_TIMEOUT_S = 60


@record
class VethPair(Result):
    """A wire between the host and one container."""

    link: str = column("the name of the host's end")
    far: str = column("the name of the container at the other end; its interface is called `wire`")
    subnet: str = column("of both ends")
    host_address: str = column("of the two ends, without the prefix length")
    far_address: str = column("of the two ends, without the prefix length")


def veth_pair(lab: Lab, far: str) -> VethPair:
    """Lay a wire from the host to a new container called `far`, which has no other network.

    The container has NET_ADMIN in its own namespace alone. The pair is made by a container that lives for a
    moment, with NET_ADMIN in the host's network namespace and no other capability; it knows of `far` because it
    shares its pid namespace. `lab.remove(far)` takes the wire up again.

    Raises:
        LabError: the engine's kernel makes no veth pairs for the lab; its words are kept.
    """
    subnet = free_subnet(lab)
    # the engine gives addresses out from the start: the far end has the last one
    host_address, far_address = str(subnet[1]), str(subnet[254])
    with lab.quiet(essential=["docker run --rm --network host", "docker exec"]):
        end = lab.run(
            lab.image("payload"),
            ["sh", "-c", "httpd -h /www; exec sleep 86400"],
            name=far,
            network="none",
            cap_drop=["ALL"],
            cap_add=["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"],
            init=True,
        )
        link = f"lab-{str(end.id)[:8]}"
        try:
            made = [
                f"ip link add {link} type veth peer name wire netns 1",
                f"ip address add {host_address}/{subnet.prefixlen} dev {link}",
                f"ip link set {link} up",
            ]
            run_in_tools(
                lab, " && ".join(made), network="host", pid=f"container:{far}", cap_add=["NET_ADMIN"]
            )
            up = "ip link set wire up && ip link set lo up"
            there = f"ip address add {far_address}/{subnet.prefixlen} dev wire && {up}"
            answer = lab.exec(end, ["sh", "-c", there])
            if answer.exit_code:
                raise LabError(
                    "the far end of the wire could not be set up",
                    hint="run the cell again",
                    engine_message=str(answer),
                )
        except BaseException:
            lab.remove(end, force=True)
            raise
    return VethPair(link, far, str(subnet), host_address, far_address)


def free_subnet(lab: Lab) -> ipaddress.IPv4Network:
    """A subnet of 254 addresses that the engine's host has no route to yet, out of those for measurements.

    Raises:
        LabError: routes of the host, a VPN's for example, cover all of them.
    """
    # routes that cover more than these blocks are ways to the internet in general, not to these addresses
    taken = [
        one
        for one in subnets.route_subnets(route.destination for route in lab.host.routes())
        if one.version == 4 and one.prefixlen >= BENCHMARK_BLOCK.prefixlen
    ]
    # networks of the engine whose parent is no interface of the host have no route there
    taken += [one for one, _ in subnets.network_subnets(lab.list_networks()) if one.version == 4]
    start = int(lab.session, 16) % 512  # two notebooks at once do not choose the same
    all_of_them = [
        one for one in BENCHMARK_BLOCK.subnets(new_prefix=24) if isinstance(one, ipaddress.IPv4Network)
    ]
    for subnet in [*all_of_them[start:], *all_of_them[:start], *DOCUMENTATION_BLOCKS]:
        if not subnets.overlaps(subnet, taken):
            return subnet
    raise LabError(
        f"the engine's host has routes to all of {BENCHMARK_BLOCK}, which the lab uses for networks of its own",
        hint="disconnect the VPN or stop the proxy that made them (`ip route` lists them), then run the cell again",
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
    """What a shell script says that runs in a container of its own, from the image `tools`, with few rights.

    Args:
        check: whether it is an error that the script fails.

    Raises:
        LabError: the script failed; its words are kept.
    """
    with lab.quiet():
        done = lab.run_once(
            lab.image("tools"),
            ["sh", "-c", script],
            limit_s=RUN_TIMEOUT_S,
            network=network,
            pid=pid,
            cap_drop=["ALL"],
            cap_add=list(cap_add),
        )
    if check and done.exit_code:
        raise LabError(
            "the engine's host did not do what the lab asked of its network",
            hint="its words say why; `./lab doctor` says which engine this is",
            engine_message=str(done),
        )
    return str(done)
