"""Archives: every format says the same; efficiency and waste as dive counts them; what is wrong is said."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import archive_builder
import malicious_archives
import pytest
from archive_builder import Content, layer
from docker.errors import APIError, ImageLoadError
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers import layers
from labhelpers.errors import BadArchive, BadInput, LabError, NameTaken, NotOwned
from labhelpers.lab import Lab
from labhelpers.layers.archives import ImageStack
from labhelpers.layers.extraction import ResourceLimits
from labhelpers.layers.manifests import normalize_platform
from labhelpers.layers.trees import Waste

BASE: dict[str, Content] = {"etc": None, "etc/conf": 2000, "etc/keep": 3000, "bin": None, "bin/tool": b"abc"}
CHANGED: dict[str, Content] = {"etc/conf": 5000, "new": 10}
REMOVED: dict[str, Content] = {"etc/.wh.keep": b"", ".wh.bin": b""}
THREE = [layer(BASE), layer(CHANGED), layer(REMOVED)]


def stack(folder: Path, made: Sequence[bytes]) -> ImageStack:
    return layers.archive(archive_builder.write(folder, archive_builder.saved(made)))


# --- formats


@pytest.mark.parametrize("outer", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize(
    "made",
    [
        archive_builder.saved(THREE),
        archive_builder.layout(THREE),
        archive_builder.layout(THREE, "gzip"),
        archive_builder.layout(THREE, "zstd"),
        archive_builder.layout(THREE, "gzip", docker=True),
        archive_builder.layout(THREE, docker=True),
    ],
    ids=["docker save", "OCI", "OCI gzip", "OCI zstd", "docker save 25 gzip", "docker save 25"],
)
def test_every_format_says_the_same(tmp_path: Path, made: bytes, outer: str) -> None:
    path = archive_builder.write(tmp_path, archive_builder.packed(made, outer))
    for verify in (True, False):
        found = layers.archive(path, verify=verify)
        assert [one.diff_id for one in found.layers] == [
            f"sha256:{archive_builder.sha256(one)}" for one in THREE
        ]
        assert [one.instruction for one in found.layers] == ["RUN step 0", "RUN step 1", "RUN step 2"]
        assert [one.bytes for one in found.layers] == [5003, 5010, 0]
        # conf changed, new added; keep and tool removed
        counts = [(one.files_added, one.files_changed, one.files_removed) for one in found.layers]
        assert counts == [(3, 0, 0), (1, 1, 0), (0, 0, 2)]
        assert {one.path: one.layer for one in found.union.files} == {"/etc/conf": 1, "/new": 1}
        assert found.name == "made:1"
    assert list(tmp_path.iterdir()) == [path], "reading writes nothing"


def test_a_blob_has_its_digest_and_an_older_archive_has_none(tmp_path: Path) -> None:
    found = layers.archive(archive_builder.write(tmp_path, archive_builder.layout(THREE, "gzip")))
    assert [one.digest for one in found.layers] == [
        f"sha256:{archive_builder.sha256(archive_builder.packed(o, 'gzip'))}" for o in THREE
    ]
    assert {one.digest for one in stack(tmp_path, THREE).layers} == {None}
    assert list(found.frame()["bytes"]) == [5003, 5010, 0]


def test_a_layer_that_older_engines_save_as_a_link(tmp_path: Path) -> None:
    made = [THREE[0], THREE[0]]
    text = archive_builder.config(made)
    manifest = [{"Config": "c.json", "RepoTags": ["twice:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    members: list[tuple[str, Content]] = [("a/layer.tar", THREE[0]), ("b/layer.tar", "->../a/layer.tar")]
    members += [("c.json", text), ("manifest.json", json.dumps(manifest).encode())]
    found = layers.archive(archive_builder.write(tmp_path, archive_builder.tar(members)))
    assert found.layers[0].diff_id == found.layers[1].diff_id
    assert found.wasted_files[0] == Waste("/etc/keep", 2, 6000)


def test_one_of_several_images_is_asked_for_by_name(tmp_path: Path) -> None:
    text = archive_builder.config([THREE[0]])
    row = {"Config": "c.json", "Layers": ["l.tar"]}
    other = {**row, "RepoTags": ["b:1"], "Layers": ["l.tar", "l.tar"]}
    manifest = [{**row, "RepoTags": ["a:latest", "a:2"]}, other]
    made = archive_builder.tar(
        [("l.tar", THREE[0]), ("c.json", text), ("manifest.json", json.dumps(manifest).encode())]
    )
    path = archive_builder.write(tmp_path, made)
    assert layers.archive(path, "a").name == "a:latest"
    assert layers.archive(path, "a:2").name == "a:2"
    with pytest.raises(BadInput, match="several images") as asked:
        layers.archive(path)
    assert "b:1" in asked.value.hint
    with pytest.raises(BadInput, match="no image called"):
        layers.archive(path, "c:1")


def test_long_names_and_attributes_in_every_tar_dialect(tmp_path: Path) -> None:
    name = "deep/" * 40 + "é" * 60
    for dialect in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=dialect) as tar:
            header = tarfile.TarInfo(name)
            header.size = 7
            if dialect == tarfile.PAX_FORMAT:
                # binary, as security.capability is
                header.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x02"}
            tar.addfile(header, io.BytesIO(b"7 bytes"))
        assert [file.path for file in stack(tmp_path, [out.getvalue()]).union.files] == [f"/{name}"]


# --- efficiency and waste, by hand


def test_waste_of_changed_and_removed_files(tmp_path: Path) -> None:
    found = stack(tmp_path, THREE)
    # etc/conf: 2000 and 5000; etc/keep: 3000 and a whiteout, which counts 0; /bin is met as a leaf only once, as a
    # whiteout that hides 3 bytes; bin/tool and new once
    smallest = 2000 + 0 + 3 + 3 + 10
    everything = 7000 + 3000 + 3 + 3 + 10
    assert found.efficiency == smallest / everything
    assert found.wasted_files == (Waste("/etc/conf", 2, 7000), Waste("/etc/keep", 2, 3000))
    assert found.wasted_bytes == 10000


@pytest.mark.parametrize(
    ("made", "efficiency", "wasted"),
    [
        # nothing at all, and files without bytes: perfect
        ([{}], 1.0, []),
        ([{"empty": b""}, {"empty": b""}], 1.0, [("/empty", 2, 0)]),
        # a file three times: the smallest once, divided by all
        ([{"a": 10}, {"a": 20}, {"a": 30}], 10 / 60, [("/a", 3, 60)]),
        # removed and made again: the whiteout counts 0
        ([{"a": 10}, {".wh.a": b""}, {"a": 10}], 0.0, [("/a", 3, 20)]),
        # an opaque marker is not seen: what it hides is no waste to dive
        ([{"d/a": 10}, {"d/.wh..wh..opq": b"", "d/b": 5}], 1.0, []),
        # a hard link has no bytes of its own; its path is met once
        ([{"a": 10, "b": "=>a"}], 1.0, []),
        ([{"a": 10, "b": "=>a"}, {"b": 10}], 10 / 20, [("/b", 2, 10)]),
        # a directory that is a leaf in two layers is met twice, with no bytes
        ([{"d": None}, {"d": None}], 1.0, [("/d", 2, 0)]),
        # a directory whited out twice counts all below it, each time; once made again, what it held then
        (
            [{"d": None, "d/a": 10}, {".wh.d": b""}, {"d": None, "d/a": 4}, {".wh.d": b""}],
            (4 + 4) / (14 + 14),
            [("/d", 2, 14), ("/d/a", 2, 14)],
        ),
        # a directory without a header of its own is no directory to dive: its whiteout counts 0
        ([{"d/a": 10}, {".wh.d": b""}], 1.0, []),
        # the same path twice in one layer: the last one counts
        ([[("a", 10), ("a", 4)], {"a": 4}], 4 / 8, [("/a", 2, 8)]),
    ],
)
def test_waste_by_hand(
    tmp_path: Path, made: list[dict[str, Content]], efficiency: float, wasted: list[tuple[str, int, int]]
) -> None:
    found = stack(tmp_path, [layer(one) for one in made])
    assert found.efficiency == efficiency
    assert [(one.path, one.count, one.bytes) for one in found.wasted_files] == wasted


def test_the_union_honours_what_dive_does_not(tmp_path: Path) -> None:
    found = stack(
        tmp_path, [layer({"d/a": 10, "d/s/c": 1, "f": 1}), layer({"d/.wh..wh..opq": b"", "d/b": 5, "f/x": 2})]
    )
    assert [file.path for file in found.union.files] == ["/d/b", "/f/x"]
    assert found.layers[1].files_removed >= 2
    over = stack(tmp_path, [layer({"d/a": 10, "d/s/c": 1}), layer({"d": 5})])
    assert [file.path for file in over.union.files] == ["/d"]


# --- what is wrong


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


LAYOUT = archive_builder.layout(THREE)
SAVED = archive_builder.saved(THREE)
GZIPPED = archive_builder.layout(THREE, "gzip")


def outer_size_lies() -> bytes:
    header = tarfile.TarInfo("l.tar")
    header.size = 1 << 40
    return header.tobuf() + bytes(1024)


def inner_size_lies() -> bytes:
    header = tarfile.TarInfo("file")
    header.size = 1 << 33
    return archive_builder.saved([header.tobuf() + bytes(1024)])


def negative_size() -> bytes:
    block = bytearray(tarfile.TarInfo("file").tobuf())
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return archive_builder.saved([bytes(block) + bytes(1024)])


def links_in_a_loop() -> bytes:
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["a.tar"]}]
    members: list[tuple[str, Content]] = [("a.tar", "->b.tar"), ("b.tar", "->a.tar")]
    members += [("c.json", archive_builder.config([b""])), ("manifest.json", json.dumps(manifest).encode())]
    return archive_builder.tar(members)


def index_in_itself() -> bytes:
    index = {"manifests": [{"digest": "sha256:" + "0" * 64}]}
    name = "blobs/sha256/" + "0" * 64
    return archive_builder.tar(
        [(name, json.dumps(index).encode()), ("index.json", json.dumps(index).encode())]
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: b"", "is no image archive"),
        (lambda: b"no tar at all" * 100, "is no image archive"),
        (lambda: b"\x1f\x8b" + bytes(40), "compressed data are damaged"),
        (lambda: layer(BASE), "neither manifest.json nor index.json"),
        (lambda: SAVED[: len(SAVED) // 2], "ends before its end|neither manifest"),
        (lambda: SAVED[: 1024 * 5 + 100], "ends before its end"),
        (lambda: archive_builder.packed(SAVED, "gzip")[:-600], "ends before its end"),
        (lambda: archive_builder.packed(SAVED, "zstd")[:-40], "ends before its end"),
        (lambda: damaged(archive_builder.packed(SAVED, "gzip"), 300), "damaged|ends before"),
        (lambda: damaged(SAVED, 2 * 512 + 30), "checksum|diff id"),
        # a byte of a file's contents: only its digest tells
        (lambda: damaged(SAVED, SAVED.index(b"abc")), "diff id"),
        (lambda: damaged(LAYOUT, LAYOUT.index(b"abc")), "has the digest"),
        (lambda: damaged(GZIPPED, GZIPPED.index(b"\x1f\x8b") + 60), "has the digest|damaged"),
        (lambda: archive_builder.layout(THREE, size_more=1), "a size lies"),
        (outer_size_lies, "a size in it lies"),
        (inner_size_lies, "a size in it lies"),
        (negative_size, "no number of bytes"),
        (links_in_a_loop, "in a loop: a.tar → b.tar → a.tar"),
        (index_in_itself, "digest|loop"),
        (lambda: archive_builder.saved([layer({"../../etc/passwd": b"x"})]), "climbs out"),
        (lambda: archive_builder.saved([layer({"a/../../b": b"x"})]), "climbs out"),
        (lambda: archive_builder.saved([layer({"a": "=>../../etc/passwd", "b": "=>a"})]), "climbs out"),
        (lambda: archive_builder.tar([("../manifest.json", b"[]")]), "climbs out"),
        (
            lambda: archive_builder.saved([layer({"a": "->b", "b": "->a", "a/x": b""})]),
            "in a loop: a → b → a",
        ),
        (
            lambda: archive_builder.saved([layer({"a": "=>b", "b": "=>a"})]),
            "the hard link a leads to b, which is not in",
        ),
        (lambda: archive_builder.saved([layer({"x" * 5000: b"x"})]), "longer than 4096"),
        (lambda: archive_builder.tar([("manifest.json", b"{]")]), "no JSON"),
        (lambda: archive_builder.tar([("manifest.json", b"[" * 100_000)]), "no JSON"),
        (lambda: archive_builder.tar([("manifest.json", b"[]")]), "no image"),
        (
            lambda: archive_builder.tar([("manifest.json", b'[{"Config": "c.json", "Layers": ["x"]}]')]),
            "not there",
        ),
        (
            lambda: archive_builder.tar([("index.json", b'{"manifests": [{"digest": "sha256:00"}]}')]),
            "no image",
        ),
    ],
)
@pytest.mark.timeout(60)
def test_a_bad_archive_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], bytes], words: str
) -> None:
    path = archive_builder.write(tmp_path, made())
    inside = tmp_path / "here"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with pytest.raises(BadArchive, match=words) as bad:
        layers.archive(path)
    assert bad.value.hint
    assert sorted(tmp_path.iterdir()) == [inside, path]
    assert list(inside.iterdir()) == []


def test_links_that_lead_somewhere_are_no_loop(tmp_path: Path) -> None:
    found = stack(
        tmp_path, [layer({"usr/bin": None, "bin": "->usr/bin", "usr/bin/X11": "->.", "up": "->../../etc"})]
    )
    assert found.layers[0].files_added == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tar", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            layers.archive(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=0, max_size=3), st.integers(0, len(GZIPPED) - 4), st.integers(0, 512))
def test_whatever_is_damaged_there_is_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, put: bytes, at: int, cut: int
) -> None:
    path = archive_builder.write(
        tmp_path_factory.mktemp("archive"), GZIPPED[:at] + put + GZIPPED[at + len(put) : len(GZIPPED) - cut]
    )
    for verify in (True, False):
        with contextlib.suppress(BadArchive, BadInput):
            layers.archive(path, verify=verify)


@pytest.mark.parametrize("pack", ["plain", "gzip", "zstd"])
def test_memory_does_not_grow_with_the_bytes(tmp_path: Path, pack: str) -> None:
    made = archive_builder.layout([layer({"zeros": 200 * 1024 * 1024})], pack)
    path = archive_builder.write(tmp_path, made)
    del made
    for verify in (True, False):
        tracemalloc.start()
        layers.archive(path, verify=verify)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * 1024 * 1024


# --- as engines load them


@pytest.mark.parametrize("name", malicious_archives.ARCHIVES)
def test_an_odd_archive_is_judged_by_what_unpacking_it_would_do(tmp_path: Path, name: str) -> None:
    made, verdict = malicious_archives.ARCHIVES[name]
    path = archive_builder.write(tmp_path, made)
    if verdict == malicious_archives.READ:
        layers.archive(path)
        return
    with pytest.raises(BadArchive) as bad:
        layers.archive(path)
    if verdict == malicious_archives.UNSAFE:
        assert "not to be trusted" in bad.value.message


@pytest.mark.parametrize("pack", archive_builder.PACK)
def test_however_it_is_compressed(tmp_path: Path, pack: str) -> None:
    whole = archive_builder.packed(archive_builder.docker_archive([malicious_archives.X]), pack)
    inside = archive_builder.docker_archive(
        [archive_builder.packed(malicious_archives.X, pack)], [malicious_archives.X]
    )
    for made in (whole, inside):
        assert list(layers.archive(archive_builder.write(tmp_path, made)).layers[0].entries) == ["a"]
    cut = archive_builder.write(tmp_path, whole[: len(whole) // 2])
    with pytest.raises(BadArchive, match=r"ends before|damaged|neither manifest"):
        layers.archive(cut)


REFUSED = [
    name
    for name, (_, verdict) in malicious_archives.ARCHIVES.items()
    if verdict == malicious_archives.DAMAGED
]
LOADED = ["a link to itself", "a layer of no bytes", "names like JSON", "Unix V7", "a hard link"]


def test_no_engine_loads_what_is_called_damaged(shared_lab: Lab) -> None:
    assert [name for name in LOADED if not loads(shared_lab, malicious_archives.ARCHIVES[name][0])] == []
    assert [name for name in REFUSED if loads(shared_lab, malicious_archives.ARCHIVES[name][0])] == []


def test_an_image_without_a_configuration_is_an_image_like_others(shared_lab: Lab) -> None:
    ref = "labhelpers-crafted-null:1"
    null = {"RepoTags": [ref]}
    made = archive_builder.docker_archive(
        [malicious_archives.X],
        config=lambda one: {**one, "config": None},
        manifest=lambda row: {**row, **null},
    )
    shared_lab.client.images.load(made)
    try:
        assert [layer.bytes for layer in layers.image_layers(shared_lab, ref).layers] == [1]
        with pytest.raises(NotOwned):
            shared_lab.tag(ref, "labhelpers-crafted-null:2")
        with pytest.raises(NameTaken):
            shared_lab.commit(shared_lab.run(shared_lab.image("payload"), ["true"], network="none"), ref)
    finally:
        shared_lab.client.images.remove(ref, force=True)


def loads(lab: Lab, made: bytes) -> bool:
    """Whether the engine loads an archive; what it loads is removed."""
    try:
        images = lab.client.images.load(made)
    except (ImageLoadError, APIError):
        return False
    for image in images:
        lab.client.images.remove(image.id, force=True)
    return True


def test_files_land_where_links_lead(tmp_path: Path) -> None:
    files: list[tuple[str, Content]] = [("usr/lib", None), ("lib", "->/usr/lib"), ("lib/x", b"xx")]
    files += [
        ("d/old", b"1"),
        ("d", b"now a file"),
        ("f", b"1"),
        ("f", None),
        ("f/new", b"1"),
        ("h", "=>lib/x"),
    ]
    files += [("keep", "->usr"), ("keep", None), ("keep/y", b"y")]
    found = stack(tmp_path, [layer(files)]).layers[0].entries
    kinds = {path: entry.kind for path, entry in found.items()}
    assert kinds == {
        **{"usr": "", "usr/lib": "directory", "lib": "link", "usr/lib/x": "file", "h": "hard link"},
        **{"d": "file", "f": "directory", "f/new": "file", "keep": "directory", "keep/y": "file"},
    }


def test_a_message_shows_no_control_characters(tmp_path: Path) -> None:
    names = ["\x1b[31m/../../red", "\udcff/../../x", "a\nb/../../.."]
    for name in names:
        with pytest.raises(BadArchive) as bad:
            stack(
                tmp_path,
                [
                    archive_builder.block("x", at_0=name.encode("utf-8", "surrogateescape"))
                    + malicious_archives.END
                ],
            )
        assert bad.value.message.isprintable()
        str(bad.value).encode()


# --- platforms

AMD, ARM = [layer(BASE)], [layer({"arm": 7}), layer({"more": 8})]
BOTH = {"linux/amd64": AMD, "linux/arm64": ARM}
REVERSED = {"linux/arm64/v8": ARM, "linux/amd64": AMD}


@pytest.fixture
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_amd64")
@pytest.mark.parametrize("listed", [BOTH, REVERSED], ids=["ours first", "ours last"])
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
    found = layers.archive(path)
    assert (found.platform, found.other_platforms) == ("linux/amd64", ("linux/arm64",))
    assert [one.bytes for one in found.layers] == [5003]
    assert "linux/arm64" in found._repr_html_()
    for wanted in ("linux/arm64", "arm64", "linux/aarch64", "linux/arm64/v8"):
        other = layers.archive(path, platform=wanted)
        assert [one.bytes for one in other.layers] == [7, 8]
    with pytest.raises(BadInput, match=r"not for linux/s390x") as asked:
        layers.archive(path, platform="s390x")
    assert "linux/amd64" in asked.value.hint
    with pytest.raises(BadInput, match="is no platform"):
        layers.archive(path, platform="linux/amd64/v1/x")


@pytest.mark.usefixtures("on_amd64")
@pytest.mark.parametrize("absent", ["linux/arm64 layers", "linux/arm64 manifest"])
@pytest.mark.parametrize("docker", [None, "linux/amd64"])
def test_another_platform_may_be_absent(tmp_path: Path, absent: str, docker: str | None) -> None:
    path = archive_builder.write(tmp_path, archive_builder.platforms(BOTH, [absent], docker=docker))
    found = layers.archive(path)
    assert (found.platform, found.other_platforms, found.absent_platforms) == (
        "linux/amd64",
        (),
        ("linux/arm64",),
    )
    assert any("linux/arm64" in line for line in found.notes)
    with pytest.raises(BadArchive, match="lists made:1 for linux/arm64 and does not hold all") as bad:
        layers.archive(path, platform="linux/arm64")
    assert "platform='linux/amd64'" in bad.value.hint
    assert "docker pull --platform linux/arm64" in bad.value.hint


@pytest.mark.usefixtures("on_amd64")
def test_what_this_machine_would_run_is_absent(tmp_path: Path) -> None:
    path = archive_builder.write(tmp_path, archive_builder.platforms(BOTH, ["linux/amd64 layers"]))
    with pytest.raises(BadArchive, match="it holds linux/arm64 in full") as bad:
        layers.archive(path)
    assert "damaged" not in bad.value.message
    assert len(layers.archive(path, platform="arm64").layers) == 2
    path = archive_builder.write(
        tmp_path, archive_builder.platforms({"linux/amd64": AMD}, ["linux/amd64 layers"])
    )
    with pytest.raises(BadArchive, match="it holds no image in full") as bad:
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
    with pytest.raises(
        BadInput, match="for several platforms, and linux/riscv64 is not one of them"
    ) as asked:
        layers.archive(path)
    assert "linux/amd64, linux/arm64" in asked.value.hint


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
    said = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
    proof = {"config": described(b"[]", "application/vnd.oci.image.config.v1+json"), "layers": []}
    made = oci(
        (chart, {}), (proof, said), (proof, unknown), (image, {}), blobs=[text, data, b"{}", b"[]", AMD[0]]
    )
    found = layers.archive(archive_builder.write(tmp_path, made))
    assert found.skipped == ("application/vnd.cncf.helm.config.v1+json",)
    assert any("helm" in line for line in found.notes)
    with pytest.raises(BadArchive, match=r"holds no image; it holds application/vnd\.cncf\.helm"):
        layers.archive(archive_builder.write(tmp_path, oci((chart, {}), blobs=[data, b"{}"])))


def test_a_foreign_layer_says_where_it_is(tmp_path: Path) -> None:
    text = archive_builder.config(AMD)
    foreign = described(
        AMD[0], "application/vnd.docker.image.rootfs.foreign.diff.tar", urls=["https://example.com/l"]
    )
    image = {"config": described(text, "application/vnd.oci.image.config.v1+json"), "layers": [foreign]}
    with pytest.raises(
        BadArchive, match=r"a foreign layer, which an engine fetches from https://example.com/l"
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


# --- bombs


def bomb_of_paths() -> bytes:
    deep = "a/" * 2000
    return b"".join(archive_builder.block(f"{number}/{deep}") for number in range(150))


def bomb_of_links() -> bytes:
    links = [("0", "->."), *((str(n), "->" + f"{n - 1}/{n - 1}/" * 4) for n in range(1, 120))]
    return layer([*links, *((f"119/{n}", b"") for n in range(300))])  # type: ignore[list-item]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("made", [bomb_of_paths, bomb_of_links])
def test_a_bomb_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], bytes]) -> None:
    # the real bounds are some hundred times as large: the test would take as long
    monkeypatch.setattr(
        "labhelpers.layers.archives.ResourceLimits", lambda: ResourceLimits(characters=1 << 20, steps=100_000)
    )
    with pytest.raises(BadArchive):
        stack(tmp_path, [made()])


def test_many_descriptions_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labhelpers.layers.archives.MAX_TOTAL_JSON_BYTES", 1 << 16)
    files: list[tuple[str, Content]] = [
        (f"{number}.json", b"[" + b"0," * 5000 + b"0]") for number in range(9)
    ]
    with pytest.raises(BadArchive, match="descriptions"):
        layers.archive(archive_builder.write(tmp_path, archive_builder.tar(files)))
