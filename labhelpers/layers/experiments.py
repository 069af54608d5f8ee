"""Image layers on the reader's own engine: pulled, stacked, shared, verified, written to."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from labhelpers.engine.registry import STORAGE_PATH
from labhelpers.errors import BadInput, ImageMissing
from labhelpers.layers.archives import ImageStack
from labhelpers.layers.builds import build, unique_name
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.overlay import mounts
from labhelpers.layers.recipes import FIRST, SECOND, SIZED_FILES
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MIB = 1024 * 1024
TIMEOUT_S = 120.0
_INSIDE = Path(__file__).with_name("inside")


# --- two images to look at


@record
class ExampleImages(Result):
    """Two images in the lab's registry; the engine has neither."""

    first: str = column("an image of five layers")
    second: str = column("the same and one layer more")


def example_images(lab: Lab) -> ExampleImages:
    """Build two images, the second on the first, push them to the lab's registry, and remove them here.

    Their layers are new in each call: no other image of the engine shares them.

    Raises:
        BuildFailed, EngineRefused: the engine could not make or push them.
    """
    base = lab.image("payload")
    with lab.quiet(["docker build"]):
        first = build(lab, FIRST, unique_name(lab, "first:1"), BASE=base, SALT=str(time.time_ns()))
        second = build(lab, SECOND, unique_name(lab, "second:1"), BASE=first)
        pushed = [lab.registry.push(ref, ref.partition("/")[2]) for ref in (first, second)]
        for ref in (second, first):
            lab.remove_image(ref)
    return ExampleImages(*pushed)


# --- pulling

PhaseName = Literal["waiting", "download", "verification", "in line", "extraction", "none"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a layer's pull: from `start_ms` to `end_ms`, milliseconds since the pull began."""

    name: PhaseName
    start_ms: float
    end_ms: float


@record
class PulledLayer:
    """One layer of a pull."""

    id: str = column("the first twelve digits of its digest, as docker shows it")
    says: str = column("the engine's last words about it")
    bytes: int = column("of its blob as it travels (compressed); 0 where the engine did not say")
    done_bytes: int = column("of them, downloaded or unpacked so far")
    phases: tuple[Phase, ...] = column("without gaps; none for a layer that was already there", shown=False)

    @property
    def already_there(self) -> bool:
        """Whether the engine had it before."""
        return self.says == ALREADY_EXISTS


@record
class Pull(Result):
    """A `docker pull`, layer by layer."""

    ref: str = column("what was pulled")
    layers: tuple[PulledLayer, ...] = rows(
        "in the order in which the engine told of them, the lowest first", of=PulledLayer
    )
    total_ms: float = column("wall time since it began, in milliseconds")
    done: bool = column("whether it has ended")

    @property
    def already_there(self) -> int:
        """How many layers the engine had before."""
        return sum(layer.already_there for layer in self.layers)

    @property
    def fetched(self) -> int:
        """How many layers travelled."""
        return len(self.layers) - self.already_there

    @property
    def most_at_once(self) -> int:
        """How many layers were being downloaded at one moment, at most."""
        spans = [p for layer in self.layers for p in layer.phases if p.name == "download"]
        return max((sum(o.start_ms <= p.start_ms < o.end_ms for o in spans) for p in spans), default=0)

    @property
    def unpacked_in_order(self) -> bool:
        """Whether no layer was complete before the one below it."""
        ends = [layer.phases[-1].end_ms for layer in self.layers if layer.phases]
        return all(before <= after for before, after in pairwise(ends))

    def frame(self) -> pd.DataFrame:
        """One row a layer and phase: layer, says, bytes, phase, start_ms, end_ms."""
        rows = [
            (one.id, one.says, one.bytes, phase.name, phase.start_ms, phase.end_ms)
            for one in self.layers
            for phase in one.phases or (Phase("none", 0.0, 0.0),)
        ]
        return pd.DataFrame(rows, columns=["layer", "says", "bytes", "phase", "start_ms", "end_ms"])


ALREADY_EXISTS, PULL_COMPLETE = "Already exists", "Pull complete"
# the engine's words, and the phase that each begins (moby, distribution/xfer and image/pull progress)
_PHASE_STARTS: Mapping[str, PhaseName] = {
    "Pulling fs layer": "waiting",
    "Waiting": "waiting",
    "Downloading": "download",
    "Verifying Checksum": "verification",
    "Download complete": "in line",
    "Extracting": "extraction",
}


def pull(lab: Lab, ref: str, see: Callable[[Pull], object] | None = None) -> Pull:
    """A real `docker pull`, timed layer by layer as the engine tells of it.

    Args:
        on_progress: given the pull so far at each of the engine's words; None for a live panel where the notebook can
            show one.

    Raises:
        BadInput: `ref` cannot be an image.
        ImageMissing: the registry does not have it, or does not answer, or what it sent was refused.
    """
    if see is None:
        from labhelpers.layers.live import live_pull

        see = live_pull()
    watch = _PullTracker(ref, see)
    with lab.quiet(["docker pull"]):
        pulled = lab.pull(ref, on_progress=watch.step)
        watch.stop()
        return watch.end(_layer_ids(lab, ref, pulled.attrs["RootFS"]["Layers"]))


def _layer_ids(lab: Lab, ref: str, diff_ids: Sequence[str]) -> list[str]:
    """What `docker pull` calls the layers, the lowest first; by diff id where no manifest can be asked for."""
    if _is_in_lab_registry(lab, ref):
        return [_short_id(blob.digest) for blob in verify(lab, ref).blobs if blob.kind == "layer"]
    return [_short_id(diff_id) for diff_id in diff_ids]


def _short_id(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


class _PullTracker:
    def __init__(self, ref: str, see: Callable[[Pull], object]) -> None:
        self._ref, self._see = ref, see
        self._began, self._ended_ms = time.monotonic(), 0.0
        self._marks: dict[str, list[tuple[str, float]]] = {}
        self._progress: dict[str, tuple[int, int]] = {}

    def step(self, step: Mapping[str, Any]) -> None:
        """One word of the engine about one layer."""
        layer, says = str(step.get("id", "")), str(step.get("status", ""))
        if says not in (*_PHASE_STARTS, ALREADY_EXISTS, PULL_COMPLETE):
            return  # about the image as a whole
        marks = self._marks.setdefault(layer, [])
        if not marks or marks[-1][0] != says:
            marks.append((says, self._now()))
        told = step.get("progressDetail") or {}
        # containerd counts the seconds of an extraction in these fields, and says so
        if told.get("total") and told.get("units") != "s":
            self._progress[layer] = (int(told.get("current") or 0), int(told["total"]))
        self._see(self._pull(False))

    def stop(self) -> None:
        """The pull has ended now."""
        self._ended_ms = self._now()

    def end(self, ids: Sequence[str]) -> Pull:
        """The whole pull, with the layers that the engine did not tell of since it has them.

        Args:
            ids: of all layers, the lowest first.
        """
        # containerd's store tells of what it fetches only
        untold = max(len(ids) - len(self._marks), 0)
        had = [id for id in ids if id not in self._marks][:untold]
        marks = {id: [(ALREADY_EXISTS, 0.0)] for id in had} | self._marks
        self._marks = {
            id: marks[id] for id in sorted(marks, key=lambda id: ids.index(id) if id in ids else len(ids))
        }
        pull = self._pull(True)
        self._see(pull)
        return pull

    def _now(self) -> float:
        return self._ended_ms or (time.monotonic() - self._began) * 1000

    def _pull(self, done: bool) -> Pull:
        return Pull(self._ref, tuple(map(self._layer, self._marks)), self._now(), done)

    def _layer(self, id: str) -> PulledLayer:
        marks = self._marks[id]
        current, total = self._progress.get(id, (0, 0))
        says = marks[-1][0]
        ends = [*marks[1:], (says, self._now())]
        phases: list[Phase] = []
        for (word, at), (_, after) in zip(marks, ends, strict=True):
            if name := _PHASE_STARTS.get(word):
                same = phases and phases[-1].name == name
                start = phases.pop().start_ms if same else at
                phases.append(Phase(name, start, after))
        return PulledLayer(id, says, total, total if says == PULL_COMPLETE else current, tuple(phases))


# --- the stack


def image_layers(lab: Lab, ref: str, platform: str | None = None) -> ImageStack:
    """The layers of an image of the engine, from what `docker save` sends; nothing is kept on a disk.

    Digests are known where the engine saves them (from Engine 25 on), or where the image comes from the lab's
    own registry; else they are None, and the diff ids are there all the same.

    Args:
        platform: which of the image's platforms, such as `linux/arm64`; None for the engine's own, or the only one.

    Raises:
        ImageMissing: the engine does not have it.
        BadInput: it has the image for several platforms, and none of them is the one that is wanted.
        BadArchive: what the engine sent is damaged or lacks layers.
    """
    stack = read_docker_save(lab, ref, platform=platform)
    if all(layer.digest for layer in stack.layers) or not _is_in_lab_registry(lab, ref):
        return stack
    blobs = [blob.digest for blob in verify(lab, ref).blobs if blob.kind == "layer"]
    if len(blobs) != len(stack.layers):
        return stack
    named = zip(stack.layers, blobs, strict=True)
    return replace(stack, layers=tuple(replace(layer, digest=digest) for layer, digest in named))


# --- what a write costs


@record
class CopyUp:
    """What it costs to append one byte to a file of the image, and then one more."""

    file_bytes: int = column("the size of the file in its read-only layer")
    grown_bytes: int = column("how much the container's own layer grew (512-byte blocks on the disk)")
    first_write_ms: float = column("open, write one byte, close; timed in the container")
    second_write_ms: float = column("open, write one byte, close; timed in the container")

    @property
    def whole_file_was_copied(self) -> bool:
        """Whether the container's layer grew by the file's size or more."""
        return self.grown_bytes >= self.file_bytes


@record
class CopyUpCost(Result):
    """The cost of a first and a second write, against the size of the file."""

    writes: tuple[CopyUp, ...] = rows("every one, by size", of=CopyUp)

    def medians(self) -> tuple[CopyUp, ...]:
        """For each size, the medians of its writes."""
        sizes = sorted({write.file_bytes for write in self.writes})
        return tuple(self._median(size) for size in sizes)

    def _median(self, size: int) -> CopyUp:
        same = [write for write in self.writes if write.file_bytes == size]
        return CopyUp(
            size,
            int(median(write.grown_bytes for write in same)),
            median(write.first_write_ms for write in same),
            median(write.second_write_ms for write in same),
        )

    @property
    def every_file_was_copied(self) -> bool:
        """Whether each container's layer grew by the whole file each time."""
        return all(write.whole_file_was_copied for write in self.writes)

    def frame(self) -> pd.DataFrame:
        """One row a file: file_bytes, grown_bytes, first_write_ms, second_write_ms."""
        rows = [(w.file_bytes, w.grown_bytes, w.first_write_ms, w.second_write_ms) for w in self.writes]
        return pd.DataFrame(rows, columns=["file_bytes", "grown_bytes", "first_write_ms", "second_write_ms"])


def copy_up(lab: Lab, sizes: Sequence[int], repeats: int = 3) -> CopyUpCost:
    """Append one byte, twice, to files of an image, and measure time and growth of the container's layer.

    The image, with one file of random bytes for each size in one layer, is made first. Each repeat is a fresh
    container. The file's pages may be in the host's memory: what is measured is the copy, not the disk.

    Args:
        sizes: in bytes, 1 or more.

    Raises:
        BadInput: a size or a number of repeats that cannot be meant.
    """
    if not sizes or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes) or repeats < 1:
        raise BadInput(
            f"sizes {list(sizes)!r} and {repeats!r} repeats cannot be measured",
            hint="give sizes in bytes from 1 on: [1_000_000, 100_000_000]",
        )
    names = [str(size) for size in sorted(set(sizes))]
    with lab.quiet(["docker run -d"]):
        ref = build(
            lab, SIZED_FILES, unique_name(lab, "sized:1"), BASE=lab.image("tools"), SIZES=" ".join(names)
        )
        writes = [write for _ in range(repeats) for write in _measure_append(lab, ref, names)]
    return CopyUpCost(tuple(sorted(writes, key=lambda write: write.file_bytes)))


def _measure_append(lab: Lab, ref: str, names: Sequence[str]) -> list[CopyUp]:
    command = ["-c", _program("append"), *names]
    with lab.running(ref, command, entrypoint="python3", network="none") as container:
        times = json.loads(_first_line(lab, container))
        upper = mounts(lab, container).upper
        grown = [lab.host.disk_usage(f"{upper}/sized/{name}").allocated_bytes for name in names]
    return [CopyUp(int(name), size, *pair) for name, size, pair in zip(names, grown, times, strict=True)]


def _first_line(lab: Lab, container: Container) -> str:
    """The first line that a container writes."""

    def line() -> str:
        first, newline, _ = lab.logs(container, stderr=False).partition("\n")
        return first if newline else ""

    return lab.wait_for("the writes to finish", line, TIMEOUT_S, while_running=container)


def _program(name: str) -> str:
    """The text of a program that runs in a container."""
    return (_INSIDE / f"{name}.py").read_text(encoding="utf-8")


# --- who shares what


@record
class LayerDirectory:
    """A layer's directory on the engine's host."""

    id: str = column("tells it from the others; the same for all who mount it")
    bytes: int = column("what it takes on the disk")


@record
class LayerUser:
    """A container, the image that it is made from, and the directories that it mounts."""

    image: str = column("its reference, without the registry")
    layers: tuple[LayerDirectory, ...] = column("the image's, the lowest first", shown=False)
    own: tuple[LayerDirectory, ...] = column(
        "what is the container's alone: its upper directory and the engine's small one below it", shown=False
    )


@record
class Sharing(Result):
    """Bytes on the disk against the sum of sizes, for containers and images that share layers."""

    users: tuple[LayerUser, ...] = rows("one a container", of=LayerUser)

    @property
    def stored_bytes(self) -> int:
        """Every directory once: what the disk holds."""
        return sum({one.id: one.bytes for user in self.users for one in (*user.layers, *user.own)}.values())

    @property
    def sum_bytes(self) -> int:
        """Every directory as often as somebody mounts it: what copies would take."""
        return sum(one.bytes for user in self.users for one in (*user.layers, *user.own))

    @property
    def containers_bytes(self) -> int:
        """What the containers add to their images."""
        return sum(one.bytes for user in self.users for one in user.own)

    def users_of(self, id: str) -> tuple[int, ...]:
        """The places, in `users`, of those who mount a directory."""
        found = enumerate(self.users)
        return tuple(place for place, user in found if id in {one.id for one in (*user.layers, *user.own)})

    def frame(self) -> pd.DataFrame:
        """One row a container and directory: container, image, part, directory, bytes, shared_by."""
        rows = [
            (place, user.image, part, one.id, one.bytes, len(self.users_of(one.id)))
            for place, user in enumerate(self.users)
            for part, ones in (("image", user.layers), ("container", user.own))
            for one in ones
        ]
        columns = ["container", "image", "part", "directory", "bytes", "shared_by"]
        return pd.DataFrame(rows, columns=columns)


def sharing(lab: Lab, refs: Sequence[str], containers: int) -> Sharing:
    """Start containers and see which layer directories each of them mounts, and what those take on the disk.

    Args:
        refs: the images; each must have a `sleep`.
        containers: how many to start of the first image; of each other image one is started.

    Raises:
        BadInput: no image, or fewer than one container.
        ImageMissing: the engine does not have an image.
    """
    if isinstance(refs, str) or not refs or containers < 1:
        raise BadInput("there is nothing to share", hint="give a list of images and 1 or more containers")
    each = [refs[0]] * containers + list(refs[1:])
    with lab.quiet(["docker run -d"]), ExitStack() as block:
        made = [
            block.enter_context(lab.running(ref, ["3600"], entrypoint="sleep", network="none"))
            for ref in each
        ]
        found = [(ref, mounts(lab, container)) for ref, container in zip(each, made, strict=True)]
        paths = sorted({path for _, one in found for path in (*one.lower, one.upper)})
        sizes = {path: lab.host.disk_usage(path).allocated_bytes for path in paths}
    return Sharing(
        tuple(_user(ref, one.image_layers, (one.lower[-1], one.upper), sizes) for ref, one in found)
    )


def _user(ref: str, layers: Sequence[str], own: Sequence[str], sizes: Mapping[str, int]) -> LayerUser:
    def directories(paths: Sequence[str]) -> tuple[LayerDirectory, ...]:
        return tuple(LayerDirectory(_id(path), sizes[path]) for path in paths)

    return LayerUser(ref.rpartition("/")[2], directories(layers), directories(own))


def _id(path: str) -> str:
    """The name that a store gives to a directory: its path without what all of a store's have in common."""
    names = [name for name in path.split("/") if name not in ("diff", "fs", "l")]
    return names[-1]


# --- content addresses


@record
class Blob:
    """Something that a registry holds under its digest."""

    kind: str = column("manifest, config or layer")
    digest: str = column("what it is asked for")
    recomputed: str = column("the SHA-256 of what the registry sent")
    promised_bytes: int = column("the size that the manifest says, and what was sent")
    bytes: int = column("the size that the manifest says, and what was sent")

    @property
    def matches(self) -> bool:
        """Whether it is what it is called."""
        return self.digest == self.recomputed and self.promised_bytes == self.bytes


@record
class Verification(Result):
    """The digests of an image, recomputed."""

    ref: str = column("the image")
    blobs: tuple[Blob, ...] = rows("manifest, configuration and layers", of=Blob)

    @property
    def all_match(self) -> bool:
        """Whether every blob is what it is called."""
        return all(blob.matches for blob in self.blobs)

    def frame(self) -> pd.DataFrame:
        """One row a blob: kind, digest, recomputed, bytes, matches."""
        rows = [(b.kind, b.digest, b.recomputed, b.bytes, b.matches) for b in self.blobs]
        return pd.DataFrame(rows, columns=["kind", "digest", "recomputed", "bytes", "matches"])


def verify(lab: Lab, ref: str) -> Verification:
    """Fetch an image's manifest and blobs from the lab's registry, and recompute the SHA-256 of each.

    A helper container next to the registry asks over HTTP and hashes: the blobs do not travel to the notebook.

    Raises:
        BadInput: the image is not in the lab's registry.
    """
    if not _is_in_lab_registry(lab, ref):
        raise BadInput(
            f"{ref!r} is not in the lab's registry",
            hint="push it there first: ref = lab.registry.push(IMAGE); then verify(lab, ref)",
        )
    name, _, tag = ref.partition("/")[2].rpartition(":")
    command = ["-I", "-c", _program("fetch"), f"http://127.0.0.1:5000/v2/{name}", tag]
    with lab.quiet():
        network = f"container:{lab.registry.container.id}"
        done = lab.run_once(
            lab.image("tools"), command, entrypoint="python3", network=network, cap_drop=["ALL"]
        )
    if done.exit_code:
        raise BadInput(
            f"the lab's registry does not have {ref!r}",
            hint="push it there first: ref = lab.registry.push(IMAGE); then verify(lab, ref)",
            engine_message=done.stderr,
        )
    return Verification(ref, tuple(Blob(**row) for row in json.loads(done.stdout)))


def _is_in_lab_registry(lab: Lab, ref: str) -> bool:
    # only a name that could be ours makes the registry start
    return bool(re.match(r"127\.0\.0\.1:\d+/.+:", ref)) and ref.startswith(f"{lab.registry.address}/")


@record
class CorruptedPull(Result):
    """A pull of an image of which one byte was changed in the registry."""

    ref: str = column("the image")
    digest: str = column("the blob that was changed, its highest layer")
    offset: int = column("which byte, from 0")
    before: int = column("its value")
    after: int = column("its value")
    engine_message: str | None = column("what `docker pull` said; None if it took the image")
    put_back: bool = column("whether all digests were right again at the end")

    @property
    def refused(self) -> bool:
        """Whether the engine said no, and named the blob."""
        return self.engine_message is not None and self.digest in self.engine_message


def pull_corrupted(lab: Lab, ref: str) -> CorruptedPull:
    """Flip one byte in the highest layer of an image in the lab's own registry, pull, and put the byte back.

    The engine must not have that layer already: the image is removed from it first.

    Raises:
        BadInput: the image is not in the lab's registry.
    """
    with lab.quiet(["docker exec", "docker pull"]):
        layer = [blob for blob in verify(lab, ref).blobs if blob.kind == "layer"][-1]
        offset = layer.bytes // 2
        path = f"{STORAGE_PATH}/blobs/sha256/{layer.digest[7:9]}/{layer.digest[7:]}/data"
        before = _byte(lab, path, offset)
        after = before ^ 1
        lab.remove_image(ref)
        words: str | None = None
        try:
            _set_byte(lab, path, offset, after)
            lab.pull(ref)
        except ImageMissing as error:
            words = error.engine_message
        finally:
            _set_byte(lab, path, offset, before)
        if words is None:
            lab.remove_image(ref)
        return CorruptedPull(ref, layer.digest, offset, before, after, words, verify(lab, ref).all_match)


def _byte(lab: Lab, path: str, offset: int) -> int:
    said = lab.exec(str(lab.registry.container.name), ["od", "-An", "-tu1", f"-j{offset}", "-N1", path])
    return int(said.stdout)


def _set_byte(lab: Lab, path: str, offset: int, value: int) -> None:
    write = f"printf '\\{value:03o}' | dd of={path} bs=1 seek={offset} conv=notrunc status=none"
    lab.exec(str(lab.registry.container.name), ["sh", "-c", write])
