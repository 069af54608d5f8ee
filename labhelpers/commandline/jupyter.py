"""JupyterLab for the course: on 127.0.0.1, with a token, and its settings in the state directory."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from labhelpers import state
from labhelpers.engine import Engine
from labhelpers.engine.find import environment as environment_of
from labhelpers.errors import BadInput, SetupFailed
from labhelpers.lab import terminals
from labhelpers.terminal import echo, step

START_TIMEOUT_S = 60
SLOW_START_S = 20
FIRST_PAGE = "notebooks/00_start_here.ipynb"
SERVER_FILE = "jupyter/server.json"
UNSET_VARIABLES = (
    *("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"),
    "PYTHONDONTWRITEBYTECODE",
)
"""Variables that are unset for the processes of the course: `find.environment` selects the engine, and bytecode is
stored in the state directory, so that processes need not compile modules again."""


@dataclass(frozen=True)
class Server:
    """A JupyterLab that the lab started.

    Attributes:
        pid: its PID.
        port: its port on 127.0.0.1.
        token: its access token.
        engine: the address of the engine of its kernels and terminals.
        checkout: its root directory.
    """

    pid: int
    port: int
    token: str
    engine: str
    checkout: str

    @property
    def url(self) -> str:
        """The URL of the first page, with the token."""
        return f"http://127.0.0.1:{self.port}/lab/tree/{FIRST_PAGE}?token={self.token}"


def environment(engine: Engine) -> dict[str, str]:
    """The environment of the processes of the course: its engine, and its files in the state directory."""
    variables = {
        "DOCKER_HOST": engine.address,
        **environment_of(engine),
        "LABHELPERS_HOME": str(state.home()),
        "PYTHONPATH": os.pathsep.join(filter(None, [_import_path(), os.environ.get("PYTHONPATH")])),
        "PYTHONPYCACHEPREFIX": str(state.path("cache", "python")),
        "MPLCONFIGDIR": str(state.path("cache", "matplotlib")),
        "IPYTHONDIR": str(state.path("jupyter", "ipython")),
        "JUPYTER_CONFIG_DIR": str(state.path("jupyter", "config")),
        "JUPYTER_DATA_DIR": str(state.path("jupyter", "data")),
        "JUPYTER_RUNTIME_DIR": str(state.path("jupyter", "runtime")),
        "JUPYTERLAB_SETTINGS_DIR": str(state.path("jupyter", "settings")),
        "JUPYTERLAB_WORKSPACES_DIR": str(state.path("jupyter", "workspaces")),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    if engine.source == "private":
        # otherwise the docker CLI stores contexts and buildx state in ~/.docker
        variables["DOCKER_CONFIG"] = str(state.path("docker", "x").parent)
    return {key: value for key, value in os.environ.items() if key not in UNSET_VARIABLES} | variables


def _import_path() -> str:
    """The path from which kernels import this package: the checkout, or none if it is installed."""
    return str(state.ROOT) if state.IS_CHECKOUT else ""


def running() -> Server | None:
    """The server that the lab started, if it responds."""
    server = _read_server_file()
    return server if server and _is_jupyterlab(server.pid) and _is_responding(server) else None


def start(engine: Engine, port: int | None = None) -> Server:
    """The running server if it serves this engine and checkout, else a new one.

    A server with open notebooks is never replaced.

    Raises:
        BadInput: `port` is in use by another program, or a running server with open notebooks would be replaced.
        SetupFailed: JupyterLab exited or did not respond in time; the message includes its last output.
    """
    with state.locked("jupyter"):
        current = _wait_for_running()
        requested = (engine.address, str(state.course_directory()))
        if current and (current.engine, current.checkout) == requested and port in (None, current.port):
            return current
        if current:
            _must_be_idle(current, port)
            echo(f"JupyterLab: replacing the idle server on port {current.port}")
        stop()  # an idle one for another engine or checkout, or one that does not respond
        with step("JupyterLab: starting"):
            return _start(engine, port)


def stop() -> bool:
    """Stop the server that the lab started, with its kernels; False if there is none."""
    server = _read_server_file()
    if server is None or not _is_jupyterlab(server.pid):
        state.path(SERVER_FILE).unlink(missing_ok=True)
        return False
    os.kill(server.pid, signal.SIGTERM)
    end = time.monotonic() + 15
    while _is_jupyterlab(server.pid) and time.monotonic() < end:
        time.sleep(0.05)
    if _is_jupyterlab(server.pid):
        os.killpg(server.pid, signal.SIGKILL)
    state.path(SERVER_FILE).unlink(missing_ok=True)
    return True


def _read_server_file() -> Server | None:
    """The server that was started last; None if the record is damaged or from another version of the course."""
    record = state.read_json(SERVER_FILE, {})
    try:
        server = Server(**record)
    except TypeError:
        return None
    types = (int, int, str, str, str)
    values = (server.pid, server.port, server.token, server.engine, server.checkout)
    return (
        server if all(type(v) is t for v, t in zip(values, types, strict=True)) and server.pid > 1 else None
    )


def _wait_for_running() -> Server | None:
    """The running server; waits for one that is too busy to respond, because stopping it would stop its kernels."""
    server = _read_server_file()
    if server is None or not _is_jupyterlab(server.pid):
        return None
    end = time.monotonic() + SLOW_START_S
    while not _is_responding(server):
        if time.monotonic() > end:
            raise SetupFailed(
                f"JupyterLab (PID {server.pid}) is running but has not responded for {SLOW_START_S} s",
                hint="try again when the machine is less busy, or stop it and its kernels with `./lab down`",
            )
        time.sleep(0.5)
    return server


def _must_be_idle(server: Server, port: int | None) -> None:
    """Refuse to replace `server` by one on another port, or while a notebook or a terminal is open."""
    sessions, terminals = _rest_list(server, "sessions"), _rest_list(server, "terminals")
    opened = [str(session.get("path") or session.get("name")) for session in sessions]
    opened += [f"terminal {terminal.get('name')}" for terminal in terminals]
    unseen = len(_rest_list(server, "kernels")) - len(sessions)
    opened += [f"{unseen} more kernel(s)"] if unseen > 0 else []
    same_checkout = server.checkout == str(state.course_directory()) and port not in (None, server.port)
    if not opened and not same_checkout:
        return
    raise BadInput(
        f"JupyterLab already runs at {server.url} "
        + (f"with open documents: {', '.join(opened)}" if opened else "with nothing open")
        + (
            ""
            if same_checkout
            else f"; it shows {state.abbreviate_home(server.checkout)} on {state.abbreviate_home(server.engine)}"
        ),
        hint="use that page, or save your notebooks, stop it and its kernels with `./lab down`, and try again",
    )


def _rest_list(server: Server, collection: str) -> list[dict[str, Any]]:
    """A list of Jupyter Server's REST API: sessions, kernels, terminals; empty if the server has no such list."""
    try:
        with _request(server, collection) as response:
            entries = json.loads(response.read())
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _start(engine: Engine, port: int | None) -> Server:
    chosen = _free_port(port)
    _write_settings()
    # not on the command line, which every user of the machine can read
    token = secrets.token_hex(24)
    log = state.path("jupyter", "server.log")
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser"),
                f"--ServerApp.port={chosen}",
                "--ServerApp.ip=127.0.0.1",
                "--ServerApp.port_retries=0",
                "--ServerApp.open_browser=False",
                f"--ServerApp.root_dir={state.course_directory()}",
                "--LabApp.news_url=None",
                "--ServerApp.jpserver_extensions=labhelpers.lab.terminals=True",
                *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=state.course_directory(),
            env={
                **environment(engine),
                **terminals.environment(),
                "JUPYTER_TOKEN": token,
            },
        )
    server = Server(process.pid, chosen, token, engine.address, str(state.course_directory()))
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        if _is_responding(server):
            state.write_json(SERVER_FILE, server.__dict__)
            state.path(SERVER_FILE).chmod(0o600)
            process.returncode = 0  # it keeps running after this process: avoid a ResourceWarning
            return server
        time.sleep(0.1)
    if process.poll() is None:
        process.terminate()
        process.wait(10)
    raise SetupFailed(
        "JupyterLab did not start",
        hint=f"see its log, {state.abbreviate_home(log)}, or try another port: `./lab up --port N`",
        engine_message="\n".join(log.read_text(encoding="utf-8").strip().splitlines()[-6:]),
    )


def _write_settings() -> None:
    """Disable the prompt for news and the check for updates."""
    name = "jupyter/settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    state.write_json(name, {"fetchNews": "false", "checkForUpdates": False})


def _free_port(port: int | None) -> int:
    for candidate in [port] if port is not None else [*range(8888, 8908), 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except (OSError, OverflowError) as error:
                if port is not None:
                    raise BadInput(
                        f"port {port} on this machine cannot be used for JupyterLab",
                        hint=f"omit --port, or try --port {_free_port(None)}",
                        engine_message=str(error),
                    ) from error
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 always binds")


def _request(server: Server, endpoint: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/{endpoint}", headers={"Authorization": f"token {server.token}"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return direct.open(request, timeout=3)


def _is_responding(server: Server) -> bool:
    try:
        with _request(server, "status") as response:
            return bool(response.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


def _is_jupyterlab(pid: int) -> bool:
    """Whether `pid` is a JupyterLab: the PID may have been reused."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "jupyterlab" in process.cmdline()
    except psutil.Error:
        return False
