"""The figures, by what they show."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
from matplotlib.axes import Axes

from labhelpers.course.pulls import ALREADY_EXISTS, PULL_COMPLETE, Phase, PulledLayer
from labhelpers.services.interrupted_start import KilledStart, KilledStarts
from labhelpers.services.monitor import BOOK_MOUNTS, HostMount, HostMounts
from labhelpers.services.pulls import Pulled
from labhelpers.services.startup import (
    ACCEPTED,
    CLOSED,
    MILESTONES,
    ConnectionAttempt,
    HealthProbe,
    Milestone,
    Startup,
)
from labhelpers.services.usage_comparison import Step, UsageComparison

matplotlib.use("agg")
MIB = 1024 * 1024


def texts(ax: Axes) -> str:
    every = [ax, *ax.child_axes]
    texts = [text.get_text().replace("\n", " ") for axes in every for text in axes.texts]
    texts += [axes.get_title(loc="left") for axes in every]
    texts += [label.get_text() for axes in every for label in axes.get_yticklabels()]
    legend = ax.get_legend()
    texts += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(texts)


def test_a_pull() -> None:
    there = PulledLayer("aaaaaaaaaaaa", ALREADY_EXISTS, 0, 0, ())
    phases = (Phase("download", 100, 400), Phase("queued", 400, 500), Phase("extraction", 500, 900))
    came = PulledLayer("bbbbbbbbbbbb", PULL_COMPLETE, 3 * MIB, 3 * MIB, phases)
    ax = Pulled("127.0.0.1:5000/mysql:8.4", (there, came), 1.0, 500 * MIB).plot()
    shown = texts(ax)
    for text in (
        "docker pull mysql:8.4: 1 layer downloaded, 1 already existed",
        "already exists",
        "3 MiB",
        "bbbbbbbbbbbb",
    ):
        assert text in shown
    widths = [round(bar.get_width(), 1) for bar in ax.patches]  # type: ignore[attr-defined]
    assert widths == [0, 0, 0.3, 0.5]


def test_startup() -> None:
    milestones = tuple(Milestone(float(at), name, "") for at, (name, _) in enumerate(MILESTONES))
    probes = (HealthProbe(1, 1.1, 1), HealthProbe(4.5, 4.6, 0))
    attempts = (ConnectionAttempt(0.1, CLOSED), ConnectionAttempt(4.2, ACCEPTED))
    result = Startup("mysql_container", milestones, probes, attempts, 4.6, 3.0)
    shown = texts(result.plot())
    for text in (
        "ready after 4.2 s",
        "failed",
        "healthy: 4.6 s",
        "accepted, then closed",
        "log",
        "no network",
    ):
        assert text in shown
    assert "no health check" in texts(replace(result, probes=(), healthy_s=None).plot())


def test_killed_starts() -> None:
    first = KilledStart("while it made its files", 1.5, ("ibdata1",), False, 1, ("has files in it",), "")
    second = KilledStart("later", 3.0, ("ibdata1", "mysql"), True, None, (), "ERROR 1130 (HY000): no")
    shown = texts(KilledStarts((first, second)).plot())
    for text in (
        "1.5 s",
        "without mysql/",
        "exits with code 1",
        "has files in it",
        "keeps running",
        "ERROR 1130",
    ):
        assert text in shown


def test_host_mounts() -> None:
    result = HostMounts(tuple(HostMount(*mount, mount[0] != "/dev/disk/") for mount in BOOK_MOUNTS))
    shown = texts(result.plot())
    assert shown.count("missing") == 1
    assert shown.count(":ro") == 4
    for host, container, _ in BOOK_MOUNTS:
        assert host in shown
        assert container in shown


def test_usage_comparison() -> None:
    steps = (Step(50, 8, 0.0, 2.0, 1.0),)
    kernel = ((-0.5, 1.0, MIB), (0.5, 1.25, 8 * MIB), (1.5, 1.75, 8 * MIB), (2.5, 2.0, MIB))
    sampler = tuple((at / 10, 50.0, 8.0 * MIB) for at in range(21))
    result = UsageComparison(
        "Netdata", steps, "cpu.stat", kernel, sampler, ((1.0, 50.0), (2.0, 50.0)), ((1.0, 8.0 * MIB),)
    )
    assert result.total_s["the kernel's file"] == 1.0
    assert round(result.total_s["the lab's sampler"], 6) == 1.0
    ax = result.plot()
    shown = texts(ax)
    for text in ("50 ms in every 100 ms", "allocates 8 MiB", "Netdata, once a second", "the kernel's file"):
        assert text in shown
    upper, _ = ax.child_axes
    assert [[0.5, 1.5], [50.0, 50.0]] in [
        [list(line.get_xdata()), list(line.get_ydata())] for line in upper.lines
    ]
