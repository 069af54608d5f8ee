"""Figures of the engine and its images: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from labhelpers.drawing import (
    CANVAS_PX,
    CONTAINER,
    ENGINE,
    FAINT,
    HOST,
    INK,
    KERNEL,
    PAPER,
    SMALL,
    arrow,
    box,
    canvas,
    describe,
    human_bytes,
    label,
    note,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.engine.find import EngineFacts


def draw_engine_facts(result: EngineFacts, ax: Axes) -> Axes:
    """This machine, the engine's host, and the socket between them.

    One box where the engine runs on this machine's own kernel, two where it runs on another.
    """
    same = runs_here(result)
    canvas(ax, 336, "The notebook is a client of the Docker engine")
    _machines(ax, result, same)
    box(
        ax,
        (16, 68),
        (240, 132),
        edge=INK,
        title="this notebook",
        text="labhelpers and the docker command: the engine's clients",
        align="left",
        at_top=True,
    )
    size = f"{result.cpus} CPUs, {human_bytes(result.memory_bytes)} of memory"
    facts = (
        f"API {result.api}",
        f"storage driver: {result.storage_driver}",
        f"cgroups: version {result.cgroup_version}",
        size,
        *(() if same else (result.operating_system,)),
    )
    title = f"Docker engine {result.version}"
    box(
        ax,
        (568, 68),
        (248, 132),
        edge=ENGINE,
        title=title,
        text="\n".join(facts),
        align="left",
        at_top=True,
    )
    for number in range(3):
        box(ax, (568 + 84 * number, 210), (80, 34), CONTAINER, text="container")
    _socket(ax, result)
    kernel = f"Linux kernel {result.kernel}"
    if same:
        _kernel(ax, 16, 800, f"{kernel}: one kernel for the notebook and all containers")
    else:
        _kernel(ax, 16, 240, f"this machine's: {platform.system()} {platform.release()}")
        _kernel(ax, 568, 248, f"every container's: {kernel}")
    describe(ax, f"{title}, {', '.join(facts)}", kernel, host_words(result), f"reached at {result.host}")
    return ax


def runs_here(facts: EngineFacts) -> bool:
    """Whether the engine uses the kernel of the machine that asks.

    A local socket alone does not tell: Docker Desktop's leads into its virtual machine, with another kernel.
    """
    is_local = facts.host.startswith(("unix:", "npipe:"))
    return is_local and platform.system() == "Linux" and platform.release() == facts.kernel


def host_words(facts: EngineFacts) -> str:
    """What the engine's host is, for people."""
    if runs_here(facts):
        return "this machine is the engine's host"
    if "Docker Desktop" in facts.operating_system:
        return "the engine's host is Docker Desktop's virtual machine"
    if facts.host.startswith(("unix:", "npipe:")):
        return "the engine's host is a virtual machine (its kernel is not this machine's)"
    return "the engine's host is another machine"


def _machines(ax: Axes, facts: EngineFacts, same: bool) -> None:
    if same:
        _frame(ax, 0, CANVAS_PX, f"{host_words(facts)}: {facts.operating_system}", HOST)
    else:
        _frame(ax, 0, 272, "this machine", FAINT)
        _frame(ax, 552, 280, host_words(facts), HOST)


def _frame(ax: Axes, x: float, width: float, title: str, colour: str) -> None:
    box(ax, (x, 0), (width, 334), PAPER, edge=colour)
    label(ax, x + 12, 8, wrap(title, width - 24, bold=True), bold=True, valign="top")


def _kernel(ax: Axes, x: float, width: float, text: str) -> None:
    box(ax, (x, 258), (width, 60), KERNEL, text=text)


def _socket(ax: Axes, facts: EngineFacts) -> None:
    left, right = 256, 568
    arrow(ax, (left, 104), (right, 104), text="requests: run, pull, …")
    arrow(ax, (right, 138), (left, 138), text="responses and events")
    kinds = {"unix": "a socket", "npipe": "a named pipe"}
    kind = kinds.get(facts.host.partition(":")[0], "the network")
    text = "\n".join((f"over {kind}:", facts.host, f"found by: {facts.found_by}"))
    room = 264 if runs_here(facts) else 272
    note(ax, (left + right) / 2, 146, wrap(text, room, SMALL), align="center", valign="top")
