"""The lab images: one folder of `images/` each, made on the engine when first asked for, found again by content.

A lab image is one Dockerfile that takes its base as an argument. The base is Docker Hub's `debian:bookworm-slim`
where Hub answers, else the machine's own distribution, made with debootstrap from the package mirror that
the machine's apt uses. A classroom may set `LABHELPERS_REGISTRY=host:port`: then lab images are pulled from there.

Labels: `labhelpers.image` is the image's name, `labhelpers.content` the SHA-256 of its folder,
`labhelpers.source` where its base came from. `labhelpers.stage` is on what a build leaves between its steps.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from labhelpers import state
from labhelpers.engine import debootstrap, hub, registries, responses
from labhelpers.engine.find import Engine
from labhelpers.engine.registries import PullFailure
from labhelpers.engine.removal import remove_container, remove_image
from labhelpers.errors import DISK_FULL, BuildFailed, EngineUnreachable, ImageMissing, LabError, NameTaken
from labhelpers.results import Result, column, record, rows

Echo = Callable[[str], object]

IMAGES_DIRECTORY = state.ROOT / "images"
HUB_BASE = "debian:bookworm-slim"
BASE = "labhelpers/debian:base"
IMAGE, CONTENT_LABEL, SOURCE_LABEL, STAGE_LABEL = (
    f"labhelpers.{word}" for word in ("image", "content", "source", "stage")
)
DESCRIPTION = "org.opencontainers.image.description"
HUB_TIMEOUT_S = 5.0
PROGRESS_INTERVAL_S = 10.0
LAST_LINES = 8
OS_RELEASE = "/usr/lib/os-release"  # os-release(5): /etc/os-release is a link to it
TEST_ENGINE = "engine-"
"""How the names of the images begin that only the tests make, such as that of engine B."""
RECORD_FILE = "images.json"
"""The file of the state directory that notes what was made here: ids of images and names of volumes, by engine id."""
# the steps of a build that may take long
_LAYER_STEP = re.compile(r"Step \d+/\d+ : (RUN|COPY)")


@record
class ImageStatus(Result):
    """A lab image on an engine."""

    name: str = column("name of the image in the course")
    ref: str = column("reference of the image")
    source: str | None = column(
        "`hub` or `debootstrap` (source of its base), `registry` (pulled from the classroom's registry), "
        "or None if the image is not present"
    )
    present: bool = column("whether the engine has the current version of the image")


@record
class Images(Result):
    """The lab images on an engine."""

    statuses: tuple[ImageStatus, ...] = rows("every lab image", of=ImageStatus)
    distribution: str | None = column(
        "distribution of the base (os-release(5), PRETTY_NAME), None if there is no image yet"
    )
    source: str | None = column(
        "`hub`, `debootstrap` or `registry`, see `ImageStatus`; None if there is no image yet"
    )

    def of(self, name: str) -> ImageStatus:
        """The status of one lab image."""
        return next(status for status in self.statuses if status.name == name)

    @property
    def base_description(self) -> str:
        """The base of the images, in one line."""
        if self.source is None:
            return "There are no lab images yet: each is built when a notebook first needs it."
        if self.source == "hub":
            return f"Base: {self.distribution}, Docker Hub's {HUB_BASE}."
        if self.source == "registry":
            return f"Base: {self.distribution}, pulled from the classroom's registry."
        return (
            f"Base: {self.distribution}, made with debootstrap from packages. "
            f"It stands in for Docker Hub's {HUB_BASE}, because Hub did not answer."
        )


@record
class HubImage(Result):
    """An image of a registry on the internet, or the lab image that stands in for it here."""

    requested_ref: str = column("reference that the notebook requests")
    ref: str = column("reference to run, also the result of `str()`")
    is_substitute: bool = column("whether a lab image stands in for the requested one")

    def __str__(self) -> str:
        return self.ref


def catalogue() -> tuple[str, ...]:
    """The names of the lab images, sorted."""
    return tuple(sorted(file.parent.name for file in IMAGES_DIRECTORY.glob("*/Dockerfile")))


def reference(name: str) -> str:
    """The reference of the lab image `name`.

    Raises:
        ImageMissing: the course has no such image.
    """
    if name not in catalogue():
        raise ImageMissing(
            f"the course has no image named {name!r}", hint="its images are " + ", ".join(catalogue())
        )
    return f"labhelpers/{name}:latest"


def ensure(engine: Engine, name: str, echo: Echo = lambda line: None) -> str:
    """The reference of the lab image `name`, which is made or pulled if the engine does not have it as it is now.

    Raises:
        ImageMissing: the course has no such image, or no base can be had here.
        BuildFailed: a step of its Dockerfile failed; nothing half made is left.
        NameTaken: an image of that name is there that the lab did not create.
        EngineUnreachable: the engine went away.
    """
    ref = reference(name)
    if _is_current(engine, name):
        return ref
    busy = f"image {name}: waiting for another lab command to build it"
    # one after the other: each build takes all the disk and processor that it can get
    with state.locked("images", timeout_s=3600, waiting=lambda: echo(busy)), _translate_errors(engine):
        if _is_current(engine, name):
            return ref
        began = time.monotonic()
        if not _pull_from_classroom(engine, name, echo):
            _build(engine, name, base(engine, echo), echo)
        record_created(engine, _image_id(engine, ref))
        echo(f"image {name}: ready ({time.monotonic() - began:.0f} s)")
    return ref


def from_hub(engine: Engine, ref: str, substitute: str, say: Echo = lambda line: None) -> HubImage:
    """The image `asked`, pulled if the engine does not have it; where it cannot be had, the lab image `stand_in`.

    Raises:
        ImageMissing, BuildFailed, NameTaken: see `ensure`; of the stand-in.
        EngineUnreachable: the engine went away.
    """
    with _translate_errors(engine):
        refusal = None
        if _inspect(engine, ref) is None:
            # Podman has no such question: there the pull itself shows whether its registry answers
            refusal = None if engine.is_podman else registries.check_image(engine, ref, HUB_TIMEOUT_S)
            refusal = refusal or _pull(engine, ref, _pull_progress(ref, say))
        cause = refusal.cause if refusal else _architecture_mismatch(engine, ref)
    if cause is None:
        say(f"{ref}: the image of that name")
        return HubImage(ref, ref, is_substitute=False)
    if refusal and refusal.hint:
        say(f"{ref}: {cause}\n  next:    {refusal.hint}")
    else:
        say(f"{ref}: {cause}")
    substitute_ref = ensure(engine, substitute, say)
    what = (_labels(engine, substitute_ref) or {}).get(DESCRIPTION, "a lab image")
    say(f"{substitute_ref} stands in for it: {what}")
    return HubImage(ref, substitute_ref, is_substitute=True)


def status(engine: Engine) -> dict[str, ImageStatus]:
    """Every lab image by name, as the engine has it; makes nothing."""
    found = {}
    for name in catalogue():
        labels = _labels(engine, reference(name))
        present = labels is not None and labels.get(CONTENT_LABEL) == content_hash(name)
        found[name] = ImageStatus(name, reference(name), _source(engine, name) if present else None, present)
    return found


def overview(engine: Engine, labels: Mapping[str, str] | None = None) -> Images:
    """What `status` says, with what the images stand on, read from the image `base`; makes no image.

    Args:
        labels: what the container carries from which a file is copied; it is never started.
    """
    found = status(engine)
    there = found["base"]
    if not there.present:
        return Images(tuple(found.values()), None, None)
    named = re.search(rb'^PRETTY_NAME="?([^"\n]*)', _file_of(engine, there.ref, OS_RELEASE, labels), re.M)
    return Images(tuple(found.values()), named[1].decode() if named else "a Linux", there.source)


def _file_of(engine: Engine, ref: str, path: str, labels: Mapping[str, str] | None) -> bytes:
    """A file of an image, empty where it has none: neither a start nor a log driver can get in the way."""
    api = engine.client.api
    made = api.create_container(ref, ["true"], labels=dict(labels or {}))["Id"]
    try:
        packed = b"".join(api.get_archive(made, path)[0])
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            return file.read() if file else b""
    except NotFound:
        return b""
    finally:
        remove_container(api, made)


def hub_reachable(engine: Engine, seconds: float = HUB_TIMEOUT_S) -> bool:
    """Whether the engine reaches Docker Hub within `seconds`; Podman cannot be asked, so this machine is."""
    if engine.is_podman:
        return hub.is_reachable(seconds)
    return registries.check_image(engine, HUB_BASE, seconds) is None


def _architecture_mismatch(engine: Engine, ref: str) -> str | None:
    """Why an image that is here does not run on this engine's processor; None where it does."""
    other = registries.foreign_architecture(engine, _inspect(engine, ref) or {})
    return other and f"the local image is for {other}, which does not match this engine's architecture"


def remove_all(engine: Engine, keep_reason: str | None = None) -> list[str]:
    """Remove the images and volumes that were noted as made from this state directory; a line for each.

    An image that a container stands on stays.

    Args:
        kept_for: why all of them stay, because another lab uses them; None if no other lab does.
    """
    said = []
    with _translate_errors(engine):
        made = recorded_ids(engine)
        for name in catalogue():
            _remove_intermediate(engine, name)
            tags = _tags(engine, name) if IMAGE in (_labels(engine, reference(name)) or {}) else []
            said += [remove_recorded(engine, tag, made, keep_reason) for tag in tags]
        if _labels(engine, BASE) is not None:
            said.append(remove_recorded(engine, BASE, made, keep_reason))
        for row in engine.client.api.images(filters={"label": IMAGE}):
            if str((row.get("Labels") or {}).get(IMAGE)).startswith(TEST_ENGINE):
                said.append(
                    remove_recorded(engine, (row.get("RepoTags") or [row["Id"]])[0], made, keep_reason)
                )
        if not keep_reason:
            said += _remove_volumes(engine, made)
    return said


def _remove_volumes(engine: Engine, made: Container[str]) -> list[str]:
    """Remove the volumes that were noted as made here and that no container uses; a line for each."""
    lines = []
    for row in engine.client.api.volumes()["Volumes"] or []:
        if row["Name"] in made:
            with suppress(APIError):
                engine.client.api.remove_volume(row["Name"])
                lines.append(f"removed volume {row['Name']}")
    return lines


def remove_recorded(engine: Engine, ref: str, recorded: Container[str], kept_for: str | None) -> str:
    """Remove the image `ref` if its id is among `made` and no other lab uses it; a line that says which."""
    if _image_id(engine, ref) not in recorded:
        return f"image {ref} kept: it was not built from this state directory (docker rmi {ref})"
    if kept_for:
        return f"image {ref} kept: {kept_for}"
    return _remove(engine, ref)


def record_created(engine: Engine, id: str | None) -> None:
    """Note that an image, or a volume, was made from this state directory: only what is noted is ever purged."""
    made = recorded_ids(engine)
    if id and id not in made:
        kept = state.read_json(RECORD_FILE, {})
        state.write_json(RECORD_FILE, kept | {engine.identity: [*made, id]})


def recorded_ids(engine: Engine) -> list[str]:
    """What was made from this state directory on the engine: ids of images and names of volumes."""
    noted = state.read_json(RECORD_FILE, {}).get(engine.identity, [])
    return [str(id) for id in noted]


def content_hash(name: str) -> str:
    """The SHA-256 over the names, modes and contents of the files that `name` is made from."""
    total = hashlib.sha256()
    for file in sorted(path for path in (IMAGES_DIRECTORY / name).rglob("*") if path.is_file()):
        runs = bool(file.stat().st_mode & 0o100)
        inside = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(IMAGES_DIRECTORY / name).as_posix()} {runs} {inside}\n".encode())
    return total.hexdigest()


# --- the base


def base(engine: Engine, say: Echo = lambda line: None) -> str:
    """The reference of the base that lab images are built on: Hub's, or one made with debootstrap.

    Raises:
        ImageMissing: Hub does not answer, and this machine cannot make a base for this engine.
    """
    if _labels(engine, BASE) is None:
        refusal = None if engine.is_podman else registries.check_image(engine, HUB_BASE, HUB_TIMEOUT_S)
        if refusal is None:
            say(f"base: pulling {HUB_BASE} from Docker Hub")
            refusal = pull_base(engine, HUB_BASE)
        if refusal is None:
            record_created(engine, _image_id(engine, BASE))
            return BASE
        say(f"base: {refusal.cause}; building a base from this machine's package mirror")
        debootstrap.make_base_image(engine, BASE, {SOURCE_LABEL: "debootstrap"}, say)
        record_created(engine, _image_id(engine, BASE))
    return BASE


def pull_base(engine: Engine, ref: str) -> PullFailure | None:
    """Pull `ref` and name it as the base; None, or why it could not be pulled.

    A `ref` that was there before stays; one that came along now keeps the lab's name only.
    """
    was_there = _labels(engine, ref) is not None
    refusal = _pull(engine, ref, lambda line: None)
    if refusal is None:
        engine.client.api.tag(ref, BASE)
        if not was_there:
            engine.client.api.remove_image(ref)
    return refusal


# --- building


def _build(engine: Engine, name: str, base: str, say: Echo) -> None:
    ref = reference(name)
    old = _image_id(engine, ref)
    _remove_intermediate(engine, name)  # what a killed build left
    said: list[str] = []
    labels = {
        IMAGE: name,
        CONTENT_LABEL: content_hash(name),
        SOURCE_LABEL: (_labels(engine, base) or {}).get(SOURCE_LABEL, "hub"),
    }
    show = _progress(f"image {name}", say)
    try:
        for step in engine.client.api.build(
            path=str(IMAGES_DIRECTORY / name),
            tag=ref,
            buildargs={"BASE": base},
            labels=labels,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if "error" in step:
                raise _failed(name, said, step["error"])
            for line in step.get("stream", "").splitlines():
                said.append(line)
                show(line, bool(_LAYER_STEP.match(line)))
    except APIError as error:
        raise _failed(name, said, str(error.explanation)) from None
    finally:
        # also after a failed build, and one that the reader interrupted
        _remove_intermediate(engine, name)
    if old and old != _image_id(engine, ref):
        _remove(engine, old)


def _progress(title: str, say: Echo) -> Callable[[str, bool], None]:
    """Say what matters at once, and of the rest one line every `SILENCE_S`: a build never looks dead."""
    last = time.monotonic()

    def show(line: str, matters: bool) -> None:
        nonlocal last
        if matters or (line.strip() and time.monotonic() - last > PROGRESS_INTERVAL_S):
            last = time.monotonic()
            say(f"{title}: {line.strip()[:90]}")

    return show


def _failed(name: str, said: list[str], words: str) -> BuildFailed:
    return BuildFailed(
        f"the lab image {name!r} could not be built; partial results were removed",
        hint=_next_step("\n".join([*said[-40:], words])),
        engine_message="\n".join([*[line for line in said if line.strip()][-LAST_LINES:], words]),
    )


def _next_step(words: str) -> str:
    if "no space left" in words.lower():
        return DISK_FULL
    if any(
        sign in words for sign in ("Temporary failure", "Could not resolve", "Failed to fetch", "Unable to")
    ):
        return "a download failed: check the engine's network and package mirror, then try again"
    return (
        "the last lines show the failed step; try again, and if it fails again, please report it with "
        "those lines"
    )


def _remove_intermediate(engine: Engine, name: str) -> None:
    """Remove what builds of `name` left between their steps.

    An image that a reader builds on a lab image inherits its labels, but it has `CONTENT` too; a leftover has not.
    """
    api = engine.client.api
    found = api.images(filters={"dangling": True, "label": f"{STAGE_LABEL}={name}"})
    for image in found:
        if CONTENT_LABEL not in responses.labels(image):
            _remove(engine, image["Id"])


def _remove(engine: Engine, ref: str) -> str:
    try:
        remove_image(engine.client.api, ref)
    except ImageNotFound:
        pass
    except APIError as error:
        return f"image {ref} kept: {error.explanation}"
    return f"removed image {ref}"


# --- pulling


def _pull_from_classroom(engine: Engine, name: str, say: Echo) -> bool:
    """Whether the classroom's registry had the image as this checkout describes it."""
    registry = os.environ.get("LABHELPERS_REGISTRY")
    if not registry:
        return False
    ref = f"{registry}/{reference(name)}"
    say(f"image {name}: pulling from the classroom's registry {registry}")
    refusal = _pull(engine, ref, _pull_progress(f"image {name}", say))
    cause = refusal.cause if refusal else _unusable_reason(engine, ref, name)
    if cause is not None:
        if refusal is None:
            _remove(engine, ref)
        say(f"image {name}: not available from the registry ({cause}); building it")
        return False
    engine.client.api.tag(ref, reference(name))
    return True


def _unusable_reason(engine: Engine, ref: str, name: str) -> str | None:
    if (_labels(engine, ref) or {}).get(CONTENT_LABEL) != content_hash(name):
        return "its image belongs to another version of the course"
    return _architecture_mismatch(engine, ref)


def _pull(engine: Engine, ref: str, on_progress: Callable[[Mapping[str, Any]], object]) -> PullFailure | None:
    """Pull `ref`; None, or why it could not be."""
    repository, tag = registries.split(ref)
    try:
        for step in engine.client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in step:
                return registries.explain_failure(ref, str(step["error"]))
            on_progress(step)
    except APIError as error:
        return registries.pull_error(error, ref)
    return None


def _pull_progress(title: str, say: Echo) -> Callable[[Mapping[str, Any]], None]:
    known: set[str] = set()
    done: set[str] = set()
    show = _progress(title, say)

    def see(step: Mapping[str, Any]) -> None:
        layer, what = step.get("id", ""), step.get("status", "")
        if what in ("Pulling fs layer", "Already exists"):
            known.add(layer)
        if what in ("Pull complete", "Already exists"):
            done.add(layer)
        show(f"{len(done)} of {len(known)} layers", False)

    return see


# --- what the engine has


def _is_current(engine: Engine, name: str) -> bool:
    with _translate_errors(engine):
        labels = _labels(engine, reference(name))
    if labels is not None and labels.get(IMAGE) != name:
        raise NameTaken(
            f"the engine has an image {reference(name)} that the lab did not create; it will not be replaced",
            hint="if it is yours, give it another name: "
            f"docker tag {reference(name)} mine; docker rmi {reference(name)}",
        )
    return (
        labels is not None
        and labels.get(CONTENT_LABEL) == content_hash(name)
        and not _architecture_mismatch(engine, reference(name))
    )


def _inspect(engine: Engine, ref: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = engine.client.api.inspect_image(ref)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return found


def _labels(engine: Engine, ref: str) -> dict[str, str] | None:
    """The labels of an image; None where the engine does not have it."""
    found = _inspect(engine, ref)
    return None if found is None else ((found.get("Config") or {}).get("Labels") or {})


def _image_id(engine: Engine, ref: str) -> str | None:
    found = _inspect(engine, ref)
    return None if found is None else str(found["Id"])


def _tags(engine: Engine, name: str) -> list[str]:
    """The names under which the lab keeps an image: its own, and that of the classroom's registry."""
    tags = (_inspect(engine, reference(name)) or {}).get("RepoTags") or []
    return [tag for tag in tags if tag == reference(name) or tag.endswith(f"/{reference(name)}")]


def _source(engine: Engine, name: str) -> str | None:
    if len(_tags(engine, name)) > 1:
        return "registry"
    return (_labels(engine, reference(name)) or {}).get(SOURCE_LABEL)


@contextmanager
def _translate_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except LabError:
        raise
    except (requests.RequestException, DockerException) as error:
        raise EngineUnreachable(
            f"lost the connection to the engine at {state.abbreviate_home(engine.address)} while checking or building "
            "images",
            hint="run `./lab doctor`, then try again; finished steps are kept",
            engine_message=str(getattr(error, "explanation", None) or error),
        ) from error
