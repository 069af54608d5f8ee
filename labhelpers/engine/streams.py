"""The streams of `exec` and `attach`: HTTP connections that the engine takes over (Engine API, "Stream format").

The response header is read through a buffer, which may also contain the first bytes of the stream. docker-py 7 reads
from the socket below that buffer, so on a busy machine the whole output of a short command is lost
(github.com/docker/docker-py/issues/3332). Here the buffered bytes are read first.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

STDOUT, STDERR = 1, 2
_HEAD_BYTES = 8
_PART_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The exit status and the output of a command."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def execute(api: Any, container: str, cmd: list[str], **options: Any) -> ExecResult:
    """Run a command in a running container, wait without a timeout until it exits, and return its output.

    Args:
        api: the low-level client of the engine.
        options: of its `exec_create`.

    Raises:
        APIError: the container does not exist or is not running.
    """
    exec_id = api.exec_create(container, cmd, **options)["Id"]
    stream = Stream(api.exec_start(exec_id, socket=True))
    output: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    try:
        for kind, data in stream.frames():
            output[kind].append(data)
    finally:
        stream.close()
    return ExecResult(
        api.exec_inspect(exec_id)["ExitCode"], b"".join(output[STDOUT]), b"".join(output[STDERR])
    )


class Stream:
    """Standard input and output of a process without a terminal: raw bytes in, frames out.

    Args:
        response: the return value of `exec_start(…, socket=True)` or `attach_socket`.
        timeout_s: the timeout of each read and write; None for no timeout.
    """

    def __init__(self, response: Any, timeout_s: float | None = None) -> None:
        self._response = response  # a reference keeps the connection open
        self.connection: Any = getattr(response, "_sock", response)
        self._first = _buffered_bytes(response, self.connection)
        self.connection.settimeout(timeout_s)

    def send(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            OSError: the connection is closed, or `timeout_s` passed.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self.connection.send(rest) :]

    def send_eof(self) -> None:
        """Close the input of the process; its output still arrives.

        TLS on Windows and named pipes do not support half-close: the input stays open until `close`. On other systems
        the gateway does TLS (`engine.gateway`), and this is a Unix or TCP socket.

        Raises:
            OSError: the connection is closed.
        """
        if isinstance(self.connection, socket.socket) and not isinstance(self.connection, ssl.SSLSocket):
            self.connection.shutdown(socket.SHUT_WR)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Each frame as (`STDOUT` or `STDERR`, its data), until the stream ends.

        Raises:
            OSError: the connection is closed, or `timeout_s` passed.
        """
        while len(head := self._read_up_to(_HEAD_BYTES)) == _HEAD_BYTES:
            kind, size = struct.unpack(">BxxxL", head)
            yield kind, self._read_up_to(size)

    def _read_up_to(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end of the stream."""
        part, self._first = self._first[:size], self._first[size:]
        parts = [part]
        remaining = size - len(part)
        while remaining and (part := self.connection.recv(min(remaining, _PART_BYTES))):
            parts.append(part)
            remaining -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection, which ends the input of the process."""
        for end in (getattr(self._response, "_response", None), self._response, self.connection):
            # which of the three owns the others differs between unix, tcp and npipe
            with suppress(OSError, ValueError):
                if end is not None:
                    end.close()


def _buffered_bytes(response: Any, connection: Any) -> bytes:
    """The bytes of the stream that are already in the buffer of the response header."""
    http_response = getattr(response, "_response", None)
    if http_response is None or not isinstance(connection, socket.socket):
        return b""  # peeking into the buffer of a named pipe may block
    buffer = http_response.raw._fp.fp
    connection.settimeout(0)
    with suppress(ssl.SSLWantReadError):
        return bytes(buffer.read1(len(buffer.peek())))
    return b""
