"""The exercises of the chapter on watching and managing: the engine's state proves them."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from labhelpers.engine.removal import kill_container
from labhelpers.errors import LabError
from labhelpers.exercises import Exercise, Task, container_named, not_running
from labhelpers.monitoring.door import INSIDE, PLACE, docker_sock, start_proxy
from labhelpers.monitoring.places import files_in, home
from labhelpers.monitoring.restart import EATS, LIMIT_BYTES
from labhelpers.names import all_named, named

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

SHELF = named("shelf_data")
TILL, TILL_DATA = all_named("till", "till_data")
LIGHTHOUSE = named("lighthouse")
GUARD, POST, WATCHMAN = all_named("guard", "guard-post", "watchman")
SUSPECTS, INSPECTOR = all_named("ada", "bob", "cleo"), named("inspector")
GAVE_UP = "I cannot go on like this"
WAIT_S = 120.0
OOM_TRIES = 5
SETTLE_S = 0.5  # what a wrong answer has left behind is gone by then


# --- docker create volume …


def make_the_volume(lab: Lab) -> Exercise:
    """Repair `docker create volume shelf_data`, and leave something in the volume."""
    there = Task("there", f"The engine has a volume called {SHELF}", _shelf, _shelf_hint)
    filled = Task(
        "filled",
        "A file in it holds something",
        lambda lab: None if files_in(lab, SHELF) else f"the volume {SHELF} is empty",
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
    names = [str(row["Name"]) for row in lab.client.api.volumes()["Volumes"] or []]
    return None if SHELF in names else f"the engine has no volume called {SHELF}"


def _shelf_hint(lab: Lab) -> str:
    if container_named(lab, SHELF):
        return f"{SHELF} is a container here. `docker create` makes containers, whatever its next word is."
    return (
        "`docker create volume shelf_data` reads: make a container from the image “volume”, with the command "
        "shelf_data. What it takes for a verb and what for a noun is the other way round."
    )


def _outlived(lab: Lab) -> str | None:
    users = lab.client.api.containers(all=True, filters={"volume": SHELF})
    return f"the container {users[0]['Names'][0].lstrip('/')} still uses it" if users else None


# --- a path in place of a name


def name_not_path(lab: Lab) -> Exercise:
    """A container writes beside its volume: `-v /some/where/till_data:/data`. Mend it, and lose nothing."""
    with lab.quiet():
        if container_named(lab, TILL) is None:
            lab.create_volume(TILL_DATA)
            path = f"{home(lab)}/volumes/{TILL_DATA}"
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
    return Exercise(
        lab, "09", "name-not-path", "The volume that stays empty", (runs, mounted, kept), SETTLE_S
    )


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
    return (
        None
        if here.get("Name") == TILL_DATA
        else f"/data of {TILL} is the volume {here.get('Name', '')[:12]}"
    )


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
    with lab.quiet():
        now = lab.exec(TILL, ["cat", "/data/takings"])
    if now.exit_code:
        return "there is no file /data/takings"
    same = now.stdout.strip() == _takings(lab)
    return None if same else "/data/takings holds other takings than the first ones"


# --- always


def comes_back(lab: Lab) -> Exercise:
    """A container with the restart policy of the Portainer line, which has proved it."""
    runs = Task("runs", f"A container {LIGHTHOUSE} runs", lambda lab: not_running(lab, LIGHTHOUSE))
    policy = Task(
        "policy", "It has the restart policy of the Portainer line", _policy, _policy_hint, ("runs",)
    )
    back = Task(
        "back",
        "Its program has ended by itself, and the engine has started it again",
        _back,
        "Who stops or kills it by the engine is obeyed. End its first process from inside: `docker exec`, and the "
        "signal that it does not ignore.",
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
    container = container_named(lab, LIGHTHOUSE)
    count = container.attrs["RestartCount"] if container else 0
    return None if count else "the engine has not had to start it again so far (RestartCount is 0)"


# --- see, and not command


def watch_only(lab: Lab) -> Exercise:
    """A container that lists the containers, and could not start one."""
    with lab.quiet():
        door = docker_sock(lab)
        if container_named(lab, GUARD) is None:
            lab.create_volume(POST)
            guard = start_proxy(lab, door, POST, name=GUARD)
            lab.exec(guard, ["rm", f"{PLACE}/get.sock"])
    runs = Task(
        "runs",
        f"A container {WATCHMAN} runs",
        lambda lab: not_running(lab, WATCHMAN),
        "You need a container that stays and has curl: labhelpers/tools.",
    )
    path = str(door)
    apart = Task(
        "apart",
        "It cannot command the engine: it has no way to its socket",
        lambda lab: _apart(lab, path),
        lambda lab: _apart_hint(lab, path),
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
    return Exercise(lab, "09", "watch-only", "See, and not command", (runs, apart, seen), SETTLE_S)


def _apart(lab: Lab, path: str) -> str | None:
    container = container_named(lab, WATCHMAN)
    if container is None:
        return f"the engine has no container called {WATCHMAN}"
    host = container.attrs["HostConfig"]
    if host["Privileged"]:
        return f"{WATCHMAN} is privileged: the host's disks are open to it"
    if host["NetworkMode"] == "host" or host["PidMode"] == "host":
        return f"{WATCHMAN} is in a namespace of the host"
    for mount in _mounts(lab, WATCHMAN):
        source = str(mount["Source"])
        if mount["Type"] == "bind" and (
            source.endswith("docker.sock") or f"{path}/".startswith(f"{source}/")
        ):
            how = "" if mount["RW"] else " (read-only: that changes nothing)"
            return f"{WATCHMAN} has the engine's socket at {mount['Destination']}{how}"
    return None


def _apart_hint(lab: Lab, path: str) -> str:
    if "read-only" in (_apart(lab, path) or ""):
        return "A request is written to a connection, and not to the file. Who can open the socket can send anything."
    return f"Give it the volume {POST}, and nothing of {INSIDE}."


def _seen(lab: Lab) -> str | None:
    guard = container_named(lab, GUARD)
    if guard is None or guard.status != "running":
        return f"{GUARD} does not run: run the exercise's cell again"
    with lab.quiet():
        said = lab.exec(WATCHMAN, ["cat", "/seen"])
    if said.exit_code or not said.stdout.strip():
        return f"{WATCHMAN} has no file /seen, or it is empty"
    try:
        ids = [row["Id"] for row in json.loads(said.stdout)]
    except (ValueError, TypeError, KeyError):
        return f"/seen is no list of containers: “{said.stdout.strip()[:40]}”"
    return (
        None if guard.id in ids else f"{GUARD} is not in that list: it is of another time or another engine"
    )


# --- three deaths, one exit code


def three_deaths(lab: Lab) -> Exercise:
    """Three containers ended with exit code 137: by the kernel, by somebody's hand, by their own will."""
    with lab.quiet():
        if container_named(lab, INSPECTOR) is None:
            lab.run(lab.image("payload"), name=INSPECTOR, network="none")
        if any(container_named(lab, name) is None for name in SUSPECTS):
            _let_them_die(lab)
    tasks = [
        Task("kernel", _asks("kernel", "was killed by the kernel for want of memory"), *_answer("kernel")),
        Task(
            "somebody", _asks("somebody", "was killed by somebody through the engine"), *_answer("somebody")
        ),
        Task("itself", _asks("itself", "chose its exit code itself"), *_answer("itself")),
    ]
    return Exercise(lab, "09", "three-deaths", "Three deaths, one exit code", tasks, SETTLE_S)


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
        if missing := not_running(lab, INSPECTOR):
            return missing
        with lab.quiet():
            said = lab.exec(INSPECTOR, ["cat", f"/{file}"])
        name = said.stdout.strip()
        if said.exit_code or not name:
            return f"{INSPECTOR} has no file /{file}, or it is empty"
        if name not in SUSPECTS:
            return f"/{file} holds “{name[:30]}”, which is none of the three"
        truth = _truth(lab, name)
        return None if truth == file else f"{name} did not die so"

    return check, HINTS[file]


def _truth(lab: Lab, name: str) -> str | None:
    """How a suspect died, from what the engine keeps of it."""
    container = container_named(lab, name)
    if container is None or container.status != "exited":
        return None
    if container.attrs["State"]["OOMKilled"]:
        return "kernel"
    return "itself" if GAVE_UP.encode() in container.logs() else "somebody"


def _let_them_die(lab: Lab) -> None:
    """The same command in all three, so that `docker ps` does not tell; what each does is put into it."""
    ends = [EATS, f"echo {GAVE_UP}; exit 137", "sleep 86400"]
    secrets.SystemRandom().shuffle(ends)
    wait = "until [ -s /fate ]; do sleep 0.05; done; . /fate"
    limits: dict[str, Any] = {"memory": LIMIT_BYTES, "memory_swap": LIMIT_BYTES, "network": "none"}
    made: list[tuple[Container, str]] = []
    for name, end in zip(SUSPECTS, ends, strict=True):
        if container_named(lab, name):
            lab.remove(name, force=True)
        container = lab.run(lab.image("payload"), ["sh", "-c", wait], name=name, **limits)
        lab.exec(container, ["sh", "-c", 'echo "$1" >/fate.new; mv /fate.new /fate', "sh", end])
        made.append((container, end))
    for container, end in made:
        if end.startswith("sleep"):
            kill_container(container)
    for container, end in made:
        _until_it_ended(container)
        for _ in range(OOM_TRIES):
            if end != EATS or container.attrs["State"]["OOMKilled"]:
                break
            # the engine missed the kill, and its word is what the exercise asks for: once more, with the same fate
            container.start()
            _until_it_ended(container)


def _until_it_ended(container: Container) -> None:
    last = time.monotonic() + WAIT_S
    while time.monotonic() < last:
        try:
            container.reload()
        except NotFound:
            break
        if container.status == "exited":
            return
        time.sleep(0.05)
    raise LabError(f"{container.name} did not end", hint="run the exercise's cell again")
