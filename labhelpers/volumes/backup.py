"""Back up a volume to a file on the notebook's machine, restore it, and compare both by hash."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput
from labhelpers.results import Result, column, derived, record
from labhelpers.volumes import common

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

# only what is needed to read files of other owners
READ_ONLY_PRIVILEGES: dict[str, Any] = {"cap_drop": ["ALL"], "cap_add": ["DAC_READ_SEARCH"]}


@record
class Contents(Result):
    """Contents of a volume or of a backup file."""

    subject: str = column("the volume or the file")
    files: int = column("number of files")
    size_bytes: int = column("total size of the files")
    sha256: str = column(
        "hash over path, kind, mode, owner, group, size and content of every entry, in order of the paths"
    )


@record
class Backup(Result):
    """Backup of a volume to a file on the notebook's machine."""

    volume: str = column("name of the volume")
    file: str = column("name of the file, a tar archive")
    file_bytes: int = column("size of the file")
    volume_contents: Contents = column("contents of the volume, read in a container", shown=False)
    file_contents: Contents = column("contents of the file, read on this machine", shown=False)
    duration_ms: float = column("duration of the copy, without the comparison")

    @derived
    def matches(self) -> bool:
        """Whether the file has the same contents as the volume."""
        return self.volume_contents.sha256 == self.file_contents.sha256


@record
class Restored(Result):
    """Volume restored from a backup file."""

    volume: str = column("name of the volume")
    file_contents: Contents = column("contents of the file", shown=False)
    volume_contents: Contents = column("contents of the volume afterwards, read in a container", shown=False)
    duration_ms: float = column("duration of the copy, without the comparison")

    @derived
    def matches(self) -> bool:
        """Whether the volume has the same contents as the file."""
        return self.volume_contents.sha256 == self.file_contents.sha256


@experiment
def create_test_files(lab: Lab, volume: str, random_bytes: int = 1 << 20) -> Contents:
    """Write files into a volume of this session: text, random bytes, a symbolic link, a secret of another owner.

    Raises:
        NameTaken: the volume was not created by this session.
    """
    common.owned_volume(lab, volume)
    command = ["python3", "-c", common.program("fill.py"), "/data", str(random_bytes)]
    with lab.quiet():
        common.output(lab, command, image="tools", volumes=[f"{volume}:/data"])
        return contents(lab, volume)


@experiment
def contents(lab: Lab, volume: str) -> Contents:
    """List a volume in a container that mounts it read-only.

    Raises:
        EngineRefused: there is no such volume.
    """
    lab.inspect_volume(volume)  # -v would create a missing volume
    command = ["python3", "-c", common.program("list_files.py"), "/data"]
    with lab.quiet():
        listing = common.output(
            lab, command, image="tools", volumes=[f"{volume}:/data:ro"], **READ_ONLY_PRIVILEGES
        )
    return _summarize(f"volume {volume}", json.loads(listing))


@experiment
def back_up(lab: Lab, volume: str, file: Path) -> Backup:
    """Stream a volume to a tar archive on this machine, then compare the contents of both.

    The engine creates the archive (Engine API, GET /containers/{id}/archive), so this works with a remote engine, too.
    Stop all writers first: a file that is written during the copy may be inconsistent.

    Raises:
        BadInput: the file already exists.
        EngineRefused: there is no such volume.
    """
    with lab.quiet(essential=["docker run -d --network none -v"]):
        return _back_up(lab, volume, file)


def _back_up(lab: Lab, volume: str, file: Path) -> Backup:
    before = contents(lab, volume)
    try:
        target = file.open("xb")
    except FileExistsError:
        raise BadInput(
            f"the file {file.name} already exists", hint="remove it, or choose another name"
        ) from None
    with target, _mounted(lab, f"{volume}:/data:ro") as container:
        begin = time.perf_counter()
        chunks, _ = container.get_archive("/data/.")
        for chunk in chunks:
            target.write(chunk)
        duration_s = time.perf_counter() - begin
        maps = _id_maps(lab, container) if lab.engine.remaps_users else None
    if maps is not None:
        remap_ids(file, *maps)
    return Backup(volume, file.name, file.stat().st_size, before, _archive_contents(file), 1000 * duration_s)


def _mounted(lab: Lab, volume: str) -> AbstractContextManager[Container]:
    """A container with the volume at /data: the archive requests work on the files of a container."""
    image = lab.image("payload")
    return lab.running(image, common.KEEP_RUNNING, network="none", volumes=[volume], cap_drop=["ALL"])


def _id_maps(lab: Lab, container: Container) -> tuple[str, str]:
    """The uid_map and the gid_map of a running container."""
    pid = lab.host.process(container).pid
    return lab.host.read(f"/proc/{pid}/uid_map"), lab.host.read(f"/proc/{pid}/gid_map")


def remap_ids(file: Path, uid_map: str, gid_map: str) -> None:
    """Rewrite a tar archive with UIDs and GIDs of the container's user namespace in place of the host's.

    An engine with `userns-remap` writes the host's ids into the archives that it creates, but expects the container's
    ids in those that it extracts (observed with Docker 20.10). An id that is not in the map stays unchanged.

    Args:
        uid_map, gid_map: the text of /proc/PID/uid_map and gid_map (user_namespaces(7)).
    """
    new = file.with_name(file.name + ".part")
    try:
        with tarfile.open(file, "r:") as old, tarfile.open(new, "x:", format=tarfile.PAX_FORMAT) as target:
            for entry in old:
                entry.uid, entry.gid = container_id(uid_map, entry.uid), container_id(gid_map, entry.gid)
                entry.pax_headers = {
                    key: value for key, value in entry.pax_headers.items() if key not in ("uid", "gid")
                }
                target.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def container_id(id_map: str, host_id: int) -> int:
    """The container's id for an id of the host; the host's id if it is not in the map."""
    for line in id_map.splitlines():
        container_first, host_first, count = map(int, line.split())
        if host_first <= host_id < host_first + count:
            return container_first + host_id - host_first
    return host_id


@experiment
def restore(lab: Lab, file: Path, volume: str) -> Restored:
    """Stream a file that `back_up` wrote into an empty volume of this session, then compare the contents of both.

    Source: Engine API, PUT /containers/{id}/archive.

    Raises:
        BadInput: the volume is not empty: its files would be mixed with those of the backup.
        NameTaken: the volume was not created by this session.
    """
    with lab.quiet(essential=["docker run -d --network none -v"]):
        if contents(lab, common.owned_volume(lab, volume)).files:
            raise BadInput(f"the volume {volume!r} is not empty", hint="restore into a new volume")
        with file.open("rb") as archive, _mounted(lab, f"{volume}:/data") as container:
            begin = time.perf_counter()
            container.put_archive("/data", archive)
            duration_s = time.perf_counter() - begin
        return Restored(volume, _archive_contents(file), contents(lab, volume), 1000 * duration_s)


def _archive_contents(file: Path) -> Contents:
    kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link"}
    rows = []
    with tarfile.open(file) as archive:
        for entry in archive:
            kind = kinds.get(entry.type, "other")
            content = entry.linkname if kind == "link" else ""
            if kind == "file" and (data := archive.extractfile(entry)):
                content = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
            mode = 0 if kind == "link" else entry.mode & 0o7777
            size = entry.size if kind == "file" else 0
            path = entry.name.removeprefix("./") or "."
            rows.append([path, kind, mode, entry.uid, entry.gid, size, content])
    return _summarize(f"file {file.name}", sorted(rows))


def _summarize(subject: str, rows: list[list[Any]]) -> Contents:
    files = [row for row in rows if row[1] == "file"]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return Contents(subject, len(files), sum(row[5] for row in files), digest)
