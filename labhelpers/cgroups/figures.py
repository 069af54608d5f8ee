"""Figures of the chapter on control groups: data on an Axes; they talk to no engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, KERNEL, LIMIT, PAPER, VM, resize
from labhelpers.units import human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.cgroups.cpu import CpuSet, Quota, Shares, Update
    from labhelpers.cgroups.devices import Devices
    from labhelpers.cgroups.disk import DiskLimits, DiskStep
    from labhelpers.cgroups.limits import VersionComparison
    from labhelpers.cgroups.memory import OutOfMemory, Reservation
    from labhelpers.cgroups.network import Bandwidth
    from labhelpers.cgroups.noisy_neighbour import NoisyNeighbour
    from labhelpers.cgroups.pids import PidsLimit
    from labhelpers.cgroups.samples import Reading, Samples

MIB = 1024 * 1024
LINES = (CONTAINER, VM, HOST, KERNEL)
# a quota is met over whole periods of 100 ms, so single readings jump: the line is a mean over this time
MEAN_S = 0.3


# --- curves of samples


def _percent(readings: Sequence[Reading], mean_s: float = MEAN_S) -> tuple[list[float], list[float]]:
    """Time and percent of one core, each over the last `mean_s` seconds."""
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
    """The use as a line, single readings as faint points, and the quota as the kernel had it, dashed."""
    pairs = list(pairwise(readings))
    single = [(b.cgroup.cpu.usage_us - a.cgroup.cpu.usage_us) / (b.time_s - a.time_s) / 1e4 for a, b in pairs]
    ax.plot([b.time_s for _, b in pairs], single, ".", color=colour, alpha=0.18, ms=4, label=f"{name}, each")
    times, percents = _percent(readings)
    ax.plot(times, percents, color=colour, lw=1.8, label=name)
    limits = [(one.time_s, one.cgroup.cpu.limit_cpus) for one in readings]
    if any(limit is not None for _, limit in limits):
        values = [float("nan") if limit is None else limit * 100 for _, limit in limits]
        ax.step([at for at, _ in limits], values, "--", where="post", color=LIMIT, lw=1.6, label="quota")


def draw_samples(result: Samples, ax: Axes) -> Axes:
    """Processor time of every container, in percent of one core; its quota dashed."""
    resize(ax, 7.5, 3.2)
    for number, name in enumerate(result.names):
        colour = LINES[number % len(LINES)]
        readings = result.of(name)
        _cpu_curve(ax, readings, colour, name)
        times, percents = _percent(readings)
        if times:
            ax.text(times[-1], percents[-1], f" {name}", color=colour, va="center", fontsize=9)
        quota = readings[-1].cgroup.cpu.limit_cpus if readings else None
        if quota is not None:
            ax.text(0.02, quota * 100 + 1.5, "quota", color=LIMIT, fontsize=8.5, va="bottom")
    for name, at in result.ended.items():
        ax.axvline(at, color=FAINT, lw=1, ls=":")
        ax.text(at, ax.get_ylim()[1], f"{name} ended ", ha="right", va="top", fontsize=8.5)
    ax.set_title(
        f"Processor time: {result.achieved_hz:.0f} readings a second, {result.requested_hz:g} requested"
    )
    ax.set(xlabel="seconds", ylabel="% of one core", ylim=(0, None))
    ax.set_xlim(0, (result.timestamps_s[-1] if result.timestamps_s else 1) * 1.1)
    return ax


def draw_quota(result: Quota, ax: Axes) -> Axes:
    """What was used against what was asked for: the quota is the diagonal. Below, how long it was held back."""
    resize(ax, 7.0, 4.2)
    asked = [step.quota_cpus for step in result.steps]
    used = [step.usage.cpus for step in result.steps]
    top = max(*asked, *used) * 1.15
    ax.plot([0, top], [0, top], "--", color=LIMIT, lw=1.6)
    ax.fill_between([0, top], [0, top], [top, top], color=LIMIT, alpha=0.06, lw=0)
    ax.text(top * 0.03, top * 0.93, "more than the quota", color=LIMIT, fontsize=9, va="top")
    held = [step.usage.throttled_periods > 0 for step in result.steps]
    faces = [CONTAINER if one else "white" for one in held]
    ax.scatter(asked, used, s=45, facecolors=faces, edgecolors=CONTAINER, linewidths=1.6, zorder=3)
    if not all(held):
        said = "hollow: never throttled; the machine\nwas busy and gave it no more"
        ax.text(top * 0.98, top * 0.02, said, fontsize=8.5, color="#555555", ha="right", va="bottom")
    for step in result.steps:
        share = step.usage.throttled_periods / step.usage.periods if step.usage.periods else 0
        said = f"throttled in {share:.0%} of the periods"
        ax.annotate(
            f"{step.usage.cpus:.2f}" + (f" · {said}" if step is result.steps[0] else f" · {share:.0%}"),
            (step.quota_cpus, step.usage.cpus),
            (8, -3),
            textcoords="offset points",
            fontsize=9,
            va="top",
        )
    ax.set_title("Asked for and used: two busy processes in one container")
    ax.set(xlim=(0, top), ylim=(0, top), xlabel="quota, CPUs (--cpus)", ylabel="used, CPUs")
    return ax


def draw_shares(result: Shares, ax: Axes) -> Axes:
    """One bar a ratio: who got which part of the CPU; what the weights say is marked."""
    rows = len(result.steps) + 1
    resize(ax, 7.5, 0.9 + 0.55 * rows)
    for row, step in enumerate(result.steps):
        ax.barh(row, step.measured_percent, height=0.6, color=CONTAINER)
        ax.barh(row, 100 - step.measured_percent, left=step.measured_percent, height=0.6, color=VM)
        ax.plot([step.expected_percent] * 2, [row - 0.42, row + 0.42], color=INK, lw=2)
        first, second = f"{step.measured_percent:.0f} %", f"{100 - step.measured_percent:.0f} %"
        ax.text(2, row, first, color="white", va="center", fontsize=9)
        ax.text(98, row, second, color="white", va="center", ha="right", fontsize=9)
    ax.barh(rows - 1, result.alone_cpus * 100, height=0.6, color=CONTAINER)
    ax.text(
        2, rows - 1, f"{result.alone_cpus * 100:.0f} % of the CPU", color="white", va="center", fontsize=9
    )
    names = [f"{step.weights[0]} : {step.weights[1]}" for step in result.steps]
    ax.set_yticks(range(rows), [*names, "alone, with few"])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 100), ylim=(rows - 0.4, -0.6), xlabel="% of what both used   (black: as the weights say)")
    ax.set_title(f"Two containers that want CPU {result.cpu}: who gets how much")
    ax.spines["left"].set_visible(False)
    return ax


def draw_cpu_set(result: CpuSet, ax: Axes) -> Axes:
    """Processor time before and after the pinning; above it, on which CPU its processes were seen."""
    resize(ax, 7.5, 3.6)
    readings = result.samples.of(result.name)
    _cpu_curve(ax, readings, CONTAINER, "used")
    end = readings[-1].time_s
    ax.plot([result.pinned_at_s, end], [100, 100], "--", color=LIMIT, lw=1.6)
    ax.text(end, 102, "one CPU", color=LIMIT, fontsize=9, va="bottom", ha="right")
    ax.axvline(result.pinned_at_s, color=INK, lw=1)
    ax.text(result.pinned_at_s, 185, f" docker update --cpuset-cpus {result.pinned_cpu}", fontsize=9)
    cpus = sorted({cpu for _, cpu in result.placements})
    for row, cpu in enumerate(cpus):
        level = 225 + 18 * row
        times = [at for at, one in result.placements if one == cpu]
        ax.plot(times, [level] * len(times), "s", color=LINES[cpu % len(LINES)], ms=3.5)
        ax.text(
            -0.02 * end,
            level,
            f"CPU {cpu}",
            ha="right",
            va="center",
            fontsize=9,
            color=LINES[cpu % len(LINES)],
        )
    ax.text(0, 225 + 18 * len(cpus), "where its two processes were seen", fontsize=9, va="bottom")
    ax.set_yticks([0, 50, 100, 150, 200])
    ax.set(xlim=(0, end), ylim=(0, 225 + 18 * (len(cpus) + 1.2)), xlabel="seconds", ylabel="% of one core")
    ax.set_title("A set of CPUs, changed while the container runs")
    return ax


def draw_update(result: Update, ax: Axes) -> Axes:
    """The use, the quota as the kernel had it, and the moments of the change."""
    resize(ax, 7.5, 3.2)
    _cpu_curve(ax, result.samples.of(result.name), CONTAINER, "used")
    for at, cpus in zip(result.changed_at_s, result.quotas_cpus[1:], strict=True):
        ax.axvline(at, color=INK, lw=1)
        ax.text(at, 112, f" docker update\n --cpus {cpus:g}", fontsize=9, va="top")
    ax.text(
        0.03,
        result.quotas_cpus[0] * 100 + 2,
        f"quota {result.quotas_cpus[0]:g}",
        color=LIMIT,
        fontsize=9,
        va="bottom",
    )
    ax.set(xlim=(0, result.samples.timestamps_s[-1]), ylim=(0, 115), xlabel="seconds", ylabel="% of one core")
    ax.set_title("A quota changed in flight: the same process before and after")
    return ax


def draw_noisy_neighbour(result: NoisyNeighbour, ax: Axes) -> Axes:
    """The distribution of the answers' latencies: for each case, the share of answers that were ready in time."""
    resize(ax, 7.5, 4.2)
    colours = (HOST, VM, KERNEL, CONTAINER)
    for one, colour in zip(result.cases, colours, strict=False):
        ranked = sorted(one.latencies_ms)
        shares = [100 * (number + 1) / len(ranked) for number in range(len(ranked))]
        said = f"{one.case}: half within {one.percentile(50):.0f} ms"
        ax.step(ranked, shares, where="post", color=colour, lw=1.9, label=said)
    ax.axvline(result.work_ms, color=FAINT, lw=1, ls=":")
    ax.text(result.work_ms, 103, f"{result.work_ms:g} ms of work", fontsize=8.5, color="#555555", ha="center")
    ax.set_xscale("log")
    ax.set_xlabel("ms from the moment that a request was due to its answer (logarithmic)")
    ax.set_ylabel("% of the answers")
    ax.set_ylim(0, 108)
    ax.xaxis.set_major_formatter("{x:g}")
    # the curves cross, so labels at their ends would lie on one another
    ax.legend(loc="upper center", fontsize=9, bbox_to_anchor=(0.45, -0.17), ncol=2)
    ax.set_title("A noisy neighbour on the same CPU", pad=14)
    return ax


# --- memory and processes


def _memory(ax: Axes, readings: Sequence[Reading]) -> None:
    times = [one.time_s for one in readings]
    ax.plot(times, [one.cgroup.memory.usage_bytes / MIB for one in readings], color=CONTAINER, lw=1.9)
    anon = [one.cgroup.memory.anon_bytes / MIB for one in readings]
    ax.fill_between(times, anon, color=CONTAINER, alpha=0.15, lw=0)


def _level(ax: Axes, bytes: int, said: str) -> None:
    ax.axhline(bytes / MIB, color=LIMIT, lw=1.6, ls="--")
    ax.text(0, bytes / MIB, f"  {said}: {human_bytes(bytes)}", color=LIMIT, va="bottom", fontsize=9)


def draw_out_of_memory(result: OutOfMemory, ax: Axes) -> Axes:
    """Memory charged to the cgroup until the limit, and the moment of the kill."""
    resize(ax, 7.5, 3.4)
    readings = result.samples.of(result.name)
    _memory(ax, readings)
    _level(ax, result.limit_bytes, "limit")
    ax.axvline(result.killed_at_s, color=INK, lw=1)
    said = f"the kernel kills it  \nexit code {result.exit_code}  \noom_kill {result.oom_kills}  "
    ax.text(result.killed_at_s, result.limit_bytes / MIB * 0.1, said, fontsize=9, ha="right", va="bottom")
    ax.set(xlim=(0, readings[-1].time_s), ylim=(0, result.limit_bytes / MIB * 1.2))
    ax.set(xlabel="seconds", ylabel="MiB charged")
    ax.set_title(
        f"A program allocates 2 MiB every 30 ms; it last reported {human_bytes(result.allocated_bytes)}"
    )
    return ax


def draw_reservation(result: Reservation, ax: Axes) -> Axes:
    """Memory charged to the cgroup, past the reservation and below the limit."""
    resize(ax, 7.5, 3.2)
    readings = result.samples.of(result.name)
    _memory(ax, readings)
    end = readings[-1].time_s
    ax.axhline(result.reservation_bytes / MIB, color=LIMIT, lw=1.6, ls="--")
    said = f"reservation ({result.file}): {human_bytes(result.reservation_bytes)} "
    ax.text(end, result.reservation_bytes / MIB, said, color=LIMIT, va="top", ha="right", fontsize=9)
    _level(ax, result.limit_bytes, "limit")
    ax.set(xlim=(0, end), ylim=(0, result.limit_bytes / MIB * 1.15), xlabel="seconds", ylabel="MiB charged")
    ax.set_title(f"Past its reservation, and nothing happens: {result.oom_kills} processes killed")
    return ax


def draw_pids_limit(result: PidsLimit, ax: Axes) -> Axes:
    """The number of processes, and the limit."""
    resize(ax, 7.5, 3.0)
    readings = result.samples.of(result.name)
    ax.step(
        [one.time_s for one in readings],
        [one.cgroup.pids.current for one in readings],
        where="post",
        color=CONTAINER,
        lw=1.9,
    )
    ax.axhline(result.limit, color=LIMIT, ls="--", lw=1.6)
    end = readings[-1].time_s
    ax.text(0.02 * end, result.limit, f"--pids-limit {result.limit}", color=LIMIT, va="bottom", fontsize=9)
    ax.text(
        end,
        result.limit * 0.9,
        f"fork(2) refused {result.fork_failures} times ",
        ha="right",
        va="top",
        fontsize=9,
    )
    ax.set(xlim=(0, end), ylim=(0, result.limit * 1.25), xlabel="seconds", ylabel="processes and threads")
    ax.set_title("A fork bomb, contained")
    return ax


# --- disks, network, devices


def draw_disk_limits(result: DiskLimits, ax: Axes) -> Axes:
    """Bytes written (full lines) and read (dotted) over time; the limits are the dashed slopes."""
    resize(ax, 7.5, 3.6)
    limited = [step for step in result.steps if step.limit_bytes_per_s]
    if not limited:
        ax.text(
            0.5,
            0.5,
            result.disk.unavailable_reason,
            ha="center",
            va="center",
            wrap=True,
            transform=ax.transAxes,
        )
        ax.axis("off")
        return ax
    asked = sorted({step.limit_bytes_per_s for step in limited if step.limit_bytes_per_s})
    longest = max(step.points[-1][0] for step in limited)
    top = max(asked) * longest / MIB * 1.3
    for number, bps in enumerate(asked):
        ax.plot([0, longest], [0, bps * longest / MIB], "--", color=LIMIT, lw=1.6)
        colour = LINES[number % len(LINES)]
        for step in (one for one in limited if one.limit_bytes_per_s == bps):
            _bytes_curve(ax, step, colour)
        means = " / ".join(
            f"{s.measured_bytes_per_s / MIB:.2f}" for s in limited if s.limit_bytes_per_s == bps
        )
        said = f" limit {bps / MIB:g} MiB/s\n written / read: {means}"
        ax.text(longest, bps * longest / MIB, said, va="center", fontsize=9, color=colour)
    for step in result.steps:
        if step.limit_bytes_per_s is None:
            _bytes_curve(ax, step, FAINT)
    free = ", ".join(
        f"{s.direction} {human_bytes(s.measured_bytes_per_s)}/s"
        for s in result.steps
        if s.limit_bytes_per_s is None
    )
    said = f"without a limit: {free}"
    ax.text(1.41 * longest, top * 0.98, said, fontsize=9, color="#555555", va="top", ha="right")
    ax.set(xlim=(0, longest * 1.42), ylim=(0, top), xlabel="seconds", ylabel="MiB moved")
    ax.set_title(f"Limits on {result.disk.path}: written (full line) and read (dotted), past the page cache")
    return ax


def _bytes_curve(ax: Axes, step: DiskStep, colour: str) -> None:
    times, counts = zip(*step.points, strict=True)
    style = "-" if step.direction == "write" else ":"
    ax.step(
        times,
        [count / MIB for count in counts],
        style,
        where="post",
        color=colour,
        lw=1.9,
        label=step.direction,
    )


def draw_bandwidth(result: Bandwidth, ax: Axes) -> Axes:
    """Megabits a second in each tenth of a second, without the token bucket and with it."""
    resize(ax, 7.5, 3.2)
    for transfer, colour in ((result.before, FAINT), (result.during, CONTAINER)):
        if transfer is not None:
            ax.plot(*zip(*transfer.points, strict=True), "-o", color=colour, ms=3)
            at, rate = transfer.points[-1]
            ax.text(
                at,
                rate,
                f" {transfer.qdisc}:\n {transfer.mean_mbit_per_s:,.0f} Mbit/s",
                va="center",
                color=colour,
                fontsize=9,
            )
    if result.during is not None:
        ax.axhline(result.rate_mbit_per_s, color=LIMIT, ls="--", lw=1.6)
        ax.text(
            0,
            result.rate_mbit_per_s * 1.15,
            f"tbf rate {result.rate_mbit_per_s:g}mbit",
            color=LIMIT,
            fontsize=9,
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlim=(0, result.before.points[-1][0] * 1.3), xlabel="seconds", ylabel="Mbit/s (logarithmic)")
    ax.set_ylim(bottom=min(result.rate_mbit_per_s, result.before.mean_mbit_per_s) / 4)
    ax.set_title("No control group limits bandwidth; a token bucket on the veth does")
    return ax


def _table(ax: Axes, heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[float]) -> None:
    """Words in columns; `widths` are in characters."""
    from matplotlib.patches import Rectangle

    lefts = [sum(widths[:column]) for column in range(len(widths))]
    for number, row in enumerate(rows):
        if number % 2 == 0:
            ax.add_patch(Rectangle((-1, number - 0.5), sum(widths) + 1, 1, color=PAPER, zorder=0))
        for left, words in zip(lefts, row, strict=True):
            ax.text(left, number, words, va="center", fontsize=9, color=INK)
    for left, head in zip(lefts, heads, strict=True):
        ax.text(left, -0.95, head, va="center", fontsize=9, weight="bold", color=INK)
    ax.set(xlim=(-1, sum(widths)), ylim=(len(rows) - 0.4, -1.5))
    ax.axis("off")


def draw_devices(result: Devices, ax: Axes) -> Axes:
    """One row a container: what it was given, and what it could do."""
    resize(ax, 8.5, 0.8 + 0.34 * (len(result.attempts) + len(result.refusals) + 1))
    mark = {True: "yes", False: "no"}
    rows = [
        (one.option, mark[one.in_dev], mark[one.mknod_succeeded], mark[one.read], mark[one.write], one.error)
        for one in result.attempts
    ]
    rows += [(words.partition(":")[0], "", "", "", "", "this engine refused it") for words in result.refusals]
    heads = (
        "the container was given",
        "in /dev",
        "mknod",
        "opened to read",
        "to write",
        "the kernel's words",
    )
    _table(ax, heads, rows, (46, 11, 11, 19, 12, 30))
    ax.set_title(f"{result.path}, device {result.number}, in containers")
    return ax


def draw_version_comparison(result: VersionComparison, ax: Axes) -> Axes:
    """One row a limit: the option, and what the kernel's files say in version 1 and in version 2."""
    from matplotlib.patches import Rectangle

    resize(ax, 11.5, 0.9 + 0.34 * (len(result.rows) + 1))
    rows = [(r.option, f"{r.v1_file} = {r.v1_value}", f"{r.v2_file} = {r.v2_value}") for r in result.rows]
    widths = (44, 68, 44)
    here = ["version 1", "version 2"]
    here[result.version - 1] += " · this host, read"
    _table(ax, ("docker run", *here), rows, widths)
    left = widths[0] if result.version == 1 else widths[0] + widths[1]
    box = Rectangle(
        (left - 1, -1.4), widths[result.version], len(rows) + 0.95, fill=False, ec=CONTAINER, lw=1.6
    )
    ax.add_patch(box)
    ax.set_title("The same limits, two spellings")
    return ax


# --- the course's own pictures


def main() -> None:
    """Draw the pictures of this chapter from what is measured on the engine, into `assets/cgroups/`."""
    import matplotlib.pyplot as plt

    from labhelpers import cgroups
    from labhelpers.drawing import new_axes
    from labhelpers.lab import Lab
    from labhelpers.state import ROOT

    folder = ROOT / "assets" / "cgroups"
    folder.mkdir(parents=True, exist_ok=True)
    with Lab("04") as lab, lab.quiet():
        for name, measure in (
            ("quota", cgroups.quota),
            ("shares", cgroups.shares),
            ("cpuset", cgroups.cpuset),
            ("update", cgroups.update),
            ("neighbour", cgroups.measure_noisy_neighbour),
            ("out_of_memory", cgroups.out_of_memory),
            ("reservation", cgroups.reservation),
            ("crowd", cgroups.pids_limit),
            ("devices", cgroups.devices),
            ("disk_limits", cgroups.disk_limits),
            ("bandwidth", cgroups.bandwidth),
            ("spellings", cgroups.compare_versions),
        ):
            measure(lab).plot(new_axes())
            plt.savefig(folder / f"{name}.png", dpi=130)
            plt.close()


if __name__ == "__main__":
    main()
