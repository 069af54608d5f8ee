"""One more engine, in a container of the lab's engine: what such a container may do, and how it is started.

Not `--privileged`: runc refuses that where root itself lacks a capability, as in many sandboxes.
"""

from __future__ import annotations

import io
import tarfile
import time
from typing import TYPE_CHECKING, Any

from labhelpers.engine.streams import Done, execute
from labhelpers.errors import EngineRefused

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

RIGHTS: dict[str, Any] = {
    "cap_add": ["ALL"],
    "cap_drop": ["SYS_RESOURCE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"],
}
"""Options of `Lab.run` for the container of an engine."""

WRITABLE_CGROUPS = """\
# this container's part of each hierarchy is mounted read-only, because it is not privileged
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -o remount,bind,rw /sys/fs/cgroup
    # version 2: a cgroup that hands controllers on to others has no processes of its own
    mkdir -p /sys/fs/cgroup/init
    for one in $(cat /sys/fs/cgroup/cgroup.procs); do
        echo "$one" >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || :
    done
    sed -e 's/ / +/g' -e 's/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
    for one in /sys/fs/cgroup/*; do mount -o remount,bind,rw "$one"; done
fi
"""
"""Lines of a shell script to run in it before its engine starts.

Source: kernel docs, cgroup-v2.rst, "No Internal Process Constraint"; moby's `hack/dind` does the same.
"""

START_S = 300.0
"""For an engine on a translated machine; elsewhere it takes a few seconds."""


def started(lab: Lab, image: str, script: str, **options: Any) -> Container:
    """A container that runs `script` with the rights of an engine; its data goes with it.

    Args:
        image: one with `dockerd` and `sh`.
        options: of `Lab.run`: name, hostname, network, …

    Raises:
        EngineRefused: this engine gives no such rights.
    """
    options = {"volumes": ["/var/lib/docker"], **options}
    if lab.engine.remaps_users:
        # a root that is mapped owns no cgroups
        options["userns_mode"] = "host"
    try:
        return lab.run(image, ["sh", "-c", script], **options, **RIGHTS)
    except EngineRefused as error:
        # Docker 28 refuses to drop what it does not have itself: then nothing needs to be dropped
        if "CapDrop" not in (error.engine_words or ""):
            raise
        return lab.run(image, ["sh", "-c", script], **options, **{**RIGHTS, "cap_drop": []})


def archive(lab: Lab, image: str) -> bytes:
    """A tar with what `docker save` says of `image` in it, as `/payload.tar`."""
    saved = b"".join(lab.client.images.get(image).save(named=image))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("payload.tar")
        entry.size = len(saved)
        tar.addfile(entry, io.BytesIO(saved))
    return made.getvalue()


def ready(container: Any, archive: bytes) -> str | None:
    """Wait for an engine and give it the image; None, or what went wrong."""
    container.put_archive("/", archive)
    end = time.monotonic() + START_S
    done = Done(1, b"", b"")
    while time.monotonic() < end:
        done = execute(container.client.api, container.id, ["docker", "load", "-q", "-i", "/payload.tar"])
        if done.exit_code == 0:
            return None
        container.reload()
        if container.status != "running":
            break
        time.sleep(0.5)
    last = [
        *container.logs().decode(errors="replace").strip().splitlines(),
        (done.stdout + done.stderr).decode(errors="replace").strip(),
    ]
    return next(
        (line for line in reversed(last) if "failed" in line or "rror" in line), "it does not respond"
    )
