"""One directory seen from two sides: inside a container, and on the engine's host."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labhelpers.results import Result, table
from labhelpers.volumes import stage

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

ROUNDS = 300
# Two programs pass a number to and fro through one file. A number stands for itself only when both copies of it
# agree: a reading may fall into the middle of a write. CLOCK_MONOTONIC is one clock for all containers of a kernel.
BALL = """
import json, os, struct, sys, time
path, side, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
ball, ready = struct.Struct("QQQ"), 1 << 40
file = os.open(path, os.O_RDWR | os.O_CREAT)

def write(number):
    os.pwrite(file, ball.pack(number, time.monotonic_ns(), number), 0)

def wait(number):
    end = time.monotonic_ns() + 90 * 10**9
    while True:
        raw = os.pread(file, ball.size, 0)
        now = time.monotonic_ns()
        if len(raw) == ball.size:
            first, at, last = ball.unpack(raw)
            if first == last == number:
                return now - at
        if now > end:
            sys.exit("nothing came from the other side for 90 s")
        os.sched_yield()

delays = []
if side == "inside":
    wait(ready)
    for number in range(1, 2 * rounds, 2):
        write(number)
        delays.append(wait(number + 1))
else:
    write(ready)
    for number in range(1, 2 * rounds, 2):
        delays.append(wait(number))
        write(number + 1)
it = os.stat(path)
print(json.dumps([delays, it.st_ino, it.st_dev]))
"""


@dataclass(frozen=True, slots=True)
class BothWays(Result):
    """A file written on each side, and read on the other.

    Attributes:
        written_inside, read_outside: what a container wrote, and what the engine's host has there.
        written_outside, read_inside: the same from the host's directory to the container.
    """

    written_inside: str
    read_outside: str
    written_outside: str
    read_inside: str

    @property
    def agree(self) -> bool:
        """Whether each side read what the other one wrote."""
        return (self.written_inside, self.written_outside) == (self.read_outside, self.read_inside)


@dataclass(frozen=True, slots=True)
class Delays(Result):
    """How long after a write on one side the other side reads it: from before write(2) until after read(2).

    Attributes:
        to_outside_us: microseconds from the container to the host's directory, one for each round.
        to_inside_us: from the host's directory to the container.
        inodes: the file's inode number inside, and outside (stat(2)).
        devices: the file's device inside, and outside.
    """

    to_outside_us: tuple[float, ...]
    to_inside_us: tuple[float, ...]
    inodes: tuple[int, int]
    devices: tuple[int, int]

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


def both_ways(lab: Lab, container: Container | str, inside: str, directory: str) -> BothWays:
    """Write a file in a running container and read it on the engine's host; then the other way round.

    Args:
        inside: a directory of the container.
        directory: the directory of the engine's host that is mounted there.

    The host's side is written by a second container that has the directory as a bind mount: the notebook may be
    on another machine. Both files are removed.
    """
    first, second = (secrets.token_hex(8) for _ in range(2))
    say = 'echo "$1" > "$2"'
    with lab.quiet():
        lab.exec(container, ["sh", "-c", say, "sh", first, f"{inside}/from-inside"])
        read_outside = lab.host.read(f"{directory}/from-inside").strip()
        mount = f"type=bind,source={directory},target=/outside"
        stage.output(lab, ["sh", "-c", say, "sh", second, "/outside/from-outside"], mounts=[mount])
        read_inside = lab.exec(container, ["cat", f"{inside}/from-outside"]).stdout.strip()
        lab.exec(container, ["rm", f"{inside}/from-inside", f"{inside}/from-outside"])
    return BothWays(first, read_outside, second, read_inside)


def delays(lab: Lab, rounds: int = ROUNDS) -> Delays:
    """Pass a number to and fro through one file of a volume: in a container, and in the volume's directory on the host.

    Both programs look again and again, so what is measured is the file's delay and not that of a watcher.
    """
    with stage.volume(lab, "delay") as name:
        directory = stage.directory_of(lab, name)

        def player(side: str) -> list[str]:
            return ["python3", "-c", BALL, "/shared/ball", side, str(rounds)]

        outer = {"mounts": [f"type=bind,source={directory},target=/shared"]}
        with (
            stage.running(lab, player("inside"), image="tools", volumes=[f"{name}:/shared"]) as one,
            stage.running(lab, player("outside"), image="tools", **outer) as other,
        ):
            inside, outside = (json.loads(stage.said(each)) for each in (one, other))
    return Delays(
        to_outside_us=tuple(ns / 1000 for ns in outside[0]),
        to_inside_us=tuple(ns / 1000 for ns in inside[0]),
        inodes=(inside[1], outside[1]),
        devices=(inside[2], outside[2]),
    )
