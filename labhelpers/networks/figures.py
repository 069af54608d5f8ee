"""Figures of the chapter on networking: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
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
    VM,
    WHITE,
    arrow,
    bar,
    box,
    canvas,
    describe,
    grid,
    key,
    label,
    lane_labels,
    line_height,
    listed,
    moment,
    rows,
    set_height,
    text_width,
    tint,
    wrap,
)
from labhelpers.networks.chart import draw_network_map
from labhelpers.networks.paths import BASELINE
from labhelpers.networks.swarm import SERVICE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.networks.drivers import Macvlan, Reachability, ReachabilityMatrix
    from labhelpers.networks.packet_trace import Hop, PacketTrace
    from labhelpers.networks.packets import Header
    from labhelpers.networks.paths import Paths
    from labhelpers.networks.swarm import EngineFailure, OverlayPing
    from labhelpers.results import Result

__all__ = [
    "draw_engine_failure",
    "draw_macvlan",
    "draw_network_map",
    "draw_overlay_ping",
    "draw_packet_trace",
    "draw_paths",
    "draw_reachability_matrix",
]

HEADER_COLOURS = {"Ethernet": ENGINE, "IPv4": HOST, "UDP": KERNEL, "VXLAN": VM}
NAMESPACE_COLOURS = {"client": CONTAINER, "server": CONTAINER, "the host": HOST, "outside": VM}
HIDDEN_FIELDS = ("ttl", "length", "id")


def draw_macvlan(result: Macvlan, ax: Axes) -> Axes:
    """The map of the two containers and the neighbour."""
    return draw_network_map(result.map, ax)


def draw_reachability_matrix(result: ReachabilityMatrix, ax: Axes) -> Axes:
    """A grid with a row for each source and a column for each target."""
    cells = [
        [("", PAPER) if source == target else _reach(result.of(source, target)) for target in result.names]
        for source in result.names
    ]
    heads = [f"to {name}" for name in result.names]
    names = [f"from {name}" for name in result.names]
    grid(ax, heads, names, cells, title="Which container reaches which, and how")
    describe(
        ax,
        *(
            f"{source} reaches "
            + listed(
                [f"{p.target} by {_reach(p)[0]}" for p in result.pairs if p.source == source and p.by_address]
            )
            for source in result.names
        ),
    )
    return ax


def _reach(pair: Reachability) -> tuple[str, str]:
    if pair.by_name:
        return "address\nand name", HOST
    return ("address\nonly", KERNEL) if pair.by_address else ("no", WHITE)


def draw_overlay_ping(result: OverlayPing, ax: Axes) -> Axes:
    """The headers of the echo request in order: those of the outer packet, then the inner packet."""
    request = result.request
    headers = [*request.headers]
    data_bytes = request.bytes - sum(header.bytes for header in headers)
    titles = [*(f"{header.name}\n{header.bytes} bytes" for header in headers), f"data\n{data_bytes} bytes"]
    fields = [*(_fields(header) for header in headers), ""]
    widths = [
        max(text_width(title, bold=True), text_width(text, SMALL)) + 20
        for title, text in zip(titles, fields, strict=True)
    ]
    spare = (CANVAS_PX - sum(widths)) / len(widths)
    edges = [0.0]
    for width in widths:
        edges.append(edges[-1] + width + spare)
    split = edges[[header.name for header in headers].index("VXLAN") + 1]
    engines, containers = (" → ".join(dict(pairs).values()) for pairs in (result.engines, result.addresses))
    top = 3 * line_height(SMALL) + 14
    lines = max(text.count("\n") + 1 for text in fields)
    canvas(ax, top + 60 + lines * line_height(SMALL), "An echo request between containers on two engines")
    outer = f"outer packet: engine to engine ({engines}), {result.headers_bytes} bytes more"
    inner = f"inner packet: container to container ({containers})"
    _bracket(ax, (0, split - 4), top - 6, outer, VM)
    _bracket(ax, (split, CANVAS_PX), top - 6, inner, CONTAINER)
    colours = [*(HEADER_COLOURS.get(header.name, LIMIT) for header in headers), PAPER]
    for left, right, title, text, colour in zip(edges, edges[1:], titles, fields, colours, strict=False):
        box(ax, (left, top), (right - left - 4, 50), colour, title=title)
        label(ax, (left + right) / 2 - 2, top + 56, text, size=SMALL, align="center", valign="top")
    shown = [title.replace("\n", " ") for title in titles]
    describe(ax, listed(shown), outer, inner)
    return ax


def _fields(header: Header) -> str:
    """The main fields of a header; a MAC address on a line of its own."""
    return "\n".join(
        f"{name}\n{value}" if value.count(":") == 5 else f"{name} {value}"
        for name, value in header.fields
        if name not in HIDDEN_FIELDS
    )


def _bracket(ax: Axes, ends: tuple[float, float], y: float, text: str, colour: str) -> None:
    left, right = ends
    ax.plot([left, left, right, right], [y, y - 7, y - 7, y], color=colour, lw=1.6)
    text = wrap(text, right - left, SMALL, bold=True)
    label(
        ax, (left + right) / 2, y - 11, text, colour, size=SMALL, bold=True, align="center", valign="bottom"
    )


def draw_packet_trace(result: PacketTrace, ax: Axes) -> Axes:
    """A column for each interface, time downwards: the request goes to the right, its reply comes back."""
    columns = list(dict.fromkeys((hop.namespace, hop.interface) for hop in (*result.request, *result.reply)))
    texts = _hop_texts(result.hops)
    right = CANVAS_PX - max(text_width(text, SMALL, bold=True) for text, _ in texts)
    step, head_px, row_px = right / len(columns), 46, 42
    height = head_px + row_px * len(result.hops)
    canvas(ax, height, f"The first packets of a request {result.name}", keyed=True)
    key(ax, [(CONTAINER, "request (SYN)"), (VM, "reply (SYN ACK)")])
    for number, (namespace, interface) in enumerate(columns):
        x, colour = step * (number + 0.5), NAMESPACE_COLOURS.get(namespace, INK)
        ax.plot([x, x], [head_px, height], color=tint(colour), lw=2)
        text = f"{namespace}\n{interface}"
        label(ax, x, head_px - 6, text, colour, size=SMALL, bold=True, align="center", valign="bottom")
    before: tuple[Hop, float, float] | None = None
    for row, (hop, (text, is_translated)) in enumerate(zip(result.hops, texts, strict=True)):
        x, y = step * (columns.index((hop.namespace, hop.interface)) + 0.5), head_px + row_px * (row + 0.5)
        colour = CONTAINER if hop.flags == "SYN" else VM
        ax.plot(x, y, "o", color=colour, ms=6)
        if before and before[0].flags == hop.flags:
            arrow(ax, before[1:], (x, y), colour)
        label(ax, right, y, text, LIMIT if is_translated else INK, size=SMALL, bold=is_translated)
        before = (hop, x, y)
    source, target = result.request[0].source, result.request[-1].source
    describe(
        ax,
        f"the request passes {result.request_path}",
        f"its source is {source}"
        + (f", translated to {target}" if result.source_translated else " at each of them"),
        f"the reply {'returns' if result.reply_returned else 'does not return'} to {source}",
    )
    return ax


def _hop_texts(hops: Sequence[Hop]) -> list[tuple[str, bool]]:
    """Time and addresses of each hop, and whether an address has changed since the one before."""
    texts = []
    for number, hop in enumerate(hops):
        previous = hops[number - 1] if number else hop
        is_translated = previous.flags == hop.flags and (previous.source, previous.target) != (
            hop.source,
            hop.target,
        )
        text = f"{hop.at_us:.0f} µs  {hop.source}\n→ {hop.target}"
        texts.append((f"{text}  translated" if is_translated else text, is_translated))
    return texts


def draw_paths(result: Paths, ax: Axes) -> Axes:
    """Round trips as box plots; throughput as median bars with a dot for each round."""
    names = result.ranking
    set_height(ax, 150 + 48 * len(names))
    ax.axis("off")
    left, right = ax.inset_axes((0.17, 0.12, 0.4, 0.86)), ax.inset_axes((0.61, 0.12, 0.38, 0.86))
    _draw_round_trips(result, left)
    _draw_throughput(result, right)
    key(
        ax,
        [
            (KERNEL, "25 to 75 % of the round trips, whiskers 1 to 99 %"),
            (CONTAINER, "one stream"),
            (ENGINE, "four streams"),
            (INK, "each round"),
        ],
    )
    ax.set_title("Round trips and throughput of each path", pad=24)
    describe(
        ax,
        *(
            f"{cost.path}: median round trip {cost.median_us:.0f} µs, "
            f"one stream {cost.one_stream_gbit_per_s:.2g} Gbit/s"
            for cost in map(result.cost, names)
        ),
    )
    return ax


def _draw_round_trips(result: Paths, ax: Axes) -> None:
    names = result.ranking
    ax.boxplot(
        [result.round_trips_us(name) for name in names],
        orientation="horizontal",
        positions=list(range(len(names))),
        whis=(1, 99),
        showfliers=False,
        widths=0.5,
        patch_artist=True,
        boxprops={"facecolor": tint(KERNEL), "edgecolor": KERNEL},
        medianprops={"color": VM, "lw": 2},
    )
    low = min(result.percentile_us(name, 1) for name in names)
    high = max(result.percentile_us(name, 99) for name in names)
    # room for the label behind the longest whisker
    end = high * (high / low) ** 0.3 * 1.3
    ticks = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
    shown = [tick for tick in ticks if low * 0.8 <= tick <= end]
    # at most five, or they would touch
    shown = shown[:: len(shown) // 5 + 1]
    ax.set(xscale="log", xlim=(low * 0.8, end), ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel("round trip (µs)")
    ax.set_xticks(shown, [f"{tick:,}" for tick in shown])
    ax.minorticks_off()
    ax.set_yticks(range(len(names)), names)
    for row, name in enumerate(names):
        text = f"{result.percentile_us(name, 50):.0f} µs"
        label(ax, result.percentile_us(name, 99), row, text, VM, size=SMALL, shift=(6, 0))


def _draw_throughput(result: Paths, ax: Axes) -> None:
    names = result.ranking
    ax.set_yticks([])
    ax.set(ylim=(len(names) - 0.5, -1), xlabel="throughput (Gbit/s)")
    for row, name in enumerate(names):
        for count, shift, colour in ((1, -0.2, CONTAINER), (4, 0.2, ENGINE)):
            rates = [bits / 1e9 for bits in result.streams(name, count)]
            ax.barh(row + shift, statistics.median(rates), height=0.34, color=colour)
            ax.plot(rates, [row + shift] * len(rates), ".", color=INK, ms=4)
    ax.set_xlim(0, ax.get_xlim()[1])
    if BASELINE in names:
        moment(ax, statistics.median(result.streams(BASELINE, 1)) / 1e9, "the host's own loopback", LIMIT)


def draw_engine_failure(result: EngineFailure, ax: Axes) -> Axes:
    """The replicas on each engine, and the addresses of the service's name, before and after the kill."""
    before, after = dict(result.before), dict(result.after)
    begin, killed, replaced = -0.45 * result.rescheduled_s, 0.0, result.rescheduled_s
    end = replaced * 1.45
    rows(
        ax,
        [*before, f"name “{SERVICE}”"],
        title="A service with two replicas when an engine is killed",
        end=end,
        xlabel="seconds since the engine was killed",
    )
    ax.set_xlim(begin, end)
    (survivor, killed_engine), colours = before, (HOST, CONTAINER)
    spans = [
        (0, begin, replaced, before[survivor]),
        (0, replaced, end, after[survivor]),
        (1, begin, killed, before[killed_engine]),
        (1, replaced, end, after[killed_engine]),
    ]
    for row, start, stop, count in spans:
        if count:
            text = f"{count} replica{'s' if count > 1 else ''}"
            bar(ax, row, start, stop, colours[row], text, height=0.45 * count)
    answered = f"{result.answered_requests} of {result.requests} requests answered"
    bar(ax, 2, begin, killed, RULE, ", ".join(result.addresses_before))
    bar(ax, 2, killed, replaced, PAPER, answered)
    bar(ax, 2, replaced, end, RULE, ", ".join(result.addresses_after))
    detected = f"detected: {result.detected_s:.1f} s"
    rescheduled = f"rescheduled: {result.rescheduled_s:.1f} s"
    lane_labels(ax, [(0.0, "killed"), (result.detected_s, detected), (replaced, rescheduled)], -0.4, FAINT)
    describe(
        ax,
        f"before: {_counts(before)}, the name resolves to {listed(result.addresses_before)}",
        f"{killed_engine} is killed, {detected}, {rescheduled}, {answered}",
        f"after: {_counts(after)}, the name resolves to {listed(result.addresses_after)}",
    )
    return ax


def _counts(replicas: dict[str, int]) -> str:
    return listed([f"{count} on {engine}" for engine, count in replicas.items()])


def assets(lab: Lab) -> Iterator[Result]:
    """Map containers on three networks, on the host's network and on none."""
    from labhelpers import networks

    no_dns = ["127.0.0.1"]
    image = lab.image("payload")
    for network in ("shop", "bank"):
        lab.create_network(network)
    lab.run(image, name="web", dns=no_dns, ports={"80/tcp": None})
    lab.run(image, name="mail", dns=no_dns)
    for name, network in (("cart", "shop"), ("both", "shop"), ("safe", "bank")):
        lab.run(image, name=name, network=network, dns=no_dns)
    lab.connect("bank", "both")
    lab.run(image, ["sleep", "600"], name="shared", network="host")
    lab.run(image, ["sleep", "600"], name="alone", network="none")
    yield networks.network_map(lab, ["web", "mail", "cart", "both", "safe", "shared", "alone"])
