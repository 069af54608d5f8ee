"""The limits of a container: as a sentence, and in the kernel's files of cgroup versions 1 and 2.

Sources: kernel, Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst; which values Docker writes to which file:
opencontainers/runtime-spec, config-linux.md, and runc's conversion of shares to weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.disk import disk
from labhelpers.cgroups.safety_limits import MIB, load
from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.host.text import integer, lines
from labhelpers.results import Result, column, derived, record, rows
from labhelpers.units import human_bytes

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

# version 1 writes "no limit" as the largest whole number of pages
_NO_LIMIT = 1 << 60
RequestedOptions = Mapping[str, Any]
"""`HostConfig` of `docker inspect`: the options that the engine was given."""


@record
class LimitKind:
    """A limit that Docker can set."""

    resource: str = column("resource that it limits")
    option: str = column("option of `docker run`")
    v1: tuple[str, ...] = column("names of its files in version 1")
    v2: tuple[str, ...] = column("names of its files in version 2")
    describe: Callable[[Sequence[str]], str | None] = column(
        "from the contents of this host's files to a description; None for no limit", shown=False
    )
    format_v1: Callable[[RequestedOptions], str | None] = column(
        "from the options to the contents of its files in version 1; None if it was not requested",
        shown=False,
    )
    format_v2: Callable[[RequestedOptions], str | None] = column(
        "from the options to the contents of its files in version 2; None if it was not requested",
        shown=False,
    )
    default: tuple[str, str] = column(
        "contents of its file in versions 1 and 2 if it was not requested", default=("", "")
    )


@record
class Limit:
    """A limit of a container."""

    resource: str = column("resource that it limits")
    description: str = column("what the kernel enforces")
    option: str = column("option of `docker run`")
    v1_file: str = column("its files in version 1; an empty string if there is none")
    v2_file: str = column("its files in version 2; an empty string if there is none")
    is_set: bool = column("whether there is a limit", shown=False)
    paths: tuple[str, ...] = column("paths of its files on this host", shown=False)
    texts: tuple[str, ...] = column("contents of its files on this host", shown=False)

    @derived
    def value(self) -> str:
        """Contents of its files on this host; long ones are cut."""
        lines = [line for text in self.texts for line in text.splitlines()]
        return " · ".join(lines[:3]) + (f" … ({len(lines)} lines)" if lines[3:] else "")


@record
class Limits(Result):
    """The limits of a container."""

    name: str = column("name of the container")
    version: int = column("cgroup version of the engine's host: 1 or 2")
    limits: tuple[Limit, ...] = rows(
        "one for each option, without those whose files this host does not have", of=Limit
    )

    def of(self, option: str) -> Limit:
        """The limit that an option of `docker run` sets."""
        return next(limit for limit in self.limits if limit.option == option)

    @property
    def are_set(self) -> tuple[Limit, ...]:
        """The limits that apply."""
        return tuple(limit for limit in self.limits if limit.is_set)


@experiment
def limits(lab: Lab, container: Container | str) -> Limits:
    """The limits of a running container, from the kernel's files on the engine's host.

    Raises:
        ContainerMissing, NotRunning: there is no such container, or it is not running.
    """
    names = {name for kind in LIMIT_KINDS for name in (*kind.v1, *kind.v2)}
    version = lab.host.cgroup(container).version
    files = lab.host.cgroup_files(container, sorted(names))
    every = allowed_cpus(lab)
    results = []
    for kind in LIMIT_KINDS:
        file_names = kind.v1 if version == 1 else kind.v2
        here = [files[name] for name in file_names if name in files and files[name].text is not None]
        if file_names and not here:
            continue  # its controller is disabled on this host
        texts = [file.text or "" for file in here]
        # a set of all CPUs limits nothing
        unlimited = texts and texts[0] in (kind.default[version - 1], every)
        description = None if unlimited else kind.describe(texts)
        results.append(
            Limit(
                resource=kind.resource,
                description=description or "no limit",
                option=kind.option,
                v1_file=", ".join(kind.v1),
                v2_file=", ".join(kind.v2),
                is_set=description is not None,
                paths=tuple(file.path for file in here),
                texts=tuple(texts),
            )
        )
    return Limits(name_of(container), version, tuple(results))


def allowed_cpus(lab: Lab) -> str:
    """The CPUs that a container of this engine may use, in the kernel's notation: `0-3`, or `1,4-7`.

    `docker info` has only their number, `NCPU`. It is lower than the machine's if the engine's own cgroup has a set
    of CPUs, as in a container or on a host with isolated CPUs.

    Source: proc(5), /proc/PID/status: `Cpus_allowed_list`, of the helper of `lab.host`, which has no set of its own.
    """
    status = lab.host.read("/proc/self/status")
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M)
    return match[1] if match else f"0-{int(lab.engine.info['NCPU']) - 1}"


def cpu_numbers(text: str) -> list[int]:
    """The CPUs of a list in the kernel's notation: `0,2-3` is [0, 2, 3]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1)
    return numbers


# --- descriptions: from the kernel's text to a sentence


def _number(text: str) -> int | None:
    number = integer(text)
    return None if number is None or not 0 <= number < _NO_LIMIT else number


def _quota(texts: Sequence[str]) -> str | None:
    fields = " ".join(texts).split()
    quota, period = (_number(fields[0]), _number(fields[1])) if len(fields) == 2 else (None, None)
    if quota is None or not period:
        return None
    return f"{quota / period:g} CPUs: {quota / 1000:g} ms of processor time in every {period / 1000:g} ms"


def _weight(texts: Sequence[str]) -> str | None:
    if not texts or _number(texts[0]) is None:
        return None
    return f"{texts[0]} relative to others on the same CPU; no limit while the CPU is idle"


def _cpus(texts: Sequence[str]) -> str | None:
    return f"only on CPU {texts[0]}" if texts and texts[0].strip() else None


def _bytes(template: str) -> Callable[[Sequence[str]], str | None]:
    def describe(texts: Sequence[str]) -> str | None:
        number = _number(texts[0]) if texts else None
        return None if not number else template.format(human_bytes(number))

    return describe


def _rate(key: str) -> Callable[[Sequence[str]], str | None]:
    def describe(texts: Sequence[str]) -> str | None:
        rates = []
        for line in lines(texts[0]) if texts else []:
            device, *fields = line.split()
            # version 1 has `DEVICE RATE`, version 2 `DEVICE key=RATE …`
            by_key = dict(field.split("=", 1) for field in fields if "=" in field)
            number = _number(by_key.get(key, fields[0] if len(fields) == 1 else ""))
            if number:
                rates.append(f"{human_bytes(number)}/s on {device}")
        return ", ".join(rates) or None

    return describe


def _swap(texts: Sequence[str]) -> str | None:
    number = _number(texts[0]) if texts else None
    return None if number is None else f"at most {human_bytes(number)}" if number else "no swap"


def _pids(texts: Sequence[str]) -> str | None:
    number = _number(texts[0]) if texts else None
    return None if number is None else f"at most {number} processes and threads"


def _devices(texts: Sequence[str]) -> str:
    if not texts:
        return "only devices that Docker lists; a BPF program decides"
    rules = [line for line in texts[0].splitlines() if not line.endswith(" m")]
    return f"only devices of {len(rules)} rules can be opened; mknod is allowed"


# --- formats: from the options to the contents of the kernel's files


def _requested_quota(options: RequestedOptions) -> tuple[int, int] | None:
    if options.get("NanoCpus"):
        return options["NanoCpus"] // 10_000, 100_000
    if options.get("CpuQuota", 0) > 0:
        return options["CpuQuota"], options.get("CpuPeriod") or 100_000
    return None


def _format_quota(separator: str) -> Callable[[RequestedOptions], str | None]:
    def format_quota(options: RequestedOptions) -> str | None:
        quota = _requested_quota(options)
        return quota and f"{quota[0]}{separator}{quota[1]}"

    return format_quota


def _format(key: str, *, unlimited: str = "") -> Callable[[RequestedOptions], str | None]:
    def format_option(options: RequestedOptions) -> str | None:
        value = options.get(key)
        return (unlimited if value == -1 else str(value)) if value else None

    return format_option


def _format_weight(options: RequestedOptions) -> str | None:
    # runc before 1.3.2 maps [2, 262144] linearly to [1, 10000]; later versions use a curve through 1024 → 100
    shares = options.get("CpuShares")
    return str(1 + ((shares - 2) * 9999) // 262142) if shares else None


def _format_swap(options: RequestedOptions) -> str | None:
    # version 2 limits swap alone, version 1 memory and swap together
    total, memory = options.get("MemorySwap", 0), options.get("Memory", 0)
    return "max" if total == -1 else str(total - memory) if total else None


def _format_rate(key: str, prefix: str = "") -> Callable[[RequestedOptions], str | None]:
    def format_rate(options: RequestedOptions) -> str | None:
        return f"{{disk}} {prefix}{options[key][0]['Rate']}" if options.get(key) else None

    return format_rate


LIMIT_KINDS = (
    LimitKind("CPU quota", "--cpus", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",), _quota,
        _format_quota(" · "), _format_quota(" ")),
    LimitKind("CPU shares", "--cpu-shares", ("cpu.shares",), ("cpu.weight",), _weight, _format("CpuShares"),
        _format_weight, ("1024", "100")),
    LimitKind("CPU set", "--cpuset-cpus", ("cpuset.cpus",), ("cpuset.cpus",), _cpus, _format("CpusetCpus"),
        _format("CpusetCpus")),
    LimitKind("memory", "--memory", ("memory.limit_in_bytes",), ("memory.max",),
        _bytes("at most {}; killed beyond it"), _format("Memory"), _format("Memory")),
    LimitKind("memory and swap", "--memory-swap", ("memory.memsw.limit_in_bytes",), ("memory.swap.max",),
        _swap, _format("MemorySwap", unlimited="-1"), _format_swap),
    LimitKind("reservation", "--memory-reservation", ("memory.soft_limit_in_bytes",), ("memory.low",),
        _bytes("{} when the host runs short of memory"), _format("MemoryReservation"),
        _format("MemoryReservation")),
    LimitKind("disk, reading", "--device-read-bps", ("blkio.throttle.read_bps_device",), ("io.max",),
        _rate("rbps"), _format_rate("BlkioDeviceReadBps"), _format_rate("BlkioDeviceReadBps", "rbps=")),
    LimitKind("disk, writing", "--device-write-bps", ("blkio.throttle.write_bps_device",), ("io.max",),
        _rate("wbps"), _format_rate("BlkioDeviceWriteBps"), _format_rate("BlkioDeviceWriteBps", "wbps=")),
    LimitKind("processes", "--pids-limit", ("pids.max",), ("pids.max",), _pids, _format("PidsLimit"),
        _format("PidsLimit")),
    LimitKind("devices", "--device", ("devices.list",), (), _devices, lambda options: None, lambda options: None),
)  # fmt: skip


# --- the same limits in both versions


@record
class VersionedLimit:
    """A limit in both cgroup versions."""

    option: str = column("option of `docker run`, with its value")
    v1_file: str = column("its files in version 1")
    v1_value: str = column("their contents in version 1")
    v2_file: str = column("its file in version 2")
    v2_value: str = column("its contents in version 2")
    actual: str = column("contents that were read on this host")
    expected: str = column("contents that the options should produce in this host's version", shown=False)


@record
class VersionComparison(Result):
    """The same limits in cgroup versions 1 and 2: read on this host for its version, computed for the other."""

    version: int = column("cgroup version of this host")
    rows: tuple[VersionedLimit, ...] = rows("one for each limit", of=VersionedLimit)

    @property
    def matches_expected(self) -> bool:
        """Whether every file of this host has the expected contents, except shares, whose conversion has changed."""
        return all(
            row.actual == row.expected for row in self.rows if not row.option.startswith("--cpu-shares")
        )


@experiment
def compare_versions(lab: Lab) -> VersionComparison:
    """Start a container with every kind of limit, and read the kernel's files on the engine's host.

    The values of the other version are computed from the options, as the runtime writes them there.
    """
    volume = f"cgroups-spell-{lab.session}"
    with lab.quiet(essential=["docker run -d --network none --memory"]), ExitStack() as stack:
        stack.callback(lab.remove_volume, lab.create_volume(volume))
        volume_disk = disk(lab, volume)
        cpu = str(cpu_numbers(allowed_cpus(lab))[0])
        options: dict[str, Any] = {
            "cpus": 0.5,
            "cpu_shares": 512,
            "cpuset_cpus": cpu,
            "memory": 64 * MIB,
            "memory_reservation": 32 * MIB,
            "pids_limit": 32,
        }
        values = {
            "--cpus": "0.5", "--cpu-shares": "512", "--cpuset-cpus": cpu, "--memory": "64m", "--memory-swap": "64m",
            "--memory-reservation": "32m", "--pids-limit": "32",
        }  # fmt: skip
        if volume_disk.path:
            options |= {"device_write_bps": [f"{volume_disk.path}:1mb"]}
            values |= {"--device-write-bps": f"{volume_disk.path}:1mb"}
        container = stack.enter_context(load(lab, ["true"], start=False, **options))
        requested = lab.inspect(container)["HostConfig"]
        actual = limits(lab, container)
        number = actual.of("--device-write-bps").texts[0].split()[0] if volume_disk.path else ""
    rows = []
    for kind in LIMIT_KINDS:
        limit = next((each for each in actual.limits if each.option == kind.option), None)
        if kind.option not in values or limit is None:
            continue
        v1, v2 = (
            (formatted(requested) or "").format(disk=number) for formatted in (kind.format_v1, kind.format_v2)
        )
        text = " · ".join(limit.texts) if actual.version == 1 else _without_unset(limit.texts[0], v2)
        rows.append(
            VersionedLimit(
                option=f"{kind.option} {values[kind.option]}",
                v1_file=" · ".join(kind.v1),
                v1_value=text if actual.version == 1 else v1,
                v2_file=kind.v2[0],
                v2_value=text if actual.version == 2 else v2,
                actual=text,
                expected=v1 if actual.version == 1 else v2,
            )
        )
    return VersionComparison(actual.version, tuple(rows))


def _without_unset(text: str, expected: str) -> str:
    """A line of io.max without the keys that are `max`: they were not requested."""
    return re.sub(r" [a-z]+=max\b", "", text) if "bps=" in expected else text
