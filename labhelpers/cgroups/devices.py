"""Devices: which ones a container may open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import program
from labhelpers.engine.differences import security_option
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

# opening one of these changes nothing on the host; their numbers are the same everywhere (kernel, devices.txt)
TEST_DEVICES = {"/dev/fuse": "10:229", "/dev/loop-control": "10:237"}
PROBE_PROGRAM = program("try_device.sh")


@record
class DeviceAttempt:
    """What a container could do with a device."""

    given: str = column("the option that it was started with; an empty string for none")
    there: bool = column("whether the device is in its /dev")
    made: bool = column("whether mknod(2) made a node for it")
    read: bool = column("whether the node could be opened so")
    write: bool = column("whether the node could be opened so")
    words: str = column("the kernel's words for the first of these that failed, or an empty string")


@record
class Devices(Result):
    """One device of the engine's host, and what containers may do with it."""

    path: str = column("on the engine's host. Where that has no such device, its number alone is tried")
    number: str = column("`major:minor`")
    attempts: tuple[DeviceAttempt, ...] = rows("one a container", of=DeviceAttempt)
    list_file: str | None = column(
        "the rules of a container that got nothing, as the kernel lists them (version 1), or None: on "
        "version 2 they are a program (BPF) in the kernel, and no file"
    )
    refused: tuple[str, ...] = column("what this engine did not grant, in its words")
    no_mknod: str | None = column(
        "why no container here makes device files; None where the capability MKNOD is enough", default=None
    )

    def of(self, given: str) -> DeviceAttempt | None:
        """The attempt with that option; None where the engine refused it."""
        return next((one for one in self.attempts if one.given == given), None)

    @property
    def opened_only_what_was_given(self) -> bool:
        """Whether nothing was opened without a right, and all that was given a right could be."""
        allowed = {"": "", "read": "r", "all": "rw"}
        for one in self.attempts:
            kind = "" if not one.given else "read" if one.given.endswith(":r") else "all"
            opened = ("r" if one.read else "") + ("w" if one.write else "")
            if opened != allowed[kind]:
                return False
        return True

    def frame(self) -> pd.DataFrame:
        """One row a container: given, there, made, read, write, words."""
        rows = [
            (one.given or "nothing", one.there, one.made, one.read, one.write, one.words)
            for one in self.attempts
        ]
        return table(rows, ["given", "there", "made", "read", "write", "words"])


def devices(lab: Lab) -> Devices:
    """Try to make and to open one device, in containers that were given different rights to it.

    Source: docs.docker.com, `docker run --device`; kernel, cgroup-v1/devices.rst; cgroup-v2.rst, device controller.
    """
    there = {f"/dev/{one.path}" for one in lab.host.directory("/dev")}
    path = next((one for one in TEST_DEVICES if one in there), None)
    number = TEST_DEVICES[path or "/dev/fuse"]
    rule = f"c {number} rwm"
    rights: list[tuple[str, dict[str, Any]]] = [("", {})]
    if path:
        rights.append((f"--device {path}", {"devices": [path]}))
        rights.append((f"--device {path}:{path}:r", {"devices": [f"{path}:{path}:r"]}))
    rights.append((f"--device-cgroup-rule {rule!r}", {"device_cgroup_rules": [rule]}))
    attempts, refused = [], []
    with lab.quiet(essential=["docker run --rm --network none --device"]):
        for given, options in rights:
            try:
                attempts.append(_attempt(lab, path or "/dev/fuse", number, given, options))
            except LabError as error:
                refused.append(f"{given}: {error.engine_message or error.message}")
        with lab.running(lab.image("payload"), ["sleep", "60"], network="none") as plain:
            found = lab.host.cgroup_files(plain, ["devices.list"]).get("devices.list")
    mapped = lab.engine.remaps_users or security_option(lab.engine.info, "rootless") is not None
    # user_namespaces(7): mknod(2) takes CAP_MKNOD in the host's own user namespace
    why = "this engine maps users, and the kernel makes no device files for a mapped root" if mapped else None
    return Devices(
        path or "/dev/fuse", number, tuple(attempts), found.text if found else None, tuple(refused), why
    )


def _attempt(lab: Lab, path: str, number: str, given: str, options: dict[str, Any]) -> DeviceAttempt:
    # MKNOD is one of the capabilities that Docker gives by default
    tried = lab.run_once(
        lab.image("payload"),
        ["sh", "-c", PROBE_PROGRAM, "try", path, *number.split(":")],
        network="none",
        cap_drop=["ALL"],
        cap_add=["MKNOD"],
        **options,
    )
    answers = dict(line.split(" ", 1) for line in tried.stdout.splitlines() if " " in line)
    # EPERM is the controller's no; another error comes from the device's own driver, which was reached
    exists = "yes" in (answers["there"], answers["mknod"])
    opened = {
        way: answers.get(way) == "yes"
        or (exists and "not permitted" not in answers.get(way, "not permitted"))
        for way in ("reads", "writes")
    }
    failed = [answers[way] for way in ("mknod", "reads", "writes") if answers.get(way) not in ("yes", None)]
    words = failed[0].rpartition(": ")[2] if failed else ""
    return DeviceAttempt(
        given,
        answers.get("there") == "yes",
        answers.get("mknod") == "yes",
        opened["reads"],
        opened["writes"],
        words,
    )
