"""An engine that maps UIDs: the ids in its archives, and a directory that root in a container does not own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.volumes import backup, common, shared_directory

MAP = "         0     700000      65536\n"


def archive(file: Path) -> Path:
    """An archive as Docker 20.10 with userns-remap answers GET /containers/ID/archive."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as target:
        for name, owner, kind in (
            ("./", 700_000, tarfile.DIRTYPE),
            ("./hello", 700_000, tarfile.REGTYPE),
            ("./secret", 704_321, tarfile.REGTYPE),
            ("./latest", 700_000, tarfile.SYMTYPE),
            ("./" + "long/" * 40 + "name", 12, tarfile.REGTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid, entry.type = owner, owner, kind
            entry.size = 5 if kind == tarfile.REGTYPE else 0
            entry.linkname = "hello" if kind == tarfile.SYMTYPE else ""
            target.addfile(entry, io.BytesIO(b"12345") if entry.size else None)
    return file


def test_ids_of_the_host_become_ids_of_the_container(tmp_path: Path) -> None:
    file = archive(tmp_path / "volume.tar")
    before = backup._archive_contents(file)
    backup.remap_ids(file, MAP, MAP)
    with tarfile.open(file) as remapped:
        assert [(entry.uid, entry.gid) for entry in remapped] == [
            (0, 0),
            (0, 0),
            (4321, 4321),
            (0, 0),
            (12, 12),
        ]
        names = remapped.getnames()
    assert names[-1].endswith("name")
    after = backup._archive_contents(file)
    assert (after.files, after.size_bytes) == (before.files, before.size_bytes)
    assert after.sha256 != before.sha256
    assert list(tmp_path.iterdir()) == [file]


def test_an_invalid_archive_stays_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "volume.tar"
    file.write_bytes(b"not an archive" * 100)
    with pytest.raises(tarfile.TarError):
        backup.remap_ids(file, MAP, MAP)
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_to_which_root_in_the_container_cannot_write(
    shared_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with common.volume(shared_lab, "shut") as name:
        directory = common.directory_of(shared_lab, name)
        options = {"volumes": [f"{name}:/data"], "cap_drop": ["ALL"], "user": 65534}
        common.output(shared_lab, ["chmod", "755", "/data"], volumes=[f"{name}:/data"])
        with shared_lab.running(
            shared_lab.image("payload"), common.KEEP_RUNNING, network="none", **options
        ) as container:
            with pytest.raises(LabError, match="could not write"):
                shared_directory.write_both_sides(shared_lab, container, "/data", directory)
            monkeypatch.setitem(shared_lab.engine.info, "SecurityOptions", ["name=userns"])
            shared = shared_directory.write_both_sides(shared_lab, container, "/data", directory)
    assert shared.refused is not None
    assert not shared.matches
