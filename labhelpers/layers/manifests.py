"""The images that an archive lists: their names, their platforms, and which of their parts it contains.

Formats: moby, image/tarexport (manifest.json); OCI image-spec, image-layout.md, image-index.md, manifest.md and
descriptor.md (index.json). Since Engine 25, engines write both. With the containerd image store (the default since
Engine 29), an index lists every platform of an image, also those whose manifests or layers were never pulled.
"""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from labhelpers.errors import BadArchive, BadInput
from labhelpers.layers.archive_errors import damaged_error, printable_name, unsafe_error
from labhelpers.layers.extraction import path_below_root

# an archive of BuildKit with all architectures and attestations lists a few dozen
MAX_DESCRIPTORS = 20_000
IMAGE_CONFIGS = frozenset(
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
)
# OCI image-spec, config.md, uses the names of GOARCH; those of uname(1) differ
ARCHITECTURES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
ARCHITECTURES |= {"armv7l": "arm/v7", "armhf": "arm/v7", "armv6l": "arm/v6", "armel": "arm/v6"}


class ArchiveContents(Protocol):
    """The contents of an archive."""

    where: str

    def has(self, name: str) -> bool:
        """Whether the archive has a file of that name."""

    def text(self, name: str) -> Any:
        """The JSON of a file. Raises BadArchive if there is no such file, or it is not JSON."""

    def check(self, blob: Blob) -> None:
        """Compare a file with its descriptor. Raises BadArchive if the size or the digest differs."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A part of an image, as a manifest lists it.

    Attributes:
        name: of the file in the archive.
        size: in bytes; None if the manifest does not declare it.
        url: of a foreign layer, otherwise empty.
    """

    name: str
    size: int | None = None
    url: str = ""


@dataclass(slots=True)
class Image:
    """One image of one platform.

    Attributes:
        names: references, or its digest if it has none.
        platform: such as `linux/amd64`; None if neither the index nor the configuration records it.
        digest: of its manifest; empty if it has none.
        config: its configuration; None if the archive does not contain the manifest.
        layers: from the lowest to the highest.
        missing: parts that the archive lists but does not contain.
        problem: the error if its manifest is damaged.
        artifact: the type of an artifact that is not an image (a chart, a signature), otherwise empty.
    """

    names: list[str]
    platform: str | None = None
    digest: str = ""
    config: Blob | None = None
    layers: list[Blob] = field(default_factory=list)
    missing: list[Blob] = field(default_factory=list)
    problem: BadArchive | None = None
    artifact: str = ""

    @property
    def is_named(self) -> bool:
        """Whether it has a reference."""
        return not self.names[0].startswith("sha256:") and self.names[0] != (self.config and self.config.name)

    @property
    def is_complete(self) -> bool:
        """Whether the archive contains all of it."""
        return not self.missing and self.problem is None


@dataclass(frozen=True, slots=True)
class SelectedImage:
    """The selected image of an archive.

    Attributes:
        name: its reference, or its digest.
        image: the parts to read.
        platforms: the platforms that the archive contains in full.
        missing: the platforms that it lists but does not contain in full.
        skipped: types of listed artifacts that are not images.
    """

    name: str
    image: Image
    platforms: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: tuple[str, ...]


def local_platform() -> str:
    """The platform of containers on this machine: `linux/amd64`."""
    return normalize_platform(f"linux/{machine.machine().lower() or 'amd64'}")


def normalize_platform(text: str) -> str:
    """A platform in OCI notation: os/architecture, with the variant only if it is not the default.

    `arm64`, `linux/aarch64` and `linux/arm64/v8` are the same (containerd/platforms, Normalize).

    Raises:
        BadInput: the text is not a platform.
    """
    parts = text.strip().lower().split("/")
    if len(parts) == 1:
        parts.insert(0, "linux")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        raise BadInput(f"{text!r} is not a platform", hint="write it as in platform='linux/arm64'")
    os, *rest = parts
    known, *variant = "/".join([ARCHITECTURES.get(rest[0], rest[0]), *rest[1:]]).split("/")
    last = variant[-1] if variant else ""
    if (known, last) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        last = ""
    if known == "arm":
        last = f"v{last}" if last.isdigit() else last or "v7"
    return "/".join(part for part in (os, known, last) if part)


def select_image(
    contents: ArchiveContents, ref: str | None, platform: str | None, default: str
) -> SelectedImage:
    """Select one of the images that an archive lists.

    Args:
        ref: name of the image, or digest of its manifest; None if there is only one.
        platform: platform of the image; None for `default`, or for the only platform.

    Raises:
        BadInput: the archive contains several images, or not the requested one.
        BadArchive: the archive lists no image, or lacks parts of the requested one.
    """
    wanted = None if platform is None else normalize_platform(platform)
    listed = list(_listed(contents))
    images = [image for image in listed if not image.artifact]
    skipped = tuple(dict.fromkeys(image.artifact for image in listed if image.artifact))
    if not images and skipped:
        raise BadArchive(
            f"{contents.where} does not contain an image, but {', '.join(map(printable_name, skipped))}",
            hint="this is an OCI artifact, such as a chart or a signature; pass the archive of an image",
        )
    if not images:
        raise damaged_error(contents.where, "it lists no image")
    name, group = _named(contents.where, images, ref)
    image = _for_platform(contents.where, name, group, wanted, normalize_platform(default))
    if image.problem:
        raise image.problem
    if image.missing:
        raise _incomplete(contents.where, name, image, group)
    complete = dict.fromkeys(_platform(image) for image in group if image.is_complete)
    missing = dict.fromkeys(_platform(image) for image in group if not image.is_complete)
    return SelectedImage(
        name, image, tuple(complete), tuple(other for other in missing if other not in complete), skipped
    )


# --- the list of images


def _listed(contents: ArchiveContents) -> Iterator[Image]:
    """Every image of manifest.json and of index.json, each once."""
    if not contents.has("manifest.json"):
        yield from _of_index(contents)
        return
    rows = [_of_row(row, contents) for row in sequence(contents.text("manifest.json"), contents.where)]
    try:
        indexed = _of_index(contents) if contents.has("index.json") else []
    except BadArchive:
        indexed = []  # an engine reads manifest.json and ignores the index
    by_config = {image.config.name: image for image in indexed if image.config and not image.artifact}
    names: dict[str, list[str]] = {}
    for row in rows:
        twin = by_config.pop(row.config.name, None) if row.config else None
        if twin is not None:
            row.platform, row.digest = twin.platform or row.platform, twin.digest
            row.layers = twin.layers if len(twin.layers) == len(row.layers) else row.layers
            names |= dict.fromkeys(twin.names, row.names) if row.is_named else {}
            row.names = row.names if row.is_named else twin.names
            indexed.remove(twin)
    for image in indexed:
        # the other platforms of an image have the same names
        image.names = list(dict.fromkeys(new for old in image.names for new in names.get(old, [old])))
    yield from rows
    yield from indexed


def _of_row(row: Any, contents: ArchiveContents) -> Image:
    row = mapping(row, contents.where)
    config = row.get("Config")
    if not config or not isinstance(config, str):
        raise damaged_error(contents.where, "its manifest.json has no configuration (`Config` is empty)")
    names = [str(tag) for tag in sequence(row.get("RepoTags"), contents.where)]
    blob = Blob(path_below_root(config, contents.where))
    image = Image(names or [blob.name], config=blob)
    image.layers = [
        Blob(path_below_root(str(layer), contents.where))
        for layer in sequence(row.get("Layers"), contents.where)
    ]
    _complete(image, contents)
    return image


def _of_index(contents: ArchiveContents) -> list[Image]:
    """Every image of index.json and of the indexes in it, each once with all of its names."""
    images: dict[str, Image] = {}
    for image in _walk(contents):
        known = images.setdefault(image.digest, image)
        known.names = list(dict.fromkeys([*known.names, *image.names]))
    return list(images.values())


def _walk(contents: ArchiveContents) -> Iterator[Image]:
    top = sequence(mapping(contents.text("index.json"), contents.where).get("manifests"), contents.where)
    todo: list[tuple[dict[str, Any], list[str]]] = []
    for listed in reversed(top):
        descriptor = mapping(listed, contents.where)
        name = _annotated_name(descriptor)
        todo.append((descriptor, [name] if name else []))
    visited: set[tuple[str, tuple[str, ...]]] = set()
    count = 0
    while todo:
        descriptor, names = todo.pop()
        count += 1
        if count > MAX_DESCRIPTORS:
            raise unsafe_error(contents.where, f"its indexes list more than {MAX_DESCRIPTORS:,} manifests")
        blob = blob_of(descriptor, contents.where)
        image = _of_descriptor(descriptor, names)
        manifest: dict[str, Any] = {}
        if not contents.has(blob.name):
            image.missing = [blob]
        else:
            try:
                contents.check(blob)
                manifest = mapping(contents.text(blob.name), contents.where)
            except BadArchive as error:
                image.problem = error
        if isinstance(manifest.get("manifests"), list):
            # the images of an index have its names; without a name, the index itself is one image
            names = names or [str(descriptor.get("digest"))]
            key = (blob.name, tuple(names))
            if key not in visited:
                visited.add(key)
                for inner in reversed(manifest["manifests"]):
                    own = _annotated_name(mapping(inner, contents.where))
                    todo.append((mapping(inner, contents.where), [own] if own and ":" in own else names))
        elif not is_attestation(descriptor):
            if image.is_complete:
                _read_manifest(image, manifest, contents)
            yield image


def _of_descriptor(descriptor: Mapping[str, Any], names: list[str]) -> Image:
    digest = str(descriptor.get("digest"))
    return Image(names or [digest], _platform_in(descriptor.get("platform")), digest)


def _read_manifest(image: Image, manifest: Mapping[str, Any], contents: ArchiveContents) -> None:
    try:
        config = mapping(manifest.get("config") or {}, contents.where)
        kind = str(manifest.get("artifactType") or config.get("mediaType") or "")
        if kind and kind not in IMAGE_CONFIGS and not _is_image(config, contents):
            image.artifact = kind
            return
        if not config:
            raise damaged_error(
                contents.where, f"the manifest {printable_name(image.digest)} has no configuration"
            )
        image.config = blob_of(config, contents.where)
        image.layers = [
            blob_of(layer, contents.where) for layer in sequence(manifest.get("layers"), contents.where)
        ]
    except BadArchive as error:
        image.problem = error
    else:
        _complete(image, contents)


def _is_image(config: Mapping[str, Any], contents: ArchiveContents) -> bool:
    """Whether a configuration of an unknown media type is nevertheless that of an image."""
    try:
        return "rootfs" in contents.text(blob_of(config, contents.where).name)
    except (BadArchive, TypeError):
        return False


def _complete(image: Image, contents: ArchiveContents) -> None:
    """Set the missing parts and the platform of an image."""
    parts = [*([image.config] if image.config else []), *image.layers]
    image.missing = [part for part in parts if not contents.has(part.name)]
    if image.platform is None and image.config and contents.has(image.config.name):
        try:
            image.platform = _platform_in(contents.text(image.config.name))
        except BadArchive:
            image.platform = None  # an error only if this image is selected


def _platform_in(value: Any) -> str | None:
    """The platform in a descriptor's `platform` or in a configuration, which has the same keys."""
    if not isinstance(value, dict) or not value.get("architecture"):
        return None
    parts = [value.get("os") or "linux", value["architecture"], value.get("variant") or ""]
    try:
        return normalize_platform("/".join(str(part) for part in parts if part))
    except BadInput:
        return None


def is_attestation(descriptor: Mapping[str, Any]) -> bool:
    """Whether a descriptor is for a statement about an image, such as BuildKit's provenance, not for an image."""
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
    """The blob of a descriptor."""
    descriptor = mapping(descriptor, where)
    algorithm, _, code = str(descriptor.get("digest")).partition(":")
    size = descriptor.get("size")
    urls = descriptor.get("urls")
    return Blob(
        path_below_root(f"blobs/{algorithm}/{code}", where),
        size if isinstance(size, int) else None,
        str(urls[0]) if isinstance(urls, list) and urls else "",
    )


# --- the selection


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
        # an image for several platforms that was saved without a name
        groups = {nameless[0].names[0]: nameless}
    if ref is None and len({tuple(map(id, group)) for group in groups.values()}) == 1:
        return next(iter(groups.items()))
    problem = "contains several images" if ref is None else f"contains no image named {ref!r}"
    listed = (f"{printable_name(name)} ({_listed_platforms(group)})" for name, group in groups.items())
    raise BadInput(f"{where} {problem}", hint=f"pass one of these as ref: {', '.join(listed)}")


def _for_platform(where: str, name: str, group: Sequence[Image], wanted: str | None, default: str) -> Image:
    match = _matching(group, wanted or default)
    if match is not None:
        return match
    complete = [image for image in group if image.is_complete]
    candidates = complete or list(group)
    if wanted is None and len({_platform(image) for image in candidates}) == 1:
        return candidates[0]
    problem = (
        f"does not contain {printable_name(name)} for {wanted}"
        if wanted
        else f"contains {printable_name(name)} for several platforms, but not for {default}"
    )
    known = next((image.platform for image in candidates if image.platform), None)
    advice = f"pass one of them, such as platform='{known}'" if known else "omit `platform`"
    raise BadInput(f"{where} {problem}", hint=f"it has {_listed_platforms(group)}: {advice}")


def _matching(group: Sequence[Image], wanted: str) -> Image | None:
    """The image for a platform: preferably of the same variant, then a complete one."""
    same = [image for image in group if image.platform == wanted]
    similar = [image for image in group if (image.platform or "").split("/")[:2] == wanted.split("/")[:2]]
    matches = [*same, *(similar if wanted.count("/") == 1 else [])]
    return next((image for image in matches if image.is_complete), matches[0] if matches else None)


def _incomplete(where: str, name: str, image: Image, group: Sequence[Image]) -> BadArchive:
    """The error for an image that is listed but incomplete."""
    foreign = next((blob for blob in image.missing if blob.url), None)
    if foreign is not None:
        return BadArchive(
            f"{where} does not contain the layer {short(foreign.name)} of {printable_name(name)}: it is a foreign "
            f"layer, which an engine downloads from {printable_name(foreign.url)}",
            hint="foreign layers (mostly of Windows) are never saved; use an image without them",
        )
    first = short(image.missing[0].name)
    if not image.digest:
        part = "the layer" if image.missing[0] in image.layers else "the configuration"
        return damaged_error(where, f"{part} {first} is listed but missing")
    complete = list(dict.fromkeys(_platform(image) for image in group if image.is_complete))
    contains = f"only {', '.join(complete)} is complete" if complete else "no image is complete"
    choose = f"pass platform='{complete[0]}' for a complete image; or " if complete else ""
    platform = _platform(image)
    return BadArchive(
        f"{where} lists {printable_name(name)} for {platform}, but lacks {len(image.missing)} blobs, the "
        f"first is {first}; {contains}. The containerd image store saves the blobs that it has, which may not "
        "include every platform and every layer",
        hint=f"{choose}pull it and save it again: docker pull --platform {platform} IMAGE, then docker save "
        f"--platform {platform} -o FILE IMAGE (--platform needs Engine 28)",
    )


def _platform(image: Image) -> str:
    return image.platform or "(no platform)"


def _listed_platforms(group: Iterable[Image]) -> str:
    """The platforms for a message, with a note for incomplete ones."""
    platforms = (f"{_platform(image)}{'' if image.is_complete else ' (incomplete)'}" for image in group)
    return ", ".join(dict.fromkeys(platforms))


# --- typed JSON


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value` as a JSON object."""
    if not isinstance(value, dict):
        raise damaged_error(where, "its JSON has another value where an object is required")
    return value


def sequence(value: Any, where: str) -> list[Any]:
    """`value` as a JSON array; null is an empty array, as Go writes it."""
    if value is not None and not isinstance(value, list):
        raise damaged_error(where, "its JSON has another value where an array is required")
    return value or []


def short(name: str) -> str:
    """A name with digests shortened as in the output of docker."""
    return "/".join(part[:12] if len(part) >= 64 else printable_name(part) for part in name.split("/"))
