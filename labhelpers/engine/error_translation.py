"""Translate exceptions of the SDK into `LabError`s."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import ReadTimeout, RequestException

from labhelpers import state
from labhelpers.engine.dial import request_version
from labhelpers.engine.differences import DELEGATE
from labhelpers.engine.find import PROBE_S, Engine
from labhelpers.engine.gateway import is_bad_gateway
from labhelpers.engine.unreachable import explain
from labhelpers.errors import ContainerMissing, EngineRefused, EngineUnreachable, LabError, NotRunning

SDK_ERRORS = (DockerException, RequestException)
"""What the SDK raises if the engine refuses a request or does not respond."""


_HINTS = (
    (
        # moby, daemon/daemon_unix.go; runc and crun if a file of a controller is missing
        r"(nanocpus|cpu-?set|cpu (cfs|shares|quota)|pids limit|memory).*(kernel does not support|not mounted)"
        r"|your kernel does not support.*(cgroup|cfs)|controller .* (is not|not) available|controllers? .* not found",
        f"the engine cannot use that cgroup controller. For a rootless engine, delegate it: in {DELEGATE} "
        "write [Service] and Delegate=cpu cpuset io memory pids, then log in again; otherwise the kernel "
        "has disabled it: see `./lab doctor`",
    ),
    (
        r"requested cpus are not available",
        "the engine can use only some CPUs: `grep Cpus_allowed_list /proc/$(pidof dockerd)/status` on its host "
        "lists them",
    ),
    (
        r"user namespaces? (is|are) enabled|incompatible with user namespaces|cannot share the host.s",
        "this engine uses userns-remap: add `--userns host` (lab.run: userns_mode='host')",
    ),
    (
        r"does not support reading",
        "the container's log driver does not support reading: start it with `--log-driver json-file`",
    ),
)
"""Patterns of engine messages, with hints."""


@contextmanager
def translate_errors(engine: Engine, container: str | None = None) -> Iterator[None]:
    """Raise errors of the SDK in the block as `LabError`; `container` is the container that the block works on."""
    try:
        yield
    except SDK_ERRORS as error:
        raise to_lab_error(engine, error, container) from None


def to_lab_error(engine: Engine, error: Exception, container: str | None = None) -> LabError:
    """The `LabError` for `error`, which is one of `SDK_ERRORS`; `container` is the container of the request, if any."""
    if is_bad_gateway(error.response) if isinstance(error, APIError) else isinstance(error, RequestException):
        return _connection_lost(engine, error)
    if not isinstance(error, APIError):
        return EngineRefused(
            "the Docker SDK rejected this request",
            hint="fix the problem in the SDK's message above, then run the cell again",
            engine_message=str(error),
        )
    message = str(error.explanation)
    if container is None:
        return engine_refused(error)
    if isinstance(error, NotFound) and "container" in message.lower():
        return ContainerMissing(
            f"there is no container named {container!r}",
            hint="run the cell that creates it again; `docker ps -a` lists all containers",
            engine_message=message,
        )
    if error.status_code == 409 and "is not running" in message:
        return NotRunning(
            f"the container {container!r} is not running",
            hint=f"check docker logs {container}, then run the cell that creates it again",
            engine_message=message,
        )
    if error.status_code == 409 and ("running container" in message or "container is running" in message):
        return EngineRefused(
            f"the container {container!r} is still running",
            hint=f"stop it first: lab.stop({container!r}); or lab.remove({container!r}, force=True)",
            engine_message=message,
        )
    return engine_refused(error)


def _connection_lost(engine: Engine, error: Exception) -> EngineUnreachable:
    """The error for a broken connection or a timeout, after a check whether the engine responds."""
    address, restart = (
        state.abbreviate_home(engine.address),
        "then restart the kernel and run the notebook from the top",
    )
    try:
        request_version(engine.endpoint, PROBE_S)
    except (OSError, ValueError) as cause:
        hint = "start it again: ./lab up"
        if engine.source == "existing":
            hint = f"{explain(engine.endpoint, cause).hint}; `./lab up` shows whether it is back"
        message = f"lost the connection to the engine at {address}"
        return EngineUnreachable(message, hint=f"{hint}; {restart}", engine_message=str(cause))
    # in the middle of a stream the SDK raises another type of exception
    late = isinstance(error, ReadTimeout) or "Read timed out" in str(error)
    return EngineUnreachable(
        f"timed out waiting for the engine at {address}"
        if late
        else f"the connection to the engine at {address} was interrupted; it is back now",
        hint="restart the kernel and run the notebook from the top",
        engine_message=str(error),
    )


def engine_refused(error: APIError) -> EngineRefused:
    """The error for a refused request, with a hint for known reasons."""
    message = str(error.explanation)
    hint = next(
        (hint for pattern, hint in _HINTS if re.search(pattern, message, re.IGNORECASE)),
        "fix the problem in Docker's message above, then run the cell again",
    )
    return EngineRefused("the engine refused the request", hint=hint, engine_message=message)
