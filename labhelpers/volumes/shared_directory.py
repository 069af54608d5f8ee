"""One directory seen from two sides: inside a container, and on the engine's host."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.engine.differences import security_option
from labhelpers.errors import ContainerError
from labhelpers.lab.base import name_of
from labhelpers.results import Result, column, record, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

ROUNDS = 300


@record
class SharedWrites(Result):
    """A file written on each side, and read on the other."""

    written_inside: str = column("what a container wrote, and what the engine's host has there")
    read_outside: str = column("what a container wrote, and what the engine's host has there")
    written_outside: str = column("the same from the host's directory to the container")
    read_inside: str = column("the same from the host's directory to the container")
    refused: str | None = column(
        "why root in a container of this engine may not write into that directory; None where it may",
        default=None,
    )

    @property
    def agree(self) -> bool:
        """Whether each side read what the other one wrote."""
        return (self.written_inside, self.written_outside) == (self.read_outside, self.read_inside)


@record
class PropagationDelays(Result):
    """How long after a write on one side the other side reads it: from before write(2) until after read(2)."""

    to_outside_us: tuple[float, ...] = column(
        "microseconds from the container to the host's directory, one for each round"
    )
    to_inside_us: tuple[float, ...] = column("from the host's directory to the container")
    inodes: tuple[int, int] = column("the file's inode number inside, and outside (stat(2))")
    devices: tuple[int, int] = column("the file's device inside, and outside")

    @property
    def same_file(self) -> bool:
        """Whether it is one file of one file system: both sides have the same inode on the same device."""
        return len(set(self.inodes)) == len(set(self.devices)) == 1

    def frame(self) -> pd.DataFrame:
        """One row a direction: median, 90th and 99th percentile, in microseconds."""
        rows = [
            (way, *(percentile(values, part) for part in (50, 90, 99)))
            for way, values in (
                ("container → host", self.to_outside_us),
                ("host → container", self.to_inside_us),
            )
        ]
        return table(rows, ["direction", "p50_us", "p90_us", "p99_us"])


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` percent of `values` lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part / 100))]


def write_both_sides(lab: Lab, container: Container | str, inside: str, directory: str) -> SharedWrites:
    """Write a file in a running container and read it on the engine's host; then the other way round.

    Args:
        inside: a directory of the container.
        directory: the directory of the engine's host that is mounted there.

    The host's side is written by a second container that has the directory as a bind mount: the notebook may be
    on another machine. Both files are removed.
    """
    first, second = (secrets.token_hex(8) for _ in range(2))
    say = 'echo "$1" > "$2"'
    name = name_of(container)
    essential = [f"docker exec {name} sh", "docker run --rm", f"docker exec {name} cat"]
    with lab.quiet(essential=essential):
        done = lab.exec(container, ["sh", "-c", say, "sh", first, f"{inside}/from-inside"])
        if done.exit_code:
            return SharedWrites(first, "", second, "", _why_not(lab, done.stderr))
        read_outside = lab.host.read(f"{directory}/from-inside").strip()
        command = ["sh", "-c", say, "sh", second, "/outside/from-outside"]
        common.output(lab, command, **common.bind_options(lab, directory, "/outside"))
        read_inside = lab.exec(container, ["cat", f"{inside}/from-outside"]).stdout.strip()
        lab.exec(container, ["rm", f"{inside}/from-inside", f"{inside}/from-outside"])
    return SharedWrites(first, read_outside, second, read_inside)


def _why_not(lab: Lab, words: str) -> str:
    """Why a container could not write into a directory of the engine's host.

    Raises:
        ContainerError: nothing that is known of the engine explains it.
    """
    if "ermission denied" in words:
        if lab.engine.remaps_users or security_option(lab.engine.info, "rootless"):
            return "this engine maps users, and root in its containers is not the owner of the directory"
        if security_option(lab.engine.info, "selinux"):
            return "SELinux keeps containers from a directory without their label"
    raise ContainerError(
        "the container could not write into the directory that is mounted there",
        hint="look at its owner, its mode and its mount options: docker inspect CONTAINER",
        engine_message=words,
    )


def propagation_delays(lab: Lab, rounds: int = ROUNDS) -> PropagationDelays:
    """Pass a number back and forth through one file of a volume: in a container, and in the volume's own directory.

    Both programs look again and again, so what is measured is the file's delay and not that of a watcher.
    """
    program, image = common.program("ping_pong.py"), lab.image("tools")
    with lab.quiet(), common.volume(lab, "delay") as name:
        directory = common.directory_of(lab, name)

        def player(side: str) -> list[str]:
            return ["python3", "-c", program, "/shared/ball", side, str(rounds)]

        outer = common.bind_options(lab, directory, "/shared")
        with (
            lab.running(image, player("inside"), network="none", volumes=[f"{name}:/shared"]) as one,
            lab.running(image, player("outside"), network="none", **outer) as other,
        ):
            inside, outside = (json.loads(common.result_of(lab, each)) for each in (one, other))
    return PropagationDelays(
        to_outside_us=tuple(ns / 1000 for ns in outside[0]),
        to_inside_us=tuple(ns / 1000 for ns in inside[0]),
        inodes=(inside[1], outside[1]),
        devices=(inside[2], outside[2]),
    )
