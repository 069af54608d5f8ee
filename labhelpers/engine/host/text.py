"""Parse the output of kernels and tools: lines, numbers, and words in a line.

Unknown input is skipped: other kernels print more, less, or in another order.
"""

from __future__ import annotations

import json
import re
from typing import Any

from labhelpers.errors import HostUnreadable


def lines(text: str | None) -> list[str]:
    """The non-empty lines. Only a line feed separates them: names may contain any other character."""
    return [line.rstrip("\r") for line in (text or "").split("\n") if line.strip()]


def integer(text: str | None) -> int | None:
    """A whole number in decimal digits; None for anything else."""
    match = re.fullmatch(r"[+-]?[0-9]{1,40}", (text or "").strip())
    return int(match[0]) if match else None


def decimal(text: str | None) -> float | None:
    """A number such as `12.34`; None for anything else."""
    match = re.fullmatch(r"[0-9]{1,40}(\.[0-9]{0,40})?", (text or "").strip())
    return float(match[0]) if match else None


def unescape_octal(text: str) -> str:
    """A path from a table of the kernel, where spaces and backslashes are in octal (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def contains_word(text: str, word: str) -> bool:
    """Whether an address, a name or a number is a whole word of a rule or a command line.

    `80` is not in `8080`, `10.0.0.1` neither in `110.0.0.1` nor in `10.0.0.12`, `eth0` neither in `veth0` nor in
    `eth01`. A port, a prefix length or a quotation mark may follow an address.
    """
    # a colon continues an IPv6 address
    adjacent = r"[\w.:]" if word.count(":") > 1 else r"[\w.]"
    return bool(word) and bool(re.search(rf"(?<!{adjacent}|-){re.escape(word)}(?!{adjacent}|\+|-\w)", text))


def json_of(text: str | None, tool: str) -> Any:
    """The first JSON value in a tool's output, without warnings around it; None if it is empty.

    Raises:
        HostUnreadable: there is no JSON value.
    """
    text = (text or "").strip("\0 \r\n\t")
    if not text:
        return None
    if text == "null":
        return None
    for start in re.finditer(r"^[\[{]", text, re.M):
        try:
            return json.JSONDecoder(strict=False).raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    raise HostUnreadable(
        f"`{tool}` did not print JSON",
        hint="check its version; the lab images have a suitable one: run `./lab up`",
        engine_message=text[:500],
    )
