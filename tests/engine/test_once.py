"""A container that ends: its output is read without its log, and nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError

from labhelpers.engine import Engine
from labhelpers.engine.run_once import has_readable_logs, last_lines, run_once
from labhelpers.errors import EngineRefused, ImageMissing, LabError
from labhelpers.lab import Lab
from labhelpers.persistence import servers
from labhelpers.services import startup

IMAGE = "labhelpers/payload"


def body(*command: str) -> dict[str, Any]:
    return {"Image": IMAGE, "Cmd": list(command), "HostConfig": {"NetworkMode": "none"}}


def test_both_streams_and_the_exit_status(shared_lab: Lab) -> None:
    done = shared_lab.run_once(IMAGE, ["sh", "-c", "echo out; echo err >&2; exit 3"], network="none")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)


def test_long_output_arrives_whole_and_the_log_is_not_its_source(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr(engine.client.api, "logs", refuse)
    done = run_once(engine.client.api, body("head", "-c", "300000", "/dev/zero"))
    assert done.stdout == bytes(300_000)


def test_nothing_stays_of_one_that_cannot_start(shared_lab: Lab) -> None:
    with pytest.raises(EngineRefused):
        shared_lab.run_once(IMAGE, ["/no-such-program"])
    mine = {"label": f"labhelpers.session={shared_lab.session}"}
    assert shared_lab.client.api.containers(all=True, filters=mine) == []


def test_one_that_does_not_end_is_removed_and_reported(shared_lab: Lab) -> None:
    with pytest.raises(LabError, match="timed out after") as caught:
        shared_lab.run_once(IMAGE, ["sh", "-c", "echo begun; sleep 600"], network="none", limit_s=3)
    assert caught.value.engine_message == "begun\n"
    mine = {"label": f"labhelpers.session={shared_lab.session}"}
    assert shared_lab.client.api.containers(all=True, filters=mine) == []


def test_an_image_that_is_not_there(shared_lab: Lab, engine: Engine) -> None:
    with pytest.raises(ImageMissing):
        shared_lab.run_once("labhelpers/no-such-image", "true")
    with pytest.raises(APIError):
        run_once(engine.client.api, {"Image": "labhelpers/no-such-image"})


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"LoggingDriver": "json-file"}, True),
        ({"LoggingDriver": "local"}, True),
        ({"LoggingDriver": "journald"}, True),
        ({"LoggingDriver": "k8s-file"}, True),  # Podman
        ({}, True),
        ({"LoggingDriver": ""}, True),
        ({"LoggingDriver": "none"}, False),
        ({"LoggingDriver": "syslog"}, False),
        ({"LoggingDriver": "grafana/loki-docker-driver:latest"}, False),
    ],
    ids=str,
)
def test_which_engines_keep_logs(info: dict[str, str], kept: bool) -> None:
    assert has_readable_logs(info) is kept


def test_where_the_engine_keeps_none_the_labs_own_containers_have_a_log(
    shared_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shared_lab.engine.info, "LoggingDriver", "none")
    made = shared_lab.run(IMAGE, ["sleep", "300"], network="none")
    assert made.attrs["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert "--log-driver json-file" in shared_lab.commands[-1]
    shared_lab.remove(made, force=True)


def test_a_log_that_cannot_be_read_is_reported(shared_lab: Lab) -> None:
    """A reader's own container on an engine with `"log-driver": "none"`: what needs its log names the driver."""
    mute = shared_lab.run(
        IMAGE, ["sh", "-c", "echo unheard; exec sleep 300"], network="none", log_driver="none"
    )
    assert "does not support reading" in last_lines(shared_lab.client.api, str(mute.id), 3)
    with pytest.raises(LabError, match="log driver is 'none'") as caught:
        startup.log(shared_lab, str(mute.name))
    assert "--log-driver json-file" in caught.value.hint
    # where a server's log cannot be read, its client is asked instead
    assert servers.says_ready(shared_lab, str(mute.name))
    shared_lab.remove(mute, force=True)


def test_the_end_of_a_log(shared_lab: Lab) -> None:
    output = shared_lab.run(
        IMAGE, ["sh", "-c", "echo one; echo two; echo three; exec sleep 300"], network="none"
    )
    shared_lab.wait_for(
        "the last lines", lambda: last_lines(shared_lab.client.api, str(output.id), 2) == "two\nthree", 30
    )
    shared_lab.remove(output, force=True)
