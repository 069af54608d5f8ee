"""One experiment for each kind of namespace that every container has: from where an object is visible."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.errors import EngineRefused
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.results import Result, column, record, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

ONE, TWO, HOST = "one", "two", "the host"
_INTERFACES = 'for i in /sys/class/net/*/address; do d=${i%/*}; echo "${d##*/} $(cat $i)"; done'


@record
class Attempt:
    """A command that was run in a container."""

    container: str = column("container in which the command ran")
    command: str = column("the command")
    succeeded: bool = column("whether its exit status was 0")
    output: str = column("last line of its output")


@record
class Visibility(Result):
    """Objects of a namespace, and the places from which they are visible."""

    kind: str = column("kind of namespace")
    viewpoints: tuple[str, ...] = column("places from which the objects were looked up")
    objects: tuple[str, ...] = column("objects that were looked up")
    observations: Mapping[tuple[str, str], str] = column(
        "(object, viewpoint) → name of the object there; there is no entry where it is not visible",
        shown=False,
    )
    attempts: tuple[Attempt, ...] = column("commands that were run in addition", shown=False, default=())

    def visible_from(self, name: str) -> tuple[str, ...]:
        """The viewpoints from which the object is visible."""
        return tuple(place for place in self.viewpoints if (name, place) in self.observations)

    def visible_objects(self, viewpoint: str) -> tuple[str, ...]:
        """The objects that are visible from a viewpoint."""
        return tuple(name for name in self.objects if (name, viewpoint) in self.observations)

    def frame(self) -> pd.DataFrame:
        """One row for each object: object, and its name at each viewpoint, or None where it is not visible."""
        rows = [
            (name, *(self.observations.get((name, place)) for place in self.viewpoints))
            for name in self.objects
        ]
        return table(rows, ["object", *(place.replace(" ", "_") for place in self.viewpoints)])


@experiment
def pid(lab: Lab) -> Visibility:
    """Look for the processes of two containers, and for the process that started them, from three places.

    `ps` lists the /proc of a container's own PID namespace; the host's PIDs are read from NSpid.

    Raises:
        HostUnreadable: the engine hides its host's processes.
    """
    commands = {ONE: "sleep 9101", TWO: "sleep 9102"}
    with temporary_containers(lab, ["docker run -d"]) as run:
        containers = {name: run(lab.image("payload"), command) for name, command in commands.items()}
        objects = {f"{command!r} of {name}": command for name, command in commands.items()}
        observations = {}
        for place, container in containers.items():
            processes = _output(lab, container, "ps -o pid,args")
            for name, command in objects.items():
                if match := re.search(rf"^\s*(\d+) {command}$", processes, re.M):
                    observations[name, place] = f"PID {match[1]}"
        for container_name, name in zip(containers, objects, strict=True):
            observations[name, HOST] = f"PID {lab.host.process(containers[container_name]).pid}"
        parent = "the engine's process that started one"
        starter = lab.host.process(lab.host.process(containers[ONE]).parent_pid)
        for place, container in containers.items():
            if starter.command.split()[0] in _output(lab, container, "ps -o args"):
                observations[parent, place] = "listed"
        observations[parent, HOST] = f"PID {starter.pid}"
        host_pid = lab.host.process(containers[ONE]).pid
        attempts = (
            _try(lab, TWO, containers[TWO], f"kill -0 {host_pid}"),
            _try(lab, ONE, containers[ONE], f"kill -0 {host_pid}"),
            _try(lab, ONE, containers[ONE], "kill -0 1"),
        )
    return Visibility("pid", (ONE, TWO, HOST), (*objects, parent), observations, attempts)


@experiment
def net(lab: Lab) -> Visibility:
    """Look for the interfaces of two containers by their MAC addresses, and for a server on a loopback address."""
    with temporary_containers(lab, ["docker run -d"]) as run:
        containers = {
            ONE: run(lab.image("payload"), ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"]),
            TWO: run(lab.image("payload"), "sleep 9103"),
        }
        interfaces = {
            place: _macs(_output(lab, container, _INTERFACES)) for place, container in containers.items()
        }
        on_host = lab.host.interfaces()
        interfaces[HOST] = {interface.mac: interface.name for interface in on_host if interface.mac}
        objects = {f"eth0 of {name}": _mac_of(interfaces[name], "eth0") for name in containers}
        eth0 = next((each for each in lab.host.interfaces(containers[ONE]) if each.name == "eth0"), None)
        peer = next((each for each in on_host if eth0 and each.index == eth0.peer_index), None)
        if peer:
            objects["the other end of one's eth0"] = peer.mac
        observations = {
            (name, place): macs[mac]
            for name, mac in objects.items()
            for place, macs in interfaces.items()
            if mac in macs
        }
        request = "wget -q -O - http://127.0.0.1:8080/"
        lab.wait_for("one's server to respond", lambda: lab.exec(containers[ONE], request).exit_code == 0)
        attempts = tuple(_try(lab, place, container, request) for place, container in containers.items())
    return Visibility("net", (ONE, TWO, HOST), tuple(objects), observations, attempts)


@experiment
def ipc(lab: Lab) -> Visibility:
    """Create a System V shared memory segment and a message queue, and look for them from four places.

    The IPC namespace of `one` is shareable, so that `three` can join it. The host is observed from a container
    with `--ipc host` and without capabilities.
    """
    three = "three (--ipc container:one)"
    with temporary_containers(lab, ["docker run -d --cap-drop ALL --ipc"]) as run:
        image = lab.image("tools")
        owner = run(image, "sleep 9104", ipc="shareable", cap_drop=["ALL"])
        containers = {
            ONE: owner,
            TWO: run(image, "sleep 9105", cap_drop=["ALL"]),
            three: run(image, "sleep 9106", ipc=f"container:{owner.name}", cap_drop=["ALL"]),
            HOST: run(image, "sleep 9107", ipc="host", cap_drop=["ALL"]),
        }
        _output(lab, owner, "ipcmk --shmem 4096 && ipcmk --queue")
        listed = {
            place: _ipcs(_output(lab, container, "ipcs -m -q")) for place, container in containers.items()
        }
    objects = {
        "the shared memory segment": next(key for key, text in listed[ONE].items() if "bytes" in text),
        "the message queue": next(key for key, text in listed[ONE].items() if "bytes" not in text),
    }
    observations = {
        (name, place): listed[place][key]
        for name, key in objects.items()
        for place in containers
        if key in listed[place]
    }
    return Visibility("ipc", tuple(containers), tuple(objects), observations)


@experiment
def mnt(lab: Lab) -> Visibility:
    """Mount a small file system in one container, create a file in it, and look for both from three places.

    Mounting requires CAP_SYS_ADMIN, the only capability of the first container; the second container is refused.

    Raises:
        EngineRefused: the engine does not let a container with that capability mount a file system.
    """
    source = f"lab-{lab.session}"
    mount = f"mount -t tmpfs -o size=64k {source} /mnt"
    with temporary_containers(lab, [_RUN_ADMIN]) as run:
        image = lab.image("payload")
        first = run(image, "sleep 9108", **_ADMIN)
        second = run(image, "sleep 9109")
        _output(lab, first, f"mkdir -p /mnt && {mount} && echo x > /mnt/{source}")
        attempts = (_try(lab, TWO, second, f"mkdir -p /mnt && {mount}"),)
        targets = ((ONE, first), (TWO, second), (HOST, None))
        tables = {place: lab.host.mounts(target) for place, target in targets}
        names = {place: _output(lab, target, "ls /mnt") for place, target in ((ONE, first), (TWO, second))}
        in_root = [entry.path for entry in lab.host.directory("/mnt", first)]
        on_host = [entry.path for entry in lab.host.directory("/") if entry.path == "mnt"]
        names[HOST] = "\n".join(entry.path for entry in lab.host.directory("/mnt")) if on_host else ""
    mounted, file, through = "the mount on /mnt", "the file in it", "the file, through /proc/PID/root"
    observations = {
        (mounted, place): f"{entry.kind} on {entry.point}"
        for place, mounts in tables.items()
        for entry in mounts
        if entry.source == source
    }
    observations |= {
        (file, place): f"/mnt/{source}" for place, listing in names.items() if source in listing.split()
    }
    if source in in_root:
        observations[through, HOST] = f"…/mnt/{source}"
    return Visibility("mnt", (ONE, TWO, HOST), (mounted, file, through), observations, attempts)


@experiment
def uts(lab: Lab) -> Visibility:
    """Change the host name in one container, and read it in four places.

    Changing it requires CAP_SYS_ADMIN, which only one container has. The host's own name is read in a container
    with `--uts host` and without capabilities, so that it cannot be changed by mistake.

    Raises:
        EngineRefused: the engine does not let a container with that capability change its name.
    """
    new_name = f"renamed-{lab.session}"
    renamed = f"the name {new_name}"
    with temporary_containers(lab, [_RUN_ADMIN, "docker run -d --cap-drop ALL --uts host"]) as run:
        image = lab.image("payload")
        containers = {
            ONE: run(image, "sleep 9110", **_ADMIN),
            TWO: run(image, "sleep 9111"),
            HOST: run(image, "sleep 9112", uts="host", cap_drop=["ALL"]),
        }
        _output(lab, containers[ONE], f"hostname {new_name}")
        attempts = tuple(_try(lab, place, containers[place], "hostname other") for place in (TWO, HOST))
        observations = {
            (renamed, place): "its name"
            for place, container in containers.items()
            if _output(lab, container, "hostname").strip() == new_name
        }
        configured = lab.inspect(containers[ONE])["Config"]["Hostname"]
    inspect = "docker inspect one"
    if configured == new_name:
        observations[renamed, inspect] = "its name"
    return Visibility("uts", (ONE, TWO, HOST, inspect), (renamed,), observations, attempts)


# AppArmor's default profile refuses every mount
_ADMIN = {"cap_drop": ["ALL"], "cap_add": ["SYS_ADMIN"], "security_opt": ["apparmor=unconfined"]}
_RUN_ADMIN = "docker run -d --cap-add SYS_ADMIN"


def _output(lab: Lab, container: Container, script: str) -> str:
    """The output of a shell script in the container; if the script fails, an error with its message."""
    output = lab.exec(container, ["sh", "-c", script])
    if output.exit_code:
        raise EngineRefused(
            f"this command failed in a container of the experiment: {script}",
            hint="fix the cause in its message below; `./lab doctor` shows which engine this is",
            engine_message=str(output),
        )
    return output.stdout


def _try(lab: Lab, name: str, container: Container, command: str) -> Attempt:
    output = lab.exec(container, ["sh", "-c", command])
    lines = str(output).strip().splitlines()
    return Attempt(name, command, output.exit_code == 0, lines[-1] if lines else "")


def _macs(listing: str) -> dict[str, str]:
    """MAC address → interface, without loopback, whose address is all zeros in every namespace."""
    pairs = (line.split() for line in listing.splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and set(pair[1]) - {"0", ":"}}


def _mac_of(macs: Mapping[str, str], name: str) -> str:
    return next((mac for mac, interface in macs.items() if interface == name), "none")


def _ipcs(listing: str) -> dict[str, str]:
    """Key → description, from `ipcs -m -q`; objects that are private to their creator (key 0) are left out."""
    objects = {}
    queues = True
    for line in listing.splitlines():
        queues = "Message Queues" in line or (queues and "Shared Memory" not in line)
        fields = line.split()
        if len(fields) > 4 and re.fullmatch(r"0x0*[1-9a-fA-F][0-9a-fA-F]*", fields[0]):
            objects[fields[0]] = f"key {fields[0]}" if queues else f"key {fields[0]}, {fields[4]} bytes"
    return objects
