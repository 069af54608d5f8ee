"""Statistics and limits of control groups, the same for versions 1 and 2 of the kernel's interface.

Sources: kernel, Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst; Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from labhelpers.engine.host.cgroup_paths import FILES, CgroupLocation
from labhelpers.engine.host.text import decimal, integer, lines
from labhelpers.errors import NotAvailable
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

# version 1 writes "no limit" as the largest whole number of pages
_NO_LIMIT, _NO_LIMIT_32_BITS = 1 << 60, ((1 << 31) - 1) * 4096
_DISABLED_HINTS = {
    "Memory": "; a Raspberry Pi's kernel counts memory if cgroup_enable=memory is in /boot/firmware/cmdline.txt"
}


@record
class Cpu(Result):
    """Processor time of a cgroup."""

    usage_us: int = column("processor time used since the cgroup was created")
    user_us: int = column("processor time used in user mode")
    system_us: int = column("processor time used in the kernel")
    quota_us: int | None = column("processor time that is allowed in each period, None for no limit")
    period_us: int = column("length of a period")
    periods: int = column("periods in which the cgroup had something to run")
    throttled_periods: int = column("periods in which the cgroup used up its quota")
    throttled_us: int = column("time that its processes were throttled, summed")
    weight: int = column(
        "share among its siblings: `cpu.weight` (default 100), on version 1 `cpu.shares` (default 1024)"
    )

    @property
    def limit_cpus(self) -> float | None:
        """How many processors the quota is worth; None for no limit."""
        return None if self.quota_us is None else self.quota_us / self.period_us


@record
class Memory(Result):
    """Memory of a cgroup."""

    usage_bytes: int = column("memory charged to the cgroup, including the page cache")
    limit_bytes: int | None = column("memory limit, None for no limit")
    peak_bytes: int | None = column(
        "highest usage, None if the kernel does not report it (version 2 before Linux 5.19)"
    )
    anon_bytes: int = column("anonymous memory, part of the usage")
    cache_bytes: int = column("page cache, part of the usage")
    inactive_file_bytes: int = column(
        "page cache that was not used recently (`docker stats` subtracts it from the usage)"
    )
    swap_bytes: int | None = column("swap in use, None if swap is not accounted")
    swap_limit_bytes: int | None = column("limit of swap, None if swap is not accounted or not limited")
    limit_hits: int = column(
        "how often the usage reached the limit (version 1: `failcnt`, which Linux 6.18 leaves at 0)"
    )
    oom_kills: int = column("processes that the kernel's OOM killer killed")


@record
class DeviceIo(Result):
    """Reads and writes of a cgroup on one device."""

    device: str = column("number of the device, `major:minor`")
    read_bytes: int = column("bytes read since the cgroup was created")
    written_bytes: int = column("bytes written since the cgroup was created")
    reads: int = column("number of read operations")
    writes: int = column("number of write operations")


@record
class Io(Result):
    """Reads and writes of a cgroup.

    On version 1, recent kernels count a device only once a cgroup has a limit on it; until then `docker stats` shows
    0, too.
    """

    devices: tuple[DeviceIo, ...] = rows("the devices in use, by number", of=DeviceIo)

    @property
    def read_bytes(self) -> int:
        """From all devices."""
        return sum(device.read_bytes for device in self.devices)

    @property
    def written_bytes(self) -> int:
        """To all devices."""
        return sum(device.written_bytes for device in self.devices)


@record
class Pids(Result):
    """Tasks of a cgroup: processes and threads."""

    current: int = column("number of tasks")
    limit: int | None = column("limit of the number of tasks, None for no limit")


@record
class Pressure(Result):
    """Time in which tasks of a cgroup waited for a resource."""

    resource: str = column("`cpu`, `memory` or `io`")
    some_percent: float = column("share of the last 10 seconds in which at least one task waited")
    full_percent: float = column("share of the last 10 seconds in which all tasks waited")
    some_us: int = column("total time in which at least one task waited")
    full_us: int = column("total time in which all tasks waited")


ControllerStats = TypeVar("ControllerStats", Cpu, Memory, Io, Pids)


@record
class Cgroup(Result):
    """Resource usage and limits of a container's cgroup, of either version."""

    version: int = column("version of the cgroup: 1 or 2")
    path: str = column(
        "path as in /proc/PID/cgroup (on version 1, of the memory controller or of the first that is mounted)"
    )
    controllers: tuple[Cpu | Memory | Io | Pids, ...] = column(
        "the controllers that account for the cgroup: `Cpu`, `Memory`, `Io`, `Pids`", shown=False
    )
    pressure: tuple[Pressure, ...] = column(
        "pressure by resource, empty if the kernel does not measure it", shown=False
    )

    @property
    def cpu(self) -> Cpu:
        """Processor time. Raises NotAvailable if the host does not account for it."""
        return self._part(Cpu)

    @property
    def memory(self) -> Memory:
        """Memory. Raises NotAvailable if the host does not account for it."""
        return self._part(Memory)

    @property
    def io(self) -> Io:
        """Reads and writes. Raises NotAvailable if the host does not account for them."""
        return self._part(Io)

    @property
    def pids(self) -> Pids:
        """Tasks. Raises NotAvailable if the host does not account for them."""
        return self._part(Pids)

    def _part(self, kind: type[ControllerStats]) -> ControllerStats:
        part = self.get(kind)
        if part is not None:
            return part
        name = kind.__name__.lower()
        raise NotAvailable(
            f"the cgroup {self.path} has no {name} controller, so its {name} is not accounted",
            hint="the kernel has disabled it, or it is not delegated to a rootless engine: see `./lab doctor`"
            + _DISABLED_HINTS.get(kind.__name__, ""),
        )

    def get(self, kind: type[ControllerStats]) -> ControllerStats | None:
        """A part, None where its controller is not there: `cgroup.get(Memory)`."""
        return next((part for part in self.controllers if isinstance(part, kind)), None)

    def frame(self) -> pd.DataFrame:
        """One row: every number of every controller, as `memory_usage_bytes`."""
        row: dict[str, object] = {"version": self.version, "path": self.path}
        for part in self.controllers:
            name = type(part).__name__.lower()
            values = {
                key: getattr(part, key)
                for key in (("read_bytes", "written_bytes") if isinstance(part, Io) else type(part).__slots__)
            }
            row |= {f"{name}_{key}": value for key, value in values.items()}
        return table([list(row.values())], list(row))


@record
class Sample(Result):
    """A cgroup at one moment."""

    at_s: float = column("time on the monotonic clock of the engine's host: only differences are meaningful")
    cgroup: Cgroup = column("usage and limits at that time", shown=False)


@record
class File(Result):
    """A file of a container's cgroup."""

    name: str = column("`memory.max`")
    path: str = column("on the engine's host")
    text: str | None = column("what it says, without the space around it; None where there is no such file")


def cgroup(location: CgroupLocation, texts: Mapping[str, str | None]) -> Cgroup:
    """The statistics and limits of a cgroup.

    Args:
        texts: the texts of `location.files`; None for a missing file.
    """
    present = {
        (controller, name): text
        for controller, directory in location.directories.items()
        for name in FILES[controller]
        if (text := texts.get(f"{directory}/{name}")) is not None
    }
    unified = {name: text for (controller, name), text in present.items() if controller == ""}
    if location.version == 2:
        parts = (_cpu_2(unified), _memory_2(unified), _io_2(unified), _pids(unified))
    else:
        version_1 = {name: text for (controller, name), text in present.items() if controller != ""}
        # a controller that version 1 does not use may be version 2's (cgroup_no_v1=memory)
        parts = (
            _cpu_1(version_1) or _cpu_2(unified),
            _memory_1(version_1) or _memory_2(unified),
            _io_1(version_1) or _io_2(unified),
            _pids(version_1) or _pids(unified),
        )
    # a host with version 1 may also mount version 2, without controllers but with pressure
    pressure = [_pressure(name, unified.get(f"{name}.pressure")) for name in ("cpu", "memory", "io")]
    return Cgroup(
        location.version,
        location.path,
        tuple(part for part in parts if part is not None),
        tuple(measured for measured in pressure if measured is not None),
    )


Texts = Mapping[str, str]


def _cpu_1(texts: Texts) -> Cpu | None:
    usage = integer(texts.get("cpuacct.usage"))
    if usage is None:
        return None
    # a kernel without CONFIG_CFS_BANDWIDTH has no cpu.stat, as on some NAS boxes and phones
    stat, quota = _numbers(texts.get("cpu.stat", "")), _number(texts, "cpu.cfs_quota_us", -1)
    return Cpu(
        usage_us=usage // 1000,
        user_us=_number(texts, "cpuacct.usage_user") // 1000,
        system_us=_number(texts, "cpuacct.usage_sys") // 1000,
        quota_us=None if quota < 0 else quota,
        period_us=_number(texts, "cpu.cfs_period_us", 100_000),
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_us=stat.get("throttled_time", 0) // 1000,
        weight=_number(texts, "cpu.shares", 1024),
    )


def _cpu_2(texts: Texts) -> Cpu | None:
    stat = _numbers(texts.get("cpu.stat", ""))
    # without the controller, cpu.stat has only the usage; a kernel without quotas has no cpu.max
    if "usage_usec" not in stat or not {"cpu.max", "cpu.weight"} & texts.keys():
        return None
    quota, period = [*texts.get("cpu.max", "").split(), "", ""][:2]
    return Cpu(
        usage_us=stat["usage_usec"],
        user_us=stat.get("user_usec", 0),
        system_us=stat.get("system_usec", 0),
        quota_us=_limit(quota),
        period_us=integer(period) or 100_000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_us=stat.get("throttled_usec", 0),
        weight=_number(texts, "cpu.weight", 100),
    )


def _memory_1(texts: Texts) -> Memory | None:
    usage = integer(texts.get("memory.usage_in_bytes"))
    if usage is None or "memory.stat" not in texts:
        return None
    stat = _numbers(texts["memory.stat"])
    limit, memory_and_swap = (
        _limit(texts.get("memory.limit_in_bytes")),
        integer(texts.get("memory.memsw.usage_in_bytes")),
    )
    memory_and_swap_limit = _limit(texts.get("memory.memsw.limit_in_bytes"))
    return Memory(
        usage_bytes=usage,
        limit_bytes=limit,
        peak_bytes=integer(texts.get("memory.max_usage_in_bytes")),
        # including child cgroups, if the kernel reports that
        anon_bytes=stat.get("total_rss", stat.get("rss", 0)),
        cache_bytes=stat.get("total_cache", stat.get("cache", 0)),
        inactive_file_bytes=stat.get("total_inactive_file", stat.get("inactive_file", 0)),
        # version 1 counts memory and swap together
        swap_bytes=None if memory_and_swap is None else max(0, memory_and_swap - usage),
        swap_limit_bytes=None
        if memory_and_swap_limit is None or limit is None
        else memory_and_swap_limit - limit,
        # if both limits are equal, only the one of memory and swap is hit
        limit_hits=_number(texts, "memory.failcnt") + _number(texts, "memory.memsw.failcnt"),
        oom_kills=_numbers(texts.get("memory.oom_control", "")).get("oom_kill", 0),
    )


def _memory_2(texts: Texts) -> Memory | None:
    usage = integer(texts.get("memory.current"))
    if usage is None or "memory.stat" not in texts:
        return None
    stat, events = _numbers(texts["memory.stat"]), _numbers(texts.get("memory.events", ""))
    return Memory(
        usage_bytes=usage,
        limit_bytes=_limit(texts.get("memory.max")),
        peak_bytes=integer(texts.get("memory.peak")),
        anon_bytes=stat.get("anon", 0),
        cache_bytes=stat.get("file", 0),
        inactive_file_bytes=stat.get("inactive_file", 0),
        swap_bytes=integer(texts.get("memory.swap.current")),
        swap_limit_bytes=_limit(texts.get("memory.swap.max")),
        limit_hits=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
    )


def _io_1(texts: Texts) -> Io | None:
    size, count = (
        texts.get(f"blkio.throttle.{name}_recursive", texts.get(f"blkio.throttle.{name}"))
        for name in ("io_service_bytes", "io_serviced")
    )
    if size is None or count is None:
        return None
    table: dict[str, dict[str, int]] = {}
    for text, names in ((size, ("read_bytes", "written_bytes")), (count, ("reads", "writes"))):
        operations = dict(zip(("Read", "Write"), names, strict=True))
        # `8:0 Read 4096`; also other operations, and a total at the end
        for row in (line.split() for line in lines(text)):
            number = integer(row[2]) if len(row) == 3 else None
            if number is not None and row[1] in operations and _is_device(row[0]):
                table.setdefault(row[0], {})[operations[row[1]]] = number
    return _io(table)


def _io_2(texts: Texts) -> Io | None:
    if "io.stat" not in texts:
        return None
    names = {"rbytes": "read_bytes", "wbytes": "written_bytes", "rios": "reads", "wios": "writes"}
    table: dict[str, dict[str, int]] = {}
    for line in lines(texts["io.stat"]):
        device = ""
        for word in line.split():
            # some kernels omit the newline after a device without counts: the last device on the line is the right one
            device = word if _is_device(word) else device
            name, _, number = word.partition("=")
            if device and name in names and (value := integer(number)) is not None:
                table.setdefault(device, {})[names[name]] = value
    return _io(table)


def _is_device(word: str) -> bool:
    return bool(re.fullmatch(r"[0-9]+:[0-9]+", word))


def _io(table: Mapping[str, Mapping[str, int]]) -> Io:
    names = ("read_bytes", "written_bytes", "reads", "writes")
    used = ((device, counts) for device, counts in sorted(table.items()) if any(counts.values()))
    return Io(tuple(DeviceIo(device, *(counts.get(name, 0) for name in names)) for device, counts in used))


def _pids(texts: Texts) -> Pids | None:
    current = integer(texts.get("pids.current"))
    return None if current is None else Pids(current, _limit(texts.get("pids.max")))


def _pressure(resource: str, text: str | None) -> Pressure | None:
    """`some avg10=0.12 avg60=… total=345`; before Linux 5.13 there is no `full` line for the CPU."""
    rows = {
        fields[0]: dict(field.split("=", 1) for field in fields[1:] if "=" in field)
        for line in lines(text)
        if (fields := line.split())
    }
    some, full = rows.get("some", {}), rows.get("full", {})
    waited = integer(some.get("total"))
    if waited is None:
        return None
    return Pressure(
        resource,
        decimal(some.get("avg10")) or 0.0,
        decimal(full.get("avg10")) or 0.0,
        waited,
        integer(full.get("total")) or 0,
    )


def _limit(text: str | None) -> int | None:
    """A limit; None for `max`, version 1's maximum, a negative number, or a missing file."""
    number = integer(text)
    if number is None or not 0 <= number < _NO_LIMIT or number == _NO_LIMIT_32_BITS:
        return None
    return number


def _number(texts: Texts, name: str, otherwise: int = 0) -> int:
    number = integer(texts.get(name))
    return otherwise if number is None else number


def _numbers(text: str) -> dict[str, int]:
    """`key number` on each line; other lines are skipped."""
    rows = (line.split() for line in lines(text))
    return {row[0]: number for row in rows if len(row) == 2 and (number := integer(row[1])) is not None}
