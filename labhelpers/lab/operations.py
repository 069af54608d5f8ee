"""An operation and the `docker …` line that a person would type for it.

Every operation is a frozen dataclass. `.line()` is the line, true to the letter; `.api()` is what the SDK's
low-level client needs for the same. Both come from one table of options per operation, so that they cannot
drift apart; a test runs every line and compares what `docker inspect` says of both.

Options are named as on the command line (`memory`, `cpus`, `workdir`), and as in the SDK where the command
line has a letter or a singular (`ports`, `environment`, `volumes`, `devices`, `tty`, `stdin_open`).
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from docker.utils import parse_repository_tag

from labhelpers.errors import BadInput

# docker/go-units, size.go: what `--memory` takes
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[bkmgtp]?)i?b?", re.IGNORECASE)
# moby, daemon/names: containers and volumes
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# distribution/reference, without its length limits
_IMAGE = re.compile(r"[a-zA-Z0-9][\w.\-/:]*(@[a-z0-9]+:[0-9a-f]+)?")
# kernel, Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus; device rules as moby checks them
_CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_DEVICE_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an operation.

    Attributes:
        flag: its flag on the command line.
        words: the flag's values, one for each time that it is given; None where the flag stands alone.
        api: where the value goes: dotted path → value.
    """

    flag: str
    words: Callable[[Any], list[str]] | None
    api: Callable[[Any], dict[str, Any]]


class Operation:
    """Base of the operations: the line and the SDK's arguments, both from the table `OPTIONS`."""

    __slots__ = ()
    VERB: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[Mapping[str, Option]] = {}

    def __post_init__(self) -> None:
        # what cannot be meant is said at once, not when the engine meets it
        self.line()
        self.api()

    def line(self) -> str:
        """The line that a person would type."""
        words = ["docker", *self.VERB]
        for option, value in self._given():
            for word in [None] if option.words is None else option.words(value):
                words += [option.flag] if word is None else [option.flag, word]
        return shlex.join([*words, *self._arguments()])

    def api(self) -> dict[str, Any]:
        """The same for the SDK's low-level client."""
        body: dict[str, Any] = {}
        for path, value in self._fixed().items():
            _put(body, path, value)
        for option, value in self._given():
            for path, part in option.api(value).items():
                _put(body, path, part)
        return body

    def _given(self) -> list[tuple[Option, Any]]:
        given = ((option, getattr(self, name)) for name, option in self.OPTIONS.items())
        return [(option, value) for option, value in given if not _is_unset(value)]

    def _arguments(self) -> list[str]:
        raise NotImplementedError

    def _fixed(self) -> dict[str, Any]:
        return {}


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        body = body.setdefault(key, {})
    body[last] = value


def _is_unset(value: Any) -> bool:
    return value is None or value is False or value == {} or (isinstance(value, (list, tuple)) and not value)


# --- what a value may be: each returns the value as the engine takes it, or says what is wrong with it


def _refuse(what: object, why: str, hint: str) -> BadInput:
    return BadInput(f"{what!r} {why}", hint=hint)


def _size(value: int | str) -> int:
    """Bytes; `64m` and the like in powers of 1,024, as the command line reads them."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _refuse(
            value, "is not a size", "write bytes as a whole number, or a text such as '64m' or '1g'"
        )
    if isinstance(value, int):
        if value <= 0:
            raise _refuse(value, "is not a size: a limit is more than 0 bytes", "write for example '64m'")
        return value
    found = _SIZE.fullmatch(value)
    if not found:
        raise _refuse(
            value, "is not a size that Docker reads", "a number and a unit out of b, k, m, g: '64m'"
        )
    return int(float(found["number"]) * 1024 ** "bkmgtp".index((found["unit"] or "b").lower()))


def _swap(value: int | str) -> int:
    return -1 if value in (-1, "-1") else _size(value)


def _cpus(value: float) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise _refuse(value, "is not a number of CPUs", "write a number above 0: cpus=0.5 is half of one CPU")
    return round(value * 1e9)


def _count(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise _refuse(
            value, "is not a number of processes", "write a whole number from 1, or -1 for no limit"
        )
    return value


def _microseconds(value: int) -> int:
    # the kernel takes 1,000 or more (Documentation/scheduler/sched-bwc.rst)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1000:
        raise _refuse(value, "is no quota and no period", "write microseconds, 1000 or more: 50_000 is 50 ms")
    return value


def _shares(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 262_144:
        raise _refuse(value, "is no number of shares", "write a whole number from 2 to 262144; 1024 is usual")
    return value


def _cpu_list(value: str) -> str:
    if not isinstance(value, str) or not _CPU_LIST.fullmatch(value):
        raise _refuse(value, "is no list of CPUs", "write it as '0', '0-2' or '0,2'")
    return value


def _text(value: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(value, "is not a text", "write it in quotes")
    return value


def _name(value: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _refuse(
            value,
            "cannot be a name",
            "use two or more letters, digits, and _ . - (the first one a letter or a digit)",
        )
    return value


def _image(value: str) -> str:
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise _refuse(
            value, "cannot be an image", "an image is written name:tag, for example labhelpers/base:latest"
        )
    return value


def _texts(value: Sequence[str]) -> list[str]:
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise _refuse(value, "is not a list of texts", f"put it in brackets: [{value!r}]")
    return list(value)


def _table(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _refuse(value, "is not a table", "write it as {'name': 'value'}")
    for key in value:
        if not isinstance(key, str) or not key or "=" in key:
            raise _refuse(key, "cannot be a name in this table", "a name is a text without '='")
    return {key: str(entry) for key, entry in value.items()}


def _pairs(value: Mapping[str, str]) -> list[str]:
    return [f"{key}={entry}" for key, entry in _table(value).items()]


def _command(value: str | Sequence[str]) -> list[str]:
    """A text is split as a shell splits it, without running anything in it."""
    if not isinstance(value, str):
        return _texts(value)
    try:
        return shlex.split(value)
    except ValueError as error:
        raise _refuse(
            value, f"cannot be split into words: {error}", "close the quotes, or give a list"
        ) from None


def _one_of(*allowed: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            raise _refuse(value, "is not one of the choices", "choose " + " or ".join(map(repr, allowed)))
        return value

    return check


def _ipc(value: str) -> str:
    if value not in ("none", "private", "shareable", "host") and not _text(value).startswith("container:"):
        raise _refuse(
            value,
            "is no IPC mode",
            "choose 'private', 'shareable', 'container:NAME', 'host' or 'none'",
        )
    return value


# --- values with a form of their own


def _published(ports: Mapping[str | int, Any]) -> list[tuple[str, str, str, str]]:
    """(address, port of the engine's machine, port inside, protocol) for each published port."""
    if not isinstance(ports, Mapping):
        raise _refuse(ports, "is not a table of ports", "write {'80/tcp': 8080}: inside: outside")
    published = []
    for inside, outside in ports.items():
        number, _, protocol = str(inside).partition("/")
        if protocol not in ("", "tcp", "udp", "sctp"):
            raise _refuse(inside, "is not a port", "write it as '80/tcp' or '53/udp'")
        address, host_port = outside if isinstance(outside, tuple) else (_LOOPBACK, outside)
        published.append(
            (_text(address), "" if host_port is None else _port(host_port), _port(number), protocol or "tcp")
        )
    return published


def _port(value: int | str) -> str:
    if isinstance(value, bool) or not str(value).isdigit() or not 1 <= int(value) <= 65535:
        raise _refuse(value, "is not a port", "a port is a whole number from 1 to 65535")
    return str(int(value))


def _port_words(ports: Mapping[str | int, Any]) -> list[str]:
    return [
        f"{f'[{address}]' if ':' in address else address}:{outside}:{inside}"
        + ("" if protocol == "tcp" else f"/{protocol}")
        for address, outside, inside, protocol in _published(ports)
    ]


def _port_api(ports: Mapping[str | int, Any]) -> dict[str, Any]:
    published = _published(ports)
    return {
        "ExposedPorts": {f"{inside}/{protocol}": {} for _, _, inside, protocol in published},
        "HostConfig.PortBindings": {
            f"{inside}/{protocol}": [{"HostIp": address, "HostPort": outside}]
            for address, outside, inside, protocol in published
        },
    }


def _volumes(value: Sequence[str]) -> list[str]:
    for volume in _texts(value):
        source, _, rest = volume.partition(":")
        inside = rest.partition(":")[0] if rest else source
        if not inside.startswith("/") or (rest and not (source.startswith("/") or _NAME.fullmatch(source))):
            raise _refuse(
                volume,
                "is not a volume",
                "write 'name:/path/inside' for a volume, '/path/outside:/path/inside' for a bind mount, "
                "and add ':ro' to make it read-only",
            )
    return list(value)


def _volume_api(value: Sequence[str]) -> dict[str, Any]:
    volumes = _volumes(value)
    binds = [volume for volume in volumes if ":" in volume]
    anonymous = {volume: dict[str, str]() for volume in volumes if ":" not in volume}
    return ({"HostConfig.Binds": binds} if binds else {}) | ({"Volumes": anonymous} if anonymous else {})


def _mounts(value: Sequence[str]) -> list[dict[str, Any]]:
    """`type=bind,source=/outside,target=/inside`, as docker/cli reads `--mount` (opts/mount.go)."""
    return [_mount(one) for one in _texts(value)]


def _mount(text: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume"}
    for field in text.split(","):
        key, is_pair, given = field.partition("=")
        name = _MOUNT_KEYS.get(key)
        if name is None or (not is_pair and name not in _MOUNT_SWITCHES):
            raise _refuse(
                text,
                f"is not a mount: {field!r} is none of its fields",
                "fields are separated by commas: 'type=bind,source=/outside,target=/inside,readonly'",
            )
        if name in _MOUNT_SWITCHES and given not in ("", "true"):
            raise _refuse(text, f"is not a mount: {field!r}", f"write {key!r} alone, or leave it out")
        _put(mount, name, True if name in _MOUNT_SWITCHES else given)
    if mount["Type"] not in ("bind", "volume", "tmpfs") or not mount.get("Target", "").startswith("/"):
        raise _refuse(
            text,
            "is not a mount",
            "its type is bind, volume or tmpfs, and its target is a path from the root: 'target=/inside'",
        )
    if mount["Type"] == "bind" and not mount.get("Source", "").startswith("/"):
        raise _refuse(text, "is not a bind mount", "its source is a path from the root: 'source=/outside'")
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


def _tmpfs(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(str(inside).startswith("/") for inside in value):
        raise _refuse(value, "is not a table of tmpfs mounts", "write {'/run': 'size=16m'}, or {'/run': ''}")
    return dict(value)


def _tmpfs_words(value: Mapping[str, str]) -> list[str]:
    return [f"{inside}:{options}" if options else inside for inside, options in _tmpfs(value).items()]


def _devices(value: Sequence[str]) -> list[dict[str, str]]:
    """`outside[:inside][:rwm]`, as docker/cli reads `--device`."""
    devices = []
    for device in _texts(value):
        parts = device.split(":")
        rights = parts.pop() if len(parts) > 1 and set(parts[-1]) <= set("rwm") and parts[-1] else "rwm"
        if not 1 <= len(parts) <= 2 or not all(part.startswith("/") for part in parts):
            raise _refuse(device, "is not a device", "write '/dev/fuse', or '/dev/outside:/dev/inside:rwm'")
        devices.append({"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": rights})
    return devices


def _limited(value: Sequence[str], read: Callable[[str], int]) -> list[dict[str, Any]]:
    """`/dev/disk:rate`, as docker/cli reads `--device-read-bps` and its three sisters."""
    limits = []
    for one in _texts(value):
        path, _, rate = one.rpartition(":")
        if not path.startswith("/dev/"):
            raise _refuse(one, "is not a limit for a disk", "write '/dev/sda:1mb': the disk, then the rate")
        limits.append({"Path": path, "Rate": read(rate)})
    return limits


def _byte_rates(value: Sequence[str]) -> list[dict[str, Any]]:
    return _limited(value, _size)


def _rates(value: Sequence[str]) -> list[dict[str, Any]]:
    def number(rate: str) -> int:
        if not rate.isdigit() or not int(rate):
            raise _refuse(rate, "is no number of operations", "write '/dev/sda:100': 100 in a second")
        return int(rate)

    return _limited(value, number)


def _device_rules(value: Sequence[str]) -> list[str]:
    for rule in _texts(value):
        if not _DEVICE_RULE.fullmatch(rule):
            raise _refuse(rule, "is no rule for devices", "write 'c 10:229 rw': kind, major:minor, rights")
    return list(value)


def _capabilities(value: Sequence[str]) -> list[str]:
    """Sorted, upper case, with `CAP_`: the command line sends them so (docker/cli, opts/capabilities.go)."""
    full = {
        one.upper() if one.upper() == "ALL" else f"CAP_{one.upper().removeprefix('CAP_')}"
        for one in _texts(value)
    }
    return ["ALL"] if "ALL" in full else sorted(full)


def _security_api(value: Sequence[str]) -> dict[str, Any]:
    """`systempaths=unconfined` is the command line's own word for two empty lists of paths."""
    options = _texts(value)
    for option in options:
        if option.startswith("seccomp=") and option not in ("seccomp=unconfined", "seccomp=builtin"):
            raise _refuse(option, "names a file, which the lab does not read", "use 'seccomp=unconfined'")
    passed = [option for option in options if option != "systempaths=unconfined"]
    body: dict[str, Any] = {"HostConfig.SecurityOpt": passed} if passed else {}
    if len(passed) < len(options):
        body |= {"HostConfig.MaskedPaths": [], "HostConfig.ReadonlyPaths": []}
    return body


def _restart(value: str) -> dict[str, Any]:
    name, _, times = _text(value).partition(":")
    known = name in ("no", "always", "unless-stopped", "on-failure")
    if not known or (times and (name != "on-failure" or not times.isdigit())):
        raise _refuse(
            value, "is not a restart policy", "choose 'no', 'always', 'unless-stopped' or 'on-failure:3'"
        )
    return {"Name": name, "MaximumRetryCount": int(times or 0)}


def _log_config(value: str) -> dict[str, Any]:
    return {"Type": _text(value), "Config": {}}


def _ulimits(value: Mapping[str, int | tuple[int, int]]) -> list[dict[str, Any]]:
    """As docker/go-units reads `--ulimit name=soft:hard`; the command line sends them in the order of their names."""
    if not isinstance(value, Mapping):
        raise _refuse(
            value, "is not a table of limits", "write {'nofile': 1024}, or {'nofile': (1024, 4096)}"
        )
    limits = []
    for name, limit in sorted(value.items()):
        pair = limit if isinstance(limit, tuple) else (limit, limit)
        if len(pair) != 2 or not all(isinstance(one, int) and not isinstance(one, bool) for one in pair):
            raise _refuse(limit, "is not a limit", "write a whole number, or two: (soft, hard)")
        limits.append({"Name": _text(name), "Soft": pair[0], "Hard": pair[1]})
    return limits


def _ulimit_words(value: Mapping[str, int | tuple[int, int]]) -> list[str]:
    return [f"{one['Name']}={one['Soft']}:{one['Hard']}" for one in _ulimits(value)]


def _at(path: str, check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {path: check(value)}


def _one(flag: str, path: str, check: Callable[[Any], Any] = _text) -> Option:
    return Option(flag, lambda value: [str(value)], _at(path, check))


def _many(flag: str, path: str, check: Callable[[Any], Any] = _texts) -> Option:
    return Option(flag, _texts, _at(path, check))


def _named(flag: str, path: str, check: Callable[[Any], Any] = _table) -> Option:
    return Option(flag, _pairs, _at(path, check))


def _switch(flag: str, path: str) -> Option:
    return Option(flag, None, _at(path, bool))


# --- the operations


@dataclass(frozen=True)
class Run(Operation):
    """`docker run -d`: make a container and start it.

    Attributes:
        image: reference or id.
        command: a text is split into words as a shell does; None for the image's own.
        dns: addresses of name servers, in place of the host's.
        ports: inside → outside, `{'80/tcp': 8080}`. Published on 127.0.0.1 unless the outside is given as
            `('0.0.0.0', 8080)`; None for a free port.
        environment, labels: name → value.
        volumes: as `-v` takes them: 'name:/inside', '/outside:/inside:ro', '/anonymous'.
        mounts: as `--mount` takes them: 'type=bind,source=/outside,target=/inside', also `readonly`, `volume-nocopy`.
        tmpfs: path inside → mount options ('' for none).
        memory, memory_swap: bytes, or a text such as '64m' (powers of 1,024); memory_swap -1 for no limit.
        memory_reservation: a soft limit, as memory: bytes, or '64m'.
        cpus: CPUs' worth of time; 0.5 is half of one.
        cpu_quota, cpu_period: microseconds of time in each period of so many microseconds; not together with cpus.
        cpu_shares: weight against other containers that want the same CPU, from 2; 1,024 is the default.
        cpuset_cpus: which CPUs: '0', '0-2', '0,2'.
        pids_limit: processes and threads; -1 for no limit.
        device_read_bps, device_write_bps: '/dev/sda:1mb': bytes in a second, for a disk of the engine's machine.
        device_read_iops, device_write_iops: '/dev/sda:100': operations in a second.
        devices: '/dev/fuse' or '/dev/outside:/dev/inside:rwm'.
        device_cgroup_rules: what may be opened: 'c 10:229 rwm' (kind, major:minor, rights).
        pid: 'host' or 'container:NAME'. cgroupns: 'host' or 'private'. uts: 'host'.
        userns_mode: 'host': the host's user namespace, on an engine that maps users (`userns-remap`).
        ipc: 'private', 'shareable' (others may join it), 'container:NAME', 'host' or 'none'.
        entrypoint: one word; its arguments belong into command.
        restart: 'no', 'always', 'unless-stopped', 'on-failure:3'.
        health_cmd: what a shell inside runs to see whether the service is well; exit status 0 is healthy.
        health_interval: seconds from one such check to the next; a whole number.
        log_driver: 'json-file', 'local', 'none', …; None for the engine's own.
        ulimits: name → limit, `{'nofile': 1024}` or `{'nofile': (1024, 4096)}` (soft, hard); getrlimit(2).
        rm: the engine removes it, and its anonymous volumes, when it has ended. Not for a command that ends at once:
            the lab would look for a container that is gone.

    Raises:
        BadInput: a value that cannot be meant.
    """

    image: str
    command: str | Sequence[str] | None = None
    name: str | None = None
    hostname: str | None = None
    network: str | None = None
    dns: Sequence[str] | None = None
    ports: Mapping[str | int, Any] | None = None
    environment: Mapping[str, str] | None = None
    volumes: Sequence[str] | None = None
    mounts: Sequence[str] | None = None
    tmpfs: Mapping[str, str] | None = None
    memory: int | str | None = None
    memory_swap: int | str | None = None
    memory_reservation: int | str | None = None
    cpus: float | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None
    device_read_bps: Sequence[str] | None = None
    device_write_bps: Sequence[str] | None = None
    device_read_iops: Sequence[str] | None = None
    device_write_iops: Sequence[str] | None = None
    devices: Sequence[str] | None = None
    device_cgroup_rules: Sequence[str] | None = None
    cap_add: Sequence[str] | None = None
    cap_drop: Sequence[str] | None = None
    security_opt: Sequence[str] | None = None
    pid: str | None = None
    ipc: str | None = None
    uts: str | None = None
    cgroupns: str | None = None
    userns_mode: str | None = None
    log_driver: str | None = None
    ulimits: Mapping[str, int | tuple[int, int]] | None = None
    read_only: bool = False
    init: bool = False
    stdin_open: bool = False
    tty: bool = False
    entrypoint: str | None = None
    user: str | int | None = None
    workdir: str | None = None
    restart: str | None = None
    health_cmd: str | None = None
    health_interval: int | None = None
    rm: bool = False
    labels: Mapping[str, str] | None = None

    VERB = ("run", "-d")
    OPTIONS = {  # noqa: RUF012 - the base class says ClassVar
        "name": _one("--name", "name", _name),
        "hostname": _one("--hostname", "Hostname"),
        "network": _one("--network", "HostConfig.NetworkMode"),
        "dns": _many("--dns", "HostConfig.Dns"),
        "ports": Option("-p", _port_words, _port_api),
        "environment": _named("-e", "Env", _pairs),
        "volumes": Option("-v", _volumes, _volume_api),
        "mounts": _many("--mount", "HostConfig.Mounts", _mounts),
        "tmpfs": Option("--tmpfs", _tmpfs_words, _at("HostConfig.Tmpfs", _tmpfs)),
        "memory": _one("--memory", "HostConfig.Memory", _size),
        "memory_swap": _one("--memory-swap", "HostConfig.MemorySwap", _swap),
        "memory_reservation": _one("--memory-reservation", "HostConfig.MemoryReservation", _size),
        "cpus": _one("--cpus", "HostConfig.NanoCpus", _cpus),
        "cpu_quota": _one("--cpu-quota", "HostConfig.CpuQuota", _microseconds),
        "cpu_period": _one("--cpu-period", "HostConfig.CpuPeriod", _microseconds),
        "cpu_shares": _one("--cpu-shares", "HostConfig.CpuShares", _shares),
        "cpuset_cpus": _one("--cpuset-cpus", "HostConfig.CpusetCpus", _cpu_list),
        "pids_limit": _one("--pids-limit", "HostConfig.PidsLimit", _count),
        "device_read_bps": _many("--device-read-bps", "HostConfig.BlkioDeviceReadBps", _byte_rates),
        "device_write_bps": _many("--device-write-bps", "HostConfig.BlkioDeviceWriteBps", _byte_rates),
        "device_read_iops": _many("--device-read-iops", "HostConfig.BlkioDeviceReadIOps", _rates),
        "device_write_iops": _many("--device-write-iops", "HostConfig.BlkioDeviceWriteIOps", _rates),
        "devices": _many("--device", "HostConfig.Devices", _devices),
        "device_cgroup_rules": _many("--device-cgroup-rule", "HostConfig.DeviceCgroupRules", _device_rules),
        "cap_add": _many("--cap-add", "HostConfig.CapAdd", _capabilities),
        "cap_drop": _many("--cap-drop", "HostConfig.CapDrop", _capabilities),
        "security_opt": Option("--security-opt", _texts, _security_api),
        "pid": _one("--pid", "HostConfig.PidMode"),
        "ipc": _one("--ipc", "HostConfig.IpcMode", _ipc),
        "uts": _one("--uts", "HostConfig.UTSMode", _one_of("host")),
        "cgroupns": _one("--cgroupns", "HostConfig.CgroupnsMode", _one_of("host", "private")),
        "userns_mode": _one("--userns", "HostConfig.UsernsMode", _one_of("host")),
        "log_driver": _one("--log-driver", "HostConfig.LogConfig", _log_config),
        "ulimits": Option("--ulimit", _ulimit_words, _at("HostConfig.Ulimits", _ulimits)),
        "read_only": _switch("--read-only", "HostConfig.ReadonlyRootfs"),
        "init": _switch("--init", "HostConfig.Init"),
        "stdin_open": _switch("-i", "OpenStdin"),
        "tty": _switch("-t", "Tty"),
        "entrypoint": _one("--entrypoint", "Entrypoint", lambda word: [_text(word)]),
        "user": _one("--user", "User", str),
        "workdir": _one("--workdir", "WorkingDir"),
        "restart": _one("--restart", "HostConfig.RestartPolicy", _restart),
        "health_cmd": _one("--health-cmd", "Healthcheck.Test", lambda text: ["CMD-SHELL", _text(text)]),
        "health_interval": Option(
            "--health-interval",
            lambda value: [f"{value}s"],
            _at("Healthcheck.Interval", lambda value: _some_seconds(value) * 10**9),
        ),
        "rm": _switch("--rm", "HostConfig.AutoRemove"),
        "labels": _named("--label", "Labels"),
    }

    def _arguments(self) -> list[str]:
        return [_image(self.image), *self._words()]

    def _fixed(self) -> dict[str, Any]:
        # the command line sends the first two even when nobody gives them. The third keeps an engine set to
        # `"init": true` from putting its init before each command; `/info` does not tell that setting.
        always = {
            "HostConfig.NetworkMode": "default",
            "HostConfig.RestartPolicy": _restart("no"),
            "HostConfig.Init": False,
        }
        return {"Image": self.image} | always | ({"Cmd": words} if (words := self._words()) else {})

    def _words(self) -> list[str]:
        return [] if self.command is None else _command(self.command)


@dataclass(frozen=True)
class RunOnce(Run):
    """`docker run --rm`: make a container, start it, show its output, and remove it when it has ended."""

    VERB = ("run", "--rm")


@dataclass(frozen=True)
class Update(Operation):
    """`docker update`: change the limits of a container while it runs.

    Attributes:
        container: its name.
        memory, memory_swap, memory_reservation, cpus, cpu_quota, cpu_period, cpu_shares, cpuset_cpus, pids_limit: as in
            `Run`; what is not given stays as it is.

    Raises:
        BadInput: a value that cannot be meant, or nothing to change.
    """

    container: str
    memory: int | str | None = None
    memory_swap: int | str | None = None
    memory_reservation: int | str | None = None
    cpus: float | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None

    VERB = ("update",)
    OPTIONS = {  # noqa: RUF012
        "memory": _one("--memory", "Memory", _size),
        "memory_swap": _one("--memory-swap", "MemorySwap", _swap),
        "memory_reservation": _one("--memory-reservation", "MemoryReservation", _size),
        "cpus": _one("--cpus", "NanoCpus", _cpus),
        "cpu_quota": _one("--cpu-quota", "CpuQuota", _microseconds),
        "cpu_period": _one("--cpu-period", "CpuPeriod", _microseconds),
        "cpu_shares": _one("--cpu-shares", "CpuShares", _shares),
        "cpuset_cpus": _one("--cpuset-cpus", "CpusetCpus", _cpu_list),
        "pids_limit": _one("--pids-limit", "PidsLimit", _count),
    }

    def _arguments(self) -> list[str]:
        if not self._given():
            raise _refuse(self.container, "would stay as it is", "say what to change, for example cpus=0.5")
        return [_name(self.container)]


@dataclass(frozen=True)
class Pull(Operation):
    """`docker pull`: fetch an image; without a tag, `latest`."""

    ref: str

    VERB = ("pull",)

    def _arguments(self) -> list[str]:
        return [_image(self.ref)]

    def _fixed(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"repository": repository, "tag": tag or "latest"}


@dataclass(frozen=True)
class Build(Operation):
    """`docker build`: make an image from a folder with a Dockerfile.

    Attributes:
        path: the folder (the build's context).
        dockerfile: the Dockerfile's path inside the folder; None for `Dockerfile`.
        buildargs: values for the Dockerfile's ARGs.
        target: the stage to stop at.
        no_cache: build every step anew.
    """

    path: str
    tag: str
    dockerfile: str | None = None
    target: str | None = None
    buildargs: Mapping[str, str] | None = None
    no_cache: bool = False

    VERB = ("build",)
    OPTIONS = {  # noqa: RUF012
        "tag": _one("-t", "tag", _image),
        "dockerfile": _one("-f", "dockerfile"),
        "target": _one("--target", "target"),
        "buildargs": _named("--build-arg", "buildargs"),
        "no_cache": _switch("--no-cache", "nocache"),
    }

    def _given(self) -> list[tuple[Option, Any]]:
        # the command line looks for -f from where it stands, the SDK from the folder
        in_folder = Option("-f", lambda name: [os.path.join(self.path, name)], _at("dockerfile", _text))
        return [(in_folder if option.flag == "-f" else option, value) for option, value in super()._given()]

    def _arguments(self) -> list[str]:
        return [_text(self.path)]

    def _fixed(self) -> dict[str, Any]:
        return {"path": self.path}


@dataclass(frozen=True)
class Exec(Operation):
    """`docker exec`: run one more process in a running container."""

    container: str
    command: str | Sequence[str]
    user: str | int | None = None
    workdir: str | None = None
    environment: Mapping[str, str] | None = None

    VERB = ("exec",)
    OPTIONS = {  # noqa: RUF012
        "user": _one("--user", "user", str),
        "workdir": _one("--workdir", "workdir"),
        "environment": _named("-e", "environment", _pairs),
    }

    def _arguments(self) -> list[str]:
        words = _command(self.command)
        if not words:
            raise _refuse(self.command, "is no command", "write what to run, for example 'uname -r'")
        return [_name(self.container), *words]

    def _fixed(self) -> dict[str, Any]:
        return {"container": self.container, "cmd": _command(self.command)}


@dataclass(frozen=True)
class Stop(Operation):
    """`docker stop`: ask a container's first process to end; kill it after `timeout_s` (10 s if None)."""

    container: str
    timeout_s: int | None = None

    VERB = ("stop",)
    OPTIONS = {"timeout_s": _one("-t", "timeout", lambda value: _seconds(value))}  # noqa: RUF012

    def _arguments(self) -> list[str]:
        return [_name(self.container)]

    def _fixed(self) -> dict[str, Any]:
        return {"container": self.container}


def _some_seconds(value: int) -> int:
    if _seconds(value) == 0:
        raise _refuse(value, "is no interval", "write whole seconds, 1 or more")
    return value


def _seconds(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refuse(value, "is not a time", "write whole seconds, 0 or more")
    return value


@dataclass(frozen=True)
class Remove(Operation):
    """`docker rm`: with `force` a running container too, with `volumes` its anonymous volumes."""

    container: str
    force: bool = False
    volumes: bool = False

    VERB = ("rm",)
    OPTIONS = {"force": _switch("-f", "force"), "volumes": _switch("-v", "v")}  # noqa: RUF012

    def _arguments(self) -> list[str]:
        return [_name(self.container)]

    def _fixed(self) -> dict[str, Any]:
        return {"container": self.container}


@dataclass(frozen=True)
class CreateNetwork(Operation):
    """`docker network create`."""

    name: str
    driver: str | None = None
    subnet: str | None = None
    gateway: str | None = None
    internal: bool = False
    attachable: bool = False
    options: Mapping[str, str] | None = None

    VERB = ("network", "create")
    OPTIONS = {  # noqa: RUF012
        "driver": _one("--driver", "driver"),
        "subnet": _one("--subnet", "Subnet", lambda value: _subnet(value)),
        "gateway": _one("--gateway", "Gateway", lambda value: _address(value)),
        "internal": _switch("--internal", "internal"),
        "attachable": _switch("--attachable", "attachable"),
        "options": _named("-o", "options"),
    }

    def _arguments(self) -> list[str]:
        return [_name(self.name)]

    def _fixed(self) -> dict[str, Any]:
        return {"name": self.name, "driver": "bridge", "check_duplicate": True}

    def api(self) -> dict[str, Any]:
        """The same for the SDK's low-level client."""
        if self.gateway and not self.subnet:
            raise _refuse(
                self.gateway, "is a gateway without a subnet", "give the subnet that it lies in as well"
            )
        body = super().api()
        pool = {key: body.pop(key) for key in ("Subnet", "Gateway") if key in body}
        return body | {"ipam": {"Driver": "default", "Options": {}, "Config": [pool] if pool else []}}


def _subnet(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise _refuse(value, f"is not a subnet: {error}", "write it as '172.30.0.0/24'") from None


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise _refuse(value, f"is not an address: {error}", "write it as '172.30.0.1'") from None


@dataclass(frozen=True)
class CreateVolume(Operation):
    """`docker volume create`."""

    name: str
    driver: str | None = None
    options: Mapping[str, str] | None = None

    VERB = ("volume", "create")
    OPTIONS = {  # noqa: RUF012
        "driver": _one("--driver", "driver"),
        "options": _named("-o", "driver_opts"),
    }

    def _arguments(self) -> list[str]:
        return [_name(self.name)]

    def _fixed(self) -> dict[str, Any]:
        return {"name": self.name, "driver": "local"}


@dataclass(frozen=True)
class Commit(Operation):
    """`docker commit`: make an image of a container's files as they are now."""

    container: str
    ref: str

    VERB = ("commit",)

    def _arguments(self) -> list[str]:
        return [_name(self.container), _image(self.ref)]

    def _fixed(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"container": self.container, "repository": repository, "tag": tag or "latest"}


@dataclass(frozen=True)
class Tag(Operation):
    """`docker tag`: give an image one more name; a name that another image has moves."""

    image: str
    ref: str

    VERB = ("tag",)

    def _arguments(self) -> list[str]:
        return [_image(self.image), _image(self.ref)]

    def _fixed(self) -> dict[str, Any]:
        repository, tag = parse_repository_tag(self.ref)
        return {"image": self.image, "repository": repository, "tag": tag or "latest"}


OPERATIONS: tuple[type[Operation], ...] = (
    Run,
    Update,
    Pull,
    Build,
    Exec,
    Stop,
    Remove,
    CreateNetwork,
    CreateVolume,
    Commit,
    Tag,
)

Kind = TypeVar("Kind", bound=Operation)


def make(kind: type[Kind], *args: Any, **options: Any) -> Kind:
    """An operation from what a reader gave; an unknown option is `BadInput`, with the nearest one named."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            raise BadInput(
                f"`docker {kind.VERB[0]}` of the lab has no option {option!r}",
                hint=(f"did you mean {near[0]!r}? " if near else "") + "it knows: " + ", ".join(known),
            )
    return kind(*args, **options)
