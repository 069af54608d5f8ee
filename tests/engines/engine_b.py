"""Engine B: Docker 28 with the containerd image store, in a container of engine A."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from docker.errors import APIError

from labhelpers import state
from labhelpers.course.nested_engine import CONTAINER_OPTIONS, REMOUNT_CGROUPS_SCRIPT
from labhelpers.engine import Engine, images
from labhelpers.engine.private import GOGC, SOCKET_BYTES
from labhelpers.engine.root import as_root
from labhelpers.errors import LabError, SetupFailed
from labhelpers.lab import Lab
from tests.engines.debian import ENGINE, Recipe, debian_root, wait_until_it_answers

Echo = Callable[[str], object]

NAME = f"{images.TEST_ENGINE}b"
REF = f"labhelpers/{NAME}:latest"
REGISTRY_VOLUME = "labhelpers-test-registry"
"""The volume on A with the data of the test engines' registry."""

START_TIMEOUT_S = 90.0
DAEMON: Mapping[str, Any] = {"features": {"containerd-snapshotter": True}}
"""Engine B's daemon.json; a run of the settings matrix adds its keys."""
START = f"""#!/bin/sh
set -eu
{REMOUNT_CGROUPS_SCRIPT}printf '%s' "$2" >/etc/docker/daemon.json
GOGC={GOGC} exec dockerd --host=unix:///run/outside/docker.sock --insecure-registry="$1"
"""
RECIPE = Recipe(
    suite="sid",
    packages=ENGINE,
    files={
        "etc/docker/daemon.json": json.dumps(DAEMON),
        "usr/local/bin/start-engine": START,
    },
)


@contextmanager
def running(
    lab: Lab, registry: str, socket_directory: Path, echo: Echo, settings: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Run engine B for the block; yields its address.

    Args:
        lab: on engine A, which must be on this machine; it owns B's container.
        registry: `host:port` from which B pulls without TLS.
        socket_directory: a directory of this machine, for B's socket.
        settings: keys of daemon.json (dockerd(8)), which override those of `DAEMON`.

    Raises:
        SetupFailed: it could not be built or did not start; the message includes its last output.
    """
    _check_socket_path(socket_directory)
    image = ensure(lab.engine, echo)
    address = f"unix://{socket_directory}/docker.sock"
    container = None
    try:
        with lab.quiet():
            container = lab.run(
                image,
                ["start-engine", registry, json.dumps({**DAEMON, **(settings or {})})],
                **CONTAINER_OPTIONS,
                volumes=["/var/lib/docker", f"{socket_directory}:/run/outside"],
            )

        def is_alive() -> bool:
            container.reload()
            return container.status == "running"

        try:
            wait_until_it_answers(address, START_TIMEOUT_S, is_alive, "B")
        except SetupFailed as error:
            error.engine_message = "\n".join(container.logs().decode(errors="replace").splitlines()[-8:])
            raise
        yield address
    finally:
        if container is not None:
            # `./lab clean` may have removed it, and A may not respond
            with lab.quiet(), suppress(LabError):
                lab.stop(container, timeout_s=20)
                lab.remove(container, force=True, volumes=True)


def _check_socket_path(outside: Path) -> None:
    if len(str(outside / "docker.sock")) > SOCKET_BYTES:
        raise SetupFailed(
            f"the path of the state directory is too long for a socket below it ({state.home()})",
            hint="use a shorter path: `LABHELPERS_HOME=~/.labhelpers ./lab test --engine B`",
        )


def ensure(engine: Engine, echo: Echo) -> str:
    """The image of B on engine A, built unless A has the one of the current recipe."""
    if not engine.address.startswith("unix:"):
        raise SetupFailed(
            f"engine B shares a socket with this machine, and the engine at {engine.address} is on another machine",
            hint="run the tests on the engine's machine",
        )
    with state.locked(
        "test-engines", waiting=lambda: echo("engine B: waiting for another lab command to create it")
    ):
        existing = engine.client.images.list(filters={"label": f"{images.CONTENT_LABEL}={RECIPE.content}"})
        if not existing:
            with debian_root(RECIPE, "B", echo) as root:
                remove(engine)
                echo("engine B: importing it into engine A")
                _import(engine, root)
    return REF


def remove(engine: Engine) -> None:
    """Remove the image of B that was built from this state directory, unless a container uses it."""
    recorded = images.recorded_ids(engine)
    for image in engine.client.images.list(filters={"label": f"{images.IMAGE}={NAME}"}):
        if image.id in recorded:
            with suppress(APIError):
                engine.client.images.remove(str(image.id))


def remove_pushed(engine: Engine) -> None:
    """Remove the volume of the test engines' registry, unless it is in use."""
    with suppress(APIError):
        engine.client.api.remove_volume(REGISTRY_VOLUME)


def _import(engine: Engine, root: Path) -> None:
    repository, _, tag = REF.partition(":")
    labels = {images.IMAGE: NAME, images.CONTENT_LABEL: RECIPE.content, images.SOURCE_LABEL: "debootstrap"}
    with subprocess.Popen(
        as_root(["tar", "-C", str(root), "--numeric-owner", "-c", "."]), stdout=subprocess.PIPE
    ) as tar:
        output = engine.client.api.import_image_from_stream(
            tar.stdout,
            repository=repository,
            tag=tag,
            changes=[f"LABEL {key}={value}" for key, value in labels.items()],
        )
    if tar.returncode or '"error"' in output:
        raise SetupFailed(
            "engine B could not be imported into engine A",
            hint="the disk may be full: check `docker system df`, then try again",
            engine_message=output,
        )
    images.record_created(engine, str(engine.client.images.get(REF).id))
