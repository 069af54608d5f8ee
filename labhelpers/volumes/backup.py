"""A volume as one file on the notebook's machine, and back; compared by hash on the way."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.errors import BadInput
from labhelpers.results import Result
from labhelpers.volumes import stage

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# what a directory holds, in the same words as `_of_archive` below says it of an archive
LOOK = """
import hashlib, json, os, stat, sys
top, rows = sys.argv[1], []
kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
for here, folders, files in os.walk(top):
    for name in [""] * (here == top) + folders + files:
        path = os.path.join(here, name).rstrip("/")
        it = os.lstat(path)
        kind = kinds.get(stat.S_IFMT(it.st_mode), "other")
        told, size = "", 0
        if kind == "file":
            with open(path, "rb") as file:
                told, size = hashlib.file_digest(file, "sha256").hexdigest(), it.st_size
        elif kind == "link":
            told = os.readlink(path)
        mode = 0 if kind == "link" else stat.S_IMODE(it.st_mode)
        rows.append([os.path.relpath(path, top), kind, mode, it.st_uid, it.st_gid, size, told])
print(json.dumps(sorted(rows)))
"""
# a text, a secret of another owner, a link, a file of random bytes, and a directory in a directory
PUT = """
import os, sys
top = sys.argv[1]
os.makedirs(f"{top}/reports/2026", exist_ok=True)
with open(f"{top}/hello", "w") as file:
    file.write("hello from the container\\n")
with open(f"{top}/reports/2026/numbers", "wb") as file:
    file.write(os.urandom(int(sys.argv[2])))
with open(f"{top}/secret", "w") as file:
    file.write(os.urandom(8).hex())
os.chmod(f"{top}/secret", 0o600)
os.chown(f"{top}/secret", 4321, 4321)
if not os.path.islink(f"{top}/latest"):
    os.symlink("reports/2026/numbers", f"{top}/latest")
"""
# no more than these rights: to read what belongs to others, and nothing else
READER: dict[str, Any] = {"cap_drop": ["ALL"], "cap_add": ["DAC_READ_SEARCH"]}


@dataclass(frozen=True, slots=True)
class Contents(Result):
    """What a volume or a file of a back-up holds.

    Attributes:
        of: of what.
        files: how many files.
        bytes: their lengths, summed.
        sha256: over path, kind, mode, owner, group, length and the contents' own SHA-256 of every entry, in order.
    """

    of: str
    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BackUp(Result):
    """A volume written to a file of the notebook's machine.

    Attributes:
        volume: its name.
        file: the name of the file, a tar archive.
        file_bytes: its size.
        volume_contents: what the volume held, read in a container.
        file_contents: what the file holds, read on this machine.
        took_ms: for the copy alone.
    """

    volume: str
    file: str
    file_bytes: int
    volume_contents: Contents
    file_contents: Contents
    took_ms: float

    @property
    def agrees(self) -> bool:
        """Whether the file holds what the volume held."""
        return self.volume_contents.sha256 == self.file_contents.sha256


@dataclass(frozen=True, slots=True)
class Restored(Result):
    """A volume filled from a file.

    Attributes:
        volume: its name.
        file_contents: what the file holds.
        volume_contents: what the volume holds now, read in a container.
        took_ms: for the copy alone.
    """

    volume: str
    file_contents: Contents
    volume_contents: Contents
    took_ms: float

    @property
    def agrees(self) -> bool:
        """Whether the volume holds what the file holds."""
        return self.volume_contents.sha256 == self.file_contents.sha256


def put_files(lab: Lab, volume: str, random_bytes: int = 1 << 20) -> Contents:
    """Put some files into a volume of this session: a text, random bytes, a link, a secret with another owner.

    Raises:
        NameTaken: this session did not make it.
    """
    stage.ours(lab, volume)
    command = ["python3", "-c", PUT, "/data", str(random_bytes)]
    stage.output(lab, command, image="tools", volumes=[f"{volume}:/data"])
    return contents(lab, volume)


def contents(lab: Lab, volume: str) -> Contents:
    """What a volume holds, read by a container that has it read-only.

    Raises:
        LabError: there is no such volume.
    """
    stage.directory_of(lab, volume)  # with -v the engine would make one
    command = ["python3", "-c", LOOK, "/data"]
    said = stage.output(lab, command, image="tools", volumes=[f"{volume}:/data:ro"], **READER)
    return _summed(f"volume {volume}", json.loads(said))


def back_up(lab: Lab, volume: str, file: Path) -> BackUp:
    """Write a volume to a file of this machine, as a tar archive, piece by piece; then compare what both hold.

    The engine makes the archive (Engine API, GET /containers/{id}/archive), so it works on an engine elsewhere. What is
    written into the volume meanwhile may be torn: stop who writes first.

    Raises:
        BadInput: the file is there already.
        LabError: there is no such volume.
    """
    before = contents(lab, volume)
    try:
        target = file.open("xb")
    except FileExistsError:
        raise BadInput(
            f"the file {file.name} is there already", hint="remove it, or give another name"
        ) from None
    with target, stage.running(lab, volumes=[f"{volume}:/data:ro"], cap_drop=["ALL"]) as holder:
        begin = time.perf_counter()
        pieces, _ = holder.get_archive("/data/.")
        for piece in pieces:
            target.write(piece)
        took = time.perf_counter() - begin
    return BackUp(volume, file.name, file.stat().st_size, before, _of_archive(file), 1000 * took)


def restore(lab: Lab, file: Path, volume: str) -> Restored:
    """Fill an empty volume of this session from a file that `back_up` wrote, piece by piece; then compare.

    Source: Engine API, PUT /containers/{id}/archive.

    Raises:
        BadInput: the volume holds files: they would be mixed.
        NameTaken: this session did not make the volume.
    """
    if contents(lab, stage.ours(lab, volume)).files:
        raise BadInput(f"the volume {volume!r} holds files already", hint="restore into a new volume")
    with (
        file.open("rb") as archive,
        stage.running(lab, volumes=[f"{volume}:/data"], cap_drop=["ALL"]) as holder,
    ):
        begin = time.perf_counter()
        holder.put_archive("/data", archive)
        took = time.perf_counter() - begin
    return Restored(volume, _of_archive(file), contents(lab, volume), 1000 * took)


def _of_archive(file: Path) -> Contents:
    kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link"}
    rows = []
    with tarfile.open(file) as archive:
        for one in archive:
            kind = kinds.get(one.type, "other")
            told = one.linkname if kind == "link" else ""
            if kind == "file" and (data := archive.extractfile(one)):
                told = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
            mode = 0 if kind == "link" else one.mode & 0o7777
            path = one.name.removeprefix("./") or "."
            rows.append([path, kind, mode, one.uid, one.gid, one.size if kind == "file" else 0, told])
    return _summed(f"file {file.name}", sorted(rows))


def _summed(of: str, rows: list[list[Any]]) -> Contents:
    files = [row for row in rows if row[1] == "file"]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return Contents(of, len(files), sum(row[5] for row in files), digest)
