"""What runs in the helper container that talks to a registry. Its text is the container's command.

It asks for a manifest and for every blob that the manifest names, and recomputes their SHA-256
(OCI distribution-spec, "Pulling manifests", "Pulling blobs"). The answer is JSON on standard output.
"""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.request
from typing import Any

KINDS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


def read(url: str, keep: bool) -> tuple[bytes, int, str, str]:
    """What the registry sends: its bytes if they are to be kept, how many, their SHA-256, the promised one."""
    total, count, kept = hashlib.sha256(), 0, b""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": KINDS})) as answer:
        while part := answer.read(1 << 20):
            total.update(part)
            count += len(part)
            kept += part if keep else b""
        promised = answer.headers.get("Docker-Content-Digest", "")
    return kept, count, f"sha256:{total.hexdigest()}", promised


def blobs(base: str, tag: str) -> list[dict[str, Any]]:
    """The manifest and all that it names, in order: kind, promised digest, promised and found bytes, digest."""
    text, count, found, promised = read(f"{base}/manifests/{tag}", True)
    manifest = json.loads(text)
    rows = [row("manifest", promised, count, count, found)]
    if "manifests" in manifest:
        for one in manifest["manifests"]:
            rows += blobs(base, one["digest"])
        return rows
    for kind, blob in [("config", manifest["config"]), *(("layer", layer) for layer in manifest["layers"])]:
        _, count, found, _ = read(f"{base}/blobs/{blob['digest']}", False)
        rows.append(row(kind, blob["digest"], blob["size"], count, found))
    return rows


def row(kind: str, promised: str, promised_bytes: int, found_bytes: int, found: str) -> dict[str, Any]:
    """One line of the answer."""
    return {
        "kind": kind,
        "digest": promised,
        "promised_bytes": promised_bytes,
        "bytes": found_bytes,
        "recomputed": found,
    }


if __name__ == "__main__":
    print(json.dumps(blobs(*sys.argv[1:])))
