"""What the figures show."""

from __future__ import annotations

import statistics

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from labhelpers.volumes.figures import CHIP_PX
from labhelpers.volumes.locations import FileLocation, FileLocations
from labhelpers.volumes.population import PopulationCase, VolumePopulation
from labhelpers.volumes.shared_directory import PropagationDelays, SharedWrites, percentile
from labhelpers.volumes.speed import CACHED, MIB, MOUNT_POINTS, SMALL_SYNCED, SYNCED, SpeedMeasurement, Speeds

matplotlib.use("agg")


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts] + [ax.get_title(loc="left")]


LOCATIONS = FileLocations(
    "web",
    (
        FileLocation(
            "/", "container layer", "", "/x/overlay2/abc/diff", "DATA/overlay2/abc/diff", "overlay", False
        ),
        FileLocation(
            "/data", "volume", "mine", "/x/volumes/mine/_data", "DATA/volumes/mine/_data", "ext4", True
        ),
        FileLocation("/run", "tmpfs", "", None, "memory", "tmpfs", False),
        FileLocation("/target", "bind", "", "/home/me/target", "…/target", "xfs", False),
    ),
)


def test_each_path_is_next_to_its_location_on_the_host() -> None:
    ax = LOCATIONS.plot()
    by_text = {text.get_text(): text for text in ax.texts}
    for location in LOCATIONS.locations:
        inside, outside = by_text[location.mount_point], by_text[location.host_path]
        assert inside.xy[1] == outside.xy[1]
        assert inside.xy[0] < outside.xy[0]
    assert "volume, read-only" in by_text
    assert "container web" in by_text
    assert "/home/me/target" not in " ".join(texts(ax))
    assert [location.kind for location in LOCATIONS.of("bind")] == ["bind"]
    assert list(LOCATIONS.frame().read_only) == [False, True, False, False]


POPULATION = VolumePopulation(
    "/etc/x",
    ("a", "b"),
    (
        PopulationCase("nothing", "", ("a", "b"), None),
        PopulationCase("a fresh volume", "-v V:/etc/x", ("a", "b"), ("a", "b")),
        PopulationCase("a volume with a file", "-v V:/etc/x", ("mine",), ("mine",)),
        PopulationCase("an empty directory", "--mount …", (), ()),
    ),
    ("a", "b"),
)


def test_every_file_is_shown_where_it_is_visible() -> None:
    ax = POPULATION.plot()
    labels = texts(ax)
    assert labels.count("a") == labels.count("b") == 3
    assert labels.count("mine") == 2
    assert labels.count("nothing") == 1 + 2  # the name of a row, and two empty columns
    rows = {text.get_text(): text.xy[1] for text in ax.texts if text.get_text() in ("a fresh volume", "mine")}
    assert rows["a fresh volume"] < rows["mine"]
    assert list(POPULATION.frame().visible) == [("a", "b"), ("a", "b"), ("mine",), ()]


def test_files_of_the_image_have_a_colour_of_their_own() -> None:
    chips = [
        p for p in POPULATION.plot().patches if isinstance(p, FancyBboxPatch) and p.get_height() == CHIP_PX
    ]
    assert len({chip.get_facecolor() for chip in chips[:6]}) == 1
    assert chips[0].get_facecolor() != chips[-1].get_facecolor()


def test_delays_show_every_point_and_the_median() -> None:
    result = PropagationDelays((5.0, 6.0, 90.0), (4.0, 4.5, 5.0), (7, 7), (1, 1))
    ax = result.plot()
    points, median, back, _ = ax.lines
    assert list(points.get_xdata()) == [5, 6, 90]
    assert list(median.get_xdata()) == [6, 6]
    assert list(back.get_xdata()) == [4, 4.5, 5]
    assert any("median 6 µs" in text for text in texts(ax))
    late = PropagationDelays((5.0, 15_100.0), (4.0,), (7, 7), (1, 1)).plot()
    assert any("within 15.1 ms" in text for text in texts(late))
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize(
    ("inodes", "devices", "same"), [((7, 7), (1, 1), True), ((7, 8), (1, 1), False), ((7, 7), (1, 2), False)]
)
def test_one_file_is_one_inode_of_one_device(
    inodes: tuple[int, int], devices: tuple[int, int], same: bool
) -> None:
    assert PropagationDelays((1.0,), (1.0,), inodes, devices).same_file is same


def test_both_sides_must_match() -> None:
    assert SharedWrites("a", "a", "b", "b").matches
    assert not SharedWrites("a", "a", "b", "c").matches


def test_percentiles() -> None:
    assert [percentile(range(100), part) for part in (0, 50, 99, 100)] == [0, 50, 99, 99]


def speeds() -> Speeds:
    measurements = []
    for number, storage in enumerate(MOUNT_POINTS, 1):
        for mode, factor in ((CACHED, 100), (SYNCED, 10), (SMALL_SYNCED, 1)):
            for spread in (1, 2, 3):
                operation = 4096 if mode == SMALL_SYNCED else MIB
                measurements.append(
                    SpeedMeasurement(storage, mode, MIB, 1 / (number * factor * spread), operation)
                )
    kinds = {"container layer": "overlay", "volume": "ext4", "bind mount": "ext4", "tmpfs": "tmpfs"}
    return Speeds(tuple(measurements), kinds, 8 * MIB, 4096, 3)


def test_speeds_show_every_measurement_and_its_median() -> None:
    result = speeds()
    ax = result.plot()
    points = [line for line in ax.lines if line.get_label() in MOUNT_POINTS]
    assert len(points) == 3 * len(MOUNT_POINTS)
    assert sorted(points[1].get_xdata()) == pytest.approx([200, 400, 600])  # a volume, written
    medians = [line for line in ax.lines if line.get_label() not in MOUNT_POINTS]
    assert [line.get_xdata()[0] for line in medians] == pytest.approx(  # type: ignore[index]
        [statistics.median(line.get_xdata()) for line in points]
    )
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:4] == ["container layer (overlay)", "volume (ext4)", "bind mount (ext4)", "tmpfs"]
    assert any("2 ms per write" in text for text in texts(ax))  # 4 KiB at 2 MiB/s
    assert result.median("volume", CACHED) == pytest.approx(400 * MIB)


def test_no_text_is_cut_off() -> None:
    for result in (LOCATIONS, POPULATION, speeds()):
        ax = result.plot()
        ax.figure.canvas.draw()
        whole = ax.figure.bbox
        for text in ax.texts:
            box = text.get_window_extent()
            assert whole.x0 <= box.x0, text
            assert box.x1 <= whole.x1, text
