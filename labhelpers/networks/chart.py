"""The figure of a network map: containers at the top, the host's ends of their interfaces and bridges below.

A packet follows the line from a container's interface to its other end on the host, then the bridge, and then goes to
another container or to the host's routing. The number next to an interface is its index; it identifies the other end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    RULE,
    SMALL,
    WHITE,
    box,
    canvas,
    cut,
    describe,
    label,
    note,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.networks.maps import MappedContainer, NetworkEndpoint, NetworkMap, PublishedPort

COLUMNS = 7
"""The most interfaces in a row of the figure: a MAC address just fits."""
MIN_COLUMNS = 4
# from the top of a row, in px
BOX_PX, NAMESPACE_PX, TAG_PX, BRIDGE_PX, PUBLISHED_PX, ROUTING_PX, ROW_PX = 100, 118, 170, 198, 294, 358, 406
ROUTING_HEIGHT, TAG_HEIGHT, BRIDGE_HEIGHT, PUBLISHED_HEIGHT, GAP = 28, 40, 88, 56, 20


@dataclass
class Segment:
    """A bridge or parent on the host with its endpoints, or containers without any."""

    title: str
    detail: str
    colour: str
    endpoints: list[NetworkEndpoint] = field(default_factory=list)
    containers: list[MappedContainer] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """The number of slots in a row."""
        return max(len(self.endpoints) + len(self.containers), 1)

    @property
    def names(self) -> set[str]:
        """The containers of the endpoints."""
        return {endpoint.container for endpoint in self.endpoints}


def draw_network_map(result: NetworkMap, ax: Axes) -> Axes:
    """Every container, its interfaces, their other ends, and the bridges."""
    segment_rows = _rows(_segments(result))
    heights = [ROW_PX if any(map(_is_on_host, row)) else BOX_PX + GAP for row in segment_rows]
    canvas(ax, sum(heights) - GAP, "Containers, their interfaces, and the host")
    columns = max(MIN_COLUMNS, *(sum(segment.slots for segment in row) for row in segment_rows))
    drawing = _Drawing(ax, result, CANVAS_PX / columns)
    for number, row in enumerate(segment_rows):
        drawing.draw_row(row, sum(heights[:number]))
    endpoints = (
        f"{endpoint.interface} of {endpoint.container} (index {endpoint.index}) is joined to "
        f"{endpoint.host_interface or 'another namespace'}"
        + (f" (index {endpoint.host_index})" if endpoint.host_index else "")
        + (f", a port of {endpoint.bridge}" if endpoint.bridge else "")
        for endpoint in result.endpoints
    )
    joined = {endpoint.container for endpoint in result.endpoints}
    others = (
        f"{each.name} {'uses the network of the host' if each.shares_host else f'has the network mode {each.mode}'}"
        for each in result.containers
        if each.name not in joined
    )
    published = (
        f"port {port.port} of {port.container} is published on {port.host_address}:{port.host_port}"
        for port in result.published
    )
    describe(ax, *endpoints, *others, *published)
    return ax


# --- layout


def _is_on_host(segment: Segment) -> bool:
    """Whether a part of the segment is in the host's network namespace."""
    return not segment.containers or any(each.shares_host for each in segment.containers)


def _segments(result: NetworkMap) -> list[Segment]:
    """Bridges, those with a common container next to each other; then parents, and containers without endpoints."""
    bridges = [
        Segment(
            bridge.name,
            f"bridge · {', '.join(a for a in bridge.addresses if '.' in a)} · network “{bridge.network}”"
            if bridge.network
            else "a bridge, of no network of the engine",
            HOST,
            [endpoint for endpoint in result.endpoints if endpoint.bridge == bridge.name],
        )
        for bridge in result.bridges
    ]
    ordered: list[Segment] = []
    while bridges:
        last = ordered[-1].names if ordered else set()
        # the one with most containers of the last; else the one that shares containers with the fewest others
        best = max(
            bridges,
            key=lambda segment: (
                len(last & segment.names),
                -_common_segments(segment, bridges),
                -bridges.index(segment),
            ),
        )
        bridges.remove(best)
        ordered.append(best)
    for left, right in itertools.pairwise(ordered):
        _make_adjacent(left, right)
    joined = {endpoint.container for endpoint in result.endpoints}
    on_host = [each for each in result.containers if each.shares_host]
    isolated = [each for each in result.containers if not each.shares_host and each.name not in joined]
    rest = [
        Segment("", "the host's own interfaces", LIMIT, containers=on_host),
        Segment("", "no interface but loopback", FAINT, containers=isolated),
    ]
    return [*ordered, *_parents(result), *(segment for segment in rest if segment.containers)]


def _parents(result: NetworkMap) -> list[Segment]:
    """The host interfaces of endpoints that are no port of a bridge."""
    parents: dict[str, Segment] = {}
    for endpoint in result.endpoints:
        if endpoint.bridge is None:
            name = endpoint.host_interface or "elsewhere"
            detail = "the host's end of a veth pair" if endpoint.host_interface else "in another namespace"
            segment = parents.setdefault(name, Segment(name, detail, KERNEL))
            if endpoint.kind in ("macvlan", "ipvlan"):
                segment.detail = f"parent of {endpoint.kind} interfaces"
            segment.endpoints.append(endpoint)
    return list(parents.values())


def _common_segments(segment: Segment, others: Sequence[Segment]) -> int:
    return sum(bool(segment.names & other.names) for other in others if other is not segment)


def _make_adjacent(left: Segment, right: Segment) -> None:
    """Move a container of both segments to the end of the left and the start of the right one."""
    if both := left.names & right.names:
        name = min(both)
        left.endpoints.sort(key=lambda endpoint: endpoint.container == name)
        right.endpoints.sort(key=lambda endpoint: endpoint.container != name)


def _rows(segments: Sequence[Segment]) -> list[list[Segment]]:
    rows: list[list[Segment]] = [[]]
    for segment in segments:
        for part in _parts(segment):
            if rows[-1] and sum(each.slots for each in rows[-1]) + part.slots > COLUMNS:
                rows.append([])
            rows[-1].append(part)
    return rows


def _parts(segment: Segment) -> list[Segment]:
    """A segment that is wider than a row, in parts; it has either endpoints or containers."""
    if segment.slots <= COLUMNS:
        return [segment]
    return [
        Segment(
            segment.title,
            segment.detail,
            segment.colour,
            segment.endpoints[start : start + COLUMNS],
            segment.containers[start : start + COLUMNS],
        )
        for start in range(0, segment.slots, COLUMNS)
    ]


# --- drawing


class _Drawing:
    """Draws the rows of a map; `slot` is the width of an interface in px."""

    def __init__(self, ax: Axes, result: NetworkMap, slot: float) -> None:
        self.ax, self.result, self.slot = ax, result, slot

    def draw_row(self, row: Sequence[Segment], top: float) -> None:
        if any(map(_is_on_host, row)):
            height = ROUTING_PX + ROUTING_HEIGHT - NAMESPACE_PX
            box(self.ax, (0, top + NAMESPACE_PX), (CANVAS_PX, height), PAPER, edge=RULE)
            self.draw_routing(top + ROUTING_PX)
        x = 0.0
        places: list[tuple[float, NetworkEndpoint]] = []
        for segment in row:
            for container in segment.containers:
                self.draw_without_endpoint(container, x, top)
                x += self.slot
            if segment.endpoints or not segment.containers:
                self.draw_segment(segment, x, top)
                places += [
                    (x + number * self.slot, endpoint) for number, endpoint in enumerate(segment.endpoints)
                ]
                x += self.slot * segment.slots
        self.draw_containers(places, top)

    def draw_segment(self, segment: Segment, x: float, top: float) -> None:
        width = segment.slots * self.slot
        corner = (x + 4, top + BRIDGE_PX)
        box(
            self.ax,
            corner,
            (width - 8, BRIDGE_HEIGHT),
            segment.colour,
            title=segment.title,
            text=segment.detail,
        )
        if not segment.endpoints:
            note(self.ax, x + width / 2, top + TAG_PX, "no port", align="center")
        if segment.colour == HOST:
            # from the bridge to the host's routing
            right = x + width - 7
            self.ax.plot([right] * 2, [top + BRIDGE_PX + BRIDGE_HEIGHT, top + ROUTING_PX], color=INK, lw=1.2)
        for number, endpoint in enumerate(segment.endpoints):
            ports = [
                port
                for port in self.result.published
                if port.container == endpoint.container and endpoint.gateway
            ]
            self.draw_published(ports, x + number * self.slot, top)

    def draw_published(self, ports: Sequence[PublishedPort], x: float, top: float) -> None:
        if not ports:
            return
        width = self.slot - 14
        middle = x + 4 + width / 2
        for ends in (
            (BRIDGE_PX + BRIDGE_HEIGHT, PUBLISHED_PX),
            (PUBLISHED_PX + PUBLISHED_HEIGHT, ROUTING_PX),
        ):
            self.ax.plot([middle] * 2, [top + end for end in ends], color=LIMIT, lw=1.6)
        box(self.ax, (x + 4, top + PUBLISHED_PX), (width, PUBLISHED_HEIGHT), tint(LIMIT), edge=LIMIT)
        lines = [ports[0].host_address, f":{ports[0].host_port} → {ports[0].port}"]
        lines += [f"and {len(ports) - 1} more"] if len(ports) > 1 else []
        text = "\n".join(cut(line, width - 1, SMALL) for line in lines)
        label(self.ax, middle, top + PUBLISHED_PX + PUBLISHED_HEIGHT / 2, text, size=SMALL, align="center")

    def draw_containers(self, places: Sequence[tuple[float, NetworkEndpoint]], top: float) -> None:
        drawn: set[str] = set()
        for name, group in itertools.groupby(places, key=lambda place: place[1].container):
            slots = list(group)
            x, width = slots[0][0] + 3, len(slots) * self.slot - 6
            is_split = len(self.result.endpoints_of(name)) > len(slots)
            box(self.ax, (x, top), (width, BOX_PX), WHITE, edge=CONTAINER, dashed=is_split)
            title = f"{name} (again)" if name in drawn else name
            drawn.add(name)
            text = cut(title, width - 8, bold=True)
            label(self.ax, x + width / 2, top + 14, text, CONTAINER, bold=True, align="center")
            for left, endpoint in slots:
                self.draw_endpoint(endpoint, left + self.slot / 2, top)

    def draw_endpoint(self, endpoint: NetworkEndpoint, x: float, top: float) -> None:
        address = cut(next(iter(endpoint.addresses), "no address"), self.slot - 8, SMALL)
        label(self.ax, x, top + 36, address, size=SMALL, align="center")
        note(self.ax, x, top + 56, endpoint.mac, align="center")
        line = CONTAINER if endpoint.bridge else KERNEL
        # in two parts, since a line is drawn over the tag between them
        for ends in ((BOX_PX, TAG_PX - TAG_HEIGHT / 2), (TAG_PX + TAG_HEIGHT / 2, BRIDGE_PX)):
            self.ax.plot([x, x], [top + end for end in ends], color=line, lw=2)
        self.tag(x, top + BOX_PX - 17, f"{endpoint.interface} · {endpoint.index}", tint(CONTAINER), 22)
        if endpoint.kind == "veth" and endpoint.host_interface:
            note(self.ax, x, top + 136, "veth pair", shift=(5, 0))
        if endpoint.host_interface is None:
            text, face = f"other end: {endpoint.host_index or 'not here'}", WHITE
        elif endpoint.bridge is not None:
            text, face = f"{endpoint.host_interface} · {endpoint.host_index}", tint(CONTAINER)
        else:
            text = (
                f"{endpoint.kind}: no pair"
                if endpoint.kind != "veth"
                else f"veth pair · {endpoint.host_index}"
            )
            face = tint(KERNEL)
        self.tag(x, top + TAG_PX, text, face, TAG_HEIGHT)

    def tag(self, x: float, y: float, text: str, face: str, height: float) -> None:
        box(
            self.ax,
            (x - self.slot / 2 + 5, y - height / 2),
            (self.slot - 10, height),
            face,
            edge=WHITE,
            text=text,
        )

    def draw_without_endpoint(self, container: MappedContainer, x: float, top: float) -> None:
        """A container without endpoints: inside the host's network namespace if it shares that, else above it."""
        if container.shares_host:
            y, text, detail = top + BRIDGE_PX, "network: host", "no own interface"
        else:
            joined = container.mode.startswith("container:")
            y, text = top, "in another's namespace" if joined else "only lo"
            detail = f"network: {container.mode}"
        box(self.ax, (x + 3, y), (self.slot - 6, BOX_PX), WHITE, edge=CONTAINER)
        middle = x + self.slot / 2
        title = cut(container.name, self.slot - 14, bold=True)
        label(self.ax, middle, y + 14, title, CONTAINER, bold=True, align="center")
        label(self.ax, middle, y + 40, cut(text, self.slot - 10, SMALL), size=SMALL, align="center")
        note(self.ax, middle, y + 66, cut(detail, self.slot - 10, SMALL), align="center")

    def draw_routing(self, y: float) -> None:
        """The host's routing, from the bridges to its default route."""
        interface = next((r.interface for r in self.result.host_routes if r.destination == "default"), None)
        target = f"{interface} and the outside" if interface else "no default route"
        text = f"the host's network namespace: routing · firewall · address translation   →   {target}"
        box(self.ax, (0, y), (CANVAS_PX, ROUTING_HEIGHT), ENGINE, text=text)
