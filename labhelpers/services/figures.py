"""Figures of the chapter on services: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    VM,
    human_bytes,
    resize,
)
from labhelpers.services.monitor import SOCKETS
from labhelpers.services.startup import (
    ACCEPTED,
    INITIALIZED,
    INITIALIZES_FILES,
    READY,
    STARTS_TEMPORARY,
    STOPS_TEMPORARY,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.services.interrupted_start import KilledStarts
    from labhelpers.services.monitor import HostMounts
    from labhelpers.services.pulls import Pulled
    from labhelpers.services.startup import Startup
    from labhelpers.services.usage_comparison import UsageComparison

MIB = 1024 * 1024
MOST_LAYERS = 14
PHASES = {
    INITIALIZES_FILES: "makes the data directory",
    STARTS_TEMPORARY: "temporary server:\nno network",
    STOPS_TEMPORARY: "stops it",
    INITIALIZED: "the server starts",
    READY: "ready for connections",
}
TRIES = {"nobody listens": FAINT, "taken, then closed": KERNEL, ACCEPTED: HOST}


def draw_pulled(result: Pulled, ax: Axes) -> Axes:
    """One row a layer, the lowest at the top: when it was fetched, when it was unpacked, or that it was there."""
    layers = result.layers[-MOST_LAYERS:]
    resize(ax, 8, 1.4 + 0.34 * len(layers))
    for row, one in enumerate(layers):
        ax.barh(row, one.fetched_s - one.begin_s, left=one.begin_s, height=0.6, color=ENGINE)
        ax.barh(row, one.done_s - one.fetched_s, left=one.fetched_s, height=0.6, color=CONTAINER)
        size = human_bytes(one.bytes) if one.bytes else "fetched"
        said = "already there" if one.already_there else size
        ax.text(
            one.done_s,
            row,
            f"  {said}",
            va="center",
            fontsize=9,
            color="#555555" if one.already_there else INK,
        )
    cut = f" (the last {len(layers)} shown)" if len(layers) < len(result.layers) else ""
    there = len(result.layers) - result.fetched
    name = result.ref.rpartition("/")[2]
    ax.set_title(f"docker pull {name}: {result.fetched} layers came, {there} were there{cut}")
    ax.text(0, len(layers) - 0.1, "■ fetched", color=ENGINE, fontsize=9, va="center")
    ax.text(result.total_s * 0.2, len(layers) - 0.1, "■ unpacked", color=CONTAINER, fontsize=9, va="center")
    ax.set_yticks(range(len(layers)), [one.id[:12] for one in layers], family="monospace", fontsize=8.5)
    ax.set(xlim=(0, result.total_s * 1.25 or 1), ylim=(len(layers) + 0.3, -0.6), xlabel="seconds")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def draw_startup(result: Startup, ax: Axes) -> Axes:
    """Three rows on one clock: the log, the health check, a client that tries again and again."""
    resize(ax, 9.5, 3.9)
    last = max([result.accepted_s, result.healthy_s or 0, *(one.at_s for one in result.milestones)])
    ends = [*(one.at_s for one in result.milestones[1:]), last * 1.02]
    colours = {
        INITIALIZES_FILES: "#CFE3F1",
        STARTS_TEMPORARY: "#F6DFC0",
        STOPS_TEMPORARY: "#E9E9E4",
        INITIALIZED: "#CFE3F1",
        READY: "#BFE5D6",
    }
    for at, (one, end) in enumerate(zip(result.milestones, ends, strict=True)):
        ax.barh(2, end - one.at_s, left=one.at_s, height=0.5, color=colours[one.what], edgecolor="white")
        # names of short parts would lie on one another: every second one stands above
        high = 2.33 + (0.36 if at % 2 else 0)
        ax.text(one.at_s, high, f"{PHASES[one.what]}", fontsize=8.5, color=INK, va="bottom", linespacing=1.0)
        ax.plot([one.at_s] * 2, [1.75, high], color=FAINT, lw=0.8)
        ax.text(one.at_s + last * 0.005, 1.95, f"{one.at_s:.1f}", fontsize=8, color="#555555", va="center")
    for probe in result.probes:
        passed = probe.exit_code == 0
        width = max(probe.end_s - probe.start_s, last * 0.004)
        ax.barh(1, width, left=probe.start_s, height=0.42, color=HOST if passed else VM)
    failed = [one for one in result.probes if one.exit_code]
    if failed:
        ax.text(failed[0].start_s, 0.72, "failed", color=VM, fontsize=9, va="top")
    if result.healthy_s is not None:
        ax.text(
            result.healthy_s,
            0.72,
            f"healthy: {result.healthy_s:.1f} s",
            color=HOST,
            fontsize=9,
            va="top",
            ha="right",
        )
    if not result.probes:
        ax.text(0, 1, "no health check", color="#555555", fontsize=9, va="center")
    for outcome, group in groupby(result.tries, key=lambda one: one.outcome):
        times = [one.at_s for one in group]
        ax.plot(times, [0] * len(times), "|", ms=11, mew=1.4, color=TRIES[outcome])
        words = f"accepted: {times[0]:.1f} s" if outcome == ACCEPTED else outcome
        side = "right" if outcome == ACCEPTED else "left"
        ax.text(
            times[0],
            -0.28,
            words,
            color=TRIES[outcome] if outcome != "nobody listens" else "#555555",
            fontsize=9,
            va="top",
            ha=side,
        )
    ax.set_yticks([2, 1, 0], ["its log", "health check", "a client"])
    ax.set_title(
        f"{result.name}: running from the first moment, ready after {result.accepted_s:.1f} s", pad=4
    )
    ax.set(
        xlim=(-last * 0.01, last * 1.16),
        ylim=(-0.75, 3.25),
        xlabel="seconds since the container's first process started",
    )
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def draw_killed_starts(result: KilledStarts, ax: Axes) -> Axes:
    """One row a case: how long the first start lived, what it left, and what the next start made of it."""
    from textwrap import wrap

    resize(ax, 9.5, 0.9 + 1.15 * len(result.cases))
    longest = max(one.killed_s for one in result.cases)
    for row, one in enumerate(result.cases):
        ax.barh(row, one.killed_s, height=0.3, color=CONTAINER)
        ax.plot(one.killed_s, row, "X", color=VM, ms=9)
        ax.text(0, row - 0.2, f"killed {one.when}: {one.killed_s:.1f} s", fontsize=9, va="bottom", color=INK)
        ended = (
            "the next start stays up"
            if one.ended is None
            else f"the next start ends with exit code {one.ended}"
        )
        words = one.client or (one.said[0] if one.said else "")
        names = f"left: {len(one.left)} names" + (", mysql/ among them" if one.has_system else ", no mysql/")
        said = "\n".join([names, ended, *wrap(words, 62)[:2]])
        ax.text(longest * 1.22, row, said, fontsize=9, va="center", color=INK, linespacing=1.25)
    ax.set_title("A first start that is killed leaves a half-made data directory")
    ax.set(xlim=(0, longest * 3.25), ylim=(len(result.cases) - 0.4, -0.6), yticks=[])
    ax.set_xticks([0, round(longest / 2, 1), round(longest, 1)])
    ax.set_xlabel("seconds since the first start", loc="left")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return ax


def draw_host_mounts(result: HostMounts, ax: Axes) -> Axes:
    """The mounts of the book's line, from the engine's host into the monitor; what is missing is grey."""
    rows = len(result.mounts)
    resize(ax, 9, 0.9 + 0.62 * rows)
    for row, one in enumerate(result.mounts):
        face, ink = ("#D5EDE4", INK) if one.there else (PAPER, "#777777")
        for x, text in ((0.0, one.host), (4.0, one.inside)):
            colour = face if x == 0 or not one.there else "#D3E4F0"
            ax.barh(row, 2.4, left=x, height=0.56, color=colour, edgecolor=FAINT, linewidth=0.7)
            ax.text(x + 0.12, row, text, va="center", family="monospace", fontsize=9.5, color=ink)
        colour = VM if one.host == SOCKETS and one.there else INK if one.there else FAINT
        style = "-" if one.there else ":"
        ax.annotate(
            "",
            (4.0, row),
            (2.4, row),
            arrowprops={"arrowstyle": "-|>", "color": colour, "ls": style, "lw": 1.3},
        )
        ax.text(
            3.2,
            row - 0.1,
            ":ro" if one.there else "missing",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=colour,
        )
        ax.text(
            6.55,
            row,
            one.gives.replace("; ", ";\n"),
            va="center",
            fontsize=8.5,
            color=colour if one.there else ink,
            wrap=True,
        )
    ax.text(0, -0.62, "on the engine's host", color=HOST, fontsize=9.5, weight="bold")
    ax.text(4.0, -0.62, "in the monitor", color=CONTAINER, fontsize=9.5, weight="bold")
    ax.set_title("What the book's line gives a monitor of the host", pad=10)
    ax.set(xlim=(-0.05, 11.6), ylim=(rows - 0.5, -0.9))
    ax.axis("off")
    return ax


def draw_usage_comparison(result: UsageComparison, ax: Axes) -> Axes:
    """Processor above, memory below, on one clock: what was asked, the kernel, the lab's sampler, the monitor."""
    resize(ax, 9.5, 5.2)
    ax.axis("off")
    upper, lower = ax.inset_axes((0, 0.55, 1, 0.45)), ax.inset_axes((0, 0, 1, 0.45))
    end = result.steps[-1].end_s
    low, high = -1.2, end + 1.6
    for step in result.steps:
        upper.fill_between([step.begin_s, step.end_s], step.busy_ms, color="#E9E9E4", lw=0)
        lower.fill_between([step.begin_s, step.end_s], step.held_mib, color="#E9E9E4", lw=0)
        middle = (step.begin_s + step.end_s) / 2
        for axes, height, words in (
            (upper, 0.97, f"{step.busy_ms} ms in every 100 ms"),
            (lower, 0.12, f"holds {step.held_mib} MiB"),  # below its line
        ):
            place = axes.get_xaxis_transform()
            axes.text(
                middle, height, words, transform=place, ha="center", va="top", fontsize=8.5, color="#555555"
            )
    sampled = [one for one in result.sampler if low <= one[0] <= high]
    upper.plot([one[0] for one in sampled], [one[1] for one in sampled], ".", ms=3.5, color=CONTAINER)
    lower.plot([one[0] for one in sampled], [one[2] / MIB for one in sampled], ".", ms=3.5, color=CONTAINER)
    kernel = [one for one in result.kernel if low - 0.5 <= one[0] <= high]
    for a, b in pairwise(kernel):
        rate = 100 * (b[1] - a[1]) / (b[0] - a[0])
        upper.plot([a[0], b[0]], [rate, rate], color=KERNEL, lw=2.2)
    lower.plot([one[0] for one in kernel], [one[2] / MIB for one in kernel], color=KERNEL, lw=2.2)
    for axes, rows, unit in ((upper, result.told_cpu, 1), (lower, result.told_memory, MIB)):
        told = [(at, value / unit) for at, value in rows if low <= at <= high]
        times, values = [one[0] for one in told], [one[1] for one in told]
        # what it says stands for the time before
        axes.plot(times, values, color=LIMIT, lw=1, drawstyle="steps-pre" if axes is upper else "default")
        axes.plot(times, values, "D", color=LIMIT, ms=6, mfc="white", mew=1.6)
    names = (
        (KERNEL, "the kernel's file, twice a second"),
        (CONTAINER, "our sampler, ten times a second"),
        (LIMIT, f"{result.monitor}, once a second"),
        ("#777777", "grey: what the load was to do"),
    )
    for at, (colour, text) in enumerate(names):
        upper.text((0, 0.29, 0.57, 0.77)[at], 1.03, text, color=colour, fontsize=9, transform=upper.transAxes)
    upper.set(
        xlim=(low, high), ylim=(0, max(110, *(one[1] * 1.05 for one in sampled))), ylabel="% of one processor"
    )
    lower.set(xlim=(low, high), ylabel="MiB (anonymous)", xlabel="seconds since the load began")
    lower.set_ylim(0, max(one[2] for one in sampled) / MIB * 1.3)
    upper.set_xticklabels([])
    ax.set_title(f"One container, as {result.monitor}, the lab and the kernel count it", pad=20)
    return ax
