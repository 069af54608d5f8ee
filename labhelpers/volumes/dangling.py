"""What a container leaves behind when it is removed: the volumes that nobody gave a name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.engine import responses
from labhelpers.errors import ContainerMissing
from labhelpers.results import Result, column, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

MIB = 1024 * 1024
HELD_BYTES = 1 * MIB


@record
class DanglingCase:
    """One way of making and removing a container that has a volume."""

    made: str = column("how its volume came about")
    removed: str = column("how the container went")
    times: int = column("how often this was done, one after the other")
    left: int = column("how many volumes are there afterwards that were not there before")
    left_bytes: int = column("what they hold on the engine's disk")


@record
class DanglingVolumes(Result):
    """What is left of a container's volumes, by how it was made and removed."""

    ways: tuple[DanglingCase, ...] = rows("one for each way to create and remove it", of=DanglingCase)

    def of(self, made: str, removed: str) -> DanglingCase:
        """One of them."""
        return next(way for way in self.ways if (way.made, way.removed) == (made, removed))

    def frame(self) -> pd.DataFrame:
        """One row a way."""
        rows = [(w.made, w.removed, w.times, w.left, w.left_bytes / MIB) for w in self.ways]
        return table(rows, ["volume made by", "container removed by", "times", "volumes left", "MiB left"])


def dangling_volumes(lab: Lab, times: int = 3) -> DanglingVolumes:
    """Make containers that write 1 MiB into a volume, remove them, and count what is left. Then remove that, too.

    Args:
        times: how often a container with an anonymous volume is made and removed with a plain `docker rm`.

    Source: docs.docker.com, `docker container rm` (-v) and `docker container run` (--rm); storage/volumes, "Named and
    anonymous volumes".
    """
    with (
        lab.quiet(essential=["docker rm -v"]),
        common.volume(lab, "named") as name,
        _image_with_volume(lab) as image,
    ):
        payload = lab.image("payload")
        anonymous: dict[str, Any] = {"volumes": ["/data"]}
        named: dict[str, Any] = {"volumes": [f"{name}:/data"]}
        tried: tuple[tuple[str, str, int, str, dict[str, Any]], ...] = (
            ("-v /data", "docker rm", times, payload, anonymous),
            ("-v /data", "docker rm -v", 1, payload, anonymous),
            ("-v /data", "--rm", 1, payload, anonymous),
            ("VOLUME in the image", "docker rm", 1, image, {}),
            ("-v NAME:/data", "docker rm -v", 1, payload, named),
        )
        ways = []
        for made, removed, count, what, options in tried:
            left = [_count_dangling(lab, what, removed, options) for _ in range(count)]
            held = [bytes for bytes in left if bytes is not None]
            ways.append(DanglingCase(made, removed, count, len(held), sum(held)))
    return DanglingVolumes(tuple(ways))


def _count_dangling(lab: Lab, image: str, removed: str, options: dict[str, Any]) -> int | None:
    """Make a container, remove it: the bytes that its volume still holds, None where the volume went with it."""
    write = ["sh", "-c", f"dd if=/dev/zero of=/data/file bs={HELD_BYTES} count=1 2>/dev/null; sleep 3600"]
    container = lab.run(image, write, network="none", rm=removed == "--rm", **options)
    try:
        (mount,) = lab.inspect(container)["Mounts"]
        directory = str(mount["Source"])
        lab.wait_for(
            "the container to write its file",
            lambda: lab.host.disk_usage(directory).apparent_bytes >= HELD_BYTES,
            common.TIMEOUT_S,
            while_running=container,
        )
        lab.stop(container, timeout_s=0)
        if removed == "--rm":
            lab.wait_for(f"the engine to remove {container.name}", lambda: _is_gone(lab, container))
        else:
            lab.remove(container, volumes=removed.endswith("-v"))
    except BaseException:
        with suppress(ContainerMissing):
            lab.remove(container, force=True, volumes=True)
        raise
    name = responses.volume_name(mount)
    if name not in [row["Name"] for row in lab.list_volumes()]:
        return None
    held = lab.host.disk_usage(directory).allocated_bytes
    if not any(":" in volume for volume in options.get("volumes", ())):  # a named one is the caller's
        lab.remove_volume(name, made_by_run=True)
    return held


def _is_gone(lab: Lab, container: Container) -> bool:
    try:
        lab.inspect(str(container.id))
    except ContainerMissing:
        return True
    return False


@contextmanager
def _image_with_volume(lab: Lab) -> Iterator[str]:
    """An image whose Dockerfile says VOLUME, as those of databases do, for the block."""
    name = f"labhelpers-volumes-{lab.session}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(
            f"FROM {lab.image('payload')}\nVOLUME /data\n", encoding="utf-8"
        )
        lab.build(folder, name)
    try:
        yield name
    finally:
        lab.remove_image(name)
