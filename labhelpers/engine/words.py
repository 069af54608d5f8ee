"""What the SDK raises, in words that a reader can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import ReadTimeout, RequestException

from labhelpers import state
from labhelpers.engine.dial import ask_version
from labhelpers.engine.find import PROBE_S, Engine
from labhelpers.engine.gateway import is_gateways
from labhelpers.engine.unreachable import explain
from labhelpers.errors import EngineRefused, EngineUnreachable, LabError

RAISED = (DockerException, RequestException)
"""Whatever the SDK raises of an engine: that it refused, or that it does not answer."""


@contextmanager
def speaking(engine: Engine, container: str | None = None) -> Iterator[None]:
    """Raise in words what the SDK raises in the block; `container` is the one that it is about."""
    try:
        yield
    except RAISED as error:
        raise in_words(engine, error, container) from None


def in_words(engine: Engine, error: Exception, container: str | None = None) -> LabError:
    """What happened, why, and what to do next; `error` is one of `RAISED`, and about `container` if that is given."""
    if is_gateways(error.response) if isinstance(error, APIError) else isinstance(error, RequestException):
        return _lost(engine, error)
    if not isinstance(error, APIError):
        return EngineRefused(
            "the Docker SDK did not pass this request on to the engine",
            hint="fix what its message below names, then run the cell again",
            engine_words=str(error),
        )
    words = str(error.explanation)
    if container is None:
        return refused(error)
    if isinstance(error, NotFound) and "container" in words.lower():
        return LabError(
            f"there is no container {container!r}",
            hint="run the cell that makes it again; `docker ps -a` lists what is there",
            engine_words=words,
        )
    if error.status_code == 409 and "is not running" in words:
        return LabError(
            f"the container {container!r} does not run (any more)",
            hint=f"see why: docker logs {container}; then run the cell that makes it again",
            engine_words=words,
        )
    if error.status_code == 409 and ("running container" in words or "container is running" in words):
        return LabError(
            f"the container {container!r} still runs",
            hint=f"stop it first: lab.stop({container!r}); or lab.remove({container!r}, force=True)",
            engine_words=words,
        )
    return refused(error)


def _lost(engine: Engine, error: Exception) -> EngineUnreachable:
    """That a connection broke or no answer came; whether the engine is gone is asked once more."""
    where, again = state.shown(engine.address), "then restart the kernel and run the notebook from the top"
    try:
        ask_version(engine.place, PROBE_S)
    except (OSError, ValueError) as cause:
        hint = "start it again: ./lab up"
        if engine.source == "existing":
            hint = f"{explain(engine.place, cause).hint}; `./lab up` shows whether it is back"
        what = f"the engine at {where} does not answer any more"
        return EngineUnreachable(what, hint=f"{hint}; {again}", engine_words=str(cause))
    late = isinstance(error, ReadTimeout)
    return EngineUnreachable(
        f"the engine at {where} took too long for an answer"
        if late
        else f"the connection to the engine at {where} broke; it answers again now",
        hint="restart the kernel and run the notebook from the top",
        engine_words=str(error),
    )


def refused(error: APIError) -> EngineRefused:
    """That the engine said no, for a reason that has no words of its own here."""
    return EngineRefused(
        "the engine refused",
        hint="its words say what it misses; change that and run the cell again",
        engine_words=str(error.explanation),
    )
