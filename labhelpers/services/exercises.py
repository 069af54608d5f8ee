"""The exercises of the chapter on services: the engine's state, and questions that are really asked, prove them."""

from __future__ import annotations

import hashlib
import random
import re
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course import mysql
from labhelpers.course.checks import (
    all_of,
    are_running,
    has_volume,
    made_from,
    mounts,
    publish_hint,
    published_on,
    runs,
    setup_runs,
)
from labhelpers.course.containers import (
    container_named,
    environment_of,
    file_in,
    running,
    session_value,
    setup_container,
    store_value,
    stored_value,
)
from labhelpers.course.escape import escape_paths
from labhelpers.course.exercises import Exercise, Hint, Task
from labhelpers.errors import EngineRefused, LabError, ServerRefused
from labhelpers.lab.names import all_with_suffix
from labhelpers.services import monitor

if TYPE_CHECKING:
    from labhelpers.lab import Lab

SHOP, PORT_OWNER, LATE, MUTE = all_with_suffix("shop-db", "door", "late", "mute-db")
MENDED, HALF = all_with_suffix("mended-db", "half-made")
WATCHER, WATCHED = all_with_suffix("watcher", "watched")
DATA = "/var/lib/mysql"
PORTS = range(3310, 3400)
SUPPORTED = (8, 4)
"""The oldest supported long-term release (dev.mysql.com, "MySQL Releases: Innovation and LTS")."""
SETTLE_S = 0.5  # each check asks the server itself


def password_for(lab: Lab, name: str) -> str:
    """The password that an exercise asks for: the same for the whole session, and another one in the next."""
    return hashlib.sha256(f"{lab.session} {name}".encode()).hexdigest()[:8]


def port_for(lab: Lab, name: str) -> int:
    """The port of the host that an exercise asks for; it was free when it was chosen, the first time in a session."""
    return session_value(lab, f"port of {name}", lambda: _free_port(lab))


def _free_port(lab: Lab) -> int:
    rows = lab.list_containers(stopped=True)
    taken = {port.get("PublicPort") for row in rows for port in row["Ports"] or []}
    # another exercise may have chosen a port that no container has yet
    taken |= {stored_value(lab, f"port of {name}") for name in (SHOP, PORT_OWNER)}
    free = [port for port in random.sample(PORTS, len(PORTS)) if port not in taken]
    return next(filter(_is_free, free), free[0])


def _is_free(port: int) -> bool:
    with socket.socket() as listener, suppress(OSError):
        listener.bind(("127.0.0.1", port))
        return True
    return False


# --- the book's line, for today


def repaired(lab: Lab) -> Exercise:
    """A MySQL server of a supported version, reached from this machine alone.

    Promise: a client that connects to the port with the password is answered by a MySQL server in that container,
    and no port of the container is open to other machines.
    """
    port, password = port_for(lab, SHOP), password_for(lab, SHOP)
    tasks = (
        runs(
            SHOP,
            "The image of this chapter is in the variable `ref`. If it exits at once, its log says what is missing.",
        ),
        Task(
            "port",
            f"Its port 3306 is published as {port}, on 127.0.0.1 and nowhere else",
            published_on(SHOP, "3306/tcp", port),
            publish_hint(SHOP, "3306/tcp"),
            ("runs",),
        ),
        Task(
            "version",
            f"Root gets in with the password {password}, and its version is 8.4 or later",
            lambda lab: _server(lab, SHOP, password)[0],
            _login_hint(SHOP, password),
            ("runs",),
        ),
    )
    return Exercise(lab, "06", "repaired", "The book's line, for today", tasks, SETTLE_S, (SHOP,))


def _server(lab: Lab, name: str, password: str) -> tuple[str | None, dict[str, str]]:
    """Why root cannot log in to a MySQL server of that container, for the reader, or None; and what it reports."""
    container = running(lab, name)
    query = "select version(), @@hostname, @@datadir, @@server_uuid"
    try:
        with mysql.connect(lab, container, password=password) as connection:
            row = [str(value) for value in mysql.rows(connection, query)[0]]
    except LabError as error:
        return error.message, {}
    except Exception as error:  # a MySQL client that meets another program has many ways to fail
        return f"what answers in {name} is no MySQL server ({type(error).__name__})", {}
    server = dict(zip(("version", "host", "directory", "uuid"), row, strict=True))
    if "mariadb" in server["version"].lower():
        return f"the server in {name} is MariaDB, which is another product", server
    own = container.attrs["Config"].get("Hostname")
    if own and server["host"] != own and not container.attrs["HostConfig"].get("UTSMode"):
        host = server["host"]
        return (
            f"it is not {name} that answers, but a server on {host}: {name} passes the connection on",
            server,
        )
    version = tuple(int(part) for part in re.findall(r"\d+", server["version"])[:2])
    missing = f"its version is {server['version']}, which is no longer supported"
    return None if version >= SUPPORTED else missing, server


def _login_hint(name: str, password: str) -> Hint:
    def hint(lab: Lab) -> str:
        missing = _server(lab, name, password)[0] or ""
        if "does not take" in missing:
            return (
                "The password is set by the first start on an empty data directory. Create the container again, and "
                "with it its volume."
            )
        if "does not accept" in missing:
            return f"A first start takes some seconds: `docker logs {name}` shows its progress."
        return f"{missing or 'The server answers.'} The image of this chapter is in the variable `ref`."

    return hint


# --- the port is in use


def taken(lab: Lab) -> Exercise:
    """A container whose port is in use must be published on another one, and the owner of the port left alone.

    Promise: `door` is the lab's container, it was never stopped and still has its port; `late` is of the same image,
    and published on another one, on 127.0.0.1 alone.
    """
    image, port = lab.image("payload"), port_for(lab, PORT_OWNER)
    start = partial(lab.run, image, name=PORT_OWNER, ports={"80/tcp": port}, cap_drop=["ALL"])
    setup_container(lab, PORT_OWNER, start)
    tasks = (
        Task(
            "stays",
            f"The container {PORT_OWNER} still runs, with its port {port}",
            all_of(setup_runs(PORT_OWNER), published_on(PORT_OWNER, "80/tcp", port)),
            "Run the cell of this exercise again: it starts the container. The port belongs to it.",
        ),
        Task(
            "runs",
            f"A container {LATE} of labhelpers/payload runs",
            all_of(are_running(LATE), lambda lab: made_from(LATE, _image_id(lab, image), image)(lab)),
            _late_hint,
        ),
        Task(
            "port",
            f"Its port 80 is published on 127.0.0.1, on a port that is not {port}",
            published_on(LATE, "80/tcp", other_than=port),
            publish_hint(LATE, "80/tcp"),
            ("runs",),
        ),
    )
    return Exercise(lab, "06", "taken", "The port is taken", tasks, SETTLE_S, (PORT_OWNER, LATE))


def _image_id(lab: Lab, image: str) -> str:
    # that of the lab's container, if it exists: the tag of an image can be moved to another one
    owner = container_named(lab, PORT_OWNER)
    return str(owner.attrs["Image"] if owner else lab.inspect_image(image)["Id"])


def _late_hint(lab: Lab) -> str:
    container = container_named(lab, LATE)
    if container is not None and container.status == "created":
        return (
            f"{LATE} was created and could not be started: which container has its port? Published ports cannot be "
            "changed, so remove it before you create it again."
        )
    return f"Publish its port 80. {PORT_OWNER} has port {port_for(lab, PORT_OWNER)} of this machine: which one is free?"


# --- it does not stay


def password(lab: Lab) -> Exercise:
    """A MySQL server that exits for lack of a password must run, and must ask for one.

    Promise: root gets in with the password of the container's own configuration, in any form that the image accepts,
    and never without a password.
    """
    start = partial(lab.run, lab.image("mysql"), name=MUTE, network="none", cap_drop=["NET_RAW"])
    setup_container(lab, MUTE, start)
    tasks = (
        runs(MUTE, _mute_hint),
        Task(
            "asks",
            "Root does not get in without a password",
            _needs_password,
            "Several variables end the complaint. One of them opens the database to everybody.",
            ("runs",),
        ),
        Task(
            "given",
            "Root gets in with the password that it was started with",
            _own_password,
            f"A first start takes some seconds: `docker logs {MUTE}` shows its progress.",
            ("runs",),
        ),
    )
    return Exercise(lab, "06", "password", "It does not stay", tasks, SETTLE_S, (MUTE,))


def _mute_hint(lab: Lab) -> str:
    container = container_named(lab, MUTE)
    if container is not None and container.status == "exited":
        return (
            f"Its last line names what it misses: `docker logs {MUTE}`. A container's variables cannot be changed: "
            "remove it and create it again."
        )
    return "Run the cell of this exercise again, and read its log: the image is in the variable `ref`."


def _own_password(lab: Lab) -> str | None:
    container = running(lab, MUTE)
    variables = environment_of(container)
    word = variables.get("MYSQL_ROOT_PASSWORD")
    if file := variables.get("MYSQL_ROOT_PASSWORD_FILE"):
        word = file_in(lab, MUTE, file)
        if not word:
            return f"there is no password in the file {file} of {MUTE}"
    elif variables.get("MYSQL_RANDOM_ROOT_PASSWORD"):
        with suppress(EngineRefused):  # its log cannot be read
            logged = re.search(r"GENERATED ROOT PASSWORD: (\S+)", lab.logs(container))
            word = logged[1] if logged else word
        if not word:
            return f"the log of {MUTE} does not contain the password that it generated"
    return _server(lab, MUTE, word)[0] if word else "it was started without a password for root"


def _needs_password(lab: Lab) -> str | None:
    container = running(lab, MUTE)
    try:
        mysql.connect(lab, container, password="").close()
        return "root gets in without a password"
    except ServerRefused:
        pass
    except LabError as error:
        return error.message
    login = ["mysql", "--no-defaults", "--user=root", "--password=", "--protocol=socket", "-e", "select 1"]
    with lab.hidden():
        refused = lab.exec(container, login).exit_code
    return None if refused else "root gets in without a password from inside, through the server's socket"


# --- an interrupted first start


def half_made(lab: Lab) -> Exercise:
    """A server must come up on a volume that an interrupted first start has left incomplete.

    Promise: root gets into a server in that container, and the data directory of this server is the volume.
    """
    password = password_for(lab, MENDED)
    with lab.hidden():
        # a volume that `-v` has created since in its place is the reader's answer
        if has_volume(HALF)(lab) or not stored_value(lab, HALF):
            lab.create_volume(HALF)
            store_value(lab, HALF, True)
        if container_named(lab, MENDED) is None:
            # the first file that MySQL creates, as the kill left it; a complete directory stays as it is
            touch = ["sh", "-c", "[ -d /data/mysql ] || : > /data/ibdata1"]
            lab.run_once(lab.image("payload"), touch, volumes=[f"{HALF}:/data"], network="none")
    tasks = (
        runs(MENDED, _half_hint),
        Task(
            "volume",
            f"Its data directory {DATA} is the volume {HALF}",
            mounts(MENDED, DATA, HALF),
            f"Mount it by its name: the volume, then {DATA}.",
            ("runs",),
        ),
        Task(
            "answers",
            f"Root gets in with the password {password}, and the server keeps its data in that volume",
            lambda lab: _half_answers(lab, password),
            _login_hint(MENDED, password),
            ("runs", "volume"),
        ),
    )
    return Exercise(lab, "06", "half-made", "Half made", tasks, SETTLE_S, (MENDED,))


def _half_answers(lab: Lab, password: str) -> str | None:
    missing, server = _server(lab, MENDED, password)
    if missing:
        return missing
    if server["directory"].rstrip("/") != DATA:
        return f"the server keeps its data in {server['directory']}, and not in {DATA}"
    configuration = lab.host.read(f"{lab.directory_of(HALF)}/auto.cnf")
    match = re.search(r"^server[-_]uuid\s*=\s*(\S+)", configuration, re.M)
    same = match and match[1] == server["uuid"]
    return None if same else f"the server that answers has other data than {HALF}"


def _half_hint(lab: Lab) -> str:
    container = container_named(lab, MENDED)
    if container is not None and container.status == "exited":
        return (
            f"MySQL makes no data where files are: `docker logs {MENDED}`. What is in the volume is worth nothing. "
            "Remove the container, then the volume; a new one of the same name is empty."
        )
    return f"Start a server with the volume {HALF} at {DATA}, and read its log. The image is in the variable `ref`."


# --- a monitor


def watcher(lab: Lab) -> Exercise:
    """A monitor that sees a container, is reached from this machine alone, and can change nothing.

    Promise: its numbers for `watched` are of this moment and agree with the kernel's; nothing that it has (mounts,
    volumes, capabilities, namespaces, sockets) lets it write to the host or command the engine.
    """
    setup_container(lab, WATCHED, partial(_start_watched, lab))
    port = f"{monitor.PORT}/tcp"
    tasks = (
        runs(
            WATCHER,
            "The image of this chapter's monitor is in the variable `cadvisor`. The book's is years old.",
        ),
        Task(
            "port",
            f"Its port {monitor.PORT} is published on 127.0.0.1 and nowhere else",
            published_on(WATCHER, port),
            publish_hint(WATCHER, port),
            ("runs",),
        ),
        Task(
            "reads",
            "It can change nothing of the host: it has nothing there to write to, no right to, and no way to the "
            "engine",
            _is_read_only,
            _read_only_hint,
            ("runs",),
        ),
        Task(
            "knows",
            f"It gives numbers of {WATCHED}",
            all_of(setup_runs(WATCHED), _has_numbers),
            "Which of the book's five mounts holds the counters of control groups?",
            ("runs",),
        ),
    )
    return Exercise(lab, "06", "watcher", "A monitor that may look", tasks, SETTLE_S, (WATCHER, WATCHED))


def _start_watched(lab: Lab) -> None:
    """Start a container that holds a random amount of memory."""
    kib = random.SystemRandom().randrange(6_000, 14_000)
    load = f"held=$(head -c {kib}k /dev/zero | tr '\\0' x); while :; do sleep 3600; done"
    lab.run(lab.image("payload"), ["sh", "-c", load], name=WATCHED, network="none", cap_drop=["ALL"])


def _is_read_only(lab: Lab) -> str | None:
    container = running(lab, WATCHER)
    # before Docker 25.0 `ro` applies to the top of a mount only, and the control groups are mounted below /sys:
    # root can still write there, and the reader has no other way to mount them. A published port needs a network,
    # and an engine that listens on it can be reached, whatever the reader does.
    points = [mount["Destination"].rstrip("/") for mount in container.attrs["Mounts"] if not mount["RW"]]
    cgroup_mounts = tuple(f"its mount {point}/" for point in points if point)
    for way in escape_paths(lab, container):
        is_cgroup = way.startswith(cgroup_mounts) and "/sys/fs/cgroup" in way
        if not is_cgroup and "over the network" not in way:
            return f"{WATCHER}: {way}"
    return None


def _read_only_hint(lab: Lab) -> str:
    way = _is_read_only(lab) or ""
    if "socket" in way or "whole disk" in way:
        return "A socket is no file to be read: `ro` does not stop a client from sending commands through it."
    if ", writable" in way:
        return "Look at `docker inspect`, Mounts: each mount of the host needs its `ro`."
    return "It needs no right that a container does not have anyway, and one directory of the host to read."


def _has_numbers(lab: Lab) -> str | None:
    watched, watcher = running(lab, WATCHED), running(lab, WATCHER)
    reported = monitor.memory_now(lab, watcher, str(watched.id))
    if reported is None:
        return f"it says nothing of {WATCHED} (it may need a few seconds after its start)"
    actual = lab.host.cgroup(watched).memory.anon_bytes
    if abs(reported - actual) > actual / 5 + (1 << 20):
        return f"it says that {WATCHED} holds {reported >> 10} KiB; the kernel says {actual >> 10} KiB"
    return None
