"""Runs in a helper container: download the manifest and all blobs of an image from a registry, and hash them.

Source: OCI distribution-spec, "Pulling manifests", "Pulling blobs". The output is JSON on standard output.
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


def read(url: str, keep_body: bool) -> tuple[bytes, int, str, str]:
    """Download a URL: its body if `keep_body`, the number of bytes, their SHA-256, and the declared digest."""
    total, count, body = hashlib.sha256(), 0, b""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": KINDS})) as response:
        while part := response.read(1 << 20):
            total.update(part)
            count += len(part)
            body += part if keep_body else b""
        declared = response.headers.get("Docker-Content-Digest", "")
    return body, count, f"sha256:{total.hexdigest()}", declared


def blobs(base: str, tag: str) -> list[dict[str, Any]]:
    """The manifest, the configuration and the layers, in order."""
    text, count, actual, declared = read(f"{base}/manifests/{tag}", True)
    manifest = json.loads(text)
    rows = [row("manifest", declared, count, count, actual)]
    if "manifests" in manifest:
        for descriptor in manifest["manifests"]:
            rows += blobs(base, descriptor["digest"])
        return rows
    for kind, blob in [("config", manifest["config"]), *(("layer", layer) for layer in manifest["layers"])]:
        _, count, actual, _ = read(f"{base}/blobs/{blob['digest']}", False)
        rows.append(row(kind, blob["digest"], blob["size"], count, actual))
    return rows


def row(kind: str, expected: str, declared_bytes: int, actual_bytes: int, actual: str) -> dict[str, Any]:
    """One blob of the output, with the field names of `labhelpers.layers.digests.Blob`."""
    return {
        "kind": kind,
        "digest": expected,
        "declared_bytes": declared_bytes,
        "bytes": actual_bytes,
        "recomputed": actual,
    }


if __name__ == "__main__":
    print(json.dumps(blobs(*sys.argv[1:])))
