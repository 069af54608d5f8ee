"""Hosts with SELinux: the mount options that the lab uses, and the error for a container that cannot read.

The tests have no such host. Every engine accepts `:z`, and file modes deny access as a label would.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.volumes import bind_sources, common

SELINUX = ["name=seccomp,profile=builtin", "name=selinux", "name=cgroupns"]


@pytest.fixture
def confined(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setitem(shared_lab.engine.info, "SecurityOptions", SELINUX)
    return shared_lab


def test_a_directory_of_the_lab_gets_the_label_of_containers(confined: Lab) -> None:
    with common.volume(confined, "label") as name:
        source = common.directory_of(confined, name)
        options = common.bind_options(confined, source, "/data", volumes=["other:/other"])
        assert options == {"volumes": ["other:/other", f"{source}:/data:z"]}
        common.output(confined, ["touch", "/data/file"], **common.bind_options(confined, source, "/data"))
        listing = common.output(
            confined, ["ls", "/data"], **common.bind_options(confined, source, "/data", readonly=True)
        )
        assert listing == "file\n"


def test_without_selinux_the_mount_has_no_label(shared_lab: Lab) -> None:
    assert common.bind_options(shared_lab, "/source", "/data", readonly=True, tmpfs={"/x": ""}) == {
        "tmpfs": {"/x": ""},
        "mounts": ["type=bind,source=/source,target=/data,readonly"],
    }


def test_the_container_itself_checks_whether_it_can_read(confined: Lab) -> None:
    with common.volume(confined, "shut") as name:
        common.output(confined, ["chmod", "700", "/data"], volumes=[f"{name}:/data"])
        mounted = {"volumes": [f"{name}:/data"], "cap_drop": ["ALL"]}
        with (
            confined.running(
                confined.image("payload"), common.KEEP_RUNNING, network="none", **mounted, user=65534
            ) as shut,
            confined.running(
                confined.image("payload"), common.KEEP_RUNNING, network="none", **mounted
            ) as free,
        ):
            with pytest.raises(LabError, match="SELinux") as caught:
                bind_sources._check_readable(confined, str(shut.name), Path("/mine"), "/data")
            assert "-v /mine:/data:z" in caught.value.hint
            bind_sources._check_readable(confined, str(free.name), Path("/mine"), "/data")
