"""Figures of the chapter on volumes and bind mounts: data on an Axes; they talk to no engine."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, KERNEL, LIMIT, PAPER, human_bytes, resize
from labhelpers.volumes.shared_directory import percentile
from labhelpers.volumes.speed import CACHED, MIB, MOUNT_POINTS, SMALL, SYNCED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.volumes.locations import FileLocation, FileLocations
    from labhelpers.volumes.population import VolumePopulation
    from labhelpers.volumes.shared_directory import PropagationDelays
    from labhelpers.volumes.speed import Speeds

KIND = {"container layer": CONTAINER, "volume": HOST, "bind": KERNEL, "bind mount": KERNEL, "tmpfs": LIMIT}
GREY = "#555555"


def _box(
    ax: Axes, corner: tuple[float, float], size: tuple[float, float], face: str, edge: str = "none"
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.06"
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, fc=face, ec=edge, lw=1.4))


def draw_file_locations(result: FileLocations, ax: Axes) -> Axes:
    """The places of a container's files on the left, and on the right where they are on the engine's host."""
    ordered = sorted(result.locations, key=lambda place: (_where(place), place.mount_point))
    count = len(ordered)
    resize(ax, 9.5, 1.5 + 0.62 * count)
    _box(ax, (0, -0.25), (3.3, count + 0.75), PAPER)
    ax.text(0.12, count + 0.22, f"container {result.container}", weight="bold", va="center")
    _box(ax, (4.9, -0.25), (5.1, count + 0.75), PAPER)
    ax.text(5.02, count + 0.22, "the engine's host", weight="bold", va="center")
    for number, place in enumerate(ordered):
        y = count - number - 0.5
        colour = KIND[place.kind]
        _box(ax, (0.12, y - 0.33), (3.06, 0.66), "white", colour)
        ax.text(0.26, y + 0.12, place.mount_point, va="center", family="monospace", fontsize=10)
        words = f"{place.kind}{', read-only' if place.read_only else ''}"
        ax.text(0.26, y - 0.16, words, va="center", fontsize=8.5, color=colour, weight="bold")
        ax.annotate("", (5.0, y), (3.2, y), arrowprops={"arrowstyle": "<->", "color": colour, "lw": 1.6})
        ax.text(4.1, y + 0.12, place.file_system, ha="center", va="center", fontsize=8.5, color=GREY)
        _box(ax, (5.02, y - 0.33), (4.86, 0.66), "white", colour)
        ax.text(5.16, y + 0.12, place.host_path, va="center", family="monospace", fontsize=9)
        ax.text(5.16, y - 0.16, _meaning(place), va="center", fontsize=8.5, color=GREY)
    ax.set(xlim=(-0.05, 10.05), ylim=(-0.8, count + 0.6))
    ax.text(0, -0.55, "DATA is the engine's own data directory", fontsize=8.5, color=GREY, va="center")
    ax.axis("off")
    ax.set_title("Where a container's files are")
    return ax


def _where(place: FileLocation) -> int:
    return ("container layer", "volume", "bind", "tmpfs").index(place.kind)


def _meaning(place: FileLocation) -> str:
    return {
        "container layer": "goes with the container",
        "volume": "the engine's; stays until somebody removes it",
        "bind": "a directory of the host; the engine only shows it",
        "tmpfs": "gone when the container stops",
    }[place.kind]


def draw_volume_population(result: VolumePopulation, ax: Axes) -> Axes:
    """One row a mount: what it is, what the container sees there, and what is on the engine's host."""
    rows = len(result.cases)
    resize(ax, 10.5, 1.2 + 0.62 * rows)
    for number, case in enumerate(result.cases):
        y = rows - number
        if number % 2 == 0:
            _box(ax, (-0.1, y - 0.45), (14.3, 0.9), PAPER)
        ax.text(0, y + 0.13 * bool(case.option), case.mounted, va="center", weight="bold")
        ax.text(0, y - 0.2, case.option, va="center", family="monospace", fontsize=7.6, color=GREY)
        _chips(ax, 5.0, y, case.visible, result.image_files)
        if case.on_host is not None:
            _chips(ax, 9.7, y, case.on_host, result.image_files)
    for x, words in (
        (0, "mounted"),
        (5.0, "the container sees"),
        (9.7, "in the directory on the engine's host"),
    ):
        ax.text(x, rows + 0.72, words, va="center", color=GREY)
    ax.set(xlim=(-0.15, 14.25), ylim=(0.35, rows + 1))
    ax.axis("off")
    ax.set_title(f"The image has files in {result.directory}. What is there with something mounted on it?")
    return ax


def _chips(ax: Axes, x: float, y: float, names: Sequence[str], of_image: Sequence[str]) -> None:
    if not names:
        ax.text(x, y, "nothing", va="center", fontsize=9, color=FAINT, style="italic")
    for name in names:
        width = 0.13 * len(name) + 0.22
        _box(ax, (x, y - 0.2), (width, 0.4), CONTAINER if name in of_image else HOST)
        ax.text(x + width / 2, y, name, ha="center", va="center", fontsize=8.5, color="white")
        x += width + 0.1


def draw_propagation_delays(result: PropagationDelays, ax: Axes) -> Axes:
    """Every delay as a point, in microseconds on a logarithmic axis, one row a direction; the median is marked."""
    resize(ax, 8.5, 3)
    rows = (
        ("container → host's directory", result.to_host_us, CONTAINER),
        ("host's directory → container", result.to_container_us, HOST),
    )
    scatter = random.Random(7)
    for y, (_, values, colour) in enumerate(rows):
        heights = [y + scatter.uniform(-0.17, 0.17) for _ in values]
        ax.plot(values, heights, ".", color=colour, ms=4, alpha=0.45)
        middle = statistics.median(values)
        ax.plot([middle] * 2, [y - 0.3, y + 0.3], color=INK, lw=2)
        words = f"median {_time(middle)} · 99 of 100 within {_time(percentile(values, 99))}"
        ax.text(middle, y - 0.36, words, va="bottom", ha="left", fontsize=9, color=INK)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set(ylim=(1.4, -0.65), xlabel="microseconds from before the write until after the read (logarithmic)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title("One file, two sides: how soon is a change seen?")
    return ax


def _time(us: float) -> str:
    return f"{us:.3g} µs" if us < 1000 else f"{us / 1000:.3g} ms"


def draw_speeds(result: Speeds, ax: Axes) -> Axes:
    """MiB a second, logarithmic: every measurement a point, the median a bar; a row for each place, in three groups."""
    resize(ax, 9, 5.6)
    groups = (
        (CACHED, f"{human_bytes(result.large_bytes)} written, not synced: into memory"),
        (SYNCED, f"{human_bytes(result.large_bytes)} written, then synced once"),
        (SMALL, f"{human_bytes(result.small_bytes)} at random places, a sync after each"),
    )
    ticks, names, y = [], [], 0.0
    for what, words in groups:
        ax.text(0, y, words, weight="bold", va="center", transform=ax.get_yaxis_transform())
        for place in MOUNT_POINTS:
            y += 1
            turns = result.of(place, what)
            rates = [turn.bytes_per_s / MIB for turn in turns]
            ax.plot(rates, [y] * len(rates), "o", color=KIND[place], ms=5, alpha=0.5, mec="none", label=place)
            middle = statistics.median(rates)
            ax.plot([middle] * 2, [y - 0.36, y + 0.36], color=INK, lw=2)
            one = statistics.median(turn.operation_ms for turn in turns)
            label = f"{middle:,.3g} MiB/s" if middle < 1000 else f"{middle:,.0f} MiB/s"
            label += f" · one takes {one:.2g} ms" if what == SMALL else ""
            ax.text(max(rates) * 1.18, y, label, va="center", fontsize=9, color=INK)
            ticks.append(y)
            kind = result.file_systems[place]
            names.append(place if kind == place else f"{place} ({kind})")
        y += 1.4
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.6g}")
    low, high = (end(turn.bytes_per_s / MIB for turn in result.measurements) for end in (min, max))
    ax.set(xlim=(low / 1.5, high * 12), ylim=(y - 0.6, -0.7), xlabel="MiB/s (logarithmic)")
    ax.set_yticks(ticks, names)
    for tick, place in zip(ax.get_yticklabels(), [*MOUNT_POINTS] * len(groups), strict=True):
        tick.set_color(KIND[place])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    ax.set_title(f"Four places to write: {result.repeats} measurements each, in random order")
    return ax
