"""Figures of the chapter on data that outlive their container: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, PAPER, VM, human_bytes, resize
from labhelpers.persistence.data_location import (
    ANONYMOUS_VOLUME,
    BIND,
    CONTAINER_LAYER,
    DataLocation,
    DataLocations,
)
from labhelpers.persistence.kills import (
    FLUSHED_AT_COMMIT,
    FLUSHED_EACH_SECOND,
    WRITTEN_EACH_SECOND,
    DurabilityTradeoff,
    Kills,
)
from labhelpers.persistence.shared_data import SharedDataDirectory
from labhelpers.persistence.survival import OPERATIONS, STORAGE_KINDS, Survival

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#555555"
_ENDS = {
    CONTAINER_LAYER: "docker rm removes it",
    ANONYMOUS_VOLUME: "docker rm leaves it, and nobody finds it:\nthe next container gets a new, empty one;\n"
    "docker rm -v removes it",
    BIND: "docker rm leaves it;\nits path brings it back",
}
_NAMED = "docker rm leaves it, docker rm -v too;\nits name brings it back"


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, face: str, edge: str, dashed: bool
) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.12"
    box = FancyBboxPatch((x, y), width, height, style, fc=face, ec=edge, lw=1.5, ls="--" if dashed else "-")
    ax.add_patch(box)


def draw_data_locations(result: DataLocations, ax: Axes) -> Axes:
    """One column a container: the container, the path in it, and the place behind that path."""
    count = len(result.locations)
    resize(ax, 3.3 * count + 0.4, 4.0)
    for column, one in enumerate(result.locations):
        _place(ax, 3.3 * column, one)
    ax.set(xlim=(-0.1, 3.3 * count - 0.1), ylim=(-1.25, 4.15))
    ax.set_title("Where the data directory is, as docker inspect says it")
    ax.axis("off")
    return ax


def _place(ax: Axes, x: float, one: DataLocation) -> None:
    from matplotlib.patches import FancyArrowPatch

    middle = x + 1.5
    _box(ax, x, 2.3, 3.0, 1.55, "white", CONTAINER, dashed=True)
    ax.text(
        x + 0.15, 3.67, f"container {one.container}", color=CONTAINER, fontsize=9.5, weight="bold", va="top"
    )
    ax.text(
        middle, 2.78, "/var/lib/mysql", ha="center", va="center", fontsize=10, family="monospace", color=INK
    )
    if one.kind == CONTAINER_LAYER:
        ax.text(middle, 2.48, "in its own layer", ha="center", va="center", fontsize=9, color=INK)
    else:
        colour, face = (VM, "#FBEFE6") if one.kind == ANONYMOUS_VOLUME else (HOST, "#E6F4EF")
        arrow = FancyArrowPatch((middle, 2.6), (middle, 1.32), arrowstyle="-|>", mutation_scale=12)
        arrow.set(color=colour, linewidth=1.6)
        ax.add_patch(arrow)
        _box(ax, x, 0.15, 3.0, 1.15, face, colour, dashed=False)
        said = "a directory of the host" if one.kind == BIND else one.kind
        ax.text(middle, 0.98, said, ha="center", va="center", fontsize=10, weight="bold", color=INK)
        ax.text(
            middle, 0.66, one.volume, ha="center", va="center", fontsize=9.5, family="monospace", color=INK
        )
        asked = "asked for" if one.requested else "nobody asked: the image's VOLUME"
        size = f" · {human_bytes(one.size_bytes)}" if one.size_bytes is not None else ""
        ax.text(middle, 0.36, asked + size, ha="center", va="center", fontsize=8.5, color=GREY)
    ends = _ENDS.get(one.kind, _NAMED)
    ax.text(middle, -0.02, ends, ha="center", va="top", fontsize=9, color=INK, linespacing=1.3)


def draw_survival(result: Survival, ax: Axes) -> Axes:
    """The table: what was measured in every cell; below it what the reader predicted, and whether that came true."""
    from matplotlib.patches import Rectangle

    resize(ax, 8.4, 3.9)
    for row, operation in enumerate(OPERATIONS):
        ax.text(-0.06, row, operation, ha="right", va="center", fontsize=10, color=INK)
        for column, way in enumerate(STORAGE_KINDS):
            one = result.of(way, operation)
            told, found = one.predicted, one.measured
            face, edge = ("#DDF0E9", HOST) if one.survived else ("#FADFCB", VM)
            ax.add_patch(Rectangle((column + 0.02, row - 0.44), 0.96, 0.88, fc=face, ec=edge, lw=1.2))
            ax.text(column + 0.5, row - 0.14, found, ha="center", va="center", fontsize=10.5, weight="bold")
            if told is not None:
                said, colour = (
                    f"you said: {told} {'✓' if told == found else '✗'}",
                    INK if told == found else VM,
                )
            elif result.predictions:
                said, colour = "no prediction", GREY
            else:
                # "ERROR 1049 (42000) at line 1: Unknown database …"
                said, colour = one.answer.rpartition(": ")[2], GREY
            ax.text(column + 0.5, row + 0.21, said, ha="center", va="center", fontsize=8.8, color=colour)
    for column, way in enumerate(STORAGE_KINDS):
        ax.text(column + 0.5, -0.62, way, ha="center", va="center", fontsize=10.5, weight="bold", color=INK)
    score = (
        f" {result.correct_predictions} of {result.predictions} predictions came true"
        if result.predictions
        else ""
    )
    ax.set_title(f"The row of mytab, afterwards.{score}")
    ax.set(xlim=(-0.95, len(STORAGE_KINDS) + 0.02), ylim=(len(OPERATIONS) - 0.45, -0.85))
    ax.axis("off")
    return ax


def draw_kills(result: Kills, ax: Axes) -> Axes:
    """One bar a kill: rows that were acknowledged and are there, those that are lost, those that nobody was told of."""
    resize(ax, 8.0, 1.2 + 0.34 * len(result.kills))
    most = max(one.acknowledged + one.unacknowledged for one in result.kills)
    for row, one in enumerate(result.kills):
        kept = one.acknowledged - one.lost
        ax.barh(row, kept, height=0.62, color=CONTAINER)
        ax.barh(row, one.lost, left=kept, height=0.62, color=VM, hatch="//", edgecolor="white")
        ax.barh(row, one.unacknowledged, left=one.acknowledged, height=0.62, color=KERNEL)
        said = f"{one.acknowledged} acknowledged, {kept} of them there"
        if one.unacknowledged:
            said += f", and {one.unacknowledged} more"
        ax.text(one.acknowledged + one.unacknowledged + most * 0.012, row, said, va="center", fontsize=9)
    ax.set_yticks(range(len(result.kills)), [f"kill {number}" for number in range(1, len(result.kills) + 1)])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, most * 1.55), ylim=(len(result.kills) - 0.4, -0.6))
    ax.set_xlabel("rows committed from the start of the writer to SIGKILL")
    more = sum(one.unacknowledged for one in result.kills)
    extra = f", {more} more than acknowledged" if more else ""
    ax.set_title(
        f"{result.acknowledged} rows acknowledged in {len(result.kills)} kills, {result.lost} lost{extra}"
    )
    ax.spines["left"].set_visible(False)
    return ax


_MEANS = {
    FLUSHED_AT_COMMIT: ("flushed to the disk\nat every commit", CONTAINER),
    FLUSHED_EACH_SECOND: ("given to the kernel at every\ncommit, flushed once a second", ENGINE),
    WRITTEN_EACH_SECOND: ("given to the kernel\nonce a second", VM),
}


def draw_durability_tradeoff(result: DurabilityTradeoff, ax: Axes) -> Axes:
    """Two panels of one figure: rows a second under each setting, and what each kill has lost of them."""
    resize(ax, 9.2, 3.6)
    ax.axis("off")
    ax.set_title("innodb_flush_log_at_trx_commit / sync_binlog: what speed costs")
    left, right = ax.inset_axes((0.2, 0.13, 0.33, 0.85)), ax.inset_axes((0.64, 0.13, 0.34, 0.85))
    fastest = max(result.rows_per_s(one.setting) for one in result.runs)
    most = max(1, *(kill.lost for one in result.runs for kill in one.kills))
    for row, one in enumerate(result.runs):
        means, colour = _MEANS.get(one.setting, ("", FAINT))
        rate = result.rows_per_s(one.setting)
        left.barh(row, rate, height=0.55, color=colour)
        said = f"{rate:,.0f}" + (
            "" if one.setting == FLUSHED_AT_COMMIT else f" · {result.speedup(one.setting):.1f} times"
        )
        left.text(rate + fastest * 0.02, row, said, va="center", fontsize=9.5)
        left.text(
            -fastest * 0.04, row - 0.1, str(one.setting), ha="right", va="bottom", weight="bold", fontsize=10
        )
        left.text(-fastest * 0.04, row - 0.08, means, ha="right", va="top", fontsize=8.2, color=GREY)
        lost = [kill.lost for kill in one.kills]
        step = min(0.09, 0.4 / len(lost))
        spread = [row + step * (number - (len(lost) - 1) / 2) for number in range(len(lost))]
        right.plot(lost, spread, "o", color=colour, ms=6, mec="white", clip_on=False)
        worst = max(one.kills, key=lambda kill: kill.lost)
        if not worst.lost:
            right.text(most * 0.04, row, f"none in {len(lost)} kills", fontsize=9, va="center")
            continue
        said = f"up to {worst.lost}"
        if worst.rows_per_s:
            said += f": the work of {worst.lost / worst.rows_per_s:.2f} s"
        right.text(most * 1.05, row - 0.27, said, fontsize=9, va="bottom", ha="right")
    for panel, top in ((left, fastest * 1.38), (right, most * 1.05)):
        panel.set(xlim=(0, top), ylim=(len(result.runs) - 0.5, -0.6), yticks=[])
        panel.tick_params(labelsize=8.5)
        panel.spines["left"].set_visible(False)
    right.axvline(0, color=FAINT, lw=1)
    left.set_xlabel("rows acknowledged a second", fontsize=9.5)
    right.set_xlabel("acknowledged rows lost, each kill a point", fontsize=9.5)
    return ax


def draw_shared_data_directory(result: SharedDataDirectory, ax: Axes) -> Axes:
    """Two containers, one volume: who holds the lock, and what the other one says."""
    from matplotlib.patches import FancyArrowPatch

    resize(ax, 8.4, 3.0)
    held = bool(result.log_line)
    for x, name, colour in ((0.0, "first", CONTAINER), (5.4, "second", VM)):
        _box(ax, x, 1.9, 3.0, 0.9, "white", colour, dashed=False)
        ax.text(x + 1.5, 2.35, f"the {name} server", ha="center", va="center", color=colour, weight="bold")
        arrow = FancyArrowPatch((x + 1.5, 1.9), (3.3 + 0.35 * x, 1.0), arrowstyle="-|>", mutation_scale=12)
        arrow.set(color=colour, linewidth=1.6, linestyle="-" if x == 0 or not held else ":")
        ax.add_patch(arrow)
    _box(ax, 2.7, 0.1, 3.0, 0.9, PAPER, INK, dashed=False)
    ax.text(4.2, 0.55, "one data directory", ha="center", va="center", weight="bold", color=INK)
    told = f"{result.rows_before} row before, {result.rows_after} after\ncheck table: {result.check}"
    told = f"the first holds the lock:\n{told}"
    ax.text(2.5, 0.55, told, ha="right", va="center", fontsize=9, color=INK)
    said = result.message.split("] ")[-1] if held else "got no lock error"
    ax.text(
        5.9,
        0.55,
        f"the second says:\n“{said}”\nafter {result.waited_s:.1f} s",
        ha="left",
        va="center",
        fontsize=9,
        color=VM,
    )
    ax.set(xlim=(-0.1, 8.9), ylim=(-0.05, 3.0))
    ax.set_title("Two servers on one data directory")
    ax.axis("off")
    return ax
