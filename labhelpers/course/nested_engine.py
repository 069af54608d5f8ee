"""One more engine, in a container of the lab's engine: what such a container may do, and how it is started.

Not `--privileged`: runc refuses that where root itself lacks a capability, as in many sandboxes.
"""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.errors import EngineRefused, NotRunning, TimedOut

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

CONTAINER_OPTIONS: dict[str, Any] = {
    "cap_add": ["ALL"],
    "cap_drop": ["SYS_RESOURCE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"],
}
"""Options of `Lab.run` for the container of an engine."""

REMOUNT_CGROUPS_SCRIPT = (
    Path(__file__).with_name("inside").joinpath("writable-cgroups.sh").read_text(encoding="utf-8")
)
"""Lines of a shell script to run in it before its engine starts.

Source: kernel docs, cgroup-v2.rst, "No Internal Process Constraint"; moby's `hack/dind` does the same.
"""

_LISTENS = "API listen on"
"""In the log of dockerd once it answers (moby, cmd/dockerd/daemon.go)."""
START_TIMEOUT_S = 300.0
"""For an engine on a translated machine; elsewhere it takes a few seconds."""


def engine_container(lab: Lab, image: str, script: str, **options: Any) -> Container:
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
        return lab.run(image, ["sh", "-c", script], **options, **CONTAINER_OPTIONS)
    except EngineRefused as error:
        # Docker 28 refuses to drop what it does not have itself: then nothing needs to be dropped
        if "CapDrop" not in (error.engine_message or ""):
            raise
        return lab.run(image, ["sh", "-c", script], **options, **{**CONTAINER_OPTIONS, "cap_drop": []})


def payload_archive(lab: Lab, image: str) -> bytes:
    """A tar with the output of `docker save` of `image` in it, as `/payload.tar`."""
    saved = b"".join(lab.client.images.get(image).save(named=image))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("payload.tar")
        entry.size = len(saved)
        tar.addfile(entry, io.BytesIO(saved))
    return made.getvalue()


def wait_until_ready(lab: Lab, container: Container, archive: bytes) -> str | None:
    """Wait for an engine and load the image into it; None, or what went wrong."""
    container.put_archive("/", archive)
    loaded = ""
    with suppress(NotRunning, TimedOut):
        lab.wait_for(
            "the engine in the container",
            lambda: _LISTENS in lab.logs(container),
            START_TIMEOUT_S,
            every_s=0.5,
            while_running=container,
        )
        done = lab.exec(container, ["docker", "load", "-q", "-i", "/payload.tar"])
        if done.exit_code == 0:
            return None
        loaded = str(done).strip()
    last = [*lab.logs(container).strip().splitlines(), loaded]
    return next(
        (line for line in reversed(last) if "failed" in line or "rror" in line), "it does not respond"
    )
