"""The exercises of the chapter on watching and managing: the engine's state proves them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
_fates: dict[str, dict[str, str]] = {}
"""session → suspect → what it died of."""
GAVE_UP = "I cannot go on like this"
WAIT_S = 120.0
OOM_TRIES = 5
SETTLE_S = 0.5  # what a wrong answer has left behind is gone by then


# --- docker create volume …


def make_the_volume(lab: Lab) -> Exercise:
    """Repair `docker create volume shelf_data`, and leave something in the volume.

    Promise: a file with something in it is where the engine keeps the volume, and no container has that place.
    """
    there = Task("there", f"The engine has a volume called {SHELF}", _shelf, _shelf_hint)
    filled = Task(
        "filled",
        "A file in it holds something",
        _filled,
        "A volume is filled by a container that has it mounted somewhere and writes there.",
        ("there",),
    )
    outlived = Task(
        "outlived",
        "No container is left that uses it: the volume has outlived its container",
        _outlived,
        "Remove the container and not the volume. What goes with `docker rm -v`, and what does not?",
        ("filled",),
    )
    return Exercise(
        lab, "09", "make-the-volume", "The line that makes no volume", (there, filled, outlived), SETTLE_S
    )


def _shelf(lab: Lab) -> str | None:
    names = [str(row["Name"]) for row in lab.list_volumes()]
    return None if SHELF in names else f"the engine has no volume called {SHELF}"


def _filled(lab: Lab) -> str | None:
    entries = lab.host.directory(lab.directory_of(SHELF), recursive=True)
    if any(entry.kind == "file" and entry.size_bytes for entry in entries):
        return None
    names = ", ".join(entry.path for entry in entries)
    return f"no file in {SHELF} holds anything: there is {names}" if names else f"the volume {SHELF} is empty"


def _shelf_hint(lab: Lab) -> str:
    if container_named(lab, SHELF):
        return f"{SHELF} is a container here. `docker create` makes containers, whatever its next word is."
    return (
        f"`docker create volume {SHELF}` reads: make a container from the image “volume”, with the command "
        f"{SHELF}. What it takes for a verb and what for a noun is the other way round."
    )


def _outlived(lab: Lab) -> str | None:
    place = lab.directory_of(SHELF)
    for row in lab.list_containers(stopped=True):
        for mount in row.get("Mounts") or []:
            # by the volume's name, or by its path on the host
            if mount.get("Name") == SHELF or f"{mount.get('Source')}/".startswith(f"{place}/"):
                return f"the container {row['Names'][0].lstrip('/')} still uses it"
    return None


# --- a path in place of a name


def name_not_path(lab: Lab) -> Exercise:
    """A container writes beside its volume: `-v /some/where/till_data:/data`. Mend it, and lose nothing.

    Promise: what the container writes at /data goes into the volume, and what the first one had written is in it.
    """
    with lab.hidden():
        if container_named(lab, TILL) is None:
            lab.create_volume(TILL_DATA)
            path = f"{host_home(lab)}/volumes/{TILL_DATA}"
            script = f"[ -e /data/takings ] || echo {_takings(lab)} >/data/takings; exec sleep 86400"
            words: dict[str, Any] = {"volumes": [f"{path}:/data"], "network": "none"}
            lab.run(lab.image("payload"), ["sh", "-c", script], name=TILL, **words)
    runs = Task("runs", f"A container {TILL} runs", lambda lab: not_running(lab, TILL))
    mounted = Task("mounted", f"Its /data is the volume {TILL_DATA}", _mounted, _mounted_hint, ("runs",))
    kept = Task(
        "kept",
        "/data/takings holds what the first container had written: nothing is lost",
        _kept,
        "The old takings are still where the path pointed. A container that has both, the path and the volume, can "
        "copy; `docker cp` can, too.",
        ("mounted",),
    )
    tasks = (runs, mounted, kept)
    return Exercise(lab, "09", "name-not-path", "The volume that stays empty", tasks, SETTLE_S, (TILL,))


def _mounts(lab: Lab, name: str) -> list[Mapping[str, Any]]:
    container = container_named(lab, name)
    return [] if container is None else list(container.attrs["Mounts"])


def _mounted(lab: Lab) -> str | None:
    found = {mount["Destination"]: mount for mount in _mounts(lab, TILL)}
    here = found.get("/data")
    if here is None:
        where = ", ".join(found) or "nowhere"
        return f"nothing is mounted at /data of {TILL} (but at: {where})"
    if here["Type"] != "volume":
        return f"/data of {TILL} is a directory of the host ({here['Type']}), and no volume"
    if here.get("Name") != TILL_DATA:
        return f"/data of {TILL} is the volume {here.get('Name', '')[:12]}"
    return None if here["RW"] else f"{TILL} may only read its /data: it can take nothing more"


def _mounted_hint(lab: Lab) -> str:
    if "no volume" in (_mounted(lab) or ""):
        return (
            "What stands before the first colon of -v is a volume's name, unless it begins with a slash. A mount is "
            "chosen when a container is made: it must be made anew. Look first where its data is."
        )
    return f"`docker inspect {TILL}` lists what is mounted where, under Mounts."


def _takings(lab: Lab) -> str:
    """What the first container writes: the same for the whole session, and nothing that can be guessed."""
    return hashlib.sha256(f"{lab.session} {TILL}".encode()).hexdigest()[:12]


def _kept(lab: Lab) -> str | None:
    place = lab.directory_of(TILL_DATA)
    # in the volume itself: another mount on top of it may show the old file at the same path
    entry = lab.host.entries(place, ["takings"])["takings"]
    if entry is None:
        return "there is no file /data/takings"
    if entry.kind != "file":
        return f"takings in the volume {TILL_DATA} is no file, it is a {entry.kind}"
    if lab.host.read(f"{place}/takings").strip() != _takings(lab):
        return f"takings in the volume {TILL_DATA} holds other takings than the first ones"
    same = file_in(lab, TILL, "/data/takings") == _takings(lab)
    return None if same else f"{TILL} sees another /data/takings than the one in the volume"


# --- always


def comes_back(lab: Lab) -> Exercise:
    """A container with the restart policy of the Portainer line, which has proved it.

    Promise: its program has ended without the engine's doing, and under this very policy the engine has started it
    again. RestartCount counts no start or restart by hand.
    """
    runs = Task("runs", f"A container {LIGHTHOUSE} runs", lambda lab: not_running(lab, LIGHTHOUSE))
    policy = Task(
        "policy", "It has the restart policy of the Portainer line", _policy, _policy_hint, ("runs",)
    )
    back = Task(
        "back",
        "Its program has ended by itself, and the engine has started it again",
        _back,
        "A container that is stopped or killed through the engine stays down. End its first process from inside: "
        "`docker exec`, and the signal that it does not ignore.",
        ("policy",),
    )
    return Exercise(lab, "09", "comes-back", "A light that comes back", (runs, policy, back), 1.5)


def _policy(lab: Lab) -> str | None:
    container = container_named(lab, LIGHTHOUSE)
    name = container.attrs["HostConfig"]["RestartPolicy"]["Name"] if container else ""
    return None if name == "always" else f"its restart policy is “{name or 'no'}”"


def _policy_hint(lab: Lab) -> str:
    said = _policy(lab) or ""
    if "on-failure" in said:
        return "A program that ends with exit code 0 has not failed: this policy would leave it down."
    if "unless-stopped" in said:
        return "It differs in one case: it was stopped, and then the engine was restarted. Which of the two does so?"
    return "`docker run` takes it, and `docker update` changes it while a container runs."


def _back(lab: Lab) -> str | None:
    container = running(lab, LIGHTHOUSE)
    if not container.attrs["RestartCount"]:
        return "the engine has not had to start it again so far (RestartCount is 0)"
    # an engine keeps its last 256 events; a change that is older than they are is not seen
    api: Any = lab.client.api  # its types know no fractions of a second
    events = api.events(
        since=_exact(container.attrs["State"]["StartedAt"]),
        until=_exact(lab.engine_time()),
        filters={"container": container.id, "event": "update"},
        decode=True,
    )
    changed = next(iter(events), None) is not None
    events.close()
    return (
        "its policy was changed after the engine had started it again: let it prove this one"
        if changed
        else None
    )


def _exact(time: str) -> str:
    """A time of the engine's as its events are asked for: seconds since 1970, a point, nanoseconds."""
    seconds, _, rest = time.rstrip("Z").partition(".")
    fraction = (re.match(r"\d*", rest) or [""])[0]
    at = datetime.fromisoformat(f"{seconds[:19]}{_zone(time)}").timestamp()
    return f"{int(at)}.{fraction:0<9.9}"


def _zone(time: str) -> str:
    return found[0] if (found := re.search(r"[+-]\d\d:\d\d$", time)) else "+00:00"


# --- see, and not command


def watch_only(lab: Lab) -> Exercise:
    """A container that lists the containers, and could not start one.

    Promise: nothing within the watchman's reach takes commands for the engine, and no mount, volume, namespace or
    right leads to it or to the host; the list that it holds is one that `guard` gives it, of this exercise.
    """
    with lab.hidden():
        door = find_engine_socket(lab)
        given(lab, GUARD, lambda: _post_the_guard(lab, door))
    runs = Task(
        "runs",
        f"A container {WATCHMAN} runs",
        lambda lab: not_running(lab, WATCHMAN),
        "You need a container that stays and has curl: labhelpers/tools.",
    )
    apart = Task(
        "apart",
        "It cannot command the engine: it has no way to its socket",
        _apart,
        _apart_hint,
        ("runs",),
    )
    seen = Task(
        "seen",
        f"Its file /seen holds the list of containers that the engine's API gives, with the id of {GUARD} in it",
        _seen,
        f"{GUARD} holds the engine's socket, and listens on list.sock in the volume {POST}. curl --unix-socket, and "
        "the path is /containers/json.",
        ("apart",),
    )
    tasks = (runs, apart, seen)
    return Exercise(lab, "09", "watch-only", "See, and not command", tasks, SETTLE_S, (WATCHMAN, GUARD))


def _post_the_guard(lab: Lab, door: EngineSocket) -> None:
    lab.create_volume(POST)
    guard = start_proxy(lab, door, POST, name=GUARD)
    lab.exec(guard, ["rm", f"{PROXY_DIRECTORY}/get.sock"])


def _apart(lab: Lab) -> str | None:
    ways = escape_paths(lab, running(lab, WATCHMAN))
    return f"{WATCHMAN}: {ways[0]}" if ways else None


def _apart_hint(lab: Lab) -> str:
    missing = _apart(lab) or ""
    if "read-only" in missing:
        return "A request is written to a connection, and not to the file. Who can open the socket can send anything."
    if "shares a PID namespace" in missing:
        return (
            "/proc/PID/root leads to the files of each process that it sees. Give it process ids of its own."
        )
    if "over the network" in missing:
        return "The engine listens on a port. What it needs is a socket in a volume: it can do without a network."
    return f"Give it the volume {POST}, and nothing of {SOCKET_PATH} or of the host's directories."


def _seen(lab: Lab) -> str | None:
    if missing := not_as_given(lab, GUARD):
        return missing
    guard, watchman = running(lab, GUARD), running(lab, WATCHMAN)
    said = file_in(lab, WATCHMAN, "/seen")
    if not said:
        return f"{WATCHMAN} has no file /seen, or it is empty"
    try:
        ids = [row["Id"] for row in json.loads(said)]
    except (ValueError, TypeError, KeyError):
        return f"/seen is no list of containers: “{said[:40]}”"
    if guard.id not in ids:
        return f"{GUARD} is not in that list: it is of another time or another engine"
    if watchman.id not in ids:
        return f"{WATCHMAN} itself is not in that list: it was not {WATCHMAN} that asked for it"
    posts = [mount for mount in _mounts(lab, WATCHMAN) if mount.get("Name") == POST]
    return (
        None if posts else f"{WATCHMAN} has no way to {GUARD}: the list was brought to it, it did not see it"
    )


# --- three deaths, one exit code


def three_deaths(lab: Lab) -> Exercise:
    """Three containers ended with exit code 137: by the kernel, by somebody's hand, by their own will.

    Promise: the three names are the right ones. Which one died of what is drawn, and kept from what the lab did: a
    name, a log or a state that is changed later changes nothing.
    """
    with lab.hidden():
        given(lab, INSPECTOR, lambda: lab.run(lab.image("payload"), name=INSPECTOR, network="none"))
        if lab.session not in _fates or any(container_named(lab, name) is None for name in SUSPECTS):
            _fates[lab.session] = _let_them_die(lab)
    tasks = [
        Task("kernel", _asks("kernel", "was killed by the kernel for want of memory"), *_answer("kernel")),
        Task(
            "somebody", _asks("somebody", "was killed by somebody through the engine"), *_answer("somebody")
        ),
        Task("itself", _asks("itself", "chose its exit code itself"), *_answer("itself")),
    ]
    return Exercise(lab, "09", "three-deaths", "Three deaths, one exit code", tasks, SETTLE_S, (INSPECTOR,))


HINTS = {
    "kernel": "`docker inspect` knows more of a death than its exit code: look at State.",
    "somebody": "The engine notes a kill before it notes the death: `docker events`, with --since and --filter. It "
    "keeps the last events only; who is left when the other two are found?",
    "itself": "A program that ends by its own will may have said why: `docker logs`.",
}


def _asks(file: str, words: str) -> str:
    return f"The file /{file} in {INSPECTOR} holds the name of the one ({', '.join(SUSPECTS)}) that {words}"


def _answer(file: str) -> tuple[Any, str]:
    def check(lab: Lab) -> str | None:
        name = file_in(lab, INSPECTOR, f"/{file}")
        if not name:
            return f"{INSPECTOR} has no file /{file}, or it is empty"
        if name not in SUSPECTS:
            return f"/{file} holds “{name[:30]}”, which is none of the three"
        return None if _fates[lab.session][name] == file else f"{name} did not die so"

    return check, HINTS[file]


def _let_them_die(lab: Lab) -> dict[str, str]:
    """The same command in all three, so that `docker ps` does not tell; what each does is put into it.

    Returns:
        Name → the file that is to hold it.
    """
    ends = [ALLOCATE_COMMAND, f"echo {GAVE_UP}; exit 137", "sleep 86400"]
    files = dict(zip(ends, ("kernel", "itself", "somebody"), strict=True))
    secrets.SystemRandom().shuffle(ends)
    wait = "until [ -s /fate ]; do sleep 0.05; done; . /fate"
    limits: dict[str, Any] = {
        "memory": MEMORY_LIMIT_BYTES,
        "memory_swap": MEMORY_LIMIT_BYTES,
        "network": "none",
    }
    made: list[tuple[Container, str]] = []
    for name, end in zip(SUSPECTS, ends, strict=True):
        if container_named(lab, name):
            lab.remove(name, force=True)
        container = lab.run(lab.image("payload"), ["sh", "-c", wait], name=name, **limits)
        lab.exec(container, ["sh", "-c", 'echo "$1" >/fate.new; mv /fate.new /fate', "sh", end])
        made.append((container, end))
    for container, end in made:
        if end.startswith("sleep"):
            lab.kill(container)
    for container, end in made:
        lab.wait(container, limit_s=WAIT_S)
        for _ in range(OOM_TRIES):
            if end != ALLOCATE_COMMAND or lab.inspect(container)["State"]["OOMKilled"]:
                break
            # the engine missed the kill, which the exercise asks for: once more, with the same fate
            lab.start(container)
            lab.wait(container, limit_s=WAIT_S)
    return {str(container.name): files[end] for container, end in made}
