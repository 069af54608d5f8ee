"""Reading responses of all versions of the Engine API: an empty value may be missing or null.

Engine 28 omits `Name` from the mount of an anonymous volume; Engine 29 (API 1.52) omits empty values from an
image's `Config`, has no `IPAddress`, `Gateway` and `MacAddress` beside `Networks`, and no `GraphDriver` with the
containerd image store. Older versions send null for an empty list.

Source: Engine API, version history.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

ApiObject = Mapping[str, Any]


def nested_object(response: ApiObject | None, *keys: str) -> dict[str, Any]:
    """The object at `keys`; empty if one of them is missing or null."""
    value: Any = response
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def nested_list(response: ApiObject | None, *keys: str) -> list[Any]:
    """The list at `keys`; empty if one of them is missing or null."""
    value = nested_object(response, *keys[:-1]).get(keys[-1])
    return list(value) if isinstance(value, list) else []


def seconds(stamp: str) -> float:
    """A time of the engine (RFC 3339, with nanoseconds) in seconds since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


def labels(response: ApiObject) -> dict[str, str]:
    """The labels of a container, an image, a network or a volume, as listed or as inspected."""
    own = response.get("Labels")
    return dict(own) if isinstance(own, Mapping) else nested_object(response, "Config", "Labels")


def name(response: ApiObject) -> str:
    """The name of a container, as listed or as inspected; its short ID if it has none."""
    name_ = (
        next(iter(nested_list(response, "Names")), None)
        or response.get("Name")
        or str(response.get("Id", ""))[:12]
    )
    return str(name_).lstrip("/")


def tags(response: ApiObject) -> list[str]:
    """The tags of an image."""
    return [str(tag) for tag in nested_list(response, "RepoTags") if tag != "<none>:<none>"]


def networks(response: ApiObject) -> dict[str, dict[str, Any]]:
    """Network → endpoint of a container."""
    return {
        key: nested_object(endpoint)
        for key, endpoint in nested_object(response, "NetworkSettings", "Networks").items()
    }


def addresses(response: ApiObject) -> list[str]:
    """The IPv4 addresses of a container, at most one per network."""
    return [
        str(endpoint["IPAddress"]) for endpoint in networks(response).values() if endpoint.get("IPAddress")
    ]


def bindings(response: ApiObject, port: str) -> list[tuple[str, int]]:
    """(host address, host port) pairs of a published port, such as `80/tcp`."""
    published = [
        nested_object(binding) for binding in nested_list(response, "NetworkSettings", "Ports", port)
    ]
    pairs = ((binding.get("HostIp") or "0.0.0.0", str(binding.get("HostPort"))) for binding in published)
    return [(str(address), int(number)) for address, number in pairs if number.isdecimal()]


def subnets(response: ApiObject) -> list[str]:
    """The subnets of a network."""
    pools = (nested_object(pool).get("Subnet") for pool in nested_list(response, "IPAM", "Config"))
    return [str(subnet) for subnet in pools if subnet]


def volume_name(mount: ApiObject) -> str:
    """The name of a mount's volume; for an anonymous volume, from its directory; empty for other mounts."""
    if mount.get("Type", "volume") != "volume":
        return ""
    parts = str(mount.get("Source") or "").rstrip("/").split("/")
    return str(mount.get("Name") or (parts[-2] if len(parts) > 1 and parts[-1] == "_data" else parts[-1]))
