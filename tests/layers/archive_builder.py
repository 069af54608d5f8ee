"""Image archives made by hand, for the tests: every byte of them is known."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

Content = bytes | int | str | None
"""Of a file: bytes, or a number of zeros. Of a link: `->target` (symbolic), `=>target` (hard). None: a directory."""


def layer(files: Mapping[str, Content] | Sequence[tuple[str, Content]]) -> bytes:
    """A layer: path → content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items() if isinstance(files, Mapping) else files:
            header = tarfile.TarInfo(path)
            data = b""
            if content is None:
                header.type, header.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                header.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                header.linkname = content[2:]
            else:
                data = content if isinstance(content, bytes) else bytes(content)
                header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(layers: Sequence[bytes]) -> bytes:
    history: list[dict[str, Any]] = [{"created_by": f"/bin/sh -c step {n}"} for n in range(len(layers))]
    history.insert(1, {"created_by": "/bin/sh -c #(nop) ENV A=b", "empty_layer": True})
    diff_ids = [f"sha256:{sha256(one)}" for one in layers]
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history}).encode()


def tar(members: Sequence[tuple[str, Content]]) -> bytes:
    return layer(members)


def saved(layers: Sequence[bytes], tags: Sequence[str] = ("made:1",)) -> bytes:
    """As engines before 25 save: a folder for each layer, the manifest last."""
    text = config(layers)
    names = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{sha256(text)}.json", "RepoTags": list(tags), "Layers": names}]
    members: list[tuple[str, Content]] = list(zip(names, layers, strict=True))
    return tar([*members, (f"{sha256(text)}.json", text), ("manifest.json", json.dumps(manifest).encode())])


def layout(layers: Sequence[bytes], pack: str = "plain", docker: bool = False, **changed: int) -> bytes:
    """An OCI image layout; with `docker`, as engines since 25 save it: with a manifest.json."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes, kind: str) -> dict[str, Any]:
        blobs[f"blobs/sha256/{sha256(data)}"] = data
        return {"mediaType": kind, "digest": f"sha256:{sha256(data)}", "size": len(data)}

    text = config(layers)
    manifest = {
        "schemaVersion": 2,
        "config": add(text, "application/vnd.oci.image.config.v1+json"),
        "layers": [add(packed(one, pack), "application/vnd.oci.image.layer.v1.tar") for one in layers],
    }
    for descriptor in manifest["layers"]:  # type: ignore[attr-defined]
        descriptor["size"] += changed.get("size_more", 0)
    described = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "made:1"}
    index = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    members: list[tuple[str, Content]] = [*blobs.items(), ("index.json", index), ("oci-layout", b'{"a":1}')]
    if docker:
        names = [f"blobs/sha256/{sha256(packed(one, pack))}" for one in layers]
        rows = [{"Config": f"blobs/sha256/{sha256(text)}", "RepoTags": ["made:1"], "Layers": names}]
        members.append(("manifest.json", json.dumps(rows).encode()))
    return tar(members)


def packed(data: bytes, pack: str) -> bytes:
    return PACK[pack](data)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


# RFC 8878: a frame that says nothing; zstd:chunked ends with one, pzstd begins with one
SKIPPED = struct.pack("<II", 0x184D2A50, 5) + b"hello"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": _zstd,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    # several streams one after the other, as eStargz, pigz, pbzip2, pixz and zstd:chunked write them
    "gzips": lambda data: b"".join(gzip.compress(part) for part in (b"", data[:700], data[700:])),
    "bzip2s": lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:]),
    "xzs": lambda data: lzma.compress(data[:700]) + bytes(8) + lzma.compress(data[700:], preset=0),
    "zstds": lambda data: SKIPPED + _zstd(data[:700]) + SKIPPED + _zstd(data[700:]) + SKIPPED,
    "gzip with a name": lambda data: (
        b"\x1f\x8b\x08\x0c" + bytes(6) + b"\2\0xyname\0" + gzip.compress(data)[10:]
    ),
}


# --- headers by hand


def block(name: str, size: int = 0, kind: bytes = b"0", target: str = "", **fields: bytes) -> bytes:
    """A header with the contents that follow it left out; `at_124=b"…"` overwrites bytes from there on."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = size, kind, target
    # a long name is a header and its contents before the header
    made = header.tobuf(tarfile.GNU_FORMAT)
    before, own = made[:-512], bytearray(made[-512:])
    for place, data in fields.items():
        at = int(place.removeprefix("at_"))
        own[at : at + len(data)] = data
    return before + with_checksum(own)


def with_checksum(header: bytearray, signed: bool = False) -> bytes:
    """The header with its checksum."""
    header[148:156] = b" " * 8
    total = sum(byte - 256 * (signed and byte > 127) for byte in header)
    header[148:156] = b"%06o\0 " % total
    return bytes(header)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(kind: bytes = b"x", **records: bytes) -> bytes:
    """A pax header with records; `kind` is `g` for a global one."""
    text = b""
    for key, value in records.items():
        rest = b" %s=%s\n" % (key.replace("_", ".").encode(), value)
        size = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
        text += b"%d%s" % (size, rest)
    return block("PaxHeader", len(text), kind) + padded(text)


def docker_archive(
    stored: Sequence[bytes],
    unpacked: Sequence[bytes] | None = None,
    config: Callable[[dict[str, Any]], Any] = lambda made: made,
    manifest: Callable[[dict[str, Any]], Any] = lambda made: made,
    more: Sequence[tuple[str, Content]] = (),
) -> bytes:
    """As engines before 25 save, with any part of it changed."""
    diff_ids = [f"sha256:{sha256(one)}" for one in unpacked or stored]
    made = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    text = json.dumps(config({**made, "config": {}})).encode()
    names = [f"{number:064x}/layer.tar" for number in range(len(stored))]
    row = {"Config": f"{sha256(text)}.json", "RepoTags": ["labhelpers-crafted:1"], "Layers": names}
    members: list[tuple[str, Content]] = [*zip(names, stored, strict=True), *more]
    rows = json.dumps([manifest(row)]).encode()
    return tar([*members, (f"{sha256(text)}.json", text), ("manifest.json", rows)])


def platforms(
    listed: Mapping[str, Sequence[bytes]],
    absent: Sequence[str] = (),
    name: str | None = "made:1",
    nested: bool = True,
    docker: str | None = None,
    config_platform: bool = True,
) -> bytes:
    """An OCI layout with an image for several platforms, such as `docker save` writes from the containerd store.

    Args:
        listed: platform → its layers, in the order of the index.
        absent: `linux/arm64 layers` or `linux/arm64 manifest`: what is listed and not there.
        nested: whether an index lies between index.json and the manifests.
        docker: the platform that manifest.json lists; None for no such file.
    """
    blobs: dict[str, bytes] = {}
    rows: list[dict[str, Any]] = []

    def add(data: bytes, kind: str, there: bool = True, **more: Any) -> dict[str, Any]:
        if there:
            blobs[f"blobs/sha256/{sha256(data)}"] = data
        return {"mediaType": kind, "digest": f"sha256:{sha256(data)}", "size": len(data), **more}

    described = []
    for platform, layers in listed.items():
        os, architecture, *variant = platform.split("/")
        own = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        made = json.loads(config(layers)) | (own if config_platform else {})
        text = json.dumps(made).encode()
        has_layers = f"{platform} layers" not in absent
        has_manifest = f"{platform} manifest" not in absent
        manifest = {
            "schemaVersion": 2,
            "config": add(text, "application/vnd.oci.image.config.v1+json", has_manifest),
            "layers": [
                add(
                    packed(one, "gzip"),
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    has_manifest and has_layers,
                )
                for one in layers
            ],
        }
        described.append(
            add(
                json.dumps(manifest).encode(),
                "application/vnd.oci.image.manifest.v1+json",
                has_manifest,
                platform=own,
            )
        )
        if platform == docker:
            names = [f"blobs/sha256/{sha256(packed(one, 'gzip'))}" for one in layers]
            rows.append({"Config": f"blobs/sha256/{sha256(text)}", "RepoTags": [name], "Layers": names})
    notes = {"io.containerd.image.name": f"docker.io/library/{name}"} if name else {}
    if nested:
        inner = json.dumps({"schemaVersion": 2, "manifests": described}).encode()
        described = [add(inner, "application/vnd.oci.image.index.v1+json")]
    for one in described:
        one["annotations"] = notes
    members: list[tuple[str, Content]] = [*blobs.items()]
    members.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": described}).encode()))
    if docker:
        members.append(("manifest.json", json.dumps(rows).encode()))
    return tar(members)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "image.tar"
    path.write_bytes(data)
    return path
