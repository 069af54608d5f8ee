"""Pulls, stacks, builds, sharing and digests, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from labhelpers import layers
from labhelpers.engine import Engine
from labhelpers.engine.removal import remove_image
from labhelpers.errors import BadInput, ImageMissing, LabError, NotOwned
from labhelpers.lab import Lab
from labhelpers.layers.pulls import ExampleImages, Pull


@pytest.fixture(scope="module")
def lab(shared_lab: Lab) -> Lab:
    """One lab for all tests: its registry, and the two images in it, are made once."""
    return shared_lab


@pytest.fixture(scope="module")
def pushed(lab: Lab) -> ExampleImages:
    return layers.example_images(lab)


@pytest.fixture
def example(lab: Lab, pushed: ExampleImages) -> Iterator[ExampleImages]:
    """Two images in the lab's registry; the engine has neither, before the test and after it."""
    refs = {pushed.first, pushed.second}
    assert not refs & {tag for row in lab.client.api.images() for tag in row["RepoTags"] or []}
    yield pushed
    for ref in refs:
        with suppress(ImageNotFound):
            remove_image(lab.client.api, ref)


def test_a_pull_reports_each_layer_and_does_not_download_shared_layers(
    lab: Lab, example: ExampleImages
) -> None:
    updates: list[Pull] = []
    first = layers.pull(lab, example.first, updates.append)
    assert (first.downloaded_layers, first.existing_layers) == (5, 0)
    assert updates[-1] == first
    assert first.done
    assert not any(pull.done for pull in updates[:-1])
    for layer in first.layers:
        ends = [0.0, *(phase.end_ms for phase in layer.phases)]
        assert ends == sorted(ends)
        assert [phase.start_ms for phase in layer.phases][1:] == ends[1:-1]
        assert layer.done_bytes == layer.bytes
    assert max(layer.bytes for layer in first.layers) > 24 * 1024**2
    second = layers.pull(lab, example.second, updates.append)
    assert (second.downloaded_layers, second.existing_layers) == (1, 5)
    again = layers.pull(lab, example.second, updates.append)
    assert (again.downloaded_layers, again.existing_layers) == (0, 6)


def test_the_stack_of_an_image(lab: Lab, example: ExampleImages) -> None:
    lab.pull(example.first)
    stack = layers.image_layers(lab, example.first)
    image = lab.client.images.get(example.first)
    assert [layer.diff_id for layer in stack.layers] == image.attrs["RootFS"]["Layers"]
    registry = [blob.digest for blob in layers.verify(lab, example.first).blobs if blob.kind == "layer"]
    assert [layer.digest for layer in stack.layers] == registry
    assert stack.layers[1].instruction.startswith("RUN mkdir /data")
    top = stack.layers[4]
    assert (top.files_added, top.files_changed, top.files_removed) == (1, 2, 4)
    assert stack.wasted_files[0].path == "/data/middle"
    # an engine saves the replaced directory as an opaque one, or each of its files as a whiteout
    small = stack.wasted_bytes - 2 * 8 * 1024**2
    assert small in (29, 29 + len("one\ntwo\nthree\n"))
    assert 0.8 < stack.efficiency < 0.82


def test_the_archive_of_an_image_says_the_same(lab: Lab, tmp_path: Path) -> None:
    ref = lab.image("payload")
    path = tmp_path / "saved.tar"
    with path.open("wb") as file:
        file.writelines(lab.client.images.get(ref).save())
    saved, stored = layers.archive(path), layers.image_layers(lab, ref)
    assert saved.layers == stored.layers
    assert (saved.efficiency, saved.wasted_files) == (stored.efficiency, stored.wasted_files)


def test_missing_images(lab: Lab) -> None:
    with pytest.raises(ImageMissing, match="no-such-image"):
        layers.image_layers(lab, "no-such-image:1")
    with pytest.raises(ImageMissing):
        layers.pull(lab, f"{lab.registry.address}/no-such-image:1")
    with pytest.raises(BadInput):
        layers.pull(lab, "no image")
    with pytest.raises(BadInput, match="not in the lab's registry"):
        layers.verify(lab, "labhelpers/payload:latest")
    with pytest.raises(BadInput, match="does not have"):
        layers.verify(lab, f"{lab.registry.address}/no-such-image:1")


def test_digests_are_recomputed_and_a_flipped_bit_is_refused(lab: Lab, example: ExampleImages) -> None:
    verified = layers.verify(lab, example.second)
    assert [blob.kind for blob in verified.blobs] == ["manifest", "config", *["layer"] * 6]
    assert verified.all_match
    refused = layers.pull_corrupted(lab, example.second)
    assert refused.refused
    assert refused.before ^ refused.after == 1
    assert refused.restored
    assert layers.pull(lab, example.second, lambda pull: None).downloaded_layers == 6


def test_one_byte_copies_the_whole_file_up(lab: Lab) -> None:
    cost = layers.copy_up(lab, [5000, 3_000_000], repeats=1)
    assert [write.file_bytes for write in cost.writes] == [5000, 3_000_000]
    assert cost.every_file_was_copied
    assert cost.medians() == cost.writes


@pytest.mark.parametrize(("sizes", "repeats"), [([], 1), ([0], 1), ([True], 1), (["1m"], 1), ([10], 0)])
def test_invalid_sizes(lab: Lab, sizes: list[int], repeats: int) -> None:
    with pytest.raises(BadInput):
        layers.copy_up(lab, sizes, repeats)


def test_shared_layers_are_stored_once(lab: Lab, example: ExampleImages) -> None:
    for ref in (example.first, example.second):
        lab.pull(ref)
    shared = layers.sharing(lab, [example.first, example.second], containers=2)
    assert [user.image for user in shared.users] == ["first:1", "first:1", "second:1"]
    assert [len(shared.users_of(one.id)) for one in shared.users[2].layers] == [3] * 5 + [1]
    image = sum(one.bytes for one in shared.users[0].layers)
    assert image > 40 * 1024**2
    assert shared.sum_bytes > 3 * image
    assert image < shared.stored_bytes < 1.3 * image
    with pytest.raises(BadInput):
        layers.sharing(lab, [], containers=1)
    with pytest.raises(ImageMissing):
        layers.sharing(lab, ["no-such-image:1"], containers=1)


def test_the_order_of_a_dockerfile_decides_what_runs_again(lab: Lab) -> None:
    cache = layers.build_cache(lab)
    assert len(cache.builds) == 4
    assert cache.of("dependencies first", "one line changed").executed == ("COPY main.py ./",)
    bad = cache.of("source first", "one line changed").executed
    assert bad == ("COPY main.py deps.txt install.py ./", "RUN python3 install.py")
    for order in ("dependencies first", "source first"):
        assert "RUN python3 install.py" in cache.of(order, "first build").executed
    assert set(cache.frame()["cached"]) == {True, False}


def test_a_stage_leaves_its_tools_behind(lab: Lab) -> None:
    stages = layers.stages(lab)
    assert "<td>100</td><td>10000</td>" in stages.single_stage.page
    assert stages.single_stage.page == stages.multi_stage.page
    assert (stages.single_stage.has_python, stages.multi_stage.has_python) == (True, False)
    assert stages.ratio > 10


def test_a_deleted_secret_is_still_there(lab: Lab) -> None:
    secrets = layers.secrets(lab)
    assert secrets.locations("deleted") == ("layer 1: /token.txt",)
    assert [location.partition(":")[0] for location in secrets.locations("argument")] == ["history"]
    assert secrets.locations("other stage") == ()
    assert not any(secrets.secret in leak.location for leak in secrets.leaks)
    result = layers.recover(lab, secrets.refs["deleted"], "/token.txt")
    assert [(copy.layer, copy.kind, copy.text) for copy in result.copies] == [
        (1, "file", secrets.secret),
        (3, "whiteout", ""),
    ]
    assert not result.visible
    assert layers.recover(lab, secrets.refs["deleted"], "/used").visible
    with pytest.raises(BadInput):
        layers.recover(lab, secrets.refs["deleted"], "token.txt")


def test_going_back(engine: Engine) -> None:
    with Lab("test", engine=engine) as lab, lab.quiet():
        go_back(lab)
    assert engine.client.images.list(name=f"t-{lab.session}") == []


def go_back(lab: Lab) -> None:
    name = f"t-{lab.session}"
    board = lab.run(lab.image("payload"), name=name)
    lab.exec(board, ["sh", "-c", "echo old > /price"])
    old = lab.commit(board, f"{name}:1")
    lab.exec(board, ["sh", "-c", "echo new > /price"])
    lab.commit(board, f"{name}:2")
    lab.tag(f"{name}:2", f"{name}:latest")
    lab.tag(f"{name}:1", f"{name}:latest")
    assert lab.commands[-4:] == [
        f"docker exec {name} sh -c 'echo new > /price'",
        f"docker commit {name} {name}:2",
        f"docker tag {name}:2 {name}:latest",
        f"docker tag {name}:1 {name}:latest",
    ]
    assert lab.client.images.get(f"{name}:latest").id == old.id
    assert lab.exec(lab.run(f"{name}:latest"), "cat /price").stdout == "old\n"
    with pytest.raises(NotOwned):
        lab.tag("labhelpers/payload:latest", f"{name}:3")
    with pytest.raises(ImageMissing):
        lab.tag("no-such-image:1", f"{name}:3")
    with pytest.raises(LabError, match="no container"):
        lab.commit("no-such-container", f"{name}:3")
