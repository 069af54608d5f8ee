"""The exercises of the chapter on namespaces: the engine's state proves them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course.escape import escape_paths
from labhelpers.course.exercises import (
    Exercise,
    Task,
    container_named,
    copy_of,
    file_in,
    keep,
    kept,
    not_as_given,
    not_running,
    once,
    running,
)
from labhelpers.course.exercises import given as start_given
from labhelpers.errors import LabError, TimedOut
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.namespaces.identity import BASIC_KINDS, KINDS, Namespaces, namespaces_of
from labhelpers.namespaces.pid1 import signal_dispositions

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker.models.containers import Container

    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

RADIO, LISTENER = all_with_suffix("radio", "listener")
HERMIT = with_suffix("hermit")
POSTBOX, COURIER = all_with_suffix("postbox", "courier")
ROOMS, NOTES = all_with_suffix("room-1", "room-2", "room-3"), with_suffix("notes")
POLITE = with_suffix("polite")
MATRYOSHKA = with_suffix("matryoshka")
STOP_S = 5
OPTIONS = {"pid": "pid", "net": "network", "ipc": "ipc"}
"""Kinds that one container can share with another, and the option of `docker run` that does it."""


# --- a given container's network


def join_network(lab: Lab) -> Exercise:
    """A container that shares a given one's network namespace, and nothing else.

    Promises: `listener` and the given `radio` are in one network namespace; no process of another container, and none
    of the host, is in any other namespace of `listener`; and its file holds what answers on its own 127.0.0.1:9000,
    which is a random word.
    """
    _given(lab, RADIO, _radio)
    runs = _runs(
        LISTENER,
        "You need a container that stays, with a program that fetches a page: labhelpers/payload has wget.",
    )
    joined = Task("joined", f"It is in the network namespace of {RADIO}", _joined, _joined_hint, ("runs",))
    own = Task(
        "own",
        "Its process ids, IPC, mounts and host name are its own",
        _only_network,
        "One option of `docker run` is for one kind. Leave out those that you do not need.",
        ("joined",),
    )
    heard = Task(
        "heard",
        f"Its file /heard holds what {RADIO} says on 127.0.0.1:9000",
        _heard,
        f"Ask from {LISTENER}: loopback belongs to the network namespace, so it is now one and the same for both.",
        ("joined",),
    )
    tasks = (runs, joined, own, heard)
    return Exercise(lab, "03", "join-network", "Join a network", tasks, containers=(LISTENER, RADIO))


def _radio(lab: Lab) -> None:
    words = [
        "sh",
        "-c",
        "until [ -s /say/index.html ]; do sleep 0.1; done; exec httpd -f -p 127.0.0.1:9000 -h /say",
    ]
    radio = lab.run(lab.image("payload"), words, name=RADIO)
    lab.exec(radio, ["sh", "-c", f"mkdir /say && echo {secrets.token_hex(6)} > /say/index.html"])


def _joined(lab: Lab) -> str | None:
    if missing := not_as_given(lab, RADIO):
        return missing
    mine, theirs, host = (
        namespaces_of(lab, running(lab, LISTENER)),
        namespaces_of(lab, running(lab, RADIO)),
        namespaces_of(lab),
    )
    if mine.ids["net"] == theirs.ids["net"]:
        return None
    if mine.ids["net"] == host.ids["net"]:
        return f"{LISTENER} is in the network namespace of the host"
    return f"{LISTENER} is in a network namespace that {RADIO} is not in"


def _joined_hint(lab: Lab) -> str:
    if "of the host" in (_joined(lab) or ""):
        return f"The host's loopback is not {RADIO}'s. What can `--network` name besides host, none and a network?"
    return (
        "Two containers on one network talk over a bridge, and each has its own loopback. To be in one namespace "
        "is more: `docker run --help`, --network, and what stands in its documentation about container."
    )


def _only_network(lab: Lab) -> str | None:
    own = {one.pid: one for one in lab.host.processes(running(lab, LISTENER))}
    mine = {kind: {one.namespaces.get(kind) for one in own.values()} - {None} for kind in BASIC_KINDS}
    radio = {one.pid for one in lab.host.processes(running(lab, RADIO))}
    engine = lab.host.process().namespaces
    for one in lab.host.processes():
        for kind in BASIC_KINDS:
            if kind == "net" or one.pid in own or one.namespaces.get(kind) not in mine[kind]:
                continue
            host = one.namespaces[kind] == engine.get(kind)
            with_ = "the host" if host else RADIO if one.pid in radio else "another container"
            return f"it shares {KINDS[kind]} ({kind}) with {with_} as well"
    return None


def _heard(lab: Lab) -> str | None:
    written = file_in(lab, LISTENER, "/heard")
    said = lab.host.output(
        ["curl", "-s", "-m", "5", "http://127.0.0.1:9000/"], running(lab, LISTENER)
    ).strip()
    if not said:
        return f"nothing answers on 127.0.0.1:9000 of {LISTENER}: does the program of {RADIO} still run?"
    if not written:
        return f"{LISTENER} has no file /heard, or it is empty"
    return None if written == said else f"/heard holds “{written[:40]}”, which {RADIO} does not say"


# --- seen by the host, alone in its own eyes


def alone(lab: Lab) -> Exercise:
    """A container with one process: the host sees it, and it sees only itself.

    Promises: one process, alone in its pid namespace, also beside what `docker exec` or another container brings into
    that; and a file with the PID that the host gives it, which is another one after each start.
    """
    runs = _runs(HERMIT, "You need a container that stays, with a command that is one process.")
    one = Task(
        "one",
        "It has one process, which the host sees",
        _one_process,
        "Some commands start others: a shell with two commands in it, or --init. Give it one program.",
        ("runs",),
    )
    itself = Task(
        "itself", "That process is alone in its pid namespace", _only_itself, _only_itself_hint, ("one",)
    )
    outside = Task(
        "outside",
        "Its file /outside holds the PID by which the host knows that process",
        _outside,
        _outside_hint,
        ("itself",),
    )
    tasks = (runs, one, itself, outside)
    return Exercise(lab, "03", "alone", "Alone, and watched", tasks, containers=(HERMIT,))


def _one_process(lab: Lab) -> str | None:
    count = len([one for one in lab.host.processes(running(lab, HERMIT)) if one.state != "Z"])
    return None if count == 1 else f"the host sees {count} processes in it"


def _only_itself(lab: Lab) -> str | None:
    space = namespaces_of(lab, running(lab, HERMIT)).ids["pid"]
    if space == namespaces_of(lab).ids["pid"]:
        return f"{HERMIT} sees every process of the host"
    count = len([p for p in lab.host.processes() if p.namespaces.get("pid") == space and p.state != "Z"])
    return None if count == 1 else f"{HERMIT} is in a pid namespace with {count - 1} more"


def _only_itself_hint(lab: Lab) -> str:
    return "A container gets a pid namespace of its own unless it is asked to share one: which option shares?"


def _outside(lab: Lab) -> str | None:
    written, first = file_in(lab, HERMIT, "/outside"), lab.host.process(running(lab, HERMIT))
    if not written:
        return f"{HERMIT} has no file /outside, or it is empty"
    if written == str(first.pid):
        return None
    if written == "1":
        return "/outside holds 1, which is what the process calls itself"
    return f"/outside holds “{written[:20]}”, which is not the PID that the host gives it"


def _outside_hint(lab: Lab) -> str:
    return (
        "No file inside can tell: a namespace does not see what lies around it. The engine is outside: `docker top` "
        "and `docker inspect` ask there; so does namespaces.namespaces_of."
    )


# --- what is in the post


def letterbox(lab: Lab) -> Exercise:
    """Join a container's IPC namespace, and find the key of its shared memory segment.

    Promises: `courier` is in the IPC namespace of the given `postbox`, and its file holds the key of the segment that
    `postbox` made, which is random; a segment that the reader makes has another.
    """
    _given(lab, POSTBOX, _postbox)
    runs = _runs(COURIER, "You need a container that stays, and has `ipcs`: labhelpers/tools.")
    joined = Task("joined", f"It is in the IPC namespace of {POSTBOX}", _in_post, _in_post_hint, ("runs",))
    key = Task(
        "key",
        f"Its file /key holds the key of the shared memory segment that {POSTBOX} has made",
        _key,
        _key_hint,
        ("joined",),
    )
    tasks = (runs, joined, key)
    return Exercise(lab, "03", "letterbox", "What is in the post", tasks, containers=(COURIER, POSTBOX))


def _postbox(lab: Lab) -> None:
    made = lab.run(lab.image("tools"), "sleep 86400", name=POSTBOX, ipc="shareable", cap_drop=["ALL"])
    lab.exec(made, ["sh", "-c", "ipcmk --queue; ipcmk --shmem 8192; ipcmk --semaphore 1"])
    for flag in ("-m", "-q", "-s"):
        keep(lab, f"keys {flag}", " ".join(_keys(lab, flag)))


def _in_post(lab: Lab) -> str | None:
    if missing := not_as_given(lab, POSTBOX):
        return missing
    mine, theirs, host = (
        namespaces_of(lab, where).ids["ipc"] for where in (running(lab, COURIER), running(lab, POSTBOX), None)
    )
    if mine == theirs:
        return None
    if mine == host:
        return f"{COURIER} is in the IPC namespace of the host"
    return f"{COURIER} is in an IPC namespace that {POSTBOX} is not in: `ipcs` shows nothing of it there"


def _in_post_hint(lab: Lab) -> str:
    return f"{POSTBOX} was made shareable, so that others may join. The option has the name of the namespace."


def _key(lab: Lab) -> str | None:
    written = file_in(lab, COURIER, "/key").lower()
    if not written:
        return f"{COURIER} has no file /key, or it is empty"
    for kind, flag in (("segment", "-m"), ("queue", "-q"), ("semaphore", "-s")):
        first = kept(lab, f"keys {flag}").split()
        if _number(written) in map(_number, first):
            return None if kind == "segment" else f"/key holds the key of the {kind}"
        if _number(written) in map(_number, _keys(lab, flag)):
            return f"/key holds the key of a {kind} that {POSTBOX} did not make"
    return f"/key holds “{written[:20]}”, which is no key there"


def _number(key: str) -> int | None:
    """The number of a key in hexadecimal digits, with or without 0x."""
    try:
        return int(key, 16)
    except ValueError:
        return None


def _key_hint(lab: Lab) -> str:
    return (
        "`ipcs` lists queues, segments and semaphores, each with its key: eight hexadecimal digits after 0x."
    )


def _keys(lab: Lab, flag: str) -> list[str]:
    with lab.hidden():
        listed = lab.exec(running(lab, POSTBOX), ["ipcs", flag]).stdout
    return [line.split()[0] for line in listed.splitlines() if line.startswith("0x")]


# --- who shares with whom


def who_shares(lab: Lab) -> Exercise:
    """Find which two of three containers share a namespace, and of which kind; chosen at random.

    Promises: two names and a kind that are true of the three given containers as they are now. Rooms that were
    replaced do not count.
    """
    if any(not_as_given(lab, name) for name in ROOMS):
        _make_rooms(lab)
    runs = _runs(NOTES, "Any image with a shell will do; labhelpers/payload has a command that stays.")
    pair = Task(
        "pair",
        f"Its file /pair holds the names of the two containers, of {', '.join(ROOMS)}, that share a namespace",
        _pair,
        "The ids tell: namespaces.matrix takes several containers, and draws one colour for one namespace.",
        ("runs",),
    )
    kind = Task(
        "kind",
        "Its file /kind holds the kind that they share, as `lsns` names it",
        _kind,
        "Those kinds that all three share with the host do not count: of which have the others one each?",
        ("runs",),
    )
    tasks = (runs, pair, kind)
    return Exercise(lab, "03", "who-shares", "Who shares with whom?", tasks, 0.5, (NOTES, *ROOMS))


def _make_rooms(lab: Lab) -> None:
    kind = secrets.choice(list(OPTIONS))
    first, second = secrets.SystemRandom().sample(ROOMS, 2)
    with lab.hidden():
        for name in ROOMS:
            _clear(lab, name)
        # the donor must be there first; its options do not tell that it is one
        for name in sorted(ROOMS, key=lambda room: (room == second, room != first)):
            options = _sharing(kind, first) if name == second else {"ipc": "shareable"}
            start_given(
                lab, name, partial(lab.run, lab.image("payload"), "sleep 86400", name=name, **options)
            )


def _sharing(kind: str, with_: str) -> dict[str, str]:
    return {"ipc": "shareable"} | {OPTIONS[kind]: f"container:{with_}"}


def _who(lab: Lab) -> tuple[set[str], str]:
    rows: dict[str, Namespaces] = {name: namespaces_of(lab, running(lab, name)) for name in ROOMS}
    for kind in BASIC_KINDS:
        for name in ROOMS:
            same = {other for other in ROOMS if rows[other].ids[kind] == rows[name].ids[kind]}
            if len(same) == 2:
                return same, kind
    return set(), ""


def _pair(lab: Lab) -> str | None:
    if missing := next(filter(None, (not_as_given(lab, name) for name in ROOMS)), None):
        return missing
    written = set(file_in(lab, NOTES, "/pair").replace(",", " ").split())
    if not written:
        return f"{NOTES} has no file /pair, or it is empty"
    if len(written) != 2 or not written <= set(ROOMS):
        return f"/pair does not hold two names out of {', '.join(ROOMS)}"
    return None if written == _who(lab)[0] else "these two share nothing that the third does not share"


def _kind(lab: Lab) -> str | None:
    written = file_in(lab, NOTES, "/kind")
    if not written:
        return f"{NOTES} has no file /kind, or it is empty"
    if written not in KINDS:
        return f"/kind holds “{written[:20]}”, which is no kind of namespace"
    return None if written == _who(lab)[1] else f"no two of them alone share {KINDS[written]} ({written})"


# --- a first process with manners


def polite(lab: Lab) -> Exercise:
    """A container whose process 1 takes TERM, and leaves no zombie.

    Promises: a `sleep` runs in it; TERM ends its process 1, so that `docker stop` is over long before the engine
    would kill it; and a process that loses its parent is waited for. Both are tried on a copy, which is stopped and
    timed: the reader's container goes on. A handler that does nothing, another stop signal and a short time before
    the kill do not pass.
    """
    runs = _runs(POLITE, "Any image with a shell and `sleep` will do; labhelpers/payload has both.")
    sleeps = Task(
        "sleeps", "A `sleep` runs in it", _sleeps, "`sleep 600` is a command that stays.", ("runs",)
    )
    term = Task(
        "term", "TERM ends its process 1, so that a stop does not wait", _ends_by_term, _term_hint, ("runs",)
    )
    buries = Task(
        "buries", "A process that loses its parent in it leaves no zombie", _buries, _buries_hint, ("runs",)
    )
    tasks = (runs, sleeps, term, buries)
    return Exercise(lab, "03", "polite", "A first process with manners", tasks, 0.5, (POLITE,))


def _sleeps(lab: Lab) -> str | None:
    found = lab.host.processes(running(lab, POLITE))
    return None if any(map(_is_sleep, found)) else "no `sleep` runs in it"


def _is_sleep(process: Process) -> bool:
    words = process.command.split()
    return process.state != "Z" and bool(words) and words[0].rpartition("/")[2] == "sleep"


def _ends_by_term(lab: Lab) -> str | None:
    container = running(lab, POLITE)
    found = signal_dispositions(lab, container).say("SIGTERM")
    if found == "ignored":
        return "its process 1 ignores TERM"
    if found == "default":
        return "its process 1 has no handler for TERM: it never gets it"
    return once(container, "term", lambda: _stop_is_waited_for(lab, container))


def _stop_is_waited_for(lab: Lab, container: Container) -> str | None:
    """Stop a copy, and see whether TERM ended it or the kill that comes `STOP_S` later."""
    with copy_of(lab, container) as copy:
        _start_like(lab, container, copy)
        # not `docker stop`: the container may name another signal and another time
        copy.kill("SIGTERM")
        try:
            lab.wait_for("the copy to end", lambda: not lab.is_running(copy), STOP_S)
        except TimedOut:
            return (
                "its process 1 gets TERM and does not end: a stop waits until the engine kills it "
                f"(tried: {STOP_S} s)"
            )
    return None


def _start_like(lab: Lab, container: Container, copy: Container) -> None:
    """Start a copy, and wait until it has come as far as the other: the same handler, and as many processes."""
    copy.start()
    handler, wanted = signal_dispositions(lab, container).say("SIGTERM"), _size(lab, container)

    def is_like_it() -> bool:
        return signal_dispositions(lab, copy).say("SIGTERM") == handler and _size(lab, copy) >= wanted

    with suppress(LabError):  # it may end at once
        lab.wait_for("the copy to be like the container", is_like_it, STOP_S)


def _size(lab: Lab, container: Container) -> int:
    """How many processes there are from its process 1 on, without those of `docker exec`."""
    tree = {lab.host.process(container).pid}
    for one in lab.host.processes(container):
        if one.parent_pid in tree and one.state != "Z":
            tree.add(one.pid)
    return len(tree)


def _term_hint(lab: Lab) -> str:
    if "does not end" in (_ends_by_term(lab) or ""):
        return "A trap whose commands do not end the shell only interrupts it. What must the handler do at its end?"
    command = lab.host.process(running(lab, POLITE)).command[:60]
    return (
        f"Process 1 is `{command}`. A shell can have a trap; or let the engine put a small init there, which passes "
        "signals on: there is an option for it."
    )


def _buries(lab: Lab) -> str | None:
    container = running(lab, POLITE)
    if left := [one for one in _children(lab, container) if one.state == "Z"]:
        return f"{len(left)} of its processes ended and stay as zombies"
    return once(container, "buries", lambda: _orphan_stays(lab, container))


def _orphan_stays(lab: Lab, container: Container) -> str | None:
    """Let a process of a copy lose its parent and end, and see whether it stays as a zombie."""
    with copy_of(lab, container) as copy:
        _start_like(lab, container, copy)
        with lab.hidden():
            if lab.exec(copy, ["sh", "-c", "sleep 0.1 & exit 0"]).exit_code:
                return "no shell could be started in it to try"

        def left() -> list[Process]:
            return [one for one in _children(lab, copy) if one.state == "Z" or one.command == "sleep 0.1"]

        with suppress(TimedOut):
            lab.wait_for("the orphan to end", lambda: all(one.state == "Z" for one in left()), 10)
            # an init waits at once; one that looks from time to time has a moment
            lab.wait_for("the orphan to be reaped", lambda: not left(), 1)
        stay = left()
    return f"{len(stay)} of its processes ended and stay as zombies" if stay else None


def _children(lab: Lab, container: Container) -> list[Process]:
    first = lab.host.process(container)
    return [one for one in lab.host.processes() if one.parent_pid == first.pid]


def _buries_hint(lab: Lab) -> str:
    return (
        "An orphan becomes a child of process 1, and stays in the table of processes until that waits for it. "
        "Programs that expect no children do not. Whose whole task is it?"
    )


# --- one inside the other


def third_level(lab: Lab) -> Exercise:
    """A pid namespace inside a container's, without giving that container all rights.

    Promises: a process with three PIDs, which is PID 1 in the innermost namespace; the three numbers in a file; and a
    container that is contained: at most one capability added, no process with more than that, and no way to the host.
    Less of Docker's own filter (seccomp, AppArmor) in place of a capability counts too.
    """
    runs = _runs(MATRYOSHKA, "Where it ends at once, `docker logs` says what was refused.")
    few = Task(
        "few",
        "It is not privileged, has at most one capability added, and no other way to the host",
        _few_rights,
        "unshare(1) with --pid needs one capability; capabilities(7) names it, and so does this notebook.",
        ("runs",),
    )
    deep = Task(
        "deep",
        "One of its processes has three PIDs: the host's, the container's, its own",
        _deep,
        _deep_hint,
        ("runs",),
    )
    pids = Task(
        "pids",
        "Its file /pids holds the three PIDs of the process that is PID 1 innermost, the host's first",
        _pids,
        "NSpid in /proc/PID/status lists them, as far as the reader's own namespace: ask on the host. "
        "namespaces.process_tree shows it too.",
        ("deep",),
    )
    tasks = (runs, few, deep, pids)
    return Exercise(lab, "03", "third-level", "One inside the other", tasks, containers=(MATRYOSHKA,))


def _few_rights(lab: Lab) -> str | None:
    container = running(lab, MATRYOSHKA)
    config = container.attrs["HostConfig"]
    if config.get("Privileged"):
        return f"{MATRYOSHKA} is privileged: it has every right on the host"
    added = [str(name).upper().removeprefix("CAP_") for name in config.get("CapAdd") or []]
    if len(added) > 1 or "ALL" in added:
        return f"it has {', '.join(added)} added"
    return next(iter(escape_paths(lab, container, allowed=(*added, "seccomp", "apparmor", "label"))), None)


def _innermost(lab: Lab) -> list[Process]:
    found = lab.host.processes(running(lab, MATRYOSHKA))
    return [one for one in found if len(one.nspid) == 3 and one.inside_pid == 1]


def _deep(lab: Lab) -> str | None:
    if _innermost(lab):
        return None
    most = max((len(one.nspid) for one in lab.host.processes(running(lab, MATRYOSHKA))), default=0)
    if most > 3:
        return "it has a process with more than three PIDs, and none with three that is PID 1"
    return f"none of its processes has more than {most} PID{'s' if most > 1 else ''}"


def _deep_hint(lab: Lab) -> str:
    container = running(lab, MATRYOSHKA)
    commands = [one.command for one in lab.host.processes(container)]
    if lab.host.process(container).namespaces.get("pid") == namespaces_of(lab).ids["pid"]:
        return "It shares the host's pid namespace, so one level is missing."
    if any(command.startswith("unshare") for command in commands):
        return "Is --pid among its options? With --fork unshare starts a child: only that is in the new namespace."
    return "unshare(1) makes it: only children that it starts afterwards are in the new pid namespace, so it must fork."


def _pids(lab: Lab) -> str | None:
    written = tuple(file_in(lab, MATRYOSHKA, "/pids").replace(",", " ").split())
    rights = [tuple(map(str, one.nspid)) for one in _innermost(lab)]
    if not written:
        return f"{MATRYOSHKA} has no file /pids, or it is empty"
    if written in rights:
        return None
    if written in [right[::-1] for right in rights]:
        return "/pids holds the three in the other order"
    if written in [right[1:] for right in rights]:
        return "/pids holds two: the host's is missing, which cannot be seen from inside"
    return f"/pids holds “{' '.join(written)[:40]}”"


# --- looking


def _runs(name: str, hint: str) -> Task:
    def how(lab: Lab) -> str:
        container = container_named(lab, name)
        if container is not None and container.status == "exited":
            command = " ".join([container.attrs["Path"], *container.attrs["Args"]])
            return f"{name} has ended: its command was `{command[:80]}`. {hint}"
        return hint

    return Task("runs", f"A container {name} runs", lambda lab: not_running(lab, name), how)


def _given(lab: Lab, name: str, make: Callable[[Lab], None]) -> None:
    """Make what an exercise begins with, unless it runs already; the lines would tell the answer."""
    with lab.hidden():
        if not_as_given(lab, name):
            _clear(lab, name)
        start_given(lab, name, lambda: make(lab))


def _clear(lab: Lab, name: str) -> None:
    """Remove the container of that name if this session made it; `lab.run` reports any other."""
    container = container_named(lab, name)
    if container is not None and container.labels.get("labhelpers.session") == lab.session:
        lab.remove(container, force=True, volumes=True)
