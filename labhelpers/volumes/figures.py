"""Figures of the chapter on volumes and bind mounts: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    SMALL,
    WHITE,
    arrow,
    box,
    canvas,
    cut,
    describe,
    human_bytes,
    label,
    letters,
    line_height,
    listed,
    note,
    set_height,
    text_width,
    wrap,
)
from labhelpers.volumes.shared_directory import percentile
from labhelpers.volumes.speed import CACHED, MIB, MOUNT_POINTS, SMALL_SYNCED, SYNCED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.results import Result
    from labhelpers.volumes.locations import FileLocations
    from labhelpers.volumes.population import VolumePopulation
    from labhelpers.volumes.shared_directory import PropagationDelays
    from labhelpers.volumes.speed import Speeds

KIND = {"container layer": CONTAINER, "volume": HOST, "bind": KERNEL, "bind mount": KERNEL, "tmpfs": LIMIT}
LIFETIMES = {
    "container layer": "removed with the container",
    "volume": "managed by the engine, stays until it is removed",
    "bind": "a directory of the host, not managed by the engine",
    "tmpfs": "lost when the container stops",
}
"""Kinds of storage in the order of the figure, and how long the files exist."""
CHIP_PX = 24
_GAP_PX = 6


def draw_file_locations(result: FileLocations, ax: Axes) -> Axes:
    """One row for each mount: its path in the container on the left, its location on the engine's host on the right."""
    order = list(LIFETIMES)
    locations = sorted(result.locations, key=lambda each: (order.index(each.kind), each.mount_point))
    head, step, high, left, right = 38, 62, 50, 268, 372
    bottom = head + step * len(locations)
    canvas(ax, bottom + 26, "Where a container's files are")
    box(ax, (0, 0), (left, bottom), PAPER)
    box(ax, (right, 0), (CANVAS_PX - right, bottom), PAPER)
    label(ax, 10, 18, cut(f"container {result.container}", left - 20, bold=True), bold=True)
    label(ax, right + 10, 18, "the engine's host", bold=True)
    for row, each in enumerate(locations):
        y, colour = head + step * row, KIND[each.kind]
        kind = f"{each.kind}, read-only" if each.read_only else each.kind
        for x, wide, path, text in (
            (10, left - 20, each.mount_point, kind),
            (right + 10, CANVAS_PX - right - 20, each.host_path, LIFETIMES[each.kind]),
        ):
            box(ax, (x, y), (wide, high), WHITE, edge=colour)
            label(ax, x + 8, y + 16, cut(path, wide - 16, mono=True), mono=True)
            label(ax, x + 8, y + 36, text, colour, size=SMALL)
        middle = y + high / 2
        arrow(ax, (left - 10, middle), (right + 10, middle), colour, text=each.file_system, both_ways=True)
    note(ax, 0, bottom + 16, "DATA is the engine's data directory")
    describe(ax, *(f"{each.mount_point} ({each.kind}) is {each.host_path} on the host" for each in locations))
    return ax


def draw_volume_population(result: VolumePopulation, ax: Axes) -> Axes:
    """One row for each mount: the option, the files that the container sees, and those on the engine's host."""
    columns, width = (0, 300, 572), CANVAS_PX - 572
    options = [wrap(case.option, columns[1] - 20, SMALL, mono=True) for case in result.cases]
    heights = [
        24 + line_height() + line_height(SMALL, mono=True) * (option.count("\n") + 1 if option else 0)
        for option in options
    ]
    title = f"The image has files in {result.directory}. Which files are visible below a mount?"
    canvas(ax, 26 + sum(heights), title)
    heads = ("mounted", "visible in the container", "in the directory on the engine's host")
    for x, head in zip(columns, heads, strict=True):
        note(ax, x + 8, 10, head)
    y = 26.0
    for row, (case, option, high) in enumerate(zip(result.cases, options, heights, strict=True)):
        box(ax, (0, y), (CANVAS_PX, high), WHITE if row % 2 else PAPER)
        label(ax, 8, y + 12 + line_height() / 2, case.mounted, bold=True)
        note(ax, 8, y + 12 + line_height(), option, mono=True, valign="top")
        for x, names in ((columns[1], case.visible), (columns[2], case.on_host)):
            if names is not None:
                _chips(ax, (x + 8, y + high / 2), width - 8, names, result.image_files)
        y += high
    describe(
        ax,
        *(f"with {case.mounted} mounted the container sees {_named(case.visible)}" for case in result.cases),
    )
    return ax


def _named(names: Sequence[str]) -> str:
    return listed(names) if names else "no files"


def _chips(
    ax: Axes, start: tuple[float, float], width: float, names: Sequence[str], of_image: Sequence[str]
) -> None:
    """A box for each file name, in as many lines as they need, centred at the y of `start`."""
    lines: list[list[tuple[str, float]]] = [[]]
    for name in names:
        wide = text_width(name, SMALL) + 18
        if lines[-1] and sum(each + _GAP_PX for _, each in lines[-1]) + wide > width:
            lines.append([])
        lines[-1].append((name, wide))
    if not names:
        note(ax, *start, "nothing")
    y = start[1] - (len(lines) * (CHIP_PX + _GAP_PX) - _GAP_PX) / 2
    for line in lines:
        x = start[0]
        for name, wide in line:
            box(ax, (x, y), (wide, CHIP_PX), CONTAINER if name in of_image else HOST, text=name)
            x += wide + _GAP_PX
        y += CHIP_PX + _GAP_PX


def draw_propagation_delays(result: PropagationDelays, ax: Axes) -> Axes:
    """Every delay as a point on a logarithmic axis, one row for each direction; a line marks the median."""
    directions = (
        ("container → host's directory", result.to_host_us, CONTAINER),
        ("host's directory → container", result.to_container_us, HOST),
    )
    set_height(ax, 300)
    ax.set_xscale("log")
    ax.set(ylim=(1.4, -0.65), xlabel="microseconds from before the write until after the read (logarithmic)")
    first = min(*result.to_host_us, *result.to_container_us)
    scatter = random.Random(7)
    facts = []
    for y, (name, values, colour) in enumerate(directions):
        heights = [y + scatter.uniform(-0.17, 0.17) for _ in values]
        ax.plot(values, heights, ".", color=colour, ms=4, alpha=0.45)
        median = statistics.median(values)
        ax.plot([median] * 2, [y - 0.28, y + 0.28], color=INK, lw=2)
        text = f"median {_time(median)} · 99 of 100 within {_time(percentile(values, 99))}"
        label(ax, first, y - 0.34, text, size=SMALL, valign="bottom")
        facts.append(f"{name}: {text}")
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.set_yticks(range(len(directions)), [name for name, _, _ in directions])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title("One file, two paths: how soon is a change visible?")
    describe(ax, *facts)
    return ax


def _time(us: float) -> str:
    return f"{us:.3g} µs" if us < 1000 else f"{us / 1000:.3g} ms"


def draw_speeds(result: Speeds, ax: Axes) -> Axes:
    """Every measurement as a point, in MiB/s on a logarithmic axis; one row for each storage, in three groups."""
    groups = (
        (CACHED, f"{human_bytes(result.large_bytes)} written, not synced: to memory"),
        (SYNCED, f"{human_bytes(result.large_bytes)} written, then synced once"),
        (SMALL_SYNCED, f"{human_bytes(result.small_bytes)} at random offsets, a sync after each write"),
    )
    names = {
        storage: storage if storage == kind else f"{storage} ({kind})"
        for storage, kind in result.file_systems.items()
    }
    row_px = 26
    set_height(ax, 90 + row_px * (len(groups) * (len(MOUNT_POINTS) + 1.4)))
    low, high = (end(each.bytes_per_s / MIB for each in result.measurements) for end in (min, max))
    # the labels right of the points need this part of the axis
    share = 260 / (CANVAS_PX - max(map(text_width, names.values())))
    ax.set_xscale("log")
    ax.set(xlim=(low / 1.5, high * (high / low * 1.5) ** (share / (1 - share))), xlabel="MiB/s (logarithmic)")
    ticks: list[float] = []
    y, facts = 0.0, []
    for mode, text in groups:
        label(ax, low / 1.5, y, text, bold=True)
        medians = []
        for storage in MOUNT_POINTS:
            y += 1
            ticks.append(y)
            group = result.of(storage, mode)
            rates = [each.bytes_per_s / MIB for each in group]
            ax.plot(
                rates, [y] * len(rates), "o", color=KIND[storage], ms=5, alpha=0.5, mec="none", label=storage
            )
            median = statistics.median(rates)
            ax.plot([median] * 2, [y - 0.36, y + 0.36], color=INK, lw=2)
            value = f"{median:,.3g} MiB/s" if median < 1000 else f"{median:,.0f} MiB/s"
            medians.append(f"{storage} {value}")
            if mode == SMALL_SYNCED:
                write_ms = statistics.median(each.operation_ms for each in group)
                value += f" · {write_ms:.2g} ms per write"
            label(ax, max(rates), y, value, size=SMALL, shift=(8, 0))
        facts.append(f"{text}: {listed(medians)}")
        y += 1.4
    ax.set_ylim(y - 0.6, -0.7)
    # up to the last decade with data
    ax.set_xticks(
        [10.0**power for power in range(math.ceil(math.log10(low / 1.5)), math.ceil(math.log10(high)))]
    )
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.minorticks_off()
    ax.set_yticks(ticks, [names[storage] for _ in groups for storage in MOUNT_POINTS])
    for tick, storage in zip(ax.get_yticklabels(), [*MOUNT_POINTS] * len(groups), strict=True):
        tick.set_color(letters(KIND[storage]))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(f"Write speed of four kinds of storage: {result.repeats} measurements each, in random order")
    describe(ax, *facts)
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """Locate the files of a container, populate volumes, and measure delays and write speed.

    The directory of the bind mount is on this machine, so run this where the engine is on this machine.
    """
    from labhelpers import volumes

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "target"
        target.mkdir()
        lab.create_volume("my-appvol-1")
        container = lab.run(
            lab.image("base"),
            "sleep 600",
            name="vol-test1",
            network="none",
            volumes=["my-appvol-1:/var/log"],
            mounts=[f"type=bind,source={target},target=/target,readonly"],
            tmpfs={"/run": "size=16m"},
        )
        yield volumes.file_locations(lab, container)
        lab.remove(container, force=True)
    yield volumes.populate(lab)
    yield volumes.propagation_delays(lab)
    yield volumes.speeds(lab)
