"""Reading answers of the Engine API, of every version: a key may be missing, or null where it is empty.

Engine 28 leaves `Name` out of an anonymous volume's mount; Engine 29 (API 1.52) leaves out what is empty in an
image's `Config`, has no `IPAddress`, `Gateway` and `MacAddress` beside `Networks`, and no `GraphDriver` with the
containerd image store. Older ones write null for an empty list.

Source: Engine API, version history.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

ApiObject = Mapping[str, Any]


def nested_object(answer: ApiObject | None, *keys: str) -> dict[str, Any]:
    """The object at `keys`; empty where one of them is missing or null."""
    found: Any = answer
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def nested_list(answer: ApiObject | None, *keys: str) -> list[Any]:
    """The list at `keys`; empty where one of them is missing or null."""
    found = nested_object(answer, *keys[:-1]).get(keys[-1])
    return list(found) if isinstance(found, list) else []


def seconds(stamp: str) -> float:
    """A time of the engine (RFC 3339, with nanoseconds) in seconds since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


def labels(answer: ApiObject) -> dict[str, str]:
    """The labels of a container, an image, a network or a volume, as listed or as inspected."""
    own = answer.get("Labels")
    return dict(own) if isinstance(own, Mapping) else nested_object(answer, "Config", "Labels")


def name(answer: ApiObject) -> str:
    """What a container is called, as listed or as inspected; its short id where it has no name."""
    called = (
        next(iter(nested_list(answer, "Names")), None) or answer.get("Name") or str(answer.get("Id", ""))[:12]
    )
    return str(called).lstrip("/")


def tags(answer: ApiObject) -> list[str]:
    """The references of an image; none for one without a name."""
    return [str(tag) for tag in nested_list(answer, "RepoTags") if tag != "<none>:<none>"]


def networks(answer: ApiObject) -> dict[str, dict[str, Any]]:
    """Network → endpoint of a container."""
    return {
        key: nested_object(one) for key, one in nested_object(answer, "NetworkSettings", "Networks").items()
    }


def addresses(answer: ApiObject) -> list[str]:
    """The IPv4 addresses of a container, one for each network that gave it one."""
    return [str(one["IPAddress"]) for one in networks(answer).values() if one.get("IPAddress")]


def bindings(answer: ApiObject, port: str) -> list[tuple[str, int]]:
    """(host address, host port) where a container's port, such as `80/tcp`, is published."""
    found = [nested_object(one) for one in nested_list(answer, "NetworkSettings", "Ports", port)]
    pairs = ((one.get("HostIp") or "0.0.0.0", str(one.get("HostPort"))) for one in found)
    return [(str(address), int(number)) for address, number in pairs if number.isdecimal()]


def subnets(answer: ApiObject) -> list[str]:
    """The subnets of a network."""
    pools = (nested_object(pool).get("Subnet") for pool in nested_list(answer, "IPAM", "Config"))
    return [str(subnet) for subnet in pools if subnet]


def volume_name(mount: ApiObject) -> str:
    """The name of a mount's volume; an anonymous one's is that of its directory; empty for what is no volume."""
    if mount.get("Type", "volume") != "volume":
        return ""
    parts = str(mount.get("Source") or "").rstrip("/").split("/")
    return str(mount.get("Name") or (parts[-2] if len(parts) > 1 and parts[-1] == "_data" else parts[-1]))
