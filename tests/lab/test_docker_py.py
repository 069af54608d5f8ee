"""What docker-py calls an option, `Lab.run` takes too, and shows as the command line spells it."""

from __future__ import annotations

from typing import Any

import pytest

from labhelpers.errors import BadInput
from labhelpers.lab import Lab
from labhelpers.lab.docker_py import translate_options


@pytest.mark.parametrize(
    ("theirs", "translated"),
    [
        ({"detach": True}, {}),
        ({"mem_limit": "64m", "memswap_limit": -1}, {"memory": "64m", "memory_swap": -1}),
        ({"nano_cpus": 500_000_000}, {"cpus": 0.5}),
        ({"environment": ["A=b=c", "D="]}, {"environment": {"A": "b=c", "D": ""}}),
        ({"environment": {"A": "b"}}, {"environment": {"A": "b"}}),
        ({"volumes": {"data": {"bind": "/data"}}}, {"volumes": ["data:/data"]}),
        ({"volumes": {"/srv": {"bind": "/srv", "mode": "ro"}}}, {"volumes": ["/srv:/srv:ro"]}),
        ({"restart_policy": {"Name": "on-failure", "MaximumRetryCount": 3}}, {"restart": "on-failure:3"}),
        ({"restart_policy": {"Name": "always"}}, {"restart": "always"}),
        (
            {"working_dir": "/srv", "network_mode": "none", "remove": True},
            {"workdir": "/srv", "network": "none", "rm": True},
        ),
    ],
)
def test_options_that_mean_the_same(theirs: dict[str, Any], translated: dict[str, Any]) -> None:
    assert translate_options(theirs) == translated


@pytest.mark.parametrize("options", [{"detach": False}, {"mem_limit": "64m", "memory": "64m"}])
def test_what_does_not_mean_the_same_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        translate_options(options)


def test_the_engine_gets_what_docker_py_would_send(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    container = lab.run(
        lab.image("payload"),
        ["sleep", "60"],
        detach=True,
        mem_limit="64m",
        network_mode="none",
        volumes={"/etc/hostname": {"bind": "/host-name", "mode": "ro"}},
    )
    host = lab.inspect(container)["HostConfig"]
    assert (host["Memory"], host["NetworkMode"], host["Binds"]) == (
        64 << 20,
        "none",
        ["/etc/hostname:/host-name:ro"],
    )
    assert "--memory 64m" in capsys.readouterr().out
