"""Survival of data, rows lost in kills, and two servers with one directory, measured on real MySQL servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from labhelpers import persistence
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.persistence.data_location import ANONYMOUS_VOLUME, BIND, CONTAINER_LAYER, VOLUME
from labhelpers.persistence.kills import DurabilityTradeoff, Kills
from labhelpers.persistence.servers import (
    ROW,
    remove_server,
    start_server,
    start_without_volume,
    temporary_volume,
)
from labhelpers.persistence.survival import NEXT_CONNECTIONS, OPERATIONS, STORAGE_KINDS, Survival


@pytest.fixture(scope="module")
def survival(shared_lab: Lab, image: str, source: str) -> Survival:
    return persistence.survival(shared_lab, image, source)


@pytest.fixture(scope="module")
def kills(shared_lab: Lab, image: str, source: str) -> Kills:
    return persistence.kills(shared_lab, image, source, count=3)


@pytest.fixture(scope="module")
def tradeoff(shared_lab: Lab, image: str, source: str, kills: Kills) -> DurabilityTradeoff:
    return persistence.durability_tradeoff(shared_lab, image, source, kills, count=1)


@pytest.fixture(scope="module")
def server(shared_lab: Lab, image: str, source: str) -> Iterator[Container]:
    container = start_without_volume(shared_lab, image, source)
    persistence.wait_until_ready(shared_lab, container)
    yield container
    remove_server(shared_lab, container)


# --- survival


def test_a_stop_and_a_kill_lose_nothing_anywhere(survival: Survival) -> None:
    assert survival.survivors("stop, start") == STORAGE_KINDS
    assert survival.survivors("kill, start") == STORAGE_KINDS


def test_a_removal_loses_an_anonymous_volume(survival: Survival) -> None:
    for operation in OPERATIONS[2:]:
        assert survival.survivors(operation) == ("volume", "bind mount")
        assert "Unknown database 'dockertest'" in survival.of("no volume", operation).answer
        assert survival.of("volume", operation).answer == " ".join(ROW)
    assert survival.anonymous_volumes_left == 1


def test_the_upgraded_servers_run_from_the_newer_image(survival: Survival) -> None:
    assert survival.next_connections == (NEXT_CONNECTIONS,) * len(STORAGE_KINDS)


def test_every_cell_of_the_table_is_filled(survival: Survival) -> None:
    frame = survival.frame()
    assert set(zip(frame["storage"], frame["operation"], strict=True)) == {
        (w, o) for w in STORAGE_KINDS for o in OPERATIONS
    }
    assert (frame["duration_s"] > 0).all()


def test_the_experiments_leave_nothing(
    shared_lab: Lab, survival: Survival, tradeoff: DurabilityTradeoff, source: str
) -> None:
    mine = {"label": f"labhelpers.session={shared_lab.session}"}
    names = [volume.name for volume in shared_lab.client.volumes.list(filters=mine)]
    assert [name for name in names if name.startswith(("survival", "kills", "shared"))] == []
    assert shared_lab.client.images.list("mysql-next") == []


# --- where it is


def test_the_image_makes_a_volume_that_nobody_requested(shared_lab: Lab, server: Container) -> None:
    location = persistence.find_data_location(shared_lab, str(server.name))
    assert (location.kind, location.requested) == (ANONYMOUS_VOLUME, False)
    assert len(location.name) == 64
    assert location.size_bytes is not None
    assert location.size_bytes > 50 << 20
    assert persistence.find_data_location(shared_lab, str(server.name), "/etc/mysql").kind == CONTAINER_LAYER


def test_a_named_volume_and_a_directory_of_the_host(shared_lab: Lab, image: str, source: str) -> None:
    directory = persistence.host_directory(shared_lab, f"host-{shared_lab.session}")
    for mount, kind in ((source, VOLUME), (directory, BIND)):
        container = start_server(shared_lab, image, mount, ["sleep", "60"], network="none")
        location = persistence.find_data_location(shared_lab, str(container.name))
        assert (location.kind, location.requested) == (kind, True)
        remove_server(shared_lab, container)
    with pytest.raises(LabError, match="no container"):
        persistence.find_data_location(shared_lab, "missing")


def test_a_refused_statement_is_an_error_with_the_servers_message(shared_lab: Lab, server: Container) -> None:
    assert persistence.query(shared_lab, server, "select * from dockertest.mytab") == [ROW]
    with pytest.raises(LabError) as refused:
        persistence.query(shared_lab, server, "use nothing")
    assert "Unknown database 'nothing'" in str(refused.value)


def test_waiting_for_an_exited_container_reports_the_cause(shared_lab: Lab, image: str) -> None:
    ended = shared_lab.run(image, network="none")
    ended.wait()
    with pytest.raises(
        LabError, match=r"exited with code 1 before this happened: the MySQL server to answer"
    ) as error:
        persistence.wait_until_ready(shared_lab, ended)
    assert "MYSQL_ROOT_PASSWORD" in str(error.value)
    remove_server(shared_lab, ended)
    with pytest.raises(LabError, match="no container"):
        persistence.wait_until_ready(shared_lab, "missing")


def test_a_data_directory_in_use_is_not_copied(shared_lab: Lab, server: Container) -> None:
    used = persistence.find_data_location(shared_lab, str(server.name)).name
    with pytest.raises(LabError, match="inconsistent"):
        persistence.copy_volume(shared_lab, used, f"never-{shared_lab.session}")


def test_a_data_directory_that_another_copy_reads_is_copied(shared_lab: Lab, source: str) -> None:
    reads = shared_lab.run(
        shared_lab.image("payload"), ["sleep", "300"], volumes=[f"{source}:/from:ro"], network="none"
    )
    with temporary_volume(shared_lab, "second", source) as copied:
        place = shared_lab.client.volumes.get(copied).attrs["Mountpoint"]
        assert "ibdata1" in [entry.path for entry in shared_lab.host.directory(place)]
    remove_server(shared_lab, reads)


# --- kills


def test_no_acknowledged_row_is_lost_with_the_servers_own_settings(kills: Kills) -> None:
    assert kills.setting == persistence.FLUSHED_AT_COMMIT
    assert len(kills.kills) == 3
    assert all(kill.acknowledged > 0 for kill in kills.kills)
    assert kills.lost == 0
    assert all(kill.unacknowledged <= 1 for kill in kills.kills)


def test_what_the_kernel_has_survives_sigkill(tradeoff: DurabilityTradeoff) -> None:
    assert [run.setting for run in tradeoff.runs] == [
        persistence.FLUSHED_AT_COMMIT,
        persistence.FLUSHED_EACH_SECOND,
        persistence.WRITTEN_EACH_SECOND,
    ]
    assert tradeoff.of(persistence.FLUSHED_EACH_SECOND).lost == 0
    assert all(rate > 0 for rates in tradeoff.rates for rate in rates)
    assert list(tradeoff.frame()["flush"]) == [1, 2, 0]


@pytest.mark.parametrize("count", [0, 101, True, "ten"])
def test_an_invalid_number_of_kills(shared_lab: Lab, image: str, source: str, count: int) -> None:
    with pytest.raises(BadInput):
        persistence.kills(shared_lab, image, source, count=count)


# --- two servers


def test_the_second_server_is_refused_and_the_first_one_unharmed(
    shared_lab: Lab, image: str, source: str
) -> None:
    shared = persistence.two_servers_one_volume(shared_lab, image, source)
    assert "Unable to lock" in shared.message
    assert not shared.message.startswith("20")
    assert not shared.second_answered
    assert (shared.rows_before, shared.rows_after, shared.check) == (1, 2, "OK")
