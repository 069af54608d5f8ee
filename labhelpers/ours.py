"""What the lab made on an engine, told by its labels, and the sessions that it belongs to.

A container inherits the labels of its image, so the chapter and session labels alone do not prove that the
lab made it: somebody may run an image that the lab built. `labhelpers.kind` says what the label was put on;
where it names another kind of thing, the labels came along and the thing is not ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, NotFound
from filelock import FileLock, Timeout

from labhelpers import state
from labhelpers.engine.find import identity
from labhelpers.engine.removal import remove_container, remove_image
from labhelpers.results import Result

CHAPTER = "labhelpers.chapter"
SESSION = "labhelpers.session"
KIND = "labhelpers.kind"
KEEP = "labhelpers.keep"
BY = "labhelpers.by"
"""Who created a thing: `READER` by a typed command; without this label the lab did."""
READER = "reader"

TRIAL = "trial"
"""The chapter of the engines that `./lab test` starts."""

_LOOKS = 5


def labels(kind: str, chapter: str, session: str) -> dict[str, str]:
    """The labels that the lab puts on a `kind`: container, network, volume or image."""
    return {CHAPTER: chapter, SESSION: session, KIND: kind}


def is_ours(kind: str, found: dict[str, str] | None) -> bool:
    """Whether labels `found` on a thing of `kind` say that the lab made it."""
    return found is not None and CHAPTER in found and found.get(KIND, kind) == kind and KEEP not in found


@dataclass(frozen=True, slots=True)
class Thing(Result):
    """Something on the engine that a lab made.

    Attributes:
        kind: container, network, volume or image.
        name: what people call it; the start of its id where it has no name.
    """

    kind: str
    name: str
    chapter: str
    session: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def things(client: docker.DockerClient, session: str | None = None) -> list[Thing]:
    """What labs made, or what one session made, in the order in which it can be removed."""
    wanted = CHAPTER if session is None else f"{SESSION}={session}"
    return [
        Thing(kind, name, found[CHAPTER], found.get(SESSION, ""), id)
        for kind, name, id, found in _listed(client, {"label": [wanted]})
        if is_ours(kind, found)
    ]


def others(client: docker.DockerClient) -> list[Thing]:
    """What is on the engine and no lab made, in the order in which it can be removed; the lab images left out.

    Nor is a volume without a name listed that a lab's container has: it goes with that container.
    """
    used = _volumes_of_labs(client)
    return [
        Thing(kind, name, "", "", id)
        for kind, name, id, found in _listed(client, {})
        if CHAPTER not in found
        and not (kind == "image" and _is_lab_image(name, found))
        and not (kind == "volume" and name in used)
    ]


def _volumes_of_labs(client: docker.DockerClient) -> set[str]:
    rows = client.api.containers(all=True, filters={"label": CHAPTER})
    mounts = [mount for row in rows for mount in row.get("Mounts") or [] if mount["Type"] == "volume"]
    # with containerd's store Docker 28 leaves out the name of one that nobody named; its directory has it
    return {mount.get("Name") or mount["Source"].split("/")[-2] for mount in mounts}


def _is_lab_image(name: str, found: dict[str, str]) -> bool:
    """One of the course's own images, or what a build of it has left without a name so far."""
    return "/labhelpers/" in f"/{name}" or ("labhelpers.stage" in found and ":" not in name)


def _listed(
    client: docker.DockerClient, filters: dict[str, Any]
) -> list[tuple[str, str, str, dict[str, str]]]:
    """(kind, name, id, labels) of what the engine has: containers, networks, volumes, and the newest image first."""
    api = client.api
    rows: list[tuple[str, str, str, dict[str, str] | None]] = []
    for row in api.containers(all=True, filters=filters):
        rows.append(
            ("container", (row["Names"] or [row["Id"][:12]])[0].lstrip("/"), row["Id"], row["Labels"])
        )
    for row in api.networks(filters=filters):
        rows.append(("network", row["Name"], row["Id"], row["Labels"]))
    for row in api.volumes(filters=filters)["Volumes"] or []:
        rows.append(("volume", row["Name"], row["Name"], row["Labels"]))
    for row in sorted(_images(client, filters), key=lambda image: -image["Created"]):
        name = (row["RepoTags"] or [row["Id"].removeprefix("sha256:")[:12]])[0]
        rows.append(("image", name, row["Id"], row["Labels"]))
    return [(kind, name, id, labels or {}) for kind, name, id, labels in rows]


def _images(client: docker.DockerClient, filters: dict[str, Any]) -> list[dict[str, Any]]:
    """The engine's images. With containerd's store the listing fails where one of them is removed meanwhile."""
    listed: Callable[..., list[dict[str, Any]]] = client.api.images
    for _ in range(_LOOKS):
        with suppress(NotFound):
            return listed(filters=filters)
    return listed(filters=filters)


def remove(client: docker.DockerClient, what: list[Thing]) -> tuple[list[Thing], list[str]]:
    """Remove things; gives those removed, and a line for each that the engine would not give up.

    A thing that somebody else's container still uses stays, and so does one that is gone already.
    """
    api = client.api
    how: dict[str, Callable[[str], Any]] = {
        "container": lambda id: remove_container(api, id, v=True),
        "network": api.remove_network,
        "volume": api.remove_volume,
        "image": lambda id: _remove_image(client, id),
    }
    removed, kept = [], []
    for thing in what:
        try:
            how[thing.kind](thing.id)
            removed.append(thing)
        except NotFound:
            pass
        except APIError as error:
            kept.append(f"{thing} stays: {error.explanation}")
    return removed, kept


def clear(client: docker.DockerClient, session: str) -> list[str]:
    """Remove all that a session made, what its builds left without a name, and what it pulled from its own registry.

    Gives a line for what would not go.
    """
    _, kept = remove(client, things(client, session))
    told = state.read_json(_record(session), {})
    for id in told.get("stages", []):
        # one that got a name since, or that a build of somebody else stands on, stays
        with suppress(APIError):
            if not client.api.inspect_image(id)["RepoTags"]:  # type: ignore[no-untyped-call]
                remove_image(client.api, id)
    registry = told.get("registry")
    if registry:
        for image in client.api.images():
            for name in image["RepoTags"] or []:
                if name.startswith(f"{registry}/"):
                    _untag(client, name)
    return kept


def _untag(client: docker.DockerClient, name: str) -> None:
    # one that a container of somebody else stands on stays: it is no loss
    with suppress(APIError):
        client.api.remove_image(name)


def _remove_image(client: docker.DockerClient, id: str) -> None:
    """By its tags and never by force: a container of somebody else may stand on it."""
    tags = client.api.inspect_image(id)["RepoTags"] or []  # type: ignore[no-untyped-call]
    for name in tags or [id]:
        remove_image(client.api, name)


class Session:
    """One process's hold on the things it makes: alive as long as its lock is held."""

    def __init__(self, engine_id: str, chapter: str) -> None:
        self.id = secrets.token_hex(4)
        self._told: dict[str, Any] = {"engine": engine_id, "chapter": chapter}
        state.write_json(_record(self.id), self._told)
        self._lock = _lock(self.id)
        self._lock.acquire(timeout=5)

    def has_registry(self, address: str) -> None:
        """Note the address of the session's registry: names of images that begin with it are the session's."""
        self._told["registry"] = address
        state.write_json(_record(self.id), self._told)

    def has_stages(self, ids: Iterable[str]) -> None:
        """Note nameless images that its builds left: stages, and what a failed build stopped at."""
        self._told["stages"] = [*self._told.get("stages", []), *ids]
        state.write_json(_record(self.id), self._told)

    def end(self) -> None:
        """Give the session up: what it made is gone."""
        _forget(self.id)
        self._lock.release()
        state.path(f"sessions/{self.id}.lock").unlink(missing_ok=True)


def begin(client: docker.DockerClient, chapter: str) -> Session:
    """Remove what dead sessions of this state directory left on this engine, and begin a new one."""
    engine_id = identity(client.info())
    with state.locked("sessions"):
        for session in _known():
            bury(client, session, engine_id)
        return Session(engine_id, chapter)


def is_alive(session: str) -> bool:
    """Whether a process of this machine holds the session."""
    if session not in _known():
        return False
    lock = _lock(session)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def bury(client: docker.DockerClient, session: str, engine_id: str) -> bool:
    """Remove what a session left if its process is gone and its things are on this engine; whether none is left."""
    if state.read_json(_record(session), {}).get("engine", engine_id) != engine_id:
        return False
    lock = _lock(session)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    kept = clear(client, session)
    if not kept:
        _forget(session)
    lock.release()
    if not kept:
        state.path(f"sessions/{session}.lock").unlink(missing_ok=True)
    return not kept


def _known() -> list[str]:
    return sorted(file.stem for file in state.path("sessions", "any").parent.glob("*.lock"))


def _record(session: str) -> str:
    return f"sessions/{session}.json"


def _forget(session: str) -> None:
    state.path(_record(session)).unlink(missing_ok=True)


def _lock(session: str) -> FileLock:
    # a lock of its own for each look: one process may hold several labs
    return FileLock(state.lock_file("sessions", f"{session}.lock"), thread_local=False)
