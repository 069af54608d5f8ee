"""A MySQL server in a container: waited for, and asked with a real client (PyMySQL). Chapters 6 and 8 use it.

The password of a lab's database never leaves loopback: the client goes where `Lab.forward_port` leads.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import pymysql
from docker.models.containers import Container

from labhelpers.engine.arguments import name_of
from labhelpers.errors import LabError, ServerNotReady, ServerRefused
from labhelpers.lab import Lab

PORT = 3306
READY_TIMEOUT_S = 300.0
"""How long a first start may take: on a translated machine minutes, elsewhere seconds."""

_POLL_S = 0.1
_REQUEST_TIMEOUT_S = 30
_MAX_OPEN_FILES = 1 << 20
"""The usual limit of a daemon; it costs a server some 100 MB at most."""
_OPEN_FILES_LIMIT = 65_536
# MySQL's error numbers (MySQL 8.4 Error Reference)
_ACCESS_DENIED, _BAD_DATABASE = 1045, 1049

# generic in its stubs only
Connection: TypeAlias = "pymysql.connections.Connection[pymysql.cursors.Cursor]"


def open_files_ulimit(lab: Lab) -> dict[str, int]:
    """`ulimits` for `lab.run` of a MySQL server; empty if the engine's default limit of open files is reasonable.

    MySQL 5.7 and 8.0 allocate memory for every file that they might open. With an unlimited engine, 2**30 for example,
    that is 16 GiB and more (github.com/docker-library/mysql/issues/579).

    Source: proc(5), /proc/PID/limits of the helper of `lab.host`, which has the engine's default limit.
    """
    row = re.search(r"^Max open files\s+(\S+)\s+(\S+)", lab.host.read("/proc/self/limits"), re.MULTILINE)
    hard = row[2] if row else "0"
    too_many = hard == "unlimited" or (hard.isdigit() and int(hard) > _MAX_OPEN_FILES)
    return {"nofile": _OPEN_FILES_LIMIT} if too_many else {}


def connect(lab: Lab, container: Container | str, *, password: str, database: str = "") -> Connection:
    """A connection as `root` to the server in `container`, in autocommit mode.

    Raises:
        ServerRefused: the password is wrong, or there is no such database.
        ContainerError: the container does not exist or is not running.
        LabError: the server does not accept connections (yet).
    """
    host, port = lab.forward_port(container, PORT)
    try:
        return pymysql.connect(
            host=host,
            port=port,
            user="root",
            password=password,
            database=database or None,
            autocommit=True,
            connect_timeout=_REQUEST_TIMEOUT_S,
            read_timeout=_REQUEST_TIMEOUT_S,
            write_timeout=_REQUEST_TIMEOUT_S,
        )
    except (pymysql.err.MySQLError, OSError) as error:
        raise _connection_error(container, database, error) from None


def wait_until_ready(
    lab: Lab, container: Container | str, *, password: str, limit_s: float = READY_TIMEOUT_S
) -> Connection:
    """Wait until the server accepts a connection, and return the connection.

    Raises:
        ServerRefused: the password is wrong.
        NotRunning, TimedOut: the container exited, or `limit_s` passed.
    """

    def connection() -> Connection | None:
        try:
            return connect(lab, container, password=password)
        except ServerRefused:
            raise
        except LabError:
            return None

    description = "the MySQL server to accept a connection"
    ready = lab.wait_for(description, connection, limit_s, every_s=_POLL_S, while_running=container)
    assert ready is not None, "wait_for returns a true value"
    return ready


def rows(connection: Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement; its rows, or an empty list.

    Args:
        values: values for the `%s` placeholders of the statement.
    """
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall())


def _connection_error(container: Container | str, database: str, error: Exception) -> LabError:
    name = name_of(container)
    number, message = (
        (*error.args, "", "")[:2] if isinstance(error, pymysql.err.MySQLError) else ("", str(error))
    )
    message = f"({number}, {message})" if number else str(message)
    if number == _ACCESS_DENIED:
        return ServerRefused(
            f"the server in {name!r} does not take this password for root",
            hint="the password is the value of MYSQL_ROOT_PASSWORD when the data directory was initialised; "
            "changing the variable later has no effect",
            engine_message=message,
        )
    if number == _BAD_DATABASE:
        return ServerRefused(
            f"the server in {name!r} has no database {database!r}",
            hint=f"create it first: create database {database};",
            engine_message=message,
        )
    return ServerNotReady(
        f"the server in {name!r} does not accept connections",
        hint=f"it may still be starting: see docker logs {name}",
        engine_message=message,
    )
