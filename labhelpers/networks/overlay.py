"""A swarm of two engines that the lab runs in containers, with an overlay network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from labhelpers.course import nested_engine
from labhelpers.course.arguments import experiment
from labhelpers.course.nested_engine import REMOUNT_CGROUPS_SCRIPT
from labhelpers.errors import BadInput, EngineRefused, LabError, NotRunning
from labhelpers.lab.names import all_with_suffix, with_suffix

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

NAMES = all_with_suffix("engine-1", "engine-2")
UNDERLAY_NETWORK = with_suffix("between-engines")
OVERLAY = "across"
IMAGE = "labhelpers/payload:latest"
ESSENTIAL = tuple(
    f"docker exec {NAMES[0]} docker {verb}" for verb in ("swarm init", "network create --driver overlay")
)
"""The commands that stay visible in the cell's output."""


class SwarmEngines:
    """Two engines, each in a container of the lab's engine, joined to a swarm with one overlay network.

    `close`, the end of a `with` block or the end of the lab removes both.

    Attributes:
        lab: the lab whose engine runs them.
        unavailable_reason: why this engine cannot run two nested engines, or None.
        started_s: time from the first container to the swarm's overlay network, without downloads.
        containers: their containers on the lab's engine, `engine-1` and `engine-2`.
        addresses: their addresses on the network between them.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.unavailable_reason: str | None = None
        self.started_s = 0.0
        self.containers: list[Container] = []
        self.addresses: list[str] = []

    def __bool__(self) -> bool:
        return self.unavailable_reason is None and bool(self.containers)

    def __enter__(self) -> SwarmEngines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self:
            return f"no engines: {self.unavailable_reason or 'closed'}"
        return f"{' and '.join(NAMES)}: a swarm with the overlay network “{OVERLAY}”"

    def docker(self, number: int, *arguments: str, check: bool = True) -> str:
        """The output of `docker ARGUMENTS` on engine 1 or 2.

        Raises:
            BadInput: there is no engine `number`.
            NotRunning: the engines are closed.
            EngineRefused: the command failed; its message is kept.
        """
        return self.run_in(number, ["docker", *arguments], check=check)

    def run_in(self, number: int, command: Sequence[str], *, check: bool = True) -> str:
        """The output of a command in the container of engine 1 or 2. Raises what `docker` raises."""
        if self.unavailable_reason or not self.containers:
            raise NotRunning(
                self.unavailable_reason or "the two engines are closed",
                hint="run the cell that starts them again",
            )
        if number not in (1, 2):
            raise BadInput(f"there is no engine {number}", hint="the engines are 1 and 2")
        with self.lab.quiet():
            result = self.lab.exec(self.containers[number - 1], list(command))
        if check and result.exit_code:
            raise EngineRefused(
                f"engine {number} refused `{' '.join(command)}`",
                hint="fix the problem in Docker's message, then run the cell again",
                engine_message=str(result),
            )
        return result.stdout.strip()

    def address_of(self, number: int, name: str, network: str = OVERLAY, *, check: bool = True) -> str:
        """The address of a container of engine 1 or 2 on a network. Raises what `docker` raises."""
        template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.docker(number, "inspect", "-f", template, name, check=check)

    def start(self, number: int, name: str, network: str = OVERLAY) -> str:
        """Run a payload container on engine 1 or 2; its address on the network. Raises what `docker` raises."""
        run = ["run", "-d", "--name", name, "--hostname", name, "--network", network, IMAGE]
        for is_last in (False, False, True):
            try:
                self.docker(number, *run)
                break
            except EngineRefused as error:
                # the manager has a deadline, which a busy machine can exceed
                if is_last or "context deadline exceeded" not in (error.engine_message or ""):
                    raise
                self.docker(number, "rm", "-f", name)
        return self.address_of(number, name, network)

    def nsenter_command(self, number: int, name: str) -> list[str]:
        """The `nsenter` command that enters the network namespace of a container of engine 1 or 2."""
        pid = self.docker(number, "inspect", "-f", "{{.State.Pid}}", name)
        return ["nsenter", "-t", pid, "-n"]

    def close(self) -> None:
        """Remove both engines, everything in them, and the network between them."""
        with self.lab.quiet(), suppress(LabError):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(self._remove, self.containers))
            self.containers = []
            self.lab.remove_network(UNDERLAY_NETWORK)

    def _remove(self, container: Container) -> None:
        with suppress(LabError):
            # killed, not stopped: nothing in it is needed again
            self.lab.remove(container, force=True, volumes=True)


@experiment
def swarm_of_two(lab: Lab) -> SwarmEngines:
    """Start two nested engines and join them to a swarm; `unavailable_reason` is set if this engine cannot run them.

    Their containers have the privileges of `labhelpers.course.nested_engine`, a network of their own, no published
    port, and their data in anonymous volumes, which are removed with them.

    Raises:
        NameTaken: a container called engine-1 or engine-2 exists that the lab did not create.
        ImageError: the image of the engines could not be built.
    """
    engines = SwarmEngines(lab)
    payload = lab.image("payload")
    image = lab.image("engine")
    began = time.monotonic()
    with lab.quiet(essential=ESSENTIAL):
        try:
            engines.unavailable_reason = _start(lab, engines, image, payload)
            if engines.unavailable_reason is None:
                _join(lab, engines)
                engines.started_s = time.monotonic() - began
            else:
                engines.close()
        except BaseException:
            engines.close()
            raise
    return engines


def _start(lab: Lab, engines: SwarmEngines, image: str, payload: str) -> str | None:
    """Start both engines and load the payload image; the reason if this engine cannot run them, or None."""
    script = f"{REMOUNT_CGROUPS_SCRIPT}exec dockerd --host=unix:///var/run/docker.sock"
    try:
        # also if the engine's networks have another MTU by default (default-network-opts)
        lab.create_network(UNDERLAY_NETWORK, options={"com.docker.network.driver.mtu": "1500"})
        for name in NAMES:
            engines.containers.append(
                nested_engine.engine_container(
                    lab, image, script, name=name, hostname=name, network=UNDERLAY_NETWORK
                )
            )
    except EngineRefused as error:
        return f"this engine refuses nested engines: {error.engine_message}"
    archive = nested_engine.payload_archive(lab, payload)
    with ThreadPoolExecutor(2) as pool:
        failures = pool.map(
            lambda container: nested_engine.wait_until_ready(lab, container, archive), engines.containers
        )
        failed = [failure for failure in failures if failure]
    return f"this engine cannot run nested engines: {failed[0]}" if failed else None


def _join(lab: Lab, engines: SwarmEngines) -> None:
    engines.addresses += [lab.address_of(container, UNDERLAY_NETWORK) for container in engines.containers]
    # a short heartbeat: the manager detects a failed engine within seconds instead of 15 s
    manager = engines.addresses[0]
    engines.docker(1, "swarm", "init", "--advertise-addr", manager, "--dispatcher-heartbeat", "1s")
    token = engines.docker(1, "swarm", "join-token", "-q", "worker")
    engines.docker(2, "swarm", "join", "--token", token, f"{manager}:2377")
    engines.docker(1, "network", "create", "--driver", "overlay", "--attachable", OVERLAY)
