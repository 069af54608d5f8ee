"""The exercises of the chapter on namespaces: the engine's state proves them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.course.checks import all_of, file_contains, has_answer, runs, setup_runs
from labhelpers.course.containers import (
    container_named,
    running,
    setup_changed,
    setup_container,
    store_value,
    stored_value,
)
from labhelpers.course.escape import escape_paths
from labhelpers.course.exercises import Check, Exercise, Task
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.namespaces import pid1_duties
from labhelpers.namespaces.identity import BASIC_KINDS, KINDS, namespaces_of

if TYPE_CHECKING:
    from labhelpers.engine.host import Process
    from labhelpers.lab import Lab

RADIO, LISTENER = all_with_suffix("radio", "listener")
HERMIT = with_suffix("hermit")
POSTBOX, COURIER = all_with_suffix("postbox", "courier")
ROOMS, NOTES = all_with_suffix("room-1", "room-2", "room-3"), with_suffix("notes")
POLITE = with_suffix("polite")
MATRYOSHKA = with_suffix("matryoshka")
OPTIONS = {"pid": "pid", "net": "network", "ipc": "ipc"}
"""Kinds that one container can share with another, and the option of `docker run` that does it."""


# --- join a container's network


def join_network(lab: Lab) -> Exercise:
    """A container that shares another container's network namespace, and nothing else.

    Promises: `listener` and the lab's `radio` are in one network namespace; no process of another container, and none
    of the host, is in any other namespace of `listener`; and its file holds what answers on its own 127.0.0.1:9000,
    which is a random word.
    """
    _set_up(lab, RADIO, _start_radio)
    tasks = (
        runs(
            LISTENER,
            "You need a container that keeps running and can fetch a page: labhelpers/payload has wget.",
        ),
        Task(
            "joined",
            f"It is in the network namespace of {RADIO}",
            _shares_namespace(LISTENER, RADIO, "net", "a network namespace"),
            _joined_hint,
            ("runs",),
        ),
        Task(
            "own",
            "Its process ids, IPC, mounts and host name are its own",
            _only_network,
            "Each of these `docker run` options is for one kind. Leave out those that you do not need.",
            ("joined",),
        ),
        file_contains(
            LISTENER,
            "/heard",
            f"what {RADIO} says on 127.0.0.1:9000",
            _judge_heard,
            f"Ask from {LISTENER}: loopback belongs to the network namespace, so it is now one and the same for both.",
            ("runs", "joined"),
        ),
    )
    return Exercise(lab, "03", "join-network", "Join a network", tasks, containers=(LISTENER, RADIO))


def _start_radio(lab: Lab) -> None:
    serve = "until [ -s /say/index.html ]; do sleep 0.1; done; exec httpd -f -p 127.0.0.1:9000 -h /say"
    radio = lab.run(lab.image("payload"), ["sh", "-c", serve], name=RADIO)
    lab.exec(radio, ["sh", "-c", f"mkdir /say && echo {secrets.token_hex(6)} > /say/index.html"])


def _shares_namespace(name: str, owner: str, kind: str, called: str) -> Check:
    """A container is in the namespace of one that the exercise starts from, and that is not the host's.

    Args:
        called: the namespace, for the message: "a network namespace".
    """

    def check(lab: Lab) -> str | None:
        own, wanted, host = (
            namespaces_of(lab, where).ids[kind] for where in (running(lab, name), running(lab, owner), None)
        )
        if own == wanted:
            return None
        if own == host:
            return f"{name} is in the {called.partition(' ')[2]} of the host"
        return f"{name} is in {called} that {owner} is not in"

    return all_of(setup_runs(owner), check)


def _joined_hint(lab: Lab) -> str:
    if namespaces_of(lab, running(lab, LISTENER)).ids["net"] == namespaces_of(lab).ids["net"]:
        return f"The host's loopback is not {RADIO}'s. What can `--network` name besides host, none and a network?"
    return (
        "Two containers on one network talk over a bridge, and each has its own loopback. To share a namespace is "
        "more: `docker run --help`, --network, and what the documentation of that option says about containers."
    )


def _only_network(lab: Lab) -> str | None:
    own = {process.pid: process for process in lab.host.processes(running(lab, LISTENER))}
    ids = {kind: {process.namespaces.get(kind) for process in own.values()} - {None} for kind in BASIC_KINDS}
    radio = {process.pid for process in lab.host.processes(running(lab, RADIO))}
    engine = lab.host.process().namespaces
    for process in lab.host.processes():
        for kind in BASIC_KINDS:
            if kind == "net" or process.pid in own or process.namespaces.get(kind) not in ids[kind]:
                continue
            of_host = process.namespaces[kind] == engine.get(kind)
            other = "the host" if of_host else RADIO if process.pid in radio else "another container"
            return f"it shares {KINDS[kind]} ({kind}) with {other} as well"
    return None


def _judge_heard(lab: Lab, text: str) -> str | None:
    fetch = ["curl", "-s", "-m", "5", "http://127.0.0.1:9000/"]
    page = lab.host.output(fetch, running(lab, LISTENER)).strip()
    if not page:
        return f"nothing answers on 127.0.0.1:9000 of {LISTENER}: does the program of {RADIO} still run?"
    return None if text == page else f"/heard holds “{text[:40]}”, which {RADIO} does not say"


# --- one process, alone in its PID namespace


def alone(lab: Lab) -> Exercise:
    """A container with one process: the host sees it, and it sees only itself.

    Promises: one process, alone in its PID namespace, including processes that `docker exec` or another container adds
    to that namespace; and a file with its PID on the host, which is another one after each start.
    """
    tasks = (
        runs(HERMIT, "You need a container that keeps running, with a command that is one process."),
        Task(
            "one",
            "It has one process, which the host sees",
            _one_process,
            "Some commands start others: a shell with two commands in it, or --init. Give it one program.",
            ("runs",),
        ),
        Task(
            "itself",
            "That process is alone in its pid namespace",
            _alone_in_namespace,
            "A container gets a PID namespace of its own unless it is asked to share one: which option shares?",
            ("one",),
        ),
        file_contains(
            HERMIT,
            "/outside",
            "the PID by which the host knows that process",
            _judge_outside,
            "No file inside has it: a namespace does not see what is around it. The engine is outside: `docker top` "
            "and `docker inspect` ask there; so does namespaces.of.",
            ("runs", "itself"),
        ),
    )
    return Exercise(lab, "03", "alone", "Alone, and watched", tasks, containers=(HERMIT,))


def _one_process(lab: Lab) -> str | None:
    count = sum(process.state != "Z" for process in lab.host.processes(running(lab, HERMIT)))
    return None if count == 1 else f"the host sees {count} processes in it"


def _alone_in_namespace(lab: Lab) -> str | None:
    namespace = namespaces_of(lab, running(lab, HERMIT)).ids["pid"]
    if namespace == namespaces_of(lab).ids["pid"]:
        return f"{HERMIT} sees every process of the host"
    count = sum(p.namespaces.get("pid") == namespace and p.state != "Z" for p in lab.host.processes())
    return None if count == 1 else f"{HERMIT} is in a pid namespace with {count - 1} more"


def _judge_outside(lab: Lab, text: str) -> str | None:
    if text == str(lab.host.process(running(lab, HERMIT)).pid):
        return None
    if text == "1":
        return "/outside holds 1, which is what the process calls itself"
    return f"/outside holds “{text[:20]}”, which is not the PID that the host gives it"


# --- the key of a shared memory segment


def letterbox(lab: Lab) -> Exercise:
    """Join a container's IPC namespace, and find the key of its shared memory segment.

    Promises: `courier` is in the IPC namespace of the lab's `postbox`, and its file holds the key of the segment that
    `postbox` created, which is random; a segment that the reader creates has another.
    """
    _set_up(lab, POSTBOX, _start_postbox)
    tasks = (
        runs(COURIER, "You need a container that keeps running, and has `ipcs`: labhelpers/tools."),
        Task(
            "joined",
            f"It is in the IPC namespace of {POSTBOX}",
            _shares_namespace(COURIER, POSTBOX, "ipc", "an IPC namespace"),
            f"{POSTBOX} was made shareable, so that others may join. The option is called like the namespace. Until "
            f"then `ipcs` in {COURIER} shows nothing of it.",
            ("runs",),
        ),
        file_contains(
            COURIER,
            "/key",
            f"the key of the shared memory segment that {POSTBOX} has made",
            _judge_key,
            "`ipcs` lists queues, segments and semaphores, each with its key: eight hexadecimal digits after 0x.",
            ("runs", "joined"),
        ),
    )
    return Exercise(lab, "03", "letterbox", "What is in the post", tasks, containers=(COURIER, POSTBOX))


IPC_FLAGS = {"segment": "-m", "queue": "-q", "semaphore": "-s"}


def _start_postbox(lab: Lab) -> None:
    postbox = lab.run(lab.image("tools"), "sleep 86400", name=POSTBOX, ipc="shareable", cap_drop=["ALL"])
    lab.exec(postbox, ["sh", "-c", "ipcmk --queue; ipcmk --shmem 8192; ipcmk --semaphore 1"])
    for kind in IPC_FLAGS:
        store_value(lab, f"keys {kind}", _ipc_keys(lab, kind))


def _ipc_keys(lab: Lab, kind: str) -> set[int | None]:
    with lab.hidden():
        output = lab.exec(running(lab, POSTBOX), ["ipcs", IPC_FLAGS[kind]]).stdout
    return {_number(line.split()[0]) for line in output.splitlines() if line.startswith("0x")}


def _number(key: str) -> int | None:
    """The number of a key in hexadecimal digits, with or without 0x."""
    try:
        return int(key, 16)
    except ValueError:
        return None


def _judge_key(lab: Lab, text: str) -> str | None:
    key = _number(text)
    for kind in IPC_FLAGS:
        if key in (stored_value(lab, f"keys {kind}") or ()):
            return None if kind == "segment" else f"/key holds the key of the {kind}"
        if key in _ipc_keys(lab, kind):
            return f"/key holds the key of a {kind} that {POSTBOX} did not make"
    return f"/key holds “{text[:20]}”, which is no key there"


# --- a shared namespace


def who_shares(lab: Lab) -> Exercise:
    """Find which two of three containers share a namespace, and of which kind; chosen at random.

    Promises: two names and a kind that are true of the lab's three containers as they are now. Containers that were
    replaced do not count.
    """
    if setup_changed(lab, *ROOMS):
        _start_rooms(lab)
    tasks = (
        runs(NOTES, "Any image with a shell will do; labhelpers/payload has a command that keeps running."),
        Task(
            "pair",
            f"Its file /pair holds the names of the two containers, of {', '.join(ROOMS)}, that share a namespace",
            all_of(setup_runs(*ROOMS), has_answer(NOTES, "/pair", _judge_pair)),
            "Compare the namespace ids: namespaces.matrix takes several containers, and draws one colour for one "
            "namespace.",
            ("runs",),
        ),
        file_contains(
            NOTES,
            "/kind",
            "the kind that they share, as `lsns` names it",
            _judge_kind,
            "The kinds that all three share with the host do not count. Of which kind does the third have its own?",
        ),
    )
    return Exercise(lab, "03", "who-shares", "Who shares with whom?", tasks, 0.5, (NOTES, *ROOMS))


def _start_rooms(lab: Lab) -> None:
    kind = secrets.choice(list(OPTIONS))
    owner, guest = secrets.SystemRandom().sample(ROOMS, 2)
    for name in ROOMS:
        _remove_own(lab, name)
    # the owner must exist first; its options do not show that it is one
    for name in sorted(ROOMS, key=lambda room: (room == guest, room != owner)):
        options = {"ipc": "shareable"} | ({OPTIONS[kind]: f"container:{owner}"} if name == guest else {})
        start = partial(lab.run, lab.image("payload"), "sleep 86400", name=name, **options)
        setup_container(lab, name, start)


def _shared(lab: Lab) -> tuple[set[str], str]:
    """The two rooms that share a namespace, and its kind."""
    ids = {name: namespaces_of(lab, running(lab, name)).ids for name in ROOMS}
    for kind in BASIC_KINDS:
        for name in ROOMS:
            same = {other for other in ROOMS if ids[other][kind] == ids[name][kind]}
            if len(same) == 2:
                return same, kind
    return set(), ""


def _judge_pair(lab: Lab, text: str) -> str | None:
    pair = set(text.replace(",", " ").split())
    if len(pair) != 2 or not pair <= set(ROOMS):
        return f"/pair does not hold two names out of {', '.join(ROOMS)}"
    return None if pair == _shared(lab)[0] else "these two share nothing that the third does not share"


def _judge_kind(lab: Lab, text: str) -> str | None:
    if text not in KINDS:
        return f"/kind holds “{text[:20]}”, which is no kind of namespace"
    return None if text == _shared(lab)[1] else f"no two of them alone share {KINDS[text]} ({text})"


# --- the duties of PID 1


def polite(lab: Lab) -> Exercise:
    """A container whose PID 1 handles TERM, and leaves no zombie.

    Promises: a `sleep` runs in it; TERM ends its PID 1, so that `docker stop` returns long before the engine would
    kill it; and orphans are reaped. Both are tried on a clone, which is stopped and timed: the reader's container
    keeps running. A handler that does nothing, another stop signal and a short stop timeout do not pass.
    """
    tasks = (
        runs(POLITE, "Any image with a shell and `sleep` will do; labhelpers/payload has both."),
        Task(
            "sleeps",
            "A `sleep` runs in it",
            _sleeps,
            "`sleep 600` is a command that keeps running.",
            ("runs",),
        ),
        Task(
            "term",
            "TERM ends its process 1, so that a stop does not wait",
            lambda lab: pid1_duties.ends_on_term(lab, running(lab, POLITE)),
            _term_hint,
            ("runs",),
        ),
        Task(
            "buries",
            "A process that loses its parent in it leaves no zombie",
            lambda lab: pid1_duties.leaves_no_zombies(lab, running(lab, POLITE)),
            "An orphan becomes a child of process 1, and stays in the process table until process 1 waits for it. "
            "Programs that expect no children do not. Which program exists to do this?",
            ("runs",),
        ),
    )
    return Exercise(lab, "03", "polite", "A first process with manners", tasks, 0.5, (POLITE,))


def _sleeps(lab: Lab) -> str | None:
    return None if any(map(_is_sleep, lab.host.processes(running(lab, POLITE)))) else "no `sleep` runs in it"


def _is_sleep(process: Process) -> bool:
    program = process.command.partition(" ")[0].rpartition("/")[2]
    return process.state != "Z" and program == "sleep"


def _term_hint(lab: Lab) -> str:
    container = running(lab, POLITE)
    if "does not end" in (pid1_duties.ends_on_term(lab, container) or ""):
        return "A trap whose commands do not end the shell only interrupts it. What must the handler do last?"
    return (
        f"Process 1 is `{lab.host.process(container).command[:60]}`. A shell can set a trap; or let the engine start "
        "a small init, which forwards signals: there is an option for it."
    )


# --- nested PID namespaces


def third_level(lab: Lab) -> Exercise:
    """A PID namespace inside a container's, without giving that container all privileges.

    Promises: a process with three PIDs, which is PID 1 in the innermost namespace; the three numbers in a file; and a
    container that is contained: at most one capability added, no process with more than that, and no way to the host.
    Less of Docker's own filter (seccomp, AppArmor) in place of a capability counts too.
    """
    tasks = (
        runs(MATRYOSHKA, "If it exits at once, `docker logs` says what was refused."),
        Task(
            "few",
            "It is not privileged, has at most one capability added, and no other way to the host",
            _least_privilege,
            "unshare(1) with --pid needs one capability; capabilities(7) names it, and so does this notebook.",
            ("runs",),
        ),
        Task(
            "deep",
            "One of its processes has three PIDs: the host's, the container's, its own",
            _deep,
            _deep_hint,
            ("runs",),
        ),
        file_contains(
            MATRYOSHKA,
            "/pids",
            "the three PIDs of the process that is PID 1 innermost, the host's first",
            _judge_pids,
            "NSpid in /proc/PID/status lists the PIDs that are visible in the reader's own namespace: ask on the host. "
            "namespaces.tree shows it too.",
            ("runs", "deep"),
        ),
    )
    return Exercise(lab, "03", "third-level", "One inside the other", tasks, containers=(MATRYOSHKA,))


def _least_privilege(lab: Lab) -> str | None:
    container = running(lab, MATRYOSHKA)
    config = container.attrs["HostConfig"]
    if config.get("Privileged"):
        return f"{MATRYOSHKA} is privileged: it has every right on the host"
    added = [str(name).upper().removeprefix("CAP_") for name in config.get("CapAdd") or []]
    if len(added) > 1 or "ALL" in added:
        return f"it has {', '.join(added)} added"
    ways = escape_paths(lab, container, allowed=(*added, "seccomp", "apparmor", "label"))
    return ways[0] if ways else None


def _innermost(lab: Lab) -> list[Process]:
    processes = lab.host.processes(running(lab, MATRYOSHKA))
    return [process for process in processes if len(process.nspid) == 3 and process.inside_pid == 1]


def _deep(lab: Lab) -> str | None:
    if _innermost(lab):
        return None
    most = max((len(process.nspid) for process in lab.host.processes(running(lab, MATRYOSHKA))), default=0)
    if most > 3:
        return "it has a process with more than three PIDs, and none with three that is PID 1"
    return f"none of its processes has more than {most} PID{'s' if most > 1 else ''}"


def _deep_hint(lab: Lab) -> str:
    container = running(lab, MATRYOSHKA)
    if lab.host.process(container).namespaces.get("pid") == namespaces_of(lab).ids["pid"]:
        return "It shares the host's PID namespace, so one level is missing."
    if any(process.command.startswith("unshare") for process in lab.host.processes(container)):
        return "Is --pid among its options? With --fork unshare starts a child: only that is in the new namespace."
    return "unshare(1) creates the namespace: only children that it starts afterwards are in it, so it must fork."


def _judge_pids(lab: Lab, text: str) -> str | None:
    pids = tuple(text.replace(",", " ").split())
    answers = [tuple(map(str, process.nspid)) for process in _innermost(lab)]
    if pids in answers:
        return None
    if pids in [answer[::-1] for answer in answers]:
        return "/pids holds the three in the other order"
    if pids in [answer[1:] for answer in answers]:
        return "/pids holds two: the host's is missing, which cannot be seen from inside"
    return f"/pids holds “{' '.join(pids)[:40]}”"


# --- setup


def _set_up(lab: Lab, name: str, start: Callable[[Lab], None]) -> None:
    """Start the container of an exercise, unless it runs already."""
    if setup_changed(lab, name):
        _remove_own(lab, name)
    setup_container(lab, name, lambda: start(lab))


def _remove_own(lab: Lab, name: str) -> None:
    """Remove the container of that name if this session created it; `lab.run` reports any other."""
    container = container_named(lab, name)
    if container is not None and container.labels.get("labhelpers.session") == lab.session:
        with lab.hidden():
            lab.remove(container, force=True, volumes=True)
