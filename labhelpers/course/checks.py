"""The vocabulary of exercise checks, so that each exercise reads like its task.

`runs` and `file_contains` return a `Task`. The others return a `Check` for a task with a text of its own:

    Task("data", f"Its /data is the volume {DATA}", mounts(WEB, "/data", DATA), "…", ("runs",))

They compare what the engine and the kernel report, not what was typed. A message names what is missing, in the
reader's terms.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from labhelpers.course.containers import (
    command_of,
    container_named,
    file_in,
    not_running,
    running,
    setup_changed,
)
from labhelpers.course.exercises import Check, Hint, Task
from labhelpers.engine import responses
from labhelpers.errors import ImageMissing

if TYPE_CHECKING:
    from labhelpers.lab import Lab

Judge = Callable[["Lab", str], "str | None"]
"""Checks the text of the reader's file: None if it is right, else what is wrong with it."""


def all_of(*checks: Check) -> Check:
    """The first thing that is missing in these checks, in their order."""
    return lambda lab: next(filter(None, (check(lab) for check in checks)), None)


# --- containers


def runs(name: str, hint: Hint = "") -> Task:
    """The task `runs`: a container of that name runs. Its hint also names the command of one that has exited."""

    def how(lab: Lab) -> str:
        container = container_named(lab, name)
        if callable(hint):
            return hint(lab)
        if container is not None and container.status == "exited":
            return f"{name} has exited: its command was `{command_of(container)[:80]}`. {hint}".strip()
        return hint

    return Task("runs", f"A container {name} runs", are_running(name), how)


def are_running(*names: str) -> Check:
    """Containers of these names run."""
    return lambda lab: next(filter(None, (not_running(lab, name) for name in names)), None)


def setup_runs(*names: str) -> Check:
    """The containers that the exercise starts from run; none was replaced."""
    return lambda lab: setup_changed(lab, *names)


def made_from(name: str, image_id: str, ref: str) -> Check:
    """A running container is made from the image with this ID, whatever tags it has now.

    Args:
        ref: the image, as the message names it.
    """

    def check(lab: Lab) -> str | None:
        same = running(lab, name).attrs["Image"] == image_id
        return None if same else f"{name} runs another image than {ref}"

    return check


# --- files


def file_contains(
    name: str, path: str, what: str, judge: Judge, hint: Hint | None = None, needs: Sequence[str] = ("runs",)
) -> Task:
    """A task, named as the file: a file in a container holds the right answer.

    Args:
        what: what the file must hold, for the text of the task.
    """
    whose = f"Its file {path}" if "runs" in needs else f"The file {path} in {name}"
    return Task(path.strip("/"), f"{whose} holds {what}", has_answer(name, path, judge), hint, tuple(needs))


def has_answer(name: str, path: str, judge: Judge) -> Check:
    """A file in a container is not empty, and right by `judge`."""

    def check(lab: Lab) -> str | None:
        text = file_in(lab, name, path)
        return judge(lab, text) if text else f"{name} has no file {path}, or it is empty"

    return check


def not_a_file(lab: Lab, directory: str, name: str, shown: str, missing: str | None = None) -> str | None:
    """Why `name` in a directory of the engine's host is no regular file, for the reader; None if it is one.

    Args:
        shown: the file, as the message names it.
        missing: the message if there is nothing of that name.
    """
    entry = lab.host.entries(directory, [name])[name]
    if entry is None:
        return missing or f"there is no file {shown}"
    return None if entry.kind == "file" else f"{shown} is no file, it is a {entry.kind}"


# --- what the engine has


def has_volume(name: str) -> Check:
    """The engine has a volume of that name, however it was created."""

    def check(lab: Lab) -> str | None:
        exists = name in {row["Name"] for row in lab.list_volumes()}
        return None if exists else f"the engine has no volume called {name}"

    return check


def has_network(name: str) -> Check:
    """The engine has a network of that name."""

    def check(lab: Lab) -> str | None:
        exists = name in {row["Name"] for row in lab.list_networks()}
        return None if exists else f"the engine has no network called {name}"

    return check


def has_image(*refs: str) -> Check:
    """The engine has these images."""

    def check(lab: Lab) -> str | None:
        for ref in refs:
            try:
                lab.inspect_image(ref)
            except ImageMissing:
                return f"the engine has no image {ref}"
        return None

    return check


# --- mounts


def mount_at(lab: Lab, name: str, path: str) -> dict[str, Any] | None:
    """The mount at a path of a running container, as `docker inspect` lists it; None if there is none."""
    mounts: list[dict[str, Any]] = running(lab, name).attrs["Mounts"]
    return next((mount for mount in mounts if mount["Destination"] == path), None)


def not_mounted(lab: Lab, name: str, path: str) -> str | None:
    """Why nothing is mounted at a path of a running container, for the reader; None if something is."""
    points = sorted(mount["Destination"] for mount in running(lab, name).attrs["Mounts"])
    if path in points:
        return None
    others = f"; there is something at {', '.join(points)}" if points else ""
    return f"nothing is mounted at {path} of {name}{others}"


def mounts(name: str, path: str, volume: str | None = None) -> Check:
    """A volume is mounted at a path of a running container.

    Args:
        volume: its name; None for any volume that has a name and outlives its containers.
    """

    def check(lab: Lab) -> str | None:
        mount = mount_at(lab, name, path)
        if mount is None:
            nothing = not_mounted(lab, name, path)
            return f"{path} is not the volume {volume}: {nothing}" if volume else nothing
        if mount["Type"] != "volume":
            source = ": it shows a directory of the host (bind)" if mount["Type"] == "bind" else ""
            return f"{path} of {name} is a {mount['Type']} mount, and not a volume{source}"
        mounted = responses.volume_name(mount)
        if volume and mounted != volume:
            return f"{path} of {name} is the volume {mounted[:12]}; it is not the volume {volume}"
        if volume:
            return None
        if is_anonymous(mounted):
            return f"the volume at {path} of {name} has no name that you could find again"
        return not_persistent(lab, mounted)

    return check


def is_anonymous(volume: str) -> bool:
    """Whether the engine chose this name of a volume: 64 hexadecimal digits."""
    return not volume or (len(volume) == 64 and not set(volume) - set("0123456789abcdef"))


def not_persistent(lab: Lab, volume: str) -> str | None:
    """Why a volume does not outlive its containers, for the reader; None if it does."""
    row = next((row for row in lab.list_volumes() if row["Name"] == volume), None)
    if responses.nested_object(row, "Options").get("type") != "tmpfs":
        return None
    return f"the volume {volume} is memory (tmpfs): it is empty again after its last container"


# --- published ports


def published_on(
    name: str, port: str, host_port: int | None = None, *, other_than: int | None = None
) -> Check:
    """A container's port is published on 127.0.0.1, and no port of the container is open to other machines.

    Args:
        port: the container's, such as `80/tcp`.
        host_port: the port of the host; None for any.
        other_than: a port of the host that it must not be.
    """

    def check(lab: Lab) -> str | None:
        published = _published(lab, name)
        bindings = published.get(port)
        if not bindings:
            return f"its port {port.partition('/')[0]} is not published"
        for other, pairs in published.items():
            for address, _ in filter(_is_open, pairs):
                number = other.partition("/")[0]
                return f"its port {number} is published on {address}: other machines may come in"
        if all(address != "127.0.0.1" for address, _ in bindings):
            return f"its port is published on {bindings[0][0]}, and not on 127.0.0.1"
        host_ports = {number for _, number in bindings}
        if host_port is not None and host_ports != {host_port}:
            return f"its port is published as {min(host_ports - {host_port})}, not as {host_port}"
        return f"its port is published as {other_than}" if other_than in host_ports else None

    return check


def publish_hint(name: str, port: str) -> Hint:
    """The hint that goes with `published_on`."""

    def hint(lab: Lab) -> str:
        published = _published(lab, name)
        others = [other for other, pairs in published.items() if other != port and any(map(_is_open, pairs))]
        if others:
            return (
                f"{others[0]} is open to other machines, too: `-P` publishes every port of the image, on every "
                "address."
            )
        if any(map(_is_open, published.get(port, []))):
            return "`-p` takes three parts: an address, the host's port, the container's port. You gave the last two."
        return (
            "`-p` takes an address, the host's port and the container's port, in this order. It cannot be added "
            "later."
        )

    return hint


def _published(lab: Lab, name: str) -> dict[str, list[tuple[str, int]]]:
    """Container port → (host address, host port), of the ports that are published."""
    attrs = running(lab, name).attrs
    ports = responses.nested_object(attrs, "NetworkSettings", "Ports")
    return {port: bindings for port in ports if (bindings := responses.bindings(attrs, port))}


def _is_open(binding: tuple[str, int]) -> bool:
    """Whether other machines can connect to that address."""
    return not ipaddress.ip_address(binding[0]).is_loopback
