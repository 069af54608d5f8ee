"""Anonymous volumes that are left when their container is removed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine import responses
from labhelpers.errors import ContainerMissing
from labhelpers.results import Result, column, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

FILE_BYTES = 1 << 20


@record
class DanglingCase:
    """A way to create and to remove a container with a volume."""

    created_by: str = column("what created the volume")
    removed_by: str = column("what removed the container")
    times: int = column("number of containers that were created and removed")
    volumes_left: int = column("volumes that are still there afterwards")
    left_bytes: int = column("disk space of these volumes on the engine's host")


@record
class DanglingVolumes(Result):
    """Volumes that are left when their container is removed."""

    cases: tuple[DanglingCase, ...] = rows("one for each way to create and remove it", of=DanglingCase)

    def of(self, created_by: str, removed_by: str) -> DanglingCase:
        """The case with these options."""
        wanted = (created_by, removed_by)
        return next(case for case in self.cases if (case.created_by, case.removed_by) == wanted)


@experiment
def dangling_volumes(lab: Lab, times: int = 3) -> DanglingVolumes:
    """Remove containers that wrote 1 MiB into a volume, count the volumes that are left, and remove these, too.

    Args:
        times: number of containers with an anonymous volume that are removed with a plain `docker rm`.

    Source: docs.docker.com, `docker container rm` (-v) and `docker container run` (--rm); storage/volumes, "Named and
    anonymous volumes".
    """
    with (
        lab.quiet(essential=["docker rm -v"]),
        common.volume(lab, "named") as name,
        _image_with_volume(lab) as image_with_volume,
    ):
        payload = lab.image("payload")
        anonymous: dict[str, Any] = {"volumes": ["/data"]}
        named: dict[str, Any] = {"volumes": [f"{name}:/data"]}
        combinations: tuple[tuple[str, str, int, str, dict[str, Any]], ...] = (
            ("-v /data", "docker rm", times, payload, anonymous),
            ("-v /data", "docker rm -v", 1, payload, anonymous),
            ("-v /data", "--rm", 1, payload, anonymous),
            ("VOLUME in the image", "docker rm", 1, image_with_volume, {}),
            ("-v NAME:/data", "docker rm -v", 1, payload, named),
        )
        cases = []
        for created_by, removed_by, count, image, options in combinations:
            sizes = [_dangling_bytes(lab, image, removed_by, options) for _ in range(count)]
            left = [size for size in sizes if size is not None]
            cases.append(DanglingCase(created_by, removed_by, count, len(left), sum(left)))
    return DanglingVolumes(tuple(cases))


def _dangling_bytes(lab: Lab, image: str, removed_by: str, options: dict[str, Any]) -> int | None:
    """Create a container and remove it: the size of its volume in bytes, None if the volume was removed, too."""
    write = ["sh", "-c", f"dd if=/dev/zero of=/data/file bs={FILE_BYTES} count=1 2>/dev/null; sleep 3600"]
    container = lab.run(image, write, network="none", rm=removed_by == "--rm", **options)
    try:
        (mount,) = lab.inspect(container)["Mounts"]
        directory = str(mount["Source"])
        lab.wait_for(
            "the container to write its file",
            lambda: lab.host.disk_usage(directory).apparent_bytes >= FILE_BYTES,
            common.TIMEOUT_S,
            while_running=container,
        )
        lab.stop(container, timeout_s=0)
        if removed_by == "--rm":
            lab.wait_for(f"the engine to remove {container.name}", lambda: _is_gone(lab, container))
        else:
            lab.remove(container, volumes=removed_by.endswith("-v"))
    except BaseException:
        with suppress(ContainerMissing):
            lab.remove(container, force=True, volumes=True)
        raise
    name = responses.volume_name(mount)
    if name not in [row["Name"] for row in lab.list_volumes()]:
        return None
    allocated_bytes = lab.host.disk_usage(directory).allocated_bytes
    if not any(":" in volume for volume in options.get("volumes", ())):  # the caller removes a named volume
        lab.remove_volume(name, made_by_run=True)
    return allocated_bytes


def _is_gone(lab: Lab, container: Container) -> bool:
    try:
        lab.inspect(str(container.id))
    except ContainerMissing:
        return True
    return False


@contextmanager
def _image_with_volume(lab: Lab) -> Iterator[str]:
    """An image with a VOLUME instruction, as database images have, for the block."""
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
