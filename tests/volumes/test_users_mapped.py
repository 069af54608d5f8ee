"""An engine that maps users: numbers of its archives, and a directory that its root does not own."""

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
    """As Docker 20.10 with userns-remap answers GET /containers/ID/archive."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as target:
        for name, owner, kind in (
            ("./", 700_000, tarfile.DIRTYPE),
            ("./hello", 700_000, tarfile.REGTYPE),
            ("./secret", 704_321, tarfile.REGTYPE),
            ("./latest", 700_000, tarfile.SYMTYPE),
            ("./" + "long/" * 40 + "name", 12, tarfile.REGTYPE),
        ):
            one = tarfile.TarInfo(name)
            one.uid, one.gid, one.type = owner, owner, kind
            one.size = 5 if kind == tarfile.REGTYPE else 0
            one.linkname = "hello" if kind == tarfile.SYMTYPE else ""
            target.addfile(one, io.BytesIO(b"12345") if one.size else None)
    return file


def test_the_hosts_numbers_become_the_containers(tmp_path: Path) -> None:
    file = archive(tmp_path / "volume.tar")
    before = backup._archive_contents(file)
    backup.remap_ids(file, MAP, MAP)
    with tarfile.open(file) as found:
        assert [(one.uid, one.gid) for one in found] == [(0, 0), (0, 0), (4321, 4321), (0, 0), (12, 12)]
        names = found.getnames()
    assert names[-1].endswith("name")
    after = backup._archive_contents(file)
    assert (after.files, after.size_bytes) == (before.files, before.size_bytes)
    assert after.sha256 != before.sha256
    assert list(tmp_path.iterdir()) == [file]


def test_an_archive_cut_short_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "volume.tar"
    file.write_bytes(b"no tar at all" * 100)
    with pytest.raises(tarfile.TarError):
        backup.remap_ids(file, MAP, MAP)
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_that_root_inside_may_not_write(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
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
            both = shared_directory.write_both_sides(shared_lab, container, "/data", directory)
    assert both.refused is not None
    assert not both.matches
