"""The directories behind a container's root: lower, upper, work and merged, and what a write does to them.

Where they are is read from the mount table of the container's own process, which is the same on every image
store. What is in them is read by a helper container of the image `tools`, with those directories mounted
read-only and no network. It keeps two of root's capabilities: DAC_READ_SEARCH, since layers hold files that
belong to other users, and SYS_ADMIN, without which the kernel does not show `trusted.` attributes
(xattr(7)): the mark of an opaque directory is one.

Source of what overlay does: kernel, Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from docker.errors import NotFound

from labhelpers.errors import BadInput, LabError
from labhelpers.layers.look import MOST_TEXT
from labhelpers.layers.tarstream import Chunks, Flow, members
from labhelpers.results import Result

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

_LOOK = Path(__file__).with_name("look.py")
# one bind for each directory; overlay itself takes at most 500 lower ones (fs/overlayfs/super.c)
_MOST = 510


# --- the mount


@dataclass(frozen=True, slots=True, repr=False)
class Mounts(Result):
    """The directories that are mounted as one: a container's root.

    Paths are those of the engine's host.

    Attributes:
        container: its name.
        lower: read-only, from the lowest layer of the image to the highest; the last one is the engine's own,
            with places for /etc/hosts and the like.
        upper: the container's own layer, where every change goes.
        work: overlay's scratch directory: a file is made ready here and then moved into upper.
        merged: what the container sees as `/`.
    """

    container: str
    lower: tuple[str, ...]
    upper: str
    work: str
    merged: str

    @property
    def image_layers(self) -> tuple[str, ...]:
        """The lower directories that are layers of the image.

        On containerd's store, an image that was built there has an empty one for each step that changed no file.
        """
        return self.lower[:-1]

    def frame(self) -> pd.DataFrame:
        """One row a directory, from the top: role, directory (the ends of long paths; the fields have all)."""
        rows = [("merged", self.merged), ("work", self.work), ("upper", self.upper)]
        rows += [(f"lower {number}", path) for number, path in reversed(list(enumerate(self.lower)))]
        return pd.DataFrame([(role, _end(path)) for role, path in rows], columns=["role", "directory"])

    def __repr__(self) -> str:
        return self.frame().to_string(index=False)


def _end(path: str) -> str:
    """The last two names of a path, long codes cut."""
    return "…/" + "/".join(name[:12] for name in path.split("/")[-2:])


def mounts(lab: Lab, container: Container | str) -> Mounts:
    """The directories behind the root of a running container.

    Raises:
        LabError: the container is gone, does not run, or its root is no overlay mount.
    """
    name = container if isinstance(container, str) else str(container.name)
    found = _inspected(lab, name)
    pid = int(found["State"]["Pid"])
    if not pid:
        raise LabError(
            f"the container {name!r} does not run, so its directories are not mounted",
            hint=f"start it again (docker start {name}), or run the cell that makes it",
        )
    options = _overlay_at(lab.host.read(f"/proc/{pid}/mountinfo"), "/")
    if options is None:
        raise LabError(
            f"the root of {name!r} is no overlay mount: this engine's storage driver is another",
            hint="`docker info` says which; the chapter needs overlay2, or containerd's overlayfs",
        )
    upper = options["upperdir"]
    base = posixpath.dirname(posixpath.dirname(upper))
    if not upper.startswith("/"):
        # overlay2 shortens the paths when there are many: they are then relative to its directory
        base = posixpath.join(str(lab.client.info()["DockerRootDir"]), "overlay2")
    lower = [posixpath.join(base, one) for one in reversed(options["lowerdir"].split(":"))]
    upper, work = (posixpath.join(base, options[key]) for key in ("upperdir", "workdir"))
    merged = (found.get("GraphDriver", {}).get("Data") or {}).get("MergedDir") or _merged(lab, upper, pid)
    return Mounts(name, tuple(lower), upper, work, merged)


def _inspected(lab: Lab, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = lab.client.api.inspect_container(name)
    except NotFound as error:
        raise LabError(
            f"there is no container {name!r}",
            hint="run the cell that makes it again; `docker ps -a` lists what is there",
            engine_words=str(error.explanation),
        ) from None
    return found


def _overlay_at(mountinfo: str, point: str) -> dict[str, str] | None:
    """The options of the overlay that is mounted at `point` (proc(5), mountinfo)."""
    return next((options for at, options in _overlays(mountinfo) if at == point), None)


def _overlays(mountinfo: str) -> list[tuple[str, dict[str, str]]]:
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        if kind not in ("overlay", "fuse.fuse-overlayfs"):
            continue
        options: dict[str, str] = {}
        for option in re.split(r"(?<!\\),", rest.partition(" ")[2]):
            key, _, value = option.partition("=")
            # since Linux 6.8 a mount may name its lower directories one by one
            key, value = key.removesuffix("+"), _plain(value)
            options[key] = f"{options[key]}:{value}" if key == "lowerdir" and key in options else value
        if "upperdir" in options:
            found.append((_plain(before.split()[4]), options))
    return found


def _plain(field: str) -> str:
    """A field of the mount table without its escapes: `\\040` is a blank."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field).replace("\\,", ",")


def _merged(lab: Lab, upper: str, pid: int) -> str:
    """Where the host itself sees the mount with that upper directory; else through the container's process."""
    table = lab.host.read_many(["/proc/1/mountinfo"])["/proc/1/mountinfo"] or ""
    return next(
        (point for point, options in _overlays(table) if options["upperdir"] == upper), f"/proc/{pid}/root"
    )


# --- looking into directories of the engine's host


def _look(lab: Lab, do: str, directories: Sequence[str], **question: Any) -> Any:
    """Ask the helper about directories of the engine's host, which it sees read-only.

    Raises:
        LabError: the engine did not let it look.
    """
    if len(directories) > _MOST:
        raise BadInput(
            f"{len(directories)} directories are too many to look at", hint="give fewer images at once"
        )
    asked = json.dumps({"do": do, "directories": len(directories), **question})
    with lab.quiet():
        helper = lab.run(
            lab.image("tools"),
            ["-I", "-c", _LOOK.read_text(), asked],
            entrypoint="python3",
            network="none",
            read_only=True,
            volumes=[f"{path}:/look/{number}:ro" for number, path in enumerate(directories)],
            cap_drop=["ALL"],
            cap_add=["DAC_READ_SEARCH", "SYS_ADMIN"],
            # AppArmor and SELinux keep containers from one another's layers
            security_opt=["apparmor=unconfined", "label=disable", "no-new-privileges"],
        )
        try:
            code = helper.wait()["StatusCode"]
            said, complaint = helper.logs(stderr=False), helper.logs(stdout=False)
        finally:
            lab.remove(helper, force=True)
    if code:
        raise LabError(
            "the layer directories could not be looked at on the engine's host",
            hint="was the container stopped meanwhile? run the cell again; `./lab doctor` looks at the engine",
            engine_words=complaint.decode(errors="replace"),
        )
    return json.loads(said)


def used_bytes(lab: Lab, directories: Sequence[str]) -> list[int]:
    """What each directory takes on the disk of the engine's host, in bytes, as `du` counts."""
    return [int(size) for size in _look(lab, "used", directories)]


# --- the same file through each


@dataclass(frozen=True, slots=True)
class Seen:
    """A path in one place.

    Attributes:
        place: `lower 0` (the lowest), …, `upper`, or `merged`.
        kind: file, directory, link, whiteout, other, or `nothing`.
        bytes: the size of a file.
        text: how a file begins.
    """

    place: str
    kind: str
    bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class SameFile(Result):
    """One path, seen in every directory of a container's root.

    Attributes:
        path: as the container says it.
        seen: from the lowest directory to the merged view.
    """

    path: str
    seen: tuple[Seen, ...]

    def at(self, place: str) -> Seen:
        """What is there."""
        return next(one for one in self.seen if one.place == place)

    @property
    def comes_from(self) -> str | None:
        """The directory that the container sees it from: the highest that has it; None where it sees nothing."""
        if self.at("merged").kind == "nothing":
            return None
        return next(one.place for one in reversed(self.seen[:-1]) if one.kind != "nothing")

    def frame(self) -> pd.DataFrame:
        """One row a place, from the top: place, kind, bytes, text."""
        rows = [(one.place, one.kind, one.bytes, one.text) for one in reversed(self.seen)]
        return pd.DataFrame(rows, columns=["place", "kind", "bytes", "text"])


def through(lab: Lab, container: Container | str, path: str) -> SameFile:
    """The same path in each lower directory, in upper, and merged.

    Raises:
        BadInput: the path does not begin with a slash, or climbs out.
        LabError: the container is gone, or does not run.
    """
    return _through(lab, container, [path])[0]


def _through(lab: Lab, container: Container | str, paths: Sequence[str]) -> tuple[SameFile, ...]:
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise BadInput(f"{path!r} is no path in a container", hint="write it from the root: /etc/motd")
    found = mounts(lab, container)
    answers = _look(lab, "through", [*found.lower, found.upper], paths=[path.strip("/") for path in paths])
    places = [*(f"lower {number}" for number in range(len(found.lower))), "upper"]
    return tuple(
        SameFile(
            path,
            (
                *(Seen(place, *(one or ("nothing", 0, ""))) for place, one in zip(places, row, strict=True)),
                _merged_view(lab, found.container, path),
            ),
        )
        for path, row in zip(paths, answers, strict=True)
    )


def _merged_view(lab: Lab, name: str, path: str) -> Seen:
    """What the container itself sees: the engine hands it out as `docker cp` does."""
    try:
        chunks, _ = lab.client.api.get_archive(name, path)
    except NotFound:
        return Seen("merged", "nothing", 0, "")
    flow = Flow(Chunks(chunks), path)
    first = next(members(flow))
    return Seen(
        "merged", first.kind, first.bytes, flow.take(min(first.bytes, MOST_TEXT)).decode(errors="replace")
    )


# --- what a container changed


What = Literal["added", "changed", "deleted", "replaced", "copied"]


@dataclass(frozen=True, slots=True)
class Change:
    """A path of the upper directory.

    Attributes:
        path: as the container says it.
        what: `added`; `changed` (a lower layer has it too); `deleted` (a whiteout); `replaced` (a directory
            that hides what lower layers hold there: opaque); `copied` (copied up, and the same as below).
        kind: file, directory, link, whiteout or other.
        bytes: the size of a file in upper.
    """

    path: str
    what: What
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Changes(Result):
    """What a container has changed, read from its upper directory.

    Attributes:
        container: its name.
        found: every path of upper.
        hidden: what its opaque directories hide and do not hold themselves.
        docker_diff: the engine's own list: (letter, path), A added, C changed, D deleted.
    """

    container: str
    found: tuple[Change, ...]
    hidden: tuple[str, ...]
    docker_diff: tuple[tuple[str, str], ...]

    @property
    def whiteouts(self) -> tuple[str, ...]:
        """The paths that a whiteout hides."""
        return tuple(change.path for change in self.found if change.what == "deleted")

    @property
    def opaque(self) -> tuple[str, ...]:
        """The directories that hide all that lower layers hold in them."""
        return tuple(change.path for change in self.found if change.what == "replaced")

    @property
    def bytes(self) -> int:
        """The sizes of all files of upper."""
        return sum(change.bytes for change in self.found)

    @property
    def as_docker_says_it(self) -> tuple[tuple[str, str], ...]:
        """The same in the engine's letters: an opaque directory is changed, and what it hides is deleted.

        What was copied up and is the same as below has no letter.
        """
        letters = {"added": "A", "changed": "C", "replaced": "C", "deleted": "D"}
        rows = [(letters[one.what], one.path) for one in self.found if one.what != "copied"]
        return tuple(sorted([*rows, *(("D", path) for path in self.hidden)], key=lambda row: row[1]))

    @property
    def docker_agrees(self) -> bool:
        """Whether `docker diff` says the same."""
        return self.as_docker_says_it == self.docker_diff

    def frame(self) -> pd.DataFrame:
        """One row a path: path, what, kind, bytes."""
        rows = [(change.path, change.what, change.kind, change.bytes) for change in self.found]
        return pd.DataFrame(rows, columns=["path", "what", "kind", "bytes"])


def changes(lab: Lab, container: Container | str) -> Changes:
    """What a running container has changed, from its upper directory and from `docker diff`.

    Raises:
        LabError: the container is gone, or does not run.
    """
    found = mounts(lab, container)
    # from the top: the order in which overlay looks
    told = _look(lab, "changes", [found.upper, *reversed(found.lower)])
    # a directory is touched by what has changed in it
    touched = {path for path, *_, same in told["found"] if not same} | set(told["hidden"])
    rows = [
        Change(f"/{path}", _what(kind, opaque, below, same and not _any_below(path, touched)), kind, size)
        for path, kind, size, opaque, below, same in told["found"]
    ]
    letters = {0: "C", 1: "A", 2: "D"}  # Engine API, GET /containers/{id}/changes
    diff = [(letters[row["Kind"]], str(row["Path"])) for row in lab.client.api.diff(found.container) or []]
    return Changes(
        found.container,
        tuple(sorted(rows, key=lambda change: change.path)),
        tuple(sorted(f"/{path}" for path in told["hidden"])),
        tuple(sorted(diff, key=lambda row: row[1])),
    )


def _any_below(path: str, paths: set[str]) -> bool:
    return any(one.startswith(f"{path}/") for one in paths)


def _what(kind: str, opaque: bool, below: str | None, same: bool) -> What:
    if kind == "whiteout":
        return "deleted"
    if below is None:
        return "added"
    if same:
        return "copied"
    return "replaced" if opaque and below == "directory" else "changed"


# --- part3-4


@dataclass(frozen=True, slots=True)
class BeforeAndAfter(Result):
    """A container's layer over its image's layers, before and after it has written.

    Attributes:
        before, after: the same paths in every directory.
        did: path → what was done to it: `left alone`, `changed`, `deleted` or `added`.
    """

    before: tuple[SameFile, ...]
    after: tuple[SameFile, ...]
    did: Mapping[str, str]

    @property
    def image_is_unchanged(self) -> bool:
        """Whether every lower directory holds what it held before."""
        return [file.seen[:-2] for file in self.before] == [file.seen[:-2] for file in self.after]

    @property
    def upper_was_empty(self) -> bool:
        """Whether upper held none of the paths before."""
        return all(file.at("upper").kind == "nothing" for file in self.before)

    def frame(self) -> pd.DataFrame:
        """One row a path and place: path, did, place, before, after (kinds)."""
        rows = [
            (old.path, self.did[old.path], one.place, one.kind, new.at(one.place).kind)
            for old, new in zip(self.before, self.after, strict=True)
            for one in reversed(old.seen)
        ]
        return pd.DataFrame(rows, columns=["path", "did", "place", "before", "after"])


def before_and_after(
    lab: Lab, container: Container | str, keep: str, change: str, delete: str, add: str
) -> BeforeAndAfter:
    """Look at four paths, change, delete and add three of them in a running container, and look again.

    Args:
        keep, change, delete: files of the image.
        add: a path that it does not have.

    Raises:
        BadInput: a path does not begin with a slash.
        LabError: the container is gone, does not run, or could not write.
    """
    did = {keep: "left alone", change: "changed", delete: "deleted", add: "added"}
    before = _through(lab, container, list(did))
    script = 'echo changed >> "$1" && rm "$2" && echo added > "$3"'
    with lab.quiet():
        said = lab.exec(container, ["sh", "-c", script, "sh", change, delete, add])
    if said.exit_code:
        raise LabError(
            "the container could not write",
            hint="give files that it has, and one that it does not have",
            engine_words=str(said),
        )
    return BeforeAndAfter(before, _through(lab, container, list(did)), did)
