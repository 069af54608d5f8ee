"""A volume as one file on the notebook's machine, and back; compared by hash on the way."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.errors import BadInput
from labhelpers.results import Result, column, record
from labhelpers.volumes import common

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

# no more than these rights: to read what belongs to others, and nothing else
READ_ONLY_PRIVILEGES: dict[str, Any] = {"cap_drop": ["ALL"], "cap_add": ["DAC_READ_SEARCH"]}


@record
class Contents(Result):
    """What a volume or a file of a back-up holds."""

    of: str = column("of what")
    files: int = column("how many files")
    bytes: int = column("their lengths, summed")
    sha256: str = column(
        "over path, kind, mode, owner, group, length and the contents' own SHA-256 of every entry, in order"
    )


@record
class Backup(Result):
    """A volume written to a file of the notebook's machine."""

    volume: str = column("its name")
    file: str = column("the name of the file, a tar archive")
    file_bytes: int = column("its size")
    volume_contents: Contents = column("what the volume held, read in a container", shown=False)
    file_contents: Contents = column("what the file holds, read on this machine", shown=False)
    took_ms: float = column("for the copy alone")

    @property
    def agrees(self) -> bool:
        """Whether the file holds what the volume held."""
        return self.volume_contents.sha256 == self.file_contents.sha256


@record
class Restored(Result):
    """A volume filled from a file."""

    volume: str = column("its name")
    file_contents: Contents = column("what the file holds", shown=False)
    volume_contents: Contents = column("what the volume holds now, read in a container", shown=False)
    took_ms: float = column("for the copy alone")

    @property
    def agrees(self) -> bool:
        """Whether the volume holds what the file holds."""
        return self.volume_contents.sha256 == self.file_contents.sha256


def create_test_files(lab: Lab, volume: str, random_bytes: int = 1 << 20) -> Contents:
    """Put some files into a volume of this session: a text, random bytes, a link, a secret with another owner.

    Raises:
        NameTaken: this session did not make it.
    """
    common.owned_volume(lab, volume)
    command = ["python3", "-c", common.program("fill.py"), "/data", str(random_bytes)]
    with lab.quiet():
        common.output(lab, command, image="tools", volumes=[f"{volume}:/data"])
        return contents(lab, volume)


def contents(lab: Lab, volume: str) -> Contents:
    """What a volume holds, read by a container that has it read-only.

    Raises:
        EngineRefused: there is no such volume.
    """
    lab.inspect_volume(volume)  # with -v the engine would make one
    command = ["python3", "-c", common.program("list_files.py"), "/data"]
    with lab.quiet():
        rows = common.output(
            lab, command, image="tools", volumes=[f"{volume}:/data:ro"], **READ_ONLY_PRIVILEGES
        )
    return _summed(f"volume {volume}", json.loads(rows))


def back_up(lab: Lab, volume: str, file: Path) -> Backup:
    """Write a volume to a file of this machine, as a tar archive, piece by piece; then compare what both hold.

    The engine makes the archive (Engine API, GET /containers/{id}/archive), so it works on an engine elsewhere. What is
    written into the volume meanwhile may be torn: stop its writers first.

    Raises:
        BadInput: the file is there already.
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
            f"the file {file.name} is there already", hint="remove it, or give another name"
        ) from None
    with target, _holder(lab, f"{volume}:/data:ro") as holder:
        begin = time.perf_counter()
        pieces, _ = holder.get_archive("/data/.")
        for piece in pieces:
            target.write(piece)
        took = time.perf_counter() - begin
        maps = _id_maps(lab, holder) if lab.engine.remaps_users else None
    if maps is not None:
        remap_ids(file, *maps)
    return Backup(volume, file.name, file.stat().st_size, before, _of_archive(file), 1000 * took)


def _holder(lab: Lab, volume: str) -> AbstractContextManager[Container]:
    """A container that has the volume at /data: archives are of a container's files."""
    image = lab.image("payload")
    return lab.running(image, common.KEEP_RUNNING, network="none", volumes=[volume], cap_drop=["ALL"])


def _id_maps(lab: Lab, container: Container) -> tuple[str, str]:
    """The uid_map and the gid_map of a running container."""
    first = lab.host.process(container).pid
    return lab.host.read(f"/proc/{first}/uid_map"), lab.host.read(f"/proc/{first}/gid_map")


def remap_ids(file: Path, uid_map: str, gid_map: str) -> None:
    """Rewrite a tar archive with the owners and groups that containers count, in place of the host's.

    An engine with `userns-remap` puts the host's numbers into the archives that it makes, and takes the container's
    (seen on Docker 20.10). A number that is outside of the maps stays as it is.

    Args:
        uid_map, gid_map: user_namespaces(7), /proc/PID/uid_map.
    """
    new = file.with_name(file.name + ".part")
    try:
        with tarfile.open(file, "r:") as old, tarfile.open(new, "x:", format=tarfile.PAX_FORMAT) as target:
            for one in old:
                one.uid, one.gid = container_id(uid_map, one.uid), container_id(gid_map, one.gid)
                one.pax_headers = {
                    key: value for key, value in one.pax_headers.items() if key not in ("uid", "gid")
                }
                target.addfile(one, old.extractfile(one) if one.isreg() else None)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def container_id(id_map: str, number: int) -> int:
    """What a container calls a number of the host; the number itself where it is outside of the map."""
    for line in id_map.splitlines():
        first, outside, count = map(int, line.split())
        if outside <= number < outside + count:
            return first + number - outside
    return number


def restore(lab: Lab, file: Path, volume: str) -> Restored:
    """Fill an empty volume of this session from a file that `back_up` wrote, piece by piece; then compare.

    Source: Engine API, PUT /containers/{id}/archive.

    Raises:
        BadInput: the volume holds files: they would be mixed.
        NameTaken: this session did not make the volume.
    """
    with lab.quiet(essential=["docker run -d --network none -v"]):
        if contents(lab, common.owned_volume(lab, volume)).files:
            raise BadInput(f"the volume {volume!r} holds files already", hint="restore into a new volume")
        with file.open("rb") as archive, _holder(lab, f"{volume}:/data") as holder:
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
            held = one.linkname if kind == "link" else ""
            if kind == "file" and (data := archive.extractfile(one)):
                held = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
            mode = 0 if kind == "link" else one.mode & 0o7777
            path = one.name.removeprefix("./") or "."
            rows.append([path, kind, mode, one.uid, one.gid, one.size if kind == "file" else 0, held])
    return _summed(f"file {file.name}", sorted(rows))


def _summed(of: str, rows: list[list[Any]]) -> Contents:
    files = [row for row in rows if row[1] == "file"]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return Contents(of, len(files), sum(row[5] for row in files), digest)
