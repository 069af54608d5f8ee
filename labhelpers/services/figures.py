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
    CLOSED,
    INITIALIZED,
    INITIALIZES_FILES,
    READY,
    REFUSED,
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
MAX_LAYERS = 14
PHASES = {
    INITIALIZES_FILES: ("initializes the data directory", tint(CONTAINER)),
    STARTS_TEMPORARY: ("temporary server, no network", tint(KERNEL)),
    STOPS_TEMPORARY: ("stops the temporary server", PAPER),
    INITIALIZED: ("the server starts", tint(CONTAINER)),
    READY: ("ready for connections", tint(HOST)),
}
ATTEMPTS = {REFUSED: FAINT, CLOSED: KERNEL, ACCEPTED: HOST}


def draw_pulled(result: Pulled, ax: Axes) -> Axes:
    """One row for each layer, the lowest at the top: its download and extraction, or that it already existed."""
    layers = result.layers[-MAX_LAYERS:]
    existing = len(result.layers) - result.downloaded_layers
    name = result.ref.rpartition("/")[2]
    last = f" (the last {len(layers)} shown)" if len(layers) < len(result.layers) else ""
    plural = "" if result.downloaded_layers == 1 else "s"
    downloaded = f"{result.downloaded_layers} layer{plural} downloaded"
    rows(
        ax,
        [layer.id[:12] for layer in layers],
        title=f"docker pull {name}: {downloaded}, {existing} already existed{last}",
        end=result.total_s * 1.15 or 1,
        xlabel="seconds",
        row_px=30,
        mono=True,
        keyed=True,
    )
    key(ax, [(ENGINE, "download"), (CONTAINER, "extraction")])
    for row, layer in enumerate(layers):
        times_ms = (layer.start_ms, layer.downloaded_ms, layer.end_ms)
        start_s, downloaded_s, end_s = ((time_ms or 0) / 1000 for time_ms in times_ms)
        bar(ax, row, start_s, downloaded_s, ENGINE)
        bar(ax, row, downloaded_s, end_s, CONTAINER)
        if layer.already_exists:
            note(ax, 0, row, "already exists", shift=(8, 0))
        else:
            size = human_bytes(layer.bytes) if layer.bytes else "downloaded"
            label(ax, end_s, row, size, size=SMALL, shift=(8, 0))
    size_bytes = sum(layer.bytes for layer in layers if not layer.already_exists)
    describe(ax, f"{human_bytes(size_bytes)} of layers in {result.total_s:.1f} s")
    return ax


def draw_startup(result: Startup, ax: Axes) -> Axes:
    """Three rows on one clock: the log, the health check, the attempts of a client to connect."""
    last = max(
        [result.accepted_s, result.healthy_s or 0, *(milestone.at_s for milestone in result.milestones)]
    )
    rows(
        ax,
        ["log", "health check", "client"],
        title=f"{result.name}: running at once, ready after {result.accepted_s:.1f} s",
        end=last * 1.22,
        xlabel="seconds since the container's first process started",
        row_px=60,
    )
    ends = [*(milestone.at_s for milestone in result.milestones[1:]), last * 1.02]
    for milestone, end in zip(result.milestones, ends, strict=True):
        bar(ax, 0, milestone.at_s, end, PHASES[milestone.name][1])
    marks = [(each.at_s, f"{PHASES[each.name][0]}: {each.at_s:.1f} s") for each in result.milestones]
    lane_labels(ax, marks, -0.3, FAINT)
    _draw_probes(ax, result, last)
    for outcome, group in groupby(result.attempts, key=lambda attempt: attempt.outcome):
        times = [attempt.at_s for attempt in group]
        ax.plot(times, [2] * len(times), "|", ms=14, mew=1.6, color=ATTEMPTS[outcome])
        if outcome == ACCEPTED:
            label(ax, times[0], 2, f"accepted: {times[0]:.1f} s", HOST, size=SMALL, shift=(8, 0))
        else:
            label(ax, times[0], 2, outcome, ATTEMPTS[outcome], size=SMALL, valign="top", shift=(0, -14))
    healthy = "no health check" if result.healthy_s is None else f"healthy after {result.healthy_s:.1f} s"
    phases = listed([text for _, text in marks])
    describe(ax, phases, healthy, f"the first accepted connection after {result.accepted_s:.1f} s")
    return ax


def _draw_probes(ax: Axes, result: Startup, last: float) -> None:
    for probe in result.probes:
        end = max(probe.end_s, probe.start_s + last * 0.004)
        bar(ax, 1, probe.start_s, end, VM if probe.exit_code else HOST, height=0.4)
    failed = [probe for probe in result.probes if probe.exit_code]
    if failed:
        label(ax, failed[0].start_s, 1, "failed", VM, size=SMALL, valign="top", shift=(0, -14))
    if result.healthy_s is not None:
        text = f"healthy: {result.healthy_s:.1f} s"
        label(ax, result.healthy_s, 1, text, HOST, size=SMALL, shift=(8, 0))
    if not result.probes:
        note(ax, 0, 1, "no health check", shift=(8, 0))


def draw_killed_starts(result: KilledStarts, ax: Axes) -> Axes:
    """One row for each case: what the killed first start left behind, and what the next start does."""
    names, cells = [], []
    facts = []
    for case in result.cases:
        name = f"killed {case.when}: {case.killed_s:.1f} s"
        files = f"{case.file_count} names, {'including' if case.has_system_schema else 'without'} mysql/"
        error = case.client_result or " ".join(case.errors[:1])
        face = tint(HOST if case.usable else VM)
        names.append(name)
        cells.append([(files, PAPER), (case.next_start, face), (error, face)])
        facts.append(f"{name}: {files}, the next start {case.next_start} ({error})")
    heads = ["remaining in the data directory", "next start", "error"]
    grid(ax, heads, names, cells, title="A killed first start leaves an incomplete data directory")
    describe(ax, *facts)
    return ax


def draw_host_mounts(result: HostMounts, ax: Axes) -> Axes:
    """The mounts of the book's command, from the engine's host into the monitor; dashed if the source is missing."""
    step, high, wide, second, third = 54, 36, 176, 260, 452
    canvas(
        ax,
        24 + step * len(result.mounts),
        "The host directories that the book's command mounts into a monitor",
    )
    label(ax, 0, 8, "on the engine's host", HOST, bold=True)
    label(ax, second, 8, "in the monitor", CONTAINER, bold=True)
    for row, mount in enumerate(result.mounts):
        y = 28 + step * row
        for x, path, colour in ((0, mount.host_path, HOST), (second, mount.container_path, CONTAINER)):
            face = tint(colour) if mount.exists else WHITE
            box(
                ax,
                (x, y),
                (wide, high),
                face,
                edge=FAINT,
                dashed=not mount.exists,
                text=path,
                mono=True,
                align="left",
            )
        risky = mount.host_path == SOCKETS and mount.exists
        colour = VM if risky else INK if mount.exists else FAINT
        option = ":ro" if mount.exists else "missing"
        arrow(ax, (wide, y + high / 2), (second, y + high / 2), colour, text=option, dashed=not mount.exists)
        text = wrap(mount.provides, CANVAS_PX - third, SMALL)
        label(ax, third, y + high / 2, text, VM if risky else INK if mount.exists else GREY, size=SMALL)
    describe(
        ax,
        *(
            f"{mount.host_path} is "
            f"{f'mounted at {mount.container_path}' if mount.exists else 'missing on the host'}"
            for mount in result.mounts
        ),
    )
    return ax


def draw_usage_comparison(result: UsageComparison, ax: Axes) -> Axes:
    """Processor above, memory below, on one clock: the planned load, the kernel, the lab's sampler, the monitor."""
    set_height(ax, 600)
    ax.axis("off")
    # room for the ticks of both axes, which the layout does not see
    upper, lower = ax.inset_axes((0.07, 0.55, 0.93, 0.45)), ax.inset_axes((0.07, 0.09, 0.93, 0.42))
    low, high = -1.2, result.steps[-1].end_s + 1.6
    sampled = [point for point in result.sampler if low <= point[0] <= high]
    kernel = [point for point in result.kernel if low - 0.5 <= point[0] <= high]
    rates = [(a, b, 100 * (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairwise(kernel)]
    upper.set(xlim=(low, high), ylim=(0, max(135, *(point[1] * 1.3 for point in sampled))))
    lower.set(xlim=(low, high), ylim=(0, max(point[2] for point in sampled) / MIB * 1.35))
    upper.set(ylabel="% of one CPU", xticklabels=[])
    lower.set(ylabel="MiB of anonymous memory", xlabel="seconds since the load began")
    for step in result.steps:
        middle = (step.start_s + step.end_s) / 2
        for axes, planned, text in (
            (upper, step.busy_ms, f"{step.busy_ms} ms in every 100 ms"),
            (lower, step.allocated_mib, f"allocates {step.allocated_mib} MiB"),
        ):
            axes.fill_between([step.start_s, step.end_s], planned, color=RULE, lw=0)
            note(axes, middle, axes.get_ylim()[1], text, align="center", valign="top", shift=(0, -2))
    for axes, column, unit in ((upper, 1, 1), (lower, 2, MIB)):
        values = [point[column] / unit for point in sampled]
        axes.plot([point[0] for point in sampled], values, ".", ms=3.5, color=CONTAINER)
    for a, b, rate in rates:
        upper.plot([a[0], b[0]], [rate, rate], color=KERNEL, lw=2.2)
    lower.plot([point[0] for point in kernel], [point[2] / MIB for point in kernel], color=KERNEL, lw=2.2)
    for axes, reported, unit in ((upper, result.monitor_cpu, 1), (lower, result.monitor_memory, MIB)):
        points = [(at, value / unit) for at, value in reported if low <= at <= high]
        _draw_reported(axes, points, "steps-pre" if axes is upper else "default")
    key(
        ax,
        [
            (KERNEL, "the kernel's file, twice a second"),
            (CONTAINER, "the lab's sampler, 10 times a second"),
            (LIMIT, f"{result.monitor}, once a second"),
            (RULE, "planned load"),
        ],
    )
    ax.set_title(f"Usage of one container as {result.monitor}, the lab and the kernel count it", pad=22)
    totals = listed([f"{source} {cpu_s:.2f} s" for source, cpu_s in result.total_s.items()])
    load = listed([f"{step.busy_ms} ms and {step.allocated_mib} MiB" for step in result.steps])
    describe(ax, f"planned load in every 100 ms: {load}", f"processor time by source: {totals}")
    return ax


def _draw_reported(ax: Axes, points: Sequence[tuple[float, float]], style: str) -> None:
    """Draw a monitor's values. A value of processor time covers the time before it: there the style is `steps-pre`."""
    times, values = [at for at, _ in points], [value for _, value in points]
    ax.plot(times, values, color=LIMIT, lw=1, drawstyle=style)
    ax.plot(times, values, "D", color=LIMIT, ms=6, mfc=WHITE, mew=1.6)


def assets(lab: Lab) -> Iterator[Result]:
    """Pull and start a database, kill the first start of others, and run a monitor."""
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
