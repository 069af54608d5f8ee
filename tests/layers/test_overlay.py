"""Lower, upper, work and merged, and what a write does to them, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from labhelpers import layers
from labhelpers.engine.host import Mount
from labhelpers.errors import BadInput, ExperimentFailed, LabError, NotAvailable
from labhelpers.lab import Lab
from labhelpers.layers.builds import build, unique_name
from labhelpers.layers.overlay import Changes
from labhelpers.layers.recipes import BuildContext

FILES = BuildContext(
    """\
ARG BASE
FROM ${BASE}
RUN mkdir -p /d/sub && echo a > /d/a && echo b > /d/b && echo c > /d/sub/c && echo old > /old && \
    ln -s old /link && ln -s /d /way
RUN rm -r /d && mkdir -p /d/sub && echo e > /d/e && echo f > /d/sub/f && rm /link
"""
)


@pytest.fixture(scope="module")
def lab(shared_lab: Lab) -> Lab:
    """One lab for all tests: no test changes what another one uses."""
    return shared_lab


@pytest.fixture(scope="module")
def image(lab: Lab) -> str:
    """An image with an opaque directory and a whiteout of its own."""
    return build(lab, FILES, unique_name(lab, "files:1"), BASE=lab.image("payload"))


@pytest.fixture
def container(lab: Lab, image: str) -> Iterator[Container]:
    """A container of that image, which nothing has changed yet."""
    made = lab.run(image, "sleep 300", name=f"t-{lab.session}", network="none")
    yield made
    lab.remove(made, force=True)


def do(lab: Lab, container: Container, script: str) -> Changes:
    result = lab.exec(container, ["sh", "-c", script])
    assert result.exit_code == 0, result
    return layers.changes(lab, container)


def test_the_directories_are_those_of_the_engine(lab: Lab, container: Container) -> None:
    mounts = layers.mounts(lab, container)
    layers_of_image = lab.client.images.get(container.attrs["Image"]).attrs["RootFS"]["Layers"]
    # where an image was built, containerd's store has empty directories for steps that changed no file
    assert len(mounts.image_layers) >= len(layers_of_image)
    assert len({*mounts.lower, mounts.upper, mounts.work, mounts.merged}) == len(mounts.lower) + 3
    driver = (container.attrs.get("GraphDriver") or {}).get("Data")
    if driver:
        # not every image store reports them
        assert (mounts.upper, mounts.work) == (driver["UpperDir"], driver["WorkDir"])
    assert str(mounts.lower[0]) not in repr(mounts), "a stored notebook contains no path of its machine"
    assert list(mounts.frame()["role"])[:3] == ["merged", "work", "upper"]


def test_the_same_file_through_each(lab: Lab, container: Container) -> None:
    before = layers.path_in_layers(lab, container, "/old")
    layer = str(before.source)
    assert layer.startswith("lower ")
    assert (before.at(layer).text, before.at("upper").kind) == ("old\n", "nothing")
    do(lab, container, "echo more >> /old")
    after = layers.path_in_layers(lab, container, "/old")
    assert (after.at(layer).text, after.at("upper").text) == ("old\n", "old\nmore\n")
    assert after.at("merged").text == after.at("upper").text
    assert after.source == "upper"
    hidden = layers.path_in_layers(lab, container, "/link")
    assert [entry.kind for entry in hidden.entries if entry.kind != "nothing"] == ["link", "whiteout"]
    assert hidden.source is None
    assert (
        layers.path_in_layers(lab, container, "/way/e").source
        == layers.path_in_layers(lab, container, "/d/e").source
    )


@pytest.mark.parametrize(
    ("script", "whiteouts", "opaque"),
    [
        ("true", (), ()),
        ("echo n > /new; mkdir -p /dir/sub; echo x > /dir/sub/x", (), ()),
        ("echo n > /new; rm /new", (), ()),
        ("echo more >> /old; chmod 600 /payload", (), ()),
        # opened for writing and not written to: copied up, and no change
        (": >> /old", (), ()),
        ("rm /old", ("/old",), ()),
        ("rm -r /d", ("/d",), ()),
        ("rm /d/e /d/sub/f", ("/d/e", "/d/sub/f"), ()),
        ("rm /old; echo new > /old", (), ()),
        ("rm -r /d && mkdir /d && echo g > /d/g", (), ("/d",)),
        ("rm -r /d && mkdir -p /d/sub && echo g > /d/sub/g", (), ("/d",)),
        ("rm -r /d && echo file > /d", (), ()),
        ("rm /old && mkdir /old && echo x > /old/x", (), ()),
        ("mv /d /moved 2>/dev/null || true; rm /payload", None, None),
    ],
)
def test_docker_diff_agrees_with_upper(
    lab: Lab,
    container: Container,
    script: str,
    whiteouts: tuple[str, ...] | None,
    opaque: tuple[str, ...] | None,
) -> None:
    result = do(lab, container, script)
    assert result.matches_docker_diff, (result.as_docker_diff, result.docker_diff)
    if whiteouts is not None:
        assert (result.whiteouts, result.opaque) == (whiteouts, opaque)


def test_before_and_after(lab: Lab, container: Container) -> None:
    result = layers.write_effects(lab, container, keep="/payload", change="/old", delete="/d/e", add="/new")
    assert result.image_is_unchanged
    assert result.upper_was_empty
    kinds = [file.at("upper").kind for file in result.after]
    assert kinds == ["nothing", "file", "whiteout", "file"]
    assert len(result.frame()) == 4 * len(result.before[0].entries)
    with pytest.raises(ExperimentFailed, match="could not write"):
        layers.write_effects(lab, container, keep="/payload", change="/old", delete="/d/e", add="/new2")


def test_containers_without_readable_layers(lab: Lab, container: Container) -> None:
    with pytest.raises(LabError, match="no container named no-such"):
        layers.mounts(lab, "no-such")
    for path in ("old", "/../etc/passwd"):
        with pytest.raises(BadInput, match="not an absolute path"):
            layers.path_in_layers(lab, container, path)
    assert layers.path_in_layers(lab, container, "/no/such").source is None
    lab.stop(container, timeout_s=0)
    with pytest.raises(LabError, match="is not running"):
        layers.changes(lab, container)


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "zfs", "fuse.fuse-overlayfs"])
def test_other_storage_drivers_are_named_before_they_matter(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """vfs binds a directory of ext4; the mount table has no directories for fuse-overlayfs."""
    root = Mount(1, 0, "8:1", "/vfs/dir/abc", "/", ("rw",), kind, "/dev/sda1", {"relatime": ""}, ())
    running = lab.run(lab.image("payload"), ["sleep", "300"], network="none")
    assert layers.no_overlay_reason(lab, running) is None
    monkeypatch.setattr(lab.host, "mounts", lambda where=None: [root])
    monkeypatch.setitem(lab.engine.info, "Driver", "vfs")
    reason = layers.no_overlay_reason(lab, running)
    assert reason is not None
    assert "stores layers with vfs" in reason
    with pytest.raises(NotAvailable, match="storage driver is vfs") as caught:
        layers.mounts(lab, running)
    assert "go on" in caught.value.hint
