"""How values and their units are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

# the end of a field's name -> its unit; a longer end comes first
UNITS = {
    "bytes_per_s": "bytes/s",
    "rows_per_s": "rows/s",
    "mib_per_s": "MiB/s",
    "gbit_per_s": "Gbit/s",
    "mbit_per_s": "Mbit/s",
    "bits_per_s": "bit/s",
    "bytes": "bytes",
    "percent": "%",
    "hz": "Hz",
    "ms": "ms",
    "us": "µs",
    "ns": "ns",
    "s": "s",
}
_ACRONYMS = {
    word.lower(): word
    for word in (
        *("CPU", "CPUs", "DNS", "GID", "ID", "IDs", "IP", "MAC", "MTU"),
        *("PCI", "PID", "PIDs", "QEMU", "TCP", "UDP", "UID", "VM"),
    )
}
NO_VALUE = "—"


def _ending(name: str) -> str | None:
    return next((end for end in UNITS if name.endswith("_" + end) or name == end), None)


def unit_of(name: str) -> str | None:
    """The unit that a field's name ends with: `file_bytes` → bytes. None where it has none."""
    end = _ending(name)
    return None if end is None else UNITS[end]


def heading(name: str) -> str:
    """A field's name as the heading of a column: `first_write_ms` → first write (ms), `file_bytes` → file."""
    end = _ending(name)
    if end == name:
        return UNITS[end]
    parts = name.removesuffix(f"_{end}").split("_")
    text = " ".join(_ACRONYMS.get(part, part) for part in parts)
    return text if end is None or UNITS[end].startswith("bytes") else f"{text} ({UNITS[end]})"


def show(value: object, unit: str | None = None) -> str:
    """`value` as people write it: 1.4 MiB, 0.42, yes, a list with commas, — for no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NO_VALUE
    if isinstance(value, str):
        return value
    # numpy has booleans of its own
    if type(value).__name__.startswith("bool"):
        return "yes" if value else "no"
    if isinstance(value, Real):
        return _number(value, unit)
    if isinstance(value, Mapping):
        return ", ".join(f"{show(key)}: {show(item)}" for key, item in value.items()) or NO_VALUE
    if isinstance(value, Iterable):
        return ", ".join(show(item, unit) for item in value) or NO_VALUE
    return str(value)


def _number(value: Real, unit: str | None) -> str:
    if unit in ("bytes", "bytes/s"):
        return human_bytes(float(value)) + unit.removeprefix("bytes")
    # pandas turns the integers of a column with missing values into floats
    if isinstance(value, Integral) or (unit is None and float(value).is_integer()):
        # numpy's integers, which a frame holds, have no __trunc__
        whole = int(value if isinstance(value, Integral) else float(value))
        # without a unit it is a name of something: a PID, a port, a user
        return f"{whole:,}" if unit else str(whole)
    size = abs(float(value))
    return f"{float(value):,.0f}" if size >= 100 else f"{float(value):.3g}"


def human_bytes(count: float) -> str:
    """`count` bytes as people write it: 512 B, 1.4 MiB (powers of 1,024, IEC 80000-13)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
