"""A database that becomes ready, starts that are killed, a monitor and its numbers: on the real engine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from secrets import token_hex

import pytest
from docker.models.containers import Container

from labhelpers import services
from labhelpers.errors import LabError, ServerRefused
from labhelpers.lab import Lab
from labhelpers.services.interrupted_start import WHILE_FILES, WHILE_TEMPORARY, KilledStarts
from labhelpers.services.monitor import NETDATA, has_container, parse_cadvisor
from labhelpers.services.pulls import Pulled, pull
from labhelpers.services.startup import ACCEPTED, INITIALIZED, MILESTONES, STOPS_TEMPORARY, Startup
from labhelpers.services.usage_comparison import UsageComparison

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def database(shared_lab: Lab) -> Container:
    options = {"MYSQL_ROOT_PASSWORD": "book"}
    return shared_lab.run(
        shared_lab.image("mysql"), environment=options, health_cmd=services.CHECK, health_interval=1
    )


@pytest.fixture(scope="module")
def ready(shared_lab: Lab, database: Container) -> Startup:
    return services.watch_startup(shared_lab, database, password="book")


@pytest.fixture(scope="module")
def killed(shared_lab: Lab, ready: Startup) -> KilledStarts:
    return services.killed_starts(shared_lab, shared_lab.image("mysql"))


@pytest.fixture(scope="module")
def monitor(shared_lab: Lab) -> Iterator[Container]:
    made = shared_lab.run(
        shared_lab.image("netdata"), volumes=["/sys:/sys:ro"], ports={"8080/tcp": None}, cap_drop=["ALL"]
    )
    yield made
    shared_lab.remove(made, force=True)


@pytest.fixture(scope="module")
def numbers(shared_lab: Lab, monitor: Container, killed: KilledStarts) -> UsageComparison:
    return services.compare_usage(shared_lab, monitor, NETDATA, seconds=2.0)


class TestReady:
    def test_the_milestones_come_in_their_order(self, ready: Startup) -> None:
        assert [milestone.name for milestone in ready.milestones] == [name for name, _ in MILESTONES]
        times = [milestone.at_s for milestone in ready.milestones]
        assert times == sorted(times)

    def test_no_login_and_no_check_succeeds_before_the_real_server(self, ready: Startup) -> None:
        assert [attempt.outcome for attempt in ready.attempts].count(ACCEPTED) == 1
        assert ready.attempts[-1].outcome == ACCEPTED
        assert ready.accepted_s > ready.at(STOPS_TEMPORARY)
        assert ready.healthy_s is not None
        assert min(probe.start_s for probe in ready.probes if probe.exit_code == 0) > ready.at(
            STOPS_TEMPORARY
        )
        assert ready.probes[0].exit_code != 0

    def test_the_table_is_in_order_of_time(self, ready: Startup) -> None:
        table = ready.frame()
        assert list(table.at_s) == sorted(table.at_s)
        assert set(table.source) == {"log", "health check", "client"}

    def test_a_ready_server_is_reported_at_once(self, shared_lab: Lab, database: Container) -> None:
        again = services.watch_startup(shared_lab, database, password="book")
        assert len(again.attempts) == 1

    def test_a_wrong_password_ends_the_wait(self, shared_lab: Lab, ready: Startup) -> None:
        with pytest.raises(ServerRefused):
            services.watch_startup(shared_lab, ready.name, password="wrong")

    def test_a_server_that_exited_is_reported_with_its_log(self, shared_lab: Lab) -> None:
        name = f"mute-{token_hex(4)}"
        shared_lab.run(shared_lab.image("mysql"), name=name, network="none").wait()
        with pytest.raises(LabError, match="exited") as failed:
            services.watch_startup(shared_lab, name, password="book")
        assert "MYSQL_ROOT_PASSWORD" in str(failed.value)
        shared_lab.remove(name, volumes=True)

    def test_a_step_that_the_log_does_not_report_is_an_error(self, ready: Startup) -> None:
        old = Startup("old", ready.milestones[-1:], (), ready.attempts, None, 1.0)
        with pytest.raises(LabError, match=f"does not report “{INITIALIZED}”"):
            old.at(INITIALIZED)


class TestKilled:
    def test_killed_while_it_made_its_files(self, killed: KilledStarts) -> None:
        case = killed.of(WHILE_FILES)
        assert "ibdata1" in case.remaining_files
        assert not case.has_system_schema
        assert case.exit_code
        assert "has files in it" in " ".join(case.errors)
        assert not case.usable

    def test_killed_when_its_temporary_server_had_started(self, killed: KilledStarts) -> None:
        case = killed.of(WHILE_TEMPORARY)
        assert case.has_system_schema
        assert case.exit_code is None
        assert "1130" in case.client_result
        assert not case.usable

    def test_the_table_shows_both_cases(self, killed: KilledStarts) -> None:
        assert list(killed.frame().next_start) == ["exits with code 1", "keeps running"]


class TestMonitor:
    def test_its_page_is_shown(self, shared_lab: Lab, monitor: Container) -> None:
        end = time.monotonic() + 60
        # a monitor finds containers one after another
        while (
            "processor time" not in (page := services.page(shared_lab, monitor)).summary
            and time.monotonic() < end
        ):
            time.sleep(1)
        assert page.url.startswith("http://127.0.0.1:")
        assert page.url in repr(page)
        assert "of this monitor: processor time and memory of" in page.summary
        # without a script, as on a web page of the stored notebook: a link, what it shows, and how to reach it
        static = page._repr_html_().partition("<script>")[0]
        assert "<iframe" not in static
        assert f'<a href="{page.url}"' in static
        assert page.summary in static
        assert f"ssh -L {page.port}:127.0.0.1:{page.port} HOST" in static

    def test_it_runs_without_rights_and_writes_nothing_of_the_host(
        self, shared_lab: Lab, monitor: Container
    ) -> None:
        assert "netdata" in shared_lab.host.process(monitor).command
        assert shared_lab.exec(monitor, ["id", "-u"]).stdout.strip() != "0"
        answer = shared_lab.exec(monitor, ["sh", "-c", "echo 1 > /sys/fs/cgroup/lab-test"])
        assert answer.exit_code != 0

    def test_it_closes_no_more_files_than_it_needs(self, shared_lab: Lab, monitor: Container) -> None:
        # an engine may allow a thousand million, and it closes all that it may have before it does anything
        limits = shared_lab.exec(monitor, ["cat", "/proc/1/limits"]).stdout
        assert re.search(r"^Max open files +4096 ", limits, re.M)

    def test_it_sends_no_statistics(self, shared_lab: Lab, monitor: Container) -> None:
        files = shared_lab.exec(monitor, ["ls", "-a", "/etc/netdata"]).stdout.split()
        assert ".opt-out-from-anonymous-statistics" in files
        page = shared_lab.exec(monitor, ["head", "-c", "400", "/usr/share/netdata/web/index.html"]).stdout
        assert "default-src 'self'" in page

    def test_all_sources_count_the_same(self, numbers: UsageComparison) -> None:
        total = numbers.total_s
        used = total["the kernel's file"]
        assert abs(total["the lab's sampler"] / used - 1) < 0.1
        assert abs(total[NETDATA] / used - 1) < 0.25
        assert 0.3 < total["the load itself"] < 2.2
        most = numbers.peak_bytes
        assert set(most) == set(total)
        assert 48 * MIB <= min(most.values()) <= max(most.values()) < 58 * MIB
        assert list(numbers.frame().source) == list(total)

    def test_an_unknown_container_is_not_reported(self, shared_lab: Lab, monitor: Container) -> None:
        assert not has_container(shared_lab, monitor, NETDATA, "0" * 64, 2.0)

    def test_cadvisors_counters_become_rates(self) -> None:
        # the shape of its info/v1/container.go; cAdvisor itself is not to be had where these tests run
        stats = [
            {
                "timestamp": f"2026-01-01T00:00:0{second}.123456789Z",
                "cpu": {"usage": {"total": second * 5 * 10**8}},
                "memory": {"rss": 7 * MIB},
            }
            for second in (1, 2, 4)
        ]
        readings = parse_cadvisor(stats, 0, 4e9)
        assert [round(value) for _, value in readings.cpu] == [50, 50]
        assert {value for _, value in readings.memory} == {7 * MIB}


def test_missing_mounts_are_left_out_and_directories_that_v_creates_are_removed(shared_lab: Lab) -> None:
    folder = str(shared_lab.create_volume(f"sources-{token_hex(4)}").attrs["Mountpoint"])
    mounts = [("/", "/rootfs", "all"), (f"{folder}/not-here/", "/there", "nothing")]
    before = services.host_mounts(shared_lab, mounts)
    assert before.missing == (f"{folder}/not-here/",)
    assert before.options() == "--volume=/:/rootfs:ro"
    assert before.options(without=["/"]) == ""
    made = shared_lab.run(
        shared_lab.image("payload"), ["true"], volumes=[f"{folder}/not-here:/there:ro"], network="none"
    )
    made.wait()
    shared_lab.remove(made)
    assert services.host_mounts(shared_lab, mounts).missing == ()
    assert services.remove_created_directories(shared_lab, before) == ()
    assert services.host_mounts(shared_lab, mounts).missing == before.missing


def test_a_directory_that_is_not_empty_is_kept(shared_lab: Lab) -> None:
    name = f"sources-{token_hex(4)}"
    folder = str(shared_lab.create_volume(name).attrs["Mountpoint"])
    before = services.host_mounts(shared_lab, [(f"{folder}/new", "/there", "")])
    filled = shared_lab.run(
        shared_lab.image("payload"), ["mkdir", "-p", "/v/new/child"], volumes=[f"{name}:/v"], network="none"
    )
    filled.wait()
    shared_lab.remove(filled)
    assert services.remove_created_directories(shared_lab, before) == (f"{folder}/new",)


def test_a_pull_reports_every_layer(shared_lab: Lab) -> None:
    ref = shared_lab.registry.push(shared_lab.image("payload"), "service:1")
    pulled: Pulled = pull(shared_lab, ref)
    assert pulled.downloaded_layers == 0
    assert pulled.size_bytes > 0
    assert pulled.total_s > 0
