"""What a container sees at a mount point where its image has files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.results import Result, column, record, rows
from labhelpers.volumes import common

if TYPE_CHECKING:
    from labhelpers.lab import Lab

DIRECTORY = "/etc/skel"
EXISTING_FILE = "mine"


@record
class PopulationCase:
    """A mount at a directory of the image."""

    mounted: str = column("the volume or directory that is mounted")
    option: str = column("option of `docker run`")
    visible: tuple[str, ...] = column("files that the container sees")
    on_host: tuple[str, ...] | None = column("files in the mounted directory on the engine's host")


@record
class VolumePopulation(Result):
    """Files that a container sees in a directory of its image, by what is mounted there."""

    directory: str = column("the directory of the image")
    image_files: tuple[str, ...] = column("files of the image in this directory")
    cases: tuple[PopulationCase, ...] = rows("one for each mount", of=PopulationCase)
    visible_after: tuple[str, ...] = column("files that a container without a mount sees at the end")

    def of(self, mounted: str) -> PopulationCase:
        """The case of this mount."""
        return next(case for case in self.cases if case.mounted == mounted)


@experiment
def populate(lab: Lab, directory: str = DIRECTORY) -> VolumePopulation:
    """Mount an empty volume, one with a file, one with `volume-nocopy` and an empty directory where an image has files.

    Args:
        directory: a directory of the lab image `base` that has files.

    Source: docs.docker.com, storage/volumes (a new volume is populated from the image) and storage/bind-mounts (the
    files below a bind mount are obscured).
    """

    def visible(**options: Any) -> tuple[str, ...]:
        with lab.running(lab.image("base"), common.KEEP_RUNNING, network="none", **options) as container:
            return tuple(entry.path for entry in lab.host.directory(directory, container))

    essential = ["docker run -d --network none -v", "docker run -d --network none --mount source="]
    with (
        lab.quiet(essential=essential),
        common.volume(lab, "fresh") as fresh,
        common.volume(lab, "used") as used,
        common.volume(lab, "uncopied") as uncopied,
        common.volume(lab, "empty") as empty,
    ):
        image_files = visible()
        common.output(lab, ["touch", f"/data/{EXISTING_FILE}"], volumes=[f"{used}:/data"])
        # to a bind mount a volume's directory is like any other directory of the engine's host
        source = common.directory_of(lab, empty)
        mounts = (
            ("a fresh volume", f"-v VOLUME:{directory}", fresh, {"volumes": [f"{fresh}:{directory}"]}),
            ("a volume with a file", f"-v VOLUME:{directory}", used, {"volumes": [f"{used}:{directory}"]}),
            (
                "a fresh volume, nocopy",
                f"--mount source=VOLUME,target={directory},volume-nocopy",
                uncopied,
                {"mounts": [f"source={uncopied},target={directory},volume-nocopy"]},
            ),
            (
                "an empty directory",
                f"--mount type=bind,source=DIRECTORY,target={directory}",
                empty,
                common.bind_options(lab, source, directory),
            ),
        )
        cases = [PopulationCase("nothing", "", image_files, None)]
        for mounted, option, volume, options in mounts:
            in_container = visible(**options)
            on_host = tuple(entry.path for entry in lab.host.directory(common.directory_of(lab, volume)))
            cases.append(PopulationCase(mounted, option, in_container, on_host))
        return VolumePopulation(directory, image_files, tuple(cases), visible())
