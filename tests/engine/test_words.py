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
    assert "memory='32m'" in refused.hint


@pytest.mark.parametrize(("memory", "told"), [("24m", True), ("32m", False), (None, False)])
def test_memory_is_spoken_of_where_there_is_little(quiet: Lab, memory: str | None, told: bool) -> None:
    options = {"memory": memory} if memory else {}
    with pytest.raises(EngineRefused) as refused:
        quiet.run(quiet.image("payload"), ["no-such-program"], network="none", **options)
    assert ("memory=" in refused.value.hint) is told
    assert "no-such-program" in str(refused.value.engine_words)
