"""The map as a drawing: containers above, the host's side of their wires below, bridges under those.

A packet goes down a line from a container's interface to its other end on the host, then along the bridge,
and up again or out. The number beside each interface is its index: that is what joins the two ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, LIMIT, PAPER, resize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.networks.maps import MappedContainer, NetworkEndpoint, NetworkMap, PublishedPort

COLUMNS = 8
"""How many interfaces stand side by side before a new row begins."""
WIDE, HIGH = 1.75, 4.3
LINK = "#9CC7E4"


@dataclass
class Segment:
    """What hangs on one interface of the host: a bridge, a parent; or nothing."""

    title: str
    detail: str
    color: str
    endpoints: list[NetworkEndpoint] = field(default_factory=list)
    containers: list[MappedContainer] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """How many places it takes."""
        return max(len(self.endpoints) + len(self.containers), 1)


def draw_network_map(result: NetworkMap, ax: Axes) -> Axes:
    """Every container, each of its interfaces, the other end of each, and the bridge that it is a port of."""
    rows = _rows(_groups(result))
    columns = max([*(sum(group.slots for group in row) for row in rows), 3])
    resize(ax, 0.4 + columns * WIDE, 0.2 + HIGH * len(rows))
    for number, row in enumerate(reversed(rows)):
        _draw_row(ax, row, 0.7 + number * HIGH, result)
    _draw_way_out(ax, result, columns * WIDE, len(rows))
    ax.set(xlim=(-0.25, columns * WIDE + 0.1), ylim=(-0.1, 0.05 + HIGH * len(rows)))
    ax.axis("off")
    return ax


# --- what stands where


def _groups(result: NetworkMap) -> list[Segment]:
    """The bridges in an order in which those that share a container stand side by side; then all else."""
    bridges = [
        Segment(
            bridge.name,
            f"bridge · {', '.join(a for a in bridge.addresses if '.' in a)} · network “{bridge.network}”"
            if bridge.network
            else "a bridge, of no network of the engine",
            HOST,
            [end for end in result.endpoints if end.bridge == bridge.name],
        )
        for bridge in result.bridges
    ]
    ordered: list[Segment] = []
    while bridges:
        here = {end.container for end in ordered[-1].endpoints} if ordered else set()
        # the one that shares most with the last; without one, that which shares with the fewest others
        best = max(
            bridges,
            key=lambda g: (
                len(here & {e.container for e in g.endpoints}),
                -_shared(g, bridges),
                -bridges.index(g),
            ),
        )
        bridges.remove(best)
        ordered.append(best)
    for left, right in itertools.pairwise(ordered):
        _make_adjacent(left, right)
    parents: dict[str, Segment] = {}
    for end in result.endpoints:
        if end.bridge is None:
            name = end.host_interface or "elsewhere"
            said = "a parent: no bridge" if end.kind in ("macvlan", "ipvlan") else "the host's end of a wire"
            if end.host_interface is None:
                said = "the other end is in another namespace"
            group = parents.setdefault(name, Segment(name, said, KERNEL))
            if end.kind in ("macvlan", "ipvlan"):
                group.detail = f"parent of {end.kind} interfaces"
            group.endpoints.append(end)
    joined = {end.container for end in result.endpoints}
    own = [node for node in result.containers if node.shares_host]
    none = [node for node in result.containers if not node.shares_host and node.name not in joined]
    rest = [
        Segment("", "the host's own interfaces", LIMIT, containers=own),
        Segment("", "no way to anybody", FAINT, containers=none),
    ]
    return [*ordered, *parents.values(), *(group for group in rest if group.containers)]


def _shared(group: Segment, others: Sequence[Segment]) -> int:
    names = {end.container for end in group.endpoints}
    return sum(
        bool(names & {end.container for end in other.endpoints}) for other in others if other is not group
    )


def _make_adjacent(left: Segment, right: Segment) -> None:
    """Put one container that is in both at the end of one and at the beginning of the other."""
    both = {end.container for end in left.endpoints} & {end.container for end in right.endpoints}
    if both:
        name = min(both)
        left.endpoints.sort(key=lambda end: end.container == name)
        right.endpoints.sort(key=lambda end: end.container != name)


def _rows(groups: Sequence[Segment]) -> list[list[Segment]]:
    rows: list[list[Segment]] = [[]]
    for group in groups:
        for part in _parts(group):
            if rows[-1] and sum(one.slots for one in rows[-1]) + part.slots > COLUMNS:
                rows.append([])
            rows[-1].append(part)
    return rows


def _parts(group: Segment) -> list[Segment]:
    if group.slots <= COLUMNS:
        return [group]
    things = [*group.endpoints, *group.containers]
    parts = []
    for start in range(0, len(things), COLUMNS):
        ends, nodes = (
            group.endpoints[start : start + COLUMNS],
            group.containers[max(0, start - len(group.endpoints)) :][:COLUMNS],
        )
        parts.append(Segment(group.title, group.detail, group.color, ends, nodes if not ends else []))
    return parts


# --- drawing


def _draw_row(ax: Axes, row: Sequence[Segment], y: float, result: NetworkMap) -> None:
    width = sum(group.slots for group in row) * WIDE
    _box(ax, -0.15, y - 0.5, width + 0.1, 2.76, PAPER, FAINT)
    here = "the host's\nnetwork\nnamespace"
    ax.text(-0.08, y + 1.92, here, fontsize=7, color=FAINT, va="center", style="italic")
    x = 0.0
    places: list[tuple[float, NetworkEndpoint]] = []
    for group in row:
        for node in group.containers:
            _draw_node(ax, node, x, y)
            x += WIDE
        if group.endpoints or not group.containers:
            _draw_group(ax, group, x, y, result)
            for end in group.endpoints:
                places.append((x, end))
                x += WIDE
            if not group.endpoints:
                x += WIDE
    _draw_containers(ax, places, y, result)


def _draw_group(ax: Axes, group: Segment, x: float, y: float, result: NetworkMap) -> None:
    width = len(group.endpoints) or 1
    left, span = x + 0.08, width * WIDE - 0.24
    _box(ax, left, y + 0.45, span, 0.68, group.color, "white")
    middle = left + span / 2
    ax.text(
        middle, y + 0.98, group.title, color="white", weight="bold", ha="center", va="center", fontsize=8.5
    )
    said = group.detail if span > 2.6 else group.detail.replace(" · ", "\n")
    ax.text(middle, y + 0.67, said, color="white", ha="center", va="center", fontsize=7)
    if not group.endpoints:
        ax.text(middle, y + 1.4, "no port", color=FAINT, ha="center", va="center", fontsize=7.5)
    if group.color == HOST:
        # from the bridge to the host's routing: the way out of its subnet
        ax.plot([left + span - 0.1] * 2, [y - 0.5, y + 0.45], color=INK, lw=1.2, zorder=1)
    for number, end in enumerate(group.endpoints):
        ports = [p for p in result.published if p.container == end.container and end.gateway]
        _draw_published(ax, ports, x + number * WIDE, y)


def _draw_published(ax: Axes, ports: Sequence[PublishedPort], x: float, y: float) -> None:
    if not ports:
        return
    lines = [f"{p.host_address}:{p.host_port}\n→ {p.port}" for p in ports[:1]]
    if len(ports) > 1:
        lines.append(f"and {len(ports) - 1} more")
    left, span = x + 0.12, WIDE - 0.5
    _box(ax, left, y - 0.32, span, 0.5, LIMIT, "white")
    ax.text(left + span / 2, y - 0.07, "\n".join(lines), color="white", ha="center", va="center", fontsize=7)
    ax.plot([left + span / 2] * 2, [y - 0.5, y + 0.45], color=LIMIT, lw=1.6, zorder=1)


def _draw_containers(
    ax: Axes, places: Sequence[tuple[float, NetworkEndpoint]], y: float, result: NetworkMap
) -> None:
    drawn: set[str] = set()
    index = 0
    while index < len(places):
        x, end = places[index]
        last = index
        while last + 1 < len(places) and places[last + 1][1].container == end.container:
            last += 1
        span = (last - index + 1) * WIDE - 0.2
        many = (
            len({(e.interface, e.index) for e in result.endpoints if e.container == end.container})
            > last - index + 1
        )
        again = end.container in drawn
        drawn.add(end.container)
        name = end.container + (" (again)" if again else "")
        _box(ax, x + 0.06, y + 2.6, span, 0.98, "white", CONTAINER, dashed=many)
        ax.text(
            x + 0.06 + span / 2,
            y + 3.4,
            _short(name, 18),
            ha="center",
            va="center",
            weight="bold",
            fontsize=9,
            color=CONTAINER,
        )
        for place, one in places[index : last + 1]:
            _draw_end(ax, one, place, y)
        index = last + 1


def _draw_end(ax: Axes, end: NetworkEndpoint, x: float, y: float) -> None:
    middle = x + WIDE / 2 - 0.06
    address = next(iter(end.addresses), "no address")
    ax.text(middle, y + 3.16, address, ha="center", va="center", fontsize=8, color=INK)
    ax.text(middle, y + 2.97, end.mac, ha="center", va="center", fontsize=6.3, color=FAINT)
    ax.plot([middle] * 2, [y + 1.13, y + 2.7], color=CONTAINER if end.bridge else KERNEL, lw=2, zorder=1)
    _label(ax, middle, y + 2.68, f"{end.interface} · {end.index}", LINK)
    if end.kind == "veth" and end.host_interface:
        ax.text(middle + 0.05, y + 1.92, "veth pair", fontsize=6.3, color=FAINT, va="center")
    if end.host_interface is None:
        _label(ax, middle, y + 1.5, f"other end: {end.host_index or 'not here'}", "white")
    elif end.bridge is not None:
        _label(ax, middle, y + 1.5, f"{end.host_interface} · {end.host_index}", LINK)
    else:
        said = f"{end.kind}: no pair" if end.kind != "veth" else f"veth pair · {end.host_index}"
        _label(ax, middle, y + 1.5, said, "#F6DDA9")


def _draw_node(ax: Axes, node: MappedContainer, x: float, y: float) -> None:
    """A container without a line: inside of the host where it shares the host's namespace, else above it."""
    if node.shares_host:
        bottom, said, mode = y + 0.6, "network: host", "no interface of its own"
    else:
        joined = node.mode.startswith("container:")
        bottom, said = y + 2.6, "in another's namespace" if joined else "only lo"
        mode = f"network: {_short(node.mode, 12)}"
    _box(ax, x + 0.06, bottom, WIDE - 0.2, 0.98, "white", CONTAINER)
    lines: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (0.78, _short(node.name, 18), {"weight": "bold", "fontsize": 9, "color": CONTAINER}),
        (0.45, said, {"fontsize": 8, "color": INK}),
        (0.21, mode, {"fontsize": 6.5, "color": FAINT}),
    )
    for above, text, how in lines:
        ax.text(x + WIDE / 2 - 0.06, bottom + above, text, ha="center", va="center", **how)


def _draw_way_out(ax: Axes, result: NetworkMap, width: float, rows: int) -> None:
    """The last stretch: from the bridges through the host's routing and firewall to its own interface."""
    out = next((r.interface for r in result.host_routes if r.destination == "default"), None)
    names = (
        f"{out}: the host's own interface, and the world behind it"
        if out
        else "the host has no default route"
    )
    _box(ax, -0.15, 0.0, width + 0.1, 0.34, ENGINE, "white")
    if out and width < 4 * WIDE:
        names = out
    said = f"routing · firewall · translation   →   {names}"
    ax.text(width / 2, 0.17, said, ha="center", va="center", fontsize=8.5, color=INK)
    for number in range(1, rows):
        # rows above reach the routing by the line at the left
        y = 0.2 + number * HIGH
        ax.plot([-0.2, -0.2, -0.15], [0.17, y + 0.1, y + 0.1], color=INK, lw=1.2, clip_on=False)


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, face: str, edge: str, dashed: bool = False
) -> None:
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            fc=face,
            ec=edge,
            lw=1.3,
            ls="--" if dashed else "-",
        )
    )


def _label(ax: Axes, x: float, y: float, said: str, face: str) -> None:
    box = {"boxstyle": "round,pad=0.3", "fc": face, "ec": "white"}
    ax.text(x, y, said, ha="center", va="center", fontsize=7.3, color=INK, bbox=box, zorder=3)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
