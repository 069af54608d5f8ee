"""What a container sees where the image has files and something is mounted on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labhelpers.results import Result, column, record, rows, table
from labhelpers.volumes import common

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

INSIDE = "/etc/skel"
EXISTING_FILE = "mine"


@record
class PopulationCase:
    """One thing mounted where the image has files."""

    mounted: str = column("what, in words")
    typed: str = column("the option that mounts it; an empty string for nothing")
    seen: tuple[str, ...] = column("names that the container sees there")
    outside: tuple[str, ...] | None = column(
        "names in the directory on the engine's host; None where nothing is mounted"
    )


@record
class VolumePopulation(Result):
    """A directory of an image, and what is seen there in several containers."""

    inside: str = column("the directory")
    image: tuple[str, ...] = column("names that the image has there")
    cases: tuple[PopulationCase, ...] = rows("in the order in which they were tried", of=PopulationCase)
    after: tuple[str, ...] = column("names that a container without a mount sees there at the end")

    def of(self, mounted: str) -> PopulationCase:
        """The case of that name."""
        return next(case for case in self.cases if case.mounted == mounted)

    def frame(self) -> pd.DataFrame:
        """One row a case: mounted, typed, the container sees, on the engine's host."""
        rows = [
            (c.mounted, c.typed, _names(c.seen), "" if c.outside is None else _names(c.outside))
            for c in self.cases
        ]
        return table(rows, ["mounted", "typed", "the container sees", "on the engine's host"])


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "(nothing)"


def populate(lab: Lab, inside: str = INSIDE) -> VolumePopulation:
    """Mount a fresh volume, one that has a file, one without copying, and an empty directory where an image has files.

    Args:
        inside: a directory of the lab image `base` that has files.

    Source: docs.docker.com, storage/volumes (a new volume is filled from the image) and storage/bind-mounts (what is
    below a bind mount is obscured).
    """

    def seen(**options: Any) -> tuple[str, ...]:
        with lab.running(lab.image("base"), common.KEEP_RUNNING, network="none", **options) as container:
            return tuple(entry.path for entry in lab.host.directory(inside, container))

    essential = ["docker run -d --network none -v", "docker run -d --network none --mount source="]
    with (
        lab.quiet(essential=essential),
        common.volume(lab, "fresh") as fresh,
        common.volume(lab, "used") as used,
        common.volume(lab, "uncopied") as uncopied,
        common.volume(lab, "empty") as empty,
    ):
        image = seen()
        common.output(lab, ["touch", f"/data/{EXISTING_FILE}"], volumes=[f"{used}:/data"])
        # an empty directory of the engine's host, as a bind mount knows it
        directory = common.directory_of(lab, empty)
        tried = (
            ("a fresh volume", f"-v VOLUME:{inside}", fresh, {"volumes": [f"{fresh}:{inside}"]}),
            ("a volume with a file", f"-v VOLUME:{inside}", used, {"volumes": [f"{used}:{inside}"]}),
            (
                "a fresh volume, nocopy",
                f"--mount source=VOLUME,target={inside},volume-nocopy",
                uncopied,
                {"mounts": [f"source={uncopied},target={inside},volume-nocopy"]},
            ),
            (
                "an empty directory",
                f"--mount type=bind,source=DIRECTORY,target={inside}",
                empty,
                common.bind_options(lab, directory, inside),
            ),
        )
        cases = [PopulationCase("nothing", "", image, None)]
        for mounted, typed, volume, options in tried:
            within = seen(**options)
            outside = tuple(entry.path for entry in lab.host.directory(common.directory_of(lab, volume)))
            cases.append(PopulationCase(mounted, typed, within, outside))
        return VolumePopulation(inside, image, tuple(cases), seen())
