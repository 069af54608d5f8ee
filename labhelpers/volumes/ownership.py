"""Owners of the files in a volume: UIDs, in the container and on the engine's host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.host.text import integer
from labhelpers.results import Result, column, derived, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from labhelpers.engine.host import Entry
    from labhelpers.lab import Lab

OTHER_UID = 4321
"""A UID without a user name in all lab images."""


@record
class OwnershipAttempt:
    """A user's attempt to create a file in a directory."""

    directory: str = column("the directory")
    owner_uid: int = column("owner of the directory, as a UID of the engine's host")
    mode: int = column("mode of the directory", shown=False)
    writer_uid: int = column("user that creates the file, as a UID of the container")
    succeeded: bool = column("whether the file was created")
    error: str = column("the kernel's error message")
    file_host_uid: int | None = column("owner of the new file, as a UID of the engine's host")
    expected_host_uid: int = column("UID of the engine's host to which the user namespace maps the writer")

    @derived
    def directory_mode(self) -> str:
        """Mode of the directory, in octal."""
        return f"{self.mode:04o}"


@record
class Ownership(Result):
    """Permission to write to a volume, and the owner of the new file."""

    attempts: tuple[OwnershipAttempt, ...] = rows("in the order of the attempts", of=OwnershipAttempt)
    is_remapped: bool = column("whether the engine maps the UIDs of containers (userns-remap, rootless)")

    @property
    def ids_match(self) -> bool:
        """Whether every new file belongs to the UID of the host to which the user namespace maps its writer."""
        return all(each.file_host_uid in (None, each.expected_host_uid) for each in self.attempts)

    def of(self, directory: str, writer_uid: int) -> OwnershipAttempt:
        """The attempt of one user in one directory."""
        wanted = (directory, writer_uid)
        return next(each for each in self.attempts if (each.directory, each.writer_uid) == wanted)


@experiment
def file_ownership(lab: Lab, user: int = OTHER_UID) -> Ownership:
    """Write as root and as `user` to a new volume, one owned by `user`, and one populated from a public directory.

    Source: path_resolution(7), permissions are checked against ids; user_namespaces(7), uid_map.
    """
    with (
        lab.quiet(essential=[f"docker exec --user {user}:{user}"]),
        common.volume(lab, "fresh") as fresh,
        common.volume(lab, "given") as owned,
        common.volume(lab, "all") as public,
    ):
        # /tmp of the image has mode 1777, which a new volume gets when it is populated
        mounted = {fresh: "/fresh", owned: "/given", public: "/tmp"}
        volumes = [f"{name}:{point}" for name, point in mounted.items()]
        with lab.running(
            lab.image("base"), common.KEEP_RUNNING, network="none", volumes=volumes
        ) as container:
            lab.exec(container, ["chown", str(user), "/given"])
            pid = lab.host.process(container).pid
            uid_map = lab.host.read(f"/proc/{pid}/uid_map")
            attempts = []
            for label, name, writer in (
                ("a fresh volume", fresh, 0),
                ("a fresh volume", fresh, user),
                ("a volume after chown", owned, user),
                ("a volume filled from /tmp", public, user),
            ):
                directory = common.directory_of(lab, name)
                # a different file for each writer
                file = f"by-{writer}"
                result = lab.exec(container, ["touch", f"{mounted[name]}/{file}"], user=f"{writer}:{writer}")
                created = lab.host.entries(directory, [file])[file]
                parent = _entry_of(lab, directory)
                attempts.append(
                    OwnershipAttempt(
                        label,
                        parent.user,
                        parent.mode,
                        writer,
                        result.exit_code == 0,
                        result.stderr.strip().rpartition(": ")[2],
                        None if created is None else created.user,
                        host_id(uid_map, writer),
                    )
                )
    return Ownership(tuple(attempts), host_id(uid_map, 0) != 0)


def _entry_of(lab: Lab, directory: str) -> Entry:
    """The entry of a directory itself, in its parent."""
    parent, _, name = directory.rpartition("/")
    entry = lab.host.entries(parent, [name])[name]
    assert entry is not None, "the volume exists"
    return entry


def host_id(uid_map: str, container_id: int) -> int:
    """The host's id for an id of a container, from a uid_map or gid_map; -1 if it is not in the map."""
    for line in uid_map.splitlines():
        numbers = [integer(word) for word in line.split()]
        if len(numbers) != 3 or None in numbers:
            continue
        container_first, host_first, count = (number or 0 for number in numbers)
        if container_first <= container_id < container_first + count:
            return host_first + container_id - container_first
    return -1
