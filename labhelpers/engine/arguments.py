"""Arguments that name something on the engine: checked before they become part of a request."""

from __future__ import annotations

from typing import Any, TypeGuard

from labhelpers.errors import BadInput

NAME_HINT = "pass its name in quotes, or the object that the lab returned; `docker ps -a` lists containers"


def is_text(value: object) -> bool:
    """Whether `value` is a string that can be sent: no NUL character, nothing that UTF-8 cannot encode."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number. True and False are integers of Python, and no numbers of a reader."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a number, whole or not."""
    return is_integer(value) or isinstance(value, float)


def name_of(resource: Any) -> str:
    """The name of a container, network or volume that is passed by name, by ID or as an object of the SDK.

    Raises:
        BadInput: it is neither. A name with a slash would be another path of the Engine API.
    """
    name = resource if isinstance(resource, str) else getattr(resource, "name", None)
    if not is_text(name) or not str(name).strip() or "/" in str(name):
        raise BadInput(f"{resource!r} is not the name of a container, network or volume", hint=NAME_HINT)
    return str(name)


def name_or_id(container: Any) -> str:
    """What a request finds a container by: the ID of an object of the SDK, else the name or ID that was passed.

    Raises:
        BadInput: it is neither.
    """
    id = getattr(container, "id", None)
    return id if isinstance(id, str) else name_of(container)


def time_limit(seconds: Any) -> float:
    """A time limit in seconds.

    Raises:
        BadInput: no number above 0.
    """
    # a socket's timeout is a C time_t in nanoseconds
    if not is_number(seconds) or not 0 < seconds < 1e9:
        raise BadInput(f"{seconds!r} is not a time limit", hint="use seconds, more than 0: limit_s=10")
    return float(seconds)
