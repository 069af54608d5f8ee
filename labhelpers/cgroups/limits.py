"""What is set for a container: in words, and in the kernel's files, as versions 1 and 2 spell it.

Sources: kernel, Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst; what Docker writes into which file:
opencontainers/runtime-spec, config-linux.md, and runc's conversion of shares to weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.disk import disk
from labhelpers.cgroups.safety_limits import MIB, load
from labhelpers.drawing import human_bytes
from labhelpers.engine.host.text import integer, lines
from labhelpers.lab.base import name_of
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

# version 1 writes "no limit" as the largest whole number of pages
_NO_LIMIT = 1 << 60
RequestedOptions = Mapping[str, Any]
"""`HostConfig` of `docker inspect`: what the engine was asked for."""


@record
class LimitKind:
    """One limit that Docker can set."""

    resource: str = column("what it limits")
    option: str = column("of `docker run`")
    v1: tuple[str, ...] = column("the names of its files; an empty string where there is none")
    v2: tuple[str, ...] = column("the names of its files; an empty string where there is none")
    words: Callable[[Sequence[str]], str | None] = column(
        "from the texts of this host's files, in that order, to the reader's words; None for no limit",
        shown=False,
    )
    spell_1: Callable[[RequestedOptions], str | None] = column(
        "what is written into them for what was asked for; None where it was not asked for", shown=False
    )
    spell_2: Callable[[RequestedOptions], str | None] = column(
        "what is written into them for what was asked for; None where it was not asked for", shown=False
    )
    usual: tuple[str, str] = column(
        "the text that each version has where nothing was asked for", default=("", "")
    )


@record
class Limit:
    """One limit of a container."""

    resource: str = column("what it limits")
    option: str = column("of `docker run`")
    is_set: bool = column("whether it limits anything")
    words: str = column("what it means, in the reader's words")
    v1_file: str = column("the names of its files in each version; an empty string where there is none")
    v2_file: str = column("the names of its files in each version; an empty string where there is none")
    paths: tuple[str, ...] = column("where they are on this host")
    texts: tuple[str, ...] = column("what they say; an empty string for one that is empty")


@record
class Limits(Result):
    """What is set for a container."""

    name: str = column("of the container")
    version: int = column("of the control groups of the engine's host: 1 or 2")
    limits: tuple[Limit, ...] = rows(
        "one for each option; those whose files this host does not have are left out", of=Limit
    )

    def of(self, option: str) -> Limit:
        """The limit that an option of `docker run` sets."""
        return next(one for one in self.limits if one.option == option)

    @property
    def are_set(self) -> tuple[Limit, ...]:
        """Those that limit something."""
        return tuple(one for one in self.limits if one.is_set)

    def frame(self) -> pd.DataFrame:
        """One row a limit: resource, words, option, v1_file, v2_file, here."""
        rows = [
            (one.resource, one.words, one.option, one.v1_file, one.v2_file, _short(one.texts))
            for one in self.limits
        ]
        return table(rows, ["resource", "words", "option", "v1_file", "v2_file", "here"])


def limits(lab: Lab, container: Container | str) -> Limits:
    """What is set for a running container: in words, and in the kernel's files on the engine's host.

    Raises:
        LabError: no such container, or it does not run.
    """
    names = {name for kind in LIMIT_KINDS for name in (*kind.v1, *kind.v2)}
    version = lab.host.cgroup(container).version
    files = lab.host.cgroup_files(container, sorted(names))
    every = allowed_cpus(lab)
    found = []
    for kind in LIMIT_KINDS:
        here = [files[name] for name in (kind.v1 if version == 1 else kind.v2) if name in files]
        here = [file for file in here if file.text is not None]
        if not here and (kind.v1 if version == 1 else kind.v2):
            continue  # its controller is switched off here
        texts = [file.text or "" for file in here]
        # a set of all CPUs limits nothing
        no_limit = (kind.usual[version - 1], every)
        words = None if texts and texts[0] in no_limit else kind.words(texts)
        found.append(
            Limit(
                kind.resource,
                kind.option,
                words is not None,
                words or "no limit",
                ", ".join(kind.v1),
                ", ".join(kind.v2),
                tuple(file.path for file in here),
                tuple(texts),
            )
        )
    name = name_of(container)
    return Limits(name, version, tuple(found))


def allowed_cpus(lab: Lab) -> str:
    """The CPUs that a container of this engine may use, as the kernel writes them: `0-3`, or `1,4-7`.

    Which they are is not in `docker info`: `NCPU` is their number. They are fewer than the machine's where the engine's
    cgroup has a set of CPUs, as in a container or on a host with isolated CPUs.

    Source: proc(5), /proc/PID/status: `Cpus_allowed_list`, of the helper of `lab.host`, which has no set of its own.
    """
    status = lab.host.read("/proc/self/status")
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M)
    return found[1] if found else f"0-{int(lab.engine.info['NCPU']) - 1}"


def cpu_numbers(text: str) -> list[int]:
    """The CPUs of a list as the kernel writes it: `0,2-3` is [0, 2, 3]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def _short(texts: Sequence[str]) -> str:
    """The texts of a limit in one line; the rules of devices are many."""
    lines = [line for text in texts for line in text.splitlines()]
    return " · ".join(lines[:3]) + (f" … ({len(lines)} lines)" if lines[3:] else "")


# --- words: from the kernel's text to the reader


def _number(text: str) -> int | None:
    number = integer(text)
    return None if number is None or not 0 <= number < _NO_LIMIT else number


def _quota(texts: Sequence[str]) -> str | None:
    words = " ".join(texts).split()
    quota, period = (_number(words[0]), _number(words[1])) if len(words) == 2 else (None, None)
    if quota is None or not period:
        return None
    return f"{quota / period:g} CPUs: {quota / 1000:g} ms of processor time in every {period / 1000:g} ms"


def _weight(texts: Sequence[str]) -> str | None:
    if not texts or _number(texts[0]) is None:
        return None
    return f"{texts[0]} against others that want the same CPU; alone it has the whole"


def _cpus(texts: Sequence[str]) -> str | None:
    return f"only on CPU {texts[0]}" if texts and texts[0].strip() else None


def _bytes(what: str) -> Callable[[Sequence[str]], str | None]:
    def words(texts: Sequence[str]) -> str | None:
        number = _number(texts[0]) if texts else None
        return None if not number else what.format(human_bytes(number))

    return words


def _rate(key: str, unit: str) -> Callable[[Sequence[str]], str | None]:
    def words(texts: Sequence[str]) -> str | None:
        said = []
        for line in lines(texts[0]) if texts else []:
            device, *rest = line.split()
            value = dict(word.split("=", 1) for word in rest if "=" in word).get(
                key, rest[0] if len(rest) == 1 else ""
            )
            number = _number(value)
            if number:
                said.append(f"{human_bytes(number) if unit == 'bytes' else number} a second, on {device}")
        return ", ".join(said) or None

    return words


def _swap(texts: Sequence[str]) -> str | None:
    number = _number(texts[0]) if texts else None
    return None if number is None else f"at most {human_bytes(number)}" if number else "no swap"


def _pids(texts: Sequence[str]) -> str | None:
    number = _number(texts[0]) if texts else None
    return None if number is None else f"at most {number} processes and threads"


def _devices(texts: Sequence[str]) -> str:
    if not texts:
        return "only what Docker lists; a program in the kernel decides"
    opened = [line for line in texts[0].splitlines() if not line.endswith(" m")]
    return f"only {len(opened)} rules may be opened; nodes may be made"


# --- spellings: from what was asked for to the text that the kernel gets


def _quota_of(asked: RequestedOptions) -> tuple[int, int] | None:
    if asked.get("NanoCpus"):
        return asked["NanoCpus"] // 10_000, 100_000
    return (asked["CpuQuota"], asked.get("CpuPeriod") or 100_000) if asked.get("CpuQuota", 0) > 0 else None


def _spell_quota_1(asked: RequestedOptions) -> str | None:
    found = _quota_of(asked)
    return found and f"{found[0]} · {found[1]}"


def _spell_quota_2(asked: RequestedOptions) -> str | None:
    found = _quota_of(asked)
    return found and f"{found[0]} {found[1]}"


def _spell(key: str, *, most: str = "") -> Callable[[RequestedOptions], str | None]:
    return lambda asked: (str(asked[key]) if asked.get(key) != -1 else most) if asked.get(key) else None


def _spell_weight_2(asked: RequestedOptions) -> str | None:
    # runc before 1.3.2: [2, 262144] onto [1, 10000] in a straight line; later ones use a curve through 1024 → 100
    shares = asked.get("CpuShares")
    return str(1 + ((shares - 2) * 9999) // 262142) if shares else None


def _spell_swap_2(asked: RequestedOptions) -> str | None:
    # version 2 limits swap alone, version 1 memory and swap together
    both, memory = asked.get("MemorySwap", 0), asked.get("Memory", 0)
    return "max" if both == -1 else str(both - memory) if both else None


def _spell_disk(
    key: str, name: str
) -> tuple[Callable[[RequestedOptions], str | None], Callable[[RequestedOptions], str | None]]:
    def one(asked: RequestedOptions) -> str | None:
        return f"{{disk}} {asked[key][0]['Rate']}" if asked.get(key) else None

    def two(asked: RequestedOptions) -> str | None:
        return f"{{disk}} {name}={asked[key][0]['Rate']}" if asked.get(key) else None

    return one, two


LIMIT_KINDS = (
    LimitKind("CPU quota", "--cpus", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",), _quota, _spell_quota_1,
         _spell_quota_2),
    LimitKind("CPU shares", "--cpu-shares", ("cpu.shares",), ("cpu.weight",), _weight, _spell("CpuShares"),
         _spell_weight_2, ("1024", "100")),
    LimitKind("CPU set", "--cpuset-cpus", ("cpuset.cpus",), ("cpuset.cpus",), _cpus, _spell("CpusetCpus"),
         _spell("CpusetCpus")),
    LimitKind("memory", "--memory", ("memory.limit_in_bytes",), ("memory.max",), _bytes("at most {}; killed beyond it"),
         _spell("Memory"), _spell("Memory")),
    LimitKind("memory and swap", "--memory-swap", ("memory.memsw.limit_in_bytes",), ("memory.swap.max",),
         _swap, _spell("MemorySwap", most="-1"), _spell_swap_2),
    LimitKind("reservation", "--memory-reservation", ("memory.soft_limit_in_bytes",), ("memory.low",),
         _bytes("{} when the host runs short of memory"), _spell("MemoryReservation"), _spell("MemoryReservation")),
    LimitKind("disk, reading", "--device-read-bps", ("blkio.throttle.read_bps_device",), ("io.max",),
         _rate("rbps", "bytes"), *_spell_disk("BlkioDeviceReadBps", "rbps")),
    LimitKind("disk, writing", "--device-write-bps", ("blkio.throttle.write_bps_device",), ("io.max",),
         _rate("wbps", "bytes"), *_spell_disk("BlkioDeviceWriteBps", "wbps")),
    LimitKind("processes", "--pids-limit", ("pids.max",), ("pids.max",), _pids, _spell("PidsLimit"),
         _spell("PidsLimit")),
    LimitKind("devices", "--device", ("devices.list",), (), _devices, lambda asked: None, lambda asked: None),
)  # fmt: skip


# --- one limit, two spellings


@record
class VersionedLimit:
    """One limit, in the words of both versions."""

    option: str = column("as it was given to `docker run`, with its value")
    v1_file: str = column("the file of each version and what stands in it")
    v1_text: str = column("the file of each version and what stands in it")
    v2_file: str = column("the file of each version and what stands in it")
    v2_text: str = column("the file of each version and what stands in it")
    read: str = column("what was read on this host")
    spelled: str = column("what this version's text should be, from what was asked for")


@record
class VersionComparison(Result):
    """The same limits in versions 1 and 2: this host's were read, the other's are what its runtime would write."""

    version: int = column("of this host")
    rows: tuple[VersionedLimit, ...] = rows("one a limit", of=VersionedLimit)

    @property
    def read_as_spelled(self) -> bool:
        """Whether every file of this host says what was asked for (shares apart: their conversion has changed)."""
        return all(row.read == row.spelled for row in self.rows if not row.option.startswith("--cpu-shares"))

    def frame(self) -> pd.DataFrame:
        """One row a limit: option, v1, v2; this host's column says so in its name."""
        rows = [(r.option, f"{r.v1_file}: {r.v1_text}", f"{r.v2_file}: {r.v2_text}") for r in self.rows]
        here = {1: ["version 1 (read here)", "version 2"], 2: ["version 1", "version 2 (read here)"]}[
            self.version
        ]
        return table(rows, ["option", *here])


def compare_versions(lab: Lab) -> VersionComparison:
    """Give one container every kind of limit, and read on the engine's host how the kernel has them.

    The other version's column is computed from what was asked for, as the runtime spells it there.
    """
    volume = f"cgroups-spell-{lab.session}"
    with lab.quiet(essential=["docker run -d --network none --memory"]), ExitStack() as stack:
        stack.callback(lab.remove_volume, lab.create_volume(volume))
        found = disk(lab, volume)
        cpu = str(cpu_numbers(allowed_cpus(lab))[0])
        options: dict[str, Any] = {
            "cpus": 0.5,
            "cpu_shares": 512,
            "cpuset_cpus": cpu,
            "memory": 64 * MIB,
            "memory_reservation": 32 * MIB,
            "pids_limit": 32,
        }
        given = {
            "--cpus": "0.5", "--cpu-shares": "512", "--cpuset-cpus": cpu, "--memory": "64m", "--memory-swap": "64m",
            "--memory-reservation": "32m", "--pids-limit": "32",
        }  # fmt: skip
        if found.path:
            options |= {"device_write_bps": [f"{found.path}:1mb"]}
            given |= {"--device-write-bps": f"{found.path}:1mb"}
        container = stack.enter_context(load(lab, ["true"], begin=False, **options))
        asked = lab.inspect(container)["HostConfig"]
        seen = limits(lab, container)
        number = seen.of("--device-write-bps").texts[0].split()[0] if found.path else ""
    rows = []
    for kind in LIMIT_KINDS:
        here = next((one for one in seen.limits if one.option == kind.option), None)
        if kind.option not in given or here is None:
            continue
        spelled = [(spell(asked) or "").format(disk=number) for spell in (kind.spell_1, kind.spell_2)]
        read = " · ".join(here.texts) if seen.version == 1 else _only(here.texts[0], spelled[1])
        texts = [read, spelled[1]] if seen.version == 1 else [spelled[0], read]
        rows.append(
            VersionedLimit(
                f"{kind.option} {given[kind.option]}",
                " · ".join(kind.v1),
                texts[0],
                kind.v2[0],
                texts[1],
                read,
                spelled[seen.version - 1],
            )
        )
    return VersionComparison(seen.version, tuple(rows))


def _only(text: str, spelled: str) -> str:
    """Of a line of io.max, the words that were asked for: the others say `max`."""
    return re.sub(r" [a-z]+=max\b", "", text) if "bps=" in spelled else text
