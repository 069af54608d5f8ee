"""The lab owns what it makes, removes it, and touches nothing else; its errors say what to do next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from docker.errors import APIError, NotFound

from labhelpers.engine import Engine
from labhelpers.errors import BadInput, BuildFailed, ImageMissing, LabError, NameTaken, NotOwned, PortTaken
from labhelpers.lab import Lab
from labhelpers.lab.inventory import owned_resources

IMAGE = "labhelpers/payload:latest"


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def foreign(engine: Engine, name: str) -> Iterator[str]:
    """A container that no lab made."""
    made = engine.client.containers.run(IMAGE, "sleep 300", name=f"{name}-foreign", detach=True)
    yield f"{name}-foreign"
    made.remove(force=True)


def test_what_it_prints_is_what_it_keeps(lab: Lab, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    web = lab.run(IMAGE, "sleep 300", name=name)
    with lab.quiet():
        lab.exec(web, "true")
    assert capsys.readouterr().out == f"$ docker run -d --name {name} {IMAGE} sleep 300\n"
    assert lab.commands[-1] == f"docker exec {name} true"


def test_exec_gives_both_streams_and_the_exit_code(lab: Lab, name: str) -> None:
    lab.run(IMAGE, "sleep 300", name=name)
    answer = lab.exec(name, "sh -c 'echo out; echo err >&2; exit 3'")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (3, "out\n", "err\n")


def test_close_removes_its_own_and_nothing_else(engine: Engine, name: str, foreign: str) -> None:
    with Lab("test", engine=engine) as item, Lab("test", engine=engine) as other:
        item.run(IMAGE, "sleep 300", name=name)
        item.create_network(name)
        item.create_volume(name)
        other.run(IMAGE, "sleep 300", name=f"{name}-other")
        item.close()
        left = {thing.name for thing in owned_resources(engine)}
        assert name not in left
        assert f"{name}-other" in left
        assert engine.client.containers.get(foreign).status == "running"


def test_a_killed_process_is_cleaned_up_by_the_next_lab(engine: Engine, name: str) -> None:
    code = f"from labhelpers.lab import Lab; Lab('test').run({IMAGE!r}, 'sleep 300', name={name!r}); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"DOCKER_HOST": engine.address, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout
        process.stdout.readline()
        while not engine.client.containers.list(filters={"name": name}, ignore_removed=True):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert engine.client.containers.list(filters={"name": name}, ignore_removed=True), (
        "the kill left it, or this proves nothing"
    )
    with Lab("test", engine=engine):
        assert not engine.client.containers.list(all=True, filters={"name": name}, ignore_removed=True)


def test_a_removal_that_the_reaper_began_is_waited_for(engine: Engine, name: str) -> None:
    def remove() -> None:
        with suppress(APIError):
            engine.client.api.remove_container(name, force=True)

    for _ in range(5):
        lab = Lab("test", engine=engine)
        with lab.quiet(), ThreadPoolExecutor() as pool:
            lab.run(IMAGE, ["sh", "-c", "seq 4000 | (cd /tmp && xargs touch) && sleep 300"], name=name)
            pool.submit(remove)
            lab.close()
            assert not engine.client.api.containers(all=True, filters={"name": name})


def test_names_and_ports_of_others_are_respected(lab: Lab, name: str, foreign: str) -> None:
    with pytest.raises(NameTaken, match="did not create"):
        lab.run(IMAGE, "sleep 300", name=foreign)
    for forbidden in (lab.stop, lab.remove):
        with pytest.raises(NotOwned):
            forbidden(foreign)
    first = lab.run(IMAGE, "sleep 300", name=name, ports={"80/tcp": None})
    first.reload()
    port = int(first.ports["80/tcp"][0]["HostPort"])
    with pytest.raises(PortTaken, match=name):
        lab.run(IMAGE, "sleep 300", name=f"{name}-2", ports={"80/tcp": port})
    assert not lab.client.containers.list(all=True, filters={"name": f"{name}-2"}, ignore_removed=True)


def test_errors_of_readers(lab: Lab, name: str) -> None:
    with pytest.raises(ImageMissing):
        lab.run("no-such-image-here", "true")
    with pytest.raises(BadInput, match="memory_limit"):
        lab.run(IMAGE, "true", memory_limit="64m")
    with pytest.raises(LabError, match="no container"):
        lab.exec(name, "true")


def test_an_image_does_not_make_a_container_ours(lab: Lab, name: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nENV A=b\n", encoding="utf-8")
    lab.build(str(tmp_path), f"{name}:1")
    made = lab.client.containers.run(f"{name}:1", "sleep 300", name=name, detach=True)
    try:
        with pytest.raises(NotOwned):
            lab.remove(name, force=True)
    finally:
        made.remove(force=True)


def test_what_was_there_before_the_lab_is_not_listed(engine: Engine, foreign: str) -> None:
    with Lab("test", engine=engine) as lab:
        assert foreign not in [thing.name for thing in lab.remaining().resources]


def test_a_nameless_volume_of_a_container_of_the_lab_is_not_listed_as_somebody_elses(quiet_lab: Lab) -> None:
    container = quiet_lab.run(IMAGE, "sleep 60", network="none", volumes=["/data"])
    (source,) = [mount["Source"] for mount in container.attrs["Mounts"]]
    (mine,) = [v["Name"] for v in quiet_lab.client.api.volumes()["Volumes"] if f"/{v['Name']}/" in source]
    assert mine not in [thing.name for thing in quiet_lab.remaining().resources]
    quiet_lab.remove(container, force=True)  # without -v it stays, and is nobody's
    assert mine in [thing.name for thing in quiet_lab.remaining().resources]
    quiet_lab.client.volumes.get(mine).remove()


def images_with(engine: Engine, setting: str) -> list[str]:
    """All images, the steps of builds among them, whose environment has `setting`."""
    found = []
    for row in engine.client.api.images(all=True):
        with suppress(NotFound):  # other tests remove theirs
            image = engine.client.api.inspect_image(row["Id"])
            if setting in (image["Config"].get("Env") or []):
                found.append(row["Id"])
    return found


def test_nothing_of_a_build_is_left(engine: Engine, name: str, tmp_path: Path) -> None:
    with Lab("test", engine=engine) as lab:
        for text in ("first", "second"):  # the second stands on a step of the first
            (tmp_path / "Dockerfile").write_text(
                f"FROM {IMAGE}\nENV A={name}\nLABEL word={text}\nENV C={text}\n", encoding="utf-8"
            )
            lab.build(str(tmp_path), f"{name}:{text}")
        assert len(images_with(engine, f"A={name}")) >= 2
    assert images_with(engine, f"A={name}") == []


@pytest.mark.parametrize("last", ["COPY --from=0 /bin/busybox /bin/busybox", "COPY no-such-file /"])
def test_no_stage_of_a_build_is_left(engine: Engine, name: str, tmp_path: Path, last: str) -> None:
    """Neither of one that files were copied from, nor of one that failed."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {IMAGE}\nENV A={name}\nRUN true\nFROM {IMAGE}\nENV A={name}\n{last}\n", encoding="utf-8"
    )
    with Lab("test", engine=engine) as lab:
        with suppress(BuildFailed):
            lab.build(str(tmp_path), f"{name}:1")
        made = images_with(engine, f"A={name}")
        assert len(made) >= 2
        assert not {thing.id for thing in lab.remaining().resources} & set(made)
    assert images_with(engine, f"A={name}") == []


def test_namespaces_of_the_host_where_the_engine_remaps_users(engine: Engine) -> None:
    # what /info of an engine with userns-remap has; such an engine refuses these without `--userns host`
    remapped = replace(engine)
    remapped.__dict__["info"] = {
        **engine.info,
        "SecurityOptions": ["name=seccomp,profile=default", "name=userns"],
    }
    with Lab("test", engine=remapped) as lab, lab.quiet():
        for options, mode in (
            ({"network": "host"}, "host"),
            ({"pid": "host"}, "host"),
            ({"network": "none"}, ""),
        ):
            assert lab.run(IMAGE, "true", **options).attrs["HostConfig"]["UsernsMode"] == mode
            assert ("--userns host" in lab.commands[-1]) is (mode == "host")
        lab.run_once(IMAGE, "true", network="host")
        assert "--userns host" in lab.commands[-1]
        # what shares a namespace of a container needs that container's user namespace
        for options, mode in (({"pid": "host"}, "host"), ({}, "")):
            with lab.running(IMAGE, "sleep 300", network="none", **options) as shared:
                made = lab.run(IMAGE, "true", network=f"container:{shared.name}")
                assert made.attrs["HostConfig"]["UsernsMode"] == mode
                assert ("--userns host" in lab.commands[-1]) is (mode == "host")
