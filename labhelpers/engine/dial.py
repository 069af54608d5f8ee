"""A raw byte stream to an engine's API, over a Unix socket, TCP, TLS, ssh or a named pipe.

Every connection can be half-closed: after `write_eof` the engine reads end of file and still responds. `docker
run -i` with a closed standard input needs this, and asyncio's own TLS transport does not support it (docs.python.org,
`StreamWriter.can_write_eof`), so TLS runs here over memory buffers (`ssl.SSLObject`).
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Protocol

from labhelpers import state
from labhelpers.engine.endpoint import EngineEndpoint, Tls

CONNECT_TIMEOUT_S = 10
_CHUNK_BYTES = 1 << 20
_STDERR_BYTES = 1 << 12
_MAX_RESPONSE_BYTES = 1 << 20
_MAX_SHOWN_BYTES = 300
_EXIT_TIMEOUT_S = 2
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# an idle master connection is kept this long, so that the next request needs no new login (ssh_config(5))
_CONTROL_PERSIST_S = 60
# sun_path holds 108 bytes (unix(7)); ssh binds a temporary name that is 17 bytes longer first
_CONTROL_BYTES = 107 - 17
_DIGEST_BYTES = 40


class Connection(Protocol):
    """A duplex byte stream to the engine's API. Every method may raise OSError."""

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end of the stream."""

    async def write(self, data: bytes) -> None:
        """Send `data`; waits if the peer does not read fast enough."""

    async def write_eof(self) -> None:
        """Close the sending direction; the receiving direction stays open."""

    async def close(self) -> None:
        """Close both directions."""


class NoResponse(TimeoutError):
    """The connection was accepted, but no response arrived in time."""


class NotAnEngine(ConnectionError):
    """The server does not implement the Engine API; the text is the beginning of its response."""


class SshFailed(ConnectionError):
    """`ssh`, or `docker system dial-stdio` on the remote host, failed; the text is its standard error."""


async def dial(endpoint: EngineEndpoint) -> Connection:
    """Open a byte stream to the engine at `endpoint`. The caller closes it.

    A failed ssh login is reported by the first `write` or `read`.

    Raises:
        OSError: nothing listens there, no permission, an untrusted certificate (`ssl.SSLError`), …
        ValueError: the scheme of the address is not supported.
        TimeoutError: no response within `CONNECT_TIMEOUT_S` seconds.
    """
    if endpoint.scheme == "ssh":
        return await _ssh(endpoint)
    plain = await asyncio.wait_for(_plain(endpoint), CONNECT_TIMEOUT_S)
    if endpoint.tls is None:
        return plain
    try:
        return await asyncio.wait_for(_tls(plain, endpoint.tls, endpoint.host_port[0]), CONNECT_TIMEOUT_S)
    except BaseException:
        await plain.close()
        raise


def request_version(endpoint: EngineEndpoint, limit_s: float) -> dict[str, Any]:
    """The response of the engine at `endpoint` to `GET /version` (Engine API).

    Args:
        limit_s: the timeout of the connection, and then of the response.

    Raises:
        OSError, ValueError: as `dial`; also `NoResponse` and `NotAnEngine`.
    """
    # in a thread, because a notebook's main thread already has a running event loop
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, _version(endpoint, limit_s)).result()


def _run(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    # named pipes need this loop, and Jupyter sets another default on Windows
    factory = getattr(asyncio, "ProactorEventLoop", None)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


async def _version(endpoint: EngineEndpoint, limit_s: float) -> dict[str, Any]:
    connection = await asyncio.wait_for(dial(endpoint), limit_s)
    try:
        await connection.write(b"GET /version HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        # over ssh the first response includes the login
        limit_s += CONNECT_TIMEOUT_S if endpoint.scheme == "ssh" else 0
        response = await asyncio.wait_for(_all(connection), limit_s)
    except TimeoutError:
        raise NoResponse(f"no response within {limit_s:.0f} s") from None
    finally:
        await connection.close()
    return _parsed(response)


async def _all(connection: Connection) -> bytes:
    data = b""
    while len(data) < _MAX_RESPONSE_BYTES and (part := await connection.read(_CHUNK_BYTES)):
        data += part
    return data


def _parsed(data: bytes) -> dict[str, Any]:
    response = HTTPResponse(_BufferedResponse(data))  # type: ignore[arg-type]
    try:
        response.begin()
        version = json.loads(response.read())
    except (HTTPException, ValueError, RecursionError):
        raise NotAnEngine(data[:_MAX_SHOWN_BYTES].decode(errors="replace") or "an empty response") from None
    if response.status != HTTPStatus.OK or not isinstance(version, dict) or "ApiVersion" not in version:
        raise NotAnEngine(data[:_MAX_SHOWN_BYTES].decode(errors="replace"))
    return version


class _BufferedResponse:
    """The part of a socket's interface that `http.client` needs to parse a received response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def join(near: Connection, far: Connection) -> None:
    """Copy bytes both ways until the engine (`far`) closes its side. The caller closes both.

    The end of `near`'s input is forwarded as a half-close, even if `near` was closed with data in flight: an engine
    that has nothing to send would not notice otherwise.

    Raises:
        SshFailed: the connection failed before the engine sent anything.
        OSError: the connection broke later, or `near` is closed.
    """
    forth = asyncio.create_task(_pass_input(near, far))
    try:
        await _copy(far, near)
        await near.write_eof()
    finally:
        forth.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await forth


async def _pass_input(near: Connection, far: Connection) -> None:
    with suppress(ConnectionError):
        await _copy(near, far)
    await far.write_eof()


async def _copy(source: Connection, target: Connection) -> None:
    while data := await source.read(_CHUNK_BYTES):
        await target.write(data)


# ── Unix sockets, TCP, named pipes ───────────────────────────────────────────────────────────────────


class Streams:
    """A connection over asyncio's own streams; also the accepted side of a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        return await self._reader.read(size)

    async def write(self, data: bytes) -> None:
        """Send `data`, with back-pressure."""
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        """Close the sending direction."""
        # Windows' pipes have no half-close
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def close(self) -> None:
        """Close both directions."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _EXIT_TIMEOUT_S)


async def _plain(endpoint: EngineEndpoint) -> Streams:
    if endpoint.scheme == "unix":
        return Streams(*await asyncio.open_unix_connection(endpoint.path, limit=_CHUNK_BYTES))
    if endpoint.scheme == "tcp":
        try:
            return Streams(*await asyncio.open_connection(*endpoint.host_port, limit=_CHUNK_BYTES))
        except OSError as error:
            raise _of_addresses(error) from error
    if endpoint.scheme == "npipe":
        return await _pipe(endpoint.path)
    raise ValueError(f"no way to connect to {endpoint.address!r}")


def _of_addresses(error: OSError) -> OSError:
    """asyncio's combined error for a host with several addresses (`localhost` is ::1 and 127.0.0.1), as a single one.

    It is the error of the first address to which this machine has a route.
    """
    numbers = [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
    if error.errno is not None or not numbers:
        return error
    return OSError(next((number for number in numbers if number not in _NO_ROUTE), numbers[0]), str(error))


async def _pipe(path: str) -> Streams:
    """A Windows named pipe, on the event loop that is the default there."""
    loop: Any = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_pipe_connection(lambda: protocol, path)
    return Streams(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────


class _TlsStreams:
    """TLS over a plain connection. One task may read while another one writes."""

    def __init__(self, plain: Connection, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._decrypted = b""

    async def handshake(self) -> None:
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._receive()
            except ssl.SSLError:
                with suppress(OSError):
                    await self._send()  # the TLS alert
                raise
        await self._send()

    async def read(self, size: int) -> bytes:
        if not size:
            return b""
        while True:
            if self._decrypted:
                part, self._decrypted = self._decrypted[:size], self._decrypted[size:]
                return part
            try:
                return self._object.read(size)
            except ssl.SSLWantReadError:
                await self._receive()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def write(self, data: bytes) -> None:
        self._object.write(data)
        await self._send()

    async def write_eof(self) -> None:
        # unwrap() fails if data is pending while OpenSSL waits for the close_notify of the peer: read it first
        with suppress(ssl.SSLError):
            while part := self._object.read(_CHUNK_BYTES):
                self._decrypted += part
        with suppress(ssl.SSLError):
            self._object.unwrap()
        await self._send()

    async def close(self) -> None:
        with suppress(OSError):
            await self.write_eof()
        await self._plain.close()

    async def _receive(self) -> None:
        await self._send()
        data = await self._plain.read(_CHUNK_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _send(self) -> None:
        if self._outgoing.pending:
            await self._plain.write(self._outgoing.read())


async def _tls(plain: Connection, tls: Tls, host: str) -> _TlsStreams:
    secure = _TlsStreams(plain, tls.context(), host)
    await secure.handshake()
    return secure


# ── ssh ──────────────────────────────────────────────────────────────────────────────────────────────


class _SshStreams:
    """The standard input and output of `ssh HOST docker system dial-stdio`."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._input, self._output = process.stdin, process.stdout
        self._stderr = b""
        self._listener = asyncio.create_task(self._keep_stderr())
        self._started = False

    async def read(self, size: int) -> bytes:
        data = await self._output.read(size)
        if data or self._started or not size:
            self._started = True
            return data
        raise await self._failed()

    async def write(self, data: bytes) -> None:
        self._input.write(data)
        try:
            await self._input.drain()
        except ConnectionError:
            if self._started:
                raise
            raise await self._failed() from None

    async def _failed(self) -> SshFailed:
        """The error for an `ssh` that exited before the engine sent anything, with its standard error."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_TIMEOUT_S)
            await asyncio.wait_for(asyncio.shield(self._listener), _EXIT_TIMEOUT_S)
        stderr = self._stderr.decode(errors="replace").strip()
        return SshFailed(stderr or f"ssh ended with status {self._process.returncode} and printed nothing")

    async def write_eof(self) -> None:
        self._input.close()

    async def close(self) -> None:
        self._input.close()
        if self._process.returncode is None:
            # Process.terminate() may reap the child before asyncio does, which then logs an unknown child
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_TIMEOUT_S)
        self._listener.cancel()

    async def _keep_stderr(self) -> None:
        assert self._process.stderr
        while part := await self._process.stderr.read(_STDERR_BYTES):
            self._stderr = (self._stderr + part)[-_STDERR_BYTES:]


async def _ssh(endpoint: EngineEndpoint) -> _SshStreams:
    process = await asyncio.create_subprocess_exec(
        *ssh_command(endpoint),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        # Ctrl-C in a terminal must not stop it
        start_new_session=sys.platform != "win32",
    )
    return _SshStreams(process)


def ssh_command(endpoint: EngineEndpoint) -> list[str]:
    """The command whose standard input and output are a connection to the engine, as in docker's connhelper.

    It never prompts: a password or an unknown host key is an error, because there is no terminal.

    Raises:
        ValueError: the address names no host, or has a password in it.
    """
    url, (user, host) = endpoint.url, endpoint.login
    if not host or url.password is not None or url.query or url.fragment:
        raise ValueError(f"{endpoint.address!r} does not have the form ssh://user@host:port")
    options = [
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={CONNECT_TIMEOUT_S}",
        *_control_master_options(),
    ]
    options += ["-l", user] if user else []
    options += ["-p", str(url.port)] if url.port else []
    # a path is the engine's socket on that machine
    socket = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", host, "docker", *socket, "system", "dial-stdio"]


def _control_master_options() -> list[str]:
    """Options that let all connections share one login, if the path of the control socket is short enough."""
    folder: Path = state.path("ssh", "x").parent
    if sys.platform == "win32" or len(str(folder)) + 1 + _DIGEST_BYTES > _CONTROL_BYTES:
        return []
    folder.chmod(0o700)
    pairs = (f"ControlPath={folder}/%C", "ControlMaster=auto", f"ControlPersist={_CONTROL_PERSIST_S}")
    return [argument for pair in pairs for argument in ("-o", pair)]
