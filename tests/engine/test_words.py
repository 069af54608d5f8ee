"""What an engine refuses, in words that a reader can use."""

from __future__ import annotations

import pytest

from labhelpers.errors import EngineRefused
from labhelpers.lab import Lab

LEAST, TRIES = "6m", 6
"""The least that an engine takes as a limit; whether it suffices to start differs from time to time."""


def test_what_is_killed_for_want_of_memory_before_it_begins_is_told_so(quiet: Lab) -> None:
    image, refused = quiet.image("payload"), None
    for _ in range(TRIES):
        try:
            started = quiet.run(image, ["true"], memory=LEAST, memory_swap=LEAST, network="none")
            quiet.remove(started, force=True)
        except EngineRefused as error:
            refused = error
            break
    if refused is None:
        pytest.skip("this engine starts a container in 6 MiB")
    assert "killed before its command began" in refused.message
    assert "memory='32m'" in refused.hint


def test_what_does_not_start_for_another_reason_is_not_told_so(quiet: Lab) -> None:
    with pytest.raises(EngineRefused) as refused:
        quiet.run(quiet.image("payload"), ["no-such-program"], memory="24m", network="none")
    assert "killed" not in refused.value.message
    assert "no-such-program" in str(refused.value.engine_words)
