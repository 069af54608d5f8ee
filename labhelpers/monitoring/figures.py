"""Figures of the chapter on monitoring: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    KERNEL,
    PAPER,
    SMALL,
    VM,
    WHITE,
    bar,
    canvas,
    describe,
    grid,
    label,
    lane_labels,
    listed,
    note,
    rows,
    wrap,
)
from labhelpers.monitoring.engine_socket import TARGET_DESCRIPTIONS, TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.monitoring.engine_socket import SocketAccess
    from labhelpers.monitoring.restart import EngineRestartResults, RestartResult, RestartResults
    from labhelpers.monitoring.timeline import Timeline, TimelineEntry
    from labhelpers.results import Result

STATE_COLOURS = {"created": FAINT, "running": HOST, "paused": KERNEL, "down": PAPER}


def draw_restart_results(result: RestartResults, ax: Axes) -> Axes:
    """A grid with one row for each policy and one column for each kind of exit."""
    return _draw_policies(result, ax, "Which containers the engine restarts")


def draw_engine_restart_results(result: EngineRestartResults, ax: Axes) -> Axes:
    """A grid with one row for each policy and one column for each kind of restart of the engine."""
    return _draw_policies(result, ax, "Which containers run after a restart of the engine")


def _draw_policies(result: RestartResults, ax: Axes, title: str) -> Axes:
    if not result.results:
        text = f"Not measured here: {result.unavailable_reason}"
        canvas(ax, 60, title)
        label(ax, 0, 4, wrap(text, CANVAS_PX), valign="top")
        describe(ax, text)
        return ax
    heads = []
    for cause in result.exit_causes:
        exit_code = result.exit_description(cause)
        heads.append(cause if cause == exit_code else f"{cause}\n({exit_code})")
    cells = [[_cell(result.of(policy, cause)) for cause in result.exit_causes] for policy in result.policies]
    grid(ax, heads, result.policies, cells, title=title, mono=True)
    describe(ax, *(f"after {cause}: {result.restarted_text(cause)}" for cause in result.exit_causes))
    return ax


def _cell(result: RestartResult) -> tuple[str, str]:
    colour = HOST if result.runs else KERNEL if result.restarts else WHITE
    return result.description.removeprefix("comes back "), colour


def draw_socket_access(result: SocketAccess, ax: Axes) -> Axes:
    """A grid with one row for each kind of access and one column for each target."""
    cells = [
        [
            (("yes", ENGINE if target == "names" else VM) if access.granted[target] else ("refused", WHITE))
            for target in TARGETS
        ]
        for access in result.results
    ]
    names = [access.access for access in result.results]
    heads = [TARGET_DESCRIPTIONS[target] for target in TARGETS]
    grid(ax, heads, names, cells, title="What a container can do with each kind of access to the engine")
    describe(
        ax,
        *(
            f"{access.access}: "
            + listed([TARGET_DESCRIPTIONS[target] for target in TARGETS if access.granted[target]])
            for access in result.results
        ),
    )
    return ax


def draw_timeline(result: Timeline, ax: Axes) -> Axes:
    """The container's states as a bar, the engine's events above it, and the log lines of each run below it."""
    runs = _lines_of_runs(result)
    last = max(entry.at_s for entry in result.entries)
    rows(
        ax,
        ["state", *(f"run {run}: {len(lines)} lines" for run, lines in runs)],
        title="One container in docker events and docker logs",
        end=last * 1.22,
        xlabel="seconds since the container was created, on the engine's clock",
    )
    for state, begin, end in result.states:
        bar(ax, 0, begin, end, STATE_COLOURS[state], state)
    lane_labels(ax, [(event.at_s, event.text) for event in result.events], -0.3, ENGINE)
    note(ax, 0, -0.6, "docker events", align="right", shift=(-8, 0))
    for row, (_, lines) in enumerate(runs, start=1):
        ax.plot([line.at_s for line in lines], [row] * len(lines), "o", ms=4.5, color=CONTAINER)
        label(ax, lines[-1].at_s, row, f"“{lines[-1].text}”", CONTAINER, size=SMALL, shift=(8, 0))
    describe(
        ax,
        "docker events: " + listed([f"{event.text} at {event.at_s:.1f} s" for event in result.events]),
        "docker logs: " + listed([f"{len(lines)} lines of run {run}" for run, lines in runs]),
    )
    return ax


def _lines_of_runs(result: Timeline) -> list[tuple[str, list[TimelineEntry]]]:
    """The log lines of each run, by the number in their text."""
    runs: dict[str, list[TimelineEntry]] = {}
    for line in result.lines:
        runs.setdefault(line.text.removeprefix("run ")[:1], []).append(line)
    return sorted(runs.items())


def assets(lab: Lab) -> Iterator[Result]:
    """Run every experiment of the chapter once."""
    from labhelpers import monitoring

    yield monitoring.timeline(lab)
    yield monitoring.restart_policies(lab)
    yield monitoring.engine_restart_policies(lab)
    yield monitoring.socket_access(lab, monitoring.find_engine_socket(lab))
