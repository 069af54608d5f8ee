"""Whose the files in a volume are: numbers, the same inside and outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.engine.host.text import integer
from labhelpers.results import Result, column, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.engine.host import Entry
    from labhelpers.lab import Lab

OTHER_UID = 4321
"""A user id that no image of the lab has a name for."""


@record
class OwnershipAttempt:
    """One user who writes into one directory."""

    directory: str = column("what it is, in words")
    owner: int = column("of the directory, as the engine's host sees it")
    mode: int = column("of the directory, as the engine's host sees it")
    user: int = column("who wrote, as the container counts")
    wrote: bool = column("whether it worked")
    words: str = column("what the kernel said where it did not")
    owner_outside: int | None = column(
        "of the new file, as the engine's host counts; None where there is none"
    )
    expected_outside: int = column(
        "the number that the user namespace gives to `user` outside; the same number where the engine "
        "maps nobody"
    )


@record
class Ownership(Result):
    """Who may write where, and whose it is afterwards."""

    attempts: tuple[OwnershipAttempt, ...] = rows("in the order in which they were made", of=OwnershipAttempt)
    is_mapped: bool = column(
        "whether the engine gives its containers other numbers outside (userns-remap, rootless)"
    )

    @property
    def numbers_agree(self) -> bool:
        """Whether every new file belongs outside to the number that the kernel's map gives."""
        return all(one.owner_outside in (None, one.expected_outside) for one in self.attempts)

    def of(self, directory: str, user: int) -> OwnershipAttempt:
        """What that user met there."""
        return next(one for one in self.attempts if (one.directory, one.user) == (directory, user))

    def frame(self) -> pd.DataFrame:
        """One row an attempt."""
        rows = [
            (
                one.directory,
                f"{one.owner} {one.mode:04o}",
                one.user,
                one.wrote,
                one.words,
                "" if one.owner_outside is None else str(one.owner_outside),
            )
            for one in self.attempts
        ]
        heads = ["directory", "owner and mode", "user", "wrote", "the kernel's words", "owner outside"]
        return table(rows, heads)


def file_ownership(lab: Lab, user: int = OTHER_UID) -> Ownership:
    """Write as root and as `user` into a fresh volume, one given to `user`, and one filled from a directory for all.

    Source: path_resolution(7), permissions are checked against numbers; user_namespaces(7), uid_map.
    """
    with (
        lab.quiet(essential=[f"docker exec --user {user}:{user}"]),
        common.volume(lab, "fresh") as fresh,
        common.volume(lab, "given") as given,
        common.volume(lab, "all") as everybody,
    ):
        # /tmp of the image is for everybody (mode 1777): a fresh volume takes that over with the files
        mounted = {f"{fresh}": "/fresh", f"{given}": "/given", f"{everybody}": "/tmp"}
        volumes = [f"{name}:{point}" for name, point in mounted.items()]
        with lab.running(
            lab.image("base"), common.KEEP_RUNNING, network="none", volumes=volumes
        ) as container:
            lab.exec(container, ["chown", str(user), "/given"])
            first = lab.host.process(container).pid
            numbers = lab.host.read(f"/proc/{first}/uid_map")
            attempts = []
            for words, name, who in (
                ("a fresh volume", fresh, 0),
                ("a fresh volume", fresh, user),
                ("a volume after chown", given, user),
                ("a volume filled from /tmp", everybody, user),
            ):
                directory = common.directory_of(lab, name)
                # a name of its own for each writer
                file = f"by-{who}"
                done = lab.exec(container, ["touch", f"{mounted[name]}/{file}"], user=f"{who}:{who}")
                made = lab.host.entries(directory, [file])[file]
                top = _itself(lab, directory)
                attempts.append(
                    OwnershipAttempt(
                        words,
                        top.user,
                        top.mode,
                        who,
                        done.exit_code == 0,
                        done.stderr.strip().rpartition(": ")[2],
                        None if made is None else made.user,
                        host_id(numbers, who),
                    )
                )
    return Ownership(tuple(attempts), host_id(numbers, 0) != 0)


def _itself(lab: Lab, directory: str) -> Entry:
    """The directory's own entry."""
    above, _, name = directory.rpartition("/")
    found = lab.host.entries(above, [name])[name]
    assert found is not None
    return found


def host_id(uid_map: str, user: int) -> int:
    """The number outside of a user id inside, by the lines of a uid_map: first inside, first outside, how many."""
    for line in uid_map.splitlines():
        numbers = [integer(word) for word in line.split()]
        if len(numbers) != 3 or None in numbers:
            continue
        first, there, count = (number or 0 for number in numbers)
        if first <= user < first + count:
            return there + user - first
    return -1
