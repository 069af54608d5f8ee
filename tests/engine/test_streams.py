"""What a command writes arrives whole, also where it comes together with the head of the engine's answer."""

from __future__ import annotations

import socket
import time
from http.client import HTTPResponse

import pytest
from docker.errors import APIError
from docker.models.containers import Container

from labhelpers.engine import Engine
from labhelpers.engine.streams import execute
from labhelpers.lab import Lab

LATE_S = 1.5
"""Longer than a command takes to begin, also in a translated machine."""


@pytest.fixture(scope="module")
def idle(shared_lab: Lab) -> Container:
    return shared_lab.run(shared_lab.image("payload"), ["sleep", "600"], network="none")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks at each answer only when more of it is there, as a process on a busy machine does."""
    begin = HTTPResponse.begin

    def looks_late(answer: HTTPResponse) -> None:
        time.sleep(LATE_S)
        begin(answer)

    monkeypatch.setattr(HTTPResponse, "begin", looks_late)


@pytest.mark.usefixtures("late")
def test_short_output(shared_lab: Lab, idle: Container) -> None:
    output = shared_lab.exec(idle, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (output.stdout, output.stderr, output.exit_code) == ("out\n", "err\n", 3)


@pytest.mark.usefixtures("late")
def test_long_output(engine: Engine, idle: Container) -> None:
    done = execute(engine.client.api, str(idle.id), ["head", "-c", "300000", "/dev/zero"])
    assert done.stdout == bytes(300_000)


@pytest.mark.usefixtures("late")
def test_a_server_that_speaks_first_is_heard(shared_lab: Lab) -> None:
    greeter = shared_lab.run(shared_lab.image("payload"), ["nc", "-ll", "-p", "80", "-e", "echo", "welcome"])
    with socket.create_connection(shared_lab.forward_port(greeter, 80), timeout=60) as connection:
        assert connection.recv(7, socket.MSG_WAITALL) == b"welcome"


def test_one_that_is_not_there_is_the_engines_to_say(engine: Engine) -> None:
    with pytest.raises(APIError, match="No such container"):
        execute(engine.client.api, "no-such-container", ["true"])
