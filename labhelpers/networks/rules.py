"""Firewall rules: what a rule contains and where it sends packets, in the notation of iptables and of nft."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from labhelpers.engine.host.text import contains_word

if TYPE_CHECKING:
    from labhelpers.engine.host import Rule


def mentions(rule: Rule, names: Iterable[str]) -> bool:
    """Whether a rule contains one of `names`: interfaces, addresses, or subnets with their prefix length."""
    texts = [rule.text, rule.chain.replace("__", " "), *(_prefixes(rule) if rule.tool == "nft" else ())]
    return any(contains_word(text, name) for name in names for text in texts)


def dnat_target(rule: Rule) -> tuple[str, int | None] | None:
    """The new destination of a DNAT rule: (address, port or None). None for any other rule."""
    if rule.tool == "nft":
        for name, value in _expressions(rule):
            if name == "dnat" and isinstance(value, Mapping) and isinstance(value.get("addr"), str):
                port = value.get("port")
                return value["addr"], port if isinstance(port, int) else None
        return None
    match = re.search(r"--to-destination (\S+)", rule.text)
    return _address_and_port(match[1]) if match and rule.target == "DNAT" else None


def _address_and_port(text: str) -> tuple[str, int | None]:
    """Parse `172.17.0.2:80`, `[fd00::2]:80` or `fd00::2`; the first of a range (iptables-extensions(8), DNAT)."""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.lstrip(":")
    elif text.count(":") > 1:
        address, port = text, ""
    else:
        address, _, port = text.partition(":")
    digits = re.match(r"\d+", port)
    return address.partition("-")[0], int(digits[0]) if digits else None


def is_for_port(rule: Rule, port: int) -> bool:
    """Whether a rule matches packets to the TCP, UDP or SCTP port `port`, alone or in a range."""
    if rule.tool == "nft":
        return any(
            name == "match"
            and isinstance(value, Mapping)
            and value.get("op", "==") in ("==", "in")
            and _field(value.get("left")) == "dport"
            and _includes(value.get("right"), port)
            for name, value in _expressions(rule)
        )
    match = re.search(r"(?:^|[^!] )--d(?:estination-)?ports? ([\d:,]+)(?= |$)", rule.text)
    return match is not None and any(_in_range(part, port) for part in match[1].split(","))


def _in_range(part: str, port: int) -> bool:
    low, _, high = part.partition(":")
    return bool(low) and int(low) <= port <= int(high or low)


def _expressions(rule: Rule) -> Iterator[tuple[str, Any]]:
    try:
        parsed = json.loads(rule.text)
    except ValueError:
        return
    for expression in parsed if isinstance(parsed, list) else []:
        if isinstance(expression, Mapping):
            yield from expression.items()


def _field(left: Any) -> str | None:
    payload = left.get("payload") if isinstance(left, Mapping) else None
    return payload.get("field") if isinstance(payload, Mapping) else None


def _includes(right: Any, port: int) -> bool:
    if isinstance(right, Mapping):
        if isinstance(right.get("set"), list):
            return any(_includes(element, port) for element in right["set"])
        ends = right.get("range")
        return isinstance(ends, list) and len(ends) == 2 and _is_between(ends, port)
    return bool(right == port)


def _is_between(ends: list[Any], port: int) -> bool:
    low, high = ends
    return isinstance(low, int) and isinstance(high, int) and low <= port <= high


def _prefixes(rule: Rule) -> list[str]:
    """The subnets of an nft rule, which has the address and the length apart (libnftables-json(5), PREFIX)."""
    prefixes = re.findall(r'"prefix": \{"addr": "([^"]+)", "len": (\d+)', rule.text)
    return [f"{address}/{length}" for address, length in prefixes]
