"""Figures of the engine and its images: they draw data on an Axes and talk to no engine."""

from __future__ import annotations

import platform
import re
import textwrap
from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, PAPER, human_bytes, resize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labhelpers.engine.find import EngineFacts


def draw_engine_facts(result: EngineFacts, ax: Axes) -> Axes:
    """This machine, the engine's host, and the socket between them.

    One box where the engine runs on this machine's own kernel, two where it runs on another.
    """
    resize(ax, 9.2, 4.5)
    same = runs_here(result)
    _machines(ax, result, same)
    _box(ax, 4, 19, 29, 19, INK, "this notebook", "labhelpers\nand the docker command:\nthe engine's clients")
    storage = f"storage driver: {result.storage_driver}\ncgroups: version {result.cgroup_version}"
    size = f"{result.cpus} CPUs, {human_bytes(result.memory_bytes)} of memory"
    engine = f"API {result.api}\n{storage}\n{size}"
    _box(ax, 66, 19, 30, 19, ENGINE, f"Docker engine {result.version}", engine)
    for x in (66, 76.25, 86.5):
        _container(ax, x)
    _socket(ax, result)
    kernel = f"Linux kernel {result.kernel}"
    if same:
        _kernel(ax, 4, 92, f"{kernel}: one kernel for the notebook and all containers")
    else:
        _kernel(ax, 4, 29, f"this machine's: {platform.system()} {platform.release()}")
        _kernel(ax, 66, 30, f"every container's: {kernel}")
    ax.set(xlim=(0, 100), ylim=(-2, 46 if same else 50))
    ax.axis("off")
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
    system = "" if "Docker Desktop" in facts.operating_system else f": {facts.operating_system}"
    title = host_words(facts) + system
    if same:
        _frame(ax, 1, 98, title, HOST)
    else:
        _frame(ax, 1, 35, "this machine", FAINT)
        _frame(ax, 63, 36, _wrap(title, 40), HOST)


def _frame(ax: Axes, x: float, width: float, title: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch((x, 0), width, 41, "round,pad=0,rounding_size=1.5", fc=PAPER, ec=colour, lw=1.6)
    ax.add_patch(shape)
    ax.text(x + 0.5, 42.2, title, color=INK, fontsize=10, weight="bold", va="bottom")


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, colour: str, title: str, text: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch(
        (x, y), width, height, "round,pad=0,rounding_size=1.2", fc="white", ec=colour, lw=2
    )
    ax.add_patch(shape)
    ax.text(x + 1.6, y + height - 2, title, fontsize=10.5, weight="bold", color=INK, va="top")
    ax.text(x + 1.6, y + height - 6, text, fontsize=9, color=INK, va="top", linespacing=1.3)


def _container(ax: Axes, x: float) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, 11.2), 9.5, 5.4, fc=CONTAINER, ec="none"))
    ax.text(x + 4.75, 13.8, "container", fontsize=8.5, color="white", ha="center", va="center")


def _kernel(ax: Axes, x: float, width: float, text: str) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, 2.6), width, 7, fc=KERNEL, ec="none"))
    ax.text(
        x + width / 2, 6.1, _wrap(text, int(width * 1.15)), fontsize=9, ha="center", va="center", color=INK
    )


def _socket(ax: Axes, facts: EngineFacts) -> None:
    left, right = 33, 66
    for y, start, end, text in (
        (33, left, right, "requests: run, pull, …"),
        (25.5, right, left, "responses and events"),
    ):
        ax.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3})
        ax.text((left + right) / 2, y + 0.8, text, ha="center", va="bottom", fontsize=9, color=INK)
    kinds = {"unix": "a socket", "npipe": "a named pipe"}
    kind = kinds.get(facts.host.partition(":")[0], "the network")
    where = f"over {kind}:\n{_wrap_path(facts.host, 34)}\nfound by: {_wrap(facts.found_by, 30)}"
    ax.text(
        (left + right) / 2, 24.2, where, ha="center", va="top", fontsize=8, color="#555555", linespacing=1.4
    )


def _wrap_path(address: str, width: int) -> str:
    """Lines of at most `width`, broken after a slash where one is in reach."""
    lines = [""]
    for part in re.findall(r"[^/]*/|[^/]+", address):
        if len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
