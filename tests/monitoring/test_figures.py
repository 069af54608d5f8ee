"""What the figures show."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Annotation

from labhelpers.drawing import HOST, KERNEL, VM
from labhelpers.monitoring.engine_socket import ACCESS_METHODS, TARGETS, AccessResult, SocketAccess
from labhelpers.monitoring.restart import RestartResult, RestartResults
from labhelpers.monitoring.timeline import Timeline, TimelineEntry

matplotlib.use("agg")


def texts(ax: Axes) -> list[str]:
    """The labels, each on one line."""
    return [" ".join(text.get_text().split()) for text in ax.texts]


def faces(ax: Axes) -> list[str]:
    return [
        to_hex(patch.get_facecolor()).upper() for patch in ax.patches if isinstance(patch, FancyBboxPatch)
    ]


def test_restart_results() -> None:
    results = RestartResults(
        ("no", "on-failure:1", "always"),
        ("exit code 1",),
        (
            RestartResult("no", "exit code 1", False, 0, 1, False),
            RestartResult("on-failure:1", "exit code 1", False, 1, 1, False),
            RestartResult("always", "exit code 1", True, 2, None, False),
        ),
    )
    ax = results.plot()
    assert faces(ax) == ["#FFFFFF", KERNEL, HOST]
    assert {"no", "on-failure:1", "always", "stays down", "once, then stays down", "comes back"} <= set(
        texts(ax)
    )
    assert "exit code 1" in texts(ax)


def test_restart_results_that_were_not_measured() -> None:
    ax = RestartResults(("no",), ("power cut",), (), "this engine refuses").plot()
    assert texts(ax) == ["Not measured here: this engine refuses"]
    assert faces(ax) == []


def test_socket_access() -> None:
    every, none = dict.fromkeys(TARGETS, True), dict.fromkeys(TARGETS, False)
    rows = (
        AccessResult(ACCESS_METHODS[0], every, (), {}),
        AccessResult(ACCESS_METHODS[3], {**none, "names": True}, (), {}),
    )
    ax = SocketAccess(rows, "", "", "").plot()
    assert [faces(ax)[row : row + 4].count(VM) for row in (0, 4)] == [3, 0]
    assert texts(ax).count("refused") == 3
    assert {ACCESS_METHODS[0], ACCESS_METHODS[3], "reads files of the host"} <= set(texts(ax))


def test_timeline() -> None:
    entries = (
        TimelineEntry(0.0, "event", "create"),
        TimelineEntry(1.0, "event", "start"),
        TimelineEntry(1.5, "log", "run 1, line 1"),
        TimelineEntry(2.0, "log", "run 1: fails"),
        TimelineEntry(2.1, "event", "die, exit code 1"),
        TimelineEntry(2.15, "event", "destroy"),
    )
    states = (("created", 0.0, 1.0), ("running", 1.0, 2.1), ("down", 2.1, 2.15))
    ax = Timeline(entries, states, 1, ()).plot()
    labels = texts(ax)
    for label in (
        "create",
        "start",
        "die, exit code 1",
        "destroy",
        "running",
        "“run 1: fails”",
    ):
        assert label in labels
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["state", "run 1: 2 lines"]
    assert [patch.get_width() for patch in ax.patches if isinstance(patch, Rectangle)][:2] == [1.0, 2.1 - 1.0]
    (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert list(dots.get_xdata()) == [1.5, 2.0]
    places = {text.get_text(): text.xy[1] for text in ax.texts if isinstance(text, Annotation)}
    # y goes down: a label that would overlap a later one is above it
    assert places["die, exit code 1"] < places["destroy"]
