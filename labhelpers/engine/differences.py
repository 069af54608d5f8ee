"""Engine settings that differ from the defaults and matter to the course.

Computed from the engine's `GET /info`, `GET /version` and the options of its default bridge (Engine API). Keys that a
version does not send are taken as defaults: a difference is reported only if the engine reports it.
"""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException
from requests.exceptions import RequestException

from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER, has_readable_logs
from labhelpers.results import Result, column, record

if TYPE_CHECKING:
    from labhelpers.engine.find import Engine

OVERLAY = ("overlay2", "overlayfs", "overlay", "fuse-overlayfs", "io.containerd.snapshotter.v1.overlayfs")
"""Storage drivers that use the kernel's overlay file system, or work like it."""
DELEGATE = "/etc/systemd/system/user@.service.d/delegate.conf"
_BRIDGE_OPTION_PREFIX = "com.docker.network.bridge."
# the default, and wrappers of it that make no difference to a container
_RUNC = ("", "runc", "crun", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux", "nvidia", "oci")
_MIN_NETWORKS = 30
"""Chapter 5 uses up to a dozen at a time; the default pools have room for 31 or more."""
_LIMITS = {
    "memory": ("MemoryLimit",),
    "cpu": ("CpuCfsQuota", "CpuCfsPeriod", "CPUShares"),
    "cpuset": ("CPUSet",),
    "pids": ("PidsLimit",),
}
"""Controller → the keys of `/info` that are false if the engine cannot use it."""
_ROOTLESS_PAGE = "https://docs.docker.com/engine/security/rootless/tips/#limiting-resources"


@record
class Difference(Result):
    """One setting of an engine that is not the default."""

    name: str = column("name of the setting in dockerd(8) or `docker info`")
    message: str = column("what is different on this engine")
    chapters: tuple[str, ...] = column("chapters that are affected")
    hint: str = column("what you can do about it")

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


def differences(engine: Engine) -> tuple[Difference, ...]:
    """The differences of this engine; none if it does not respond."""
    with suppress(DockerException, RequestException):
        return from_info(engine.info, engine.version, _bridge(engine)) + _docker_cli()
    return ()


def from_info(
    info: Mapping[str, Any], version: Mapping[str, Any], bridge: Mapping[str, str] | None
) -> tuple[Difference, ...]:
    """The differences, computed from the engine's responses.

    Args:
        info, version: `GET /info` and `GET /version`.
        bridge: the options of the default bridge; None if the engine has no such network.
    """
    podman = any("Podman" in str(part.get("Name")) for part in version.get("Components") or [])
    result = [*_system(info), *_logs(info), *_storage(info), *_users(info), *_limits(info), *_runtime(info)]
    if not podman:  # its other defaults are in `Engine.warnings`
        result += [*_profiles(info), *_networks(info, bridge)]
    return tuple(result)


def relevant_to(chapter: str, differences: tuple[Difference, ...]) -> list[Difference]:
    """Those of `differences` that matter in a chapter: "05", or "05b" for its optional part."""
    return [difference for difference in differences if chapter[:2] in difference.chapters]


def lacks_controller(info: Mapping[str, Any], controller: str) -> bool:
    """Whether the engine reports that it cannot use a controller: `memory`, `cpu`, `cpuset` or `pids`."""
    keys = _LIMITS[controller]
    return has_no_cgroups(info) or any(info.get(key) is False for key in keys)


def security_option(info: Mapping[str, Any], name: str) -> dict[str, str] | None:
    """The fields of one of the engine's security options, None if it is not enabled.

    `name=seccomp,profile=builtin` is `{"name": "seccomp", "profile": "builtin"}`; older engines send `seccomp` only.
    """
    for option in info.get("SecurityOptions") or []:
        fields = dict(field.partition("=")[::2] for field in str(option).split(","))
        if fields.get("name") == name or str(option) == name:
            return fields
    return None


def _bridge(engine: Engine) -> Mapping[str, str] | None:
    rows: Any = engine.client.api.networks(names=["bridge"])
    return next((row.get("Options") or {} for row in rows if row.get("Name") == "bridge"), None)


def _docker_cli() -> tuple[Difference, ...]:
    path = shutil.which("docker")
    if path is None or not is_snap(path):
        return ()
    message = "the `docker` command comes from a snap: it has its own /tmp and cannot read hidden directories"
    hint = (
        "let the shell open the files (`docker save IMAGE > FILE`, not `-o FILE`), and keep the state "
        "directory where it can read: `LABHELPERS_HOME=~/labhelpers ./lab up`"
    )
    return (Difference("snap", message, ("02", "06", "07"), hint),)


def is_snap(command: str) -> bool:
    """Whether a command is run by snapd: /snap/bin/docker is a link to /usr/bin/snap."""
    real = str(Path(command).resolve())
    return any(
        path.startswith(("/snap/", "/var/lib/snapd/")) or path == "/usr/bin/snap" for path in (command, real)
    )


# --- one function for each part of the engine's responses


def _system(info: Mapping[str, Any]) -> Iterator[Difference]:
    if info.get("OSType", "linux") != "linux":
        yield Difference(
            "OSType",
            f"this engine runs {info['OSType']} containers, and the course needs Linux containers",
            tuple(f"{number:02}" for number in range(10)),
            "Docker Desktop: right-click its icon, “Switch to Linux containers…”",
        )
    if "Docker Desktop" in str(info.get("OperatingSystem")):
        yield Difference(
            "Docker Desktop",
            "this engine runs in the virtual machine of Docker Desktop, which shares some of your directories",
            ("07",),
            "add more directories in its settings, under Resources, File sharing",
        )
    root = str(info.get("DockerRootDir") or "")
    if root.startswith(("/var/snap/", "/snap/")):
        yield Difference(
            "snap",
            "this engine comes from a snap: its data is below /var/snap/docker, and it can mount only "
            "directories in your home",
            ("07", "08"),
            "bind mounts work for directories of your home whose names do not begin with a dot",
        )
    if (info.get("Plugins") or {}).get("Authorization"):
        names = ", ".join(info["Plugins"]["Authorization"])
        yield Difference(
            "authorization-plugins",
            f"this engine uses an authorization plugin ({names})",
            (),
            "if a request is denied, the message names the plugin: ask the engine's administrator",
        )


def _logs(info: Mapping[str, Any]) -> Iterator[Difference]:
    if not has_readable_logs(info):
        yield Difference(
            "log-driver",
            f"`docker logs` may not work on this engine: its log driver is {info['LoggingDriver']!r}",
            ("01", "06", "08", "09"),
            f"the lab starts its containers with `--log-driver {DEFAULT_LOG_DRIVER}`; "
            "add that to yours to see their logs",
        )
    if info.get("LiveRestoreEnabled") is True:
        yield Difference(
            "live-restore",
            "containers keep running while this engine is restarted (live-restore)",
            ("09",),
            "the chapter restarts a nested engine without live-restore; on yours, containers keep running",
        )


def _storage(info: Mapping[str, Any]) -> Iterator[Difference]:
    driver = str(info.get("Driver") or "overlay2")
    status = {str(row[0]): str(row[1]) for row in info.get("DriverStatus") or [] if len(row) == 2}
    if driver not in OVERLAY:
        full = (
            ": each layer is a full copy, which needs disk space and time"
            if driver in ("vfs", "native")
            else ""
        )
        yield Difference(
            "storage-driver",
            f"this engine uses the storage driver {driver!r} instead of overlay2{full}",
            ("02",),
            "the experiments on overlay directories are not possible here; the rest of the chapter works",
        )
    if status.get("Supports d_type") == "false":
        yield Difference(
            "d_type",
            "the file system of this engine's data root does not support d_type (XFS created with ftype=0)",
            ("02",),
            "deleted files may stay visible in containers: move the data root to another file system",
        )
    if status.get("Backing Filesystem") == "tmpfs":
        yield Difference(
            "data-root",
            "this engine keeps its data in memory (tmpfs)",
            ("04", "07"),
            "speeds and limits of a disk cannot be measured here",
        )


def _users(info: Mapping[str, Any]) -> Iterator[Difference]:
    if security_option(info, "rootless"):
        yield Difference(
            "rootless",
            "this engine is rootless: root in a container is your user, and other users are your "
            "subordinate IDs",
            ("03", "05", "07", "09"),
            "`cat /etc/subuid` shows which; its host is the user namespace of RootlessKit",
        )
    elif security_option(info, "userns"):
        yield Difference(
            "userns-remap",
            "this engine remaps users (userns-remap): root in a container is an unprivileged user of the "
            "host",
            ("03", "05", "07", "09"),
            "a container that shares a namespace of the host, or opens the engine's socket, also needs `--userns host`",
        )


def has_no_cgroups(info: Mapping[str, Any]) -> bool:
    """Whether containers have no cgroup of their own: a rootless engine on version 1 (`CgroupDriver: none`)."""
    return info.get("CgroupDriver") == "none"


def _limits(info: Mapping[str, Any]) -> Iterator[Difference]:
    missing = [name for name in _LIMITS if lacks_controller(info, name)]
    if missing:
        names = ", ".join(missing)
        yield Difference(
            "cgroup controllers",
            f"this engine cannot use these cgroup controllers: {names}",
            ("01", "04", "06"),
            _next_for(info, missing),
        )


def _next_for(info: Mapping[str, Any], missing: list[str]) -> str:
    if security_option(info, "rootless"):
        return (
            f"have systemd delegate them: in {DELEGATE} write [Service] and Delegate=cpu cpuset io memory pids "
            f"({_ROOTLESS_PAGE})"
        )
    if "memory" in missing:
        return (
            "the kernel has disabled them: boot with `cgroup_enable=memory` (Raspberry Pi: at the end of "
            "the line in /boot/firmware/cmdline.txt)"
        )
    return "measurements that need them are skipped; `cat /proc/cgroups` on the engine's host shows what its kernel has"


def _runtime(info: Mapping[str, Any]) -> Iterator[Difference]:
    runtime = str(info.get("DefaultRuntime") or "")
    if runtime == "sysbox-runc":
        yield Difference(
            "Enhanced Container Isolation",
            "this engine isolates every container in a user namespace (Enhanced Container Isolation)",
            ("01", "03", "04", "05", "07", "09"),
            "what the lab cannot read on the engine's host is skipped; Docker Desktop's settings turn it off",
        )
    elif runtime.rpartition("/")[2] not in _RUNC:
        yield Difference(
            "default-runtime",
            f"this engine runs containers with {runtime!r}, not with runc",
            ("01", "03", "04", "05"),
            "containers may run on their own kernel, and the host may not see their processes",
        )


def _profiles(info: Mapping[str, Any]) -> Iterator[Difference]:
    options = info.get("SecurityOptions")
    if security_option(info, "selinux"):
        yield Difference(
            "selinux",
            "SELinux confines the containers of this engine: a bind-mounted directory needs a label",
            ("07", "08"),
            "add `:z` to a bind mount of a directory of your own; it relabels the directory's contents",
        )
    if security_option(info, "no-new-privileges"):
        yield Difference(
            "no-new-privileges",
            "programs in containers cannot gain privileges through set-user-ID or file capabilities "
            "(no-new-privileges)",
            ("03",),
            "`su` and `sudo` do not work in a container here",
        )
    if options is None:
        return
    seccomp = security_option(info, "seccomp")
    profile = None if seccomp is None else seccomp.get("profile", "default")
    if profile not in ("default", "builtin"):
        how = (
            "runs containers without a seccomp filter"
            if profile in (None, "unconfined")
            else "uses a custom seccomp profile"
        )
        yield Difference(
            "seccomp-profile",
            f"this engine {how}",
            ("03",),
            "what an unprivileged container can do differs from Docker's default",
        )
    version_2 = str(info.get("CgroupVersion") or "1") == "2"
    if (security_option(info, "cgroupns") is not None) is not version_2:
        mode = "the host's" if version_2 else "its own"
        yield Difference(
            "default-cgroupns-mode",
            f"containers of this engine use {mode} cgroup namespace by default",
            ("03",),
            "`--cgroupns private` and `--cgroupns host` override it for one container",
        )


def _networks(info: Mapping[str, Any], bridge: Mapping[str, str] | None) -> Iterator[Difference]:
    if bridge is None:
        yield Difference(
            "bridge",
            "this engine has no default bridge: containers have no network unless you specify one",
            ("05", "06", "09"),
            "the notebooks need one: start dockerd without `--bridge=none`",
        )
        bridge = {}
    if bridge.get(f"{_BRIDGE_OPTION_PREFIX}enable_icc") == "false":
        yield Difference(
            "icc",
            "containers on this engine's default bridge cannot reach each other (icc=false)",
            ("05",),
            "a network that you create is not affected",
        )
    if bridge.get(f"{_BRIDGE_OPTION_PREFIX}enable_ip_masquerade") == "false":
        yield Difference(
            "ip-masq",
            "this engine does not translate the addresses of containers that leave the host (ip-masq is off)",
            ("05",),
            "replies arrive only if the network has a route to the containers",
        )
    address = bridge.get(f"{_BRIDGE_OPTION_PREFIX}host_binding_ipv4") or "0.0.0.0"
    if address != "0.0.0.0":
        yield Difference(
            "ip",
            f"a port published without an address listens only on {address} on this engine",
            ("05", "06"),
            "give the address: `-p 0.0.0.0:8080:80`",
        )
    if info.get("IPv4Forwarding") is False:
        yield Difference(
            "ip-forward",
            "the kernel of this engine's host does not forward packets, so containers can reach only their "
            "own bridge",
            ("05", "06"),
            "on that host: `sudo sysctl net.ipv4.ip_forward=1`",
        )
    firewall = str((info.get("FirewallBackend") or {}).get("Driver") or "")
    if firewall.startswith("nftables"):
        yield Difference(
            "firewall-backend",
            "this engine writes its rules with nftables: there are no chains named DOCKER-USER or DOCKER-ISOLATION",
            ("05",),
            "`sudo nft list ruleset` on its host shows them",
        )
    room = _networks_left(info.get("DefaultAddressPools") or [])
    if room is not None and room < _MIN_NETWORKS:
        yield Difference(
            "default-address-pools",
            f"this engine's address pools have room for {room} networks",
            ("05", "06", "09"),
            "`docker network prune` removes all unused networks, including your own: list them first",
        )


def _networks_left(pools: list[Mapping[str, Any]]) -> int | None:
    """How many IPv4 networks fit in the pools that daemon.json names; None where it names none."""
    room = 0
    for pool in pools:
        with suppress(ValueError, KeyError, TypeError):
            base = ipaddress.ip_network(pool["Base"], strict=False)
            if base.version == 4:
                room += 2 ** max(0, int(pool["Size"]) - base.prefixlen)
    return room or None
