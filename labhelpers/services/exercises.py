"""The exercises of the chapter on services: the engine's state, and questions that are really asked, prove them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labhelpers import mysql
from labhelpers.errors import LabError
from labhelpers.exercises import Exercise, Task, container_named, not_running
from labhelpers.services import monitor

if TYPE_CHECKING:
    from labhelpers.lab import Lab

SHOP, SHOP_PORT, SHOP_PASSWORD = "shop-db", 3310, "open-sesame"
DOOR, LATE, DOOR_PORT = "door", "late", 3320
MUTE = "mute-db"
MENDED, HALF, MENDED_PASSWORD = "mended-db", "half-made", "mended"
WATCHER, WATCHED = "watcher", "watched"
DATA = "/var/lib/mysql"
SUPPORTED = (8, 4)
"""The oldest long-term release that its makers care for (dev.mysql.com, "MySQL Releases: Innovation and LTS")."""
LOOPBACK = ("127.0.0.1", "::1")
SETTLE_S = 0.5  # each look asks the server itself


# --- the book's line, for today


def repaired(lab: Lab) -> Exercise:
    """A MySQL server of a version that is cared for, reached from this machine alone."""
    runs = Task(
        "runs",
        f"A container {SHOP} runs",
        lambda lab: not_running(lab, SHOP),
        "The image of this chapter is in the variable `ref`. If it ended at once, its log says what it misses.",
    )
    port = Task(
        "port",
        f"Its port 3306 is published as {SHOP_PORT}, on 127.0.0.1 and nowhere else",
        lambda lab: _published(lab, SHOP, "3306/tcp", SHOP_PORT),
        lambda lab: _port_hint(lab, SHOP, "3306/tcp"),
        ("runs",),
    )
    version = Task(
        "version",
        f"Root gets in with the password {SHOP_PASSWORD}, and its version is 8.4 or later",
        lambda lab: _version(lab, SHOP, SHOP_PASSWORD),
        lambda lab: _login_hint(lab, SHOP),
        ("runs",),
    )
    return Exercise(lab, "06", "repaired", "The book's line, for today", (runs, port, version), SETTLE_S)


def _version(lab: Lab, name: str, password: str) -> str | None:
    try:
        with mysql.connect(lab, name, password=password) as connection:
            version = str(mysql.rows(connection, "select version()")[0][0])
    except LabError as error:
        return error.message
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return (
        None if numbers >= SUPPORTED else f"its version is {version}: its makers do not care for it any more"
    )


def _login_hint(lab: Lab, name: str) -> str:
    if "does not take" in (_version(lab, name, SHOP_PASSWORD) or ""):
        return (
            "The password is fixed by the first start on an empty data directory. Make the container anew, and with it "
            "its volume."
        )
    return f"A first start takes some seconds: `docker logs {name}` says how far it is."


# --- the port is taken


def taken(lab: Lab) -> Exercise:
    """A container whose port is taken must be published on another one, and the other one left alone."""
    with lab.quiet():
        if container_named(lab, DOOR) is None:
            lab.run(lab.image("payload"), name=DOOR, ports={"80/tcp": DOOR_PORT}, cap_drop=["ALL"])
    door = str(lab.client.containers.get(DOOR).id)
    stays = Task(
        "stays",
        f"The container {DOOR} still runs, with its port {DOOR_PORT}",
        lambda lab: _same(lab, DOOR, door),
        "Run the cell of this exercise again: it makes the container. The port is its own.",
    )
    runs = Task(
        "runs",
        f"A container {LATE} of labhelpers/payload runs",
        lambda lab: not_running(lab, LATE),
        _late_hint,
    )
    port = Task(
        "port",
        f"Its port 80 is published on 127.0.0.1, on a port that is not {DOOR_PORT}",
        lambda lab: _published(lab, LATE, "80/tcp", None),
        lambda lab: _port_hint(lab, LATE, "80/tcp"),
        ("runs",),
    )
    return Exercise(lab, "06", "taken", "The port is taken", (stays, runs, port), SETTLE_S)


def _same(lab: Lab, name: str, container_id: str) -> str | None:
    found = container_named(lab, name)
    if found is not None and found.id != container_id:
        return f"{name} is another container of that name now"
    return not_running(lab, name) or _published(lab, name, "80/tcp", DOOR_PORT)


def _late_hint(lab: Lab) -> str:
    found = container_named(lab, LATE)
    if found is not None and found.status == "created":
        return (
            f"{LATE} was made and could not be started: who has its port? A container's ports cannot be changed, so "
            "remove it before you make it anew."
        )
    return f"Publish its port 80. {DOOR} has port {DOOR_PORT} of this machine: which one is free?"


# --- it does not stay


def password(lab: Lab) -> Exercise:
    """A MySQL server that ends for want of a password must run, and must ask for one."""
    with lab.quiet():
        if container_named(lab, MUTE) is None:
            lab.run(lab.image("mysql"), name=MUTE, network="none", cap_drop=["NET_RAW"])
    runs = Task("runs", f"A container {MUTE} runs", lambda lab: not_running(lab, MUTE), _mute_hint)
    given = Task(
        "given",
        "Root gets in with the password that it was started with",
        _own_password,
        f"A first start takes some seconds: `docker logs {MUTE}` says how far it is.",
        ("runs",),
    )
    asks = Task(
        "asks",
        "Root does not get in without a password",
        _no_empty_password,
        "Two variables end the complaint. One of them opens the database to everybody.",
        ("runs",),
    )
    return Exercise(lab, "06", "password", "It does not stay", (runs, asks, given), SETTLE_S)


def _mute_hint(lab: Lab) -> str:
    found = container_named(lab, MUTE)
    if found is not None and b"MYSQL_ROOT_PASSWORD" in found.logs(tail=20):
        return (
            f"Its last line names what it misses: `docker logs {MUTE}`. A container's variables cannot be changed: "
            "remove it and make it anew."
        )
    return "Run the cell of this exercise again, and read its log: the image is in the variable `ref`."


def _environment(lab: Lab, name: str) -> dict[str, str]:
    pairs = lab.client.api.inspect_container(name)["Config"].get("Env") or []
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _own_password(lab: Lab) -> str | None:
    given = _environment(lab, MUTE).get("MYSQL_ROOT_PASSWORD")
    return _version(lab, MUTE, given) if given else "it was started without MYSQL_ROOT_PASSWORD"


def _no_empty_password(lab: Lab) -> str | None:
    try:
        mysql.connect(lab, MUTE, password="").close()
    except mysql.ServerRefused:
        return None
    except LabError as error:
        return error.message
    return "root gets in without a password"


# --- half made


def half_made(lab: Lab) -> Exercise:
    """A server must come up on a volume that a killed first start has left half made."""
    with lab.quiet():
        lab.create_volume(HALF)
        if container_named(lab, MENDED) is None:
            # the first file that MySQL makes, as the kill left it; an empty directory stays as it is
            touch = ["sh", "-c", "[ -d /data/mysql ] || : > /data/ibdata1"]
            made = lab.run(lab.image("payload"), touch, volumes=[f"{HALF}:/data"], network="none")
            made.wait()
            lab.remove(made)
    runs = Task("runs", f"A container {MENDED} runs", lambda lab: not_running(lab, MENDED), _half_hint)
    volume = Task(
        "volume",
        f"Its data directory {DATA} is the volume {HALF}",
        lambda lab: None if _mounted(lab, MENDED).get(DATA) == HALF else f"{DATA} is not the volume {HALF}",
        f"Mount it by its name: the volume, then {DATA}.",
        ("runs",),
    )
    answers = Task(
        "answers",
        f"Root gets in with the password {MENDED_PASSWORD}",
        lambda lab: _version(lab, MENDED, MENDED_PASSWORD),
        f"A first start takes some seconds: `docker logs {MENDED}` says how far it is.",
        ("runs", "volume"),
    )
    return Exercise(lab, "06", "half-made", "Half made", (runs, volume, answers), SETTLE_S)


def _half_hint(lab: Lab) -> str:
    found = container_named(lab, MENDED)
    if found is not None and "has files in it" in found.logs().decode(errors="replace"):
        return (
            f"MySQL makes no data where files are: `docker logs {MENDED}`. What is in the volume is worth nothing. "
            "Remove the container, then the volume; a new one of the same name is empty."
        )
    return f"Start a server with the volume {HALF} at {DATA}, and read its log. The image is in the variable `ref`."


def _mounted(lab: Lab, name: str) -> dict[str, str]:
    found: list[Mapping[str, Any]] = lab.client.api.inspect_container(name)["Mounts"]
    return {one["Destination"]: one.get("Name") or one.get("Source", "") for one in found}


# --- a monitor


def watcher(lab: Lab) -> Exercise:
    """A monitor that knows a container, is reached from this machine alone, and can change nothing."""
    with lab.quiet():
        if container_named(lab, WATCHED) is None:
            lab.run(lab.image("payload"), ["sleep", "86400"], name=WATCHED, network="none", cap_drop=["ALL"])
    runs = Task(
        "runs",
        f"A container {WATCHER} runs",
        lambda lab: not_running(lab, WATCHER),
        "The image of this chapter's monitor is in the variable `cadvisor`. The book's is years old.",
    )
    port = Task(
        "port",
        f"Its port {monitor.PORT} is published on 127.0.0.1 and nowhere else",
        lambda lab: _published(lab, WATCHER, f"{monitor.PORT}/tcp", None),
        lambda lab: _port_hint(lab, WATCHER, f"{monitor.PORT}/tcp"),
        ("runs",),
    )
    reads = Task(
        "reads",
        "It can write to nothing of the host, and is not privileged",
        _reads_only,
        "Look at `docker inspect`, Mounts: each mount of the host needs its `ro`.",
        ("runs",),
    )
    knows = Task(
        "knows",
        f"It gives numbers of {WATCHED}",
        _knows,
        "Which of the book's five mounts holds the counters of control groups?",
        ("runs",),
    )
    return Exercise(lab, "06", "watcher", "A monitor that may look", (runs, port, reads, knows), SETTLE_S)


def _reads_only(lab: Lab) -> str | None:
    found = lab.client.api.inspect_container(WATCHER)
    if found["HostConfig"]["Privileged"]:
        return f"{WATCHER} is privileged: it may do all that the host's root may"
    for one in found["Mounts"]:
        if one["Type"] == "bind" and one["RW"]:
            return f"it may write to {one['Source']} of the host"
    return None


def _knows(lab: Lab) -> str | None:
    watched = container_named(lab, WATCHED)
    if watched is None:
        return f"there is no container {WATCHED}: run the cell of this exercise again"
    known = (
        monitor.knows(lab, WATCHER, which, str(watched.id), 0.5)
        for which in (monitor.NETDATA, monitor.CADVISOR)
    )
    return None if any(known) else f"it says nothing of {WATCHED} (it may need a few seconds after its start)"


# --- ports


def _bindings(lab: Lab, name: str, inside: str) -> list[Mapping[str, str]]:
    found = lab.client.api.inspect_container(name)["NetworkSettings"]["Ports"] or {}
    return list(found.get(inside) or [])


def _published(lab: Lab, name: str, inside: str, wanted: int | None) -> str | None:
    bindings = _bindings(lab, name, inside)
    if not bindings:
        return f"its port {inside.partition('/')[0]} is not published"
    if others := [one["HostIp"] or "every address" for one in bindings if one["HostIp"] not in LOOPBACK]:
        return f"its port is published on {others[0]}: other machines may come in"
    if wanted is not None and {one["HostPort"] for one in bindings} != {str(wanted)}:
        return f"its port is published as {bindings[0]['HostPort']}, not as {wanted}"
    return None


def _port_hint(lab: Lab, name: str, inside: str) -> str:
    if any(one["HostIp"] not in LOOPBACK for one in _bindings(lab, name, inside)):
        return "`-p` takes three parts: an address, the host's port, the container's port. You gave the last two."
    return "`-p` takes an address, the host's port and the container's port, in this order. It cannot be added later."
