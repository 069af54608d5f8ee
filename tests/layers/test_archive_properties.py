"""Reading any archive ends in a result or in a LabError; archives from fuzzing are in `data/`."""

from __future__ import annotations

import contextlib
import gzip
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import archive_builder
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import QUICK, mutated_json

from labhelpers import layers
from labhelpers.errors import BadArchive, LabError
from labhelpers.layers.archive_errors import printable_name
from labhelpers.layers.extraction import LayerTree, ResourceLimits
from labhelpers.layers.manifests import normalize_platform
from labhelpers.layers.sources import BufferedSource, Chunks
from labhelpers.layers.tarstream import Member, members

DATA = Path(__file__).parent / "data"
NAMES = st.sampled_from(
    ["a", "b", "d", "d/a", "d/e/f", "l", "l/x", ".wh.a", "d/.wh..wh..opq", "./", "/abs", "a/../b"]
)
NAMES |= st.sampled_from(["..", "../x", ".wh.", "x" * 150, "\udcff", "{a}", "d//e", ".wh...", "", "é"])
KINDS = st.sampled_from(["file", "link", "hard link", "directory", "device", "pipe", "other"])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
@pytest.mark.parametrize("verify", [True, False])
def test_what_fuzzing_found(path: Path, verify: bool) -> None:
    assert path.stat().st_size < 4096
    with contextlib.suppress(LabError):
        layers.archive(path, verify=verify)


@QUICK
@given(st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=8))
def test_a_tree_never_leads_through_a_link_or_out(drawn: list[tuple[str, str, str]]) -> None:
    tree = LayerTree("a layer", ResourceLimits())
    with contextlib.suppress(BadArchive):
        for name, kind, target in drawn:
            tree.add(Member(name, kind, 0, 0, target if "link" in kind else ""))
    for path in tree.entries:
        assert posixpath.normpath(path) == path
        assert not path.startswith(("/", "../"))
        above = path.rpartition("/")[0]
        assert not above or tree.entries[above].kind in ("directory", "")


@QUICK
@given(
    st.lists(st.tuples(NAMES, st.sampled_from(b"0123457xgLKSV\0"), st.binary(max_size=40)), max_size=5),
    st.binary(max_size=30),
)
def test_headers_in_any_form(drawn: list[tuple[str, int, bytes]], end: bytes) -> None:
    made = b""
    for name, kind, data in drawn:
        # a long name would be a header of its own
        text = name.encode("utf-8", "surrogateescape")[:99]
        made += archive_builder.block(
            "x", len(data), bytes([kind]), at_0=text + b"\0"
        ) + archive_builder.padded(data)
    path_of = []
    flow = BufferedSource(Chunks([made + end]), "a layer")
    with contextlib.suppress(BadArchive):
        for member in members(flow):
            path_of.append(member.name)
            flow.skip(member.stored_bytes)
    assert len(path_of) <= len(drawn) + 1


IMAGE: Any = json.loads(archive_builder.config([archive_builder.layer({"a": b"x"})])) | {
    "os": "linux",
    "architecture": "amd64",
    "config": {},
}
ROW: Any = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l"]}]
ZERO = "sha256:" + "0" * 64
INDEX: Any = {"manifests": [{"digest": ZERO, "size": 3, "platform": {"os": "linux", "architecture": "arm64"},
                             "annotations": {"org.opencontainers.image.ref.name": "a:1"}}]}  # fmt: skip
MANIFEST: Any = {"config": {"digest": ZERO}, "layers": [{"digest": ZERO, "urls": ["x"]}], "manifests": None}


@QUICK
@given(mutated_json(ROW), mutated_json(INDEX), mutated_json(MANIFEST), mutated_json(IMAGE))
def test_descriptions_in_any_form(
    tmp_path_factory: pytest.TempPathFactory, row: Any, index: Any, manifest: Any, image: Any
) -> None:
    files: list[tuple[str, archive_builder.Content]] = [("l", archive_builder.layer({"a": b"x"}))]
    for name, one in [("c.json", image), (f"blobs/sha256/{'0' * 64}", manifest), ("index.json", index)]:
        files.append((name, json.dumps(one).encode()))
    folder = tmp_path_factory.mktemp("archive")
    for more in ([], [("manifest.json", json.dumps(row).encode())]):
        path = archive_builder.write(folder, gzip.compress(archive_builder.tar([*files, *more])))
        with contextlib.suppress(LabError):
            layers.archive(path, verify=False)


@QUICK
@given(st.text(max_size=90))
def test_names_and_platforms_in_any_form(text: str) -> None:
    assert printable_name(text).isprintable()
    printable_name(text).encode()
    with contextlib.suppress(LabError):
        assert re.fullmatch(r"[^/]+/[^/]+(/[^/]+)?", normalize_platform(text))
        assert normalize_platform(normalize_platform(text)) == normalize_platform(text)
