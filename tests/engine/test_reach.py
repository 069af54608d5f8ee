"""A container's port is reached on loopback, published or not, whatever the engine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from docker.models.containers import Container

from labhelpers.engine import Engine
from labhelpers.engine.port_forward import LOOPBACK, _responds_with
from labhelpers.errors import LabError
from labhelpers.lab import Lab

SIZE = 3_000_000


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[Lab]:
    with Lab("test", engine=engine) as lab, lab.quiet():
        yield lab


@pytest.fixture(scope="module")
def echo(shared: Lab) -> Container:
    """It sends back what it gets; one port is published, the other is not."""
    line = "nc -ll -p 81 -e cat & exec nc -ll -p 80 -e cat"
    return shared.run("labhelpers/payload", ["sh", "-c", line], ports={"80/tcp": None})


def _echoed(address: tuple[str, int], sent: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as connection, connection.makefile("rb") as back:
        connection.sendall(sent)
        return back.read(len(sent))


@pytest.mark.parametrize("port", [80, 81])
def test_what_is_sent_comes_back_whole(shared: Lab, echo: Container, port: int) -> None:
    address = shared.forward_port(echo, port)
    assert address[0] == "127.0.0.1"
    sent = bytes(range(256)) * 40
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: _echoed(address, sent), range(3))) == [sent] * 3


def test_many_bytes_come_through_the_engine(shared: Lab) -> None:
    sender = shared.run(
        "labhelpers/payload", ["nc", "-ll", "-p", "80", "-e", "head", "-c", str(SIZE), "/dev/zero"]
    )
    address = shared.forward_port(sender, 80)
    with socket.create_connection(address, timeout=60) as connection, connection.makefile("rb") as coming:
        assert coming.read() == bytes(SIZE)


def test_a_container_that_was_started_again_is_reached_again(shared: Lab) -> None:
    echo = shared.run("labhelpers/payload", ["nc", "-ll", "-p", "80", "-e", "cat"])
    address = shared.forward_port(echo, 80)
    assert _echoed(address, b"one") == b"one"
    echo.restart(timeout=0)
    assert shared.forward_port(echo, 80) == address
    assert _echoed(address, b"two") == b"two"


def test_a_port_where_nobody_listens_closes(shared: Lab, echo: Container) -> None:
    with socket.create_connection(shared.forward_port(echo, 82), timeout=60) as connection:
        assert connection.recv(1) == b""


def test_without_a_proxy_a_published_port_refuses_until_the_program_listens() -> None:
    # userland-proxy=false: nothing has the port on the host; the connection is refused by the container's kernel
    with socket.create_server((LOOPBACK, 0)) as probe:
        address = probe.getsockname()
    asked = []

    def listens() -> bool:
        asked.append(len(asked))
        if len(asked) == 3:
            server = socket.create_server(address)
            threading.Thread(target=_send_once, args=(server, b"word"), daemon=True).start()
        return len(asked) >= 3

    assert _responds_with(address, b"word", listens)
    assert len(asked) == 3


def test_a_port_that_refuses_although_the_program_listens_is_not_here() -> None:
    with socket.create_server((LOOPBACK, 0)) as probe:
        address = probe.getsockname()
    assert not _responds_with(address, b"word", lambda: True)


def _send_once(server: socket.socket, word: bytes) -> None:
    with server:
        connection, _ = server.accept()
        with connection:
            connection.sendall(word)


def test_a_container_that_does_not_run_is_reported(shared: Lab) -> None:
    ended = shared.run("labhelpers/payload", "true", network="none")
    ended.wait()
    with pytest.raises(LabError, match="is not running"):
        shared.forward_port(ended, 80)
    with pytest.raises(LabError, match="no port"):
        shared.forward_port("no-such-container", 80)


def test_closing_takes_its_helpers_away(engine: Engine) -> None:
    with Lab("test", engine=engine) as lab, lab.quiet():
        address = lab.forward_port(lab.run("labhelpers/payload", ["nc", "-ll", "-p", "80", "-e", "cat"]), 80)
        assert _echoed(address, b"here") == b"here"
        session = lab.session
    assert not engine.client.api.containers(all=True, filters={"label": f"labhelpers.session={session}"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
