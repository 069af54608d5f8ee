"""Every experiment, on a real engine. Speeds and delays are not asserted."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from docker.errors import APIError
from docker.models.containers import Container

from labhelpers import volumes
from labhelpers.errors import BadInput, LabError, NameTaken, NotOwned
from labhelpers.lab import Lab
from labhelpers.volumes import common
from labhelpers.volumes.ownership import host_id
from labhelpers.volumes.population import EXISTING_FILE
from labhelpers.volumes.speed import MOUNT_POINTS, SMALL_SYNCED


def named(lab: Lab, end: str) -> str:
    """A name that is unique to this session."""
    return f"t-{end}-{lab.session}"


def session_volumes(lab: Lab) -> list[str]:
    """The names of all volumes with the id of this session in their name."""
    return sorted(volume.name for volume in lab.client.volumes.list() if lab.session in volume.name)


@pytest.fixture
def leaves_nothing(shared_lab: Lab) -> object:
    """Fails if the experiment leaves a volume or a container on the engine."""
    before = session_volumes(shared_lab)
    yield
    assert session_volumes(shared_lab) == before
    others = [
        c
        for c in shared_lab.client.containers.list(
            all=True, filters={"label": f"labhelpers.session={shared_lab.session}"}, ignore_removed=True
        )
    ]
    assert {container.id for container in others} <= {shared_lab.host.helper}


@pytest.mark.usefixtures("leaves_nothing")
def test_population(shared_lab: Lab) -> None:
    result = volumes.populate(shared_lab)
    assert len(result.image_files) >= 2
    assert result.of("nothing").visible == result.image_files == result.visible_after
    fresh = result.of("a fresh volume")
    assert fresh.visible == fresh.on_host == result.image_files
    assert result.of("a volume with a file").visible == (EXISTING_FILE,)
    for case in ("a fresh volume, nocopy", "an empty directory"):
        assert result.of(case).visible == result.of(case).on_host == ()
    assert len(result.frame()) == len(result.cases) == 5


@pytest.mark.usefixtures("leaves_nothing")
def test_propagation_delays(shared_lab: Lab) -> None:
    result = volumes.propagation_delays(shared_lab, rounds=20)
    assert result.same_file
    assert len(result.to_container_us) == len(result.to_host_us) == 20
    assert min(result.to_container_us + result.to_host_us) > 0
    assert list(result.frame().columns) == ["direction", "p50_us", "p90_us", "p99_us"]


@pytest.mark.usefixtures("leaves_nothing")
def test_read_only(shared_lab: Lab) -> None:
    result = volumes.read_only(shared_lab)
    assert [each.succeeded for each in result.attempts] == [True, False, False, False]
    assert [each.mount_is_ro for each in result.attempts] == [False, True, True, True]
    assert {each.error for each in result.attempts[1:]} == {"Read-only file system"}
    assert result.change_visible


@pytest.mark.usefixtures("leaves_nothing")
def test_tmpfs(shared_lab: Lab) -> None:
    result = volumes.tmpfs(shared_lab, size_bytes=4 << 20)
    assert (result.file_system, result.on_disk) == ("tmpfs", False)
    assert result.written_bytes == 2 << 20
    assert result.charged_bytes >= 0.9 * result.written_bytes
    assert result.error == "No space left on device"
    assert result.entries_after_restart == 0


@pytest.mark.usefixtures("leaves_nothing")
def test_ownership(shared_lab: Lab) -> None:
    result = volumes.file_ownership(shared_lab, user=4777)
    root, refused, owned, public = result.attempts
    assert root.succeeded
    assert root.file_host_uid == host_id(f"0 {root.expected_host_uid} 1", 0)
    assert (refused.succeeded, refused.error, refused.file_host_uid) == (False, "Permission denied", None)
    assert owned.succeeded
    assert owned.owner_uid == owned.file_host_uid == owned.expected_host_uid
    assert public.succeeded
    assert public.mode == 0o1777
    assert result.ids_match
    assert result.is_remapped == (root.file_host_uid != 0)


def test_a_mapped_user_has_another_id_on_the_host() -> None:
    # as the kernel writes it for a rootless engine (user_namespaces(7))
    uid_map = "         0       1000          1\n         1     100000      65536\n"
    assert (host_id(uid_map, 0), host_id(uid_map, 4321), host_id(uid_map, 70000)) == (1000, 104320, -1)


@pytest.mark.usefixtures("leaves_nothing")
def test_missing_sources(shared_lab: Lab) -> None:
    result = volumes.missing_sources(shared_lab)
    mount, path, name = result.cases
    assert (mount.started, mount.created) == (False, "nothing")
    assert "does not exist" in mount.error
    assert "/" not in mount.error
    assert (path.started, path.created) == (True, "a directory")
    assert (name.started, name.created, name.owner_uid) == (True, "a volume", None)
    assert path.owner_uid is not None


@pytest.mark.usefixtures("leaves_nothing")
def test_dangling_volumes(shared_lab: Lab) -> None:
    before = {volume.name for volume in shared_lab.client.volumes.list()}
    result = volumes.dangling_volumes(shared_lab, times=2)
    assert [case.volumes_left for case in result.cases] == [2, 0, 0, 1, 1]
    assert result.of("-v /data", "docker rm").left_bytes >= 2 << 20
    assert result.of("-v /data", "--rm").left_bytes == 0
    # the dangling volumes are removed; other tests create volumes meanwhile, but without this file
    for volume in shared_lab.client.volumes.list():
        if volume.name not in before:
            try:
                entries = shared_lab.host.directory(str(volume.attrs["Mountpoint"]))
            except LabError:
                continue
            assert [(e.path, e.size_bytes) for e in entries] != [("file", 1 << 20)]
    assert not shared_lab.client.images.list(name=f"labhelpers-volumes-{shared_lab.session}")


@pytest.mark.usefixtures("leaves_nothing")
def test_speeds(shared_lab: Lab) -> None:
    with common.volume(shared_lab, "own") as name:
        source = common.directory_of(shared_lab, name)
        result = volumes.speeds(shared_lab, source, repeats=2, large_bytes=1 << 20, small_writes=4)
        assert shared_lab.host.directory(source) == []  # the files are removed
    assert result.is_complete
    assert len(result.measurements) == 2 * 3 * len(MOUNT_POINTS)
    assert result.file_systems["tmpfs"] == "tmpfs"
    small = result.of("volume", SMALL_SYNCED)[0]
    assert small.operation_bytes == 4096
    assert 0 < small.transferred_bytes <= 4 * 4096
    assert small.operation_ms == pytest.approx(1000 * small.duration_s * 4096 / small.transferred_bytes)
    assert set(result.frame().storage) == set(MOUNT_POINTS)
    assert not volumes.speed.Speeds(result.measurements[1:], {}, 1, 1, 2).is_complete


# --- locations


def test_locations(shared_lab: Lab) -> None:
    name, bound = named(shared_lab, "where"), named(shared_lab, "bound")
    for volume in (name, bound):
        shared_lab.create_volume(volume)
    container = shared_lab.run(
        shared_lab.image("payload"),
        "sleep 300",
        network="none",
        volumes=[f"{name}:/data:ro", "/other"],
        mounts=[f"type=bind,source={common.directory_of(shared_lab, bound)},target=/target"],
        tmpfs={"/memory": "size=1m"},
    )
    try:
        location = volumes.volume_location(shared_lab, name)
        assert (location.driver, location.entries) == ("local", ())
        assert location.is_below_data
        assert location.directory.endswith(f"/{name}/_data")
        assert location.directory not in repr(location) + location.frame().to_string()
        files = volumes.file_locations(shared_lab, container)
        assert [(each.mount_point, each.kind) for each in files.locations] == [
            ("/", "container layer"),
            ("/data", "volume"),
            ("/memory", "tmpfs"),
            ("/other", "volume"),
            ("/target", "bind"),
        ]
        data, anonymous = files.of("volume")
        assert (data.directory, data.volume, data.read_only) == (location.directory, name, True)
        assert len(anonymous.volume) == 64
        assert not anonymous.read_only
        assert files.locations[0].file_system == "overlay"
        assert files.of("tmpfs")[0].directory is None
    finally:
        shared_lab.remove(container, force=True, volumes=True)


def test_a_path_outside_the_data_directory_is_shortened(shared_lab: Lab) -> None:
    assert common.display_path(shared_lab, "/home/reader/course/target") == "…/target"
    root = shared_lab.engine.info["DockerRootDir"]
    assert common.display_path(shared_lab, f"{root}/volumes/x/_data") == "DATA/volumes/x/_data"
    assert common.display_path(shared_lab, f"{root}-other/x") == "…/x"


def test_a_foreign_volume_stays_untouched(shared_lab: Lab, tmp_path: Path) -> None:
    name = named(shared_lab, "foreign")
    foreign = shared_lab.client.volumes.create(name)
    try:
        for touch in (
            lambda: volumes.volume_location(shared_lab, name),
            lambda: volumes.create_test_files(shared_lab, name),
            lambda: volumes.restore(shared_lab, tmp_path / "any.tar", name),
        ):
            with pytest.raises(NameTaken, match="stays untouched"):
                touch()
        assert shared_lab.host.directory(str(foreign.attrs["Mountpoint"])) == []
    finally:
        foreign.remove()


@pytest.mark.parametrize("function", [volumes.volume_location, volumes.contents, volumes.create_test_files])
def test_a_missing_volume(shared_lab: Lab, function: object) -> None:
    with pytest.raises(LabError, match="no volume"):
        function(shared_lab, named(shared_lab, "nowhere"))  # type: ignore[operator]
    assert not [name for name in session_volumes(shared_lab) if "nowhere" in name]


# --- the source of a bind mount


def engine_has(lab: Lab, directory: Path) -> bool:
    """Whether the engine can mount this directory of the test's machine."""
    try:
        mounts = [f"type=bind,source={directory},target=/there"]
        with lab.running(
            lab.image("payload"), common.KEEP_RUNNING, network="none", mounts=mounts
        ) as container:
            return bool(lab.host.entries("/there", ["here"], container)["here"])
    except LabError:
        return False


def test_the_engine_has_the_directory(shared_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    if not engine_has(shared_lab, tmp_path):
        pytest.skip("this engine does not have the directories of the test's machine")
    name, image = named(shared_lab, "bind"), shared_lab.image("payload")
    mount = f"type=bind,source={tmp_path},target=/data"
    container = shared_lab.run(image, "sleep 300", name=name, network="none", mounts=[mount])
    source = volumes.resolve_bind_source(
        shared_lab, name, tmp_path, "/data", image, named(shared_lab, "there")
    )
    assert (source.is_local, source.engine_message, source.directory) == (True, None, str(tmp_path))
    assert source.is_consistent
    assert str(tmp_path) not in repr(source) + source.frame().to_string()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert volumes.write_both_sides(shared_lab, container, "/data", source.directory).matches
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    shared_lab.remove(container, force=True)


def check_fallback(lab: Lab, directory: Path, message: str) -> None:
    """The lab mounts a directory of the engine's host instead."""
    name, volume = named(lab, "bind"), named(lab, "there")
    source = volumes.resolve_bind_source(lab, name, directory, "/data", lab.image("base"), volume)
    try:
        assert not source.is_local
        assert source.engine_message is not None
        assert message in source.engine_message
        assert "/" not in source.engine_message
        assert source.is_consistent
        assert source.directory == common.directory_of(lab, volume)
        assert volumes.write_both_sides(lab, name, "/data", source.directory).matches
    finally:
        lab.remove(name, force=True)
        lab.client.volumes.get(volume).remove()


def test_the_engine_does_not_have_the_directory(shared_lab: Lab, tmp_path: Path) -> None:
    check_fallback(shared_lab, tmp_path / "missing", "does not exist")


def test_the_engine_has_another_directory_with_the_same_path(shared_lab: Lab, tmp_path: Path) -> None:
    # the container has another directory than the one on the test's machine
    mount = f"type=volume,source={named(shared_lab, 'else')},target=/data"
    shared_lab.run(
        shared_lab.image("payload"),
        "sleep 300",
        name=named(shared_lab, "bind"),
        network="none",
        mounts=[mount],
    )
    check_fallback(shared_lab, tmp_path, "another directory")
    shared_lab.client.volumes.get(named(shared_lab, "else")).remove()


def test_a_foreign_container_stays_untouched(shared_lab: Lab, tmp_path: Path) -> None:
    name = named(shared_lab, "foreign")
    foreign: Container = shared_lab.client.containers.create(
        shared_lab.image("payload"), "sleep 300", name=name, network_mode="none"
    )
    foreign.start()
    try:
        with pytest.raises((NotOwned, LabError)):
            volumes.resolve_bind_source(
                shared_lab, name, tmp_path, "/", shared_lab.image("payload"), named(shared_lab, "there")
            )
        foreign.reload()
        assert foreign.status == "running"
        assert list(tmp_path.iterdir()) == []
    finally:
        foreign.remove(force=True)


def test_two_different_directories_do_not_match(shared_lab: Lab) -> None:
    with (
        common.volume(shared_lab, "one") as first,
        common.volume(shared_lab, "other") as second,
        shared_lab.running(
            shared_lab.image("payload"), common.KEEP_RUNNING, network="none", volumes=[f"{first}:/data"]
        ) as container,
        pytest.raises(LabError),
    ):
        volumes.write_both_sides(shared_lab, container, "/data", common.directory_of(shared_lab, second))


# --- backup and restore


def test_a_backup_is_restored_unchanged(shared_lab: Lab, tmp_path: Path) -> None:
    first, second = named(shared_lab, "full"), named(shared_lab, "again")
    for name in (first, second):
        shared_lab.create_volume(name)
    file = tmp_path / "full.tar"
    created = volumes.create_test_files(shared_lab, first, random_bytes=3 << 20)
    assert created.files == 3
    backup = volumes.back_up(shared_lab, first, file)
    assert backup.matches
    assert backup.volume_contents.sha256 == created.sha256
    assert backup.file_bytes == file.stat().st_size > 3 << 20
    restored = volumes.restore(shared_lab, file, second)
    assert restored.matches
    assert restored.volume_contents.sha256 == created.sha256
    with pytest.raises(BadInput, match="already exists"):
        volumes.back_up(shared_lab, first, file)
    with pytest.raises(BadInput, match="not empty"):
        volumes.restore(shared_lab, file, second)
    # each of these changes changes the hash
    for script in (
        "chmod 644 /data/secret",
        "chown 1 /data/hello",
        "ln -sfn hello /data/latest",
        "touch /data/more",
    ):
        before = volumes.contents(shared_lab, second).sha256
        common.output(shared_lab, ["sh", "-c", script], volumes=[f"{second}:/data"])
        assert volumes.contents(shared_lab, second).sha256 != before, script


def test_a_damaged_backup_does_not_match(shared_lab: Lab, tmp_path: Path) -> None:
    first, second = named(shared_lab, "whole"), named(shared_lab, "damaged")
    for name in (first, second):
        shared_lab.create_volume(name)
    volumes.create_test_files(shared_lab, first, random_bytes=4096)
    file = tmp_path / "whole.tar"
    backup = volumes.back_up(shared_lab, first, file)
    with tarfile.open(file) as archive:
        offset = next(entry.offset_data for entry in archive if entry.name.endswith("numbers"))
    with file.open("r+b") as damaged:
        damaged.seek(offset)
        byte = damaged.read(1)
        damaged.seek(offset)
        damaged.write(bytes([byte[0] ^ 1]))
    restored = volumes.restore(shared_lab, file, second)
    assert restored.volume_contents.sha256 != backup.volume_contents.sha256


def test_a_failed_program_is_an_error_with_its_message(shared_lab: Lab) -> None:
    command = ["sh", "-c", "echo it broke; exit 3"]
    with shared_lab.running(shared_lab.image("payload"), command, network="none") as container:
        with pytest.raises(LabError, match="failed") as failed:
            common.result_of(shared_lab, container)
        assert "it broke" in str(failed.value)
    with pytest.raises(LabError, match="failed"):
        common.output(shared_lab, command)


def test_a_volume_in_use_is_not_removed_under_its_container(shared_lab: Lab) -> None:
    name = named(shared_lab, "used")
    volume = shared_lab.create_volume(name)
    container = shared_lab.run(
        shared_lab.image("payload"), "sleep 300", network="none", volumes=[f"{name}:/data"]
    )
    with pytest.raises(APIError, match="in use"):
        volume.remove()
    shared_lab.remove(container, force=True, volumes=True)
    volume.remove()
