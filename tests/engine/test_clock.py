"""Time on the engine's host: engine C was a file for a while, and must not be behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from labhelpers.engine import Engine


def test_the_engine_has_our_time(engine: Engine) -> None:
    theirs = datetime.fromisoformat(engine.client.info()["SystemTime"])
    assert abs(datetime.now(UTC) - theirs) < timedelta(seconds=30)
