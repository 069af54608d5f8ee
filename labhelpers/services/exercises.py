"""The exercises of the chapter on services: the engine's state, and questions that are really asked, prove them."""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from labhelpers.course import mysql
from labhelpers.course.escape import escape_paths
from labhelpers.course.exercises import (
    Exercise,
    Task,
    container_named,
    file_in,
    given,
    not_as_given,
    not_running,
    running,
)
from labhelpers.errors import EngineRefused, LabError, ServerRefused
from labhelpers.lab.names import all_with_suffix
from labhelpers.services import monitor

if TYPE_CHECKING:
    from labhelpers.lab import Lab

SHOP, DOOR, LATE, MUTE = all_with_suffix("shop-db", "door", "late", "mute-db")
MENDED, HALF = all_with_suffix("mended-db", "half-made")
WATCHER, WATCHED = all_with_suffix("watcher", "watched")
DATA = "/var/lib/mysql"
PORTS = range(3310, 3400)
SUPPORTED = (8, 4)
"""The oldest long-term release that its makers care for (dev.mysql.com, "MySQL Releases: Innovation and LTS")."""
SETTLE_S = 0.5  # each look asks the server itself
_ports: dict[tuple[str, str], int] = {}
"""(session, container) → the port of an exercise: the cell that is run again keeps it."""


def password_for(lab: Lab, name: str) -> str:
    """The password that an exercise asks for: the same for the whole session, and another one in the next."""
    return hashlib.sha256(f"{lab.session} {name}".encode()).hexdigest()[:8]


def port_for(lab: Lab, name: str) -> int:
    """The port that an exercise asks for: one that was free when it was drawn."""
    key = (lab.session, name)
    if key not in _ports:
        rows = lab.list_containers(stopped=True)
        taken = {port.get("PublicPort") for row in rows for port in row["Ports"] or []} | {*_ports.values()}
        free = [port for port in random.sample(PORTS, len(PORTS)) if port not in taken]
        _ports[key] = next(filter(_is_free, free), free[0])
    return _ports[key]


def _is_free(port: int) -> bool:
    with socket.socket() as listener, suppress(OSError):
        listener.bind(("127.0.0.1", port))
        return True
    return False


# --- the book's line, for today


def repaired(lab: Lab) -> Exercise:
    """A MySQL server of a version that is cared for, reached from this machine alone.

    Promise: a client that connects to the port with the password is answered by a MySQL server in that container,
    and no port of the container is open to other machines.
    """
    port, password = port_for(lab, SHOP), password_for(lab, SHOP)
    runs = Task(
        "runs",
        f"A container {SHOP} runs",
        lambda lab: not_running(lab, SHOP),
        "The image of this chapter is in the variable `ref`. If it ended at once, its log says what it misses.",
    )
    published = Task(
        "port",
        f"Its port 3306 is published as {port}, on 127.0.0.1 and nowhere else",
        lambda lab: _published(lab, SHOP, "3306/tcp", port),
        lambda lab: _port_hint(lab, SHOP, "3306/tcp"),
        ("runs",),
    )
    version = Task(
        "version",
        f"Root gets in with the password {password}, and its version is 8.4 or later",
        lambda lab: _server(lab, SHOP, password)[0],
        lambda lab: _login_hint(lab, SHOP, password),
        ("runs",),
    )
    tasks = (runs, published, version)
    return Exercise(lab, "06", "repaired", "The book's line, for today", tasks, SETTLE_S, (SHOP,))


def _server(lab: Lab, name: str, password: str) -> tuple[str | None, dict[str, str]]:
    """Why root does not get into a MySQL server of that container, to the reader; else None, and what it answers."""
    container = running(lab, name)
    query = "select version(), @@hostname, @@datadir, @@server_uuid"
    try:
        with mysql.connect(lab, container, password=password) as connection:
            row = [str(value) for value in mysql.rows(connection, query)[0]]
    except LabError as error:
        return error.message, {}
    except Exception as error:  # a client of MySQL that meets another program has many ways to fail
        return f"what answers in {name} is no MySQL server ({type(error).__name__})", {}
    found = dict(zip(("version", "host", "directory", "uuid"), row, strict=True))
    if "mariadb" in found["version"].lower():
        return f"the server in {name} is MariaDB, which is another one", found
    own = container.attrs["Config"].get("Hostname")
    if own and found["host"] != own and not container.attrs["HostConfig"].get("UTSMode"):
        return (
            f"it is not {name} that answers, but a server on {found['host']}: {name} passes the connection on",
            found,
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", found["version"])[:2])
    if numbers < SUPPORTED:
        return f"its version is {found['version']}: its makers do not care for it any more", found
    return None, found


def _login_hint(lab: Lab, name: str, password: str) -> str:
    missing = _server(lab, name, password)[0] or ""
    if "does not take" in missing:
        return (
            "The password is fixed by the first start on an empty data directory. Make the container anew, and with it "
            "its volume."
        )
    if "does not accept" in missing:
        return f"A first start takes some seconds: `docker logs {name}` says how far it is."
    return f"{missing or 'The server answers.'} The image of this chapter is in the variable `ref`."


# --- the port is taken


def taken(lab: Lab) -> Exercise:
    """A container whose port is taken must be published on another one, and the other one left alone.

    Promise: `door` is the container that the lab made and never stopped having its port; `late` is of the same image,
    and published on another one, on 127.0.0.1 alone.
    """
    image, number = lab.image("payload"), port_for(lab, DOOR)
    with lab.hidden():
        given(lab, DOOR, partial(lab.run, image, name=DOOR, ports={"80/tcp": number}, cap_drop=["ALL"]))
    stays = Task(
        "stays",
        f"The container {DOOR} still runs, with its port {number}",
        lambda lab: not_as_given(lab, DOOR) or _published(lab, DOOR, "80/tcp", number),
        "Run the cell of this exercise again: it makes the container. The port is its own.",
    )
    runs = Task(
        "runs",
        f"A container {LATE} of labhelpers/payload runs",
        lambda lab: not_running(lab, LATE) or _other_image(lab, LATE, image),
        _late_hint,
    )
    port = Task(
        "port",
        f"Its port 80 is published on 127.0.0.1, on a port that is not {number}",
        lambda lab: _published(lab, LATE, "80/tcp", other_than=number),
        lambda lab: _port_hint(lab, LATE, "80/tcp"),
        ("runs",),
    )
    return Exercise(lab, "06", "taken", "The port is taken", (stays, runs, port), SETTLE_S, (DOOR, LATE))


def _other_image(lab: Lab, name: str, image: str) -> str | None:
    wanted = container_named(lab, DOOR)
    # by the container that the lab made: the name of an image can be given to another one
    ids = {wanted.attrs["Image"]} if wanted else {lab.inspect_image(image)["Id"]}
    return None if running(lab, name).attrs["Image"] in ids else f"{name} runs another image than {image}"


def _late_hint(lab: Lab) -> str:
    found = container_named(lab, LATE)
    if found is not None and found.status == "created":
        return (
            f"{LATE} was made and could not be started: who has its port? A container's ports cannot be changed, so "
            "remove it before you make it anew."
        )
    return f"Publish its port 80. {DOOR} has port {port_for(lab, DOOR)} of this machine: which one is free?"


# --- it does not stay


def password(lab: Lab) -> Exercise:
    """A MySQL server that ends for want of a password must run, and must ask for one.

    Promise: root gets in with the password of the container's own configuration, in whatever form that was given,
    and by no way without one.
    """
    with lab.hidden():
        given(
            lab,
            MUTE,
            partial(lab.run, lab.image("mysql"), name=MUTE, network="none", cap_drop=["NET_RAW"]),
        )
    runs = Task("runs", f"A container {MUTE} runs", lambda lab: not_running(lab, MUTE), _mute_hint)
    has_password = Task(
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
        "Several variables end the complaint. One of them opens the database to everybody.",
        ("runs",),
    )
    return Exercise(lab, "06", "password", "It does not stay", (runs, asks, has_password), SETTLE_S, (MUTE,))


def _mute_hint(lab: Lab) -> str:
    found = container_named(lab, MUTE)
    if found is not None and found.status == "exited":
        return (
            f"Its last line names what it misses: `docker logs {MUTE}`. A container's variables cannot be changed: "
            "remove it and make it anew."
        )
    return "Run the cell of this exercise again, and read its log: the image is in the variable `ref`."


def _own_password(lab: Lab) -> str | None:
    container = running(lab, MUTE)
    pairs = dict(pair.split("=", 1) for pair in container.attrs["Config"].get("Env") or [] if "=" in pair)
    word = pairs.get("MYSQL_ROOT_PASSWORD")
    if file := pairs.get("MYSQL_ROOT_PASSWORD_FILE"):
        word = file_in(lab, MUTE, file)
        if not word:
            return f"there is no password in the file {file} of {MUTE}"
    elif pairs.get("MYSQL_RANDOM_ROOT_PASSWORD"):
        with suppress(EngineRefused):  # its log cannot be read
            logged = re.search(r"GENERATED ROOT PASSWORD: (\S+)", lab.logs(container))
            word = logged[1] if logged else word
        if not word:
            return f"the log of {MUTE} does not say which password it has drawn"
    return _server(lab, MUTE, word)[0] if word else "it was started without a password for root"


def _no_empty_password(lab: Lab) -> str | None:
    container = running(lab, MUTE)
    try:
        mysql.connect(lab, container, password="").close()
        return "root gets in without a password"
    except ServerRefused:
        pass
    except LabError as error:
        return error.message
    words = ["mysql", "--no-defaults", "--user=root", "--password=", "--protocol=socket", "-e", "select 1"]
    with lab.hidden():
        inside = lab.exec(container, words)
    return (
        "root gets in without a password from inside, through the server's socket"
        if not inside.exit_code
        else None
    )


# --- half made


def half_made(lab: Lab) -> Exercise:
    """A server must come up on a volume that a killed first start has left half made.

    Promise: root gets into a server in that container, and the data directory that this server has is the volume.
    """
    password = password_for(lab, MENDED)
    with lab.hidden():
        # a volume that `-v` has made since in its place is the reader's answer
        if not (_has_volume(lab, HALF) and (lab.session, HALF) in _half_made):
            lab.create_volume(HALF)
            _half_made.add((lab.session, HALF))
        if container_named(lab, MENDED) is None:
            # the first file that MySQL makes, as the kill left it; an empty directory stays as it is
            touch = ["sh", "-c", "[ -d /data/mysql ] || : > /data/ibdata1"]
            lab.run_once(lab.image("payload"), touch, volumes=[f"{HALF}:/data"], network="none")
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
        f"Root gets in with the password {password}, and the server keeps its data in that volume",
        lambda lab: _half_answers(lab, password),
        lambda lab: _login_hint(lab, MENDED, password),
        ("runs", "volume"),
    )
    return Exercise(lab, "06", "half-made", "Half made", (runs, volume, answers), SETTLE_S, (MENDED,))


_half_made: set[tuple[str, str]] = set()
"""(session, volume) of an exercise that has begun."""


def _has_volume(lab: Lab, name: str) -> bool:
    return name in [row["Name"] for row in lab.list_volumes()]


def _half_answers(lab: Lab, password: str) -> str | None:
    missing, server = _server(lab, MENDED, password)
    if missing:
        return missing
    if server["directory"].rstrip("/") != DATA:
        return f"the server keeps its data in {server['directory']}, and not in {DATA}"
    directory = lab.directory_of(HALF)
    kept = re.search(r"^server[-_]uuid\s*=\s*(\S+)", lab.host.read(f"{directory}/auto.cnf"), re.M)
    return (
        None if kept and kept[1] == server["uuid"] else f"the server that answers has other data than {HALF}"
    )


def _half_hint(lab: Lab) -> str:
    found = container_named(lab, MENDED)
    if found is not None and found.status == "exited":
        return (
            f"MySQL makes no data where files are: `docker logs {MENDED}`. What is in the volume is worth nothing. "
            "Remove the container, then the volume; a new one of the same name is empty."
        )
    return f"Start a server with the volume {HALF} at {DATA}, and read its log. The image is in the variable `ref`."


def _mounted(lab: Lab, name: str) -> dict[str, str]:
    found: list[Mapping[str, Any]] = running(lab, name).attrs["Mounts"]
    return {one["Destination"]: one.get("Name") or one.get("Source", "") for one in found}


# --- a monitor


def watcher(lab: Lab) -> Exercise:
    """A monitor that knows a container, is reached from this machine alone, and can change nothing.

    Promise: the numbers that it gives of `watched` are of this moment and agree with the kernel's; nothing that it
    has (mounts, volumes, rights, namespaces, sockets) lets it write to the host or command the engine.
    """
    with lab.hidden():
        given(lab, WATCHED, partial(_start_watched, lab))
    runs = Task(
        "runs",
        f"A container {WATCHER} runs",
        lambda lab: not_running(lab, WATCHER),
        "The image of this chapter's monitor is in the variable `cadvisor`. The book's is years old.",
    )
    port = Task(
        "port",
        f"Its port {monitor.PORT} is published on 127.0.0.1 and nowhere else",
        lambda lab: _published(lab, WATCHER, f"{monitor.PORT}/tcp"),
        lambda lab: _port_hint(lab, WATCHER, f"{monitor.PORT}/tcp"),
        ("runs",),
    )
    reads = Task(
        "reads",
        "It can change nothing of the host: it has nothing there to write to, no right to, and no way to the engine",
        _only_looks,
        _looks_hint,
        ("runs",),
    )
    knows = Task(
        "knows",
        f"It gives numbers of {WATCHED}",
        _knows,
        "Which of the book's five mounts holds the counters of control groups?",
        ("runs",),
    )
    tasks = (runs, port, reads, knows)
    return Exercise(lab, "06", "watcher", "A monitor that may look", tasks, SETTLE_S, (WATCHER, WATCHED))


def _start_watched(lab: Lab) -> None:
    """A container that holds an amount of memory which nobody has chosen."""
    kib = random.SystemRandom().randrange(6_000, 14_000)
    holds = f"held=$(head -c {kib}k /dev/zero | tr '\\0' x); while :; do sleep 3600; done"
    lab.run(lab.image("payload"), ["sh", "-c", holds], name=WATCHED, network="none", cap_drop=["ALL"])


def _only_looks(lab: Lab) -> str | None:
    container = running(lab, WATCHER)
    # before Docker 25.0 `ro` counts for the top of a mount alone, and the control groups are mounted below /sys:
    # they stay writable for root, and the reader has no other way to hand them over. A published port needs a network,
    # and an engine that listens on one is within its reach, whatever the reader does.
    read_only = [one["Destination"].rstrip("/") for one in container.attrs["Mounts"] if not one["RW"]]
    ways = [
        way
        for way in escape_paths(lab, container)
        if not any(
            way.startswith(f"its mount {point}/") and "/sys/fs/cgroup" in way for point in read_only if point
        )
        and "over the network" not in way
    ]
    return f"{WATCHER}: {ways[0]}" if ways else None


def _looks_hint(lab: Lab) -> str:
    missing = _only_looks(lab) or ""
    if "socket" in missing or "whole disk" in missing:
        return "A socket is no file to be read: `ro` does not keep anybody from sending commands through it."
    if ", writable" in missing:
        return "Look at `docker inspect`, Mounts: each mount of the host needs its `ro`."
    return "It needs no right that a container does not have anyway, and one directory of the host to read."


def _knows(lab: Lab) -> str | None:
    if missing := not_as_given(lab, WATCHED):
        return missing
    watched, watching = running(lab, WATCHED), running(lab, WATCHER)
    held = monitor.memory_now(lab, watching, str(watched.id))
    if held is None:
        return f"it says nothing of {WATCHED} (it may need a few seconds after its start)"
    kernel = lab.host.cgroup(watched).memory.anon_bytes
    if abs(held - kernel) > kernel / 5 + (1 << 20):
        return f"it says that {WATCHED} holds {held >> 10} KiB; the kernel says {kernel >> 10} KiB"
    return None


# --- ports


def _bindings(lab: Lab, name: str) -> dict[str, list[Mapping[str, str]]]:
    """Container port → where it is published, of those that are."""
    found = running(lab, name).attrs["NetworkSettings"]["Ports"] or {}
    return {inside: list(bindings) for inside, bindings in found.items() if bindings}


def _is_open(binding: Mapping[str, str]) -> bool:
    """Whether other machines may come in by that address."""
    return not binding["HostIp"] or not ipaddress.ip_address(binding["HostIp"]).is_loopback


def _published(
    lab: Lab, name: str, inside: str, port: int | None = None, *, other_than: int | None = None
) -> str | None:
    published = _bindings(lab, name)
    bindings = published.get(inside)
    if not bindings:
        return f"its port {inside.partition('/')[0]} is not published"
    for one, places in published.items():
        for binding in filter(_is_open, places):
            number, where = one.partition("/")[0], binding["HostIp"] or "every address"
            return f"its port {number} is published on {where}: other machines may come in"
    if all(binding["HostIp"] != "127.0.0.1" for binding in bindings):
        return f"its port is published on {bindings[0]['HostIp']}, and not on 127.0.0.1"
    numbers = {int(binding["HostPort"]) for binding in bindings}
    if port is not None and numbers != {port}:
        return f"its port is published as {min(numbers - {port})}, not as {port}"
    return f"its port is published as {other_than}" if other_than in numbers else None


def _port_hint(lab: Lab, name: str, inside: str) -> str:
    published = _bindings(lab, name)
    others = [one for one, places in published.items() if one != inside and any(map(_is_open, places))]
    if others:
        return f"{others[0]} is open to other machines, too: `-P` publishes every port of the image, on every address."
    if any(map(_is_open, published.get(inside, []))):
        return "`-p` takes three parts: an address, the host's port, the container's port. You gave the last two."
    return "`-p` takes an address, the host's port and the container's port, in this order. It cannot be added later."
