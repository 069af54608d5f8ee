"""What the lab made on an engine, and the sessions that it belongs to.

A label can be copied or set by hand, and another checkout uses the same labels. So the session records of this state
directory are the authority: a thing is ours if its session label names a session that has a record here. A record
stays until nothing of its session is left on the engine.

A container inherits the labels of its image, so the chapter and session labels alone do not prove that the
lab made it: somebody may run an image that the lab built. `labhelpers.kind` says what the label was put on;
where it names another kind of thing, the labels came along and the thing is not ours.

A volume that a reader created with a typed command (`labhelpers.by=reader`), under a name that no chapter prescribes,
may hold work. It outlives its session and is removed only when the reader confirms it.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from filelock import FileLock, Timeout
from requests.exceptions import RequestException

from labhelpers import state
from labhelpers.engine.find import identity
from labhelpers.engine.removal import remove_container, remove_image
from labhelpers.results import Result, column, record

CHAPTER = "labhelpers.chapter"
SESSION = "labhelpers.session"
KIND = "labhelpers.kind"
KEEP = "labhelpers.keep"
CREATED_BY = "labhelpers.by"
"""Who created a thing: `READER` by a typed command; without this label the Lab API did."""
READER = "reader"

TERMINAL = "terminal"
"""The chapter of what is made in JupyterLab's terminals."""

TEST_ENGINES = "test-engines"
"""The chapter of the engines that `./lab test` starts."""

RUN = "LABHELPERS_RUN"
"""The environment variable with which `./lab run` marks the sessions of its kernels."""

_ATTEMPTS = 5
# what a session's record has lists of; the rest is text
_LISTS = ("volumes", "stages")
# the engine names an anonymous volume so (moby, volume/service: stringid.GenerateRandomID)
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")


def labels(kind: str, chapter: str, session: str) -> dict[str, str]:
    """The labels that the lab puts on a `kind`: container, network, volume or image."""
    return {CHAPTER: chapter, SESSION: session, KIND: kind}


def has_lab_labels(kind: str, labels: dict[str, str] | None) -> bool:
    """Whether `labels` on a thing of `kind` say that the lab made it."""
    return labels is not None and CHAPTER in labels and labels.get(KIND, kind) == kind and KEEP not in labels


def outlives_session(kind: str, name: str, labels: Mapping[str, str] | None) -> bool:
    """Whether it is a volume that a reader created in order to keep it: only the reader has it removed.

    It has a name, and one that no chapter prescribes: those of the lessons go with their session, so that a chapter
    can be run again from its top.
    """
    from labhelpers.lab.names import is_course_volume

    by_reader = kind == "volume" and (labels or {}).get(CREATED_BY) == READER
    return by_reader and not _ANONYMOUS.fullmatch(name) and not is_course_volume(name)


@record
class Resource(Result):
    """A resource on the engine that a lab created."""

    kind: str = column("`container`, `network`, `volume` or `image`")
    name: str = column("name, or the start of the ID without a name")
    chapter: str = column("chapter whose lab created the resource")
    session: str = column("session that created the resource")
    id: str = column("full ID", shown=False)
    created_by_reader: bool = column("whether you created the resource to keep it", default=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def described(thing: Resource) -> str:
    """A thing that stays, with the reason where the labels give one."""
    if thing.created_by_reader:
        return f"{thing}: created by you; its data is kept"
    return f"{thing}: created in a JupyterLab terminal" if thing.chapter == TERMINAL else str(thing)


def session_resources(client: docker.DockerClient, session: str | None = None) -> list[Resource]:
    """What one session made, or all sessions of this state directory, in the order in which it can be removed."""
    if session is not None:
        # labels decide, not the engine's filter: what is listed here gets removed
        return [thing for thing in _labelled(client, f"{SESSION}={session}") if thing.session == session]
    known = _sessions_on_engine(client)
    return [thing for thing in _labelled(client, CHAPTER) if thing.session in known]


def foreign_resources(client: docker.DockerClient) -> list[Resource]:
    """What carries a lab's label but belongs to no session of this state directory."""
    known = _sessions_on_engine(client)
    return [thing for thing in _labelled(client, CHAPTER) if thing.session not in known]


def _labelled(client: docker.DockerClient, label: str) -> list[Resource]:
    return [
        Resource(kind, name, found[CHAPTER], found.get(SESSION, ""), id, outlives_session(kind, name, found))
        for kind, name, id, found in _listed(client, {"label": [label]})
        if has_lab_labels(kind, found)
    ]


def _sessions_on_engine(client: docker.DockerClient) -> set[str]:
    """The sessions that have a record here, on this engine."""
    engine_id = identity(client.info())
    return {session for session in _recorded_sessions() if _engine_of(session, engine_id) == engine_id}


def engine_id_of(session: str) -> list[str]:
    """The id of the engine that a session works on; empty for a session that has no record here."""
    found = _read_record(session).get("engine")
    return [str(found)] if found else []


def _engine_of(session: str, default: str) -> str:
    return str(_read_record(session).get("engine", default))


def unlabelled_resources(client: docker.DockerClient) -> list[Resource]:
    """What is on the engine and no lab made, in the order in which it can be removed; the lab images left out.

    Nor is a volume without a name listed that a lab's container has: it goes with that container.
    """
    used = _volumes_of_labs(client)
    return [
        Resource(kind, name, "", "", id)
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
    for row in sorted(images_of(client, filters), key=lambda image: -image["Created"]):
        name = (row["RepoTags"] or [row["Id"].removeprefix("sha256:")[:12]])[0]
        rows.append(("image", name, row["Id"], row["Labels"]))
    return [(kind, name, id, labels or {}) for kind, name, id, labels in rows]


def images_of(client: docker.DockerClient, filters: dict[str, Any]) -> list[dict[str, Any]]:
    """The engine's images. With containerd's store the listing fails where one of them is removed meanwhile."""
    listed: Callable[..., list[dict[str, Any]]] = client.api.images
    for _ in range(_ATTEMPTS):
        with suppress(NotFound):
            return listed(filters=filters)
    return listed(filters=filters)


def remove(client: docker.DockerClient, resources: list[Resource]) -> tuple[list[Resource], list[str]]:
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
    for thing in resources:
        try:
            how[thing.kind](thing.id)
            removed.append(thing)
        except NotFound:
            pass
        except APIError as error:
            kept.append(f"{thing} kept: {error.explanation}")
    return removed, kept


def remove_session_resources(client: docker.DockerClient, session: str) -> list[str]:
    """Remove all that a session made, what its builds left without a name, and what it pulled from its own registry.

    A volume that outlives its session stays, and is noted in the session's record.

    Returns:
        A line for each thing that the engine refused to remove.
    """
    return _clear(client, session)[1]


def _clear(client: docker.DockerClient, session: str) -> tuple[list[Resource], list[str]]:
    made = session_resources(client, session)
    removed, kept = remove(client, [thing for thing in made if not thing.created_by_reader])
    content = _read_record(session)
    volumes = [thing.name for thing in made if thing.created_by_reader]
    if content and content.get("volumes", []) != volumes:
        state.write_json(_record_file(session), content | {"volumes": volumes})
    for id in content.get("stages", []):
        # one that got a name since, or that a build of somebody else stands on, stays
        with suppress(APIError):
            if not client.api.inspect_image(id)["RepoTags"]:  # type: ignore[no-untyped-call]
                remove_image(client.api, id)
    registry = content.get("registry")
    if registry:
        for image in client.api.images():
            for name in image["RepoTags"] or []:
                if name.startswith(f"{registry}/"):
                    _untag(client, name)
    return removed, kept


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
        self._content: dict[str, Any] = {"engine": engine_id, "chapter": chapter}
        if RUN in os.environ:
            self._content["run"] = os.environ[RUN]
        # the lock first: a record without a held lock is that of a dead session
        self._lock = _lock(self.id)
        self._lock.acquire(timeout=5)
        state.write_json(_record_file(self.id), self._content)

    def record_registry(self, address: str) -> None:
        """Note the address of the session's registry: names of images that begin with it are the session's."""
        self._content["registry"] = address
        state.write_json(_record_file(self.id), self._content)

    def record_build_stages(self, ids: Iterable[str]) -> None:
        """Note nameless images that its builds left: stages, and what a failed build stopped at."""
        self._content["stages"] = [*self._content.get("stages", []), *ids]
        state.write_json(_record_file(self.id), self._content)

    def end(self) -> None:
        """Give the session up: what it made is gone, except for volumes that outlive it, for which its record stays."""
        _delete_record(self.id)
        self._lock.release()
        state.path(f"sessions/{self.id}.lock").unlink(missing_ok=True)


def start_session(client: docker.DockerClient, chapter: str) -> Session:
    """Remove what dead sessions of this state directory left on this engine, and begin a new one.

    What was made in JupyterLab's terminals stays: it is no notebook's. `./lab clean` and `./lab down` remove it.
    """
    engine_id = identity(client.info())
    with state.locked("sessions"):
        for session in _recorded_sessions():
            if _read_record(session).get("chapter") != TERMINAL:
                reap_session(client, session, engine_id)
        return Session(engine_id, chapter)


def is_alive(session: str) -> bool:
    """Whether a process of this machine holds the session."""
    if not _has_lock(session):
        return False
    lock = _lock(session)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def temporary_session(client: docker.DockerClient, chapter: str) -> Iterator[Callable[[str], dict[str, str]]]:
    """A session for the block, without a reaper: gives the labels for a kind of thing.

    What the block leaves is removed at its end or, where that fails or the process dies, by the next lab.
    """
    engine_id = identity(client.info())
    with state.locked("sessions"):
        session = Session(engine_id, chapter)
    try:
        yield lambda kind: labels(kind, chapter, session.id)
    finally:
        with suppress(DockerException, RequestException):
            if not remove_session_resources(client, session.id):
                session.end()


def may_modify(session: str, current: str) -> bool:
    """Whether the notebook of the session `current` may change what `session` made.

    It may if that is itself, the reader's terminal, or a session of this state directory that has ended.
    """
    if session == current:
        return True
    if session not in _recorded_sessions():
        return False
    return _read_record(session).get("chapter") == TERMINAL or not is_alive(session)


def is_usable_volume(labels: Mapping[str, str] | None, current: str) -> bool:
    """Whether the session `current` may use a volume with these labels: its own, or one that its reader created."""
    session = (labels or {}).get(SESSION, "")
    return session == current or ((labels or {}).get(CREATED_BY) == READER and may_modify(session, current))


def live_foreign_sessions() -> dict[str, str]:
    """Sessions of other state directories that are alive on this machine, and the ids of their engines.

    Each is guarded by a reaper, whose command line names both. A session of another machine, or of a user whose
    processes this one may not see, is not among them.
    """
    try:
        import psutil
    except ImportError:  # an incomplete environment: nothing is known
        return {}
    known = _recorded_sessions()
    found: dict[str, str] = {}
    for process in psutil.process_iter(["cmdline"]):
        arguments: list[str] = process.info["cmdline"] or []
        if "labhelpers.lab.reaper" in arguments:
            session, engine_id = [*arguments[arguments.index("labhelpers.lab.reaper") + 1 :], "", ""][:2]
            if session not in known:
                found[session] = engine_id
    return found


def reap_ended_sessions(client: docker.DockerClient) -> tuple[list[Resource], list[str]]:
    """Remove what dead sessions of this state directory left on this engine: what went, and a line for what stays."""
    engine_id = identity(client.info())
    removed: list[Resource] = []
    kept: list[str] = []
    with state.locked("sessions"):
        for session in _recorded_sessions():
            gone, stays = _reap_session(client, session, engine_id) or ([], [])
            removed += gone
            kept += stays
    return removed, kept


def open_sessions_of_run(run: str) -> list[str]:
    """The sessions of a `./lab run` that have not ended yet, by the value of `RUN`."""
    return [session for session, content in _records() if content.get("run") == run and _has_lock(session)]


def kept_volumes_of_run(run: str) -> list[str]:
    """The names of the volumes that outlive the sessions of a `./lab run`."""
    return [
        name for _, content in _records() if content.get("run") == run for name in content.get("volumes", [])
    ]


def wait_for_run(run: str, within_s: float) -> list[str]:
    """Wait until all sessions of a `./lab run` have ended; those that have not within `within_s` seconds."""
    end = time.monotonic() + within_s
    while (still := open_sessions_of_run(run)) and time.monotonic() < end:
        time.sleep(0.1)
    return still


def reap_session(client: docker.DockerClient, session: str, engine_id: str) -> bool:
    """Remove what a session left if its process is gone and its things are on this engine; whether it has ended."""
    done = _reap_session(client, session, engine_id)
    return done is not None and not done[1]


def _reap_session(
    client: docker.DockerClient, session: str, engine_id: str
) -> tuple[list[Resource], list[str]] | None:
    """What went and what would not go; None if the session is alive, or of another engine."""
    if _engine_of(session, engine_id) != engine_id:
        return None
    lock = _lock(session)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    removed, kept = _clear(client, session)
    if not kept:
        _delete_record(session)
    lock.release()
    if not kept:
        state.path(f"sessions/{session}.lock").unlink(missing_ok=True)
    return removed, kept


def _recorded_sessions() -> list[str]:
    """The sessions that have a record, or at least a lock: one that died while it began has no record yet."""
    folder = state.path("sessions", "any").parent
    files = [file for pattern in ("*.json", "*.lock") for file in folder.glob(pattern)]
    return sorted({file.stem for file in files if file.is_file()})


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    for session in _recorded_sessions():
        yield session, _read_record(session)


def _has_lock(session: str) -> bool:
    return state.path("sessions", f"{session}.lock").exists()


def _record_file(session: str) -> str:
    return f"sessions/{session}.json"


def _read_record(session: str) -> dict[str, Any]:
    """The record of a session, without what has another type: a file may be damaged, or of another version."""
    found: dict[str, Any] = state.read_json(_record_file(session), {})
    texts = {key: value for key, value in found.items() if isinstance(value, str)}
    lists = {key: found[key] for key in _LISTS if isinstance(found.get(key), list)}
    return {k: v for k, v in texts.items() if k not in _LISTS} | {
        key: [item for item in items if isinstance(item, str)] for key, items in lists.items()
    }


def _delete_record(session: str) -> None:
    if not _read_record(session).get("volumes"):
        state.path(_record_file(session)).unlink(missing_ok=True)


def _lock(session: str) -> FileLock:
    # a lock of its own for each look: one process may hold several labs
    return FileLock(state.lock_file("sessions", f"{session}.lock"), thread_local=False)
