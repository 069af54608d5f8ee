"""Figures of the chapter on namespaces: data on an Axes; they talk to no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, LIMIT, PAPER, VM, resize
from labhelpers.namespaces.tree_figures import draw_process_tree, draw_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.namespaces.identity import NamespaceMatrix, Namespaces
    from labhelpers.namespaces.joining import EnteredNamespaces, Sharing
    from labhelpers.namespaces.optional_namespaces import CgroupView, TimeNamespaceOffset, UserNamespaces
    from labhelpers.namespaces.pid1 import SignalDispositions, Signals, Stops, Zombies
    from labhelpers.namespaces.visibility import Visibility

__all__ = [
    "draw_cgroup_view",
    "draw_entered_namespaces",
    "draw_namespace_matrix",
    "draw_namespaces",
    "draw_process_tree",
    "draw_sharing",
    "draw_signal_dispositions",
    "draw_signals",
    "draw_stops",
    "draw_time_namespace_offset",
    "draw_user_namespaces",
    "draw_views",
    "draw_visibility",
    "draw_zombies",
]

# one colour for the namespaces of one row: the host's, then the containers' in their order
OWNERS = (HOST, CONTAINER, VM, LIMIT, ENGINE, KERNEL, "#8C6BB1", "#A6761D")
HEADS = {
    "pid": "process ids",
    "net": "interfaces",
    "ipc": "shared memory",
    "mnt": "mounts",
    "uts": "host name",
    "user": "user ids",
    "cgroup": "cgroup root",
    "time": "clocks",
}
YES, NO = "#CFE3F1", "#FFFFFF"


def _on(face: str) -> str:
    """The ink that can be read on a colour."""
    return "white" if face in (CONTAINER, VM, HOST, "#8C6BB1", "#A6761D") else INK


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bare(ax: Axes) -> None:
    ax.set_axis_off()


def _cell(
    ax: Axes, x: float, y: float, width: float, face: str, said: str, *, ink: str = INK, edge: str = "white"
) -> None:
    from matplotlib.patches import Rectangle

    strong = edge == INK
    patch = Rectangle(
        (x, y), width, 0.9, fc=face, ec=edge, lw=2.2 if strong else 1.2, zorder=3 if strong else 1
    )
    ax.add_patch(patch)
    if said:
        ax.text(x + width / 2, y + 0.45, said, ha="center", va="center", color=ink, fontsize=8.5, zorder=4)


def _table(
    ax: Axes, heads: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], widths: Sequence[float]
) -> None:
    """Cells of (text, colour) below bold heads; the first column is not boxed and stands left."""
    starts = [sum(widths[:n]) for n in range(len(widths))]
    for x, width, head in zip(starts, widths, heads, strict=True):
        left = x == 0
        ax.text(
            x if left else x + width / 2,
            -0.35,
            head,
            ha="left" if left else "center",
            fontsize=9,
            weight="bold",
        )
    for y, row in enumerate(rows):
        for number, (x, width, (said, face)) in enumerate(zip(starts, widths, row, strict=True)):
            if number == 0:
                ax.text(x, y + 0.45, said, va="center", fontsize=9)
            else:
                _cell(ax, x, y, width - 0.06, face, said, ink=INK if said else FAINT, edge="#DDDDDD")
    ax.set(xlim=(-0.05, sum(widths)), ylim=(len(rows) + 0.1, -0.9))
    _bare(ax)


# --- who is in which


def draw_namespaces(result: Namespaces, ax: Axes) -> Axes:
    """One row of cells, one for each kind, with the ids."""
    from labhelpers.namespaces.identity import NamespaceMatrix

    draw_namespace_matrix(NamespaceMatrix((result,)), ax)
    ax.set_title(f"The namespaces of {result.name} (PID {result.pid} on the host)")
    return ax


def draw_namespace_matrix(result: NamespaceMatrix, ax: Axes, marked: Sequence[tuple[str, str]] = ()) -> Axes:
    """One row a process, one column a kind. In a column, one colour is one namespace, with the end of its id.

    Args:
        result: the matrix.
        ax: where to draw.
        marked: (row, kind) of cells to be framed.
    """
    longest = max(len(row.name) for row in result.rows)
    left = 0.6 + 0.105 * longest
    resize(ax, 1.2 * left + 0.88 * len(result.kinds) + 0.4, 1.15 + 0.42 * len(result.rows))
    first = 0 if result.rows[0].name == "host" else 1
    order = {id(row): number for number, row in enumerate(result.rows, first)}
    for column, kind in enumerate(result.kinds):
        x = left + column
        ax.text(x + 0.48, -0.55, kind, ha="center", fontsize=10, weight="bold")
        ax.text(x + 0.48, -0.16, HEADS[kind], ha="center", fontsize=7.5, color="#555555")
        for y, row in enumerate(result.rows):
            face = OWNERS[order[id(result.owner(row, kind))] % len(OWNERS)]
            edge = INK if (row.name, kind) in marked else "white"
            _cell(ax, x, y, 0.96, face, f"…{row.ids.get(kind, 0) % 100_000:05d}", ink=_on(face), edge=edge)
    for y, row in enumerate(result.rows):
        ax.text(left - 0.15, y + 0.45, row.name, ha="right", va="center", fontsize=9.5)
    ax.set(xlim=(0, left + len(result.kinds)), ylim=(len(result.rows) + 0.1, -1.0))
    ax.set_title("In a column, the same colour is the same namespace")
    _bare(ax)
    return ax


def draw_sharing(result: Sharing, ax: Axes) -> Axes:
    """The matrix; the cell that each option asked for is framed."""
    draw_namespace_matrix(result.matrix, ax, [(each.option, each.kind) for each in result.joined])
    ax.set_title("Of the first five, each option shares the one that it names, and no other")
    return ax


def draw_entered_namespaces(result: EnteredNamespaces, ax: Axes) -> Axes:
    """The matrix of the three processes, with what each is called inside."""
    draw_namespace_matrix(result.matrix, ax)
    places = {row.name: y for y, row in enumerate(result.matrix.rows)}
    right = ax.get_xlim()[1]
    for process in result.processes:
        cgroup = "its cgroup" if process.same_cgroup else "another cgroup"
        text = f"PID {process.pid_inside} inside, in {cgroup}"
        ax.text(right + 0.1, places[process.name] + 0.45, text, va="center", fontsize=8.5)
    ax.set_xlim(0, right + 2.6)
    resize(ax, 11, 1.15 + 0.42 * len(result.matrix.rows))
    ax.set_title("Three ways in, the same namespaces")
    return ax


# --- who sees what


def draw_visibility(result: Visibility, ax: Axes) -> Axes:
    """One row a thing, one column a place: as what it is seen there, or that it is not; below, what was tried."""
    lines = [
        f"{one.container}$  {_cut(one.command, 60)}   →   {_cut(one.output, 60) or 'done'}"
        for one in result.attempts
    ]
    first = 0.45 + 0.095 * max(len(thing) for thing in result.objects)
    longest = {
        place: max(len(place), *(len(result.observations.get((t, place), "")) for t in result.objects), 0)
        for place in result.viewpoints
    }
    widths = [first] + [max(1.6, 0.105 * longest[place] + 0.2) for place in result.viewpoints]
    resize(ax, min(11, 1.05 * sum(widths)), 1.0 + 0.4 * len(result.objects) + 0.24 * len(lines))
    rows = []
    for thing in result.objects:
        cells = [(result.observations.get((thing, place), ""), place) for place in result.viewpoints]
        rows.append([(thing, ""), *((said or "not seen", YES if said else NO) for said, _ in cells)])
    _table(ax, ["", *result.viewpoints], rows, widths)
    bottom = len(rows)
    for number, line in enumerate(lines):
        ax.text(0, bottom + 0.45 + 0.6 * number, line, fontsize=8.5, family="monospace", va="center")
    ax.set_ylim(bottom + 0.2 + 0.6 * len(lines), -0.9)
    for text in ax.texts:
        if text.get_text() == "not seen":
            text.set_color(FAINT)
    ax.set_title(f"{result.kind}: who sees what")
    return ax


# --- the other kinds


def draw_user_namespaces(result: UserNamespaces, ax: Axes) -> Axes:
    """One row a container: its filter, whether it could make a user namespace, and who it is in there."""
    resize(ax, 10.5, 1.1 + 0.42 * len(result.attempts))
    rows = []
    for one in result.attempts:
        filter_ = {0: "none", 1: "strict", 2: "Docker's list"}.get(one.seccomp, str(one.seccomp))
        user = f"user {one.user} → user {one.user_inside}" if one.succeeded else ""
        rights = "all, in there" if one.all_capabilities else ""
        rows.append(
            [
                (one.options, ""),
                (filter_, PAPER),
                ("made" if one.succeeded else "refused", YES if one.succeeded else "#F6D9C6"),
                (user, YES if user else NO),
                (rights, YES if rights else NO),
            ]
        )
    _table(
        ax,
        ["", "seccomp filter", "unshare --user", "who one is", "capabilities"],
        rows,
        [5.6, 1.5, 1.5, 2, 1.5],
    )
    ax.set_title("Who may make a user namespace")
    return ax


def draw_cgroup_view(result: CgroupView, ax: Axes) -> Axes:
    """Two rows: the path that a process reads, in the host's cgroup namespace and in one of its own."""
    resize(ax, 8, 1.9)
    rows = [
        [
            (
                f"--cgroupns {view.option}"
                + (" (chosen here by default)" if view.option == result.default else ""),
                "",
            ),
            ("the host's" if view.same_as_host else "its own", PAPER),
            (_cut(view.path, 46), YES),
        ]
        for view in result.containers
    ]
    _table(ax, ["", "namespace", "where it believes to be"], rows, [3.2, 1.2, 3.6])
    ax.set_title(f"The same place, two paths (cgroups, version {result.version})")
    return ax


def draw_time_namespace_offset(result: TimeNamespaceOffset, ax: Axes) -> Axes:
    """The clock since boot, outside and inside, in hours."""
    resize(ax, 8, 1.8)
    if result.uptime_inside_s is None:
        ax.text(0, 0, result.error or "this kernel has no time namespaces", va="center")
        _bare(ax)
        return ax
    hours = [result.uptime_s / 3600, result.uptime_inside_s / 3600]
    ax.barh([0, 1], hours, color=[HOST, CONTAINER], height=0.6)
    for y, value in enumerate(hours):
        ax.text(value, y, f" {value:.1f} h since boot", va="center", fontsize=9)
    ax.set_yticks([0, 1], ["in the container", "in a time namespace"])
    ax.set(ylim=(1.6, -0.6), xlim=(0, max(hours) * 1.3), xlabel="hours")
    ax.set_title(f"/proc/uptime, {result.requested_offset_s / 3600:.0f} hours ahead on purpose")
    return ax


# --- process 1


def draw_signal_dispositions(result: SignalDispositions, ax: Axes) -> Axes:
    """Four lines: the names in each mask."""
    resize(ax, 8, 1.6)
    rows = [
        [(name, ""), (_cut(", ".join(names), 70) or "none", YES if names else NO)]
        for name, names in (
            ("blocked", result.blocked),
            ("ignored", result.ignored),
            ("caught", result.caught),
        )
    ]
    rows.append(
        [("sleeps in sigtimedwait", ""), ("yes" if result.waits else "no", YES if result.waits else NO)]
    )
    _table(ax, ["", "signals"], rows, [2, 6])
    return ax


def draw_signals(result: Signals, ax: Axes) -> Axes:
    """One row a signal: to whom, what its masks said, who sent it, and whether it ended."""
    resize(ax, 9, 1.1 + 0.4 * len(result.sent))
    masks = {
        "default": "no handler",
        "caught": "a handler",
        "waited for": "waits for it",
        "ignored": "ignores it",
    }
    rows = []
    for one in result.sent:
        mask = "cannot have one" if one.signal == "KILL" else masks[one.disposition]
        rows.append(
            [
                (one.program, ""),
                (f"PID {one.pid_inside}", PAPER),
                (mask, YES if mask in ("a handler", "waits for it") else PAPER),
                (f"{one.signal} from {one.sender}", PAPER),
                ("ended", "#F6D9C6") if one.ended else ("lives on", YES),
            ]
        )
    _table(ax, ["", "inside", "handler", "sent", "then it"], rows, [2.4, 1, 1.7, 2.1, 1.3])
    ax.set_title("Process 1 gets only the signals that it takes; KILL from the host is the exception")
    return ax


def draw_stops(result: Stops, ax: Axes) -> Axes:
    """One bar a program: how long the stop took; the engine's patience is a line."""
    resize(ax, 8, 1.3 + 0.4 * len(result.stops))
    ends = {0: "ended by itself", 143: "ended by TERM", 137: "killed"}
    for y, one in enumerate(result.stops):
        ax.barh(y, one.stop_s, color=VM if one.exit_code == 137 else CONTAINER, height=0.6)
        said = f" {one.stop_s:.1f} s, exit code {one.exit_code}: {ends.get(one.exit_code, '')}"
        inside = one.stop_s > result.timeout_s * 0.7
        ax.text(
            result.timeout_s * 0.02 if inside else one.stop_s,
            y,
            said,
            va="center",
            fontsize=9,
            color="white" if inside else INK,
        )
    ax.axvline(result.timeout_s, color=INK, lw=1, ls="--")
    ax.text(result.timeout_s, -0.75, f"the engine waits {result.timeout_s} s ", ha="right", fontsize=8.5)
    ax.set_yticks(range(len(result.stops)), [one.program for one in result.stops])
    longest = max(result.timeout_s, *(one.stop_s for one in result.stops))
    ax.set(ylim=(len(result.stops) - 0.4, -1.1), xlim=(0, longest * 1.1), xlabel="seconds for docker stop")
    ax.tick_params(axis="y", length=0)
    ax.set_title("What a stop takes")
    return ax


def draw_zombies(result: Zombies, ax: Axes) -> Axes:
    """One row a container: a dot for each orphan; a filled one is a zombie, an empty one was buried."""
    resize(ax, 8, 1.9)
    for y, one in enumerate(result.containers):
        ax.text(0, y, f"{one.option}\nPID 1: {one.first}", va="center", fontsize=9)
        for number in range(one.orphans):
            stays = number < one.zombies
            ax.plot(
                2.2 + 0.35 * number, y, "o", ms=11, mfc=VM if stays else "white", mec=VM if stays else FAINT
            )
        said = f"{one.zombies} of {one.orphans} stay as zombies"
        ax.text(2.2 + 0.35 * one.orphans, y, said, va="center", fontsize=9)
    ax.set(ylim=(1.7, -0.7), xlim=(0, 6 + 0.35 * result.with_init.orphans))
    ax.set_title("Orphans that ended, a moment later")
    _bare(ax)
    return ax
