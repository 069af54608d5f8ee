"""The exercises of the chapter on watching and managing: the engine's state proves them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from labhelpers.course.checks import (
    all_of,
    file_contains,
    has_answer,
    has_volume,
    mount_at,
    mounts,
    not_a_file,
    runs,
    setup_runs,
)
from labhelpers.course.containers import (
    container_named,
    file_in,
    running,
    setup_container,
    store_value,
    stored_value,
)
from labhelpers.course.escape import escape_paths
from labhelpers.course.exercises import Exercise, Task
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.monitoring.engine_socket import PROXY_DIRECTORY, SOCKET_PATH, find_engine_socket, start_proxy
from labhelpers.monitoring.restart import ALLOCATE_COMMAND, MEMORY_LIMIT_BYTES
from labhelpers.monitoring.storage import host_home

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab
    from labhelpers.monitoring.engine_socket import EngineSocket

SHELF = with_suffix("shelf_data")
TILL, TILL_DATA = all_with_suffix("till", "till_data")
LIGHTHOUSE = with_suffix("lighthouse")
GUARD, POST, WATCHMAN = all_with_suffix("guard", "guard-post", "watchman")
SUSPECTS, INSPECTOR = all_with_suffix("ada", "bob", "cleo"), with_suffix("inspector")
GAVE_UP = "I cannot go on like this"
WAIT_S = 120.0
OOM_TRIES = 5
SETTLE_S = 0.5  # a container that exits at once is gone by then


# --- docker create volume …


def make_the_volume(lab: Lab) -> Exercise:
    """Repair `docker create volume shelf_data`, and store something in the volume.

    Promise: a file that is not empty is where the engine keeps the volume, and no container uses the volume.
    """
    tasks = (
        Task("there", f"The engine has a volume called {SHELF}", has_volume(SHELF), _shelf_hint),
        Task(
            "filled",
            "A file in it holds something",
            _is_filled,
            "A volume is filled by a container that has it mounted somewhere and writes there.",
            ("there",),
        ),
        Task(
            "outlived",
            "No container is left that uses it: the volume has outlived its container",
            _is_unused,
            "Remove the container and not the volume. What does `docker rm -v` remove, and what does it leave?",
            ("filled",),
        ),
    )
    return Exercise(lab, "09", "make-the-volume", "The line that makes no volume", tasks, SETTLE_S)


def _is_filled(lab: Lab) -> str | None:
    entries = lab.host.directory(lab.directory_of(SHELF), recursive=True)
    if any(entry.kind == "file" and entry.size_bytes for entry in entries):
        return None
    names = ", ".join(entry.path for entry in entries)
    return f"no file in {SHELF} holds anything: there is {names}" if names else f"the volume {SHELF} is empty"


def _shelf_hint(lab: Lab) -> str:
    if container_named(lab, SHELF):
        return (
            f"{SHELF} is a container here. `docker create` creates containers, whatever its next argument is."
        )
    return (
        f"`docker create volume {SHELF}` reads: make a container from the image “volume”, with the command "
        f"{SHELF}. In docker's commands the kind of object comes first, and then the action."
    )


def _is_unused(lab: Lab) -> str | None:
    directory = lab.directory_of(SHELF)
    for row in lab.list_containers(stopped=True):
        for mount in row.get("Mounts") or []:
            # by the volume's name, or by its path on the host
            if mount.get("Name") == SHELF or f"{mount.get('Source')}/".startswith(f"{directory}/"):
                return f"the container {row['Names'][0].lstrip('/')} still uses it"
    return None


# --- a path in place of a name


def name_not_path(lab: Lab) -> Exercise:
    """Repair `-v /some/where/till_data:/data`, which writes beside the volume, and lose nothing.

    Promise: what the container writes at /data goes into the volume, and the file of the first container is in it.
    """
    setup_container(lab, TILL, lambda: _start_till(lab))
    tasks = (
        runs(TILL),
        Task(
            "mounted",
            f"Its /data is the volume {TILL_DATA}",
            all_of(mounts(TILL, "/data", TILL_DATA), _is_writable),
            _mounted_hint,
            ("runs",),
        ),
        Task(
            "kept",
            "/data/takings holds what the first container had written: nothing is lost",
            _has_takings,
            "The old takings are still where the path pointed. A container that has both, the path and the volume, can "
            "copy; `docker cp` can, too.",
            ("mounted",),
        ),
    )
    return Exercise(lab, "09", "name-not-path", "The volume that stays empty", tasks, SETTLE_S, (TILL,))


def _start_till(lab: Lab) -> None:
    lab.create_volume(TILL_DATA)
    path = f"{host_home(lab)}/volumes/{TILL_DATA}"
    script = f"[ -e /data/takings ] || echo {_takings(lab)} >/data/takings; exec sleep 86400"
    options: dict[str, Any] = {"volumes": [f"{path}:/data"], "network": "none"}
    lab.run(lab.image("payload"), ["sh", "-c", script], name=TILL, **options)


def _is_writable(lab: Lab) -> str | None:
    mount = mount_at(lab, TILL, "/data")
    return None if mount and mount["RW"] else f"{TILL} may only read its /data: it can take nothing more"


def _mounted_hint(lab: Lab) -> str:
    mount = mount_at(lab, TILL, "/data")
    if mount and mount["Type"] != "volume":
        return (
            "In -v, the part before the first colon is a volume's name, unless it begins with a slash. Mounts are set "
            "when a container is created: a new one is needed. Look first where its data is."
        )
    return f"`docker inspect {TILL}` lists what is mounted where, under Mounts."


def _takings(lab: Lab) -> str:
    """What the first container writes: the same for the whole session, and impossible to guess."""
    return hashlib.sha256(f"{lab.session} {TILL}".encode()).hexdigest()[:12]


def _has_takings(lab: Lab) -> str | None:
    directory = lab.directory_of(TILL_DATA)
    # in the volume itself: another mount on top of it may show the old file at the same path
    in_volume, nothing = f"takings in the volume {TILL_DATA}", "there is no file /data/takings"
    if missing := not_a_file(lab, directory, "takings", in_volume, nothing):
        return missing
    if lab.host.read(f"{directory}/takings").strip() != _takings(lab):
        return f"{in_volume} holds other takings than the first ones"
    same = file_in(lab, TILL, "/data/takings") == _takings(lab)
    return None if same else f"{TILL} sees another /data/takings than the one in the volume"


# --- always


def comes_back(lab: Lab) -> Exercise:
    """A container with the restart policy of the Portainer line, which has been applied.

    Promise: its program has exited by itself, and under this very policy the engine has restarted it. RestartCount
    does not count starts and restarts by hand.
    """
    tasks = (
        runs(LIGHTHOUSE),
        Task("policy", "It has the restart policy of the Portainer line", _policy, _policy_hint, ("runs",)),
        Task(
            "back",
            "Its program has ended by itself, and the engine has started it again",
            _was_restarted,
            "A container that is stopped or killed through the engine stays down. End its first process from inside: "
            "`docker exec`, and the signal that it does not ignore.",
            ("policy",),
        ),
    )
    return Exercise(lab, "09", "comes-back", "A light that comes back", tasks, 1.5)


def _policy_of(lab: Lab) -> str:
    container = container_named(lab, LIGHTHOUSE)
    return (container.attrs["HostConfig"]["RestartPolicy"]["Name"] if container else "") or "no"


def _policy(lab: Lab) -> str | None:
    policy = _policy_of(lab)
    return None if policy == "always" else f"its restart policy is “{policy}”"


def _policy_hint(lab: Lab) -> str:
    policy = _policy_of(lab)
    if policy == "on-failure":
        return "A program that ends with exit code 0 has not failed: this policy would leave it down."
    if policy == "unless-stopped":
        return "It differs in one case: it was stopped, and then the engine was restarted. Which of the two does so?"
    return "`docker run` takes it, and `docker update` changes it while a container runs."


def _was_restarted(lab: Lab) -> str | None:
    container = running(lab, LIGHTHOUSE)
    if not container.attrs["RestartCount"]:
        return "the engine has not had to start it again so far (RestartCount is 0)"
    # an engine keeps its last 256 events; an older change is not found
    api: Any = lab.client.api  # its types know no fractions of a second
    events = api.events(
        since=_event_time(container.attrs["State"]["StartedAt"]),
        until=_event_time(lab.engine_time()),
        filters={"container": container.id, "event": "update"},
        decode=True,
    )
    changed = next(iter(events), None) is not None
    events.close()
    if changed:
        return "its policy was changed after the engine had started it again: let the engine apply this one"
    return None


def _event_time(time: str) -> str:
    """A time of the engine as `docker events` takes it: seconds since 1970, a point, nanoseconds."""
    seconds, _, rest = time.rstrip("Z").partition(".")
    fraction = (re.match(r"\d*", rest) or [""])[0]
    zone = match[0] if (match := re.search(r"[+-]\d\d:\d\d$", time)) else "+00:00"
    timestamp = datetime.fromisoformat(f"{seconds[:19]}{zone}").timestamp()
    return f"{int(timestamp)}.{fraction:0<9.9}"


# --- list containers, and control none


def watch_only(lab: Lab) -> Exercise:
    """A container that lists the containers, and could not start one.

    Promise: nothing within the watchman's reach takes commands for the engine, and no mount, volume, namespace or
    capability leads to it or to the host; its list comes from the `guard` of this exercise.
    """
    with lab.hidden():
        engine_socket = find_engine_socket(lab)
    setup_container(lab, GUARD, lambda: _start_guard(lab, engine_socket))
    tasks = (
        runs(WATCHMAN, "You need a container that keeps running and has curl: labhelpers/tools."),
        Task(
            "apart",
            "It cannot command the engine: it has no way to its socket",
            _is_apart,
            _apart_hint,
            ("runs",),
        ),
        Task(
            "seen",
            f"Its file /seen holds the list of containers that the engine's API gives, with the id of {GUARD} in it",
            all_of(setup_runs(GUARD), has_answer(WATCHMAN, "/seen", _judge_list)),
            f"{GUARD} holds the engine's socket, and listens on list.sock in the volume {POST}. curl --unix-socket, "
            "and the path is /containers/json.",
            ("apart",),
        ),
    )
    return Exercise(lab, "09", "watch-only", "See, and not command", tasks, SETTLE_S, (WATCHMAN, GUARD))


def _start_guard(lab: Lab, engine_socket: EngineSocket) -> None:
    lab.create_volume(POST)
    guard = start_proxy(lab, engine_socket, POST, name=GUARD)
    lab.exec(guard, ["rm", f"{PROXY_DIRECTORY}/get.sock"])


def _is_apart(lab: Lab) -> str | None:
    ways = escape_paths(lab, running(lab, WATCHMAN))
    return f"{WATCHMAN}: {ways[0]}" if ways else None


def _apart_hint(lab: Lab) -> str:
    way = _is_apart(lab) or ""
    if "read-only" in way:
        return "A request is written to a connection, not to the file: a client that can open the socket can send any."
    if "shares a PID namespace" in way:
        return (
            "/proc/PID/root leads to the files of each process that it sees. Give it process ids of its own."
        )
    if "over the network" in way:
        return "The engine listens on a port. What it needs is a socket in a volume: it can do without a network."
    return f"Give it the volume {POST}, and nothing of {SOCKET_PATH} or of the host's directories."


def _judge_list(lab: Lab, text: str) -> str | None:
    guard, watchman = running(lab, GUARD), running(lab, WATCHMAN)
    try:
        ids = [row["Id"] for row in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        return f"/seen is no list of containers: “{text[:40]}”"
    if guard.id not in ids:
        return f"{GUARD} is not in that list: it is from another time or another engine"
    if watchman.id not in ids:
        return f"{WATCHMAN} itself is not in that list: {WATCHMAN} did not request it"
    if any(mount.get("Name") == POST for mount in watchman.attrs["Mounts"]):
        return None
    return f"{WATCHMAN} has no way to {GUARD}: the list was brought to it, it did not request it"


# --- three causes of exit code 137


def three_deaths(lab: Lab) -> Exercise:
    """Three containers exited with code 137: the kernel killed one, `docker kill` another, the third chose the code.

    Promise: the three names are the right ones. The causes are drawn at random, and stored by the lab: a name, a log
    or a state that is changed later changes nothing.
    """
    setup_container(lab, INSPECTOR, lambda: lab.run(lab.image("payload"), name=INSPECTOR, network="none"))
    if not stored_value(lab, "causes") or any(container_named(lab, name) is None for name in SUSPECTS):
        with lab.hidden():
            store_value(lab, "causes", _run_suspects(lab))
    tasks = [
        file_contains(
            INSPECTOR,
            f"/{cause}",
            f"the name of the one ({', '.join(SUSPECTS)}) that {what}",
            partial(_judge_suspect, cause),
            hint,
            (),
        )
        for cause, (what, hint) in CAUSES.items()
    ]
    return Exercise(lab, "09", "three-deaths", "Three deaths, one exit code", tasks, SETTLE_S, (INSPECTOR,))


CAUSES = {
    "kernel": (
        "was killed by the kernel for want of memory",
        "`docker inspect` shows more about an exit than its code: look at State.",
    ),
    "somebody": (
        "was killed by somebody through the engine",
        "The engine records a kill before it records the exit: `docker events`, with --since and --filter. It keeps "
        "the last events only; who is left when the other two are found?",
    ),
    "itself": (
        "chose its exit code itself",
        "A program that exits by itself may have printed the reason: `docker logs`.",
    ),
}
"""file → what happened to the container that it names, and the hint."""


def _judge_suspect(cause: str, lab: Lab, text: str) -> str | None:
    if text not in SUSPECTS:
        return f"/{cause} holds “{text[:30]}”, which is none of the three"
    return None if stored_value(lab, "causes")[text] == cause else f"{text} did not die so"


def _run_suspects(lab: Lab) -> dict[str, str]:
    """Run the same command in all three, so that `docker ps` shows no difference; a file says what each does.

    Returns:
        Name → cause.
    """
    scripts = [ALLOCATE_COMMAND, f"echo {GAVE_UP}; exit 137", "sleep 86400"]
    causes = dict(zip(scripts, ("kernel", "itself", "somebody"), strict=True))
    secrets.SystemRandom().shuffle(scripts)
    wait = "until [ -s /fate ]; do sleep 0.05; done; . /fate"
    limits: dict[str, Any] = {
        "memory": MEMORY_LIMIT_BYTES,
        "memory_swap": MEMORY_LIMIT_BYTES,
        "network": "none",
    }
    suspects: list[tuple[Container, str]] = []
    for name, script in zip(SUSPECTS, scripts, strict=True):
        if container_named(lab, name):
            lab.remove(name, force=True)
        container = lab.run(lab.image("payload"), ["sh", "-c", wait], name=name, **limits)
        lab.exec(container, ["sh", "-c", 'echo "$1" >/fate.new; mv /fate.new /fate', "sh", script])
        suspects.append((container, script))
    for container, script in suspects:
        if causes[script] == "somebody":
            lab.kill(container)
    for container, script in suspects:
        lab.wait(container, limit_s=WAIT_S)
        for _ in range(OOM_TRIES):
            if script != ALLOCATE_COMMAND or lab.inspect(container)["State"]["OOMKilled"]:
                break
            # the engine missed the OOM kill, which the exercise needs: run it again
            lab.start(container)
            lab.wait(container, limit_s=WAIT_S)
    return {str(container.name): causes[script] for container, script in suspects}
