"""Options of the operations: their flags, and where their values go in a request of the Engine API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labhelpers.engine.arguments import is_integer
from labhelpers.lab.values import (
    one_of,
    parse_pairs,
    parse_port,
    parse_size,
    parse_switch,
    parse_table,
    parse_text,
    parse_texts,
    refuse,
)

# moby, daemon/names: containers and volumes
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_DEVICE_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")
_LOOPBACK = "127.0.0.1"
# docs.docker.com, Configure logging drivers; for an unknown name, the engine looks for a plugin for several seconds
_LOG_DRIVERS = (
    *("none", "local", "json-file", "syslog", "journald", "gelf", "fluentd"),
    *("awslogs", "splunk", "etwlogs", "gcplogs"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an operation.

    Attributes:
        flag: its flag on the command line.
        arguments: the flag's values, one for each time that it is given; None where the flag stands alone.
        api: where the value goes: dotted path → value.
    """

    flag: str
    arguments: Callable[[Any], list[str]] | None
    api: Callable[[Any], dict[str, Any]]


def published_ports(ports: Mapping[str | int, Any]) -> list[tuple[str, str, str, str]]:
    """(address, port of the engine's machine, port inside, protocol) for each published port."""
    if not isinstance(ports, Mapping):
        raise refuse(
            ports, "is not a dict of ports", "use {container port: host port}, for example {'80/tcp': 8080}"
        )
    published = []
    for inside, outside in ports.items():
        number, _, protocol = str(inside).partition("/")
        if protocol not in ("", "tcp", "udp", "sctp"):
            raise refuse(inside, "is not a valid port", "write it as '80/tcp' or '53/udp'")
        address, host_port = outside if isinstance(outside, tuple) else (_LOOPBACK, outside)
        published.append(
            (
                parse_text(address),
                "" if host_port is None else parse_port(host_port),
                parse_port(number),
                protocol or "tcp",
            )
        )
    return published


def port_arguments(ports: Mapping[str | int, Any]) -> list[str]:
    """The values of `-p`."""
    return [
        f"{f'[{address}]' if ':' in address else address}:{outside}:{inside}"
        + ("" if protocol == "tcp" else f"/{protocol}")
        for address, outside, inside, protocol in published_ports(ports)
    ]


def port_api(ports: Mapping[str | int, Any]) -> dict[str, Any]:
    """Ports as the Engine API takes them."""
    published = published_ports(ports)
    return {
        "ExposedPorts": {f"{inside}/{protocol}": {} for _, _, inside, protocol in published},
        "HostConfig.PortBindings": {
            f"{inside}/{protocol}": [{"HostIp": address, "HostPort": outside}]
            for address, outside, inside, protocol in published
        },
    }


def parse_volumes(value: Sequence[str]) -> list[str]:
    """Values of `-v`."""
    for volume in parse_texts(value):
        source, _, rest = volume.partition(":")
        inside = rest.partition(":")[0] if rest else source
        if not inside.startswith("/") or (rest and not (source.startswith("/") or _NAME.fullmatch(source))):
            raise refuse(
                volume,
                "is not a volume",
                "use 'volume:/container/path' for a volume, '/host/path:/container/path' for a bind mount, "
                "and ':ro' for a read-only mount",
            )
    return list(value)


def volume_api(value: Sequence[str]) -> dict[str, Any]:
    """Volumes as the Engine API takes them."""
    volumes = parse_volumes(value)
    binds = [volume for volume in volumes if ":" in volume]
    anonymous = {volume: dict[str, str]() for volume in volumes if ":" not in volume}
    return ({"HostConfig.Binds": binds} if binds else {}) | ({"Volumes": anonymous} if anonymous else {})


def parse_mounts(value: Sequence[str]) -> list[dict[str, Any]]:
    """`type=bind,source=/outside,target=/inside`, as docker/cli reads `--mount` (opts/mount.go)."""
    return [parse_mount(item) for item in parse_texts(value)]


def parse_mount(text: str) -> dict[str, Any]:
    """One value of `--mount`, as the Engine API takes it."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in text.split(","):
        key, is_pair, given = field.partition("=")
        name = _MOUNT_KEYS.get(key)
        if name is None or (not is_pair and name not in _MOUNT_SWITCHES):
            raise refuse(
                text,
                f"is not a valid mount: unknown field {field!r}",
                "separate the fields with commas: "
                "'type=bind,source=/host/path,target=/container/path,readonly'",
            )
        if name in _MOUNT_SWITCHES and given not in ("", "true"):
            raise refuse(text, f"is not a mount: {field!r}", f"use {key!r} without a value, or omit it")
        put(mount, name, True if name in _MOUNT_SWITCHES else given)
    if mount["Type"] not in ("bind", "volume", "tmpfs") or not mount.get("Target", "").startswith("/"):
        raise refuse(
            text,
            "is not a mount",
            "use the type bind, volume or tmpfs and an absolute target: 'target=/container/path'",
        )
    if mount["Type"] == "bind" and not mount.get("Source", "").startswith("/"):
        raise refuse(text, "is not a bind mount", "use an absolute source: 'source=/host/path'")
    if "VolumeOptions" in mount:
        mount["VolumeOptions"]["DriverConfig"] = {}  # the command line sends it with them
    return mount


_MOUNT_SWITCHES = ("ReadOnly", "VolumeOptions.NoCopy")
_MOUNT_KEYS = {
    "type": "Type",
    "source": "Source",
    "src": "Source",
    "target": "Target",
    "dst": "Target",
    "destination": "Target",
    "readonly": "ReadOnly",
    "ro": "ReadOnly",
    "volume-nocopy": "VolumeOptions.NoCopy",
}


def parse_tmpfs(value: Mapping[str, str]) -> dict[str, str]:
    """Options of tmpfs mounts by path."""
    if not isinstance(value, Mapping) or not all(str(inside).startswith("/") for inside in value):
        raise refuse(value, "is not a dict of tmpfs mounts", "write {'/run': 'size=16m'}, or {'/run': ''}")
    return dict(value)


def tmpfs_arguments(value: Mapping[str, str]) -> list[str]:
    """The values of `--tmpfs`."""
    return [f"{inside}:{options}" if options else inside for inside, options in parse_tmpfs(value).items()]


def parse_devices(value: Sequence[str]) -> list[dict[str, str]]:
    """`outside[:inside][:rwm]`, as docker/cli reads `--device`."""
    devices = []
    for device in parse_texts(value):
        parts = device.split(":")
        rights = parts.pop() if len(parts) > 1 and set(parts[-1]) <= set("rwm") and parts[-1] else "rwm"
        if not 1 <= len(parts) <= 2 or not all(part.startswith("/") for part in parts):
            raise refuse(
                device, "is not a device", "use '/dev/fuse', or '/dev/on-host:/dev/in-container:rwm'"
            )
        devices.append({"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": rights})
    return devices


def limited(value: Sequence[str], read: Callable[[str], int]) -> list[dict[str, Any]]:
    """`/dev/disk:rate`, as docker/cli reads `--device-read-bps` and its three sisters."""
    limits = []
    for item in parse_texts(value):
        path, _, rate = item.rpartition(":")
        if not path.startswith("/dev/"):
            raise refuse(item, "is not a valid disk limit", "write '/dev/sda:1mb': the disk, then the rate")
        limits.append({"Path": path, "Rate": read(rate)})
    return limits


def parse_byte_rates(value: Sequence[str]) -> list[dict[str, Any]]:
    """Bytes per second by device."""
    return limited(value, parse_size)


def parse_rates(value: Sequence[str]) -> list[dict[str, Any]]:
    """Operations per second by device."""

    def number(rate: str) -> int:
        if not rate.isdigit() or not int(rate):
            raise refuse(
                rate,
                "is not a valid number of operations",
                "use '/dev/sda:100' for 100 operations per second",
            )
        return int(rate)

    return limited(value, number)


def parse_device_rules(value: Sequence[str]) -> list[str]:
    """Rules of the devices cgroup: `c 1:3 rwm`."""
    for rule in parse_texts(value):
        if not _DEVICE_RULE.fullmatch(rule):
            raise refuse(rule, "is not a valid device rule", "use 'c 10:229 rw': type, major:minor, access")
    return list(value)


def parse_capabilities(value: Sequence[str]) -> list[str]:
    """Sorted, upper case, with `CAP_`: the command line sends them so (docker/cli, opts/capabilities.go)."""
    full = {
        item.upper() if item.upper() == "ALL" else f"CAP_{item.upper().removeprefix('CAP_')}"
        for item in parse_texts(value)
    }
    return ["ALL"] if "ALL" in full else sorted(full)


def security_api(value: Sequence[str]) -> dict[str, Any]:
    """`systempaths=unconfined` is the command line's own word for two empty lists of paths."""
    options = parse_texts(value)
    for option in options:
        if option.startswith("seccomp=") and option not in ("seccomp=unconfined", "seccomp=builtin"):
            raise refuse(
                option, "refers to a profile file, which the lab does not support", "use 'seccomp=unconfined'"
            )
    passed = [option for option in options if option != "systempaths=unconfined"]
    body: dict[str, Any] = {"HostConfig.SecurityOpt": passed} if passed else {}
    if len(passed) < len(options):
        body |= {"HostConfig.MaskedPaths": [], "HostConfig.ReadonlyPaths": []}
    return body


def parse_restart(value: str) -> dict[str, Any]:
    """A restart policy, as the Engine API takes it."""
    name, _, times = parse_text(value).partition(":")
    known = name in ("no", "always", "unless-stopped", "on-failure")
    if not known or (times and (name != "on-failure" or not times.isdigit())):
        raise refuse(
            value, "is not a restart policy", "choose 'no', 'always', 'unless-stopped' or 'on-failure:3'"
        )
    return {"Name": name, "MaximumRetryCount": int(times or 0)}


def parse_log_config(value: str) -> dict[str, Any]:
    """A log driver, as the Engine API takes it."""
    return {"Type": one_of(*_LOG_DRIVERS)(value), "Config": {}}


def parse_ulimits(value: Mapping[str, int | tuple[int, int]]) -> list[dict[str, Any]]:
    """As docker/go-units reads `--ulimit name=soft:hard`; the command line sends them in the order of their names."""
    if not isinstance(value, Mapping):
        raise refuse(value, "is not a dict of ulimits", "write {'nofile': 1024}, or {'nofile': (1024, 4096)}")
    limits = []
    for name, limit in sorted(value.items()):
        pair = limit if isinstance(limit, tuple) else (limit, limit)
        if len(pair) != 2 or not all(is_integer(item) for item in pair):
            raise refuse(limit, "is not a valid ulimit", "use a whole number, or (soft, hard)")
        limits.append({"Name": parse_text(name), "Soft": pair[0], "Hard": pair[1]})
    return limits


def ulimit_arguments(value: Mapping[str, int | tuple[int, int]]) -> list[str]:
    """The values of `--ulimit`."""
    return [f"{item['Name']}={item['Soft']}:{item['Hard']}" for item in parse_ulimits(value)]


def at(path: str, check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """A parser whose value goes to the dotted path `path` of the request."""
    return lambda value: {path: check(value)}


def single(flag: str, path: str, check: Callable[[Any], Any] = parse_text) -> Option:
    """An option with one value."""
    return Option(flag, lambda value: [str(value)], at(path, check))


def repeated(flag: str, path: str, check: Callable[[Any], Any] = parse_texts) -> Option:
    """An option that may be given several times."""
    return Option(flag, parse_texts, at(path, check))


def mapping(flag: str, path: str, check: Callable[[Any], Any] = parse_table) -> Option:
    """An option with `NAME=VALUE`, given once for each."""
    return Option(flag, parse_pairs, at(path, check))


def switch(flag: str, path: str) -> Option:
    """An option without a value."""
    return Option(flag, None, at(path, parse_switch))


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set `body[a][b][c]` for the dotted path `a.b.c`."""
    *above, last = path.split(".")
    for key in above:
        body = body.setdefault(key, {})
    body[last] = value
