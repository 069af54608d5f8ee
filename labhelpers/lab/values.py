"""What the value of an option may be.

A parser returns the value as the engine takes it, or raises `BadInput` with what is wrong with it: before the engine is
asked, and with a next step.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labhelpers.engine.arguments import is_integer, is_number, is_text
from labhelpers.errors import BadInput

# docker/go-units, size.go: what `--memory` takes
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[bkmgtp]?)i?b?", re.IGNORECASE)
# moby, daemon/names: containers and volumes
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# distribution/reference, without its length limits
_IMAGE = re.compile(r"[a-zA-Z0-9][\w.\-/:]*(@[a-z0-9]+:[0-9a-f]+)?")
# kernel, Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus; device rules as moby checks them
_CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
# no machine has as many; billionths of more would not fit the engine's 64 bits
_MAX_CPUS = 1e6


def refuse(what: object, why: str, hint: str) -> BadInput:
    """The error for a value that is not valid, with why and what to write instead."""
    return BadInput(f"{what!r} {why}", hint=hint)


def parse_size(value: int | str) -> int:
    """Bytes; `64m` and the like in powers of 1,024, as the command line reads them."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise refuse(value, "is not a size", "write bytes as a whole number, or a text such as '64m' or '1g'")
    if isinstance(value, int):
        if value <= 0:
            raise refuse(
                value, "is not a valid limit: it must be more than 0 bytes", "write for example '64m'"
            )
        return value
    found = _SIZE.fullmatch(value)
    if not found:
        raise refuse(
            value,
            "is not a size that Docker understands",
            "use a number with a unit b, k, m or g, for example '64m'",
        )
    return int(float(found["number"]) * 1024 ** "bkmgtp".index((found["unit"] or "b").lower()))


def parse_swap(value: int | str) -> int:
    """Bytes of memory and swap together; -1 for as much swap as there is."""
    return -1 if value in (-1, "-1") else parse_size(value)


def parse_cpus(value: float) -> int:
    """CPUs in billionths, as the engine counts them."""
    if not is_number(value) or not 0 < value < _MAX_CPUS:
        raise refuse(value, "is not a valid number of CPUs", "use a number above 0: cpus=0.5 is half a CPU")
    return round(value * 1e9)


def parse_count(value: int) -> int:
    """A whole number above 0."""
    if not is_integer(value) or (value < 1 and value != -1):
        raise refuse(
            value, "is not a number of processes", "use a whole number of at least 1, or -1 for no limit"
        )
    return value


def parse_microseconds(value: int) -> int:
    """Microseconds of CPU time."""
    # the kernel takes 1,000 or more (Documentation/scheduler/sched-bwc.rst)
    if not is_integer(value) or value < 1000:
        raise refuse(
            value, "is not a valid quota or period", "use microseconds, at least 1000: 50_000 is 50 ms"
        )
    return value


def parse_shares(value: int) -> int:
    """A CPU weight in shares; 1,024 is the default."""
    if not is_integer(value) or not 2 <= value <= 262_144:
        raise refuse(
            value,
            "is not a valid number of CPU shares",
            "use a whole number from 2 to 262144; the default is 1024",
        )
    return value


def parse_cpu_list(value: str) -> str:
    """CPUs by number: `0-3,8` (cpuset(7))."""
    if not isinstance(value, str) or not _CPU_LIST.fullmatch(value):
        raise refuse(value, "is not a list of CPUs", "write it as '0', '0-2' or '0,2'")
    return value


def parse_text(value: str) -> str:
    """A string that can be sent."""
    if not is_text(value):
        raise refuse(value, "is not a string", "write it in quotes")
    return value


def parse_name(value: str) -> str:
    """The name or id of a container, network or volume."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise refuse(
            value,
            "is not a valid name",
            "use at least two characters: letters, digits, _ . and -, starting with a letter or digit",
        )
    return value


def parse_image(value: str) -> str:
    """A reference to an image."""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise refuse(
            value, "is not a valid image reference", "use an image reference such as labhelpers/base:latest"
        )
    return value


def parse_texts(value: Sequence[str]) -> list[str]:
    """Several texts."""
    if not isinstance(value, (list, tuple)) or not all(map(is_text, value)):
        raise refuse(value, "is not a list of strings", f"put it in brackets: [{value!r}]")
    return list(value)


def parse_table(value: Mapping[str, str]) -> dict[str, str]:
    """Texts by name."""
    if not isinstance(value, Mapping):
        raise refuse(value, "is not a dict", "write it as {'name': 'value'}")
    for key in value:
        if not is_text(key) or not key or "=" in key:
            raise refuse(key, "is not a valid name in this dict", "use a name without '='")
        if not is_text(str(value[key])) or not isinstance(value[key], (str, int, float)):
            raise refuse(value[key], f"is not a valid value of {key!r}", "use a string or a number")
    return {key: str(entry) for key, entry in value.items()}


def parse_filters(value: Mapping[str, Any]) -> dict[str, Any]:
    """Filters of a list: name → a value, or several."""
    if not isinstance(value, Mapping):
        raise refuse(value, "is not a dict of filters", "write it as {'label': 'com.example'}")
    for name, wanted in value.items():
        values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        if not is_text(name) or not all(isinstance(each, (bool, int)) or is_text(each) for each in values):
            raise refuse({name: wanted}, "is not a filter", "write it as {'label': 'com.example'}")
    return dict(value)


def parse_pairs(value: Mapping[str, str]) -> list[str]:
    """`NAME=VALUE` for each."""
    return [f"{key}={entry}" for key, entry in parse_table(value).items()]


def parse_command(value: str | Sequence[str]) -> list[str]:
    """A text is split as a shell splits it, without running anything in it."""
    if not isinstance(value, str):
        return parse_texts(value)
    try:
        return shlex.split(value)
    except ValueError as error:
        raise refuse(
            value, f"cannot be parsed as a shell command: {error}", "close the quotes, or use a list"
        ) from None


def one_of(*allowed: str) -> Callable[[str], str]:
    """A parser that takes the values `allowed` and no other."""

    def check(value: str) -> str:
        if value not in allowed:
            raise refuse(value, "is not a valid choice", "choose " + " or ".join(map(repr, allowed)))
        return value

    return check


def parse_ipc(value: str) -> str:
    """A mode of IPC: `none`, `private`, `shareable`, `host` or `container:NAME`."""
    if value not in ("none", "private", "shareable", "host") and not parse_text(value).startswith(
        "container:"
    ):
        raise refuse(
            value,
            "is not a valid IPC mode",
            "choose 'private', 'shareable', 'container:NAME', 'host' or 'none'",
        )
    return value


def parse_port(value: int | str) -> str:
    """A port with its protocol: `80/tcp`."""
    if isinstance(value, bool) or not str(value).isdigit() or not 1 <= int(value) <= 65535:
        raise refuse(value, "is not a valid port", "a port is a whole number from 1 to 65535")
    return str(int(value))


def parse_switch(value: bool) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise refuse(value, "is neither True nor False", "write True to set the option, or leave it out")
    return value


def parse_user(value: str | int) -> str:
    """A user by name or ID, with a group if it is not the user's own: `1000`, `www-data`, `1000:1000`."""
    return str(value) if is_integer(value) else parse_text(value)  # type: ignore[arg-type]


def parse_some_seconds(value: int) -> int:
    """Whole seconds, 1 or more."""
    if parse_seconds(value) == 0:
        raise refuse(value, "is not a valid interval", "use whole seconds, at least 1")
    return value


def parse_seconds(value: int) -> int:
    """Whole seconds, 0 or more."""
    if not is_integer(value) or value < 0:
        raise refuse(value, "is not a valid timeout", "write whole seconds, 0 or more")
    return value


def parse_subnet(value: str) -> str:
    """A subnet in CIDR notation."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise refuse(value, f"is not a subnet: {error}", "write it as '172.30.0.0/24'") from None


def parse_address(value: str) -> str:
    """An IP address."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise refuse(value, f"is not an address: {error}", "write it as '172.30.0.1'") from None
