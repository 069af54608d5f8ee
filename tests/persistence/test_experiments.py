"""What survives what, what kills lose, and two servers on one directory: measured on real MySQL servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from labhelpers import persistence
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.persistence.kills import Kills, Trade
from labhelpers.persistence.places import ANONYMOUS, BIND, LAYER, VOLUME
from labhelpers.persistence.servers import ROW, a_volume, remove, start, start_without_volume
from labhelpers.persistence.survival import NEXT_CONNECTIONS, OPERATIONS, WAYS, Survival


@pytest.fixture(scope="module")
def survival(shared: Lab, image: str, source: str) -> Survival:
    return persistence.survival(shared, image, source)


@pytest.fixture(scope="module")
def kills(shared: Lab, image: str, source: str) -> Kills:
    return persistence.kills(shared, image, source, times=3)


@pytest.fixture(scope="module")
def trade(shared: Lab, image: str, source: str, kills: Kills) -> Trade:
    return persistence.trade(shared, image, source, kills, times=1)


@pytest.fixture(scope="module")
def server(shared: Lab, image: str, source: str) -> Iterator[Container]:
    container = start_without_volume(shared, image, source)
    persistence.wait(shared, container)
    yield container
    remove(shared, container)


# --- what survives what


def test_a_stop_and_a_kill_lose_nothing_anywhere(survival: Survival) -> None:
    assert survival.survivors("stop, start") == WAYS
    assert survival.survivors("kill, start") == WAYS


def test_a_removal_loses_what_has_no_name(survival: Survival) -> None:
    for operation in OPERATIONS[2:]:
        assert survival.survivors(operation) == ("volume", "bind mount")
        assert "Unknown database 'dockertest'" in survival.of("no volume", operation).said
        assert survival.of("volume", operation).said == " ".join(ROW)
    assert survival.orphans == 1


def test_the_upgraded_servers_run_from_the_newer_image(survival: Survival) -> None:
    assert survival.next_connections == (NEXT_CONNECTIONS,) * len(WAYS)


def test_every_cell_of_the_table_is_filled(survival: Survival) -> None:
    frame = survival.frame()
    assert set(zip(frame["way"], frame["operation"], strict=True)) == {
        (w, o) for w in WAYS for o in OPERATIONS
    }
    assert (frame["took_s"] > 0).all()


def test_the_experiments_leave_nothing(shared: Lab, survival: Survival, trade: Trade, source: str) -> None:
    mine = {"label": f"labhelpers.session={shared.session}"}
    names = [volume.name for volume in shared.client.volumes.list(filters=mine)]
    assert [name for name in names if name.startswith(("survival", "kills", "twins"))] == []
    assert shared.client.images.list("mysql-next") == []


# --- where it is


def test_the_image_makes_a_volume_that_nobody_asked_for(shared: Lab, server: Container) -> None:
    found = persistence.place(shared, str(server.name))
    assert (found.kind, found.asked_for) == (ANONYMOUS, False)
    assert len(found.name) == 64
    assert found.size_bytes is not None
    assert found.size_bytes > 50 << 20
    assert persistence.place(shared, str(server.name), "/etc/mysql").kind == LAYER


def test_a_named_volume_and_a_directory_of_the_host(shared: Lab, image: str, source: str) -> None:
    directory = persistence.host_directory(shared, f"host-{shared.session}")
    for mount, kind in ((source, VOLUME), (directory, BIND)):
        container = start(shared, image, mount, ["sleep", "60"], network="none")
        found = persistence.place(shared, str(container.name))
        assert (found.kind, found.asked_for) == (kind, True)
        remove(shared, container)
    with pytest.raises(LabError, match="no container"):
        persistence.place(shared, "nobody-has-this-name")


def test_what_the_server_refuses_is_said_in_its_words(shared: Lab, server: Container) -> None:
    assert persistence.ask(shared, server, "select * from dockertest.mytab") == [ROW]
    with pytest.raises(LabError) as refused:
        persistence.ask(shared, server, "use nothing")
    assert "Unknown database 'nothing'" in str(refused.value)


def test_waiting_for_a_container_that_ended_says_why(shared: Lab, image: str) -> None:
    ended = shared.run(image, network="none")
    ended.wait()
    with pytest.raises(
        LabError, match=r"exited with code 1 before this happened: the MySQL server to answer"
    ) as told:
        persistence.wait(shared, ended)
    assert "MYSQL_ROOT_PASSWORD" in str(told.value)
    remove(shared, ended)
    with pytest.raises(LabError, match="no container"):
        persistence.wait(shared, "nobody-has-this-name")


def test_a_data_directory_in_use_is_not_copied(shared: Lab, server: Container) -> None:
    used = persistence.place(shared, str(server.name)).name
    with pytest.raises(LabError, match="different moments"):
        persistence.copy(shared, used, f"never-{shared.session}")


def test_a_data_directory_that_another_copy_reads_is_copied(shared: Lab, source: str) -> None:
    reads = shared.run(
        shared.image("payload"), ["sleep", "300"], volumes=[f"{source}:/from:ro"], network="none"
    )
    with a_volume(shared, "beside", source) as copied:
        place = shared.client.volumes.get(copied).attrs["Mountpoint"]
        assert "ibdata1" in [one.path for one in shared.host.directory(place)]
    remove(shared, reads)


# --- kills


def test_no_acknowledged_row_is_lost_with_the_servers_own_settings(kills: Kills) -> None:
    assert kills.setting == persistence.SAFE
    assert len(kills.kills) == 3
    assert all(one.acknowledged > 0 for one in kills.kills)
    assert kills.lost == 0
    assert all(one.unacknowledged <= 1 for one in kills.kills)


def test_what_the_kernel_has_survives_sigkill(trade: Trade) -> None:
    assert [one.setting for one in trade.runs] == [persistence.SAFE, persistence.WRITTEN, persistence.FAST]
    assert trade.of(persistence.WRITTEN).lost == 0
    assert all(rate > 0 for rates in trade.rates for rate in rates)
    assert list(trade.frame()["flush"]) == [1, 2, 0]


@pytest.mark.parametrize("times", [0, 101, True, "ten"])
def test_no_such_number_of_kills(shared: Lab, image: str, source: str, times: int) -> None:
    with pytest.raises(BadInput):
        persistence.kills(shared, image, source, times=times)


# --- two servers


def test_the_second_server_is_refused_and_the_first_one_unharmed(
    shared: Lab, image: str, source: str
) -> None:
    twins = persistence.two_on_one(shared, image, source)
    assert "Unable to lock" in twins.message
    assert not twins.message.startswith("20")
    assert not twins.second_answered
    assert (twins.rows_before, twins.rows_after, twins.check) == (1, 2, "OK")
