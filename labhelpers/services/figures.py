"""Figures of the chapter on services: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
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
    human_bytes,
    key,
    label,
    lane_labels,
    listed,
    note,
    rows,
    set_height,
    tint,
    wrap,
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

    from labhelpers.lab import Lab
    from labhelpers.results import Result
    from labhelpers.services.interrupted_start import KilledStarts
    from labhelpers.services.monitor import HostMounts
    from labhelpers.services.pulls import Pulled
    from labhelpers.services.startup import Startup
    from labhelpers.services.usage_comparison import UsageComparison

MIB = 1024 * 1024
MOST_LAYERS = 14
PHASES = {
    INITIALIZES_FILES: ("makes the data directory", tint(CONTAINER)),
    STARTS_TEMPORARY: ("temporary server, no network", tint(KERNEL)),
    STOPS_TEMPORARY: ("stops it", PAPER),
    INITIALIZED: ("the server starts", tint(CONTAINER)),
    READY: ("ready for connections", tint(HOST)),
}
TRIES = {"nobody listens": FAINT, "taken, then closed": KERNEL, ACCEPTED: HOST}


def draw_pulled(result: Pulled, ax: Axes) -> Axes:
    """One row a layer, the lowest at the top: when it was fetched, when it was unpacked, or that it was there."""
    layers = result.layers[-MOST_LAYERS:]
    there = len(result.layers) - result.fetched
    name = result.ref.rpartition("/")[2]
    last = f" (the last {len(layers)} shown)" if len(layers) < len(result.layers) else ""
    fetched = f"{result.fetched} layer{'' if result.fetched == 1 else 's'} fetched"
    rows(
        ax,
        [one.id[:12] for one in layers],
        title=f"docker pull {name}: {fetched}, {there} already there{last}",
        end=result.total_s * 1.15 or 1,
        xlabel="seconds",
        row_px=30,
        mono=True,
        keyed=True,
    )
    key(ax, [(ENGINE, "fetched"), (CONTAINER, "unpacked")])
    for row, one in enumerate(layers):
        bar(ax, row, one.begin_s, one.fetched_s, ENGINE)
        bar(ax, row, one.fetched_s, one.done_s, CONTAINER)
        if one.already_there:
            note(ax, 0, row, "already there", shift=(8, 0))
        else:
            size = human_bytes(one.bytes) if one.bytes else "fetched"
            label(ax, one.done_s, row, size, size=SMALL, shift=(8, 0))
    travelled = sum(one.bytes for one in layers if not one.already_there)
    describe(ax, f"{human_bytes(travelled)} of layers in {result.total_s:.1f} s")
    return ax


def draw_startup(result: Startup, ax: Axes) -> Axes:
    """Three rows on one clock: the log, the health check, a client that tries again and again."""
    last = max([result.accepted_s, result.healthy_s or 0, *(one.at_s for one in result.milestones)])
    rows(
        ax,
        ["its log", "health check", "a client"],
        title=f"{result.name}: running from the first moment, ready after {result.accepted_s:.1f} s",
        end=last * 1.22,
        xlabel="seconds since the container's first process started",
        row_px=60,
    )
    ends = [*(one.at_s for one in result.milestones[1:]), last * 1.02]
    for one, end in zip(result.milestones, ends, strict=True):
        bar(ax, 0, one.at_s, end, PHASES[one.what][1])
    marks = [(one.at_s, f"{PHASES[one.what][0]}: {one.at_s:.1f} s") for one in result.milestones]
    lane_labels(ax, marks, -0.3, FAINT)
    _draw_probes(ax, result, last)
    for outcome, group in groupby(result.tries, key=lambda one: one.outcome):
        times = [one.at_s for one in group]
        ax.plot(times, [2] * len(times), "|", ms=14, mew=1.6, color=TRIES[outcome])
        if outcome == ACCEPTED:
            label(ax, times[0], 2, f"accepted: {times[0]:.1f} s", HOST, size=SMALL, shift=(8, 0))
        else:
            label(ax, times[0], 2, outcome, TRIES[outcome], size=SMALL, valign="top", shift=(0, -14))
    healthy = "no health check" if result.healthy_s is None else f"healthy after {result.healthy_s:.1f} s"
    phases = listed([text for _, text in marks])
    describe(ax, phases, healthy, f"the first accepted connection after {result.accepted_s:.1f} s")
    return ax


def _draw_probes(ax: Axes, result: Startup, last: float) -> None:
    for probe in result.probes:
        end = max(probe.end_s, probe.start_s + last * 0.004)
        bar(ax, 1, probe.start_s, end, VM if probe.exit_code else HOST, height=0.4)
    failed = [one for one in result.probes if one.exit_code]
    if failed:
        label(ax, failed[0].start_s, 1, "failed", VM, size=SMALL, valign="top", shift=(0, -14))
    if result.healthy_s is not None:
        text = f"healthy: {result.healthy_s:.1f} s"
        label(ax, result.healthy_s, 1, text, HOST, size=SMALL, shift=(8, 0))
    if not result.probes:
        note(ax, 0, 1, "no health check", shift=(8, 0))


def draw_killed_starts(result: KilledStarts, ax: Axes) -> Axes:
    """One row a case: what the killed first start left, and what the next start made of it."""
    names, cells = [], []
    for one in result.cases:
        names.append(f"killed {one.when}: {one.killed_s:.1f} s")
        left = f"{len(one.left)} names" + (", mysql/ among them" if one.has_system else ", no mysql/")
        ended = "stays up" if one.ended is None else f"ends with exit code {one.ended}"
        report = one.client or " ".join(one.said[:1])
        bad = tint(HOST if one.usable else VM)
        cells.append([(left, PAPER), (ended, bad), (report, bad)])
    heads = ["left in the data directory", "the next start", "its error"]
    grid(ax, heads, names, cells, title="A first start that is killed leaves a half-made data directory")
    facts = (
        f"{name}: {left[0]}, the next start {ended[0]}"
        for name, (left, ended, _) in zip(names, cells, strict=True)
    )
    describe(ax, *facts)
    return ax


def draw_host_mounts(result: HostMounts, ax: Axes) -> Axes:
    """The mounts of the book's line, from the engine's host into the monitor; what is missing has a dashed outline."""
    step, high, wide, second, third = 54, 36, 176, 260, 452
    canvas(ax, 24 + step * len(result.mounts), "What the book's line gives a monitor of the host")
    label(ax, 0, 8, "on the engine's host", HOST, bold=True)
    label(ax, second, 8, "in the monitor", CONTAINER, bold=True)
    for row, one in enumerate(result.mounts):
        y = 28 + step * row
        for x, path, colour in ((0, one.host, HOST), (second, one.inside, CONTAINER)):
            face = tint(colour) if one.there else WHITE
            box(
                ax,
                (x, y),
                (wide, high),
                face,
                edge=FAINT,
                dashed=not one.there,
                text=path,
                mono=True,
                align="left",
            )
        risky = one.host == SOCKETS and one.there
        colour = VM if risky else INK if one.there else FAINT
        way = ":ro" if one.there else "missing"
        arrow(ax, (wide, y + high / 2), (second, y + high / 2), colour, text=way, dashed=not one.there)
        text = wrap(one.gives, CANVAS_PX - third, SMALL)
        label(ax, third, y + high / 2, text, VM if risky else INK if one.there else GREY, size=SMALL)
    describe(
        ax,
        *(
            f"{x.host} is {f'mounted at {x.inside}' if x.there else 'missing on the host'}"
            for x in result.mounts
        ),
    )
    return ax


def draw_usage_comparison(result: UsageComparison, ax: Axes) -> Axes:
    """Processor above, memory below, on one clock: what was asked, the kernel, the lab's sampler, the monitor."""
    set_height(ax, 600)
    ax.axis("off")
    # room for the marks of both axes, which the layout does not know of
    upper, lower = ax.inset_axes((0.07, 0.55, 0.93, 0.45)), ax.inset_axes((0.07, 0.09, 0.93, 0.42))
    low, high = -1.2, result.steps[-1].end_s + 1.6
    sampled = [one for one in result.sampler if low <= one[0] <= high]
    kernel = [one for one in result.kernel if low - 0.5 <= one[0] <= high]
    rates = [(a, b, 100 * (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairwise(kernel)]
    upper.set(xlim=(low, high), ylim=(0, max(135, *(one[1] * 1.3 for one in sampled))))
    lower.set(xlim=(low, high), ylim=(0, max(one[2] for one in sampled) / MIB * 1.35))
    upper.set(ylabel="% of one processor", xticklabels=[])
    lower.set(ylabel="MiB of anonymous memory", xlabel="seconds since the load began")
    for step in result.steps:
        middle = (step.begin_s + step.end_s) / 2
        for axes, asked, text in (
            (upper, step.busy_ms, f"{step.busy_ms} ms in every 100 ms"),
            (lower, step.held_mib, f"holds {step.held_mib} MiB"),
        ):
            axes.fill_between([step.begin_s, step.end_s], asked, color=RULE, lw=0)
            note(axes, middle, axes.get_ylim()[1], text, align="center", valign="top", shift=(0, -2))
    for axes, column, unit in ((upper, 1, 1), (lower, 2, MIB)):
        values = [one[column] / unit for one in sampled]
        axes.plot([one[0] for one in sampled], values, ".", ms=3.5, color=CONTAINER)
    for a, b, rate in rates:
        upper.plot([a[0], b[0]], [rate, rate], color=KERNEL, lw=2.2)
    lower.plot([one[0] for one in kernel], [one[2] / MIB for one in kernel], color=KERNEL, lw=2.2)
    for axes, told, unit in ((upper, result.told_cpu, 1), (lower, result.told_memory, MIB)):
        points = [(at, value / unit) for at, value in told if low <= at <= high]
        _draw_reported(axes, points, "steps-pre" if axes is upper else "default")
    key(
        ax,
        [
            (KERNEL, "the kernel's file, twice a second"),
            (CONTAINER, "our sampler, 10 times a second"),
            (LIMIT, f"{result.monitor}, once a second"),
            (RULE, "planned load"),
        ],
    )
    ax.set_title(f"One container, as {result.monitor}, the lab and the kernel count it", pad=22)
    totals = listed([f"{who} {total:.2f} s" for who, total in result.total_s.items()])
    load = listed([f"{step.busy_ms} ms and {step.held_mib} MiB" for step in result.steps])
    describe(ax, f"the load asks for {load}", f"processor time by who counts it: {totals}")
    return ax


def _draw_reported(ax: Axes, points: Sequence[tuple[float, float]], style: str) -> None:
    """A value of the monitor's processor time stands for the time before it: there the style is `steps-pre`."""
    times, values = [at for at, _ in points], [value for _, value in points]
    ax.plot(times, values, color=LIMIT, lw=1, drawstyle=style)
    ax.plot(times, values, "D", color=LIMIT, ms=6, mfc=WHITE, mew=1.6)


def assets(lab: Lab) -> Iterator[Result]:
    """Pull and start a database, kill others, run a monitor."""
    from labhelpers import services

    image = lab.from_hub("mysql:8.4", "mysql")
    pulled = services.pull(lab, services.push_image(lab, image).ref)
    yield pulled
    database = lab.run(
        pulled.ref,
        name="mysql_container",
        ports={"3306/tcp": 3308},
        environment={"MYSQL_ROOT_PASSWORD": "root"},
        health_cmd=services.CHECK,
        health_interval=1,
    )
    yield services.watch_startup(lab, database, password="root")
    lab.remove(database, force=True, volumes=True)
    yield services.killed_starts(lab, pulled.ref)
    yield services.host_mounts(lab)
    monitor = lab.from_hub("ghcr.io/google/cadvisor:v0.57.0", "netdata")
    volumes = [
        "/:/rootfs:ro",
        "/sys:/sys:ro",
        *(["/var/run:/var/run:ro"] if not monitor.is_substitute else []),
    ]
    cadvisor = lab.run(monitor.ref, name="cadvisor", volumes=volumes, ports={f"{services.PORT}/tcp": 9559})
    yield services.compare_usage(lab, cadvisor, services.monitor_kind(monitor))
