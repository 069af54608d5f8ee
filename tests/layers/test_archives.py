"""Archives: all formats give the same result, efficiency and waste are those of dive, errors name the problem."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import archive_builder
import malicious_archives
import pytest
from archive_builder import Content, layer
from docker.errors import APIError, ImageLoadError
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers import layers
from labhelpers.errors import BadArchive, BadInput, NameTaken, NotOwned
from labhelpers.lab import Lab
from labhelpers.layers.extraction import ResourceLimits
from labhelpers.layers.image_stack import ImageStack
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
        result = layers.archive(path, verify=verify)
        assert [one.diff_id for one in result.layers] == [
            f"sha256:{archive_builder.sha256(one)}" for one in THREE
        ]
        assert [one.instruction for one in result.layers] == ["RUN step 0", "RUN step 1", "RUN step 2"]
        assert [one.bytes for one in result.layers] == [5003, 5010, 0]
        # conf changed, new added; keep and tool removed
        counts = [(one.files_added, one.files_changed, one.files_removed) for one in result.layers]
        assert counts == [(3, 0, 0), (1, 1, 0), (0, 0, 2)]
        assert {one.path: one.layer for one in result.union.files} == {"/etc/conf": 1, "/new": 1}
        assert result.name == "made:1"
    assert list(tmp_path.iterdir()) == [path], "reading writes nothing"


def test_a_blob_has_its_digest_and_an_older_archive_has_none(tmp_path: Path) -> None:
    result = layers.archive(archive_builder.write(tmp_path, archive_builder.layout(THREE, "gzip")))
    assert [one.digest for one in result.layers] == [
        f"sha256:{archive_builder.sha256(archive_builder.packed(o, 'gzip'))}" for o in THREE
    ]
    assert {one.digest for one in stack(tmp_path, THREE).layers} == {None}
    assert list(result.frame()["bytes"]) == [5003, 5010, 0]


def test_a_layer_that_older_engines_save_as_a_link(tmp_path: Path) -> None:
    made = [THREE[0], THREE[0]]
    text = archive_builder.config(made)
    manifest = [{"Config": "c.json", "RepoTags": ["twice:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    members: list[tuple[str, Content]] = [("a/layer.tar", THREE[0]), ("b/layer.tar", "->../a/layer.tar")]
    members += [("c.json", text), ("manifest.json", json.dumps(manifest).encode())]
    result = layers.archive(archive_builder.write(tmp_path, archive_builder.tar(members)))
    assert result.layers[0].diff_id == result.layers[1].diff_id
    assert result.wasted_files[0] == Waste("/etc/keep", 2, 6000)


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
    with pytest.raises(BadInput, match="several images") as error:
        layers.archive(path)
    assert "b:1" in error.value.hint
    with pytest.raises(BadInput, match="no image named"):
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
    result = stack(tmp_path, THREE)
    # etc/conf: 2000 and 5000; etc/keep: 3000 and a whiteout, which counts 0; /bin is met as a leaf only once, as a
    # whiteout that hides 3 bytes; bin/tool and new once
    smallest = 2000 + 0 + 3 + 3 + 10
    everything = 7000 + 3000 + 3 + 3 + 10
    assert result.efficiency == smallest / everything
    assert result.wasted_files == (Waste("/etc/conf", 2, 7000), Waste("/etc/keep", 2, 3000))
    assert result.wasted_bytes == 10000


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
        # dive ignores opaque markers: what they hide is not wasted
        ([{"d/a": 10}, {"d/.wh..wh..opq": b"", "d/b": 5}], 1.0, []),
        # a hard link has no bytes of its own; its path is met once
        ([{"a": 10, "b": "=>a"}], 1.0, []),
        ([{"a": 10, "b": "=>a"}, {"b": 10}], 10 / 20, [("/b", 2, 10)]),
        # a directory that is a leaf in two layers is met twice, with no bytes
        ([{"d": None}, {"d": None}], 1.0, [("/d", 2, 0)]),
        # a directory whited out twice counts all below it, each time; if created again, its contents then
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
    result = stack(tmp_path, [layer(one) for one in made])
    assert result.efficiency == efficiency
    assert [(one.path, one.count, one.bytes) for one in result.wasted_files] == wasted


def test_the_union_honours_what_dive_does_not(tmp_path: Path) -> None:
    result = stack(
        tmp_path, [layer({"d/a": 10, "d/s/c": 1, "f": 1}), layer({"d/.wh..wh..opq": b"", "d/b": 5, "f/x": 2})]
    )
    assert [file.path for file in result.union.files] == ["/d/b", "/f/x"]
    assert result.layers[1].files_removed >= 2
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
    ("made", "message"),
    [
        (lambda: b"", "is not an image archive"),
        (lambda: b"no tar at all" * 100, "is not an image archive"),
        (lambda: b"\x1f\x8b" + bytes(40), "compressed data is damaged"),
        (lambda: layer(BASE), "neither manifest.json nor index.json"),
        (lambda: SAVED[: len(SAVED) // 2], "is truncated|neither manifest"),
        (lambda: SAVED[: 1024 * 5 + 100], "is truncated"),
        (lambda: archive_builder.packed(SAVED, "gzip")[:-600], "is truncated"),
        (lambda: archive_builder.packed(SAVED, "zstd")[:-40], "is truncated"),
        (lambda: damaged(archive_builder.packed(SAVED, "gzip"), 300), "damaged|truncated"),
        (lambda: damaged(SAVED, 2 * 512 + 30), "checksum|diff ID"),
        # a byte of a file's contents: only its digest tells
        (lambda: damaged(SAVED, SAVED.index(b"abc")), "diff ID"),
        (lambda: damaged(LAYOUT, LAYOUT.index(b"abc")), "has the digest"),
        (lambda: damaged(GZIPPED, GZIPPED.index(b"\x1f\x8b") + 60), "has the digest|damaged"),
        (lambda: archive_builder.layout(THREE, size_more=1), "the size of the blob"),
        (outer_size_lies, "a size in it is wrong"),
        (inner_size_lies, "a size in it is wrong"),
        (negative_size, "invalid size"),
        (links_in_a_loop, "form a loop: a.tar → b.tar → a.tar"),
        (index_in_itself, "digest|loop"),
        (lambda: archive_builder.saved([layer({"../../etc/passwd": b"x"})]), "escapes the root"),
        (lambda: archive_builder.saved([layer({"a/../../b": b"x"})]), "escapes the root"),
        (lambda: archive_builder.saved([layer({"a": "=>../../etc/passwd", "b": "=>a"})]), "escapes the root"),
        (lambda: archive_builder.tar([("../manifest.json", b"[]")]), "escapes the root"),
        (
            lambda: archive_builder.saved([layer({"a": "->b", "b": "->a", "a/x": b""})]),
            "form a loop: a → b → a",
        ),
        (
            lambda: archive_builder.saved([layer({"a": "=>b", "b": "=>a"})]),
            "the target of the hard link a is b, which is not in",
        ),
        (lambda: archive_builder.saved([layer({"x" * 5000: b"x"})]), "longer than 4096"),
        (lambda: archive_builder.tar([("manifest.json", b"{]")]), "not valid JSON"),
        (lambda: archive_builder.tar([("manifest.json", b"[" * 100_000)]), "not valid JSON"),
        (lambda: archive_builder.tar([("manifest.json", b"[]")]), "no image"),
        (
            lambda: archive_builder.tar([("manifest.json", b'[{"Config": "c.json", "Layers": ["x"]}]')]),
            "is listed but missing",
        ),
        (
            lambda: archive_builder.tar([("index.json", b'{"manifests": [{"digest": "sha256:00"}]}')]),
            "no image",
        ),
    ],
)
@pytest.mark.timeout(60)
def test_a_bad_archive_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], bytes], message: str
) -> None:
    path = archive_builder.write(tmp_path, made())
    inside = tmp_path / "here"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with pytest.raises(BadArchive, match=message) as bad:
        layers.archive(path)
    assert bad.value.hint
    assert sorted(tmp_path.iterdir()) == [inside, path]
    assert list(inside.iterdir()) == []


def test_links_that_lead_somewhere_are_no_loop(tmp_path: Path) -> None:
    result = stack(
        tmp_path, [layer({"usr/bin": None, "bin": "->usr/bin", "usr/bin/X11": "->.", "up": "->../../etc"})]
    )
    assert result.layers[0].files_added == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tar", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            layers.archive(path)


@settings(max_examples=150)
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
        assert "not safe to unpack" in bad.value.message


@pytest.mark.parametrize("pack", archive_builder.PACK)
def test_however_it_is_compressed(tmp_path: Path, pack: str) -> None:
    whole = archive_builder.packed(archive_builder.docker_archive([malicious_archives.X]), pack)
    inside = archive_builder.docker_archive(
        [archive_builder.packed(malicious_archives.X, pack)], [malicious_archives.X]
    )
    for made in (whole, inside):
        assert list(layers.archive(archive_builder.write(tmp_path, made)).layers[0].entries) == ["a"]
    cut = archive_builder.write(tmp_path, whole[: len(whole) // 2])
    with pytest.raises(BadArchive, match=r"truncated|damaged|neither manifest"):
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
    result = stack(tmp_path, [layer(files)]).layers[0].entries
    kinds = {path: entry.kind for path, entry in result.items()}
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
    with pytest.raises(BadArchive, match="MiB of JSON"):
        layers.archive(archive_builder.write(tmp_path, archive_builder.tar(files)))
