"""Figures of the chapter on data that outlive their container: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    GREY,
    HOST,
    INK,
    KERNEL,
    PAPER,
    SMALL,
    VM,
    WHITE,
    arrow,
    bar,
    box,
    canvas,
    cut,
    describe,
    grid,
    human_bytes,
    key,
    label,
    line_height,
    note,
    rows,
    set_height,
    text_width,
    tint,
    wrap,
)
from labhelpers.persistence.data_location import (
    ANONYMOUS_VOLUME,
    BIND,
    CONTAINER_LAYER,
    VOLUME,
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
from labhelpers.persistence.servers import DATA
from labhelpers.persistence.survival import OPERATIONS, STORAGE_KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.persistence.shared_data import SharedDataDirectory
    from labhelpers.persistence.survival import Survival, SurvivalOutcome
    from labhelpers.results import Result

_AFTER_REMOVAL = {
    CONTAINER_LAYER: "docker rm removes it",
    ANONYMOUS_VOLUME: "docker rm leaves it, but the next container gets a new, empty one; docker rm -v removes it",
    VOLUME: "docker rm and docker rm -v leave it; the next container can mount it by its name",
    BIND: "docker rm leaves it; the next container can mount it by its path",
}


def draw_data_locations(result: DataLocations, ax: Axes) -> Axes:
    """One column for each container: its path of the data directory, and the storage behind that path."""
    step = min(CANVAS_PX / len(result.locations), 300)
    width = step - 20
    removals = [wrap(_AFTER_REMOVAL[each.kind], width, SMALL) for each in result.locations]
    origins = [wrap(_origin(each), width - 16, SMALL) for each in result.locations]
    below = 166 + _height(origins) + 8
    canvas(ax, below + 10 + _height(removals), "Where the data directory is, according to docker inspect")
    for column, (each, origin, removal) in enumerate(zip(result.locations, origins, removals, strict=True)):
        x = step * column
        _draw_container(ax, x, width, each)
        if each.kind != CONTAINER_LAYER:
            _draw_storage(ax, x, width, below, each, origin)
        label(ax, x, 94 if each.kind == CONTAINER_LAYER else below + 10, removal, size=SMALL, valign="top")
    describe(
        ax, *(f"{each.container}: {each.kind}, {_AFTER_REMOVAL[each.kind]}" for each in result.locations)
    )
    return ax


def _height(texts: Sequence[str]) -> float:
    return line_height(SMALL) * max(text.count("\n") + 1 for text in texts)


def _origin(location: DataLocation) -> str:
    origin = "requested" if location.requested else "from the image's VOLUME"
    return origin if location.size_bytes is None else f"{origin} · {human_bytes(location.size_bytes)}"


def _draw_container(ax: Axes, x: float, width: float, location: DataLocation) -> None:
    box(ax, (x, 0), (width, 84), WHITE, edge=CONTAINER, dashed=True)
    name = cut(f"container {location.container}", width - 16, bold=True)
    label(ax, x + 8, 18, name, CONTAINER, bold=True)
    label(ax, x + width / 2, 44, DATA, mono=True, align="center")
    if location.kind == CONTAINER_LAYER:
        note(ax, x + width / 2, 66, "in the container's own layer", align="center")


def _draw_storage(
    ax: Axes, x: float, width: float, bottom: float, location: DataLocation, origin: str
) -> None:
    middle = x + width / 2
    colour = VM if location.kind == ANONYMOUS_VOLUME else HOST
    arrow(ax, (middle, 56), (middle, 116), colour)
    box(ax, (x, 116), (width, bottom - 116), tint(colour), edge=colour)
    kind = "directory of the host" if location.kind == BIND else location.kind
    label(ax, middle, 134, cut(kind, width - 16, bold=True), bold=True, align="center")
    volume = cut(location.volume, width - 16, SMALL, mono=True)
    label(ax, middle, 154, volume, size=SMALL, mono=True, align="center")
    note(ax, middle, 166, origin, align="center", valign="top").set_multialignment("center")


def draw_survival(result: Survival, ax: Axes) -> Axes:
    """Whether the row survived, for each operation and storage; with the prediction, or else the server's answer."""
    cells = [
        [_survival_cell(result, result.of(storage, operation)) for storage in STORAGE_KINDS]
        for operation in OPERATIONS
    ]
    score = ""
    if result.predictions:
        score = f": {result.correct_predictions} of {result.predictions} predictions are correct"
    grid(ax, STORAGE_KINDS, OPERATIONS, cells, title=f"The row of mytab after each operation{score}")
    facts = (
        f"{operation}: "
        + ", ".join(f"{storage} {result.of(storage, operation).measured}" for storage in STORAGE_KINDS)
        for operation in OPERATIONS
    )
    describe(ax, *facts)
    return ax


def _survival_cell(result: Survival, outcome: SurvivalOutcome) -> tuple[str, str]:
    if outcome.predicted is not None:
        mark = "✓" if outcome.predicted == outcome.measured else "✗"
        detail = f"predicted: {outcome.predicted} {mark}"
    elif result.predictions:
        detail = "no prediction"
    else:
        # "ERROR 1049 (42000) at line 1: Unknown database …"
        detail = outcome.answer.rpartition(": ")[2]
    return f"{outcome.measured}\n{detail}", tint(HOST if outcome.survived else VM)


def draw_kills(result: Kills, ax: Axes) -> Axes:
    """One bar for each kill: acknowledged rows that exist, acknowledged rows that are lost, unacknowledged rows."""
    count = len(result.kills)
    texts = [_kill_text(kill.acknowledged, kill.lost, kill.unacknowledged) for kill in result.kills]
    longest = max(kill.acknowledged + kill.unacknowledged for kill in result.kills)
    # the part of the axis that the labels right of the bars need
    share = (max(text_width(text, SMALL) for text in texts) + 20) / (CANVAS_PX - 60)
    rows(
        ax,
        [f"kill {number}" for number in range(1, count + 1)],
        title=f"{count} kills: {_kill_text(result.acknowledged, result.lost, _unacknowledged(result))}",
        end=max(longest, 1) / (1 - share),
        xlabel="rows committed before SIGKILL",
        row_px=30,
        keyed=True,
    )
    key(
        ax,
        [
            (CONTAINER, "acknowledged, exist"),
            (VM, "acknowledged, lost"),
            (KERNEL, "not acknowledged, exist"),
        ],
    )
    for row, (kill, text) in enumerate(zip(result.kills, texts, strict=True)):
        existing = kill.acknowledged - kill.lost
        total = kill.acknowledged + kill.unacknowledged
        bar(ax, row, 0, existing, CONTAINER)
        bar(ax, row, existing, kill.acknowledged, VM)
        if kill.unacknowledged:  # most often a single row: too narrow for a bar
            ax.plot([total], [row], "|", color=KERNEL, ms=18, mew=2.5)
        label(ax, total, row, text, size=SMALL, shift=(8, 0))
    describe(ax, *(f"kill {number}: {text}" for number, text in enumerate(texts, 1)))
    return ax


def _unacknowledged(result: Kills) -> int:
    return sum(kill.unacknowledged for kill in result.kills)


def _kill_text(acknowledged: int, lost: int, unacknowledged: int) -> str:
    """`385 rows acknowledged, 0 lost, 1 not acknowledged`."""
    extra = f", {unacknowledged} not acknowledged" if unacknowledged else ""
    return f"{acknowledged:,} rows acknowledged, {lost:,} lost{extra}"


_SETTINGS = {
    FLUSHED_AT_COMMIT: ("flushed to the disk at every commit", CONTAINER),
    FLUSHED_EACH_SECOND: ("written to the kernel at every commit, flushed once per second", ENGINE),
    WRITTEN_EACH_SECOND: ("written to the kernel once per second", VM),
}


def draw_durability_tradeoff(result: DurabilityTradeoff, ax: Axes) -> Axes:
    """Two charts with a row for each setting: the commit rate, and the rows that each kill lost."""
    set_height(ax, 340)
    ax.axis("off")
    ax.set_title("innodb_flush_log_at_trx_commit / sync_binlog: commit rate and lost rows")
    rates, losses = ax.inset_axes((0.25, 0.17, 0.36, 0.83)), ax.inset_axes((0.66, 0.17, 0.33, 0.83))
    fastest = max(result.rows_per_s(run.setting) for run in result.runs)
    worst = max(1, *(kill.lost for run in result.runs for kill in run.kills))
    for chart, end, xlabel in (
        (rates, fastest * 1.65, "acknowledged rows per second"),
        (losses, worst * 1.05, "acknowledged rows lost, a point for each kill"),
    ):
        chart.set(xlim=(0, end), ylim=(len(result.runs) - 0.5, -0.6), yticks=[], xlabel=xlabel)
        chart.spines["left"].set_visible(False)
    facts = []
    for row, run in enumerate(result.runs):
        meaning, colour = _SETTINGS.get(run.setting, ("", FAINT))
        rate = result.rows_per_s(run.setting)
        rates.barh(row, rate, height=0.5, color=colour)
        speedup = "" if run.setting == FLUSHED_AT_COMMIT else f" · {result.speedup(run.setting):.1f} times"
        label(rates, rate, row, f"{rate:,.0f}{speedup}", size=SMALL, shift=(8, 0))
        label(rates, 0, row, str(run.setting), bold=True, align="right", valign="bottom", shift=(-10, 2))
        note(rates, 0, row, wrap(meaning, 190, SMALL), align="right", valign="top", shift=(-10, 0))
        lost = _draw_losses(losses, row, run, worst, colour)
        facts.append(f"{run.setting}: {rate:,.0f} rows per second{speedup}, lost rows: {lost}")
    losses.axvline(0, color=FAINT, lw=1)
    describe(ax, *facts)
    return ax


def _draw_losses(ax: Axes, row: int, run: Kills, worst: int, colour: str) -> str:
    """A point for each kill; gives the label."""
    lost = [kill.lost for kill in run.kills]
    step = min(0.09, 0.4 / len(lost))
    heights = [row + step * (number - (len(lost) - 1) / 2) for number in range(len(lost))]
    ax.plot(lost, heights, "o", color=colour, ms=6, mec=WHITE, clip_on=False)
    kill = max(run.kills, key=lambda each: each.lost)
    if not kill.lost:
        text = f"none in {len(lost)} kills"
        label(ax, 0, row, text, size=SMALL, shift=(12, 0))
        return text
    text = f"up to {kill.lost:,}"
    if kill.rows_per_s:
        text += f", written in {kill.lost / kill.rows_per_s:.2f} s"
    label(ax, worst * 1.05, row - 0.24, text, size=SMALL, align="right", valign="bottom")
    return text


def draw_shared_data_directory(result: SharedDataDirectory, ax: Axes) -> Axes:
    """Two servers and one data directory: which server has the lock, and the error message of the other one."""
    wide, high, right, middle, top = 240, 56, CANVAS_PX - 240, (CANVAS_PX - 240) / 2, 120
    locked = bool(result.log_line)
    canvas(ax, 190, "Two servers with one data directory")
    for x, name, colour in ((0.0, "first", CONTAINER), (right, "second", VM)):
        box(ax, (x, 0), (wide, high), WHITE, edge=colour, title=f"the {name} server")
    half = wide / 2
    arrow(ax, (half, high), (middle + half - 40, top), CONTAINER)
    arrow(ax, (right + half, high), (middle + half + 40, top), VM, dashed=locked)
    box(ax, (middle, top), (wide, high), PAPER, edge=INK, title="one data directory")
    message = f"“{result.message.rpartition('] ')[2]}”" if locked else "got no lock error"
    first = "the first server has the lock\n" if locked else "the first server\n"
    first += f"rows: {result.rows_before} before, {result.rows_after} after\ncheck table: {result.check}"
    second = f"the second server after {result.waited_s:.1f} s:\n{message}"
    room = middle - 30
    label(ax, 0, top + 10, wrap(first, room, SMALL), GREY, size=SMALL, valign="top")
    text = wrap(second, room, SMALL)
    label(ax, middle + wide + 30, top + 10, text, VM, size=SMALL, valign="top")
    describe(
        ax,
        first.replace("\n", ", "),
        second.replace("\n", " "),
    )
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """Store data in three ways, run every operation on each, kill servers, and start two with one directory."""
    from labhelpers import persistence

    image, source = lab.image("mysql"), "mysql-vol"
    persistence.data_directory(lab, image, source)
    yield _data_locations(lab, image, source)
    yield persistence.survival(lab, image, source)
    kills = persistence.kills(lab, image, source)
    yield kills
    yield persistence.durability_tradeoff(lab, image, source, kills)
    yield persistence.two_servers_one_volume(lab, image, source)


def _data_locations(lab: Lab, image: str, source: str) -> DataLocations:
    """A server for each kind of storage, and the location of its data directory."""
    from labhelpers.persistence import servers
    from labhelpers.persistence.data_location import find_data_location

    directory = servers.host_directory(lab, "mysql-host")
    servers.copy_volume(lab, source, directory)
    containers = [servers.start_without_volume(lab, image, source, name="no-volume")]
    try:
        for name, mount in (("with-a-volume", source), ("with-a-bind-mount", directory)):
            containers.append(servers.start_server(lab, image, mount, name=name, network="none"))
        for container in containers:
            servers.wait_until_ready(lab, container)
        locations = DataLocations(tuple(find_data_location(lab, str(each.name)) for each in containers))
        for container in containers:
            lab.stop(container, timeout_s=servers.STOP_TIMEOUT_S)
        return locations
    finally:
        for container in containers:
            servers.remove_server(lab, container)
