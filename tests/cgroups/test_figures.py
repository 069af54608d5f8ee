"""The figures, by what they show; and what results say of themselves."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
from matplotlib.axes import Axes

from labhelpers.cgroups.cpu import Quota, QuotaStep, Shares, SharesStep
from labhelpers.cgroups.devices import DeviceAttempt, Devices
from labhelpers.cgroups.disk import Disk, DiskLimits, DiskStep
from labhelpers.cgroups.limits import VersionComparison, VersionedLimit
from labhelpers.cgroups.memory import OutOfMemory, Reservation
from labhelpers.cgroups.network import Bandwidth, Transfer
from labhelpers.cgroups.noisy_neighbour import Latencies, NoisyNeighbour
from labhelpers.cgroups.pids import PidsLimit
from labhelpers.cgroups.samples import Reading, Samples, Usage
from labhelpers.engine.host import Cgroup, Cpu, Io, Memory, Pids

matplotlib.use("agg")
MIB = 1024 * 1024


def texts(ax: Axes) -> str:
    """Every text of a figure, without the line breaks that depend on its width."""
    legend = ax.get_legend()
    shown = [*ax.texts, *ax.get_yticklabels(), *(legend.get_texts() if legend else [])]
    titles = [ax.get_title(), ax.get_title(loc="left")]
    return "\n".join(" ".join(text.split()) for text in [*(each.get_text() for each in shown), *titles])


def reading(at: float, used_s: float, memory: int = MIB, pids: int = 1, kills: int = 0) -> Reading:
    cpu = Cpu(
        round(used_s * 1e6), 0, 0, 50_000, 100_000, round(at * 10), round(at * 5), round(at * 1e5), 1024
    )
    memory_stats = Memory(memory, 64 * MIB, None, memory, 0, 0, None, None, 0, kills)
    return Reading(at, Cgroup(1, "/docker/x", (cpu, memory_stats, Io(()), Pids(pids, 40)), ()))


def samples(*readings: Reading) -> Samples:
    return Samples(("web",), (readings,), 10.0, tuple(each.time_s for each in readings))


STEADY = samples(*(reading(number / 10, number / 20) for number in range(21)))


def usage(cpus: float, throttled: int) -> Usage:
    return Usage(1.0, cpus, 0.5, 10, throttled)


def test_samples_draw_the_use_and_the_quota() -> None:
    ax = STEADY.plot()
    lines = {str(line.get_label()): [round(y) for y in line.get_ydata()] for line in ax.lines}  # type: ignore[union-attr]
    assert set(lines["web"]) == {50}
    assert set(lines["quota"]) == {50}
    assert "10 readings a second, 10 requested" in texts(ax)
    assert STEADY.usage("web").cpus == 0.5
    assert "21 readings" in repr(STEADY)


def test_a_quota_that_is_exceeded_is_detected() -> None:
    right = QuotaStep(0.5, usage(0.52, 9))
    wrong = QuotaStep(0.5, usage(0.7, 9))
    assert right.within_quota
    assert not wrong.within_quota
    ax = Quota((right, replace(right, quota_cpus=1.0, usage=usage(0.98, 2))), STEADY, 2).plot()
    points = ax.collections[-1].get_offsets()
    assert [list(point) for point in points] == [[0.5, 0.52], [1.0, 0.98]]
    assert "hollow" not in texts(ax)
    starved = Quota((right, QuotaStep(1.5, usage(0.7, 0))), STEADY, 2)
    assert "hollow: never throttled" in texts(starved.plot())
    assert "throttled in 90% of the periods" in texts(ax)
    assert "0.98 · 20%" in texts(ax)


def test_shares() -> None:
    step = SharesStep(2.0, (2048, 1024), 0.6, 0.3)
    result = Shares(1, (step,), 128, 0.9)
    assert round(result.max_deviation_percent, 6) == 0
    assert Shares(1, (replace(step, first_cpus=0.3),), 128, 0.9).max_deviation_percent > 16
    ax = result.plot()
    assert [round(bar.get_width(), 1) for bar in ax.patches] == [66.7, 33.3, 90.0]  # type: ignore[attr-defined]
    assert "2048 : 1024" in texts(ax)


def test_memory() -> None:
    grown = samples(reading(0, 0, 10 * MIB), reading(1, 0, 60 * MIB), reading(2, 0, MIB, kills=1))
    result = OutOfMemory("web", 64 * MIB, 60 * MIB, 137, True, 1, None, "no right", grown)
    assert (result.killed_at_s, result.peak_bytes) == (2, 60 * MIB)
    shown = texts(result.plot())
    for text in ("exit code 137", "limit: 64 MiB", "it last reported 60 MiB"):
        assert text in shown
    reserved = Reservation("web", 24 * MIB, 64 * MIB, "memory.low", 0, grown)
    assert "reservation (memory.low): 24 MiB" in texts(reserved.plot())


def test_pids_limit() -> None:
    grown = samples(reading(0, 0, pids=2), reading(1, 0, pids=40))
    ax = PidsLimit("web", 40, 123, None, True, grown).plot()
    assert list(ax.lines[0].get_ydata()) == [2, 40]  # type: ignore[arg-type]
    assert "failed 123 times" in texts(ax)


def test_latencies_are_a_distribution() -> None:
    cases = (
        Latencies("alone", (6.0, 6.0, 7.0, 8.0), 0.6, 0.0),
        Latencies("contended", (90.0, 300.0, 200.0, 100.0), 0.5, 0.5),
    )
    result = NoisyNeighbour(0, 10, 6, cases)
    ax = result.plot()
    assert list(ax.lines[1].get_xdata()) == [90, 100, 200, 300]  # type: ignore[arg-type]
    assert list(ax.lines[1].get_ydata()) == [25, 50, 75, 100]  # type: ignore[arg-type]
    assert "contended: half within 200 ms" in texts(ax)
    assert cases[1].service_share == 0.5


def test_disks() -> None:
    free = DiskStep("write", None, ((0, 0), (1, 900 * MIB)))
    limited = DiskStep("write", 2 * MIB, ((0, 0), (1, 2 * MIB)))
    result = DiskLimits(Disk("8:1", "/dev/sda", ""), (free, limited))
    assert result.within_limits
    assert not DiskLimits(result.disk, (replace(limited, limit_bytes_per_s=MIB),)).within_limits
    shown = texts(result.plot())
    assert "limit 2 MiB/s" in shown
    assert "write 900 MiB/s" in shown
    none = DiskLimits(Disk("0:40", None, "on no single disk"), ())
    assert "on no single disk" in texts(none.plot())
    assert none.within_limits


def test_devices() -> None:
    nothing = DeviceAttempt("(no option)", False, True, False, False, "Operation not permitted")
    granted = DeviceAttempt("--device /dev/fuse", True, True, True, True, "")
    result = Devices("/dev/fuse", "10:229", (nothing, granted), None, ("--device-cgroup-rule x: no",))
    assert result.only_granted_opened
    shown = texts(result.plot())
    assert "Operation not permitted" in shown
    assert "refused by this engine" in shown
    assert not replace(result, attempts=(replace(nothing, read=True),)).only_granted_opened
    assert not replace(result, attempts=(replace(granted, write=False),)).only_granted_opened


def test_bandwidth() -> None:
    before, during = (
        Transfer("default", None, 9000, ((1.0, 9000.0),)),
        Transfer("token bucket", 20, 19, ((1.0, 19.0),)),
    )
    result = Bandwidth(("cpu", "net_cls"), 20, ("tc …",), "tbf", (before, during), "")
    assert result.limiting_controllers == ()
    assert result.within_rate
    assert not replace(result, transfers=(before, replace(during, mean_mbit_per_s=40))).within_rate
    assert replace(result, controllers=("cpu", "net_bandwidth")).limiting_controllers == ("net_bandwidth",)
    assert "9,000 Mbit/s" in texts(result.plot())
    assert "tbf rate 20mbit" in texts(result.plot())
    assert "default" in texts(replace(result, transfers=(before,)).plot())


def test_the_values_of_this_host_are_those_of_its_version() -> None:
    row = VersionedLimit(
        "--cpus 0.5", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000", "50000", "50000"
    )
    for version, value in ((1, "50000"), (2, "50000 100000")):
        result = VersionComparison(version, (replace(row, actual=value, expected=value),))
        (read,) = result.frame().to_dict("records")
        assert read["actual"] == read[f"v{version}_value"]
        assert "50000 100000" in result._repr_html_()
        assert result.matches_expected
    assert not VersionComparison(1, (replace(row, actual="-1"),)).matches_expected
