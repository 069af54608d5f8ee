"""What a dockerd changes on its machine, and how to undo it: links, firewall rules, IP forwarding, cgroups, paths."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from labhelpers.engine.root import run_as_root

Echo = Callable[[str], object]

# what dockerd 20 to 29 and its containerd write outside their configured directories
PATHS_OUTSIDE_STATE = (
    "/etc/docker/key.json",
    "/run/docker/plugins",
    "/run/docker/netns",
    "/run/docker",
    "/run/containerd/s",
    "/run/containerd",
    "/opt/containerd/bin",
    "/opt/containerd/lib",
    "/opt/containerd",
)
_ENGINE_LINK = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7}")
_CHAIN = r"DOCKER(?:[-_][\w-]+)?"
# whole names: a bridge named docker01 is not Docker's; the last alternative is the hairpin rule of a published port
_ENGINE_RULE = re.compile(
    rf"(?<![\w.-])(?:{_CHAIN}|docker0|docker_gwbridge|br-[0-9a-f]{{12}})(?![\w.-])"
    r"|-A POSTROUTING -s (\S+) -d \1 .*-j MASQUERADE"
)


def snapshot() -> dict[str, Any]:
    """The links, firewall rules, IP forwarding, cgroups and files that an engine may change."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    return {
        "network": os.readlink("/proc/self/ns/net"),
        "links": sorted(name for _, name in socket.if_nameindex()),
        "firewall": {tool: _rules(tool) for tool in ("iptables", "ip6tables")},
        "forwarding": forwarding.read_text(encoding="utf-8").strip() if forwarding.exists() else "",
        "cgroups": sorted(str(path) for path in _cgroups()),
        "elsewhere": [path for path in PATHS_OUTSIDE_STATE if Path(path).exists()],
    }


def _rules(tool: str) -> str:
    completed = run_as_root([f"{tool}-save"])
    # counters and dates differ from one call to the next
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", completed.stdout, flags=re.M)


def _cgroups() -> Iterable[Path]:
    return [path for name in ("docker", "*/docker") for path in Path("/sys/fs/cgroup").glob(name)]


def undo_network(before: dict[str, Any], after: dict[str, Any], echo: Echo) -> None:
    """Remove the links and firewall rules that an engine added, and restore IP forwarding.

    Args:
        before, after: results of `snapshot`.
    """
    added = set(after["links"]) - set(before["links"])
    engine_links = {link for link in added if _ENGINE_LINK.fullmatch(link)}
    for link in engine_links:
        run_as_root(["ip", "link", "delete", link])
    for tool in ("iptables", "ip6tables"):
        for arguments in undo_firewall(before["firewall"][tool], after["firewall"][tool]):
            run_as_root([tool, *arguments])
    if before["forwarding"] != after["forwarding"]:
        # a VPN, a hypervisor or the uplink of another namespace, added since, needs forwarding
        users = sorted(added - engine_links) + foreign_forwarding(before["firewall"], after["firewall"])
        if users:
            echo(
                "engine: IP forwarding stays enabled because something else may need it "
                f"({', '.join(users[:3])})"
            )
        else:
            run_as_root(["sysctl", "-qw", f"net.ipv4.ip_forward={before['forwarding']}"])


def foreign_forwarding(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """New rules of FORWARD and POSTROUTING that are not Docker's: something else forwards packets."""
    rules = []
    for tool, text in after.items():
        old, new = _by_table(before.get(tool, "")), _by_table(text)
        for table, lines in new.items():
            for line in lines:
                forwards = line.startswith(("-A FORWARD", "-A POSTROUTING"))
                # an engine masquerades the addresses of its own bridges only
                if forwards and line not in old.get(table, []) and not _ENGINE_RULE.search(line):
                    rules.append(f"{tool} {line}")
    return rules


def undo_files(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Remove empty cgroups and files outside the engine's directories, which all engines of the machine share.

    Args:
        before, after: results of `snapshot`.
    """
    for group in set(after["cgroups"]) - set(before["cgroups"]):
        run_as_root(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
    for path in (
        path for path in PATHS_OUTSIDE_STATE if path in after["elsewhere"] and path not in before["elsewhere"]
    ):
        run_as_root(["rm", "-f", path] if Path(path).is_file() else ["rmdir", path])


def undo_firewall(before: str, after: str) -> list[list[str]]:
    """The arguments of iptables that remove Docker's rules and chains from `after`.

    Both are output of `iptables-save`. A rule is removed if it is new and names a Docker chain or an engine's bridge;
    a chain is removed if it is new and its name begins with DOCKER; a changed policy is restored.
    """
    old, new = _by_table(before), _by_table(after)
    rules: list[list[str]] = []
    chains: list[list[str]] = []
    for table, lines in new.items():
        unchanged = set(old.get(table, []))
        for line in lines:
            arguments = _split_rule(line)
            if line in unchanged:
                continue
            if line.startswith("-A") and _ENGINE_RULE.search(line):
                rules.append(["-t", table, "-D", *arguments[1:]])
            elif line.startswith(":") and re.fullmatch(_CHAIN, arguments[0][1:]):
                chains += [["-t", table, "-F", arguments[0][1:]], ["-t", table, "-X", arguments[0][1:]]]
            elif line.startswith(":") and len(arguments) > 1 and arguments[1] != "-":
                policy = next(
                    (_split_rule(e)[1] for e in unchanged if e.startswith(arguments[0] + " ")), "ACCEPT"
                )
                rules.append(["-t", table, "-P", arguments[0][1:], policy])
    # flush all chains first: one that is the target of a jump cannot be deleted
    return rules + [c for c in chains if c[2] == "-F"] + [c for c in chains if c[2] == "-X"]


def _split_rule(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an unbalanced quotation mark
        return line.split()


def _by_table(saved: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    table: list[str] = []
    for line in saved.split("\n"):
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "-A ")) and line.strip() != ":":
            table.append(line.strip())
    return tables
