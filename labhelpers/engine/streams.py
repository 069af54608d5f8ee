"""The streams of `exec` and `attach`: HTTP connections that the engine takes over (Engine API, "Stream format").

The answer's head is read through a buffer, which may take the stream's first bytes with it. docker-py 7 goes on below
that buffer, so on a busy machine a short command's whole output is lost (github.com/docker/docker-py/issues/3332).
Here what the buffer holds comes first.
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
    """A command that ended: its exit status and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def execute(api: Any, container: str, cmd: list[str], **options: Any) -> ExecResult:
    """Run one more process in a running container, wait for its end, however long, and give what it wrote.

    Args:
        api: the low-level client of the engine.
        options: of its `exec_create`.

    Raises:
        APIError: there is no such container, or it does not run.
    """
    made = api.exec_create(container, cmd, **options)["Id"]
    stream = Stream(api.exec_start(made, socket=True))
    wrote: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    try:
        for kind, data in stream.frames():
            wrote[kind].append(data)
    finally:
        stream.close()
    return ExecResult(api.exec_inspect(made)["ExitCode"], b"".join(wrote[STDOUT]), b"".join(wrote[STDERR]))


class Stream:
    """Both ends of a process without a terminal: bytes go to it, frames of its output come.

    Args:
        answer: what `exec_start(…, socket=True)` or `attach_socket` gave.
        timeout_s: how long one read or write may wait; None for ever.
    """

    def __init__(self, answer: Any, timeout_s: float | None = None) -> None:
        self._answer = answer  # it holds the connection open
        self.connection: Any = getattr(answer, "_sock", answer)
        self._first = _buffered_bytes(answer, self.connection)
        self.connection.settimeout(timeout_s)

    def send(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: the connection is closed, or `timeout_s` passed.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self.connection.send(rest) :]

    def send_eof(self) -> None:
        """Close the input of the process; its output still arrives.

        Over TLS on Windows and over a named pipe there is no way to close one direction: the input stays open until
        `close`. Elsewhere TLS is the gateway's business (`engine.gateway`), and this is a Unix or TCP socket.

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
        """So many bytes; fewer only where the stream ends."""
        part, self._first = self._first[:size], self._first[size:]
        parts = [part]
        left = size - len(part)
        while left and (part := self.connection.recv(min(left, _PART_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Hang up. The process sees its input end."""
        for end in (getattr(self._answer, "_response", None), self._answer, self.connection):
            # the three own one another in ways that differ between unix, tcp and npipe
            with suppress(OSError, ValueError):
                if end is not None:
                    end.close()


def _buffered_bytes(answer: Any, connection: Any) -> bytes:
    """What came with the head of the answer, and is in the buffer that read it."""
    response = getattr(answer, "_response", None)
    if response is None or not isinstance(connection, socket.socket):
        return b""  # the buffer of a named pipe cannot be looked into without waiting
    buffer = response.raw._fp.fp
    connection.settimeout(0)
    with suppress(ssl.SSLWantReadError):
        return bytes(buffer.read1(len(buffer.peek())))
    return b""
