"""What is different on an engine: read from the real one, and from answers of engines that cannot be had here.

The answers are shortened to the keys that are read; each names where its form was taken from.
"""

from __future__ import annotations

from typing import Any

import pytest

from labhelpers.engine import Engine
from labhelpers.engine.differences import differences, from_info, is_snap, lacks_controller, relevant_to
from labhelpers.lab import Lab

ENGINE = {"Version": "28.5.1", "ApiVersion": "1.51", "Components": [{"Name": "Engine", "Version": "28.5.1"}]}
BRIDGE = {
    "com.docker.network.bridge.default_bridge": "true",
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
}
ORDINARY: dict[str, Any] = {
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
    "MemoryLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "CPUSet": True,
    "PidsLimit": True,
    "OomKillDisable": False,
    "IPv4Forwarding": True,
    "LoggingDriver": "json-file",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "OperatingSystem": "Debian GNU/Linux 13 (trixie)",
    "OSType": "linux",
    "DockerRootDir": "/var/lib/docker",
    "DefaultRuntime": "runc",
    "LiveRestoreEnabled": False,
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
}
# Engine API 1.52 reference, GET /info: the containerd store, a firewall backend, no GraphDriver keys
ENGINE_29 = {
    key: value
    for key, value in ORDINARY.items()
    if key not in ("DriverStatus", "OomKillDisable", "IPv4Forwarding")
} | {
    "Driver": "overlayfs",
    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    "FirewallBackend": {"Driver": "iptables"},
    "DefaultAddressPools": [{"Base": "172.17.0.0/12", "Size": 16}, {"Base": "192.168.0.0/16", "Size": 20}],
}
DESKTOP = ENGINE_29 | {"OperatingSystem": "Docker Desktop", "CgroupDriver": "cgroupfs"}
# docs.docker.com, Rootless mode, "Limiting resources": systemd delegates memory and pids alone
ROOTLESS = ORDINARY | {
    "CpuCfsPeriod": False,
    "CpuCfsQuota": False,
    "CPUShares": False,
    "CPUSet": False,
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"],
    "DockerRootDir": "/home/ada/.local/share/docker",
}
# canonical/docker-snap
SNAP = ORDINARY | {"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}
# docker/for-linux#1112
RASPBERRY_PI = ORDINARY | {
    "MemoryLimit": False,
    "SwapLimit": False,
    "Warnings": ["WARNING: No memory limit support", "WARNING: No swap limit support"],
}
PODMAN = {
    "Driver": "overlay",
    "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
    "MemoryLimit": True,
    "CpuCfsQuota": True,
    "LoggingDriver": "",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "DefaultRuntime": "crun",
    "Runtimes": {"crun": {"path": "/usr/bin/crun"}, "runc": {"path": "/usr/bin/runc"}},
    "SecurityOptions": ["name=seccomp,profile=default"],
    "OSType": "linux",
}
PODMAN_VERSION = {"Version": "5.4.2", "Components": [{"Name": "Podman Engine", "Version": "5.4.2"}]}


def names(info: dict[str, Any], bridge: dict[str, str] | None = BRIDGE, version: Any = ENGINE) -> list[str]:
    return [item.name for item in from_info(info, version, bridge)]


def test_the_engines_of_the_suite_are_as_installed(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert differences(engine) == ()
    with Lab("03", engine=engine):
        assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (ORDINARY, []),
        ({}, []),
        (ENGINE_29, []),
        (DESKTOP, ["Docker Desktop"]),
        (ROOTLESS, ["rootless", "cgroup controllers"]),
        (SNAP, ["snap"]),
        (RASPBERRY_PI, ["cgroup controllers"]),
    ],
    ids=["ordinary", "an older one", "29", "Desktop", "rootless", "snap", "Raspberry Pi"],
)
def test_recorded_engines(info: dict[str, Any], expected: list[str]) -> None:
    assert names(info) == expected


def test_podman_is_not_measured_by_dockers_defaults() -> None:
    assert names(PODMAN, None, PODMAN_VERSION) == []


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"LoggingDriver": "none"}, "log-driver"),
        ({"LoggingDriver": "gelf"}, "log-driver"),
        ({"LiveRestoreEnabled": True}, "live-restore"),
        ({"Driver": "vfs"}, "storage-driver"),
        ({"Driver": "btrfs"}, "storage-driver"),
        ({"Driver": "zfs"}, "storage-driver"),
        ({"DriverStatus": [["Backing Filesystem", "xfs"], ["Supports d_type", "false"]]}, "d_type"),
        ({"DriverStatus": [["Backing Filesystem", "tmpfs"]]}, "data-root"),
        ({"CgroupDriver": "none"}, "cgroup controllers"),
        ({"PidsLimit": False}, "cgroup controllers"),
        ({"OSType": "windows"}, "OSType"),
        ({"DefaultRuntime": "sysbox-runc"}, "Enhanced Container Isolation"),
        ({"DefaultRuntime": "runsc"}, "default-runtime"),
        ({"DefaultRuntime": "io.containerd.kata.v2"}, "default-runtime"),
        ({"IPv4Forwarding": False}, "ip-forward"),
        ({"FirewallBackend": {"Driver": "nftables+firewalld"}}, "firewall-backend"),
        ({"DefaultAddressPools": [{"Base": "10.99.0.0/22", "Size": 24}]}, "default-address-pools"),
        ({"Plugins": {"Authorization": ["opa"]}}, "authorization-plugins"),
    ],
    ids=str,
)
def test_settings(setting: dict[str, Any], name: str) -> None:
    assert names(ORDINARY | setting) == [name]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["name=seccomp,profile=builtin", "name=cgroupns", "name=userns"], "userns-remap"),
        (["name=seccomp,profile=builtin", "name=cgroupns", "name=selinux"], "selinux"),
        (["name=seccomp,profile=builtin", "name=cgroupns", "name=no-new-privileges"], "no-new-privileges"),
        (["name=cgroupns"], "seccomp-profile"),
        (["name=seccomp,profile=unconfined", "name=cgroupns"], "seccomp-profile"),
        (["name=seccomp,profile=/etc/docker/strict.json", "name=cgroupns"], "seccomp-profile"),
        (["name=seccomp,profile=builtin"], "default-cgroupns-mode"),
    ],
    ids=str,
)
def test_security_options(options: list[str], name: str) -> None:
    assert names(ORDINARY | {"SecurityOptions": options}) == [name]


@pytest.mark.parametrize(
    ("bridge", "name"),
    [
        (None, "bridge"),
        (BRIDGE | {"com.docker.network.bridge.enable_icc": "false"}, "icc"),
        (BRIDGE | {"com.docker.network.bridge.enable_ip_masquerade": "false"}, "ip-masq"),
        (BRIDGE | {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}, "ip"),
    ],
    ids=str,
)
def test_options_of_the_default_bridge(bridge: dict[str, str] | None, name: str) -> None:
    assert names(ORDINARY, bridge) == [name]


def test_the_next_step_fits_the_cause() -> None:
    (_, rootless), (pi,) = from_info(ROOTLESS, ENGINE, BRIDGE), from_info(RASPBERRY_PI, ENGINE, BRIDGE)
    assert "delegate.conf" in rootless.hint
    assert "cpu, cpuset" in rootless.message
    assert "cgroup_enable=memory" in pi.hint
    assert not lacks_controller(RASPBERRY_PI, "cpu")
    assert lacks_controller(RASPBERRY_PI, "memory")


def test_each_is_printed_in_the_chapters_where_it_matters() -> None:
    found = from_info(ORDINARY | {"Driver": "vfs", "LiveRestoreEnabled": True}, ENGINE, BRIDGE)
    assert [item.name for item in relevant_to("02b", found)] == ["storage-driver"]
    assert [item.name for item in relevant_to("09", found)] == ["live-restore"]
    assert relevant_to("00", found) == []


def test_the_chapters_opening_prints_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(engine.info, "Driver", "vfs")
    with Lab("02", engine=engine):
        assert capsys.readouterr().out.startswith("note: this engine uses the storage driver 'vfs'")


def test_a_command_line_from_a_snap() -> None:
    assert is_snap("/snap/bin/docker")
    assert is_snap("/var/lib/snapd/snap/bin/docker")
    assert not is_snap("/usr/bin/docker")
