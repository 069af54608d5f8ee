"""Wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from labhelpers.errors import TimedOut

T = TypeVar("T")

TIMEOUT_S = 60.0
"""A container takes 8 s to start on an engine in an emulated machine."""
POLL_S = 0.03


def wait_for(
    description: str,
    check: Callable[[], T],
    limit_s: float = TIMEOUT_S,
    *,
    every_s: float = POLL_S,
    details: Callable[[], str] | None = None,
) -> T:
    """Call `check` until it returns a true value, and return that value.

    Args:
        description: the condition, for the message: "the container to start".
        limit_s: the timeout, in seconds.
        every_s: the polling interval, in seconds.
        details: called after a timeout; returns more text for the message, such as the end of a log.

    Raises:
        TimedOut: `check` was not true within `limit_s`.
    """
    end = time.monotonic() + limit_s
    while not (result := check()):
        if time.monotonic() > end:
            raise TimedOut(
                f"timed out after {limit_s:g} s waiting for {description}",
                hint="run the cell again; `./lab doctor` checks the engine",
                engine_message=(details() or None) if details else None,
            )
        time.sleep(every_s)
    return result
