"""Hosts with SELinux: what the lab asks of the engine, and what a container that may not read is taken for.

No such host can be had here. Any engine takes `:z`, and modes keep a container from reading as a label would.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.volumes import sources, stage

SELINUX = ["name=seccomp,profile=builtin", "name=selinux", "name=cgroupns"]


@pytest.fixture
def confined(there: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setitem(there.engine.info, "SecurityOptions", SELINUX)
    return there


def test_a_directory_of_the_lab_gets_the_label_of_containers(confined: Lab) -> None:
    with stage.volume(confined, "label") as name:
        source = stage.directory_of(confined, name)
        options = stage.bound(confined, source, "/data", volumes=["other:/other"])
        assert options == {"volumes": ["other:/other", f"{source}:/data:z"]}
        stage.output(confined, ["touch", "/data/file"], **stage.bound(confined, source, "/data"))
        said = stage.output(
            confined, ["ls", "/data"], **stage.bound(confined, source, "/data", readonly=True)
        )
        assert said == "file\n"


def test_elsewhere_the_mount_is_what_it_was(there: Lab) -> None:
    assert stage.bound(there, "/there", "/data", readonly=True, tmpfs={"/x": ""}) == {
        "tmpfs": {"/x": ""},
        "mounts": ["type=bind,source=/there,target=/data,readonly"],
    }


def test_the_container_itself_is_asked_whether_it_can_read(confined: Lab) -> None:
    with stage.volume(confined, "shut") as name:
        stage.output(confined, ["chmod", "700", "/data"], volumes=[f"{name}:/data"])
        mounted = {"volumes": [f"{name}:/data"], "cap_drop": ["ALL"]}
        with (
            confined.running(
                confined.image("payload"), stage.STAY, network="none", **mounted, user=65534
            ) as shut,
            confined.running(confined.image("payload"), stage.STAY, network="none", **mounted) as free,
        ):
            with pytest.raises(LabError, match="SELinux") as caught:
                sources._must_read(confined, str(shut.name), Path("/mine"), "/data")
            assert "-v /mine:/data:z" in caught.value.hint
            sources._must_read(confined, str(free.name), Path("/mine"), "/data")
