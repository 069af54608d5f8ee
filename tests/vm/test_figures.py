"""The figures, by what they show."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.axes import Axes

from labhelpers.vm.boot import Phase, Start, StartTimes
from labhelpers.vm.capacity import Density
from labhelpers.vm.resources import DiskUsage, MemoryUsage
from labhelpers.vm.stack import Stacks

matplotlib.use("agg")
MIB = 1024 * 1024
MEMORY = MemoryUsage(200 * MIB, 2 * MIB, 128 * MIB)
DISK = DiskUsage(10 * MIB, MIB, 8 * MIB, 50 * MIB, 2 * MIB, 8 * MIB, 0)


def _texts(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in [*ax.texts, *ax.get_yticklabels()])


def test_the_timeline_draws_every_start_and_the_median_one() -> None:
    def guest(order: int, end: float) -> Start:
        return Start("vm", order, (Phase("container", 0, 100), Phase("kernel", 100, end)))

    quick = Start("container", 3, (Phase("container", 0, 90), Phase("user space", 90, 100)))
    ax = StartTimes((guest(0, 3000), guest(1, 2000), guest(2, 2500), quick), "tcg").plot()
    assert [bar.get_width() for bar in ax.patches] == [100, 2400, 90, 10]
    assert [line.get_xdata()[0] for line in ax.lines] == [3000, 2000, 2500, 100]  # type: ignore[index]
    assert "QEMU translates" in ax.get_title(loc="left")


def test_memory_and_disk_draw_their_bytes() -> None:
    assert [bar.get_width() for bar in MEMORY.plot().patches] == [200 * MIB, 2 * MIB]
    texts = _texts(DISK.plot())
    assert "50 MiB" in texts
    assert "QEMU, counted separately" in texts


def test_measured_and_extrapolated_look_different() -> None:
    ax = Density(1024 * MIB, (1, 2), (100 * MIB, 200 * MIB), (MIB, 2 * MIB)).plot()
    labels = [str(line.get_label()) for line in ax.lines]
    assert sum("measured" in label for label in labels) == 2
    assert all(line.get_linestyle() == "--" for line in ax.lines if "extrapolated" in str(line.get_label()))
    assert "about 10 virtual machines" in _texts(ax)


@pytest.mark.parametrize("word", ["6.1-guest", "6.9-host", "guest kernel", "host kernel", "uses 200 MiB"])
def test_the_stacks_show_what_was_measured(word: str) -> None:
    assert word in _texts(Stacks("6.9-host", "6.1-guest", "tcg", MEMORY, DISK).plot())
