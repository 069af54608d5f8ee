"""What the SDK raises, in words that a reader can use."""

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
"""Whatever the SDK raises of an engine: that it refused, or that it does not answer."""


_HINTS = (
    (
        # moby, daemon/daemon_unix.go; runc and crun where a file of a controller is not there
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
"""A pattern in the engine's message, and what the reader can do about it."""


@contextmanager
def translate_errors(engine: Engine, container: str | None = None) -> Iterator[None]:
    """Raise in words what the SDK raises in the block; `container` is the one that it is about."""
    try:
        yield
    except SDK_ERRORS as error:
        raise to_lab_error(engine, error, container) from None


def to_lab_error(engine: Engine, error: Exception, container: str | None = None) -> LabError:
    """What happened, why, and what to do next. `error` is one of `SDK_ERRORS`; it is about `container` if given."""
    if is_bad_gateway(error.response) if isinstance(error, APIError) else isinstance(error, RequestException):
        return _connection_lost(engine, error)
    if not isinstance(error, APIError):
        return EngineRefused(
            "the Docker SDK rejected this request",
            hint="fix the problem in the SDK's message above, then run the cell again",
            engine_message=str(error),
        )
    words = str(error.explanation)
    if container is None:
        return engine_refused(error)
    if isinstance(error, NotFound) and "container" in words.lower():
        return ContainerMissing(
            f"there is no container named {container!r}",
            hint="run the cell that creates it again; `docker ps -a` lists all containers",
            engine_message=words,
        )
    if error.status_code == 409 and "is not running" in words:
        return NotRunning(
            f"the container {container!r} is not running",
            hint=f"check docker logs {container}, then run the cell that creates it again",
            engine_message=words,
        )
    if error.status_code == 409 and ("running container" in words or "container is running" in words):
        return EngineRefused(
            f"the container {container!r} is still running",
            hint=f"stop it first: lab.stop({container!r}); or lab.remove({container!r}, force=True)",
            engine_message=words,
        )
    return engine_refused(error)


def _connection_lost(engine: Engine, error: Exception) -> EngineUnreachable:
    """That a connection broke or no answer came; whether the engine is gone is asked once more."""
    where, again = (
        state.abbreviate_home(engine.address),
        "then restart the kernel and run the notebook from the top",
    )
    try:
        request_version(engine.endpoint, PROBE_S)
    except (OSError, ValueError) as cause:
        hint = "start it again: ./lab up"
        if engine.source == "existing":
            hint = f"{explain(engine.endpoint, cause).hint}; `./lab up` shows whether it is back"
        what = f"lost the connection to the engine at {where}"
        return EngineUnreachable(what, hint=f"{hint}; {again}", engine_message=str(cause))
    # in the middle of a stream the SDK raises another type
    late = isinstance(error, ReadTimeout) or "Read timed out" in str(error)
    return EngineUnreachable(
        f"timed out waiting for the engine at {where}"
        if late
        else f"the connection to the engine at {where} was interrupted; it is back now",
        hint="restart the kernel and run the notebook from the top",
        engine_message=str(error),
    )


def engine_refused(error: APIError) -> EngineRefused:
    """The engine refused the request; the hint matches its reason if that is a known one."""
    words = str(error.explanation)
    hint = next(
        (hint for sign, hint in _HINTS if re.search(sign, words, re.IGNORECASE)),
        "fix the problem in Docker's message above, then run the cell again",
    )
    return EngineRefused("the engine refused the request", hint=hint, engine_message=words)
