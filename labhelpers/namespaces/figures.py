"""Figures of the chapter on namespaces: they draw data on an Axes and talk to no engine."""

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
    LIMIT,
    PAPER,
    SMALL,
    VM,
    WHITE,
    bar,
    box,
    canvas,
    cut,
    describe,
    grid,
    label,
    lane_labels,
    line_height,
    listed,
    rows,
    tint,
    wrap,
)
from labhelpers.namespaces.tree_figures import draw_process_tree, draw_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.namespaces.identity import NamespaceMatrix, Namespaces
    from labhelpers.namespaces.joining import EnteredNamespaces, Sharing
    from labhelpers.namespaces.optional_namespaces import CgroupView, TimeNamespaceOffset, UserNamespaces
    from labhelpers.namespaces.pid1 import Signals, Stops, Zombies
    from labhelpers.namespaces.visibility import Visibility
    from labhelpers.results import Result

__all__ = [
    "assets",
    "draw_cgroup_view",
    "draw_entered_namespaces",
    "draw_namespace_matrix",
    "draw_namespaces",
    "draw_process_tree",
    "draw_sharing",
    "draw_signals",
    "draw_stops",
    "draw_time_namespace_offset",
    "draw_user_namespaces",
    "draw_views",
    "draw_visibility",
    "draw_zombies",
]

# one colour for the namespaces of one row: the host's, then the containers' in their order
OWNERS = (HOST, CONTAINER, VM, LIMIT, ENGINE, KERNEL)
ISOLATED = {
    "pid": "process ids",
    "net": "interfaces",
    "ipc": "shared memory",
    "mnt": "mounts",
    "uts": "host name",
    "user": "user ids",
    "cgroup": "cgroup root",
    "time": "clocks",
}
YES, NO, BAD = tint(CONTAINER), WHITE, tint(VM)


def _write_below(ax: Axes, title: str, lines: Sequence[str], *, mono: bool = False) -> None:
    """Make a grid higher, and write lines of small text below it."""
    height, step = ax.get_ylim()[0], line_height(SMALL, mono=mono) + 2
    canvas(ax, height + (step * len(lines) + 6 if lines else 0), title)
    for number, line in enumerate(lines):
        text = cut(line, CANVAS_PX, SMALL, mono=mono)
        label(ax, 0, height + 6 + step * (number + 0.5), text, INK if mono else GREY, size=SMALL, mono=mono)


# --- the namespaces of processes


def draw_namespaces(result: Namespaces, ax: Axes) -> Axes:
    """One row: a cell for each kind of namespace, with the end of its id."""
    from labhelpers.namespaces.identity import NamespaceMatrix

    draw_namespace_matrix(NamespaceMatrix((result,)), ax)
    ax.set_title(f"The namespaces of {result.name} (PID {result.pid} on the host)")
    describe(ax, *(f"{kind} {id}" for kind, id in result.ids.items()))
    return ax


def draw_namespace_matrix(result: NamespaceMatrix, ax: Axes) -> Axes:
    """One row for each process, one column for each kind. In a column, one colour is one namespace."""
    _draw_matrix(result, ax, "In a column, the same colour is the same namespace")
    return ax


def _draw_matrix(
    matrix: NamespaceMatrix,
    ax: Axes,
    title: str,
    *,
    marked: Sequence[tuple[str, str]] = (),
    extra: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """The matrix as a grid.

    Args:
        matrix: the namespaces.
        ax: where to draw.
        title: what is shown.
        marked: (row, kind) of cells to outline.
        extra: further columns: the head and the texts.
    """
    first = 0 if matrix.rows[0].name == "host" else 1
    position = {id(row): number for number, row in enumerate(matrix.rows, first)}
    cells = [
        [
            (
                f"…{row.ids.get(kind, 0) % 100_000:05d}",
                OWNERS[position[id(matrix.owner(row, kind))] % len(OWNERS)],
            )
            for kind in matrix.kinds
        ]
        + [(texts[number], PAPER) for _, texts in extra]
        for number, row in enumerate(matrix.rows)
    ]
    names = [row.name for row in matrix.rows]
    heads = [*matrix.kinds, *(head for head, _ in extra)]
    places = grid(ax, heads, names, cells, title=title)
    isolated = "; ".join(f"{kind}: {ISOLATED[kind]}" for kind in matrix.kinds)
    _write_below(ax, title, wrap(isolated, CANVAS_PX, SMALL).split("\n"))
    for name, kind in marked:
        row, column = names.index(name), matrix.kinds.index(kind)
        x, y, width, height = places[row][column]
        box(ax, (x, y), (width, height), cells[row][column][1], edge=INK)
    host = matrix.rows[0].name
    describe(
        ax,
        *(
            f"{row.name} shares {listed(matrix.shared(row.name, host))} with {host}"
            for row in matrix.rows[1:]
        ),
        *(f"{head}: {listed([text for text in texts if text])}" for head, texts in extra),
    )


def draw_sharing(result: Sharing, ax: Axes) -> Axes:
    """The matrix; the namespace that each option names is outlined."""
    marked = [(each.option, each.kind) for each in result.joined]
    _draw_matrix(
        result.matrix,
        ax,
        "Each option shares the namespace that it names and no other of the first five",
        marked=marked,
    )
    describe(
        ax, *(f"{each.option} shares {listed(each.shared)} with {each.target}" for each in result.joined)
    )
    return ax


def draw_entered_namespaces(result: EnteredNamespaces, ax: Axes) -> Axes:
    """The matrix of the three processes, with their PID in the container and their cgroup."""
    by_name = {process.name: process for process in result.processes}
    processes = [by_name.get(row.name) for row in result.matrix.rows]
    pids = [str(process.pid_inside) if process else "" for process in processes]
    same = ["" if process is None else "yes" if process.same_cgroup else "no" for process in processes]
    _draw_matrix(
        result.matrix,
        ax,
        "Three ways to be in a container's namespaces",
        extra=[("PID inside", pids), ("same cgroup", same)],
    )
    equal = "the same" if result.all_equal else "different"
    describe(
        ax,
        f"the processes are in {equal} namespaces",
        *(
            f"{each.name} has PID {each.pid_inside} inside, in {'the same' if each.same_cgroup else 'another'} cgroup"
            for each in result.processes
        ),
    )
    return ax


# --- visibility


def draw_visibility(result: Visibility, ax: Axes) -> Axes:
    """One row for each object, one column for each viewpoint: its name there. Below, the commands that were run."""
    cells = []
    for name in result.objects:
        texts = [result.observations.get((name, place)) for place in result.viewpoints]
        cells.append([(text or "not visible", YES if text else NO) for text in texts])
    title = f"{result.kind}: what is visible from where"
    grid(ax, result.viewpoints, result.objects, cells, title=title)
    lines = [f"{each.container}$ {each.command} → {each.output or 'no output'}" for each in result.attempts]
    _write_below(ax, title, lines, mono=True)
    describe(
        ax,
        *(f"{name} is visible from {listed(result.visible_from(name))}" for name in result.objects),
        *(
            f"{each.command} in {each.container} {'succeeds' if each.succeeded else 'fails'}"
            for each in result.attempts
        ),
    )
    return ax


# --- the optional kinds


def draw_user_namespaces(result: UserNamespaces, ax: Axes) -> Axes:
    """One row for each container: its seccomp filter, whether it could create a user namespace, and as which user."""
    filters = {0: "none", 1: "strict", 2: "Docker's list"}
    cells = []
    for each in result.attempts:
        user = f"{each.user} → {each.user_inside}" if each.succeeded else ""
        rights = "all, in the new namespace" if each.all_capabilities else ""
        cells.append(
            [
                (filters.get(each.seccomp, str(each.seccomp)), PAPER),
                ("created", YES) if each.succeeded else ("refused", BAD),
                (user, YES if user else NO),
                (rights, YES if rights else NO),
            ]
        )
    heads = ["seccomp filter", "unshare --user", "user ID", "capabilities"]
    names = [each.options for each in result.attempts]
    grid(ax, heads, names, cells, title="Which containers may create a user namespace", mono=True)
    describe(
        ax,
        *(f"{each.options}: {'created' if each.succeeded else 'refused'}" for each in result.attempts),
    )
    return ax


def draw_cgroup_view(result: CgroupView, ax: Axes) -> Axes:
    """Two rows: the path that a process reads in the host's cgroup namespace, and in one of its own."""
    names = [
        f"--cgroupns {each.option}" + (" (the default)" if each.option == result.default else "")
        for each in result.containers
    ]
    cells = [
        [("the host's" if each.same_as_host else "its own", PAPER), (each.path, YES)]
        for each in result.containers
    ]
    title = f"One cgroup, two paths (cgroup version {result.version})"
    grid(ax, ["cgroup namespace", "path in /proc/self/cgroup"], names, cells, title=title)
    describe(ax, *(f"{name}: {each.path}" for name, each in zip(names, result.containers, strict=True)))
    return ax


def draw_time_namespace_offset(result: TimeNamespaceOffset, ax: Axes) -> Axes:
    """The clock since boot, in a container and in a time namespace, in hours."""
    title = f"/proc/uptime, with an offset of {result.requested_offset_s / 3600:.0f} hours"
    if result.uptime_inside_s is None:
        reason = result.error or "this kernel has no time namespaces"
        canvas(ax, 40, title)
        label(ax, 0, 20, reason)
        describe(ax, reason)
        return ax
    hours = {
        "in the container": result.uptime_s / 3600,
        "in a time namespace": result.uptime_inside_s / 3600,
    }
    rows(ax, list(hours), title=title, end=max(hours.values()) * 1.3, xlabel="hours since boot")
    for row, (value, colour) in enumerate(zip(hours.values(), (HOST, CONTAINER), strict=True)):
        bar(ax, row, 0, value, colour)
        label(ax, value, row, f"{value:.1f} h", size=SMALL, shift=(8, 0))
    describe(ax, *(f"{value:.1f} hours since boot {name}" for name, value in hours.items()))
    return ax


# --- process 1


def draw_signals(result: Signals, ax: Axes) -> Axes:
    """One row for each signal: its receiver, what that does with the signal, the sender, and the effect."""
    dispositions = {
        "default": "no handler",
        "caught": "a handler",
        "waited for": "waits for it",
        "ignored": "ignores it",
    }
    cells = []
    for each in result.sent:
        disposition = "cannot be handled" if each.signal == "KILL" else dispositions[each.disposition]
        cells.append(
            [
                (f"PID {each.pid_inside}", PAPER),
                (disposition, YES if disposition in ("a handler", "waits for it") else PAPER),
                (f"{each.signal} from {each.sender}", PAPER),
                ("ended", BAD) if each.ended else ("keeps running", YES),
            ]
        )
    title = "Process 1 gets only the signals that it handles; KILL from the host is the exception"
    grid(
        ax,
        ["inside", "disposition", "signal", "effect"],
        [each.program for each in result.sent],
        cells,
        title=title,
    )
    describe(
        ax,
        *(
            f"{each.signal} from {each.sender} to PID {each.pid_inside}, {each.program}: "
            f"{'it ended' if each.ended else 'it keeps running'}"
            for each in result.sent
        ),
    )
    return ax


def draw_stops(result: Stops, ax: Axes) -> Axes:
    """One bar for each program: the duration of the stop. A dashed line is the engine's timeout."""
    ends = {0: "exited by itself", 143: "ended by TERM", 137: "killed"}
    end = max(result.timeout_s, *(stop.stop_s for stop in result.stops)) * 1.4
    names = [stop.program for stop in result.stops]
    rows(ax, names, title="The duration of docker stop", end=end, xlabel="seconds")
    facts = []
    for row, stop in enumerate(result.stops):
        bar(ax, row, 0, stop.stop_s, VM if stop.exit_code == 137 else CONTAINER)
        effect = f"{stop.stop_s:.1f} s, exit code {stop.exit_code}"
        if stop.exit_code in ends:
            effect += f": {ends[stop.exit_code]}"
        label(ax, stop.stop_s, row, effect, size=SMALL, shift=(10, 0))
        facts.append(f"{stop.program}: {effect}")
    lane_labels(ax, [(result.timeout_s, f"timeout: {result.timeout_s} s")], -0.3, FAINT)
    ax.vlines(result.timeout_s, -0.3, len(names) - 0.5, color=INK, lw=1, ls="--")
    describe(ax, *facts, f"the engine waits {result.timeout_s} s")
    return ax


def draw_zombies(result: Zombies, ax: Axes) -> Axes:
    """One row for each container: a dot for each orphan; a filled dot is a zombie, an empty dot was reaped."""
    names = [f"{each.option}\nPID 1: {each.first}" for each in result.containers]
    most = max(each.orphans for each in result.containers)
    rows(ax, names, title="Orphans that have ended, a moment later", end=max(most, 5) * 2, row_px=50)
    facts = []
    for row, each in enumerate(result.containers):
        for number in range(each.orphans):
            zombie = number < each.zombies
            face, edge = (VM, VM) if zombie else (WHITE, FAINT)
            ax.plot(number + 0.5, row, "o", ms=11, mfc=face, mec=edge)
        text = f"{each.zombies} of {each.orphans} remain as zombies"
        label(ax, each.orphans, row, text, shift=(8, 0))
        facts.append(f"{each.option}, PID 1 is {each.first}: {text}")
    describe(ax, *facts)
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """Measure a tree of three PID namespaces."""
    from labhelpers import namespaces

    tree = namespaces.process_tree(lab, namespaces.start_nested(lab, name="container"))
    yield tree
    yield tree.views
