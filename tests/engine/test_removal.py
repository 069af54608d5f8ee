"""Removing what an engine does not give up at the first word."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from labhelpers.engine.removal import kill_container, remove_container
from labhelpers.lab import Lab, sessions

GIVES_UP_S = 12.0
"""After this long an engine no longer waits for the end of what it killed (moby, daemon/kill.go)."""
WHERE = "freezing what an engine runs needs an engine on this machine, with cgroup v1"


@pytest.fixture
def dies_slowly(quiet_lab: Lab) -> Iterator[tuple[str, Path]]:
    """A container that cannot die of its SIGKILL as long as its control group is frozen, and the file that thaws it.

    Frozen is the group above its own: what an engine thaws before it kills is the container's.
    """
    freezer = Path("/sys/fs/cgroup/freezer")
    # of a systemd of cgroup v2 or another machine's, the parent would be a slice, or out of this test's reach
    if not freezer.exists() or quiet_lab.client.info().get("CgroupDriver") != "cgroupfs":
        pytest.skip(WHERE)
    name = f"slow-{secrets.token_hex(4)}"
    group = freezer / name
    api = quiet_lab.client.api
    quiet_lab.client.containers.run(
        quiet_lab.image("payload"),
        ["sleep", "300"],
        name=name,
        detach=True,
        network_mode="none",
        cgroup_parent=f"/{name}",
        labels=sessions.labels("container", "test", quiet_lab.session),
    )
    thaw = group / "freezer.state"
    try:
        if not thaw.exists():
            pytest.skip(WHERE)
        thaw.write_text("FROZEN", encoding="utf-8")
        yield name, thaw
    finally:
        if thaw.exists():
            thaw.write_text("THAWED", encoding="utf-8")
        with suppress(NotFound):
            remove_container(api, name)
        for parent in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            parent.rmdir()


def test_a_container_that_dies_after_the_engine_gave_up_is_removed(
    quiet_lab: Lab, dies_slowly: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, thaw = dies_slowly
    api, refused = quiet_lab.client.api, []
    ask = api.remove_container

    def heard(*asked: Any, **how: Any) -> None:
        with _heard(refused):
            ask(*asked, **how)

    monkeypatch.setattr(api, "remove_container", heard)
    with _thawed_late(thaw):
        quiet_lab.remove(name, force=True)
    assert ["did not receive an exit event" in text for text in refused] == [True]
    with pytest.raises(NotFound):
        api.inspect_container(name)


def test_a_container_that_dies_after_the_engine_gave_up_is_killed(
    quiet_lab: Lab, dies_slowly: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, thaw = dies_slowly
    container, refused = quiet_lab.client.containers.get(name), []
    kill = container.kill

    def heard() -> None:
        with _heard(refused):
            kill()

    monkeypatch.setattr(container, "kill", heard)
    with _thawed_late(thaw):
        kill_container(container)
    assert ["did not receive an exit event" in text for text in refused] == [True]
    container.reload()
    assert container.status == "exited"


@contextmanager
def _thawed_late(thaw: Path) -> Iterator[None]:
    """The container can die after the engine gave up."""
    later = threading.Timer(GIVES_UP_S + 2, thaw.write_text, ["THAWED"])
    later.start()
    try:
        yield
    finally:
        later.join()


@contextmanager
def _heard(refused: list[str]) -> Iterator[None]:
    """Keep what the engine says where it refuses."""
    try:
        yield
    except APIError as error:
        refused.append(str(error.explanation))
        raise
