"""Figures of the chapter on virtual machines and containers: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

from collections.abc import Iterator
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
    RULE,
    VM,
    WHITE,
    bar,
    box,
    canvas,
    describe,
    human_bytes,
    ink_on,
    key,
    label,
    lane_labels,
    listed,
    note,
    rows,
    set_height,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.lab import Lab
    from labhelpers.results import Result
    from labhelpers.vm.boot import StartTimes
    from labhelpers.vm.capacity import Density
    from labhelpers.vm.pairs import Kind
    from labhelpers.vm.resources import DiskUsage, MemoryUsage
    from labhelpers.vm.stack import Stacks

MIB = 1024 * 1024
PHASES = {
    "container": ("the engine creates the container", FAINT),
    "QEMU": ("QEMU", ENGINE),
    "firmware": ("firmware", LIMIT),
    "kernel": ("kernel", KERNEL),
    "initramfs": ("initramfs", HOST),
    "user space": ("user space", VM),
}
NAMES: dict[Kind, str] = {"vm": "virtual machine", "container": "container"}
COLOURS: dict[Kind, str] = {"vm": VM, "container": CONTAINER}


def draw_start_times(result: StartTimes, ax: Axes) -> Axes:
    """The median start of each kind as a bar of its phases; a dot for the total of every start."""
    mode = "QEMU translates every instruction" if result.accel == "tcg" else "with KVM"
    longest = max(start.total_ms for start in result.starts)
    rows(
        ax,
        list(NAMES.values()),
        title=f"From docker create to the payload's first response ({mode})",
        end=longest * 1.15,
        xlabel="ms since the container was created; bar: the median start, dots: the total of every start",
        row_px=84,
        keyed=True,
    )
    key(ax, [(colour, text) for text, colour in PHASES.values()])
    facts = []
    for row, (kind, name) in enumerate(NAMES.items()):
        start = result.median_start(kind)
        durations = [(phase.name, phase.end_ms - phase.start_ms) for phase in start.phases]
        for phase, (_, duration) in zip(start.phases, durations, strict=True):
            text = f"{phase.name}\n{duration:,.0f} ms"
            bar(ax, row, phase.start_ms, phase.end_ms, PHASES[phase.name][1], text, height=0.5)
        label(ax, start.total_ms, row, f"{start.total_ms:,.0f} ms", bold=True, shift=(8, 0))
        for each in result.of(kind):
            ax.plot(each.total_ms, row + 0.38, "o", color=COLOURS[kind], ms=5, alpha=0.7)
        phases = listed([f"{phase} {duration:,.0f} ms" for phase, duration in durations])
        facts.append(f"{name}: {start.total_ms:,.0f} ms ({phases})")
    describe(ax, *facts)
    return ax


def draw_memory_usage(result: MemoryUsage, ax: Axes) -> Axes:
    """A bar for each, with its bytes, and the memory of the guest's machine."""
    rows(
        ax,
        list(NAMES.values()),
        title=f"Memory of the engine's host in use, idle: {result.ratio:.0f} times as much",
        end=max(result.vm_bytes, result.guest_memory_bytes) * 1.3,
        xlabel="MiB",
    )
    _mark_mib(ax)
    # the label of the longer bar is in it, so that the line of the guest's memory cannot run through it
    bar(ax, 0, 0, result.vm_bytes, VM)
    label(ax, 0, 0, human_bytes(result.vm_bytes), ink_on(VM), shift=(8, 0))
    bar(ax, 1, 0, result.container_bytes, CONTAINER)
    label(ax, result.container_bytes, 1, human_bytes(result.container_bytes), shift=(8, 0))
    ax.axvline(result.guest_memory_bytes, color=LIMIT, lw=1.6, ls="--")
    guest = f"memory of the guest's machine: {human_bytes(result.guest_memory_bytes)}"
    lane_labels(ax, [(result.guest_memory_bytes, guest)], -0.5, LIMIT)
    describe(
        ax,
        f"virtual machine {human_bytes(result.vm_bytes)}",
        guest,
        f"container {human_bytes(result.container_bytes)}",
    )
    return ax


def draw_disk_usage(result: DiskUsage, ax: Axes) -> Axes:
    """The files of each, part by part, and what one more copy adds; QEMU apart from the guest."""
    parts = (
        ("kernel", result.kernel_bytes, KERNEL),
        ("initramfs", result.initramfs_bytes, HOST),
        ("root disk", result.root_disk_bytes, VM),
    )
    bars = (
        ("guest", result.guest_bytes, None),
        ("one more guest", result.vm_copy_bytes, VM),
        ("container's image", result.payload_image_bytes, CONTAINER),
        ("one more container", result.container_copy_bytes, CONTAINER),
        ("QEMU, counted separately", result.qemu_bytes, FAINT),
    )
    rows(
        ax,
        [name for name, _, _ in bars],
        title="Disk space of each, and of one more copy",
        end=max(size for _, size, _ in bars) * 1.15,
        xlabel="MiB",
        keyed=True,
    )
    key(ax, [(colour, f"{name} of the guest") for name, _, colour in parts])
    _mark_mib(ax)
    left = 0
    for _, size, colour in parts:
        bar(ax, 0, left, left + size, colour)
        left += size
    for row, (_, size, own_colour) in enumerate(bars):
        if own_colour:
            bar(ax, row, 0, size, own_colour)
        label(ax, size, row, human_bytes(size), shift=(8, 0))
    inside = listed([f"{name} {human_bytes(size)}" for name, size, _ in parts])
    describe(ax, *(f"{name} {human_bytes(size)}" for name, size, _ in bars), f"in the guest: {inside}")
    return ax


def draw_density(result: Density, ax: Axes) -> Axes:
    """Memory against number, on two logarithmic scales: dots measured, dashed lines extrapolated."""
    set_height(ax, 420)
    facts = []
    most = max(result.capacity(kind) for kind in NAMES)
    ax.set(xscale="log", yscale="log", xlim=(0.7, most * 6))
    ax.set_ylim(min(result.container_bytes) / 2, result.memory_bytes * 8)
    for kind, name in NAMES.items():
        colour, fit = COLOURS[kind], result.capacity(kind)
        base, each = result.line(kind)
        ax.plot(result.counts, result.used_bytes(kind), "o", color=colour, ms=6, label=f"{name}, measured")
        last = max(result.counts)
        steps = [last * (max(fit, last) / last) ** (i / 60) for i in range(61)]
        line = [base + each * count for count in steps]
        ax.plot(steps, line, "--", color=colour, lw=1.4, label=f"{name}, extrapolated")
        ax.plot(fit, result.memory_bytes, "o", mfc=WHITE, mec=colour, ms=9)
        # a few measurements support no more than two digits
        text = f"about {float(f'{fit:.2g}'):,.0f} {name}s\n{human_bytes(each)} each"
        label(ax, fit, result.memory_bytes, text, colour, align="center", valign="bottom", shift=(0, 8))
        facts.append(text.replace("\n", ", "))
    ax.axhline(result.memory_bytes, color=INK, lw=0.8)
    marks = [2**20, 2**24, 2**28, 2**32]
    ax.set_yticks(marks, [human_bytes(mark) for mark in marks])
    ax.minorticks_off()
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("how many run")
    corner = (ax.get_xlim()[1], ax.get_ylim()[0])
    note(
        ax,
        *corner,
        "filled: measured; dashed and open: extrapolated, not measured",
        align="right",
        valign="bottom",
        shift=(-4, 6),
    )
    ax.set_title(f"How many fit in {human_bytes(result.memory_bytes)}, by memory alone")
    describe(ax, *facts, f"extrapolated from {listed([str(count) for count in result.counts])}")
    return ax


def draw_stacks(result: Stacks, ax: Axes) -> Axes:
    """The stack of a virtual machine next to that of a container, from the hardware to the payload."""
    high, gap = 52, 56
    floor = 24 + 4 * gap
    canvas(ax, floor + 2 * gap, "What the payload of a virtual machine and of a container runs on")
    disk, memory = result.disk, result.memory
    how = "translates the guest's code" if result.accel == "tcg" else "uses KVM"
    guest = (
        ("virtual hardware", f"QEMU {how}", ENGINE),
        ("guest kernel", f"{result.guest_release}, {human_bytes(disk.kernel_bytes)} on disk", KERNEL),
        ("guest user space", f"root disk, {human_bytes(disk.root_disk_bytes)}", tint(VM)),
        ("payload", "the same script", VM),
    )
    container = (
        ("its files", f"image, {human_bytes(disk.payload_image_bytes)}", tint(CONTAINER)),
        ("payload", "the same script", CONTAINER),
    )
    facts = []
    for x, wide, layers, name, used in (
        (0, 340, guest, "virtual machine", memory.vm_bytes),
        (348, 300, container, "container", memory.container_bytes),
    ):
        for place, (title, text, face) in enumerate(layers, 1):
            box(ax, (x, floor - place * gap), (wide, high), face, title=title, text=text)
        heading = f"{name}: uses {human_bytes(used)} of memory"
        above = floor - len(layers) * gap - 12
        label(ax, x + wide / 2, above, heading, bold=True, align="center")
        stack = listed([f"{title} ({text})" for title, text, _ in layers])
        facts.append(f"{heading}, from bottom to top {stack}")
    text = "no kernel in here: system calls\ngo directly to the host's kernel"
    label(ax, 498, 24 + gap / 2, text, CONTAINER, align="center")
    box(ax, (656, floor - gap), (176, high), PAPER, edge=RULE, title="Docker engine")
    note(
        ax,
        744,
        floor - gap - 8,
        "starts both, and is on\nthe path of neither",
        align="center",
        valign="bottom",
    )
    host = f"{result.host_release}: the container's only kernel"
    box(ax, (0, floor), (832, high), HOST, title="host kernel", text=host)
    box(ax, (0, floor + gap), (832, high), RULE, title="hardware of the engine's host")
    describe(ax, *facts, f"below both the host kernel {host}, and the hardware")
    return ax


def _mark_mib(ax: Axes) -> None:
    """Mark an axis of bytes at whole MiB."""
    end = ax.get_xlim()[1]
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if step * MIB * 8 >= end), 1000)
    marks = range(0, int(end) + 1, step * MIB)
    ax.set_xticks(list(marks), [f"{mark // MIB}" for mark in marks])


def assets(lab: Lab) -> Iterator[Result]:
    """Start a guest and a container, and measure both."""
    from labhelpers import vm

    pair = vm.start_pair(lab)
    yield vm.stacks(lab, vm.kernels(lab, pair), vm.memory_usage(lab, pair), vm.disk_usage(lab, pair))
