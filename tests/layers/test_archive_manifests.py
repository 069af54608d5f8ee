"""The images that an archive lists: platforms, artifacts, foreign layers, and malformed JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import archive_builder
import pytest
from archive_builder import Content, layer

from labhelpers import layers
from labhelpers.errors import BadArchive, BadInput, LabError
from labhelpers.layers.manifests import normalize_platform

BASE: dict[str, Content] = {"etc": None, "etc/conf": 2000, "etc/keep": 3000, "bin": None, "bin/tool": b"abc"}
CHANGED: dict[str, Content] = {"etc/conf": 5000, "new": 10}
REMOVED: dict[str, Content] = {"etc/.wh.keep": b"", ".wh.bin": b""}
THREE = [layer(BASE), layer(CHANGED), layer(REMOVED)]


# --- platforms

AMD, ARM = [layer(BASE)], [layer({"arm": 7}), layer({"more": 8})]
BOTH = {"linux/amd64": AMD, "linux/arm64": ARM}
REVERSED = {"linux/arm64/v8": ARM, "linux/amd64": AMD}


@pytest.fixture
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_amd64")
@pytest.mark.parametrize("listed", [BOTH, REVERSED], ids=["local first", "local last"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("name", ["made:1", None])
@pytest.mark.parametrize("docker", [None, "linux/amd64", "linux/arm64"])
def test_this_machines_platform_is_taken_and_the_others_are_named(
    tmp_path: Path, listed: dict[str, list[bytes]], nested: bool, name: str | None, docker: str | None
) -> None:
    if docker == "linux/arm64":
        docker = next(one for one in listed if "arm64" in one)
    path = archive_builder.write(
        tmp_path, archive_builder.platforms(listed, (), name, nested, docker if name else None)
    )
    result = layers.archive(path)
    assert (result.platform, result.other_platforms) == ("linux/amd64", ("linux/arm64",))
    assert [one.bytes for one in result.layers] == [5003]
    assert "linux/arm64" in result._repr_html_()
    for wanted in ("linux/arm64", "arm64", "linux/aarch64", "linux/arm64/v8"):
        other = layers.archive(path, platform=wanted)
        assert [one.bytes for one in other.layers] == [7, 8]
    with pytest.raises(BadInput, match=r"does not contain .* for linux/s390x") as error:
        layers.archive(path, platform="s390x")
    assert "linux/amd64" in error.value.hint
    with pytest.raises(BadInput, match="is not a platform"):
        layers.archive(path, platform="linux/amd64/v1/x")


@pytest.mark.usefixtures("on_amd64")
@pytest.mark.parametrize("absent", ["linux/arm64 layers", "linux/arm64 manifest"])
@pytest.mark.parametrize("docker", [None, "linux/amd64"])
def test_another_platform_may_be_absent(tmp_path: Path, absent: str, docker: str | None) -> None:
    path = archive_builder.write(tmp_path, archive_builder.platforms(BOTH, [absent], docker=docker))
    result = layers.archive(path)
    assert (result.platform, result.other_platforms, result.missing_platforms) == (
        "linux/amd64",
        (),
        ("linux/arm64",),
    )
    assert any("linux/arm64" in line for line in result.notes)
    with pytest.raises(BadArchive, match="lists made:1 for linux/arm64, but lacks") as bad:
        layers.archive(path, platform="linux/arm64")
    assert "platform='linux/amd64'" in bad.value.hint
    assert "docker pull --platform linux/arm64" in bad.value.hint


@pytest.mark.usefixtures("on_amd64")
def test_what_this_machine_would_run_is_absent(tmp_path: Path) -> None:
    path = archive_builder.write(tmp_path, archive_builder.platforms(BOTH, ["linux/amd64 layers"]))
    with pytest.raises(BadArchive, match="only linux/arm64 is complete") as bad:
        layers.archive(path)
    assert "damaged" not in bad.value.message
    assert len(layers.archive(path, platform="arm64").layers) == 2
    path = archive_builder.write(
        tmp_path, archive_builder.platforms({"linux/amd64": AMD}, ["linux/amd64 layers"])
    )
    with pytest.raises(BadArchive, match="no image is complete") as bad:
        layers.archive(path)
    assert "docker pull --platform linux/amd64" in bad.value.hint


def test_the_only_platform_is_read_whatever_machine_this_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_builder.write(tmp_path, archive_builder.platforms({"linux/arm64": ARM}))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert layers.archive(path).platform == "linux/arm64"
    assert layers.archive(path).notes == ()
    path = archive_builder.write(tmp_path, archive_builder.platforms(BOTH))
    with pytest.raises(BadInput, match="for several platforms, but not for linux/riscv64") as error:
        layers.archive(path)
    assert "linux/amd64, linux/arm64" in error.value.hint


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("Linux/ARM64/v8", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_a_platform_has_many_spellings(text: str, normal: str) -> None:
    assert normalize_platform(text) == normal


# --- what else an archive lists


def described(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{archive_builder.sha256(data)}", "size": len(data), **more}


def oci(*manifests: tuple[dict[str, Any], dict[str, Any]], blobs: Sequence[bytes]) -> bytes:
    """An OCI layout of (manifest, what its descriptor says besides)."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    texts = [json.dumps(one).encode() for one, _ in manifests]
    rows = [described(text, kind, **more) for text, (_, more) in zip(texts, manifests, strict=True)]
    files: list[tuple[str, Content]] = [
        (f"blobs/sha256/{archive_builder.sha256(one)}", one) for one in [*texts, *blobs]
    ]
    return archive_builder.tar([*files, ("index.json", json.dumps({"manifests": rows}).encode())])


def test_statements_and_artifacts_are_no_images(tmp_path: Path) -> None:
    text, data = archive_builder.config(AMD), b"a chart"
    image = {
        "config": described(text, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(AMD[0], "t")],
    }
    chart = {
        "config": described(b"{}", "application/vnd.cncf.helm.config.v1+json"),
        "layers": [described(data, "t")],
    }
    attestation = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
    proof = {"config": described(b"[]", "application/vnd.oci.image.config.v1+json"), "layers": []}
    made = oci(
        (chart, {}),
        (proof, attestation),
        (proof, unknown),
        (image, {}),
        blobs=[text, data, b"{}", b"[]", AMD[0]],
    )
    result = layers.archive(archive_builder.write(tmp_path, made))
    assert result.skipped == ("application/vnd.cncf.helm.config.v1+json",)
    assert any("helm" in line for line in result.notes)
    with pytest.raises(BadArchive, match=r"does not contain an image, but application/vnd\.cncf\.helm"):
        layers.archive(archive_builder.write(tmp_path, oci((chart, {}), blobs=[data, b"{}"])))


def test_a_foreign_layer_says_where_it_is(tmp_path: Path) -> None:
    text = archive_builder.config(AMD)
    foreign = described(
        AMD[0], "application/vnd.docker.image.rootfs.foreign.diff.tar", urls=["https://example.com/l"]
    )
    image = {"config": described(text, "application/vnd.oci.image.config.v1+json"), "layers": [foreign]}
    with pytest.raises(
        BadArchive, match=r"a foreign layer, which an engine downloads from https://example.com/l"
    ):
        layers.archive(archive_builder.write(tmp_path, oci((image, {}), blobs=[text])))


def test_one_image_with_two_names_and_an_index_that_lists_itself(tmp_path: Path) -> None:
    text = archive_builder.config(AMD)
    image = {
        "config": described(text, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(AMD[0], "t")],
    }
    named = [
        {"annotations": {"io.containerd.image.name": f"docker.io/library/{name}"}} for name in ("a:1", "b:1")
    ]
    path = archive_builder.write(tmp_path, oci((image, named[0]), (image, named[1]), blobs=[text, AMD[0]]))
    assert layers.archive(path).name == "a:1"
    assert layers.archive(path, "docker.io/library/b:1").name == "b:1"
    digest = "sha256:" + archive_builder.sha256(json.dumps(image).encode())
    assert len(layers.archive(path, digest).layers) == 1
    rows = json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}] * 3}).encode()
    made = archive_builder.tar([("blobs/sha256/" + "0" * 64, rows), ("index.json", rows)])
    with pytest.raises(BadArchive):
        layers.archive(archive_builder.write(tmp_path, made), verify=False)


@pytest.mark.parametrize(
    "key", ["Config", "RepoTags", "Layers", "manifests", "annotations", "rootfs", "history"]
)
@pytest.mark.parametrize("value", [None, 5, "x", [1], {"a": []}, True], ids=repr)
def test_a_description_of_another_form_is_no_traceback(tmp_path: Path, key: str, value: Any) -> None:
    changed = {key: value, "platform": value, "digest": value, "urls": value}
    rows: Any = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l"]} | changed]
    index = {"manifests": [{"digest": "sha256:" + "0" * 64} | changed]} | (
        {key: value} if key == "manifests" else {}
    )
    text = json.dumps(json.loads(archive_builder.config(AMD)) | changed).encode()
    for top in (
        [("manifest.json", rows)],
        [("index.json", index)],
        [("manifest.json", rows), ("index.json", index)],
    ):
        files: list[tuple[str, Content]] = [(name, json.dumps(one).encode()) for name, one in top]
        made = archive_builder.tar(
            [("c.json", text), ("l", AMD[0]), ("blobs/sha256/" + "0" * 64, text), *files]
        )
        with contextlib.suppress(LabError):
            layers.archive(archive_builder.write(tmp_path, made), verify=False)
