"""Which images an archive lists: their names, their platforms, and what of them it holds.

Formats: moby, image/tarexport (manifest.json); OCI image-spec, image-layout.md, image-index.md, manifest.md and
descriptor.md (index.json). Engines from 25 on write both. With the containerd image store (the default from
Engine 29) an index lists every platform of an image, also those whose manifests or layers were never pulled.
"""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from labhelpers.errors import BadArchive, BadInput
from labhelpers.layers.extraction import path_below_root
from labhelpers.layers.tarstream import damaged_error, printable_name, unsafe_error
from labhelpers.results import column, record

# a BuildKit archive with every architecture and its attestations lists some dozens
MAX_DESCRIPTORS = 20_000
IMAGE_CONFIGS = frozenset(
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
)
# OCI image-spec, config.md: the names of Go's GOARCH; uname(1) has others
ARCHITECTURES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
ARCHITECTURES |= {"armv7l": "arm/v7", "armhf": "arm/v7", "armv6l": "arm/v6", "armel": "arm/v6"}


class ArchiveContents(Protocol):
    """What an archive holds."""

    where: str

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def text(self, name: str) -> Any:
        """The JSON of a file. Raises BadArchive if there is none."""

    def check(self, blob: Blob) -> None:
        """Compare a file with what a manifest says of it. Raises BadArchive if its size or digest differs."""


@record
class Blob:
    """A part of an image, as a manifest lists it."""

    name: str = column("of the file in the archive")
    size: int | None = column("in bytes; None where the manifest does not say", default=None)
    url: str = column("where a foreign layer is to be fetched, else empty", default="")


@dataclass(slots=True)
class Image:
    """One image of one platform.

    Attributes:
        names: references, or its digest where it has none.
        platform: `linux/amd64`, or None where neither index nor configuration says.
        digest: of its manifest; empty where it has none.
        config: its configuration; None where the archive lacks the manifest.
        layers: from the lowest to the highest.
        absent: what the archive lists and does not hold.
        problem: why it cannot be read, where its manifest is damaged.
        artifact: the type of what is no image (a chart, a signature), else empty.
    """

    names: list[str]
    platform: str | None = None
    digest: str = ""
    config: Blob | None = None
    layers: list[Blob] = field(default_factory=list)
    absent: list[Blob] = field(default_factory=list)
    problem: BadArchive | None = None
    artifact: str = ""

    @property
    def is_named(self) -> bool:
        """Whether a reference names it."""
        return not self.names[0].startswith("sha256:") and self.names[0] != (self.config and self.config.name)

    @property
    def is_complete(self) -> bool:
        """Whether the archive holds all of it."""
        return not self.absent and self.problem is None


@record
class SelectedImage:
    """The image that was asked for."""

    name: str = column("what it is called")
    image: Image = column("what to read", shown=False)
    platforms: tuple[str, ...] = column("those that the archive holds in full")
    absent: tuple[str, ...] = column("those that it lists, and does not hold in full")
    skipped: tuple[str, ...] = column("what it lists beside them that is no image, by type")


def local_platform() -> str:
    """The platform of containers on this machine: `linux/amd64`."""
    return normalize_platform(f"linux/{machine.machine().lower() or 'amd64'}")


def normalize_platform(text: str) -> str:
    """A platform as OCI spells it: os/architecture, with the variant only where it tells something.

    `arm64`, `linux/aarch64` and `linux/arm64/v8` are the same (containerd/platforms, Normalize).

    Raises:
        BadInput: it is no platform.
    """
    parts = text.strip().lower().split("/")
    if len(parts) == 1:
        parts.insert(0, "linux")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        raise BadInput(f"{text!r} is no platform", hint="give one like platform='linux/arm64'")
    os, *rest = parts
    known, *variant = "/".join([ARCHITECTURES.get(rest[0], rest[0]), *rest[1:]]).split("/")
    last = variant[-1] if variant else ""
    if (known, last) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        last = ""
    if known == "arm":
        last = f"v{last}" if last.isdigit() else last or "v7"
    return "/".join(part for part in (os, known, last) if part)


def select_image(held: ArchiveContents, ref: str | None, platform: str | None, default: str) -> SelectedImage:
    """The image that is asked for, out of all that an archive lists.

    Args:
        ref: its name or the digest of its manifest; None where there is but one.
        platform: which of its platforms; None for `default`, or for the only one there is.

    Raises:
        BadInput: the archive holds several, or not the one that is asked for.
        BadArchive: it lists none, or lacks parts of the one that is asked for.
    """
    wanted = None if platform is None else normalize_platform(platform)
    listed = list(_listed(held))
    images = [one for one in listed if not one.artifact]
    skipped = tuple(dict.fromkeys(one.artifact for one in listed if one.artifact))
    if not images and skipped:
        raise BadArchive(
            f"{held.where} holds no image; it holds {', '.join(map(printable_name, skipped))}",
            hint="that is an OCI artifact, such as a chart or a signature; give the archive of an image",
        )
    if not images:
        raise damaged_error(held.where, "it lists no image")
    name, group = _named(held.where, images, ref)
    image = _for_platform(held.where, name, group, wanted, normalize_platform(default))
    if image.problem:
        raise image.problem
    if image.absent:
        raise _incomplete(held.where, name, image, group)
    there = [_platform(one) for one in group if one.is_complete]
    absent = [_platform(one) for one in group if not one.is_complete]
    return SelectedImage(
        name,
        image,
        tuple(dict.fromkeys(there)),
        tuple(one for one in dict.fromkeys(absent) if one not in there),
        skipped,
    )


# --- what is listed


def _listed(held: ArchiveContents) -> Iterator[Image]:
    """Every image of manifest.json and of index.json, each once."""
    if not held.has("manifest.json"):
        yield from _of_index(held)
        return
    rows = [_of_row(row, held) for row in sequence(held.text("manifest.json"), held.where)]
    try:
        indexed = _of_index(held) if held.has("index.json") else []
    except BadArchive:
        indexed = []  # an engine reads manifest.json and does not look at the index
    by_config = {one.config.name: one for one in indexed if one.config and not one.artifact}
    names: dict[str, list[str]] = {}
    for row in rows:
        twin = by_config.pop(row.config.name, None) if row.config else None
        if twin is not None:
            row.platform, row.digest = twin.platform or row.platform, twin.digest
            row.layers = twin.layers if len(twin.layers) == len(row.layers) else row.layers
            names |= dict.fromkeys(twin.names, row.names) if row.is_named else {}
            row.names = row.names if row.is_named else twin.names
            indexed.remove(twin)
    for one in indexed:
        # the other platforms of an image have its names
        one.names = list(dict.fromkeys(new for old in one.names for new in names.get(old, [old])))
    yield from rows
    yield from indexed


def _of_row(row: Any, held: ArchiveContents) -> Image:
    row = mapping(row, held.where)
    config = row.get("Config")
    if not config or not isinstance(config, str):
        raise damaged_error(held.where, "its manifest.json names no configuration (`Config` is empty)")
    names = [str(tag) for tag in sequence(row.get("RepoTags"), held.where)]
    blob = Blob(path_below_root(config, held.where))
    image = Image(names or [blob.name], config=blob)
    image.layers = [
        Blob(path_below_root(str(layer), held.where)) for layer in sequence(row.get("Layers"), held.where)
    ]
    _complete(image, held)
    return image


def _of_index(held: ArchiveContents) -> list[Image]:
    """Every image of index.json and of the indexes in it, each once with all of its names."""
    found: dict[str, Image] = {}
    for image in _walk(held):
        seen = found.setdefault(image.digest, image)
        seen.names = list(dict.fromkeys([*seen.names, *image.names]))
    return list(found.values())


def _walk(held: ArchiveContents) -> Iterator[Image]:
    top = sequence(mapping(held.text("index.json"), held.where).get("manifests"), held.where)
    todo: list[tuple[dict[str, Any], list[str]]] = []
    for one in reversed(top):
        descriptor = mapping(one, held.where)
        name = _annotated_name(descriptor)
        todo.append((descriptor, [name] if name else []))
    seen: set[tuple[str, tuple[str, ...]]] = set()
    count = 0
    while todo:
        descriptor, names = todo.pop()
        count += 1
        if count > MAX_DESCRIPTORS:
            raise unsafe_error(held.where, f"its indexes list more than {MAX_DESCRIPTORS:,} manifests")
        blob = blob_of(descriptor, held.where)
        image = _of_descriptor(descriptor, names)
        manifest: dict[str, Any] = {}
        if not held.has(blob.name):
            image.absent = [blob]
        else:
            try:
                held.check(blob)
                manifest = mapping(held.text(blob.name), held.where)
            except BadArchive as error:
                image.problem = error
        if isinstance(manifest.get("manifests"), list):
            # names of the images in it are those of the index; without one they are one image all the same
            names = names or [str(descriptor.get("digest"))]
            key = (blob.name, tuple(names))
            if key not in seen:
                seen.add(key)
                for inner in reversed(manifest["manifests"]):
                    own = _annotated_name(mapping(inner, held.where))
                    todo.append((mapping(inner, held.where), [own] if own and ":" in own else names))
        elif not _is_attestation(descriptor):
            if image.is_complete:
                _read_manifest(image, manifest, held)
            yield image


def _of_descriptor(descriptor: Mapping[str, Any], names: list[str]) -> Image:
    digest = str(descriptor.get("digest"))
    return Image(names or [digest], _platform_in(descriptor.get("platform")), digest)


def _read_manifest(image: Image, manifest: Mapping[str, Any], held: ArchiveContents) -> None:
    try:
        config = mapping(manifest.get("config") or {}, held.where)
        kind = str(manifest.get("artifactType") or config.get("mediaType") or "")
        if kind and kind not in IMAGE_CONFIGS and not _is_image(config, held):
            image.artifact = kind
            return
        if not config:
            raise damaged_error(
                held.where, f"the manifest {printable_name(image.digest)} names no configuration"
            )
        image.config = blob_of(config, held.where)
        image.layers = [blob_of(layer, held.where) for layer in sequence(manifest.get("layers"), held.where)]
    except BadArchive as error:
        image.problem = error
    else:
        _complete(image, held)


def _is_image(config: Mapping[str, Any], held: ArchiveContents) -> bool:
    """Whether a configuration of an unknown type is an image's all the same."""
    try:
        return "rootfs" in held.text(blob_of(config, held.where).name)
    except (BadArchive, TypeError):
        return False


def _complete(image: Image, held: ArchiveContents) -> None:
    """Note what the archive lacks of an image, and its platform."""
    parts = [*([image.config] if image.config else []), *image.layers]
    image.absent = [part for part in parts if not held.has(part.name)]
    if image.platform is None and image.config and held.has(image.config.name):
        try:
            image.platform = _platform_in(held.text(image.config.name))
        except BadArchive:
            image.platform = None  # it matters only if this is the image that is asked for


def _platform_in(value: Any) -> str | None:
    """The platform of a descriptor's `platform`, or of a configuration, which has the same keys."""
    if not isinstance(value, dict) or not value.get("architecture"):
        return None
    parts = [value.get("os") or "linux", value["architecture"], value.get("variant") or ""]
    try:
        return normalize_platform("/".join(str(part) for part in parts if part))
    except BadInput:
        return None


def _is_attestation(descriptor: Mapping[str, Any]) -> bool:
    """Whether it is a statement about an image, such as BuildKit's provenance, and no image."""
    notes = descriptor.get("annotations")
    return (isinstance(notes, dict) and "vnd.docker.reference.type" in notes) or _platform_in(
        descriptor.get("platform")
    ) == "unknown/unknown"


def _annotated_name(descriptor: Mapping[str, Any]) -> str | None:
    notes = descriptor.get("annotations")
    if not isinstance(notes, dict):
        return None
    name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name")
    return familiar_name(str(name)) if name else None


def familiar_name(name: str) -> str:
    """A reference as docker shows it: `busybox:1` for `docker.io/library/busybox:1`."""
    return name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name


def blob_of(descriptor: Any, where: str) -> Blob:
    """The blob that a descriptor is about."""
    descriptor = mapping(descriptor, where)
    algorithm, _, code = str(descriptor.get("digest")).partition(":")
    size = descriptor.get("size")
    urls = descriptor.get("urls")
    return Blob(
        path_below_root(f"blobs/{algorithm}/{code}", where),
        size if isinstance(size, int) else None,
        str(urls[0]) if isinstance(urls, list) and urls else "",
    )


# --- which one


def _named(where: str, images: Sequence[Image], ref: str | None) -> tuple[str, list[Image]]:
    """The images of one name: one for each platform."""
    groups: dict[str, list[Image]] = {}
    for image in images:
        for name in image.names:
            groups.setdefault(name, []).append(image)
    if ref is not None:
        for name in (ref, f"{ref}:latest", familiar_name(ref), f"{familiar_name(ref)}:latest"):
            if name in groups:
                return name, groups[name]
        same = [image for image in images if image.digest and image.digest.startswith(ref) and len(ref) > 11]
        if same:
            return same[0].names[0], same[:1]
    nameless = [image for image in images if not image.is_named]
    platforms = [image.platform for image in nameless]
    if len(nameless) == len(images) and None not in platforms and len(set(platforms)) == len(platforms):
        # an image of several platforms that was saved without a name
        groups = {nameless[0].names[0]: nameless}
    if ref is None and len({tuple(map(id, group)) for group in groups.values()}) == 1:
        return next(iter(groups.items()))
    what = "several images" if ref is None else f"no image called {ref!r}"
    listed = (f"{printable_name(name)} ({_listed_platforms(group)})" for name, group in groups.items())
    raise BadInput(f"{where} holds {what}", hint=f"give one of them as ref: {', '.join(listed)}")


def _for_platform(where: str, name: str, group: Sequence[Image], wanted: str | None, default: str) -> Image:
    found = _matching(group, wanted or default)
    if found is not None:
        return found
    complete = [image for image in group if image.is_complete]
    candidates = complete or list(group)
    if wanted is None and len({_platform(one) for one in candidates}) == 1:
        return candidates[0]
    what = f"not for {wanted}" if wanted else f"for several platforms, and {default} is not one of them"
    known = next((one.platform for one in candidates if one.platform), None)
    advice = f"give one of them, such as platform='{known}'" if known else "leave platform out"
    raise BadInput(
        f"{where} holds {printable_name(name)} {what}", hint=f"it has {_listed_platforms(group)}: {advice}"
    )


def _matching(group: Sequence[Image], wanted: str) -> Image | None:
    """The image for a platform: the same variant before another one, a complete one before one that is not."""
    same = [image for image in group if image.platform == wanted]
    similar = [image for image in group if (image.platform or "").split("/")[:2] == wanted.split("/")[:2]]
    found = [*same, *(similar if wanted.count("/") == 1 else [])]
    return next((image for image in found if image.is_complete), found[0] if found else None)


def _incomplete(where: str, name: str, image: Image, group: Sequence[Image]) -> BadArchive:
    """The error for an image that is listed and not there, or not in full."""
    foreign = next((blob for blob in image.absent if blob.url), None)
    if foreign is not None:
        return BadArchive(
            f"{where} does not hold the layer {short(foreign.name)} of {printable_name(name)}: it is a foreign "
            f"layer, which an engine fetches from {printable_name(foreign.url)}",
            hint="such layers (mostly of Windows) are never saved; give an image without them",
        )
    if not image.digest:
        what = "the layer" if image.absent[0] in image.layers else "the configuration"
        return damaged_error(where, f"{what} {short(image.absent[0].name)} is listed and not there")
    whole = [_platform(one) for one in group if one.is_complete]
    holds = f"it holds {', '.join(dict.fromkeys(whole))} in full" if whole else "it holds no image in full"
    listed = f"{short(image.absent[0].name)} is the first of {len(image.absent)} that are not there"
    choose = f"give platform='{whole[0]}' for what is there; or " if whole else ""
    platform = _platform(image)
    return BadArchive(
        f"{where} lists {printable_name(name)} for {platform} and does not hold all of it ({listed}); {holds}. The "
        "containerd image store saves what it has, and that is not always every platform and every layer",
        hint=f"{choose}fetch it and save it again: docker pull --platform {platform} IMAGE, then docker save "
        f"--platform {platform} -o FILE IMAGE (--platform needs Engine 28)",
    )


def _platform(image: Image) -> str:
    return image.platform or "(no platform)"


def _listed_platforms(group: Iterable[Image]) -> str:
    """For messages: the platforms, and which of them are not there."""
    there = dict.fromkeys(
        f"{_platform(one)}{'' if one.is_complete else ' (not there in full)'}" for one in group
    )
    return ", ".join(there)


# --- JSON as it should be


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value`, an object of JSON."""
    if not isinstance(value, dict):
        raise damaged_error(where, "a description in it does not have the form that its format asks for")
    return value


def sequence(value: Any, where: str) -> list[Any]:
    """`value`, an array of JSON; null stands for an empty one, as Go writes it."""
    if value is not None and not isinstance(value, list):
        raise damaged_error(where, "a list in it does not have the form that its format asks for")
    return value or []


def short(name: str) -> str:
    """A name with its long codes cut, as docker shows them."""
    return "/".join(part[:12] if len(part) >= 64 else printable_name(part) for part in name.split("/"))
