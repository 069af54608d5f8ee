"""Engines behind TLS and ssh do what an engine on a socket does: in this process, in a kernel, in the reaper."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labhelpers import jupyter
from labhelpers.engine import Engine, connect, find
from labhelpers.engine.dial import dial
from labhelpers.lab import Lab
from tests.engine.transports import LOOPBACK, SSHD, Authority, python, sshd, tls_front

IMAGE = "labhelpers/payload"
MANY = 3_000_000
WAYS = ("tls", pytest.param("ssh", marks=pytest.mark.skipif(SSHD is None, reason="no sshd on this machine")))


@pytest.fixture(scope="module")
def clean() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*jupyter.NOT_THEIRS, "DOCKER_HOST", find.ENGINE, find.PLACE):
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(scope="module", params=WAYS)
def far(
    request: pytest.FixtureRequest, engine: Engine, clean: pytest.MonkeyPatch, tmp_path_factory: Any
) -> Iterator[Engine]:
    """The suite's engine, found over TLS or ssh through the docker context in use."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    clean.setenv("DOCKER_CONFIG", str(folder / "docker"))
    if request.param == "tls":
        authority = Authority(folder / "ca")
        files = authority.client(folder / "client")
        with tls_front(engine.place, authority, authority.issue("server", names=LOOPBACK)) as port:
            tls = ",".join(f"{name}={files / name}.pem" for name in ("ca", "cert", "key"))
            yield _in_context(f"host=tcp://127.0.0.1:{port},{tls}")
    else:
        with sshd(folder, engine.address) as server:
            clean.setenv("PATH", server.path)
            yield _in_context(f"host={server.address}")


def _in_context(endpoint: str) -> Engine:
    docker = ["docker", "context"]
    subprocess.run([*docker, "create", "far", "--docker", endpoint], check=True, capture_output=True)
    subprocess.run([*docker, "use", "far"], check=True, capture_output=True)
    return connect()


@pytest.fixture(scope="module")
def lab(far: Engine) -> Iterator[Lab]:
    with Lab("test", engine=far) as made, made.quiet():
        yield made


def test_the_context_leads_to_the_engine(engine: Engine, far: Engine) -> None:
    assert (far.found_by, far.source) == ("docker context far", "existing")
    assert far.identity == engine.identity
    assert far.address.startswith(("tcp://127.0.0.1:", "ssh://"))


def test_a_child_finds_it_whatever_its_own_variables_say(far: Engine) -> None:
    there = find.environment(far)
    assert not [name for name in there if name.startswith("DOCKER_")]
    misled = {"DOCKER_HOST": "unix:///nowhere.sock", "DOCKER_CONTEXT": "nowhere", "DOCKER_CONFIG": "/nowhere"}
    code = "from labhelpers.engine import connect; e = connect(); print(e.identity, e.found_by, sep='\\n')"
    done = python(os.environ | misled | there, code)
    assert done.stdout.splitlines() == [far.identity, "docker context far"], done.stderr


def test_commands_in_containers(lab: Lab) -> None:
    container = lab.run(IMAGE, "sleep 300", network="none")
    said = lab.exec(container, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (said.stdout, said.stderr, said.exit_code) == ("out\n", "err\n", 3)
    assert len(lab.exec(container, ["head", "-c", str(MANY), "/dev/zero"]).stdout) == MANY


def test_a_raw_connection_is_half_closed(lab: Lab, far: Engine) -> None:
    """`docker run -i` with its input closed: `cat` gets all of it, sees the end, and its last output still comes."""
    made = lab.client.api.create_container(
        IMAGE,
        ["sh", "-c", "cat | wc -c"],
        stdin_open=True,
        labels=lab._labels("container"),
        host_config=lab.client.api.create_host_config(network_mode="none"),
    )
    lines = [f"POST /containers/{made['Id']}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1", "Host: docker"]
    head = "\r\n".join([*lines, "Connection: Upgrade", "Upgrade: tcp", "", ""]).encode()

    async def talk() -> bytes:
        connection = await dial(far.place)
        await connection.write(head)
        answer = await connection.read(4096)
        lab.client.api.start(made["Id"])
        await connection.write(b"x" * MANY)
        await connection.write_eof()
        while part := await connection.read(4096):
            answer += part
        await connection.close()
        return answer

    assert asyncio.run(asyncio.wait_for(talk(), 60)).rstrip().endswith(str(MANY).encode())


def test_a_port_is_reached_and_the_end_of_input_is_passed_on(lab: Lab) -> None:
    # the server answers only when its input has ended
    server = lab.run(IMAGE, ["nc", "-ll", "-p", "80", "-e", "wc", "-c"])
    with socket.create_connection(lab.reach(server, 80), timeout=60) as connection:
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read().strip() == b"100000"


def test_a_kernel_works_on_it(far: Engine, tmp_path: Path) -> None:
    """What JupyterLab starts gets this environment; so does `./lab run`."""
    code = (
        "from labhelpers.lab import Lab\n"
        f"with Lab('test') as lab: print(lab.exec(lab.run({IMAGE!r}, 'sleep 60', network='none'), 'echo hi').stdout)"
    )
    done = python(jupyter.environment(far), code)
    assert done.stdout.strip().endswith("hi"), done.stderr


def test_the_reaper_works_on_it(far: Engine) -> None:
    code = (
        "from labhelpers.lab import Lab; lab = Lab('test'); "
        f"print('id', lab.run({IMAGE!r}, 'sleep 300', network='none').id, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | find.environment(far),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        # the line that the lab prints comes first
        id = next(line.split()[1] for line in process.stdout if line.startswith("id "))
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while far.client.api.containers(all=True, filters={"id": id}) and time.monotonic() < end:
        time.sleep(0.2)
    assert not far.client.api.containers(all=True, filters={"id": id})


def test_the_verbs_work_on_it(far: Engine) -> None:
    status = subprocess.run(
        [sys.executable, "-m", "labhelpers", "status"], capture_output=True, text=True, timeout=120
    )
    assert "(docker context far)" in status.stdout, status.stderr
