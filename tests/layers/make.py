"""Image archives made by hand, for the tests: every byte of them is known."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
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
    """An OCI image layout; with `docker`, what engines from 25 on save: manifest.json beside it."""
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
        told = [{"Config": f"blobs/sha256/{sha256(text)}", "RepoTags": ["made:1"], "Layers": names}]
        members.append(("manifest.json", json.dumps(told).encode()))
    return tar(members)


def packed(data: bytes, pack: str) -> bytes:
    if pack == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if pack == "zstd" else data


def write(folder: Path, data: bytes) -> Path:
    path = folder / "image.tar"
    path.write_bytes(data)
    return path
