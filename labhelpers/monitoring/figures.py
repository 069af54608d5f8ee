"""Figures of the chapter on watching and managing: data on an Axes; they talk to no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labhelpers.drawing import CONTAINER, ENGINE, FAINT, HOST, INK, KERNEL, VM, resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from labhelpers.monitoring.engine_socket import SocketAccess
    from labhelpers.monitoring.restart import RestartResult, RestartResults
    from labhelpers.monitoring.timeline import Timeline, TimelineEntry

STATES = {"created": FAINT, "running": HOST, "paused": KERNEL, "down": "#FFFFFF"}


def _bare(ax: Axes) -> None:
    ax.set_axis_off()


def _box(
    ax: Axes, x: float, y: float, width: float, face: str, said: str, ink: str, edge: str = "white"
) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), width, 0.9, fc=face, ec=edge, lw=1.2))
    ax.text(x + width / 2, y + 0.45, said, ha="center", va="center", color=ink, fontsize=8.5)


def draw_restart_results(result: RestartResults, ax: Axes) -> Axes:
    """One row a policy, one column a way of dying: green comes back, white stays down."""
    if not result.results:
        resize(ax, 7.5, 1.0)
        ax.text(
            0,
            0.5,
            f"Not measured here: {result.unavailable_reason}",
            fontsize=9.5,
            color=INK,
            wrap=True,
            va="center",
        )
        _bare(ax)
        return ax
    left, width = 1.55, 1.5
    resize(ax, 1.1 * (left + width * len(result.exit_causes)), 1.4 + 0.5 * len(result.policies))
    for column, death in enumerate(result.exit_causes):
        x = left + column * width + width / 2
        ax.text(x, -0.62, death.replace(", ", ",\n"), ha="center", va="bottom", fontsize=9.5, weight="bold")
        ax.text(
            x, -0.14, result.exit_description(death), ha="center", va="bottom", fontsize=7.5, color="#555555"
        )
        for row, policy in enumerate(result.policies):
            face, said, ink = _fate(result.of(policy, death))
            _box(ax, left + column * width, row, width - 0.05, face, said, ink, "#DDDDDD")
    for row, policy in enumerate(result.policies):
        ax.text(left - 0.12, row + 0.45, policy, ha="right", va="center", fontsize=9.5, family="monospace")
    ax.set(xlim=(0, left + width * len(result.exit_causes)), ylim=(len(result.policies) + 0.05, -1.4))
    _bare(ax)
    return ax


def _fate(fate: RestartResult) -> tuple[str, str, str]:
    """The colour, the words and their ink."""
    if fate.runs:
        return HOST, "comes back", "white"
    if fate.restarts:
        return KERNEL, f"{'once' if fate.restarts == 1 else f'{fate.restarts} times'}, then\nstays down", INK
    return "#FFFFFF", "stays down", INK


def draw_socket_access(result: SocketAccess, ax: Axes) -> Axes:
    """One row a way to the engine, one column what could be had by it: red is had, white is refused."""
    from labhelpers.monitoring.engine_socket import TARGET_DESCRIPTIONS, TARGETS

    left, width = 2.55, 1.65
    resize(ax, left + width * len(TARGETS), 1.1 + 0.5 * len(result.results))
    for column, thing in enumerate(TARGETS):
        x = left + column * width + width / 2
        ax.text(
            x,
            -0.12,
            _two_lines(TARGET_DESCRIPTIONS[thing]),
            ha="center",
            va="bottom",
            fontsize=9.5,
            weight="bold",
        )
        for row, holder in enumerate(result.results):
            had = holder.granted[thing]
            harmless = thing == "names"
            face = (ENGINE if harmless else VM) if had else "#FFFFFF"
            ink = "white" if had and not harmless else INK
            _box(
                ax,
                left + column * width,
                row,
                width - 0.05,
                face,
                "yes" if had else "refused",
                ink,
                "#DDDDDD",
            )
    for row, holder in enumerate(result.results):
        ax.text(left - 0.12, row + 0.45, holder.access, ha="right", va="center", fontsize=9.5)
    ax.text(left - 0.12, -0.12, "it holds", ha="right", va="bottom", fontsize=9.5, color="#555555")
    ax.set(xlim=(0, left + width * len(TARGETS)), ylim=(len(result.results) + 0.05, -1.0))
    _bare(ax)
    return ax


def _two_lines(words: str) -> str:
    first, _, rest = words.partition(" ")
    return f"{first}\n{rest}"


def draw_timeline(result: Timeline, ax: Axes) -> Axes:
    """A bar of the container's states; what the engine noted stands above it, what the container said below."""
    last = max(one.at_s for one in result.entries)
    heights, lives = _heights(result.events, last), _lives(result)
    resize(ax, 11, 1.9 + 0.36 * max(heights) + 0.36 * len(lives))
    for state, begin, end in result.states:
        ax.barh(0, end - begin, left=begin, height=0.5, color=STATES[state], edgecolor=FAINT, lw=0.8)
        if end - begin > last * 0.075:
            ink = "white" if state in ("running", "created") else INK
            ax.text((begin + end) / 2, 0, state, ha="center", va="center", color=ink, fontsize=9)
    for one, height in zip(result.events, heights, strict=True):
        y = 0.1 + 0.36 * height
        ax.plot([one.at_s] * 2, [0.25, y + 0.28], color=ENGINE, lw=1.2)
        ax.text(one.at_s + last * 0.004, y + 0.05, one.text, va="bottom", fontsize=8.5, color=INK)
    rows = [-0.95 - 0.4 * row for row in range(len(lives))]
    for y, (run, lines) in zip(rows, lives, strict=True):
        ax.plot([one.at_s for one in lines], [y] * len(lines), "o", ms=4.5, color=CONTAINER)
        said = f"“{lines[-1].text}”"
        ax.text(lines[-1].at_s + last * 0.008, y, said, va="center", fontsize=8.5, color=CONTAINER)
        ax.text(-last * 0.012, y, f"run {run}: {len(lines)} lines", ha="right", va="center", fontsize=8.5)
    for words, y in (("docker events", 0.6), ("state", 0.0), ("docker logs", -0.55)):
        ax.text(-last * 0.012, y, words, ha="right", va="center", fontsize=9.5, weight="bold")
    ax.set(xlim=(0, last * 1.16), ylim=(rows[-1] - 0.25, 0.5 + 0.36 * max(heights)), yticks=[])
    ax.set_xlabel("seconds since the container was created, on the engine's clock")
    ax.spines["left"].set_visible(False)
    return ax


def _heights(events: Sequence[TimelineEntry], last: float) -> list[int]:
    """On which step the words of each event stand: above those of later ones that begin below them."""
    found: list[int] = []
    later: list[tuple[float, int]] = []
    for one in reversed(events):
        end = one.at_s + last * (0.0075 * len(one.text) + 0.015)
        step = 1 + max((height for at_s, height in later if at_s < end), default=0)
        later.append((one.at_s, step))
        found.insert(0, step)
    return found


def _lives(result: Timeline) -> list[tuple[str, list[TimelineEntry]]]:
    """The lines of each life, by the number that they begin with."""
    found: dict[str, list[TimelineEntry]] = {}
    for one in result.lines:
        found.setdefault(one.text.removeprefix("run ")[:1], []).append(one)
    return sorted(found.items())


__all__ = ["draw_restart_results", "draw_socket_access", "draw_timeline"]
