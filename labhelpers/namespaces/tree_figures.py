"""Two drawings of a process tree: with all PIDs of each process, and as each PID namespace sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    FAINT,
    HOST,
    INK,
    LIMIT,
    SMALL,
    VM,
    WHITE,
    box,
    canvas,
    cut,
    describe,
    label,
    line_height,
    text_width,
    tint,
    wrap,
)
from labhelpers.namespaces.trees import short_command, with_ancestors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.engine.host import Process
    from labhelpers.namespaces.trees import PidNamespace, ProcessTree, Views

# one colour for each level: the host, a container, a namespace inside a container, …
LEVELS = (HOST, CONTAINER, VM, LIMIT)
MAX_ROWS = 40
# in px: a row of the tree, and the indentation of a child
ROW_PX, INDENT_PX = 34, 24
# a node of the views, from one row of nodes to the next, and the narrowest node
NODE_PX, STEP_PX, MIN_NODE_PX = 46, 66, 72


def _colour(level: int) -> str:
    return LEVELS[level % len(LEVELS)]


def draw_process_tree(result: ProcessTree, ax: Axes) -> Axes:
    """One row for each process, a box for each PID namespace, and a column of PIDs for each level.

    A tree of more than `MAX_ROWS` is cut to the processes in a PID namespace other than the host's, and their
    ancestors.
    """
    tree = result if len(result.processes) <= MAX_ROWS else _only_nested(result)
    rows = {process.pid: row for row, process in enumerate(tree.processes)}
    indents = {process.pid: INDENT_PX * tree.depth(process) for process in tree.processes}
    heads = []
    for level in range(tree.levels):
        names = [each.name for each in tree.namespaces if each.level == level]
        heads.append(f"PID,\n{names[0] if len(names) == 1 else f'level {level}'}")
    longest = max(indents[p.pid] + text_width(short_command(p)) for p in tree.processes) + 40
    left = min(longest, CANVAS_PX * 0.6)
    column = min((CANVAS_PX - left) / tree.levels, 190)
    top = 2 * line_height(SMALL) + 14
    canvas(ax, top + ROW_PX * len(rows), "One process, one PID in each namespace that it is visible in")

    def column_x(level: int) -> float:
        # the innermost column is the leftmost: each box holds its own column and those of its descendants
        return left + column * (tree.levels - level - 0.5)

    for namespace in tree.namespaces:
        visible = [p for p in tree.processes if tree.pid_in(p, namespace) is not None]
        start = min(indents[p.pid] for p in visible)
        # a box is a little smaller than its parent's, since both may end with the same process
        inset = 1 + 2 * namespace.level
        first, last = (ROW_PX * end(rows[p.pid] for p in visible) for end in (min, max))
        right = left + column * (tree.levels - namespace.level) - 4
        box(
            ax,
            (start, top + first + inset),
            (right - start, last - first + ROW_PX - 2 * inset),
            tint(_colour(namespace.level)),
            edge=_colour(namespace.level),
        )
    for process in tree.processes:
        x, y = indents[process.pid] + 12, top + ROW_PX * (rows[process.pid] + 0.5)
        parent = rows.get(process.parent_pid)
        if parent is not None:
            up = x - INDENT_PX + 4
            ax.plot([up, up, x - 6], [top + ROW_PX * (parent + 0.5) + 9, y, y], color=INK, lw=1)
        label(ax, x, y, cut(short_command(process), left - x))
        for namespace in tree.ancestors(tree.namespace_of(process)):
            pid = str(process.nspid[namespace.level])
            colour = _colour(namespace.level)
            label(ax, column_x(namespace.level), y, pid, colour, bold=pid == "1", align="center")
    for level, head in enumerate(heads):
        text = "\n".join(cut(line, column - 8, SMALL, bold=True) for line in head.split("\n"))
        label(
            ax, column_x(level), 0, text, _colour(level), size=SMALL, bold=True, align="center", valign="top"
        )
    describe(ax, *(_described(tree, process) for process in tree.processes))
    return ax


def _described(tree: ProcessTree, process: Process) -> str:
    namespaces = tree.ancestors(tree.namespace_of(process))
    pids = ", ".join(f"{process.nspid[each.level]} in {each.name}" for each in namespaces)
    return f"{short_command(process)} has PID {pids}"


def _only_nested(tree: ProcessTree) -> ProcessTree:
    nested = {process.pid for process in tree.processes if len(process.nspid) > 1}
    return type(tree)(tuple(with_ancestors(tree.processes, nested)[:MAX_ROWS]), tree.namespaces)


def draw_views(result: Views, ax: Axes) -> Axes:
    """The tree once for each PID namespace: a visible process has its PID there, another one is an outline."""
    tree = result.tree
    places = _places(tree)
    wide = max(x for x, _ in places.values()) + 1
    deep = max(y for _, y in places.values()) + 1
    # as many trees next to one another as their nodes are wide enough
    across = min(len(tree.namespaces), max(1, int(CANVAS_PX // (wide * MIN_NODE_PX))))
    width = CANVAS_PX / across
    node = min((width - 20) / wide, 170)
    head = 2 * line_height() + 8
    height = head + STEP_PX * deep
    down = -(-len(tree.namespaces) // across)
    canvas(ax, height * down, "One tree, as each PID namespace sees it: the number is the PID there")
    facts = []
    for number, namespace in enumerate(tree.namespaces):
        left, top = width * (number % across), height * (number // across)
        count = len(tree.visible_in(namespace.name))
        name = "the host" if namespace.level == 0 else namespace.name
        text = f"{name} sees {count} of {len(tree.processes)} processes"
        facts.append(text)
        wrapped = wrap(text, width - 20, bold=True)
        label(ax, left, top, wrapped, _colour(namespace.level), bold=True, valign="top")
        _draw_view(ax, tree, namespace, places, (left, top + head, node))
    describe(ax, *facts)
    return ax


def _draw_view(
    ax: Axes,
    tree: ProcessTree,
    namespace: PidNamespace,
    places: dict[int, tuple[float, int]],
    area: tuple[float, float, float],
) -> None:
    """One view. `area` is the left edge, the upper edge, and the width for each node."""
    left, top, node = area
    visible = {each.process.pid: each.pid for each in tree.visible_in(namespace.name)}
    for process in tree.processes:
        column, row = places[process.pid]
        x, y = left + node * column, top + STEP_PX * row
        if process.parent_pid in places:
            parent_column, parent_row = places[process.parent_pid]
            start = left + node * (parent_column + 0.5) - 4, top + STEP_PX * parent_row + NODE_PX
            known = process.pid in visible and process.parent_pid in visible
            look = {"color": INK, "lw": 1.1} if known else {"color": FAINT, "lw": 0.8, "ls": ":"}
            ax.plot([start[0], x + node / 2 - 4], [start[1], y], **look)  # type: ignore[arg-type]
        if process.pid in visible:
            colour = _colour(tree.namespace_of(process).level)
            name = cut(short_command(process), node - 24, SMALL)
            box(ax, (x, y), (node - 8, NODE_PX), colour, title=str(visible[process.pid]), text=name)
        else:
            box(ax, (x, y), (node - 8, NODE_PX), WHITE, edge=FAINT, dashed=True)


def _places(tree: ProcessTree) -> dict[int, tuple[float, int]]:
    """Column and row of each process: a parent is above the middle of its children."""
    pids = {process.pid for process in tree.processes}
    children: dict[int, list[int]] = {}
    for process in tree.processes:
        parent = process.parent_pid if process.parent_pid in pids else 0
        children.setdefault(parent, []).append(process.pid)
    places: dict[int, tuple[float, int]] = {}
    leaves = 0

    def put(pid: int, row: int) -> float:
        nonlocal leaves
        columns = [put(child, row + 1) for child in children.get(pid, [])]
        if not columns:
            columns, leaves = [float(leaves)], leaves + 1
        places[pid] = ((columns[0] + columns[-1]) / 2, row)
        return places[pid][0]

    for root in children.get(0, []):
        put(root, 0)
    return places
