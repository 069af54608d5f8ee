"""The vocabulary of checks on the real engine: each is met by the right state, and names what is missing otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from docker.errors import NotFound
from docker.models.containers import Container

from labhelpers.course import checks
from labhelpers.course.containers import (
    command_of,
    environment_of,
    existing,
    session_value,
    store_value,
    stored_value,
)
from labhelpers.course.exercises import Check
from labhelpers.errors import BadInput, ContainerMissing
from labhelpers.lab import Lab

WEB = "checks-web"
VOLUME = "checks-data"


@pytest.fixture(scope="module")
def web(shared_lab: Lab) -> Iterator[Container]:
    """A container with a named, an anonymous and a memory volume, a bind mount, and two published ports."""
    shared_lab.create_volume(VOLUME)
    shared_lab.client.volumes.create(
        "checks-memory",
        driver_opts={"type": "tmpfs", "device": "tmpfs"},
        labels=shared_lab._labels("volume"),
    )
    mounts = [f"{VOLUME}:/data", "/anonymous", "checks-memory:/memory"]
    container = shared_lab.run(
        shared_lab.image("payload"),
        ["sh", "-c", "echo right > /answer; : > /empty; exec sleep 600"],
        name=WEB,
        volumes=[*mounts, f"{shared_lab.directory_of(VOLUME)}:/bind"],
        environment={"WORD": "a=b", "NOTHING": ""},
        ports={"80/tcp": ("127.0.0.1", None), "81/tcp": ("127.0.0.2", None)},
    )
    container.reload()
    yield container
    shared_lab.remove(container, force=True, volumes=True)
    for name in (VOLUME, "checks-memory"):
        with suppress(NotFound):
            shared_lab.client.volumes.get(name).remove(force=True)


def judge(lab: Lab, text: str) -> str | None:
    return None if text == "right" else f"“{text}” is wrong"


@pytest.mark.parametrize(
    ("check", "missing"),
    [
        (checks.are_running(WEB), None),
        (checks.are_running(WEB, "checks-none"), "there is no container named checks-none"),
        (checks.has_answer(WEB, "/answer", judge), None),
        (checks.has_answer(WEB, "/empty", judge), f"{WEB} has no file /empty, or it is empty"),
        (checks.has_answer(WEB, "/none", judge), f"{WEB} has no file /none, or it is empty"),
        (checks.has_answer(WEB, "/etc/hostname", lambda lab, text: "wrong"), "wrong"),
        (checks.has_volume(VOLUME), None),
        (checks.has_volume("checks"), "the engine has no volume called checks"),
        (checks.has_network("bridge"), None),
        (checks.has_network("checks-none"), "the engine has no network called checks-none"),
        (checks.has_image("labhelpers/payload"), None),
        (
            checks.has_image("labhelpers/payload", "checks/none:1"),
            "the engine has no image checks/none:1",
        ),
        (checks.made_from(WEB, "sha256:0", "base"), f"{WEB} runs another image than base"),
        (checks.mounts(WEB, "/data", VOLUME), None),
        (checks.mounts(WEB, "/data"), None),
        (checks.mounts(WEB, "/data", "other"), "it is not the volume other"),
        (
            checks.mounts(WEB, "/none", VOLUME),
            f"/none is not the volume {VOLUME}: nothing is mounted at /none",
        ),
        (checks.mounts(WEB, "/none"), "there is something at /anonymous, /bind, /data, /memory"),
        (checks.mounts(WEB, "/bind", VOLUME), "/bind of checks-web is a bind mount, and not a volume"),
        (checks.mounts(WEB, "/anonymous"), "has no name that you could find again"),
        (checks.mounts(WEB, "/memory"), "the volume checks-memory is memory (tmpfs)"),
        (checks.published_on(WEB, "80/tcp"), None),
        (checks.published_on(WEB, "80/tcp", 1), "not as 1"),
        (checks.published_on(WEB, "81/tcp"), "its port is published on 127.0.0.2, and not on 127.0.0.1"),
        (checks.published_on(WEB, "82/tcp"), "its port 82 is not published"),
        (
            checks.all_of(checks.has_volume(VOLUME), checks.has_volume("a"), checks.has_volume("b")),
            "called a",
        ),
    ],
)
def test_checks(shared_lab: Lab, web: Container, check: Check, missing: str | None) -> None:
    result = check(shared_lab)
    assert result is None if missing is None else missing in str(result)


def test_a_port_that_is_in_use_by_another_container_must_not_be_taken(
    shared_lab: Lab, web: Container
) -> None:
    port = int(web.ports["80/tcp"][0]["HostPort"])
    assert checks.published_on(WEB, "80/tcp", port)(shared_lab) is None
    missing = checks.published_on(WEB, "80/tcp", other_than=port)(shared_lab)
    assert missing == f"its port is published as {port}"
    image_id = web.attrs["Image"]
    assert checks.made_from(WEB, image_id, "payload")(shared_lab) is None


def test_the_configuration_of_a_container(shared_lab: Lab, web: Container) -> None:
    assert environment_of(web)["WORD"] == "a=b"
    assert environment_of(web)["NOTHING"] == ""
    assert command_of(web).startswith("sh -c echo right")
    assert existing(shared_lab, WEB).id == web.id
    with pytest.raises(ContainerMissing, match="no container named checks-none"):
        existing(shared_lab, "checks-none")
    with pytest.raises(BadInput, match="not the name of a container"):
        existing(shared_lab, "")


def test_the_hint_of_a_container_that_has_exited_names_its_command(shared_lab: Lab) -> None:
    task = checks.runs("checks-exited", "Give it a longer one.")
    assert callable(task.hint)
    assert task.hint(shared_lab) == "Give it a longer one."
    container = shared_lab.run(shared_lab.image("payload"), "true", name="checks-exited", network="none")
    container.wait()
    assert "its command was `true`. Give it a longer one." in task.hint(shared_lab)
    assert "is not running" in str(task.check(shared_lab))


def test_a_value_is_drawn_once_in_a_session(shared_lab: Lab) -> None:
    assert stored_value(shared_lab, "word") is None
    assert session_value(shared_lab, "word", lambda: "first") == "first"
    assert session_value(shared_lab, "word", lambda: "second") == "first"
    store_value(shared_lab, "word", "third")
    assert stored_value(shared_lab, "word") == session_value(shared_lab, "word", lambda: "fourth") == "third"
