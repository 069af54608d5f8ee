"""Figures of the chapter on networking: data on an Axes; they talk to no engine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, LIMIT, PAPER, VM, resize
from labhelpers.networks.chart import draw_network_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.networks.drivers import Macvlan, ReachabilityMatrix
    from labhelpers.networks.packet_trace import Hop, PacketTrace
    from labhelpers.networks.paths import Paths
    from labhelpers.networks.swarm import EngineFailure, OverlayPing

__all__ = [
    "draw_engine_failure",
    "draw_macvlan",
    "draw_network_map",
    "draw_overlay_ping",
    "draw_packet_trace",
    "draw_paths",
    "draw_reachability_matrix",
]

HEADERS = {
    "Ethernet": ENGINE,
    "IPv4": HOST,
    "UDP": KERNEL,
    "VXLAN": VM,
    "ICMP": LIMIT,
    "TCP": LIMIT,
    "ARP": LIMIT,
}
PLACES = {"client": CONTAINER, "server": CONTAINER, "the host": HOST, "outside": VM}


def draw_macvlan(result: Macvlan, ax: Axes) -> Axes:
    """The map of what was joined."""
    return draw_network_map(result.map, ax)


def draw_reachability_matrix(result: ReachabilityMatrix, ax: Axes) -> Axes:
    """A grid: a row for who asks, a column for who is asked; what worked is said in each cell."""
    names = result.names
    resize(ax, 2.2 + 1.15 * len(names), 1.2 + 0.55 * len(names))
    from matplotlib.patches import Rectangle

    for row, source in enumerate(names):
        for column, target in enumerate(names):
            if source == target:
                continue
            one = result.of(source, target)
            face = HOST if one.by_address and one.by_name else KERNEL if one.by_address else "white"
            said = "address\nand name" if one.by_name else "address\nonly" if one.by_address else "no"
            ax.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fc=face, ec=FAINT, lw=0.6))
            color = FAINT if face == "white" else "white" if face == HOST else INK
            ax.text(column, row, said, ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.6, len(names) - 0.4), ylim=(len(names) - 0.4, -0.6), ylabel="from")
    ax.set_title("Who reaches whom, and by what", pad=22)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def draw_overlay_ping(result: OverlayPing, ax: Axes) -> Axes:
    """The request as it is on the wire: its headers in order, the outer packet around the inner one."""
    resize(ax, 11, 3.3)
    request = result.request
    names = [layer.name for layer in request.headers]
    inner = names.index("VXLAN") + 1
    width = 1.5
    for place, layer in enumerate(request.headers):
        x = place * width
        _bar(ax, x, 1.0, width - 0.06, 0.62, HEADERS.get(layer.name, FAINT))
        ax.text(
            x + width / 2,
            1.31,
            f"{layer.name}\n{layer.bytes} bytes",
            ha="center",
            va="center",
            color="white",
            fontsize=8.5,
            weight="bold",
        )
        shown = [(name, value) for name, value in layer.fields if name not in ("ttl", "length", "id")]
        said = "\n".join(f"{name} {value}" for name, value in shown)
        ax.text(x + width / 2, 0.9, said, ha="center", va="top", fontsize=6.6, color=INK)
    rest = len(request.headers) * width
    left = request.bytes - sum(layer.bytes for layer in request.headers)
    _bar(ax, rest, 1.0, width * 0.8, 0.62, PAPER)
    ax.text(
        rest + width * 0.4, 1.31, f"data\n{left} bytes", ha="center", va="center", fontsize=8.5, color=INK
    )
    ends = dict(result.addresses), dict(result.engines)
    _bracket(
        ax,
        0,
        inner * width - 0.06,
        1.95,
        f"outer packet: engine to engine ({' → '.join(ends[1].values())}), {result.headers_bytes} bytes more",
        VM,
    )
    _bracket(
        ax,
        inner * width,
        rest + width * 0.8,
        1.95,
        f"inner packet: container to container ({' → '.join(ends[0].values())})",
        CONTAINER,
    )
    ax.set(xlim=(-0.1, rest + width), ylim=(0.1, 2.5))
    ax.axis("off")
    return ax


def _bracket(ax: Axes, left: float, right: float, y: float, said: str, color: str) -> None:
    ax.plot([left, left, right, right], [y - 0.14, y, y, y - 0.14], color=color, lw=1.6)
    ax.text(
        (left + right) / 2, y + 0.1, said, ha="center", va="bottom", color=color, fontsize=8.5, weight="bold"
    )


def draw_packet_trace(result: PacketTrace, ax: Axes) -> Axes:
    """A column for each interface on the way, time downwards: the request goes right, its answer comes back."""
    columns = list(dict.fromkeys((hop.namespace, hop.interface) for hop in result.request))
    columns += [c for hop in result.reply if (c := (hop.namespace, hop.interface)) not in columns]
    resize(ax, 2.1 * len(columns) + 3.6, 1.4 + 0.34 * len(result.hops))
    for number, (place, interface) in enumerate(columns):
        color = PLACES.get(place, INK)
        ax.plot([number] * 2, [-0.4, len(result.hops) - 0.4], color=color, lw=1, alpha=0.4, zorder=1)
        ax.text(
            number,
            -0.7,
            f"{place}\n{interface}",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=color,
            weight="bold",
        )
    before: Hop | None = None
    last = len(columns) - 1
    for row, hop in enumerate(result.hops):
        x = columns.index((hop.namespace, hop.interface))
        color = CONTAINER if hop.flags == "SYN" else VM
        ax.plot(x, row, "o", color=color, ms=6, zorder=3)
        if before is not None and before.flags == hop.flags:
            start = (columns.index((before.namespace, before.interface)), row - 1)
            ax.annotate("", (x, row), start, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.4})
        changed = (
            before is not None
            and before.flags == hop.flags
            and (before.source, before.target) != (hop.source, hop.target)
        )
        said = f"{hop.at_us:5.0f} µs  {hop.source} → {hop.target}" + ("   translated" if changed else "")
        ax.text(
            last + 0.35,
            row,
            said,
            va="center",
            fontsize=8,
            color=LIMIT if changed else INK,
            weight="bold" if changed else "normal",
        )
        before = hop
    ax.set_title(f"One request {result.name}: asks (SYN, blue), and is answered (SYN ACK, red)", pad=30)
    ax.set(xlim=(-0.6, last + 2.3), ylim=(len(result.hops) - 0.3, -0.75))
    ax.axis("off")
    return ax


def draw_paths(result: Paths, ax: Axes) -> Axes:
    """Round trips as distributions, throughput as medians with every round as a dot; the host's loopback as a line."""
    from labhelpers.networks.paths import BASELINE

    resize(ax, 11, 4.6)
    ax.axis("off")
    names = result.ranking
    left = ax.inset_axes((0.16, 0.1, 0.38, 0.8))
    right = ax.inset_axes((0.6, 0.1, 0.4, 0.8))
    left.boxplot(
        [result.round_trips_us(name) for name in names],
        orientation="horizontal",
        positions=list(range(len(names))),
        whis=(1, 99),
        showfliers=False,
        widths=0.5,
        medianprops={"color": VM, "lw": 2},
    )
    for row, name in enumerate(names):
        middle = result.percentile_us(name, 50)
        left.text(middle, row - 0.36, f"{middle:.0f} µs", color=VM, fontsize=8, ha="center")
    left.set_yticks(range(len(names)), names)
    left.set(xscale="log", xlabel="one round trip, µs · box: 25 to 75 % · whiskers: 1 to 99 %")
    left.set_title("Round trips", pad=16)
    _plain_ticks(
        left,
        [one for name in names for one in (result.percentile_us(name, 1), result.percentile_us(name, 99))],
    )
    left.invert_yaxis()
    for row, name in enumerate(names):
        for count, shift, color in ((1, -0.2, CONTAINER), (4, 0.2, ENGINE)):
            found = [bits / 1e9 for bits in result.streams(name, count)]
            right.barh(row + shift, statistics.median(found), height=0.34, color=color)
            right.plot(found, [row + shift] * len(found), ".", color=INK, ms=4)
    if BASELINE in names:
        top = statistics.median(result.streams(BASELINE, 1)) / 1e9
        right.axvline(top, color=LIMIT, ls="--", lw=1.2)
        right.text(top, -0.75, "the host's own loopback", color=LIMIT, fontsize=8, ha="center", va="bottom")
    right.set_yticks([])
    right.set_ylim(len(names) - 0.5, -0.6)
    right.set_xlabel("Gbit/s · dark: one stream, light: four · bar: median, dots: every round")
    right.set_title("Throughput (iperf3)", pad=16)
    return ax


def _plain_ticks(ax: Axes, values: Sequence[float]) -> None:
    """Marks of a logarithmic axis as numbers that one reads: 20, 50, 100, …"""
    marks = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
    shown = [mark for mark in marks if min(values) * 0.7 <= mark <= max(values) * 1.4]
    ax.set_xticks(shown, [f"{mark:,}" for mark in shown])
    ax.minorticks_off()


def draw_engine_failure(result: EngineFailure, ax: Axes) -> Axes:
    """The replicas on each engine against time, and what the name meant."""
    resize(ax, 9, 2.9)
    end = result.rescheduled_s * 1.25
    rows = (("engine-1", HOST), ("engine-2", CONTAINER))
    before, after = dict(result.before), dict(result.after)
    for row, (name, color) in enumerate(rows):
        parts = [
            (-0.25 * end, 0.0, before.get(name, 0)),
            (0.0, result.rescheduled_s, before.get(name, 0) if row == 0 else 0),
            (result.rescheduled_s, end, after.get(name, 0)),
        ]
        for start, stop, count in parts:
            if count:
                ax.barh(row, stop - start, left=start, height=0.25 * count, color=color, ec="white")
                ax.text(
                    (start + stop) / 2,
                    row,
                    f"{count} replica{'s' if count > 1 else ''}",
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=8,
                )
        ax.text(-0.26 * end, row, f"{name} ", ha="right", va="center", weight="bold", color=color)
    moments = (
        (0.0, "killed"),
        (result.detected_s, f"noticed\n{result.detected_s:.1f} s"),
        (result.rescheduled_s, f"replaced\n{result.rescheduled_s:.1f} s"),
    )
    for at, said in moments:
        ax.axvline(at, color=INK, lw=1, ls=":")
        box = {"fc": "white", "ec": "none", "pad": 1}
        ax.text(at, -0.62, said, ha="center", va="bottom", fontsize=8, bbox=box)
    said = (
        f"the name means {' and '.join(result.addresses_before)}, then {' and '.join(result.addresses_after)} · "
        f"{result.answered_requests} of {result.requests} requests in between were answered"
    )
    box = {"fc": "white", "ec": "none", "pad": 1}
    ax.text((end - 0.25 * end) / 2, 1.45, said, ha="center", va="top", fontsize=8, color=INK, bbox=box)
    ax.set(xlim=(-0.25 * end, end), ylim=(1.75, -1.1), yticks=[], xlabel="s since the engine was killed")
    ax.spines["left"].set_visible(False)
    return ax


def _bar(ax: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), width, height, fc=color, ec="white"))
