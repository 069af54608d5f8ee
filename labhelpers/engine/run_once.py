"""Run a command in a new container and read its output, independent of the engine's log driver.

`docker logs` needs a log driver that supports reading, and an engine may use another one (`none`, `syslog`, `gelf`, …:
docs.docker.com, "Configure logging drivers"). The output is read through an attached connection instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
from docker.errors import APIError, NotFound

from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import STDERR, STDOUT, ExecResult, Stream
from labhelpers.errors import LabError, TimedOut

READABLE_LOG_DRIVERS = frozenset({"json-file", "local", "journald"})
"""The log drivers that support `docker logs` on every engine version."""
DEFAULT_LOG_DRIVER = "json-file"
TIMEOUT_S = 120.0
"""How long a container may print nothing; on an emulated machine it takes 8 s to start."""

_OUTPUT = {"stdout": 1, "stderr": 1, "stream": 1}


def has_readable_logs(info: Mapping[str, Any]) -> bool:
    """Whether `docker logs` works for a container without `--log-driver`, by the engine's `/info`.

    Podman and older engines, which omit the driver, keep logs.
    """
    return (info.get("LoggingDriver") or DEFAULT_LOG_DRIVER) in READABLE_LOG_DRIVERS | {"k8s-file"}


def run_once(api: Any, body: Mapping[str, Any], *, limit_s: float = TIMEOUT_S) -> ExecResult:
    """Create a container, attach to it, start it, read its output until it exits, and remove it.

    Args:
        api: the low-level client of the engine.
        body: the body of `POST /containers/create`, with the labels of the session. Its output is not logged.
        limit_s: how long it may print nothing, in seconds.

    Raises:
        ImageNotFound: the engine does not have the image.
        APIError: the engine refused to create or to start it.
        LabError: it printed nothing for `limit_s`; it is removed.
    """
    host = {**(body.get("HostConfig") or {}), "LogConfig": {"Type": "none"}, "AutoRemove": False}
    with _temporary_container(api, {**body, "HostConfig": host}) as container_id:
        stream = Stream(api.attach_socket(container_id, _OUTPUT), limit_s)
        output: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        began = time.monotonic()
        try:
            api.start(container_id)
            for kind, data in stream.frames():
                output[kind].append(data)
            status = int(api.wait(container_id, timeout=limit_s)["StatusCode"])
        except (TimeoutError, requests.Timeout) as error:
            raise _timed_out(body, time.monotonic() - began, output) from error
        finally:
            stream.close()
    return ExecResult(status, b"".join(output[STDOUT]), b"".join(output[STDERR]))


def last_lines(api: Any, container: str, count: int) -> str:
    """The last lines of a container's log for a message, or the reason why it cannot be read."""
    try:
        return str(api.logs(container, tail=count).decode(errors="replace")).strip()
    except APIError as error:
        return f"(its log cannot be read: {error.explanation})"


@contextmanager
def _temporary_container(api: Any, body: Mapping[str, Any]) -> Iterator[str]:
    """Create a container for the block, then remove it with its anonymous volumes; yields its ID."""
    container_id = str(api.create_container_from_config(dict(body))["Id"])
    try:
        yield container_id
    finally:
        with suppress(NotFound):  # `./lab clean` was faster
            remove_container(api, container_id, v=True)


def _timed_out(body: Mapping[str, Any], waited_s: float, wrote: Mapping[int, list[bytes]]) -> LabError:
    last = b"".join(wrote[STDOUT] + wrote[STDERR]).decode(errors="replace")[-500:]
    return TimedOut(
        f"timed out after {waited_s:.0f} s waiting for a container of {body.get('Image')} to exit",
        hint="run the cell again; `./lab doctor` checks the engine",
        engine_message=last or None,
    )
