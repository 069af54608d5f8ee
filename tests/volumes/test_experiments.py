"""Each experiment, on the real engine. No speed and no delay is asserted."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from docker.errors import APIError
from docker.models.containers import Container

from labhelpers import volumes
from labhelpers.errors import BadInput, LabError, NameTaken, NotOurs
from labhelpers.lab import Lab
from labhelpers.volumes import stage
from labhelpers.volumes.filling import OWN_FILE
from labhelpers.volumes.owners import outside
from labhelpers.volumes.speed import PLACES, SMALL


def named(lab: Lab, end: str) -> str:
    """A name of this test's own."""
    return f"t-{end}-{lab.session}"


def our_volumes(lab: Lab) -> list[str]:
    """Volumes of this session, and those that its containers made by a name with its session in it."""
    return sorted(one.name for one in lab.client.volumes.list() if lab.session in one.name)


@pytest.fixture
def leaves_nothing(shared: Lab) -> object:
    """What an experiment leaves on the engine is a failure."""
    before = our_volumes(shared)
    yield
    assert our_volumes(shared) == before
    others = [
        c
        for c in shared.client.containers.list(
            all=True, filters={"label": f"labhelpers.session={shared.session}"}, ignore_removed=True
        )
    ]
    assert {one.id for one in others} <= {shared.host.helper}


@pytest.mark.usefixtures("leaves_nothing")
def test_filling(shared: Lab) -> None:
    result = volumes.filling(shared)
    assert len(result.image) >= 2
    assert result.of("nothing").seen == result.image == result.after
    fresh = result.of("a fresh volume")
    assert fresh.seen == fresh.outside == result.image
    assert result.of("a volume with a file").seen == (OWN_FILE,)
    for case in ("a fresh volume, nocopy", "an empty directory"):
        assert result.of(case).seen == result.of(case).outside == ()
    assert len(result.frame()) == len(result.cases) == 5


@pytest.mark.usefixtures("leaves_nothing")
def test_delays(shared: Lab) -> None:
    result = volumes.delays(shared, rounds=20)
    assert result.same_file
    assert len(result.to_inside_us) == len(result.to_outside_us) == 20
    assert min(result.to_inside_us + result.to_outside_us) > 0
    assert list(result.frame().columns) == ["direction", "p50_us", "p90_us", "p99_us"]


@pytest.mark.usefixtures("leaves_nothing")
def test_read_only(shared: Lab) -> None:
    result = volumes.read_only(shared)
    assert [one.wrote for one in result.attempts] == [True, False, False, False]
    assert [one.mount_is_ro for one in result.attempts] == [False, True, True, True]
    assert {one.words for one in result.attempts[1:]} == {"Read-only file system"}
    assert result.change_was_seen


@pytest.mark.usefixtures("leaves_nothing")
def test_tmpfs(shared: Lab) -> None:
    result = volumes.tmpfs(shared, size_bytes=4 << 20)
    assert (result.file_system, result.on_a_disk) == ("tmpfs", False)
    assert result.written_bytes == 2 << 20
    assert result.charged_bytes >= 0.9 * result.written_bytes
    assert result.words == "No space left on device"
    assert result.left_after_restart == 0


@pytest.mark.usefixtures("leaves_nothing")
def test_owners(shared: Lab) -> None:
    result = volumes.owners(shared, user=4777)
    root, refused, given, open_to_all = result.attempts
    assert root.wrote
    assert root.owner_outside == outside(f"0 {root.expected_outside} 1", 0)
    assert (refused.wrote, refused.words, refused.owner_outside) == (False, "Permission denied", None)
    assert given.wrote
    assert given.owner == given.owner_outside == given.expected_outside
    assert open_to_all.wrote
    assert open_to_all.mode == 0o1777
    assert result.numbers_agree
    assert result.is_mapped == (root.owner_outside != 0)


def test_a_mapped_user_has_another_number_outside() -> None:
    # as the kernel writes it for a rootless engine (user_namespaces(7))
    uid_map = "         0       1000          1\n         1     100000      65536\n"
    assert (outside(uid_map, 0), outside(uid_map, 4321), outside(uid_map, 70000)) == (1000, 104320, -1)


@pytest.mark.usefixtures("leaves_nothing")
def test_missing(shared: Lab) -> None:
    result = volumes.missing(shared)
    mount, path, name = result.ways
    assert (mount.started, mount.made) == (False, "nothing")
    assert "does not exist" in mount.words
    assert "/" not in mount.words
    assert (path.started, path.made) == (True, "a directory")
    assert (name.started, name.made, name.owner) == (True, "a volume", None)
    assert "a directory, owner" in result.frame().to_string()


@pytest.mark.usefixtures("leaves_nothing")
def test_leftovers(shared: Lab) -> None:
    before = {one.name for one in shared.client.volumes.list()}
    result = volumes.leftovers(shared, times=2)
    assert [way.left for way in result.ways] == [2, 0, 0, 1, 1]
    assert result.of("-v /data", "docker rm").left_bytes >= 2 << 20
    assert result.of("-v /data", "--rm").left_bytes == 0
    # what it left on purpose is gone: others' volumes come and go meanwhile, but not with a file of ours
    for volume in shared.client.volumes.list():
        if volume.name not in before:
            try:
                entries = shared.host.directory(str(volume.attrs["Mountpoint"]))
            except LabError:
                continue
            assert [(e.path, e.size_bytes) for e in entries] != [("file", 1 << 20)]
    assert not shared.client.images.list(name=f"labhelpers-volumes-{shared.session}")


@pytest.mark.usefixtures("leaves_nothing")
def test_speeds(shared: Lab) -> None:
    with stage.volume(shared, "own") as name:
        source = stage.directory_of(shared, name)
        result = volumes.speeds(shared, source, repeats=2, whole_bytes=1 << 20, small_writes=4)
        assert shared.host.directory(source) == []  # it has removed its files
    assert result.is_whole
    assert len(result.turns) == 2 * 3 * len(PLACES)
    assert result.file_systems["tmpfs"] == "tmpfs"
    small = result.of("volume", SMALL)[0]
    assert small.operation_bytes == 4096
    assert 0 < small.moved_bytes <= 4 * 4096
    assert small.operation_ms == pytest.approx(1000 * small.took_s * 4096 / small.moved_bytes)
    assert set(result.frame().place) == set(PLACES)
    assert not volumes.speed.Speeds(result.turns[1:], {}, 1, 1, 2).is_whole


# --- where things are


def test_where_and_places(shared: Lab) -> None:
    name, bound = named(shared, "where"), named(shared, "bound")
    for one in (name, bound):
        shared.create_volume(one)
    container = shared.run(
        shared.image("payload"),
        "sleep 300",
        network="none",
        volumes=[f"{name}:/data:ro", "/nameless"],
        mounts=[f"type=bind,source={stage.directory_of(shared, bound)},target=/target"],
        tmpfs={"/memory": "size=1m"},
    )
    try:
        place = volumes.where(shared, name)
        assert (place.driver, place.entries) == ("local", ())
        assert place.is_below_data
        assert place.directory.endswith(f"/{name}/_data")
        assert place.directory not in repr(place) + place.frame().to_string()
        found = volumes.places(shared, container)
        assert [(p.inside, p.kind) for p in found.places] == [
            ("/", "container layer"),
            ("/data", "volume"),
            ("/memory", "tmpfs"),
            ("/nameless", "volume"),
            ("/target", "bind"),
        ]
        data, nameless = found.of("volume")
        assert (data.directory, data.name, data.read_only) == (place.directory, name, True)
        assert len(nameless.name) == 64
        assert not nameless.read_only
        assert found.places[0].file_system == "overlay"
        assert found.of("tmpfs")[0].directory is None
    finally:
        shared.remove(container, force=True, volumes=True)


def test_a_path_elsewhere_is_shown_without_its_machine(shared: Lab) -> None:
    assert stage.shown(shared, "/home/somebody/course/target") == "…/target"
    root = shared.engine.info["DockerRootDir"]
    assert stage.shown(shared, f"{root}/volumes/x/_data") == "DATA/volumes/x/_data"
    assert stage.shown(shared, f"{root}-other/x") == "…/x"


def test_another_ones_volume_stays_untouched(shared: Lab, tmp_path: Path) -> None:
    name = named(shared, "foreign")
    foreign = shared.client.volumes.create(name)
    try:
        for touch in (
            lambda: volumes.where(shared, name),
            lambda: volumes.put_files(shared, name),
            lambda: volumes.restore(shared, tmp_path / "any.tar", name),
        ):
            with pytest.raises(NameTaken, match="stays untouched"):
                touch()
        assert shared.host.directory(str(foreign.attrs["Mountpoint"])) == []
    finally:
        foreign.remove()


@pytest.mark.parametrize("ask", [volumes.where, volumes.contents, volumes.put_files])
def test_a_volume_that_is_not_there(shared: Lab, ask: object) -> None:
    with pytest.raises(LabError, match="no volume"):
        ask(shared, named(shared, "nowhere"))  # type: ignore[operator]
    assert not [name for name in our_volumes(shared) if "nowhere" in name]


# --- whose directory it is


def is_seen(lab: Lab, directory: Path) -> bool:
    """Whether the engine has this directory of the test's machine."""
    try:
        mounts = [f"type=bind,source={directory},target=/there"]
        with lab.running(lab.image("payload"), stage.STAY, network="none", mounts=mounts) as container:
            return bool(lab.host.entries("/there", ["here"], container)["here"])
    except LabError:
        return False


def test_go_on_where_the_engine_has_the_directory(shared: Lab, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    if not is_seen(shared, tmp_path):
        pytest.skip("this engine does not have the directories of the test's machine")
    name, image = named(shared, "bind"), shared.image("payload")
    mount = f"type=bind,source={tmp_path},target=/data"
    container = shared.run(image, "sleep 300", name=name, network="none", mounts=[mount])
    found = volumes.go_on(shared, name, tmp_path, "/data", image, named(shared, "there"))
    assert (found.is_here, found.engine_said, found.directory) == (True, None, str(tmp_path))
    assert found.holds_together
    assert str(tmp_path) not in repr(found) + found.frame().to_string()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert volumes.both_ways(shared, container, "/data", found.directory).agree
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    shared.remove(container, force=True)


def goes_on_there(lab: Lab, here: Path, said: str) -> None:
    """The lab goes on with a directory of the engine's host."""
    name, there = named(lab, "bind"), named(lab, "there")
    found = volumes.go_on(lab, name, here, "/data", lab.image("base"), there)
    try:
        assert not found.is_here
        assert found.engine_said is not None
        assert said in found.engine_said
        assert "/" not in found.engine_said
        assert found.holds_together
        assert found.directory == stage.directory_of(lab, there)
        assert volumes.both_ways(lab, name, "/data", found.directory).agree
    finally:
        lab.remove(name, force=True)
        lab.client.volumes.get(there).remove()


def test_go_on_where_the_engine_does_not_have_it(shared: Lab, tmp_path: Path) -> None:
    goes_on_there(shared, tmp_path / "nobody-has-this", "does not exist")


def test_go_on_where_the_engine_has_another_directory_of_that_path(shared: Lab, tmp_path: Path) -> None:
    # what the reader's line has mounted is not the directory that is here
    mount = f"type=volume,source={named(shared, 'else')},target=/data"
    shared.run(
        shared.image("payload"), "sleep 300", name=named(shared, "bind"), network="none", mounts=[mount]
    )
    goes_on_there(shared, tmp_path, "another one")
    shared.client.volumes.get(named(shared, "else")).remove()


def test_go_on_leaves_another_ones_container_alone(shared: Lab, tmp_path: Path) -> None:
    name = named(shared, "foreign")
    foreign: Container = shared.client.containers.create(
        shared.image("payload"), "sleep 300", name=name, network_mode="none"
    )
    foreign.start()
    try:
        with pytest.raises((NotOurs, LabError)):
            volumes.go_on(shared, name, tmp_path, "/", shared.image("payload"), named(shared, "there"))
        foreign.reload()
        assert foreign.status == "running"
        assert list(tmp_path.iterdir()) == []
    finally:
        foreign.remove(force=True)


def test_two_sides_that_are_not_one_do_not_agree(shared: Lab) -> None:
    with (
        stage.volume(shared, "one") as one,
        stage.volume(shared, "other") as other,
        shared.running(
            shared.image("payload"), stage.STAY, network="none", volumes=[f"{one}:/data"]
        ) as container,
        pytest.raises(LabError),
    ):
        volumes.both_ways(shared, container, "/data", stage.directory_of(shared, other))


# --- back-up and restore


def test_a_back_up_is_restored_as_it_was(shared: Lab, tmp_path: Path) -> None:
    one, two = named(shared, "full"), named(shared, "again")
    for name in (one, two):
        shared.create_volume(name)
    file = tmp_path / "full.tar"
    put = volumes.put_files(shared, one, random_bytes=3 << 20)
    assert put.files == 3
    saved = volumes.back_up(shared, one, file)
    assert saved.agrees
    assert saved.volume_contents.sha256 == put.sha256
    assert saved.file_bytes == file.stat().st_size > 3 << 20
    restored = volumes.restore(shared, file, two)
    assert restored.agrees
    assert restored.volume_contents.sha256 == put.sha256
    with pytest.raises(BadInput, match="there already"):
        volumes.back_up(shared, one, file)
    with pytest.raises(BadInput, match="holds files"):
        volumes.restore(shared, file, two)
    # each of these changes is seen
    for script in (
        "chmod 644 /data/secret",
        "chown 1 /data/hello",
        "ln -sfn hello /data/latest",
        "touch /data/more",
    ):
        before = volumes.contents(shared, two).sha256
        stage.output(shared, ["sh", "-c", script], volumes=[f"{two}:/data"])
        assert volumes.contents(shared, two).sha256 != before, script


def test_a_damaged_back_up_does_not_agree(shared: Lab, tmp_path: Path) -> None:
    one, two = named(shared, "whole"), named(shared, "damaged")
    for name in (one, two):
        shared.create_volume(name)
    volumes.put_files(shared, one, random_bytes=4096)
    file = tmp_path / "whole.tar"
    saved = volumes.back_up(shared, one, file)
    with tarfile.open(file) as archive:
        at = next(m.offset_data for m in archive if m.name.endswith("numbers"))
    with file.open("r+b") as damaged:
        damaged.seek(at)
        byte = damaged.read(1)
        damaged.seek(at)
        damaged.write(bytes([byte[0] ^ 1]))
    restored = volumes.restore(shared, file, two)
    assert restored.volume_contents.sha256 != saved.volume_contents.sha256


def test_a_program_that_fails_is_an_error_with_its_words(shared: Lab) -> None:
    command = ["sh", "-c", "echo it broke; exit 3"]
    with shared.running(shared.image("payload"), command, network="none") as container:
        with pytest.raises(LabError, match="failed") as failed:
            stage.result_of(shared, container)
        assert "it broke" in str(failed.value)
    with pytest.raises(LabError, match="failed"):
        stage.output(shared, command)


def test_a_volume_in_use_is_not_removed_under_its_container(shared: Lab) -> None:
    name = named(shared, "used")
    made = shared.create_volume(name)
    container = shared.run(shared.image("payload"), "sleep 300", network="none", volumes=[f"{name}:/data"])
    with pytest.raises(APIError, match="in use"):
        made.remove()
    shared.remove(container, force=True, volumes=True)
    made.remove()
