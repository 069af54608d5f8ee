"""A nested engine, in a container of the lab's engine: its privileges, and how it is started.

Not `--privileged`: runc refuses that if root itself lacks a capability, as in many sandboxes.
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
"""Lines of a shell script that run in the container before its engine starts.

Source: kernel docs, cgroup-v2.rst, "No Internal Process Constraint"; moby's `hack/dind` does the same.
"""

_LISTENS = "API listen on"
"""In the log of dockerd once its API listens (moby, cmd/dockerd/daemon.go)."""
START_TIMEOUT_S = 300.0
"""For an emulated machine; elsewhere it takes a few seconds."""


def engine_container(lab: Lab, image: str, script: str, **options: Any) -> Container:
    """A container that runs `script` with the privileges of an engine; its data is removed with it.

    Args:
        image: an image with `dockerd` and `sh`.
        options: of `Lab.run`: name, hostname, network, …

    Raises:
        EngineRefused: this engine does not grant these privileges.
    """
    options = {"volumes": ["/var/lib/docker"], **options}
    if lab.engine.remaps_users:
        # a remapped root does not own its cgroups
        options["userns_mode"] = "host"
    try:
        return lab.run(image, ["sh", "-c", script], **options, **CONTAINER_OPTIONS)
    except EngineRefused as error:
        # Docker 28 refuses to drop a capability that it does not have; then it need not be dropped
        if "CapDrop" not in (error.engine_message or ""):
            raise
        return lab.run(image, ["sh", "-c", script], **options, **{**CONTAINER_OPTIONS, "cap_drop": []})


def payload_archive(lab: Lab, image: str) -> bytes:
    """A tar archive with the output of `docker save` of `image`, as `/payload.tar`."""
    image_archive = b"".join(lab.client.images.get(image).save(named=image))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("payload.tar")
        entry.size = len(image_archive)
        tar.addfile(entry, io.BytesIO(image_archive))
    return archive.getvalue()


def wait_until_ready(lab: Lab, container: Container, archive: bytes) -> str | None:
    """Wait for the engine in a container and load the image into it; an error message, or None on success."""
    container.put_archive("/", archive)
    load_output = ""
    with suppress(NotRunning, TimedOut):
        lab.wait_for(
            "the engine in the container",
            lambda: _LISTENS in lab.logs(container),
            START_TIMEOUT_S,
            every_s=0.5,
            while_running=container,
        )
        completed = lab.exec(container, ["docker", "load", "-q", "-i", "/payload.tar"])
        if completed.exit_code == 0:
            return None
        load_output = str(completed).strip()
    output = [*lab.logs(container).strip().splitlines(), load_output]
    return next(
        (line for line in reversed(output) if "failed" in line or "rror" in line), "it does not respond"
    )
