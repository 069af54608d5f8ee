"""A small server on a Unix socket, in a thread of this process: one coroutine per connection.

`forward` makes one that leads to an engine, for clients that cannot reach it themselves: the SDK has no way to an
engine over ssh without paramiko.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from labhelpers import state
from labhelpers.engine.dial import EngineEndpoint, SshFailed, Streams, dial, join

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_SERVER = "labhelpers gateway"
_STOP_TIMEOUT_S = 5
# the head of a request is read whole, and a build sends the credentials of every registry in it
_HEAD_BYTES = 1 << 20
# sun_path holds 108 bytes (unix(7))
_SOCKET_BYTES = 107


class Gateway:
    """A server on `path` from now until `close`, which unlinks it. Only this user may connect.

    Args:
        path: the socket; a stale one is replaced. At most 107 bytes (unix(7)).
        handle: called for each connection, in the gateway's own event loop. It closes the writer.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, handle: ConnectionHandler) -> None:
        self.path = path
        self._handle = handle
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # until it listens it looks stale to `new_socket_path` of another process
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(new))
            # nobody can connect before it listens
            new.chmod(0o600)
            listener.listen(128)
            new.replace(path)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        # an event loop refers to its tasks weakly: without this, one may be collected while it waits
        self._serving: set[asyncio.Task[None]] = set()
        # a loop of its own: the kernel's is running, and blocks while a cell does
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=[started], name=f"gateway {path.name}", daemon=True
        )
        self._thread.start()
        # `close` can only stop a loop that serves
        started.wait(_STOP_TIMEOUT_S)

    @property
    def address(self) -> str:
        """What `DOCKER_HOST` takes."""
        return f"unix://{self.path}"

    def close(self) -> None:
        """Stop it and end its connections. A second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_TIMEOUT_S)
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        # a connection that breaks is that connection's end, not a traceback on the reader's page
        with suppress(OSError, asyncio.CancelledError):
            await self._handle(reader, writer)
        self._serving.discard(task)

    def _run(self, started: threading.Event) -> None:
        server = self._loop.run_until_complete(
            asyncio.start_unix_server(self._serve, sock=self._listener, limit=_HEAD_BYTES)
        )
        self._loop.call_soon(started.set)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            # a connection that is being accepted right now finds its loop closed, which is no news
            self._loop.set_exception_handler(lambda loop, context: None)
            while tasks := asyncio.all_tasks(self._loop):
                for task in tasks:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(tasks))
            self._loop.close()


def new_socket_path(name: str) -> Path:
    """A path for a socket that only this user can reach; what dead processes left in its folder is removed.

    It is in the state directory where that is short enough, else in a new temporary folder.
    """
    folder = state.path("gateways", "x").parent
    if len(os.fsencode(folder / f"{name}.sock")) > _SOCKET_BYTES:
        folder = Path(tempfile.mkdtemp(prefix="labhelpers-"))
    folder.chmod(0o700)
    for old in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(old)) == errno.ECONNREFUSED:
                old.unlink(missing_ok=True)
    return folder / f"{name}.sock"


def forward(path: Path, place: EngineEndpoint) -> Gateway:
    """A gateway on `path` whose connections lead to the engine at `place`, unchanged.

    Raises:
        OSError: see `Gateway`.
    """

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near = Streams(reader, writer)
        try:
            far = await dial(place)
        except OSError as error:
            await near.write(bad_gateway(error))
            await near.close()
            return
        try:
            await join(near, far)
        except SshFailed as error:
            await near.write(bad_gateway(error))
        finally:
            await far.close()
            await near.close()

    return Gateway(path, handle)


def bad_gateway(error: Exception) -> bytes:
    """The HTTP response for a client whose engine cannot be reached, in the form of the engine's own errors."""
    body = json.dumps({"message": str(error)}).encode()
    lines = ["HTTP/1.1 502 Bad Gateway", f"Server: {_SERVER}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def is_bad_gateway(response: Any) -> bool:
    """Whether a response of `requests` is `bad_gateway`, and not the engine's own."""
    return response is not None and response.headers.get("Server") == _SERVER
