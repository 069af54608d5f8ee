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

Say = Callable[[str], object]

NAME = f"{images.TEST_ENGINE}b"
REF = f"labhelpers/{NAME}:latest"
REGISTRY_VOLUME = "labhelpers-test-registry"
"""The volume of A that keeps what the registry of the test engines were given."""

START_TIMEOUT_S = 90.0
DAEMON: Mapping[str, Any] = {"features": {"containerd-snapshotter": True}}
"""Engine B's daemon.json; what a run of the settings matrix changes is merged into it."""
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
    lab: Lab, registry: str, socket_directory: Path, say: Say, settings: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Engine B's address, for as long as the block lasts.

    Args:
        lab: on engine A, which must be on this machine; it owns B's container.
        registry: `host:port` from which B pulls without TLS.
        socket_directory: a directory of this machine, for B's socket.
        settings: keys of daemon.json (dockerd(8)), added to those of `DAEMON` or in their place.

    Raises:
        SetupFailed: it could not be made or did not start; its last words are kept.
    """
    _check_socket_path(socket_directory)
    image = ensure(lab.engine, say)
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
            # `./lab clean` may have removed it, and A may be gone
            with lab.quiet(), suppress(LabError):
                lab.stop(container, timeout_s=20)
                lab.remove(container, force=True, volumes=True)


def _check_socket_path(outside: Path) -> None:
    if len(str(outside / "docker.sock")) > SOCKET_BYTES:
        raise SetupFailed(
            f"the path of the state directory is too long for a socket below it ({state.home()})",
            hint="use a shorter path: `LABHELPERS_HOME=~/.labhelpers ./lab test --engine B`",
        )


def ensure(engine: Engine, say: Say) -> str:
    """The image of B on engine A, made if A does not have it as the recipe says."""
    if not engine.address.startswith("unix:"):
        raise SetupFailed(
            f"engine B shares a socket with this machine, and the engine at {engine.address} is elsewhere",
            hint="run the tests on the engine's machine",
        )
    with state.locked(
        "test-engines", waiting=lambda: say("engine B: waiting for another lab command to create it")
    ):
        found = engine.client.images.list(filters={"label": f"{images.CONTENT_LABEL}={RECIPE.content}"})
        if not found:
            with debian_root(RECIPE, "B", say) as root:
                remove(engine)
                say("engine B: importing it into engine A")
                _import(engine, root)
    return REF


def remove(engine: Engine) -> None:
    """Remove the image of B that was made from this state directory, unless a container stands on it."""
    made = images.recorded_ids(engine)
    for image in engine.client.images.list(filters={"label": f"{images.IMAGE}={NAME}"}):
        if image.id in made:
            with suppress(APIError):
                engine.client.images.remove(str(image.id))


def remove_pushed(engine: Engine) -> None:
    """Remove what the registry of the test engines were given, if it is kept there and nobody uses it now."""
    with suppress(APIError):
        engine.client.api.remove_volume(REGISTRY_VOLUME)


def _import(engine: Engine, root: Path) -> None:
    repository, _, tag = REF.partition(":")
    labels = {images.IMAGE: NAME, images.CONTENT_LABEL: RECIPE.content, images.SOURCE_LABEL: "debootstrap"}
    with subprocess.Popen(
        as_root(["tar", "-C", str(root), "--numeric-owner", "-c", "."]), stdout=subprocess.PIPE
    ) as tar:
        said = engine.client.api.import_image_from_stream(
            tar.stdout,
            repository=repository,
            tag=tag,
            changes=[f"LABEL {key}={value}" for key, value in labels.items()],
        )
    if tar.returncode or '"error"' in said:
        raise SetupFailed(
            "engine B could not be imported into engine A",
            hint="the disk may be full: check `docker system df`, then try again",
            engine_message=said,
        )
    images.record_created(engine, str(engine.client.images.get(REF).id))
