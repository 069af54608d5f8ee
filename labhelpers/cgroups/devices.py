"""Devices: which devices a container may open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import program
from labhelpers.course.arguments import experiment
from labhelpers.engine.differences import security_option
from labhelpers.errors import LabError
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# opening one of these changes nothing on the host; their numbers are the same everywhere (kernel, devices.txt)
TEST_DEVICES = {"/dev/fuse": "10:229", "/dev/loop-control": "10:237"}
PROBE_PROGRAM = program("try_device.sh")
NO_OPTION = "(no option)"


@record
class DeviceAttempt:
    """A container that tried to create a node for a device and to open it."""

    option: str = column("option of `docker run`")
    in_dev: bool = column("whether the device is in the container's /dev")
    mknod_succeeded: bool = column("whether mknod(2) created a node for the device")
    read: bool = column("whether the node could be opened for reading")
    write: bool = column("whether the node could be opened for writing")
    error: str = column("the kernel's message for the first step that failed")


@record
class Devices(Result):
    """A device of the engine's host, and what containers may do with it."""

    path: str = column(
        "path of the device on the engine's host; if the host does not have it, only its number is used"
    )
    number: str = column("device number, `major:minor`")
    attempts: tuple[DeviceAttempt, ...] = rows("one for each container", of=DeviceAttempt)
    list_file: str | None = column(
        "`devices.list` of a container without options; none on version 2, where a BPF program decides"
    )
    refusals: tuple[str, ...] = column("options that this engine refused, each with its message")
    no_mknod: str | None = column("why no container of this engine can create device nodes", default=None)

    def of(self, option: str = NO_OPTION) -> DeviceAttempt | None:
        """The attempt with that option; None if the engine refused it."""
        return next((attempt for attempt in self.attempts if attempt.option == option), None)

    @property
    def only_granted_opened(self) -> bool:
        """Whether each container could open the device exactly as its option permits."""
        for attempt in self.attempts:
            expected = "" if attempt.option == NO_OPTION else "r" if attempt.option.endswith(":r") else "rw"
            if ("r" if attempt.read else "") + ("w" if attempt.write else "") != expected:
                return False
        return True


@experiment
def devices(lab: Lab) -> Devices:
    """Try to create and to open a device, in containers that were granted different access to it.

    Source: docs.docker.com, `docker run --device`; kernel, cgroup-v1/devices.rst; cgroup-v2.rst, device controller.
    """
    on_host = {f"/dev/{entry.path}" for entry in lab.host.directory("/dev")}
    path = next((device for device in TEST_DEVICES if device in on_host), None)
    number = TEST_DEVICES[path or "/dev/fuse"]
    rule = f"c {number} rwm"
    grants: list[tuple[str, dict[str, Any]]] = [(NO_OPTION, {})]
    if path:
        grants.append((f"--device {path}", {"devices": [path]}))
        grants.append((f"--device {path}:{path}:r", {"devices": [f"{path}:{path}:r"]}))
    grants.append((f"--device-cgroup-rule {rule!r}", {"device_cgroup_rules": [rule]}))
    attempts, refusals = [], []
    with lab.quiet(essential=["docker run --rm --network none --device"]):
        for option, options in grants:
            try:
                attempts.append(_attempt(lab, path or "/dev/fuse", number, option, options))
            except LabError as error:
                refusals.append(f"{option}: {error.engine_message or error.message}")
        with lab.running(lab.image("payload"), ["sleep", "60"], network="none") as plain:
            list_file = lab.host.cgroup_files(plain, ["devices.list"]).get("devices.list")
    remapped = lab.engine.remaps_users or security_option(lab.engine.info, "rootless") is not None
    # user_namespaces(7): mknod(2) requires CAP_MKNOD in the host's own user namespace
    reason = "this engine remaps users, and a remapped root cannot create device nodes" if remapped else None
    return Devices(
        path or "/dev/fuse",
        number,
        tuple(attempts),
        list_file.text if list_file else None,
        tuple(refusals),
        reason,
    )


def _attempt(lab: Lab, path: str, number: str, option: str, options: dict[str, Any]) -> DeviceAttempt:
    # MKNOD is one of Docker's default capabilities
    output = lab.run_once(
        lab.image("payload"),
        ["sh", "-c", PROBE_PROGRAM, "try", path, *number.split(":")],
        network="none",
        cap_drop=["ALL"],
        cap_add=["MKNOD"],
        **options,
    )
    answers = dict(line.split(" ", 1) for line in output.stdout.splitlines() if " " in line)
    # EPERM comes from the device controller; another error comes from the device's driver, which was reached
    exists = "yes" in (answers["in_dev"], answers["mknod"])
    opened = {
        mode: answers.get(mode) == "yes"
        or (exists and "not permitted" not in answers.get(mode, "not permitted"))
        for mode in ("reads", "writes")
    }
    failed = [
        answers[step] for step in ("mknod", "reads", "writes") if answers.get(step) not in ("yes", None)
    ]
    return DeviceAttempt(
        option,
        answers.get("in_dev") == "yes",
        answers.get("mknod") == "yes",
        opened["reads"],
        opened["writes"],
        failed[0].rpartition(": ")[2] if failed else "",
    )
