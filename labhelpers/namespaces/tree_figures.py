"""Two drawings of a process tree: with all pids of each process, and as each pid namespace sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, VM, resize
from labhelpers.namespaces.trees import short_command
from labhelpers.units import NO_VALUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.engine.host import Process
    from labhelpers.namespaces.trees import PidNamespace, ProcessTree, Views

# one colour for one level: the host, a container, what was made inside of it
LEVELS = (HOST, CONTAINER, VM, "#8C6BB1")
TINTS = ("#EAF5F0", "#DDEBF5", "#FBE6D8", "#ECE5F4")
MOST_ROWS = 40
COLUMN, INDENT = 1.35, 0.32
# a node of the views, and from one to the next
WIDE, APART = 1.5, 1.65


def _level(tree: ProcessTree, process: Process) -> int:
    return tree.namespace_of(process).level


def draw_process_tree(result: ProcessTree, ax: Axes) -> Axes:
    """One row a process, children below and to the right; a box around each pid namespace; a column of pids a level.

    A tree of more than `MOST_ROWS` is cut to what is in a pid namespace of its own, and what leads there.
    """
    from matplotlib.patches import FancyBboxPatch

    tree = result if len(result.processes) <= MOST_ROWS else _only_nested(result)
    rows = {process.pid: row for row, process in enumerate(tree.processes)}
    depth = {process.pid: tree.depth(process) for process in tree.processes}
    words = max(INDENT * depth[p.pid] + 0.105 * len(short_command(p)) for p in tree.processes) + 0.5
    right = words + COLUMN * tree.levels
    resize(ax, max(6.5, 0.92 * right + 0.6), 1.35 + 0.38 * len(rows))

    for space in tree.namespaces:
        own = [rows[p.pid] for p in tree.processes if tree.pid_in(p, space) is not None]
        left = INDENT * min(depth[p.pid] for p in tree.processes if tree.pid_in(p, space) is not None)
        # the innermost column is the leftmost, so that each box holds its own column and those inside of it
        end = words + COLUMN * (tree.levels - space.level)
        # each box is a little smaller than the one around it, where both end with the same process
        half = 0.47 - 0.05 * space.level
        box = (left - 0.1, min(own) - half), end - left - 0.06, max(own) - min(own) + 2 * half
        style = {
            "fc": TINTS[space.level % 4],
            "ec": LEVELS[space.level % 4],
            "lw": 1.3,
            "zorder": space.level,
        }
        pad = "round,pad=0,rounding_size=0.12"
        ax.add_patch(FancyBboxPatch(*box, boxstyle=pad, **style))  # type: ignore[arg-type]
    for process in tree.processes:
        row, x = rows[process.pid], INDENT * depth[process.pid]
        parent = rows.get(process.parent_pid)
        if parent is not None:
            up = x - INDENT + 0.08
            ax.plot([up, up, x], [parent + 0.25, row, row], color=INK, lw=1, zorder=8)
        ax.text(x + 0.04, row, short_command(process), va="center", fontsize=9.5, zorder=9)
        around = tree.ancestors(tree.namespace_of(process))
        for space in around:
            _pid(ax, words + COLUMN * (tree.levels - space.level - 0.5), row, process, space)
    for level in range(tree.levels):
        names = [space.name for space in tree.namespaces if space.level == level]
        said = names[0] if len(names) == 1 else f"level {level}"
        x = words + COLUMN * (tree.levels - level - 0.5)
        ax.text(x, -0.75, f"PID,\n{said}", ha="center", va="center", fontsize=8.5, color=LEVELS[level % 4])
    ax.set(xlim=(-0.2, right + 0.05), ylim=(len(rows) - 0.35, -1.25))
    ax.set_title("One process, one PID in each namespace around it")
    ax.set_axis_off()
    return ax


def _pid(ax: Axes, x: float, row: int, process: Process, space: PidNamespace) -> None:
    said = str(process.nspid[space.level])
    weight = "bold" if said == "1" else "normal"
    colour = LEVELS[space.level % 4]
    ax.text(x, row, said, ha="center", va="center", fontsize=10, color=colour, weight=weight, zorder=9)


def _only_nested(tree: ProcessTree) -> ProcessTree:
    by_pid = {process.pid: process for process in tree.processes}
    kept: set[int] = set()
    for process in tree.processes:
        pid = process.pid
        while len(process.nspid) > 1 and pid in by_pid and pid not in kept:
            kept.add(pid)
            pid = by_pid[pid].parent_pid
    return type(tree)(tuple(p for p in tree.processes if p.pid in kept)[:MOST_ROWS], tree.namespaces)


def draw_views(result: Views, ax: Axes) -> Axes:
    """The tree once for each pid namespace: what it sees has the pid that it has there; the rest is an outline."""
    tree = result.tree
    place = _places(tree)
    wide = max(x for x, _ in place.values()) + 1.0
    deep = max(y for _, y in place.values())
    step = APART * wide + 0.45
    resize(ax, 0.95 * step * len(tree.namespaces) + 0.2, 1.3 + 0.72 * (deep + 1))
    for number, space in enumerate(tree.namespaces):
        left = step * number
        seen = {one.process.pid: one for one in tree.visible_in(space.name)}
        for process in tree.processes:
            x, y = left + APART * place[process.pid][0], place[process.pid][1]
            one = seen.get(process.pid)
            if process.parent_pid in place:
                _edge(ax, left, place, process, seen=one is not None and process.parent_pid in seen)
            colour = LEVELS[_level(tree, process) % 4] if one else FAINT
            _node(ax, x, y, str(one.pid) if one else "", _cut(short_command(process)) if one else "", colour)
        count = f"{len(seen)} of {len(tree.processes)} processes"
        ax.text(
            left + APART * (wide - 1) / 2 + WIDE / 2,
            -0.95,
            f"{'the host' if space.level == 0 else space.name} sees {count}",
            ha="center",
            fontsize=10,
            weight="bold",
            color=LEVELS[space.level % 4],
        )
    ax.set(xlim=(-0.15, step * len(tree.namespaces) - 0.5), ylim=(deep + 0.6, -1.3))
    ax.set_title("One tree, as each pid namespace sees it: the number is the PID there")
    ax.set_axis_off()
    return ax


def _cut(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _places(tree: ProcessTree) -> dict[int, tuple[float, int]]:
    """Column and row of each process: a parent stands over the middle of its children."""
    there = {process.pid for process in tree.processes}
    children: dict[int, list[int]] = {}
    for process in tree.processes:
        children.setdefault(process.parent_pid if process.parent_pid in there else 0, []).append(process.pid)
    place: dict[int, tuple[float, int]] = {}
    leaves = 0

    def put(pid: int, row: int) -> float:
        nonlocal leaves
        columns = [put(child, row + 1) for child in children.get(pid, [])]
        if not columns:
            columns, leaves = [float(leaves)], leaves + 1
        place[pid] = ((columns[0] + columns[-1]) / 2, row)
        return place[pid][0]

    for root in children.get(0, []):
        put(root, 0)
    return place


def _edge(
    ax: Axes, left: float, place: dict[int, tuple[float, int]], process: Process, *, seen: bool
) -> None:
    (x, y), (up_x, up_y) = place[process.pid], place[process.parent_pid]
    ends = [left + APART * up_x + WIDE / 2, left + APART * x + WIDE / 2], [up_y + 0.33, y - 0.33]
    ax.plot(*ends, color=INK if seen else FAINT, lw=1.1 if seen else 0.8, ls="-" if seen else ":", zorder=1)


def _node(ax: Axes, x: float, y: float, pid: str, name: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.1"
    seen = bool(pid)
    look = {
        "fc": colour if seen else "white",
        "ec": colour,
        "ls": "-" if seen else ":",
        "lw": 1.1,
        "zorder": 2,
    }
    ax.add_patch(FancyBboxPatch((x, y - 0.33), WIDE, 0.66, boxstyle=style, **look))  # type: ignore[arg-type]
    if seen:
        ax.text(
            x + WIDE / 2,
            y - 0.1,
            pid,
            ha="center",
            va="center",
            fontsize=11,
            weight="bold",
            color="white",
            zorder=3,
        )
        ax.text(x + WIDE / 2, y + 0.18, name, ha="center", va="center", fontsize=8, color="white", zorder=3)
    else:
        ax.text(x + WIDE / 2, y, NO_VALUE, ha="center", va="center", fontsize=9, color=FAINT, zorder=3)
