"""One directory with two paths: in a container and on the engine's host."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.course.arguments import experiment
from labhelpers.engine.arguments import name_of
from labhelpers.engine.differences import security_option
from labhelpers.errors import ContainerError
from labhelpers.results import Result, column, derived, record, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

ROUNDS = 300


@record
class SharedWrites(Result):
    """A file written in the container and a file written on the host, each read on the other side."""

    written_in_container: str = column("text that was written in the container")
    read_on_host: str = column("text that was read from this file on the engine's host")
    written_on_host: str = column("text that was written on the engine's host")
    read_in_container: str = column("text that was read from this file in the container")
    refused: str | None = column(
        "why this engine denies root in a container write access to the directory", default=None
    )

    @derived
    def matches(self) -> bool:
        """Whether both sides read what the other side wrote."""
        return (self.written_in_container, self.written_on_host) == (
            self.read_on_host,
            self.read_in_container,
        )


@record
class PropagationDelays(Result):
    """Delay between a write on one side and the read on the other, from before write(2) until after read(2)."""

    to_host_us: tuple[float, ...] = column(
        "delay from the container to the host's directory, for each round", shown=False
    )
    to_container_us: tuple[float, ...] = column(
        "delay from the host's directory to the container, for each round", shown=False
    )
    inodes: tuple[int, int] = column("inode number of the file in the container and on the host (stat(2))")
    devices: tuple[int, int] = column("device number of the file in the container and on the host (stat(2))")

    @property
    def same_file(self) -> bool:
        """Whether both paths lead to the same file: the same inode on the same device."""
        return len(set(self.inodes)) == len(set(self.devices)) == 1

    def frame(self) -> pd.DataFrame:
        """One row for each direction: median, 90th and 99th percentile, in microseconds."""
        rows = [
            (direction, *(percentile(values, percent) for percent in (50, 90, 99)))
            for direction, values in (
                ("container → host", self.to_host_us),
                ("host → container", self.to_container_us),
            )
        ]
        return table(rows, ["direction", "p50_us", "p90_us", "p99_us"])


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` percent of `values` lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@experiment
def write_both_sides(lab: Lab, container: Container | str, mount_point: str, directory: str) -> SharedWrites:
    """Write a file in a running container and read it on the engine's host, and vice versa.

    A second container with a bind mount of the directory writes on the host: the notebook may run on another machine.
    Both files are removed.

    Args:
        mount_point: a directory in the container.
        directory: the directory of the engine's host that is mounted there.

    Raises:
        ContainerError: the container cannot write to the directory, for a reason that the engine's settings do not
            explain.
    """
    container_text, host_text = (secrets.token_hex(8) for _ in range(2))
    write = 'echo "$1" > "$2"'
    name = name_of(container)
    essential = [f"docker exec {name} sh", "docker run --rm", f"docker exec {name} cat"]
    with lab.quiet(essential=essential):
        result = lab.exec(container, ["sh", "-c", write, "sh", container_text, f"{mount_point}/from-inside"])
        if result.exit_code:
            return SharedWrites(container_text, "", host_text, "", _refusal(lab, result.stderr))
        read_on_host = lab.host.read(f"{directory}/from-inside").strip()
        command = ["sh", "-c", write, "sh", host_text, "/outside/from-outside"]
        common.output(lab, command, **common.bind_options(lab, directory, "/outside"))
        read_in_container = lab.exec(container, ["cat", f"{mount_point}/from-outside"]).stdout.strip()
        lab.exec(container, ["rm", f"{mount_point}/from-inside", f"{mount_point}/from-outside"])
    return SharedWrites(container_text, read_on_host, host_text, read_in_container)


def _refusal(lab: Lab, message: str) -> str:
    """Why a container cannot write to a directory of the engine's host.

    Raises:
        ContainerError: the engine's settings do not explain the error.
    """
    if "ermission denied" in message:
        if lab.engine.remaps_users or security_option(lab.engine.info, "rootless"):
            return "this engine maps UIDs, and root in its containers does not own the directory"
        if security_option(lab.engine.info, "selinux"):
            return "SELinux denies containers access to a directory without their label"
    raise ContainerError(
        "the container could not write to the mounted directory",
        hint="check its owner, mode and mount options: docker inspect CONTAINER",
        engine_message=message,
    )


@experiment
def propagation_delays(lab: Lab, rounds: int = ROUNDS) -> PropagationDelays:
    """Pass a number back and forth through a file of a volume, between a container and the host's directory.

    Both programs read in a busy loop, so the delay of a file watcher is not part of the measurement.
    """
    program, image = common.program("ping_pong.py"), lab.image("tools")
    with lab.quiet(), common.volume(lab, "delay") as name:
        directory = common.directory_of(lab, name)

        def command(side: str) -> list[str]:
            return ["python3", "-c", program, "/shared/ball", side, str(rounds)]

        bound = common.bind_options(lab, directory, "/shared")
        with (
            lab.running(image, command("inside"), network="none", volumes=[f"{name}:/shared"]) as inner,
            lab.running(image, command("outside"), network="none", **bound) as outer,
        ):
            inside, outside = (json.loads(common.result_of(lab, each)) for each in (inner, outer))
    return PropagationDelays(
        to_host_us=tuple(ns / 1000 for ns in outside[0]),
        to_container_us=tuple(ns / 1000 for ns in inside[0]),
        inodes=(inside[1], outside[1]),
        devices=(inside[2], outside[2]),
    )
