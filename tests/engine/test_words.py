"""What an engine refuses, in words that a reader can use."""

from __future__ import annotations

import pytest
from docker.errors import APIError

from labhelpers.engine.error_translation import engine_refused
from labhelpers.errors import EngineRefused
from labhelpers.lab import Lab

LEAST, TRIES = "6m", 6
"""The least that an engine takes as a limit; whether it suffices to start differs from time to time."""


def test_what_is_killed_for_want_of_memory_before_it_begins_is_reported_as_such(quiet_lab: Lab) -> None:
    image, error = quiet_lab.image("payload"), None
    for _ in range(TRIES):
        try:
            started = quiet_lab.run(image, ["true"], memory=LEAST, memory_swap=LEAST, network="none")
            quiet_lab.remove(started, force=True)
        except EngineRefused as caught:
            error = caught
            break
    if error is None:
        pytest.skip("this engine starts a container in 6 MiB")
    assert "memory='32m'" in error.hint


@pytest.mark.parametrize(("memory", "raised"), [("24m", True), ("32m", False), (None, False)])
def test_memory_is_spoken_of_where_there_is_little(quiet_lab: Lab, memory: str | None, raised: bool) -> None:
    options = {"memory": memory} if memory else {}
    with pytest.raises(EngineRefused) as caught:
        quiet_lab.run(quiet_lab.image("payload"), ["no-such-program"], network="none", **options)
    assert ("memory=" in caught.value.hint) is raised
    assert "no-such-program" in str(caught.value.engine_message)


@pytest.mark.parametrize(
    ("message", "step"),
    [
        (
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
            "Delegate=cpu cpuset io memory pids",
        ),
        (
            "crun: the requested cgroup controller `cpu` is not available: OCI runtime error",
            "delegate.conf",
        ),
        ("cannot share the host's network namespace when user namespaces are enabled", "--userns host"),
        (
            "privileged mode is incompatible with user namespaces. You must run the container in the host",
            "--userns",
        ),
        ("configured logging driver does not support reading", "--log-driver json-file"),
        ("something else", "Docker's message above"),
    ],
    ids=lambda text: text[:24],
)
def test_the_hint_is_for_the_engines_reason(message: str, step: str) -> None:
    """Messages of moby (daemon/daemon_unix.go, daemon/logs.go) and crun, replayed: such engines cannot be had here."""
    assert step in engine_refused(APIError("400", explanation=message)).hint


def test_a_cpu_that_the_engine_may_not_use(quiet_lab: Lab) -> None:
    with pytest.raises(EngineRefused) as caught:
        quiet_lab.run(quiet_lab.image("payload"), ["true"], network="none", cpuset_cpus="4000")
    assert "Cpus_allowed_list" in caught.value.hint
