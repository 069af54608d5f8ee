"""Figures of the chapter on control groups: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CONTAINER,
    FAINT,
    HOST,
    INK,
    KERNEL,
    LIMIT,
    PAPER,
    SMALL,
    VM,
    WHITE,
    bar,
    canvas,
    describe,
    grid,
    human_bytes,
    key,
    label,
    label_ends,
    level,
    listed,
    moment,
    note,
    rows,
    set_height,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.cgroups.cpu import CpuSet, Quota, Shares, Update
    from labhelpers.cgroups.devices import Devices
    from labhelpers.cgroups.disk import DiskLimits, DiskStep
    from labhelpers.cgroups.memory import OutOfMemory, Reservation
    from labhelpers.cgroups.network import Bandwidth
    from labhelpers.cgroups.noisy_neighbour import NoisyNeighbour
    from labhelpers.cgroups.pids import PidsLimit
    from labhelpers.cgroups.samples import Reading, Samples
    from labhelpers.lab import Lab
    from labhelpers.results import Result

MIB = 1024 * 1024
LINES = (CONTAINER, VM, HOST, KERNEL)
# a quota applies to whole periods of 100 ms, so single readings jump: the line is a mean over this time
MEAN_S = 0.3
CURVE_PX = 340


# --- CPU time


def _percent(readings: Sequence[Reading], mean_s: float = MEAN_S) -> tuple[list[float], list[float]]:
    """Time and percent of one CPU, each over the last `mean_s` seconds."""
    times, percents = [], []
    start = 0
    for number, now in enumerate(readings):
        while start < number - 1 and now.time_s - readings[start + 1].time_s >= mean_s:
            start += 1
        then = readings[start]
        if now.time_s - then.time_s >= mean_s * 0.9:
            times.append(now.time_s)
            used_us = now.cgroup.cpu.usage_us - then.cgroup.cpu.usage_us
            percents.append(used_us / (now.time_s - then.time_s) / 1e4)
    return times, percents


def _cpu_curve(ax: Axes, readings: Sequence[Reading], colour: str, name: str) -> None:
    """The CPU use as a line, single readings as pale points, and the quota in the kernel's file, dashed."""
    pairs = list(pairwise(readings))
    single = [(b.cgroup.cpu.usage_us - a.cgroup.cpu.usage_us) / (b.time_s - a.time_s) / 1e4 for a, b in pairs]
    ax.plot([b.time_s for _, b in pairs], single, ".", color=tint(colour), ms=4, label=f"{name}, each")
    times, percents = _percent(readings)
    ax.plot(times, percents, color=colour, lw=1.8, label=name)
    limits = [(reading.time_s, reading.cgroup.cpu.limit_cpus) for reading in readings]
    if any(limit is not None for _, limit in limits):
        values = [float("nan") if limit is None else limit * 100 for _, limit in limits]
        ax.step([at for at, _ in limits], values, "--", where="post", color=LIMIT, lw=1.6, label="quota")


def draw_samples(result: Samples, ax: Axes) -> Axes:
    """CPU use of every container, in percent of one CPU; its quota is dashed."""
    set_height(ax, CURVE_PX)
    ends, facts = [], []
    for number, name in enumerate(result.names):
        colour = LINES[number % len(LINES)]
        readings = result.of(name)
        _cpu_curve(ax, readings, colour, name)
        times, percents = _percent(readings)
        quota = readings[-1].cgroup.cpu.limit_cpus if readings else None
        if times:
            ends.append((times[-1], percents[-1], name, colour))
            mean = sum(percents) / len(percents)
            limit = "without a quota" if quota is None else f"with a quota of {quota * 100:g} %"
            facts.append(f"{name} used {mean:.0f} % of one CPU on average, {limit}")
        if quota is not None:
            ends.append((readings[-1].time_s, quota * 100, f"quota {quota * 100:g} %", LIMIT))
    ax.set_title(f"CPU use: {result.achieved_hz:.0f} readings a second, {result.requested_hz:g} requested")
    top = ax.get_ylim()[1]
    # room below 0 for the label of an idle container
    ax.set(xlabel="seconds", ylabel="% of one CPU", ylim=(-0.06 * top, top))
    ax.set_xlim(0, (result.timestamps_s[-1] if result.timestamps_s else 1) * 1.2)
    label_ends(ax, ends)
    for name, at in result.ended.items():
        moment(ax, at, f"{name} ended", FAINT)
        facts.append(f"{name} ended after {at:.1f} s")
    describe(ax, *facts)
    return ax


def draw_quota(result: Quota, ax: Axes) -> Axes:
    """The CPUs in use against the quota; the diagonal is the quota."""
    set_height(ax, 460)
    quotas = [step.quota_cpus for step in result.steps]
    used = [step.usage.cpus for step in result.steps]
    top = max(*quotas, *used) * 1.15
    ax.set(xlim=(0, top), ylim=(0, top), xlabel="quota in CPUs (--cpus)", ylabel="CPUs in use")
    ax.set_title("Quota and CPU use of a container with two busy processes", pad=22)
    throttled = [step.usage.throttled_periods > 0 for step in result.steps]
    hollow = [(WHITE, "hollow: never throttled, because the machine was busy")]
    key(ax, [(CONTAINER, "throttled"), *([] if all(throttled) else hollow)])
    ax.plot([0, top], [0, top], "--", color=LIMIT, lw=1.6)
    ax.fill_between([0, top], [0, top], [top, top], color=LIMIT, alpha=0.06, lw=0)
    label(ax, top * 0.03, top * 0.93, "above the quota", LIMIT)
    faces = [CONTAINER if each else WHITE for each in throttled]
    ax.scatter(quotas, used, s=45, facecolors=faces, edgecolors=CONTAINER, linewidths=1.6, zorder=3)
    facts = []
    for step in result.steps:
        share = step.usage.throttled_periods / step.usage.periods if step.usage.periods else 0
        text = f"throttled in {share:.0%} of the periods"
        short = text if step is result.steps[0] else f"{share:.0%}"
        at = step.quota_cpus, step.usage.cpus
        label(ax, *at, f"{at[1]:.2f} · {short}", size=SMALL, valign="top", shift=(10, -4))
        facts.append(f"quota {step.quota_cpus:g}: {step.usage.cpus:.2f} CPUs in use, {text}")
    describe(ax, *facts)
    return ax


def draw_shares(result: Shares, ax: Axes) -> Axes:
    """One bar for each ratio: the parts of the two containers; a mark is the part expected from the weights."""
    names = [f"{step.weights[0]} : {step.weights[1]}" for step in result.steps]
    rows(
        ax,
        [*names, f"{result.alone_shares} shares, alone"],
        title=f"Two containers that compete for CPU {result.cpu}, by their weights",
        end=100,
        xlabel="% of the CPU time that both used",
        keyed=True,
    )
    key(ax, [(CONTAINER, "first container"), (VM, "second container"), (INK, "expected from the weights")])
    facts = []
    for row, step in enumerate(result.steps):
        first, second = step.measured_percent, 100 - step.measured_percent
        bar(ax, row, 0, first, CONTAINER, f"{first:.0f} %")
        bar(ax, row, first, 100, VM, f"{second:.0f} %")
        ax.plot([step.expected_percent] * 2, [row - 0.42, row + 0.42], color=INK, lw=2)
        facts.append(
            f"weights {names[row]}: the first container used {first:.0f} %, {step.expected_percent:.0f} % expected"
        )
    alone = result.alone_cpus * 100
    bar(ax, len(result.steps), 0, alone, CONTAINER, f"{alone:.0f} % of the CPU")
    describe(ax, *facts, f"alone, with {result.alone_shares} shares, it used {alone:.0f} % of the CPU")
    return ax


def draw_cpu_set(result: CpuSet, ax: Axes) -> Axes:
    """CPU use before and after the pinning; above it, the CPUs that the processes ran on."""
    set_height(ax, 420)
    readings = result.samples.of(result.name)
    _cpu_curve(ax, readings, CONTAINER, "used")
    end = readings[-1].time_s
    ax.plot([result.pinned_at_s, end], [100, 100], "--", color=LIMIT, lw=1.6)
    cpus = sorted({cpu for _, cpu in result.placements})
    # above the curve, and above the label of the pinning
    lanes = {cpu: 260 + 22 * row for row, cpu in enumerate(cpus)}
    for cpu, lane in lanes.items():
        times = [at for at, on in result.placements if on == cpu]
        ax.plot(times, [lane] * len(times), "s", color=CONTAINER, ms=3.5)
    ax.set_yticks([0, 50, 100, 150, 200, *lanes.values()])
    ax.set_yticklabels(["0", "50", "100", "150", "200", *(f"CPU {cpu}" for cpu in cpus)])
    top = max(lanes.values(), default=260)
    ax.set(xlim=(0, end * 1.12), ylim=(0, top + 50), xlabel="seconds", ylabel="% of one CPU")
    ax.axvline(result.pinned_at_s, color=INK, lw=1)
    command = f"docker update --cpuset-cpus {result.pinned_cpu}"
    label(ax, result.pinned_at_s, 236, command, size=SMALL, mono=True, shift=(6, 0))
    note(ax, 0, top + 30, "the CPUs that its two processes ran on", shift=(6, 0))
    label_ends(ax, [(end, 100, "one CPU", LIMIT)], size=SMALL)
    ax.set_title("A set of CPUs, changed while the container runs")
    describe(
        ax,
        f"{result.mean_cpus_before:.2f} CPUs in use on {listed([f'CPU {cpu}' for cpu in cpus])}",
        f"after {command}, {result.mean_cpus_after:.2f} on "
        + listed([f"CPU {cpu}" for cpu in sorted(result.cpus_after)]),
    )
    return ax


def draw_update(result: Update, ax: Axes) -> Axes:
    """The CPU use, the quota in the kernel's file, and the moments of the updates."""
    set_height(ax, CURVE_PX)
    _cpu_curve(ax, result.samples.of(result.name), CONTAINER, "used")
    end = result.samples.timestamps_s[-1]
    ax.set(xlim=(0, end * 1.15), ylim=(0, 130), xlabel="seconds", ylabel="% of one CPU")
    first = result.quotas_cpus[0]
    text = f"quota {first:g}"
    label(ax, 0, first * 100, text, LIMIT, size=SMALL, valign="bottom", shift=(5, 2))
    for at, cpus in zip(result.changed_at_s, result.quotas_cpus[1:], strict=True):
        moment(ax, at, f"docker update\n--cpus {cpus:g}")
    label_ends(ax, [(end, result.quotas_cpus[-1] * 100, f"quota {result.quotas_cpus[-1]:g}", LIMIT)])
    ax.set_title("A quota changed while the container runs")
    describe(
        ax,
        *(
            f"quota {cpus:g}: {result.usage(number).cpus:.2f} CPUs in use"
            for number, cpus in enumerate(result.quotas_cpus)
        ),
    )
    return ax


def draw_noisy_neighbour(result: NoisyNeighbour, ax: Axes) -> Axes:
    """The distribution of the response latencies in each case."""
    set_height(ax, 440)
    colours = (HOST, VM, KERNEL, CONTAINER)
    facts = []
    for each, colour in zip(result.cases, colours, strict=False):
        ranked = sorted(each.latencies_ms)
        shares = [100 * (number + 1) / len(ranked) for number in range(len(ranked))]
        text = f"{each.case}: half within {each.p50_ms:.0f} ms"
        ax.step(ranked, shares, where="post", color=colour, lw=1.9, label=text)
        facts.append(f"{text}, all within {each.max_ms:.0f} ms")
    ax.set_xscale("log")
    ax.set_xlabel("ms from the moment when a request was due to its response (logarithmic)")
    ax.set_ylabel("% of the responses")
    ax.set_ylim(0, 115)
    ax.xaxis.set_major_formatter("{x:g}")
    moment(ax, result.work_ms, f"{result.work_ms:g} ms of work", FAINT)
    # the curves cross, so that labels at their ends would overlap
    ax.legend(loc="upper center", fontsize=SMALL, bbox_to_anchor=(0.45, -0.15), ncols=2)
    ax.set_title("A noisy neighbour on the same CPU")
    describe(ax, *facts)
    return ax


# --- memory and processes


def _memory_curve(ax: Axes, readings: Sequence[Reading], limit_bytes: int) -> None:
    times = [reading.time_s for reading in readings]
    ax.plot(times, [r.cgroup.memory.usage_bytes / MIB for r in readings], color=CONTAINER, lw=1.9)
    anon = [reading.cgroup.memory.anon_bytes / MIB for reading in readings]
    ax.fill_between(times, anon, color=CONTAINER, alpha=0.15, lw=0)
    ax.set(xlim=(0, times[-1]), ylim=(0, limit_bytes / MIB * 1.2), xlabel="seconds", ylabel="MiB charged")


def draw_out_of_memory(result: OutOfMemory, ax: Axes) -> Axes:
    """Memory charged to the cgroup until the limit, and the moment of the kill."""
    set_height(ax, CURVE_PX + 20)
    _memory_curve(ax, result.samples.of(result.name), result.limit_bytes)
    level(ax, result.limit_bytes / MIB, f"limit: {human_bytes(result.limit_bytes)}")
    kill = f"killed by the kernel\nexit code {result.exit_code}, oom_kill {result.oom_kills}"
    moment(ax, result.killed_at_s, kill)
    reported = human_bytes(result.allocated_bytes)
    ax.set_title(f"A program allocates 2 MiB every 30 ms; it last reported {reported}")
    describe(
        ax,
        f"up to {human_bytes(result.peak_bytes)} charged, the limit is {human_bytes(result.limit_bytes)}",
        f"the kernel killed {result.oom_kills} process{'' if result.oom_kills == 1 else 'es'} "
        f"after {result.killed_at_s:.1f} s",
    )
    return ax


def draw_reservation(result: Reservation, ax: Axes) -> Axes:
    """Memory charged to the cgroup, above the reservation and below the limit."""
    set_height(ax, CURVE_PX)
    _memory_curve(ax, result.samples.of(result.name), result.limit_bytes)
    reserved = f"reservation ({result.file}): {human_bytes(result.reservation_bytes)}"
    level(ax, result.reservation_bytes / MIB, reserved)
    level(ax, result.limit_bytes / MIB, f"limit: {human_bytes(result.limit_bytes)}")
    ax.set_title(f"A container exceeds its reservation: {result.oom_kills} processes are killed")
    peak, limit = human_bytes(result.peak_bytes), human_bytes(result.limit_bytes)
    describe(ax, f"up to {peak} charged, {reserved}, the limit is {limit}")
    return ax


def draw_pids_limit(result: PidsLimit, ax: Axes) -> Axes:
    """The number of processes, and the limit."""
    set_height(ax, CURVE_PX - 20)
    readings = result.samples.of(result.name)
    times = [reading.time_s for reading in readings]
    counts = [reading.cgroup.pids.current for reading in readings]
    ax.step(times, counts, where="post", color=CONTAINER, lw=1.9)
    ax.set(xlim=(0, times[-1]), ylim=(0, result.limit * 1.25))
    ax.set(xlabel="seconds", ylabel="processes and threads")
    level(ax, result.limit, f"--pids-limit {result.limit}")
    ax.set_title(f"A fork bomb at its limit: fork(2) failed {result.fork_failures} times")
    describe(ax, f"at most {result.peak} processes and threads, the limit is {result.limit}")
    return ax


# --- disks, network, devices


def draw_disk_limits(result: DiskLimits, ax: Axes) -> Axes:
    """Bytes written (solid) and read (dotted) over time; the limits are the dashed slopes."""
    limited = [step for step in result.steps if step.limit_bytes_per_s]
    if not limited:
        canvas(ax, 40, "Disk limits")
        label(ax, 0, 20, result.disk.unavailable_reason)
        describe(ax, result.disk.unavailable_reason)
        return ax
    set_height(ax, 400)
    limits = sorted({step.limit_bytes_per_s for step in limited if step.limit_bytes_per_s})
    longest = max(step.points[-1][0] for step in limited)
    top = max(limits) * longest / MIB * 1.3
    ax.set(xlim=(0, longest * 1.35), ylim=(0, top), xlabel="seconds", ylabel="MiB written or read")
    ax.set_title(
        f"Limits on {result.disk.path}, past the page cache: writing (solid) and reading (dotted)", pad=22
    )
    key(ax, [(LIMIT, "limit"), (FAINT, "without a limit")])
    ends = []
    for number, limit in enumerate(limits):
        ax.plot([0, longest], [0, limit * longest / MIB], "--", color=LIMIT, lw=1.6)
        colour = LINES[number % len(LINES)]
        steps = [step for step in limited if step.limit_bytes_per_s == limit]
        for step in steps:
            _bytes_curve(ax, step, colour)
        means = " / ".join(f"{step.measured_bytes_per_s / MIB:.2f}" for step in steps)
        text = f"limit {limit / MIB:g} MiB/s\nmeasured: {means}"
        ends.append((longest, limit * longest / MIB, text, colour))
    unlimited = [step for step in result.steps if step.limit_bytes_per_s is None]
    for step in unlimited:
        _bytes_curve(ax, step, FAINT)
    label_ends(ax, ends, size=SMALL)
    free = ", ".join(f"{step.direction} {human_bytes(step.measured_bytes_per_s)}/s" for step in unlimited)
    text = f"without a limit: {free}"
    note(ax, longest * 1.35, top, text, align="right", valign="top", shift=(0, -4))
    describe(
        ax,
        *(
            f"{step.direction} with a limit of {human_bytes(step.limit_bytes_per_s or 0)}/s: "
            f"{human_bytes(step.measured_bytes_per_s)}/s"
            for step in limited
        ),
        text,
    )
    return ax


def _bytes_curve(ax: Axes, step: DiskStep, colour: str) -> None:
    times, counts = zip(*step.points, strict=True)
    style = "-" if step.direction == "write" else ":"
    values = [count / MIB for count in counts]
    ax.step(times, values, style, where="post", color=colour, lw=1.9, label=step.direction)


def draw_bandwidth(result: Bandwidth, ax: Axes) -> Axes:
    """The rate in each tenth of a second, without the token bucket and with it."""
    set_height(ax, CURVE_PX)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    last = result.before.points[-1][0]
    ax.set(xlim=(0, last * 1.3), xlabel="seconds", ylabel="Mbit/s (logarithmic)")
    ends = []
    for transfer, colour in zip(result.transfers, (FAINT, CONTAINER), strict=False):
        ax.plot(*zip(*transfer.points, strict=True), "-o", color=colour, ms=3)
        at, rate = transfer.points[-1]
        limit = "" if transfer.rate_mbit_per_s is None else f"\ntbf rate {transfer.rate_mbit_per_s:g}mbit"
        text = f"{transfer.qdisc}:\n{transfer.mean_mbit_per_s:,.0f} Mbit/s{limit}"
        ends.append((at, rate, text, colour))
        if transfer.rate_mbit_per_s is not None:
            ax.plot([0, at], [transfer.rate_mbit_per_s] * 2, "--", color=LIMIT, lw=1.6)
    ax.set_ylim(bottom=min(result.rate_mbit_per_s, result.before.mean_mbit_per_s) / 4)
    label_ends(ax, ends)
    ax.set_title("No cgroup controller limits bandwidth; a token bucket on the veth does")
    describe(ax, *(f"{each.qdisc}: {each.mean_mbit_per_s:,.0f} Mbit/s" for each in result.transfers))
    return ax


def draw_devices(result: Devices, ax: Axes) -> Axes:
    """One row for each container: the option, and what it could do with the device."""
    marks = {True: ("yes", tint(HOST)), False: ("no", tint(VM))}
    names = [attempt.option for attempt in result.attempts]
    cells = [
        [
            *(marks[done] for done in (each.in_dev, each.mknod_succeeded, each.read, each.write)),
            (each.error, PAPER),
        ]
        for each in result.attempts
    ]
    for refusal in result.refusals:
        names.append(refusal.partition(":")[0])
        cells.append([("", WHITE)] * 4 + [("refused by this engine", PAPER)])
    heads = ["in /dev", "mknod", "opened to read", "opened to write", "error"]
    title = f"{result.path}, device {result.number}, in containers"
    grid(ax, heads, names, cells, title=title, mono=True)
    describe(
        ax,
        *(
            f"{each.option}: read {marks[each.read][0]}, write {marks[each.write][0]}"
            for each in result.attempts
        ),
    )
    return ax


def assets(lab: Lab) -> Iterator[Result]:
    """Run every experiment of the chapter."""
    from labhelpers import cgroups

    for measure in (
        cgroups.quota,
        cgroups.shares,
        cgroups.cpuset,
        cgroups.update,
        cgroups.measure_noisy_neighbour,
        cgroups.out_of_memory,
        cgroups.reservation,
        cgroups.pids_limit,
        cgroups.devices,
        cgroups.disk_limits,
        cgroups.bandwidth,
    ):
        yield measure(lab)
