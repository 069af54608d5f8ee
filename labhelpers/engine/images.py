"""The lab images: one folder of `images/` each, built on first use and identified by a hash of its content.

A lab image is one Dockerfile that takes its base as a build argument. The base is Docker Hub's `debian:bookworm-slim`
if Hub is reachable, else the machine's own distribution, built with debootstrap from the package mirror that the
machine's apt uses. In a classroom, set `LABHELPERS_REGISTRY=host:port` to pull lab images from that registry.

Labels: `labhelpers.image` is the image's name, `labhelpers.content` the SHA-256 of its folder,
`labhelpers.source` the origin of its base. `labhelpers.stage` is on the intermediate images of a build.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from labhelpers import state
from labhelpers.engine import debootstrap, hub, image_builds, registries, responses
from labhelpers.engine.find import Engine
from labhelpers.engine.image_builds import Echo
from labhelpers.engine.registries import PullFailure
from labhelpers.engine.removal import remove_container, remove_image
from labhelpers.errors import EngineUnreachable, ImageMissing, LabError, NameTaken
from labhelpers.results import Result, column, record, rows

IMAGES_DIRECTORY = state.ROOT / "images"
HUB_BASE = "debian:bookworm-slim"
BASE = "labhelpers/debian:base"
IMAGE, CONTENT_LABEL, SOURCE_LABEL, STAGE_LABEL = (
    f"labhelpers.{word}" for word in ("image", "content", "source", "stage")
)
DESCRIPTION = "org.opencontainers.image.description"
HUB_TIMEOUT_S = 5.0
OS_RELEASE = "/usr/lib/os-release"  # os-release(5): /etc/os-release is a link to it
TEST_ENGINE = "engine-"
"""The prefix of images that only the tests build, such as that of engine B."""
RECORD_FILE = "images.json"
"""The file in the state directory with the image IDs and volume names that were created from it, by engine."""


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
    """An image of a public registry, or the lab image that replaces it."""

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
    """The reference of the lab image `name`, which is built or pulled unless the engine has the current version.

    Raises:
        ImageMissing: the course has no such image, or no base image is available.
        BuildFailed: a step of its Dockerfile failed; partial results are removed.
        NameTaken: there is an image of that name that the lab did not create.
        EngineUnreachable: the connection to the engine was lost.
    """
    ref = reference(name)
    if _is_current(engine, name):
        return ref
    busy = f"image {name}: waiting for another lab command to build it"
    # one build at a time: each may use all of the disk and the CPU
    with state.locked("images", timeout_s=3600, waiting=lambda: echo(busy)), _translate_errors(engine):
        if _is_current(engine, name):
            return ref
        began = time.monotonic()
        if not _pull_from_classroom(engine, name, echo):
            _build(engine, name, base(engine, echo), echo)
        record_created(engine, _image_id(engine, ref))
        echo(f"image {name}: ready ({time.monotonic() - began:.0f} s)")
    return ref


def from_hub(engine: Engine, ref: str, substitute: str, echo: Echo = lambda line: None) -> HubImage:
    """The image `ref`, pulled if the engine does not have it; if it is not available, the lab image `substitute`.

    Raises:
        ImageMissing, BuildFailed, NameTaken: see `ensure`; for `substitute`.
        EngineUnreachable: the connection to the engine was lost.
    """
    with _translate_errors(engine):
        failure = None
        if _inspect(engine, ref) is None:
            # Podman has no /distribution: the pull itself shows whether the registry responds
            failure = None if engine.is_podman else registries.check_image(engine, ref, HUB_TIMEOUT_S)
            failure = failure or image_builds.pull(engine, ref, image_builds.pull_progress(ref, echo))
        cause = failure.cause if failure else _architecture_mismatch(engine, ref)
    if cause is None:
        echo(f"{ref}: the image of that name")
        return HubImage(ref, ref, is_substitute=False)
    if failure and failure.hint:
        echo(f"{ref}: {cause}\n  next:    {failure.hint}")
    else:
        echo(f"{ref}: {cause}")
    substitute_ref = ensure(engine, substitute, echo)
    description = (_labels(engine, substitute_ref) or {}).get(DESCRIPTION, "a lab image")
    echo(f"{substitute_ref} stands in for it: {description}")
    return HubImage(ref, substitute_ref, is_substitute=True)


def status(engine: Engine) -> dict[str, ImageStatus]:
    """The status of every lab image, by name; builds nothing."""
    statuses = {}
    for name in catalogue():
        labels = _labels(engine, reference(name))
        present = labels is not None and labels.get(CONTENT_LABEL) == content_hash(name)
        statuses[name] = ImageStatus(
            name, reference(name), _source(engine, name) if present else None, present
        )
    return statuses


def overview(engine: Engine, labels: Mapping[str, str] | None = None) -> Images:
    """The status of every lab image and their base, which is read from the image `base`; builds nothing.

    Args:
        labels: the labels of the container from which a file is copied; it is never started.
    """
    statuses = status(engine)
    base = statuses["base"]
    if not base.present:
        return Images(tuple(statuses.values()), None, None)
    match = re.search(rb'^PRETTY_NAME="?([^"\n]*)', _file_of(engine, base.ref, OS_RELEASE, labels), re.M)
    return Images(tuple(statuses.values()), match[1].decode() if match else "a Linux", base.source)


def _file_of(engine: Engine, ref: str, path: str, labels: Mapping[str, str] | None) -> bytes:
    """A file of an image; empty if it does not exist. The container is not started."""
    api = engine.client.api
    container_id = api.create_container(ref, ["true"], labels=dict(labels or {}))["Id"]
    try:
        archive_bytes = b"".join(api.get_archive(container_id, path)[0])
        with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            return file.read() if file else b""
    except NotFound:
        return b""
    finally:
        remove_container(api, container_id)


def hub_reachable(engine: Engine, seconds: float = HUB_TIMEOUT_S) -> bool:
    """Whether the engine reaches Docker Hub within `seconds`; for Podman, whether this machine does."""
    if engine.is_podman:
        return hub.is_reachable(seconds)
    return registries.check_image(engine, HUB_BASE, seconds) is None


def _architecture_mismatch(engine: Engine, ref: str) -> str | None:
    """Why a local image does not run on this engine's architecture; None if it does."""
    other = registries.foreign_architecture(engine, _inspect(engine, ref) or {})
    return other and f"the local image is for {other}, which does not match this engine's architecture"


def remove_all(engine: Engine, keep_reason: str | None = None) -> list[str]:
    """Remove the images and volumes that were created from this state directory; one line for each.

    An image that a container uses is kept.

    Args:
        keep_reason: why all of them are kept, if another lab uses them; else None.
    """
    lines = []
    with _translate_errors(engine):
        recorded = recorded_ids(engine)
        for name in catalogue():
            _remove_intermediate(engine, name)
            tags = _tags(engine, name) if IMAGE in (_labels(engine, reference(name)) or {}) else []
            lines += [remove_recorded(engine, tag, recorded, keep_reason) for tag in tags]
        if _labels(engine, BASE) is not None:
            lines.append(remove_recorded(engine, BASE, recorded, keep_reason))
        for row in engine.client.api.images(filters={"label": IMAGE}):
            if str((row.get("Labels") or {}).get(IMAGE)).startswith(TEST_ENGINE):
                lines.append(
                    remove_recorded(engine, (row.get("RepoTags") or [row["Id"]])[0], recorded, keep_reason)
                )
        if not keep_reason:
            lines += _remove_volumes(engine, recorded)
    return lines


def _remove_volumes(engine: Engine, recorded: Container[str]) -> list[str]:
    """Remove the unused volumes that were created from this state directory; one line for each."""
    lines = []
    for row in engine.client.api.volumes()["Volumes"] or []:
        if row["Name"] in recorded:
            with suppress(APIError):
                engine.client.api.remove_volume(row["Name"])
                lines.append(f"removed volume {row['Name']}")
    return lines


def remove_recorded(engine: Engine, ref: str, recorded: Container[str], kept_for: str | None) -> str:
    """Remove the image `ref` if its ID is in `recorded` and no other lab uses it; the line to print."""
    if _image_id(engine, ref) not in recorded:
        return f"image {ref} kept: it was not built from this state directory (docker rmi {ref})"
    if kept_for:
        return f"image {ref} kept: {kept_for}"
    return _remove(engine, ref)


def record_created(engine: Engine, id: str | None) -> None:
    """Record that an image or a volume was created from this state directory; only recorded ones are purged."""
    recorded = recorded_ids(engine)
    if id and id not in recorded:
        record = state.read_json(RECORD_FILE, {})
        state.write_json(RECORD_FILE, record | {engine.identity: [*recorded, id]})


def recorded_ids(engine: Engine) -> list[str]:
    """The IDs of images and names of volumes on the engine that were created from this state directory."""
    ids = state.read_json(RECORD_FILE, {}).get(engine.identity, [])
    return [str(id) for id in ids]


def content_hash(name: str) -> str:
    """The SHA-256 over the names, modes and contents of the files in the folder of `name`."""
    total = hashlib.sha256()
    for file in sorted(path for path in (IMAGES_DIRECTORY / name).rglob("*") if path.is_file()):
        runs = bool(file.stat().st_mode & 0o100)
        inside = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(IMAGES_DIRECTORY / name).as_posix()} {runs} {inside}\n".encode())
    return total.hexdigest()


# --- the base


def base(engine: Engine, echo: Echo = lambda line: None) -> str:
    """The reference of the base image of all lab images: Hub's, or one built with debootstrap.

    Raises:
        ImageMissing: Hub is not reachable, and this machine cannot build a base for this engine.
    """
    if _labels(engine, BASE) is None:
        failure = None if engine.is_podman else registries.check_image(engine, HUB_BASE, HUB_TIMEOUT_S)
        if failure is None:
            echo(f"base: pulling {HUB_BASE} from Docker Hub")
            failure = pull_base(engine, HUB_BASE)
        if failure is None:
            record_created(engine, _image_id(engine, BASE))
            return BASE
        echo(f"base: {failure.cause}; building a base from this machine's package mirror")
        debootstrap.make_base_image(engine, BASE, {SOURCE_LABEL: "debootstrap"}, echo)
        record_created(engine, _image_id(engine, BASE))
    return BASE


def pull_base(engine: Engine, ref: str) -> PullFailure | None:
    """Pull `ref` and tag it as the base; the failure, or None on success.

    If the engine did not have `ref` before, only the lab's tag is kept.
    """
    was_there = _labels(engine, ref) is not None
    failure = image_builds.pull(engine, ref, lambda line: None)
    if failure is None:
        engine.client.api.tag(ref, BASE)
        if not was_there:
            engine.client.api.remove_image(ref)
    return failure


# --- building


def _build(engine: Engine, name: str, base: str, echo: Echo) -> None:
    ref = reference(name)
    previous_id = _image_id(engine, ref)
    _remove_intermediate(engine, name)  # left behind by a killed build
    labels = {
        IMAGE: name,
        CONTENT_LABEL: content_hash(name),
        SOURCE_LABEL: (_labels(engine, base) or {}).get(SOURCE_LABEL, "hub"),
    }
    try:
        image_builds.build(engine, IMAGES_DIRECTORY / name, ref, base, labels, echo)
    finally:
        # also after a failed or interrupted build
        _remove_intermediate(engine, name)
    if previous_id and previous_id != _image_id(engine, ref):
        _remove(engine, previous_id)


def _remove_intermediate(engine: Engine, name: str) -> None:
    """Remove the intermediate images of builds of `name`.

    An image that a reader builds on a lab image inherits its labels, but it also has `CONTENT_LABEL`.
    """
    api = engine.client.api
    intermediate = api.images(filters={"dangling": True, "label": f"{STAGE_LABEL}={name}"})
    for image in intermediate:
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


def _pull_from_classroom(engine: Engine, name: str, echo: Echo) -> bool:
    """Pull the image from the classroom's registry; whether the registry has the version of this checkout."""
    registry = os.environ.get("LABHELPERS_REGISTRY")
    if not registry:
        return False
    ref = f"{registry}/{reference(name)}"
    echo(f"image {name}: pulling from the classroom's registry {registry}")
    failure = image_builds.pull(engine, ref, image_builds.pull_progress(f"image {name}", echo))
    cause = failure.cause if failure else _unusable_reason(engine, ref, name)
    if cause is not None:
        if failure is None:
            _remove(engine, ref)
        echo(f"image {name}: not available from the registry ({cause}); building it")
        return False
    engine.client.api.tag(ref, reference(name))
    return True


def _unusable_reason(engine: Engine, ref: str, name: str) -> str | None:
    if (_labels(engine, ref) or {}).get(CONTENT_LABEL) != content_hash(name):
        return "its image belongs to another version of the course"
    return _architecture_mismatch(engine, ref)


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
        image: dict[str, Any] = engine.client.api.inspect_image(ref)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return image


def _labels(engine: Engine, ref: str) -> dict[str, str] | None:
    """The labels of an image; None if the engine does not have it."""
    image = _inspect(engine, ref)
    return None if image is None else ((image.get("Config") or {}).get("Labels") or {})


def _image_id(engine: Engine, ref: str) -> str | None:
    image = _inspect(engine, ref)
    return None if image is None else str(image["Id"])


def _tags(engine: Engine, name: str) -> list[str]:
    """The tags of a lab image: its own, and that of the classroom's registry."""
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
