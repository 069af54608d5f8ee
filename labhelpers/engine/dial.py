"""One raw byte stream to an engine's API, over whatever leads to it: a Unix socket, TCP, TLS, ssh or a named pipe.

Every connection can be half-closed: after `write_eof` the engine sees the end of its input and still answers. `docker
run -i` with a closed standard input needs this, and asyncio's own TLS transport cannot do it (docs.python.org,
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
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from labhelpers import state

CONNECT_TIMEOUT_S = 10
PORT, TLS_PORT = 2375, 2376
_CHUNK_BYTES = 1 << 20
_STDERR_BYTES = 1 << 12
_MAX_RESPONSE_BYTES = 1 << 20
_MAX_SHOWN_BYTES = 300
_EXIT_TIMEOUT_S = 2
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# an idle master connection stays this long, so that the next request need not log in again (ssh_config(5))
_CONTROL_PERSIST_S = 60
# sun_path holds 108 bytes (unix(7)); ssh binds a temporary name that is 17 bytes longer first
_CONTROL_BYTES = 107 - 17
_DIGEST_BYTES = 40


class Connection(Protocol):
    """A duplex byte stream to the engine's API. Every method may raise OSError."""

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end of the stream."""

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the other side reads more slowly than this one writes."""

    async def write_eof(self) -> None:
        """Close the sending direction; the receiving direction stays open."""

    async def close(self) -> None:
        """Close both directions."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS to an engine.

    Attributes:
        ca: the file of the certificate authority; None for those that this machine trusts.
        cert, key: the files of the client's certificate and its key; None where the engine asks for none.
        verify: whether the engine's certificate is checked.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """The same as Python's own type.

        Raises:
            TlsFile: a file cannot be read, or the key has a passphrase.
            ssl.SSLError: a file is no certificate or key.
        """
        ca = self.ca if self.verify else None
        for file in filter(None, (ca, self.cert, self.key)):
            _check_readable(file)  # the errors of `ssl` do not name the file
        context = ssl.create_default_context(cafile=ca)
        # Python 3.13 refuses certificates that docker accepts: those that OpenSSL 1.1 made as Docker's page shows
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert and self.key:
            context.load_cert_chain(self.cert, self.key, password=self._passphrase)
        return context

    def _passphrase(self) -> str:
        # OpenSSL would ask for it on the terminal
        raise TlsFile(errno.EINVAL, "the key has a passphrase", self.key)


class TlsFile(OSError):
    """A file that `Tls` names cannot be used; `filename` and `strerror` say which one and why."""


def _check_readable(file: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise TlsFile(error.errno, error.strerror, file) from None


@dataclass(frozen=True)
class EngineEndpoint:
    """Where an engine may be.

    Attributes:
        address: `unix:///path`, `tcp://host:port`, `ssh://user@host` or `npipe:////./pipe/name`.
        found_by: how the lab came to it, for messages: "DOCKER_HOST", "docker context mine", …
        tls: how to speak TLS to it; None for plain HTTP.
        requested_address: the reader named this place, so no other is used when it does not answer.
    """

    address: str
    found_by: str
    tls: Tls | None = None
    requested_address: bool = False

    @property
    def scheme(self) -> str:
        """`unix`, `tcp`, `ssh` or `npipe`; "" where the address has none."""
        return self.address.partition("://")[0] if "://" in self.address else ""

    @property
    def url(self) -> SplitResult:
        """The parts of the address.

        Raises:
            ValueError: it is no URL (a port that is no number, a bracket too many).
        """
        parts = urlsplit(self.address)
        _ = parts.port  # checked only when it is read
        return parts

    @property
    def path(self) -> str:
        """The file of a `unix` or `npipe` address."""
        path = self.address.partition("://")[2]
        return path.replace("/", "\\") if self.scheme == "npipe" else path

    @property
    def authority(self) -> str:
        """`host:port` of a `tcp` address, as a URL has it.

        Raises:
            ValueError: see `url`.
        """
        host, port = self.host_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def host_port(self) -> tuple[str, int]:
        """The host and port of a `tcp` address, with Docker's default port.

        Raises:
            ValueError: see `url`.
        """
        return self.url.hostname or "127.0.0.1", self.url.port or (TLS_PORT if self.tls else PORT)

    @property
    def login(self) -> tuple[str | None, str]:
        """The user, or None, and the host of an `ssh` address; a `Host` of ssh_config(5) may have upper case.

        Raises:
            ValueError: see `url`.
        """
        user, _, host = self.url.netloc.rpartition("@")
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return unquote(user) or None, unquote(host)


class NoResponse(TimeoutError):
    """Something accepted the connection and then sent nothing in time."""


class NotAnEngine(ConnectionError):
    """What answered does not speak the Engine API; the text is the beginning of its answer."""


class SshFailed(ConnectionError):
    """`ssh`, or `docker system dial-stdio` at its other end, ended with an error; the text is what it printed."""


async def dial(endpoint: EngineEndpoint) -> Connection:
    """Open a byte stream to the engine at `endpoint`. The caller closes it.

    A failed login over ssh is raised by the first `write` or `read`: until then nobody knows.

    Raises:
        OSError: nothing listens there, no permission, a certificate that is not trusted (`ssl.SSLError`), …
        ValueError: an address that is none of the four kinds.
        TimeoutError: no answer within `CONNECT_TIMEOUT_S` seconds.
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
    """What the engine at `endpoint` answers to `GET /version` (Engine API).

    Args:
        limit_s: how long the connection may take, and then how long the answer.

    Raises:
        OSError, ValueError: as `dial`; also `NoResponse` and `NotAnEngine`.
    """
    # a thread of its own, because a notebook's main thread has a running event loop already
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, _version(endpoint, limit_s)).result()


def _run(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    # named pipes need this loop, and Jupyter makes another one the default on Windows
    factory = getattr(asyncio, "ProactorEventLoop", None)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


async def _version(place: EngineEndpoint, limit_s: float) -> dict[str, Any]:
    connection = await asyncio.wait_for(dial(place), limit_s)
    try:
        await connection.write(b"GET /version HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        # over ssh the login is part of the first answer
        limit_s += CONNECT_TIMEOUT_S if place.scheme == "ssh" else 0
        answer = await asyncio.wait_for(_all(connection), limit_s)
    except TimeoutError:
        raise NoResponse(f"no response within {limit_s:.0f} s") from None
    finally:
        await connection.close()
    return _parsed(answer)


async def _all(connection: Connection) -> bytes:
    answer = b""
    while len(answer) < _MAX_RESPONSE_BYTES and (part := await connection.read(_CHUNK_BYTES)):
        answer += part
    return answer


def _parsed(answer: bytes) -> dict[str, Any]:
    response = HTTPResponse(_BufferedResponse(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        found = json.loads(response.read())
    except (HTTPException, ValueError, RecursionError):
        raise NotAnEngine(answer[:_MAX_SHOWN_BYTES].decode(errors="replace") or "an empty response") from None
    if response.status != HTTPStatus.OK or not isinstance(found, dict) or "ApiVersion" not in found:
        raise NotAnEngine(answer[:_MAX_SHOWN_BYTES].decode(errors="replace"))
    return found


class _BufferedResponse:
    """As much of a socket as `http.client` needs to parse what has arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def join(near: Connection, far: Connection) -> None:
    """Copy bytes both ways until the engine (`far`) has sent everything. The caller closes both.

    The end of `near`'s input is passed on as a half-close, also where `near` was closed with data in flight: an engine
    that has nothing to send would not notice.

    Raises:
        SshFailed: the connection failed before the engine sent anything.
        OSError: it broke later, or `near` is gone.
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


async def _plain(place: EngineEndpoint) -> Streams:
    if place.scheme == "unix":
        return Streams(*await asyncio.open_unix_connection(place.path, limit=_CHUNK_BYTES))
    if place.scheme == "tcp":
        try:
            return Streams(*await asyncio.open_connection(*place.host_port, limit=_CHUNK_BYTES))
        except OSError as error:
            raise _of_addresses(error) from error
    if place.scheme == "npipe":
        return await _pipe(place.path)
    raise ValueError(f"no way to connect to {place.address!r}")


def _of_addresses(error: OSError) -> OSError:
    """asyncio's one error for a name with several addresses (`localhost` is ::1 and 127.0.0.1), as that of one of them.

    That is the first address that this machine has a way to.
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
                    await self._send()  # the alert that says why
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
        # OpenSSL fails if data is waiting when it looks for the answer to its own close_notify: take it out first
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
        """The error for an `ssh` that ended before the engine sent anything: what it printed says why."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_TIMEOUT_S)
            await asyncio.wait_for(asyncio.shield(self._listener), _EXIT_TIMEOUT_S)
        said = self._stderr.decode(errors="replace").strip()
        return SshFailed(said or f"ssh ended with status {self._process.returncode} and printed nothing")

    async def write_eof(self) -> None:
        self._input.close()

    async def close(self) -> None:
        self._input.close()
        if self._process.returncode is None:
            # its own terminate() may reap it before asyncio does, which then logs an unknown child
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_TIMEOUT_S)
        self._listener.cancel()

    async def _keep_stderr(self) -> None:
        assert self._process.stderr
        while part := await self._process.stderr.read(_STDERR_BYTES):
            self._stderr = (self._stderr + part)[-_STDERR_BYTES:]


async def _ssh(place: EngineEndpoint) -> _SshStreams:
    process = await asyncio.create_subprocess_exec(
        *ssh_command(place),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        # Ctrl-C in a terminal is not for it
        start_new_session=sys.platform != "win32",
    )
    return _SshStreams(process)


def ssh_command(place: EngineEndpoint) -> list[str]:
    """The command whose standard input and output are a connection to the engine, as in docker's connhelper.

    It never asks for anything: a password or an unknown host key is an error, because no terminal is there.

    Raises:
        ValueError: the address names no host, or has a password in it.
    """
    url, (user, host) = place.url, place.login
    if not host or url.password is not None or url.query or url.fragment:
        raise ValueError(f"{place.address!r} does not have the form ssh://user@host:port")
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
    """Options that let all connections share one login, where the path of the control socket is short enough."""
    folder: Path = state.path("ssh", "x").parent
    if sys.platform == "win32" or len(str(folder)) + 1 + _DIGEST_BYTES > _CONTROL_BYTES:
        return []
    folder.chmod(0o700)
    pairs = (f"ControlPath={folder}/%C", "ControlMaster=auto", f"ControlPersist={_CONTROL_PERSIST_S}")
    return [word for pair in pairs for word in ("-o", pair)]
