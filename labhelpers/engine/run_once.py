"""Run a command in a container of its own and read its output, whatever the engine does with logs.

`docker logs` needs a log driver that can be read back, and an engine may have another (`none`, `syslog`, `gelf`, …:
docs.docker.com, "Configure logging drivers"). An attached client gets the output itself, so nothing here reads a log.
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
"""The log drivers whose output `docker logs` reads back on every engine version."""
DEFAULT_LOG_DRIVER = "json-file"
TIMEOUT_S = 120.0
"""How long a container may stay silent; a container takes 8 s to start on an engine in a translated machine."""

_OUTPUT = {"stdout": 1, "stderr": 1, "stream": 1}


def has_readable_logs(info: Mapping[str, Any]) -> bool:
    """Whether `docker logs` works for a container without `--log-driver`, by the engine's `/info`.

    Podman and older engines that leave the driver out keep logs.
    """
    return (info.get("LoggingDriver") or DEFAULT_LOG_DRIVER) in READABLE_LOG_DRIVERS | {"k8s-file"}


def run_once(api: Any, body: Mapping[str, Any], *, limit_s: float = TIMEOUT_S) -> ExecResult:
    """Create a container, attach to it, start it, read its output until it ends, and remove it.

    Args:
        api: the low-level client of the engine.
        body: what `POST /containers/create` takes, with the labels of the session. Its output goes nowhere else.
        limit_s: how long it may be silent, in seconds.

    Raises:
        ImageNotFound: the engine does not have the image.
        APIError: the engine refused to create or to start it.
        LabError: it was silent for `limit_s`; it is removed.
    """
    host = {**(body.get("HostConfig") or {}), "LogConfig": {"Type": "none"}, "AutoRemove": False}
    with _temporary_container(api, {**body, "HostConfig": host}) as made:
        stream = Stream(api.attach_socket(made, _OUTPUT), limit_s)
        wrote: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        began = time.monotonic()
        try:
            api.start(made)
            for kind, data in stream.frames():
                wrote[kind].append(data)
            status = int(api.wait(made, timeout=limit_s)["StatusCode"])
        except (TimeoutError, requests.Timeout) as error:
            raise _timed_out(body, time.monotonic() - began, wrote) from error
        finally:
            stream.close()
    return ExecResult(status, b"".join(wrote[STDOUT]), b"".join(wrote[STDERR]))


def last_lines(api: Any, container: str, count: int) -> str:
    """The end of a container's log, for a message; where its log driver keeps none, a line that says so."""
    try:
        return str(api.logs(container, tail=count).decode(errors="replace")).strip()
    except APIError as error:
        return f"(its log cannot be read: {error.explanation})"


@contextmanager
def _temporary_container(api: Any, body: Mapping[str, Any]) -> Iterator[str]:
    """The id of a new container, which is removed with its anonymous volumes when the block ends."""
    made = str(api.create_container_from_config(dict(body))["Id"])
    try:
        yield made
    finally:
        with suppress(NotFound):  # `./lab clean` was faster
            remove_container(api, made, v=True)


def _timed_out(body: Mapping[str, Any], waited_s: float, wrote: Mapping[int, list[bytes]]) -> LabError:
    last = b"".join(wrote[STDOUT] + wrote[STDERR]).decode(errors="replace")[-500:]
    return TimedOut(
        f"timed out after {waited_s:.0f} s waiting for a container of {body.get('Image')} to exit",
        hint="run the cell again; `./lab doctor` checks the engine",
        engine_message=last or None,
    )
