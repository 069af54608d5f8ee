"""Figures of the chapter on virtual machines and containers: data on an Axes; they talk to no engine."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.vm.experiments import Density, DiskUsage, Kind, MemoryUsage, Stacks, StartTimes

PHASE = {
    "container": FAINT,
    "QEMU": ENGINE,
    "firmware": LIMIT,
    "kernel": KERNEL,
    "initramfs": HOST,
    "user space": VM,
}
KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("vm", "virtual machine", VM),
    ("container", "container", CONTAINER),
)
# a phase narrower than this share of the axis is named above the bar, not in it
NARROW = 0.09


def draw_start_times(result: StartTimes, ax: Axes) -> Axes:
    """The median start of each kind as a bar of its phases; a dot for the total of every start."""
    resize(ax, 9, 3.6)
    longest = max(start.total_ms for start in result.starts)
    named: set[str] = set()
    for row, (kind, name, color) in enumerate(KINDS):
        middle = result.middle(kind)
        for phase in middle.phases:
            width = phase.end_ms - phase.start_ms
            ax.barh(row, width, left=phase.start_ms, height=0.4, color=PHASE[phase.name], label=phase.name)
            if width > NARROW * longest:
                center = phase.start_ms + width / 2
                said = f"{phase.name}\n{width:.0f} ms"
                ax.text(center, row, said, ha="center", va="center", fontsize=8, color=INK)
                named.add(phase.name)
        total = f"  {middle.total_ms:.0f} ms"
        ax.text(middle.total_ms, row, total, va="center", weight="bold")
        for start in result.of(kind):
            ax.plot(start.total_ms, row + 0.36, "o", color=color, ms=5, alpha=0.7, clip_on=False)
        ax.text(0, row - 0.28, name, color=color, weight="bold", va="bottom")
    small = [(name, color) for name, color in PHASE.items() if name not in named]
    step = longest * 1.1 / max(len(small), 1)
    for place, (name, color) in enumerate(small):
        said = "the engine makes the container" if name == "container" else name
        ax.text(place * step, 1.72, f"■ {said}", color=color, fontsize=9, va="center")
    mode = "TCG: QEMU translates every instruction" if result.accel == "tcg" else "with KVM"
    ax.set_title(f"From “create” to the payload's first answer ({mode})")
    ax.set_xlabel("ms since the engine was asked · bar: the median start · dots: the total of every start")
    ax.set(ylim=(1.95, -0.6), xlim=(0, longest * 1.12), yticks=[])
    ax.spines["left"].set_visible(False)
    return ax


def draw_memory_usage(result: MemoryUsage, ax: Axes) -> Axes:
    """One bar for each, with its bytes."""
    resize(ax, 8, 2.2)
    held = {"vm": result.vm_bytes, "container": result.container_bytes}
    for row, (kind, name, color) in enumerate(KINDS):
        _bar(ax, row, 0, held[kind], color)
        ax.text(held[kind], row, f"  {name}: {human_bytes(held[kind])}", va="center", color=INK)
    given = result.guest_memory_bytes
    ax.axvline(given, color=LIMIT, lw=1.2, ls="--")
    ax.text(given, 1.5, f" dashed: the {human_bytes(given)} given to the guest", color=LIMIT, va="center")
    ax.set_title(f"Memory held on the engine's host, idle: {result.ratio:.0f} times as much")
    _bytes_axis(ax, result.vm_bytes * 1.45)
    ax.set_ylim(1.75, -0.5)
    return ax


def draw_disk_usage(result: DiskUsage, ax: Axes) -> Axes:
    """What each carries, part by part, and what one more copy adds; QEMU apart from the guest."""
    resize(ax, 8.5, 3.2)
    parts = (
        (result.kernel_bytes, "kernel", KERNEL),
        (result.initramfs_bytes, "initramfs", HOST),
        (result.root_disk_bytes, "root disk", VM),
    )
    left = 0
    for size, name, color in parts:
        _bar(ax, 0, left, size, color)
        ax.text(left + size / 2, -0.42, name, ha="center", fontsize=8, color=INK)
        left += size
    rows = (
        (result.guest_bytes, "the guest", None),
        (result.vm_copy_bytes, "one more guest", VM),
        (result.payload_image_bytes, "the container's image", CONTAINER),
        (result.container_copy_bytes, "one more container", CONTAINER),
        (result.qemu_bytes, "QEMU, apart", FAINT),
    )
    for row, (size, name, one_color) in enumerate(rows):
        if one_color:
            _bar(ax, row, 0, size, one_color)
        ax.text(size, row, f"  {name}: {human_bytes(size)}", va="center", color=INK)
    ax.set_title("Disk: what each carries, and what one more copy adds")
    _bytes_axis(ax, max(result.qemu_bytes, result.guest_bytes) * 1.4)
    ax.set_ylim(4.6, -0.8)
    return ax


def draw_density(result: Density, ax: Axes) -> Axes:
    """Memory against number, on two logarithmic scales: dots measured, dashed lines extrapolated."""
    resize(ax, 8, 4)
    for kind, name, color in KINDS:
        held = result.vm_bytes if kind == "vm" else result.container_bytes
        base, each = result.line(kind)
        fit = result.fit(kind)
        ax.plot(result.started, held, "o", color=color, ms=6, label=f"{name}, measured")
        last = max(result.started)
        steps = [last * (max(fit, last) / last) ** (i / 60) for i in range(61)]
        line = [base + each * n for n in steps]
        ax.plot(steps, line, "--", color=color, lw=1.4, label=f"{name}, extrapolated")
        ax.plot(fit, result.memory_bytes, "o", mfc="white", mec=color, ms=9, clip_on=False)
        # the line is short: two digits are all that it can tell
        said = f"about {float(f'{fit:.2g}'):,.0f} {name}s\n{human_bytes(each)} each"
        at = (fit, result.memory_bytes)
        ax.annotate(said, at, (0, 9), textcoords="offset points", ha="center", color=color)
    ax.axhline(result.memory_bytes, color=INK, lw=0.8)
    ax.set(xscale="log", yscale="log", ylim=(min(result.container_bytes) / 2, result.memory_bytes * 6))
    ax.set_xlim(0.7, max(result.fit("container"), result.fit("vm")) * 6)
    ax.set_yticks([2**20, 2**24, 2**28, 2**32], ["1 MiB", "16 MiB", "256 MiB", "4 GiB"])
    ax.minorticks_off()
    ax.set_xlabel("how many · filled: measured · dashed and open: extrapolated, not measured")
    ax.set_title(f"How many fit in {human_bytes(result.memory_bytes)}, by memory alone")
    return ax


def draw_stacks(result: Stacks, ax: Axes) -> Axes:
    """The stack of a virtual machine beside that of a container, from the hardware to the payload."""
    resize(ax, 9, 4.8)
    disk, memory = result.disk, result.memory
    how = "translates the guest's code" if result.accel == "tcg" else "with KVM"
    vm = (
        ("payload", "the same script", VM, "white"),
        ("guest user space", f"root disk, {human_bytes(disk.root_disk_bytes)}", "#F2B48A", INK),
        ("guest kernel", f"{result.guest_release}\n{human_bytes(disk.kernel_bytes)} on disk", KERNEL, INK),
        ("virtual hardware", f"QEMU\n{how}", ENGINE, INK),
    )
    container = (
        ("payload", "the same script", CONTAINER, "white"),
        ("its files", f"image, {human_bytes(disk.payload_image_bytes)}", "#9CC7E4", INK),
    )
    for column, width, layers, name, held in (
        (0.0, 4.2, vm, "virtual machine", memory.vm_bytes),
        (4.4, 3.4, container, "container", memory.container_bytes),
    ):
        for place, (title, said, face, ink) in enumerate(reversed(layers)):
            _box(ax, (column, 2.0 + place), width, title, said, face, ink)
        said = f"{name}: holds {human_bytes(held)}"
        place_of_name = (column + width / 2, 2.12 + len(layers))
        ax.text(*place_of_name, said, ha="center", weight="bold", fontsize=10.5, color=INK)
    _box(ax, (8.0, 2.0), 2.0, "Docker engine", "", PAPER, INK)
    ax.text(9.0, 3.12, "starts both;\nis in the way\nof neither", ha="center", va="bottom", fontsize=9)
    said = f"{result.host_release}: the only kernel that the container has"
    _box(ax, (0, 1.0), 10, "host kernel", said, HOST, "white")
    _box(ax, (0, 0.0), 10, "the hardware of the engine's host", "", "#DDDDDD", INK)
    said = "no kernel in here: system calls\ngo straight to the host's kernel"
    ax.text(6.1, 5.0, said, ha="center", va="center", fontsize=9.5, color=CONTAINER)
    ax.set(xlim=(-0.1, 10.1), ylim=(-0.1, 6.6))
    ax.axis("off")
    return ax


def _box(
    ax: Axes, corner: tuple[float, float], width: float, title: str, said: str, face: str, ink: str
) -> None:
    from matplotlib.patches import Rectangle

    x, y = corner
    ax.add_patch(Rectangle((x, y + 0.04), width, 0.92, fc=face, ec="white"))
    ax.text(x + 0.15, y + 0.5, title, va="center", weight="bold", color=ink, fontsize=10)
    ax.text(x + width - 0.15, y + 0.5, said, va="center", ha="right", color=ink, fontsize=8.5)


def _bar(ax: Axes, row: int, left: float, width: float, color: str) -> None:
    ax.barh(row, width, left=left, height=0.55, color=color)


def _bytes_axis(ax: Axes, end: float) -> None:
    """Horizontal bytes from 0 to `end`, with marks at whole MiB."""
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if s * 2**20 * 8 >= end), 1000)
    marks = range(0, int(end) + 1, step * 2**20)
    ax.set_xticks(list(marks), [f"{mark // 2**20}" for mark in marks])
    ax.set(xlabel="MiB", xlim=(0, end), yticks=[])
    ax.spines["left"].set_visible(False)
