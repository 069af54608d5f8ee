"""One experiment for each kind of namespace that every container has: who sees a thing, and who does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labhelpers.errors import EngineRefused
from labhelpers.namespaces.containers import NOT_FOUND, temporary_containers
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

ONE, TWO, HOST = "one", "two", "the host"
_INTERFACES = 'for i in /sys/class/net/*/address; do d=${i%/*}; echo "${d##*/} $(cat $i)"; done'


@record
class Attempt:
    """What was tried, and what came of it."""

    where: str = column("in which container")
    what: str = column("the command")
    worked: bool = column("whether its exit status was 0")
    said: str = column("its last line")


@record
class Visibility(Result):
    """Who sees what: things, looked for from several places."""

    kind: str = column("the kind of namespace that this is about")
    places: tuple[str, ...] = column("where one looked from: two containers, and mostly the host")
    things: tuple[str, ...] = column("what one looked for")
    seen: Mapping[tuple[str, str], str] = column(
        "(thing, place) → as what it is seen there; missing where it is not seen", shown=False
    )
    tries: tuple[Attempt, ...] = rows("what else was tried", of=Attempt, default=())

    def who_sees(self, thing: str) -> tuple[str, ...]:
        """The places from which the thing is seen."""
        return tuple(place for place in self.places if (thing, place) in self.seen)

    def what_is_seen(self, place: str) -> tuple[str, ...]:
        """The things that are seen from a place."""
        return tuple(thing for thing in self.things if (thing, place) in self.seen)

    def frame(self) -> pd.DataFrame:
        """One row a thing: thing, and a column for each place: as what it is seen there, or NOWHERE."""
        rows = [
            (thing, *(self.seen.get((thing, place), NOT_FOUND) for place in self.places))
            for thing in self.things
        ]
        return table(rows, ["thing", *self.places])


def pid(lab: Lab) -> Visibility:
    """Look for the processes of two containers, and for the one that started them, from three places.

    `ps` lists what /proc of a container's own pid namespace has; the host is asked for NSpid.

    Raises:
        LabError: the engine hides its host's processes.
    """
    commands = {ONE: "sleep 9101", TWO: "sleep 9102"}
    with temporary_containers(lab, ["docker run -d"]) as run:
        made = {name: run(lab.image("payload"), command) for name, command in commands.items()}
        things = {f"{command!r} of {name}": command for name, command in commands.items()}
        seen = {}
        for place, container in made.items():
            listed = _output(lab, container, "ps -o pid,args")
            for thing, command in things.items():
                if found := re.search(rf"^\s*(\d+) {command}$", listed, re.M):
                    seen[thing, place] = f"PID {found[1]}"
        for name, thing in zip(made, things, strict=True):
            seen[thing, HOST] = f"PID {lab.host.process(made[name]).pid}"
        parent = "the engine's process that started one"
        starter = lab.host.process(lab.host.process(made[ONE]).parent_pid)
        for place, container in made.items():
            if starter.command.split()[0] in _output(lab, container, "ps -o args"):
                seen[parent, place] = "listed"
        seen[parent, HOST] = f"PID {starter.pid}"
        outside = lab.host.process(made[ONE]).pid
        tries = (
            _try(lab, TWO, made[TWO], f"kill -0 {outside}"),
            _try(lab, ONE, made[ONE], f"kill -0 {outside}"),
            _try(lab, ONE, made[ONE], "kill -0 1"),
        )
    return Visibility("pid", (ONE, TWO, HOST), (*things, parent), seen, tries)


def net(lab: Lab) -> Visibility:
    """Look for two containers' interfaces, by their hardware addresses, and for a server on a loopback address."""
    with temporary_containers(lab, ["docker run -d"]) as run:
        made = {
            ONE: run(lab.image("payload"), ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"]),
            TWO: run(lab.image("payload"), "sleep 9103"),
        }
        found = {place: _macs(_output(lab, container, _INTERFACES)) for place, container in made.items()}
        on_host = lab.host.interfaces()
        found[HOST] = {one.mac: one.name for one in on_host if one.mac}
        wanted = {f"eth0 of {name}": _mac_of(found[name], "eth0") for name in made}
        cable = next((i for i in lab.host.interfaces(made[ONE]) if i.name == "eth0"), None)
        peer = next((i for i in on_host if cable and i.index == cable.peer_index), None)
        if peer:
            wanted["the other end of one's eth0"] = peer.mac
        seen = {
            (thing, place): macs[mac]
            for thing, mac in wanted.items()
            for place, macs in found.items()
            if mac in macs
        }
        ask = "wget -q -O - http://127.0.0.1:8080/"
        lab.wait_for("one's server to answer", lambda: lab.exec(made[ONE], ask).exit_code == 0)
        tries = tuple(_try(lab, place, container, ask) for place, container in made.items())
    return Visibility("net", (ONE, TWO, HOST), tuple(wanted), seen, tries)


def ipc(lab: Lab) -> Visibility:
    """Make a System V shared memory segment and a message queue, and look for them from four places.

    One is private, as containers are; `three` joins it, for which it must be shareable. The host is looked at
    from a container with `--ipc host` that has no rights beside.
    """
    three = "three (--ipc container:one)"
    with temporary_containers(lab, ["docker run -d --cap-drop ALL --ipc"]) as run:
        image = lab.image("tools")
        one = run(image, "sleep 9104", ipc="shareable", cap_drop=["ALL"])
        made = {
            ONE: one,
            TWO: run(image, "sleep 9105", cap_drop=["ALL"]),
            three: run(image, "sleep 9106", ipc=f"container:{one.name}", cap_drop=["ALL"]),
            HOST: run(image, "sleep 9107", ipc="host", cap_drop=["ALL"]),
        }
        _output(lab, one, "ipcmk --shmem 4096 && ipcmk --queue")
        found = {place: _ipcs(_output(lab, container, "ipcs -m -q")) for place, container in made.items()}
    keys = {
        "the shared memory segment": next(key for key, what in found[ONE].items() if "bytes" in what),
        "the message queue": next(key for key, what in found[ONE].items() if "bytes" not in what),
    }
    seen = {
        (thing, place): found[place][key]
        for thing, key in keys.items()
        for place in made
        if key in found[place]
    }
    return Visibility("ipc", tuple(made), tuple(keys), seen)


def mnt(lab: Lab) -> Visibility:
    """Mount a small file system in one container, put a file into it, and look for both from three places.

    To mount takes CAP_SYS_ADMIN: one has it, and nothing else; another container is refused.

    Raises:
        EngineRefused: the engine does not let a container with that right mount.
    """
    source = f"lab-{lab.session}"
    mount = f"mount -t tmpfs -o size=64k {source} /mnt"
    with temporary_containers(lab, [_RUN_ADMIN]) as run:
        image = lab.image("payload")
        one = run(image, "sleep 9108", **_ADMIN)
        two = run(image, "sleep 9109")
        _output(lab, one, f"mkdir -p /mnt && {mount} && echo x > /mnt/{source}")
        tries = (_try(lab, TWO, two, f"mkdir -p /mnt && {mount}"),)
        tables = {place: lab.host.mounts(where) for place, where in ((ONE, one), (TWO, two), (HOST, None))}
        listed = {place: _output(lab, where, "ls /mnt") for place, where in ((ONE, one), (TWO, two))}
        through = [entry.path for entry in lab.host.directory("/mnt", one)]
        on_host = [entry.path for entry in lab.host.directory("/") if entry.path == "mnt"]
        listed[HOST] = "\n".join(e.path for e in lab.host.directory("/mnt")) if on_host else ""
    mounted, file, around = "the mount on /mnt", "the file in it", "the file, through /proc/PID/root"
    seen = {
        (mounted, place): f"{found.kind} on {found.point}"
        for place, mounts in tables.items()
        for found in mounts
        if found.source == source
    }
    seen |= {(file, place): f"/mnt/{source}" for place, names in listed.items() if source in names.split()}
    if source in through:
        seen[around, HOST] = f"…/mnt/{source}"
    return Visibility("mnt", (ONE, TWO, HOST), (mounted, file, around), seen, tries)


def uts(lab: Lab) -> Visibility:
    """Change the host name in one container, and ask for it in four places.

    To change it takes CAP_SYS_ADMIN: one has it. The host's own name is read from a container with `--uts host`
    and no rights, so that it cannot be changed by mistake.

    Raises:
        EngineRefused: the engine does not let a container with that right change its name.
    """
    new = f"renamed-{lab.session}"
    thing = f"the name {new}"
    with temporary_containers(lab, [_RUN_ADMIN, "docker run -d --cap-drop ALL --uts host"]) as run:
        image = lab.image("payload")
        made = {
            ONE: run(image, "sleep 9110", **_ADMIN),
            TWO: run(image, "sleep 9111"),
            HOST: run(image, "sleep 9112", uts="host", cap_drop=["ALL"]),
        }
        _output(lab, made[ONE], f"hostname {new}")
        tries = tuple(_try(lab, place, made[place], "hostname other") for place in (TWO, HOST))
        seen = {
            (thing, place): "its name"
            for place, container in made.items()
            if _output(lab, container, "hostname").strip() == new
        }
        configured = lab.inspect(made[ONE])["Config"]["Hostname"]
    inspect = "docker inspect one"
    if configured == new:
        seen[thing, inspect] = "its name"
    return Visibility("uts", (ONE, TWO, HOST, inspect), (thing,), seen, tries)


# AppArmor's default profile refuses every mount
_ADMIN = {"cap_drop": ["ALL"], "cap_add": ["SYS_ADMIN"], "security_opt": ["apparmor=unconfined"]}
_RUN_ADMIN = "docker run -d --cap-add SYS_ADMIN"


def _output(lab: Lab, container: Container, script: str) -> str:
    """What a shell in the container writes; a script that fails is an error with its own message."""
    done = lab.exec(container, ["sh", "-c", script])
    if done.exit_code:
        raise EngineRefused(
            f"this command failed in a container of the experiment: {script}",
            hint="the message names what is missing; `./lab doctor` shows which engine this is",
            engine_message=str(done),
        )
    return done.stdout


def _try(lab: Lab, where: str, container: Container, what: str) -> Attempt:
    done = lab.exec(container, ["sh", "-c", what])
    said = str(done).strip().splitlines()
    return Attempt(where, what, done.exit_code == 0, said[-1] if said else "")


def _macs(listed: str) -> dict[str, str]:
    pairs = (line.split() for line in listed.splitlines())
    # loopback has an address of zeros in every namespace
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and set(pair[1]) - {"0", ":"}}


def _mac_of(macs: Mapping[str, str], name: str) -> str:
    return next((mac for mac, called in macs.items() if called == name), "none")


def _ipcs(listed: str) -> dict[str, str]:
    """Key → what `ipcs -m -q` says of it; made private to its maker (key 0) is left out."""
    found = {}
    queues = True
    for line in listed.splitlines():
        queues = "Message Queues" in line or (queues and "Shared Memory" not in line)
        words = line.split()
        if len(words) > 4 and re.fullmatch(r"0x0*[1-9a-fA-F][0-9a-fA-F]*", words[0]):
            found[words[0]] = f"key {words[0]}" if queues else f"key {words[0]}, {words[4]} bytes"
    return found
