"""The sampler: its frame, its rate, containers that end meanwhile; and that it agrees with `docker stats`."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from labhelpers import cgroups
from labhelpers.cgroups.live import Curve, Curves, curves_html, live_curves
from labhelpers.cgroups.samples import COLUMNS, PARTS, Samples
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab

MIB = 1024 * 1024
# 24 MiB of memory, and a busy loop
STEADY = "dd if=/dev/zero of=/dev/shm/held bs=1M count=24; sleep 1000 & sleep 1000 & while :; do :; done"


Stats = dict[str, Any]


@pytest.fixture(scope="module")
def samples(shared_lab: Lab) -> tuple[Samples, Stats, Samples]:
    """Samples of two containers, the output of `docker stats` meanwhile (`raw`: its counters), and samples after it."""
    with (
        cgroups.load(
            shared_lab, ["sh", "-c", STEADY], cpus=0.4, name=f"steady-{shared_lab.session}"
        ) as steady,
        cgroups.load(shared_lab, ["sleep", "100"], name=f"idle-{shared_lab.session}") as idle,
        cgroups.Sampler(shared_lab, [steady, idle], hz=20) as sampler,
    ):
        # `docker stats` looks at another moment than we do, so nothing may change any more
        shared_lab.wait_for(
            "24 MiB of cache", lambda: shared_lab.host.cgroup(steady).memory.cache_bytes >= 24 * MIB, 60
        )
        sampler.wait(0.5)
        form = ["stats", "--no-stream", "--format", "{{json .}}", str(steady.name)]
        command = ["docker", "--host", shared_lab.engine.address, *form]
        stats = json.loads(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)
        stats["raw"] = steady.stats(stream=False)
        sampler.wait(0.2)
        during = sampler.samples()
        sampler.wait(0.2)
    return during, stats, sampler.samples()


def test_one_row_for_each_container_and_instant(samples: tuple[Samples, Stats, Samples]) -> None:
    result = samples[2]
    frame = result.frame()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 2 * (len(result.timestamps_s) - 1)
    assert frame.groupby("time_s").size().eq(2).all()
    assert frame["time_s"].is_monotonic_increasing
    for name in result.names:
        rows = frame[frame["container"] == name]
        for column in ("throttled_s", "read_bytes", "write_bytes"):
            assert rows[column].is_monotonic_increasing, column
    # the rates, put together again, are what the counter says
    steady = frame[frame["container"] == result.names[0]]
    gaps = steady["time_s"].diff().fillna(steady["time_s"].iloc[0])
    used = (steady["cpu_percent"] * gaps).sum() / 100
    first, *_, last = result.of(result.names[0])
    assert used == pytest.approx((last.cgroup.cpu.usage_us - first.cgroup.cpu.usage_us) / 1e6, rel=1e-6)


def test_the_parts_of_memory(samples: tuple[Samples, Stats, Samples]) -> None:
    parts = samples[2].parts()
    assert tuple(parts.columns) == PARTS
    steady = parts[parts["container"] == samples[2].names[0]]
    assert steady["cache_bytes"].iloc[-1] >= 24 * MIB, "files of a tmpfs are pages of files"
    assert (steady["usage_bytes"] >= steady["anon_bytes"]).all()


def test_it_agrees_with_docker_stats(samples: tuple[Samples, Stats, Samples]) -> None:
    result, stats, after = samples
    first = next(
        each.time_s for each in after.of(result.names[0]) if each.cgroup.memory.cache_bytes >= 24 * MIB
    )
    steady = result.names[0]
    memory, limit = stats["MemUsage"].split(" / ")
    rows = after.frame()[after.frame()["container"] == steady]
    # docker/cli writes four digits: units.BytesSize, "%.4g"
    rounded = {_mib(value) for value in rows["memory_bytes"]}
    assert memory in rounded
    assert limit == "256MiB"
    assert int(stats["PIDs"]) in set(rows["pids"])
    # its percent is of the host's ticks of all CPUs, and a virtual machine may lose some: its counters are compared,
    # and the percents where no ticks were lost
    now, before = (stats["raw"][key] for key in ("cpu_stats", "precpu_stats"))
    used_us = [each["cpu_usage"]["total_usage"] / 1000 for each in (before, now)]
    measured_us = [each.cgroup.cpu.usage_us for each in result.of(steady)]
    assert measured_us[0] <= used_us[0] < used_us[1] <= measured_us[-1]
    ticks_s = (now["system_cpu_usage"] - before["system_cpu_usage"]) / 1e9 / now["online_cpus"]
    percent = (used_us[1] - used_us[0]) / 1e4 / ticks_s
    starts = [
        each.time_s for each in result.of(steady) if first <= each.time_s <= result.timestamps_s[-1] - 0.9
    ]
    measured = [result.usage(steady, at, at + 1.0).cpus * 100 for at in starts]
    if 0.95 <= ticks_s <= 1.1:
        assert min(measured) - 10 <= percent <= max(measured) + 10
    read, written = (_number(word) for word in stats["BlockIO"].split(" / "))
    assert rows["read_bytes"].iloc[0] <= read * 1.01 + 1
    assert rows["write_bytes"].iloc[0] <= written * 1.01 + 1


def _mib(count: float) -> str:
    return f"{count / 1024**2:.4g}MiB"


def _number(text: str) -> float:
    """Bytes of a text in powers of 1,000 (units.HumanSizeWithPrecision, three digits)."""
    match = re.fullmatch(r"([\d.]+)([kMG]?)B", text)
    assert match, text
    return float(match[1]) * 1000 ** " kMG".index(match[2] or " ")


def test_a_quota_throttles(samples: tuple[Samples, Stats, Samples]) -> None:
    result = samples[2]
    steady, idle = result.names
    assert result.usage(steady).cpus <= 0.4 * 1.15 + 0.05
    assert result.usage(steady).periods > 0
    assert result.usage(idle).cpus < 0.2
    assert not result.usage(idle).periods


def test_the_curves_of_samples(samples: tuple[Samples, Stats, Samples]) -> None:
    ax = samples[2].plot()
    lines = {str(line.get_label()): list(line.get_ydata()) for line in ax.lines}  # type: ignore[arg-type]
    assert {value for value in lines["quota"] if value == value} == {40.0}
    assert max(lines[samples[2].names[0]]) <= 0.4 * 100 * 1.5 + 5


def test_a_container_that_ends_is_noted_and_the_other_continues(shared_lab: Lab) -> None:
    with (
        cgroups.load(shared_lab, ["true"], start=False, name=f"short-{shared_lab.session}") as short,
        cgroups.load(shared_lab, ["sleep", "100"], name=f"long-{shared_lab.session}") as long,
        cgroups.Sampler(shared_lab, [short, long], hz=20) as sampler,
    ):
        sampler.wait(0.5)
        short.kill()
        shared_lab.wait_for("the end of one", lambda: sampler.samples().ended, 60)
        sampler.wait(0.5)
    result = sampler.samples()
    assert set(result.ended) == {short.name}
    assert any("ended after" in note for note in result.notes)
    frame = result.frame()
    assert frame[frame["container"] == long.name]["time_s"].max() == result.timestamps_s[-1]
    assert frame[frame["container"] == short.name]["time_s"].max() == result.ended[str(short.name)]


def test_all_that_end_end_the_sampling(shared_lab: Lab) -> None:
    with (
        cgroups.load(shared_lab, ["true"], start=False) as short,
        cgroups.Sampler(shared_lab, short, hz=20) as sampler,
    ):
        short.kill()
        sampler.wait(500)
    assert sampler.now() < 400


def test_its_duration(shared_lab: Lab) -> None:
    with cgroups.load(shared_lab, ["sleep", "100"]) as container:
        result = cgroups.sample(shared_lab, container, seconds=0.6, hz=10)
    assert 0.5 <= result.timestamps_s[-1] <= 0.7


def test_a_rate_that_is_not_achieved_is_noted() -> None:
    slow = Samples((), (), 50.0, tuple(number / 20 for number in range(21)))
    assert slow.achieved_hz == pytest.approx(20)
    assert "50 readings a second were requested and 20.0 achieved" in slow.notes[0]
    right = Samples((), (), 20.0, slow.timestamps_s)
    assert right.notes == ()


@pytest.mark.parametrize(
    ("containers", "seconds", "hz"),
    [
        ([], 1, 20),
        (["a", "a"], 1, 20),
        ("a", 0, 20),
        ("a", -1, 20),
        ("a", 1e9, 20),
        ("a", 1, 0),
        ("a", 1, 51),
    ],
)
def test_invalid_arguments(shared_lab: Lab, containers: Any, seconds: float, hz: float) -> None:
    with pytest.raises(BadInput):
        cgroups.sample(shared_lab, containers, seconds, hz)


def test_a_container_that_does_not_exist(shared_lab: Lab) -> None:
    with pytest.raises(LabError, match="no container"):
        cgroups.sample(shared_lab, "nobody-here", 1, 20)


def test_the_live_plot_draws_every_line_and_is_silent_outside_a_notebook() -> None:
    curves = Curves(
        (Curve("CPU", "<web>", [0, 1], [10, 50], 50.0), Curve("memory", "<web>", [0, 1], [1, 2])), ("slow",)
    )
    html = curves_html(curves)
    assert html.count("<polyline") == 2
    assert html.count("stroke-dasharray") == 1
    assert "&lt;web&gt;: 50.0" in html
    assert "slow" in html
    assert live_curves()(curves) is None
