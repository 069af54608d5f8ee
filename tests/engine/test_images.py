"""Lab images: found by content, rebuilt when it changes, and nothing half made after what can go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from labhelpers.engine import Engine, images
from labhelpers.errors import BuildFailed, ImageMissing, NameTaken
from labhelpers.lab import Lab

DOCKERFILE = """ARG BASE=debian:bookworm-slim
FROM {base}
LABEL labhelpers.stage={name}
ENV ONE=one
RUN {run}
"""

# two megabytes, for what is pushed and pulled
SMALL = "labhelpers/payload"


@pytest.fixture(scope="module")
def registry(engine: Engine) -> None:
    """What a registry is made of, before a test's catalogue has it no more."""
    images.ensure(engine, "registry")


@pytest.fixture
def name(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A catalogue with one image of the test's own, by name."""
    made = f"t-{uuid.uuid4().hex[:8]}"
    # a base of the test's own as well: `remove_all` takes it away
    engine.client.images.get(images.base(engine)).tag(made_of(made), "base")
    monkeypatch.setattr(images, "BASE", f"{made_of(made)}:base")
    monkeypatch.setattr(images, "IMAGES_DIRECTORY", tmp_path)
    monkeypatch.delenv("LABHELPERS_REGISTRY", raising=False)
    write(made, "true")
    yield made
    write(made, "true")
    for tag in {tag for tag in tags(engine) if made in tag}:
        assert "kept" not in images._remove(engine, tag)
    assert leftovers(engine, made) == []


# not `images.list()`: it asks for each image by itself, and other tests remove theirs meanwhile
def ids(engine: Engine) -> set[str]:
    return {row["Id"] for row in engine.client.api.images()}


def tags(engine: Engine) -> set[str]:
    return {tag for row in engine.client.api.images() for tag in row["RepoTags"] or []}


def made_of(name: str) -> str:
    return f"labhelpers/{name}"


def write(name: str, run: str, base: str = "${BASE}") -> None:
    (images.IMAGES_DIRECTORY / name).mkdir(exist_ok=True)
    (images.IMAGES_DIRECTORY / name / "Dockerfile").write_text(
        DOCKERFILE.format(name=name, run=run, base=base), encoding="utf-8"
    )


def leftovers(engine: Engine, name: str) -> list[str]:
    """What a build left that no tag names, and containers of its steps."""
    filters = {"dangling": True, "label": f"labhelpers.stage={name}"}
    found = [str(row["Id"]) for row in engine.client.api.images(filters=filters)]
    containers = engine.client.containers.list(
        all=True, filters={"label": f"labhelpers.stage={name}"}, ignore_removed=True
    )
    return found + [str(container.id) for container in containers]


def present(engine: Engine, name: str) -> bool:
    return f"{made_of(name)}:latest" in tags(engine)


def test_the_catalogue_is_the_folders() -> None:
    assert set(images.catalogue()) >= {"base", "tools", "vm", "payload", "registry"}
    with pytest.raises(ImageMissing, match="no image named 'nix'") as missing:
        images.reference("nix")
    assert "tools" in missing.value.hint


def test_it_is_made_once_and_again_when_its_folder_changes(engine: Engine, name: str) -> None:
    assert images.status(engine)[name].present is False
    output: list[str] = []
    ref = images.ensure(engine, name, output.append)
    assert output
    first = engine.client.images.get(ref).id
    assert images.status(engine)[name].present
    output.clear()
    assert images.ensure(engine, name, output.append) == ref
    assert (engine.client.images.get(ref).id, output) == (first, [])
    write(name, "echo two > /two")
    assert images.status(engine)[name].present is False
    images.ensure(engine, name)
    assert engine.client.images.get(ref).id != first
    assert first not in ids(engine)


def test_where_the_base_came_from_is_known(engine: Engine, name: str) -> None:
    images.ensure(engine, name)
    assert images.status(engine)[name].source in ("hub", "debootstrap")


def test_a_step_that_fails_leaves_nothing_and_says_why(engine: Engine, name: str) -> None:
    write(name, "sh -c 'echo no such mirror; exit 7'")
    with pytest.raises(BuildFailed, match="partial results were removed") as failed:
        images.ensure(engine, name)
    assert "no such mirror" in str(failed.value)
    assert leftovers(engine, name) == []
    assert present(engine, name) is False


@pytest.mark.parametrize(
    ("text", "next_step"),
    [
        ("E: Failed to fetch http://mirror.invalid/x  Temporary failure resolving", "a download failed"),
        ("write /x: no space left on device", "disk is full"),
    ],
)
def test_what_to_do_next_depends_on_what_went_wrong(
    engine: Engine, name: str, text: str, next_step: str
) -> None:
    write(name, f"sh -c 'echo {text}; exit 100'")
    with pytest.raises(BuildFailed) as failed:
        images.ensure(engine, name)
    assert next_step in failed.value.hint


def test_a_failed_rebuild_keeps_the_image_of_before(engine: Engine, name: str) -> None:
    ref = images.ensure(engine, name)
    before = engine.client.images.get(ref).id
    write(name, "false")
    with pytest.raises(BuildFailed):
        images.ensure(engine, name)
    assert engine.client.images.get(ref).id == before


def test_a_killed_build_leaves_nothing_half_made(engine: Engine, name: str) -> None:
    write(name, "sleep 60")
    code = (
        "import sys; from pathlib import Path; from labhelpers.engine import connect, images; "
        f"images.IMAGES_DIRECTORY = Path({str(images.IMAGES_DIRECTORY)!r}); images.ensure(connect(), {name!r}, print)"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "DOCKER_HOST": engine.address},
    ) as process:
        assert process.stdout
        while "RUN sleep 60" not in process.stdout.readline():
            assert process.poll() is None
        running = {"label": f"labhelpers.stage={name}"}
        until(lambda: engine.client.containers.list(filters=running, ignore_removed=True))
        process.send_signal(signal.SIGKILL)
    until(lambda: not engine.client.containers.list(all=True, filters=running, ignore_removed=True))
    write(name, "true")
    images.ensure(engine, name)
    assert leftovers(engine, name) == []


def until(condition: object) -> None:
    end = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_image_of_somebody_else_is_not_replaced(engine: Engine, name: str) -> None:
    engine.client.images.get("labhelpers/payload").tag(made_of(name), "latest")
    with pytest.raises(NameTaken, match="the lab did not create"):
        images.ensure(engine, name)
    assert "labhelpers/payload:latest" in engine.client.images.get(made_of(name)).tags


def test_an_image_that_a_reader_builds_on_ours_is_not_swept_away(
    engine: Engine, name: str, tmp_path: Path
) -> None:
    ref = images.ensure(engine, name)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "Dockerfile").write_text(f"FROM {ref}\nRUN echo mine > /mine\n", encoding="utf-8")
    own, _ = engine.client.images.build(path=str(tmp_path / "own"), rm=True)
    write(name, "echo changed > /one")
    try:
        images.ensure(engine, name)
        images.remove_all(engine)
        assert own.id in ids(engine)
        assert present(engine, name) is False
    finally:
        engine.client.images.remove(str(own.id))


@pytest.mark.usefixtures("registry")
def test_it_is_pulled_from_the_classroom(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lab.engine
    monkeypatch.setattr(type(lab), "image", lambda self, name: f"labhelpers/{name}:latest")
    write(name, "true", base=SMALL)
    ref = images.ensure(engine, name)
    lab.registry.push(ref)
    made_there = engine.client.images.get(ref).id
    engine.client.images.remove(ref)
    monkeypatch.setenv("LABHELPERS_REGISTRY", lab.registry.address)
    output: list[str] = []
    images.ensure(engine, name, output.append)
    assert engine.client.images.get(ref).id == made_there
    assert images.status(engine)[name].source == "registry"
    assert not any("RUN" in line for line in output)
    assert any(line.startswith("removed image") for line in images.remove_all(engine))
    assert present(engine, name) is False


@pytest.mark.usefixtures("registry")
def test_a_classroom_with_another_version_is_not_believed(
    lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(lab), "image", lambda self, name: f"labhelpers/{name}:latest")
    write(name, "true", base=SMALL)
    ref = images.ensure(lab.engine, name)
    lab.registry.push(ref)
    monkeypatch.setenv("LABHELPERS_REGISTRY", lab.registry.address)
    write(name, "echo newer > /one", base=SMALL)
    output: list[str] = []
    images.ensure(lab.engine, name, output.append)
    assert any("another version" in line for line in output)
    assert images.status(lab.engine)[name].source != "registry"


def test_a_classroom_that_does_not_answer_is_reported(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_REGISTRY", "127.0.0.1:1")
    output: list[str] = []
    images.ensure(engine, name, output.append)
    assert any("not available from the registry" in line and "127.0.0.1:1" in line for line in output)


def test_the_base_of_a_registry_is_taken_as_hubs_would_be(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BASE", f"labhelpers/t-{uuid.uuid4().hex[:8]}:base")
    hub = lab.registry.push("labhelpers/payload", "debian:bookworm-slim")
    try:
        assert images.pull_base(lab.engine, hub) is None
        assert images.base(lab.engine) == images.BASE
        assert lab.client.images.get(images.BASE).id == lab.client.images.get("labhelpers/payload").id
        assert hub not in lab.client.images.get(images.BASE).tags, (
            "what came along now has the lab's name only"
        )
        text = images.pull_base(lab.engine, f"{lab.registry.address}/none:1")
        assert text
    finally:
        lab.client.images.remove(images.BASE)


def test_the_page_says_what_substitutes_for_what(engine: Engine) -> None:
    seen = images.overview(engine)
    assert seen.distribution
    assert seen.distribution in seen.base_description
    assert ("stands in for" in seen.base_description) == (seen.source == "debootstrap")
    assert set(seen.frame()["name"]) == set(images.catalogue())


def test_what_cannot_be_had_has_a_substitute_and_reported(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = images.from_hub(engine, "127.0.0.1:1/nobody/nothing:1", "payload", print)
    assert (str(found), found.is_substitute) == ("labhelpers/payload:latest", True)
    assert "labhelpers/payload:latest stands in for it" in capsys.readouterr().out


def test_what_the_engine_has_or_its_registry_gives_is_not_stood_in_for(lab: Lab) -> None:
    ref = lab.registry.push("labhelpers/payload", "try/from-hub")
    for _ in range(2):  # pulled, then there
        found = images.from_hub(lab.engine, ref, "base")
        assert (str(found), found.is_substitute) == (ref, False)
