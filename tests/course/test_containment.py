"""Ways out of a container: each is found, whatever option made it, and an ordinary container has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers.course.escape import _EngineHost, escape_paths
from labhelpers.errors import LabError
from labhelpers.lab import Lab


def started(lab: Lab, **options: Any) -> Container:
    """A container as a reader makes it; `HostConfig` in the spelling of the Engine API."""
    body = {
        "Image": lab.image("payload"),
        "Cmd": ["sleep", "600"],
        "Labels": {"labhelpers.chapter": "test", "labhelpers.session": lab.session},
        "HostConfig": {"NetworkMode": "none", **options},
    }
    made = lab.client.api.create_container_from_config(body)["Id"]  # type: ignore[no-untyped-call]
    lab.client.api.start(made)
    return lab.client.containers.get(made)


def engine_socket(lab: Lab) -> str | None:
    """The engine's socket on its own host; None where it listens on a port alone."""
    return next((path for path in _EngineHost(lab).sockets if path.endswith("docker.sock")), None)


def test_an_ordinary_container_has_none(shared_lab: Lab) -> None:
    shared_lab.create_volume(f"plain-{shared_lab.session}")
    binds = [f"plain-{shared_lab.session}:/v", "/usr/share:/share:ro", "/home/reader/work:/work"]
    made = started(
        shared_lab, NetworkMode="bridge", Init=True, Binds=binds, Tmpfs={"/t": ""}, CapAdd=["NET_ADMIN"]
    )
    assert escape_paths(shared_lab, made) == []
    made.kill()
    made.wait()
    with pytest.raises(LabError, match="is not running"):
        escape_paths(shared_lab, made)


def test_every_mount_that_leads_to_the_engine_or_the_host_is_found(shared_lab: Lab) -> None:
    socket, data = engine_socket(shared_lab) or "/run/any", str(shared_lab.engine.info["DockerRootDir"])
    shared_lab.client.volumes.create(
        f"bind-{shared_lab.session}",
        driver_opts={"type": "none", "o": "bind", "device": "/"},
        labels={"labhelpers.chapter": "test", "labhelpers.session": shared_lab.session},
    )
    binds = {
        "/root-ro": "/:/root-ro:ro",
        "/linked": "/var/run:/linked",
        "/above": f"{Path(socket).parent}:/above:ro",
        "/data": f"{data}:/data:ro",
        "/below": f"{data}/image:/below:ro",
        "/bound": f"bind-{shared_lab.session}:/bound",
        "/settings": "/etc:/settings",
        "/kernel": "/proc/sys:/kernel",
    }
    donor = started(shared_lab, Binds=list(binds.values()))
    found = escape_paths(shared_lab, donor)
    assert [
        point for point in binds if not any(way.startswith(f"its mount {point} is ") for way in found)
    ] == []
    guest = started(shared_lab, VolumesFrom=[f"{donor.id}:ro"])
    assert any(
        way == "its mount /bound is the whole disk of the host" for way in escape_paths(shared_lab, guest)
    )
    (way,) = escape_paths(shared_lab, started(shared_lab, PidMode=f"container:{donor.id}"))
    assert way.startswith(f"it shares a PID namespace with {donor.name}")


def test_the_files_of_images_in_containerds_store_are_the_hosts(shared_lab: Lab) -> None:
    """Engine 29 keeps layers there: whoever writes changes what other containers run."""
    host, path = (
        _EngineHost(shared_lab),
        "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs",
    )
    assert "of the host, writable" in (host.exposes(path, False) or "")
    assert host.exposes(path, True) is None


def test_a_container_is_as_open_as_the_one_that_joins_it(shared_lab: Lab) -> None:
    made = started(shared_lab)
    assert escape_paths(shared_lab, made) == []
    started(shared_lab, PidMode=f"container:{made.id}", Binds=["/:/host:ro"])
    assert "can reach the host: its mount /host is the whole disk" in escape_paths(shared_lab, made)[0]


def test_namespaces_rights_and_devices_of_the_host_are_found(shared_lab: Lab) -> None:
    host = dict.fromkeys(("PidMode", "IpcMode", "UTSMode", "NetworkMode"), "host")
    rights = ["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"]
    device = {"PathOnHost": "/dev/null", "PathInContainer": "/dev/other", "CgroupPermissions": "rwm"}
    made = started(
        shared_lab,
        **host,
        CapAdd=rights,
        SecurityOpt=["seccomp=unconfined", "apparmor=unconfined"],
        Devices=[device],
        MaskedPaths=[],
        ReadonlyPaths=[],
    )
    found = "\n".join(escape_paths(shared_lab, made))
    for kind in ("pid", "ipc", "uts", "net"):
        assert f"({kind})" in found
    for text in (*rights, "seccomp filter", "apparmor=unconfined", "/dev/null", "/proc/sys"):
        assert text in found
    granted = "\n".join(escape_paths(shared_lab, made, allowed=["SYS_ADMIN", "seccomp"]))
    assert "SYS_ADMIN" not in granted
    assert "seccomp filter" not in granted
    assert "SYS_PTRACE" in granted


# a proxy as in many guides: whatever comes in goes to the engine's socket
FORWARDER = """
import asyncio
async def pump(reader, writer):
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    to_engine = await asyncio.open_unix_connection("/engine.sock")
    await asyncio.gather(pump(reader, to_engine[1]), pump(to_engine[0], writer))
async def main():
    await asyncio.start_unix_server(serve, "/shared/api.sock")
    await (await asyncio.start_server(serve, "0.0.0.0", 2375)).serve_forever()
asyncio.run(main())
"""


def test_a_proxy_in_another_container_is_found_by_what_it_answers(shared_lab: Lab) -> None:
    socket = engine_socket(shared_lab)
    if socket is None:
        pytest.skip(f"the engine has no socket to mount: it listens on {shared_lab.engine.address}")
    volume = shared_lab.create_volume(f"shared-{shared_lab.session}").name
    shared_lab.run(
        shared_lab.image("tools"),
        ["python3", "-c", FORWARDER],
        volumes=[f"{socket}:/engine.sock", f"{volume}:/shared"],
    )
    guest = started(shared_lab, Binds=[f"{volume}:/seen:ro"])
    neighbour = started(shared_lab, NetworkMode="bridge")
    for _ in range(100):  # until it listens
        if escape_paths(shared_lab, guest):
            break
    assert escape_paths(shared_lab, guest) == ["its socket /seen/api.sock forwards commands to the engine"]
    way = escape_paths(shared_lab, neighbour)[0]
    assert way.startswith("it can reach the engine's API over the network at ")
    assert way.endswith(":2375")
