"""JupyterLab: on loopback, behind its token, with the engine that the lab uses."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from jupyter_client.blocking.client import BlockingKernelClient

from labhelpers import state
from labhelpers.commandline import jupyter
from labhelpers.engine import Engine
from labhelpers.errors import BadInput
from labhelpers.lab import Lab, sessions
from labhelpers.lab.inventory import clean


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[jupyter.Server]:
    """A JupyterLab with a state directory of its own: the reader's own server is left alone."""
    before = os.environ.get("LABHELPERS_HOME")
    os.environ["LABHELPERS_HOME"] = str(with_this_cache(tmp_path_factory.mktemp("home")))
    try:
        yield jupyter.start(engine)
    finally:
        jupyter.stop()
        if before is None:
            del os.environ["LABHELPERS_HOME"]
        else:
            os.environ["LABHELPERS_HOME"] = before


def with_this_cache(home: Path) -> Path:
    """A state directory whose cache (bytecode, fonts) is the one that is there: a JupyterLab is much to compile."""
    (home / "cache").symlink_to(state.path("cache"))
    return home


def api(server: jupyter.Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}/api/{path}"


def test_the_token_is_asked_for(server: jupyter.Server) -> None:
    assert requests.get(api(server, "contents"), timeout=10).status_code == 403
    with_token = requests.get(api(server, "contents"), params={"token": server.token}, timeout=10)
    assert "notebooks" in {entry["name"] for entry in with_token.json()["content"]}


def test_the_token_is_on_no_command_line(server: jupyter.Server) -> None:
    assert server.token not in " ".join(psutil.Process(server.pid).cmdline())
    record = state.path(jupyter.SERVER_FILE)
    assert record.stat().st_mode & 0o077 == 0


def test_it_listens_on_loopback_only(server: jupyter.Server) -> None:
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_its_first_page_is_there(server: jupyter.Server) -> None:
    page = requests.get(server.url, timeout=10)
    assert page.status_code == 200
    assert (state.ROOT / jupyter.FIRST_PAGE).exists()


def test_a_second_start_finds_the_first(server: jupyter.Server, engine: Engine) -> None:
    assert jupyter.start(engine) == server
    assert jupyter.running() == server


def test_a_running_server_is_not_ended_for_another_port(server: jupyter.Server, engine: Engine) -> None:
    kernel = requests.post(api(server, "kernels"), params={"token": server.token}, timeout=30).json()
    try:
        with pytest.raises(BadInput, match="already runs at") as refused:
            jupyter.start(engine, jupyter._free_port(None))
        assert server.url in refused.value.message
        assert "1 more kernel(s)" in refused.value.message
        assert "./lab down" in refused.value.hint
        assert jupyter.start(engine, server.port) == server
        elsewhere = dataclasses.replace(
            engine, endpoint=dataclasses.replace(engine.endpoint, address="tcp://192.0.2.1:2375")
        )
        with pytest.raises(BadInput, match="already runs at"):
            jupyter.start(elsewhere)
    finally:
        requests.delete(api(server, f"kernels/{kernel['id']}"), params={"token": server.token}, timeout=30)
    assert jupyter.running() == server


def test_a_port_that_is_taken_is_reported(server: jupyter.Server, engine: Engine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BadInput, match="cannot be used"):
            jupyter._free_port(other.getsockname()[1])


def wait_for(client: BlockingKernelClient) -> None:
    """A client without the kernel's manager takes a kernel that is still starting for dead."""
    end = time.monotonic() + 60
    while True:
        try:
            return client.wait_for_ready(timeout=10)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def printed(server: jupyter.Server, code: str) -> str:
    """What `code` prints in a new kernel of the server."""
    kernel = requests.post(api(server, "kernels"), params={"token": server.token}, timeout=30).json()
    file = state.path("jupyter", "runtime") / f"kernel-{kernel['id']}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    wait_for(client)
    output: list[str] = []
    client.execute_interactive(
        code,
        output_hook=lambda message: output.append(message["content"].get("text", "")),
        timeout=60,
    )
    client.stop_channels()
    requests.delete(api(server, f"kernels/{kernel['id']}"), params={"token": server.token}, timeout=30)
    return "".join(output).strip()


def test_a_kernel_reaches_the_same_engine(server: jupyter.Server, engine: Engine) -> None:
    code = "import subprocess; print(subprocess.getoutput(\"docker info --format '{{.ID}}'\"))"
    assert printed(server, code) == engine.info["ID"]


def test_stop_ends_the_server_and_its_kernels(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(with_this_cache(tmp_path)))
    own = jupyter.start(engine)
    kernel = requests.post(api(own, "kernels"), params={"token": own.token}, timeout=30)
    assert kernel.status_code == 201
    family = [psutil.Process(own.pid), *psutil.Process(own.pid).children(recursive=True)]
    assert jupyter.stop()
    end = time.monotonic() + 20
    while any(item.is_running() and item.status() != psutil.STATUS_ZOMBIE for item in family):
        assert time.monotonic() < end, "a process of the server is still there"
        time.sleep(0.1)
    assert jupyter.running() is None
    assert not jupyter.stop()


def test_the_number_of_a_dead_server_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    record = jupyter.Server(
        pid=os.getppid(), port=1, token="x", engine="unix:///nowhere", checkout="/nowhere"
    )
    state.write_json(jupyter.SERVER_FILE, record.__dict__)
    alive = psutil.Process(os.getppid())
    assert "jupyterlab" not in alive.cmdline()
    assert not jupyter.stop()
    assert alive.is_running()


def test_what_the_course_starts_keeps_its_bytecode_in_the_state_directory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    theirs = jupyter.environment(engine)
    assert "PYTHONDONTWRITEBYTECODE" not in theirs
    assert Path(theirs["PYTHONPYCACHEPREFIX"]).is_relative_to(state.home())


def test_a_terminal_uses_the_lab_socket(server: jupyter.Server, engine: Engine) -> None:
    # a terminal inherits the server's environment
    environment = psutil.Process(server.pid).environ()
    assert environment["DOCKER_HOST"].endswith("terminal.sock")
    name = f"t-{time.time_ns()}"
    done = subprocess.run(
        ["docker", "network", "create", name], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    (network,) = engine.client.networks.list(names=[name])
    try:
        assert network.attrs["Labels"]["labhelpers.chapter"] == "terminal"
        assert sessions.is_alive(network.attrs["Labels"]["labhelpers.session"])
    finally:
        network.remove()


def test_a_kernel_reaches_the_engine_itself_and_its_cells_the_lab_socket(
    server: jupyter.Server, engine: Engine
) -> None:
    code = "import os; from labhelpers.lab import Lab; lab = Lab('test')\n"
    code += "print(lab.engine.address, os.environ['DOCKER_HOST'])"
    direct, through = printed(server, code).split()
    assert direct == engine.address
    assert through != engine.address
    assert "terminal" not in through


def test_what_a_terminal_made_is_removed_by_clean_and_not_by_the_next_notebook(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    session = sessions.start_session(engine.client, sessions.TERMINAL)
    labels = sessions.labels("network", sessions.TERMINAL, session.id)
    network = engine.client.networks.create(f"t-{session.id}", labels=labels)
    del session  # its server has ended
    with Lab("test", engine=engine):
        pass
    assert engine.client.networks.list(ids=[network.id])
    removed, _ = clean(engine)
    assert removed == [f"network {network.name}"]
    assert not engine.client.networks.list(ids=[network.id])
