"""A real MySQL server: its image keeps the official one's conventions, and a real client reaches it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from labhelpers.course import mysql
from labhelpers.engine import Engine
from labhelpers.errors import LabError, ServerRefused
from labhelpers.lab import Lab

PASSWORD = "it's a \\ test"
VARIABLES = {"MYSQL_ROOT_PASSWORD": PASSWORD, "MYSQL_DATABASE": "shop"}


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[Lab]:
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab


@pytest.fixture(scope="module")
def server(shared: Lab) -> Container:
    container = shared.run(shared.image("mysql"), environment=VARIABLES, ports={"3306/tcp": None})
    mysql.wait_until_ready(shared, container, password=PASSWORD).close()
    return container


def test_the_first_start_makes_the_database_and_the_password(shared: Lab, server: Container) -> None:
    with mysql.connect(shared, server, password=PASSWORD, database="shop") as connection:
        mysql.rows(connection, "create table t (c1 int, c2 char)")
        mysql.rows(connection, "insert into t values (%s, %s)", 1, "a")
        assert mysql.rows(connection, "select * from t") == [(1, "a")]
        ((version, comment),) = mysql.rows(connection, "select @@version, @@version_comment")
    assert "MariaDB" not in version + comment


def test_a_commit_costs_and_keeps_what_mysql_sets(shared: Lab, server: Container) -> None:
    with mysql.connect(shared, server, password=PASSWORD) as connection:
        (settings,) = mysql.rows(
            connection,
            "select @@innodb_flush_log_at_trx_commit, @@sync_binlog, @@log_bin, @@innodb_doublewrite",
        )
    assert settings == (1, 1, 1, "ON")


def test_what_the_server_refuses_is_reported(shared: Lab, server: Container) -> None:
    with pytest.raises(ServerRefused, match="does not take this password") as wrong:
        mysql.connect(shared, server, password="wrong")
    assert "1045" in str(wrong.value)
    with pytest.raises(ServerRefused, match="create database nothing"):
        mysql.connect(shared, server, password=PASSWORD, database="nothing")
    with pytest.raises(ServerRefused):
        mysql.wait_until_ready(shared, server, password="wrong")


def test_it_runs_as_mysql_and_logs_to_the_engine(shared: Lab, server: Container) -> None:
    owner = shared.exec(server, ["stat", "-c", "%U", "/proc/1", "/var/lib/mysql"]).stdout.split()
    assert owner == ["mysql", "mysql"]
    assert b"ready for connections" in server.logs()
    assert server.image is not None
    config = server.image.attrs["Config"]
    assert set(config["Volumes"]) == {"/var/lib/mysql"}


def test_its_health_check_says_healthy(server: Container) -> None:
    end = time.monotonic() + 120
    while server.attrs["State"]["Health"]["Status"] != "healthy":
        assert time.monotonic() < end, server.attrs["State"]["Health"]
        time.sleep(0.5)
        server.reload()


def test_sigterm_ends_it_cleanly_and_its_data_are_there_after_a_start(shared: Lab) -> None:
    container = shared.run(shared.image("mysql"), environment=VARIABLES, network="none")
    _until_healthy(shared, container)
    shared.stop(container, timeout_s=60)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    assert b"Shutdown complete" in container.logs(tail=3)
    container.start()
    _until_healthy(shared, container)
    assert container.logs().count(b"Initializing database files") == 1
    shared.remove(container, force=True, volumes=True)


def test_without_a_password_it_ends_and_names_what_is_missing(shared: Lab) -> None:
    container = shared.run(shared.image("mysql"), network="none")
    assert container.wait()["StatusCode"] == 1
    assert b"MYSQL_ROOT_PASSWORD" in container.logs()
    with pytest.raises(LabError, match="exited with code 1") as caught:
        mysql.wait_until_ready(shared, container, password=PASSWORD)
    assert "MYSQL_ROOT_PASSWORD" in str(caught.value)
    shared.remove(container, volumes=True)


def test_values_can_come_from_files(shared: Lab) -> None:
    """As in the official image; a secret's file may be readable by root alone."""
    secret = (
        f"umask 077; printf %s '{PASSWORD.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}' > /run/word; "
    )
    files = {"MYSQL_ROOT_PASSWORD_FILE": "/run/word"}
    container = shared.run(
        shared.image("mysql"),
        ["sh", "-c", f"{secret} exec docker-entrypoint.sh mysqld"],
        entrypoint="",
        environment=files,
        ports={"3306/tcp": None},
    )
    mysql.wait_until_ready(shared, container, password=PASSWORD).close()
    shared.remove(container, force=True, volumes=True)


def test_a_password_can_be_drawn_and_stands_in_the_log(shared: Lab) -> None:
    drawn = {"MYSQL_RANDOM_ROOT_PASSWORD": "yes"}
    container = shared.run(shared.image("mysql"), environment=drawn, ports={"3306/tcp": None})
    end = time.monotonic() + 60
    while not (found := re.search(rb"GENERATED ROOT PASSWORD: (\S+)", container.logs())):
        assert time.monotonic() < end, container.logs()
        time.sleep(0.1)
    mysql.wait_until_ready(shared, container, password=found[1].decode()).close()
    shared.remove(container, force=True, volumes=True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MYSQL_ROOT_PASSWORD_FILE": "/run/nothing"}, b"/run/nothing, which cannot be read"),
        ({"MYSQL_ROOT_PASSWORD": "a", "MYSQL_ROOT_PASSWORD_FILE": "/etc/hostname"}, b"set only one of them"),
    ],
)
def test_a_file_that_cannot_give_the_value_ends_the_start(
    shared: Lab, variables: dict[str, str], message: bytes
) -> None:
    container = shared.run(shared.image("mysql"), environment=variables, network="none")
    assert container.wait()["StatusCode"] == 1
    assert message in container.logs()
    shared.remove(container, volumes=True)


def _until_healthy(lab: Lab, container: Container) -> None:
    ping = ["mysqladmin", "--no-defaults", "--protocol=tcp", "-h127.0.0.1", "ping"]
    for _ in range(600):
        if lab.exec(container, ping).exit_code == 0:
            return
    raise AssertionError(container.logs().decode())


@pytest.mark.parametrize(
    ("limits", "given"),
    [
        ("1024                 524288               files     ", {}),
        ("1048576              1048576              files     ", {}),
        ("1073741816           1073741816           files     ", {"nofile": 65_536}),
        ("1048576              unlimited            files     ", {"nofile": 65_536}),
    ],
    ids=["engine 29", "a daemon of systemd", "containerd with infinity", "unlimited"],
)
def test_a_limit_of_open_files_that_costs_memory(
    shared_lab: Lab, monkeypatch: pytest.MonkeyPatch, limits: str, given: dict[str, int]
) -> None:
    text = f"Limit                     Soft Limit           Hard Limit\nMax open files            {limits}\n"
    monkeypatch.setattr(shared_lab.host, "read", lambda path: text)
    assert mysql.open_files_ulimit(shared_lab) == given


def test_this_engines_own_limit_is_read(shared_lab: Lab) -> None:
    output = shared_lab.run_once(
        "labhelpers/payload", ["sh", "-c", "ulimit -Hn"], network="none"
    ).stdout.strip()
    above = output == "unlimited" or int(output) > 1 << 20
    assert bool(mysql.open_files_ulimit(shared_lab)) is above
