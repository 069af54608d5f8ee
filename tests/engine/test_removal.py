"""Removing what an engine does not give up at the first word."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from labhelpers import ours
from labhelpers.engine.removal import remove_container
from labhelpers.lab import Lab

GIVES_UP_S = 12.0
"""After this long an engine no longer waits for the end of what it killed (moby, daemon/kill.go)."""


@pytest.fixture
def dies_slowly(quiet: Lab) -> Iterator[tuple[str, Path]]:
    """A container that cannot die of its SIGKILL as long as its control group is frozen, and the file that thaws it.

    Frozen is the group above its own: what an engine thaws before it kills is the container's.
    """
    name = f"slow-{secrets.token_hex(4)}"
    group = Path("/sys/fs/cgroup/freezer") / name
    api = quiet.client.api
    quiet.client.containers.run(
        quiet.image("payload"),
        ["sleep", "300"],
        name=name,
        detach=True,
        network_mode="none",
        cgroup_parent=f"/{name}",
        labels=ours.labels("container", "test", quiet.session),
    )
    thaw = group / "freezer.state"
    try:
        if not thaw.exists():
            pytest.skip("freezing what an engine runs needs an engine on this machine, with cgroup v1")
        thaw.write_text("FROZEN")
        yield name, thaw
    finally:
        if thaw.exists():
            thaw.write_text("THAWED")
        with suppress(NotFound):
            remove_container(api, name)
        for parent in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            parent.rmdir()


def test_a_container_that_dies_after_the_engine_gave_up_is_removed(
    quiet: Lab, dies_slowly: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, thaw = dies_slowly
    api, refused = quiet.client.api, []
    ask = api.remove_container

    def heard(*asked: Any, **how: Any) -> None:
        try:
            ask(*asked, **how)
        except APIError as error:
            refused.append(str(error.explanation))
            raise

    monkeypatch.setattr(api, "remove_container", heard)
    later = threading.Timer(GIVES_UP_S + 2, thaw.write_text, ["THAWED"])
    later.start()
    quiet.remove(name, force=True)
    later.join()
    assert ["did not receive an exit event" in words for words in refused] == [True]
    with pytest.raises(NotFound):
        api.inspect_container(name)
