"""Why an operation was refused, as an error with a next step: who has the name, the port or the addresses."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import docker
from docker.errors import APIError, ImageNotFound

from labhelpers.engine import registries, responses, subnets
from labhelpers.engine.error_translation import engine_refused
from labhelpers.errors import BuildFailed, EngineRefused, ImageMissing, LabError, NameTaken, PortTaken
from labhelpers.lab import learners, sessions

if TYPE_CHECKING:
    from labhelpers.engine.host import HostView
    from labhelpers.lab.operations import Build, Run

# libnetwork's message until Engine 24, and since 25 (moby, libnetwork/ipamapi and ipams/defaultipam)
NO_POOL = re.compile(
    r"non-overlapping IPv[46] address pool|predefined address pools have been fully subnetted"
)
_PREDEFINED_NETWORKS = ("bridge", "host", "none", "docker_gwbridge", "ingress")
_MAX_LISTED = 4
# runc's own first process is charged to the container, and killed where it is given too little (moby#41167): up to
# 16.8 MB were seen to be taken. What the engine says then depends on how far it had come, and never is the cause.
_START_MEMORY_BYTES = 32 << 20


def image_missing(ref: str, error: object) -> ImageMissing:
    """That the engine does not have an image, or that its registry did not give it."""
    message = str(getattr(error, "explanation", None) or error)
    if "no such image" in message.lower():
        return ImageMissing(
            f"the engine does not have the image {ref!r}",
            hint=f"pull it: lab.pull({ref!r}); for a lab image: lab.image(NAME)",
            engine_message=message,
        )
    return registries.explain_failure(ref, message).to_error(ref)


def build_failed(call: Build, output: list[str], message: str) -> BuildFailed:
    """That a build failed, with the end of its output."""
    last = "".join(output).strip().splitlines()[-8:]
    return BuildFailed(
        f"the image {call.tag!r} could not be built",
        hint=f"fix the last step in {call.path} and build again",
        engine_message="\n".join([*last, message]),
    )


def not_started(client: docker.DockerClient, run: Run, error: APIError) -> LabError:
    """Why a new container did not start: a port that is taken, no address left, too little memory."""
    message = str(error.explanation)
    if "no available IPv" in message:
        return EngineRefused(
            f"the network {run.network or 'bridge'!r} has no free address left",
            hint="remove containers of it that you do not need, or create a network with more addresses: "
            "lab.create_network(NAME, subnet=…) takes a shorter prefix, such as /24",
            engine_message=message,
        )
    if "already allocated" not in message and "address already in use" not in message:
        refused = engine_refused(error)
        if 0 < run.api()["HostConfig"].get("Memory", 0) < _START_MEMORY_BYTES:
            refused.hint = (
                "starting a container needs up to 17 MB on some engines: use memory='32m' or more, unless "
                "the engine's message names another cause"
            )
        return refused
    ports = {
        int(binding["HostPort"]): inside
        for inside, bindings in run.api()["HostConfig"].get("PortBindings", {}).items()
        for binding in bindings
        if binding["HostPort"]
    }
    taken = next((port for port in ports if re.search(rf":{port}\b", message)), None)
    if taken is None:
        return engine_refused(error)
    used = _published_ports(client)
    owner = f"the container {used[taken]!r}" if taken in used else "a process on the engine's host"
    return PortTaken(
        f"port {taken} is already in use by {owner}",
        hint=f"publish another one: ports={{{ports[taken]!r}: {_free_port(taken, used)}}}",
        engine_message=message,
    )


def name_taken(
    client: docker.DockerClient, chapter: str, session: str, kind: str, name: str, error: APIError | None
) -> NameTaken:
    """Whose a name is, and what to do about it."""
    message = None if error is None else str(error.explanation)
    owner = next(
        (
            thing
            for look in (sessions.session_resources, sessions.foreign_resources)
            for thing in look(client)
            if (thing.kind, thing.name) == (kind, name)
        ),
        None,
    )
    if owner is None:
        return NameTaken(
            f"the name {name!r} is used by {_with_article(kind)} that the lab did not create",
            hint="choose another name or, if you do not need it, remove it in a terminal",
            engine_message=message,
        )
    if owner.session == session:
        whose, hint = "this notebook created", "remove it first, or choose another name"
        if kind == "container":
            hint = f"lab.remove({name!r}, force=True) removes it; or choose another name"
    else:
        whose, hint = learners.owner(owner), learners.resolution_hint(chapter, [owner])
    return NameTaken(
        f"the name {name!r} is used by {_with_article(kind)} that {whose}", hint=hint, engine_message=message
    )


def subnet_taken(client: docker.DockerClient, host: HostView, subnet: str, error: APIError) -> NameTaken:
    """That the addresses of a subnet belong to another network."""
    wanted = subnets.parse_subnet(subnet)
    assert wanted is not None, "checked by CreateNetwork"
    taken = list(subnets.network_subnets(client.api.networks()))
    owner = next((name for subnet, name in taken if subnets.overlaps(wanted, [subnet])), None)
    whose = f"the network {owner!r}" if owner else "another network of the engine's machine"
    return NameTaken(
        f"the subnet {subnet} overlaps with {whose}",
        hint=_free_subnet(client, host, [subnet for subnet, _ in taken], wanted.version)
        + "or omit the subnet to let the engine choose",
        engine_message=str(error.explanation),
    )


def no_pool(client: docker.DockerClient, host: HostView, error: APIError) -> EngineRefused:
    """That no address pool is left: too many networks, small pools, or routes (a VPN's) that cover the pools."""
    message = str(error.explanation)
    rows = [row for row in client.api.networks() if row.get("Name") not in _PREDEFINED_NETWORKS]
    used = {
        str(name)
        for row in client.api.containers(all=True)
        for name in (row.get("NetworkSettings") or {}).get("Networks") or {}
    }
    # a swarm's networks may be in use on other machines
    local = [str(row["Name"]) for row in rows if row.get("Scope", "local") == "local"]
    unused = sorted(name for name in local if name not in used)
    hint = _free_subnet(
        client,
        host,
        [subnet for subnet, _ in subnets.network_subnets(client.api.networks())],
        6 if "IPv6" in message else 4,
    )
    if unused:
        some = " ".join(unused[:_MAX_LISTED]) + (" …" if len(unused) > _MAX_LISTED else "")
        hint += (
            f"or remove unused networks: docker network rm {some} (`./lab clean` removes those of ended labs)"
        )
    else:
        hint += "or stop what uses a network that you do not need, and remove both"
    return EngineRefused(
        f"the engine's address pools are exhausted: it has {_networks(len(rows))}, {len(unused)} of them "
        "unused. The pools may be small, or overlap with a VPN's routes",
        hint=hint,
        engine_message=message,
    )


def _free_subnet(
    client: docker.DockerClient, host: HostView, taken: list[subnets.Subnet], version: int
) -> str:
    """The beginning of a hint: a subnet that no network and no route of the engine's host has."""
    from labhelpers.engine import images

    # the host's routes are not shown everywhere; an error is no time to build the image that reads them
    with suppress(LabError, ImageNotFound):
        client.images.get(images.reference("tools"))
        taken = [*taken, *subnets.route_subnets(route.destination for route in host.routes())]
    free = subnets.free_subnet(taken, version)
    return f"choose addresses yourself: subnet='{free}'; " if free else ""


def _published_ports(client: docker.DockerClient) -> Mapping[int, str]:
    return {
        port["PublicPort"]: responses.name(row)
        for row in client.api.containers()
        for port in responses.nested_list(row, "Ports")
        if "PublicPort" in port
    }


def _free_port(near: int, used: Mapping[int, str]) -> int:
    """A port above `near` that no container has; where the engine is this machine, no program either."""
    port: int
    for port in [*range(near + 1, min(near + 200, 65536)), *range(20000, 65536)]:
        if port in used:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    return near


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"
