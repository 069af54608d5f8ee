"""Connections from the notebook's machine to a container's port, wherever the engine runs.

A port published on the loopback address of the engine's machine is reachable here if that machine is this one, or if
Docker Desktop forwards it; a test connection decides. Otherwise connections go through the engine's API: a listener on
this machine's loopback, and for each connection an `exec` of `nc` in a sidecar of the container (Engine API, POST
/exec/{id}/start hijacks the connection for a stream), like `kubectl port-forward`.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from docker.errors import APIError, DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from labhelpers.engine import responses
from labhelpers.engine.arguments import name_or_id
from labhelpers.engine.find import Engine
from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import STDOUT, Stream, execute
from labhelpers.errors import EngineRefused, LabError, NotRunning

LOOPBACK = "127.0.0.1"
_PROBE_TIMEOUT_S = 20.0
_CHUNK_BYTES = 1 << 16
_SLEEP = ["sleep", "86400"]
_UNPRIVILEGED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "read_only": True,
}


class PortForwarder:
    """Forwards ports of containers of one engine. `close` removes what it started.

    Args:
        engine: the engine.
        labels: the labels of its helper containers.
        image: returns the reference of the lab image `payload`.
    """

    def __init__(self, engine: Engine, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._client = engine.client
        self._labels = dict(labels)
        self._image = image
        self._helpers: dict[tuple[str, str, int], Container] = {}
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._lock = threading.Lock()

    def forward(self, container: Container | str, port: int) -> tuple[str, int]:
        """The address on this machine of the TCP port `port` of a running container: (`127.0.0.1`, a port).

        Raises:
            LabError: the container does not exist or is not running.
        """
        inspected = self._running(name_or_id(container))
        for address, published in responses.bindings(inspected, f"{port}/tcp"):
            if address in (LOOPBACK, "0.0.0.0") and self.host_is_local:
                return LOOPBACK, published
        return LOOPBACK, self._forwarded(inspected["Id"], port)

    @cached_property
    def host_is_local(self) -> bool:
        """Whether ports that the engine publishes on its loopback are reachable on this machine's; tested once."""
        token = secrets.token_hex(16)
        listener = self._client.containers.run(
            self._image(),
            ["nc", "-ll", "-p", "8000", "-e", "echo", token],
            detach=True,
            labels=self._labels,
            ports={"8000/tcp": (LOOPBACK, 0)},
            **_UNPRIVILEGED,
        )
        try:
            listener.reload()
            ports: Any = listener.ports
            address = (LOOPBACK, int(ports["8000/tcp"][0]["HostPort"]))

            def listens() -> bool:
                inside = ["nc", LOOPBACK, "8000"]
                return token.encode() in execute(self._client.api, str(listener.id), inside).stdout

            return _responds_with(address, token.encode(), listens)
        finally:
            remove_container(self._client.api, str(listener.id))

    def close(self) -> None:
        """Close the listeners and remove the helper containers."""
        for listener in self._listeners.values():
            _end(listener)
        self._listeners.clear()
        for helper in self._helpers.values():
            with suppress(APIError):
                remove_container(self._client.api, str(helper.id))
        self._helpers.clear()

    def _running(self, container: str) -> dict[str, Any]:
        try:
            inspected: dict[str, Any] = self._client.api.inspect_container(container)
        except APIError as error:
            raise EngineRefused(
                f"no port of the container {container[:12]!r} can be reached",
                hint="run the cell that creates it again; `docker ps -a` lists all containers",
                engine_message=str(error.explanation),
            ) from None
        if not inspected["State"]["Running"]:
            name = inspected["Name"].lstrip("/")
            raise NotRunning(
                f"the container {name!r} is not running, so its ports cannot be reached",
                hint=f"check docker logs {name}, then start it: docker start {name}",
            )
        return inspected

    # --- through the engine's API

    def _forwarded(self, container: str, port: int) -> int:
        with self._lock:
            listener = self._listeners.get((container, port))
            if listener is None:
                listener = socket.create_server((LOOPBACK, 0))
                self._listeners[container, port] = listener
                threading.Thread(target=self._serve, args=(listener, container, port), daemon=True).start()
        return int(listener.getsockname()[1])

    def _serve(self, listener: socket.socket, container: str, port: int) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._join, args=(near, container, port), daemon=True).start()

    def _join(self, near: socket.socket, container: str, port: int) -> None:
        with near:
            try:
                far = self._connect(container, port)
            except (LabError, DockerException, RequestException, OSError):
                return  # the client sees a closed connection
            threading.Thread(target=_send, args=(near, far), daemon=True).start()
            with suppress(OSError):
                for kind, data in far.frames():
                    if kind == STDOUT:
                        near.sendall(data)
            _end(near)
            _end(far.connection)
            far.close()

    def _connect(self, container: str, port: int) -> Stream:
        inspected = self._running(container)
        address = next(iter(responses.addresses(inspected)), LOOPBACK)
        helper = self._sidecar(inspected)
        exec_id = self._client.api.exec_create(helper.id, ["nc", address, str(port)], stdin=True)
        return Stream(self._client.api.exec_start(exec_id["Id"], socket=True))

    def _sidecar(self, inspected: Mapping[str, Any]) -> Container:
        """The helper in the container's network namespace; each start of the container creates a new namespace."""
        key = (inspected["Id"], inspected["State"]["StartedAt"], inspected["State"]["Pid"])
        with self._lock:
            if key not in self._helpers:
                for old in [existing for existing in self._helpers if existing[0] == inspected["Id"]]:
                    remove_container(self._client.api, str(self._helpers.pop(old).id))
                self._helpers[key] = self._client.containers.run(
                    self._image(),
                    _SLEEP,
                    detach=True,
                    labels=self._labels,
                    network_mode=f"container:{inspected['Id']}",
                    **_UNPRIVILEGED,
                )
            return self._helpers[key]


def _responds_with(address: tuple[str, int], token: bytes, listens: Callable[[], bool]) -> bool:
    """Whether the server at `address` sends `token`.

    Docker's userland proxy accepts a connection before the program behind it listens; without the proxy the connection
    is refused until then. So a refusal is final only once the program listens.

    Args:
        listens: whether the program accepts connections in its container.
    """
    end = time.monotonic() + _PROBE_TIMEOUT_S
    is_final = False
    while time.monotonic() < end:
        try:
            with socket.create_connection(address, timeout=2) as connection:
                received = connection.recv(len(token), socket.MSG_WAITALL)
        except ConnectionRefusedError:
            if is_final:
                return False
            is_final = listens()
            received = b""
        except OSError:
            received = b""
        if received:
            return received == token
        time.sleep(0.05)
    return False


def _end(connection: Any) -> None:
    """Close a connection, even if another thread blocks in recv(2): close(2) alone would not interrupt it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _send(near: socket.socket, far: Stream) -> None:
    with suppress(OSError):
        while part := near.recv(_CHUNK_BYTES):
            far.send(part)
        far.send_eof()
