"""Two engines of the lab's own, joined as a swarm, and a network that spans both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from labhelpers.course import nested_engine
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
# the swarm, and the network that spans it
ESSENTIAL = tuple(
    f"docker exec {NAMES[0]} docker {verb}" for verb in ("swarm init", "network create --driver overlay")
)


class SwarmEngines:
    """Two engines, each in a container of the lab's engine, joined as a swarm with one overlay network.

    `close`, or the end of a `with` block, removes both, and so does the end of the lab.

    Attributes:
        lab: whose engine runs them.
        why_not: None, or why this engine cannot run two others; then there are none.
        started_s: from the first container to a swarm with a network, images at hand.
        containers: their containers on the lab's engine, called `engine-1` and `engine-2`.
        addresses: theirs on the network between them.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.why_not: str | None = None
        self.started_s = 0.0
        self.containers: list[Container] = []
        self.addresses: list[str] = []

    def __bool__(self) -> bool:
        return self.why_not is None and bool(self.containers)

    def __enter__(self) -> SwarmEngines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self:
            return f"no engines: {self.why_not or 'closed'}"
        return f"{' and '.join(NAMES)}: a swarm, and the overlay network “{OVERLAY}”"

    def docker(self, number: int, *words: str, check: bool = True) -> str:
        """What `docker WORDS` says on engine 1 or 2.

        Raises:
            BadInput: there is no such engine.
            NotRunning: the engines are closed.
            EngineRefused: it said no; its words are kept.
        """
        return self.run_in(number, ["docker", *words], check=check)

    def run_in(self, number: int, command: Sequence[str], *, check: bool = True) -> str:
        """The output of a command on the machine of engine 1 or 2, outside of its containers; raises as `docker`."""
        if self.why_not or not self.containers:
            raise NotRunning(
                self.why_not or "the two engines are closed", hint="run the cell that starts them again"
            )
        if number not in (1, 2):
            raise BadInput(f"there is no engine {number}", hint="they are 1 and 2")
        with self.lab.quiet():
            done = self.lab.exec(self.containers[number - 1], list(command))
        if check and done.exit_code:
            raise EngineRefused(
                f"engine {number} said no to `{' '.join(command)}`",
                hint="fix what its message names, then run the cell again",
                engine_message=str(done),
            )
        return done.stdout.strip()

    def start(self, number: int, name: str, network: str = OVERLAY) -> str:
        """Run a container of the payload on one of the engines; gives its address on that network."""
        run = ["run", "-d", "--name", name, "--hostname", name, "--network", network, IMAGE]
        for last in (False, False, True):
            try:
                self.docker(number, *run)
                break
            except EngineRefused as error:
                # the manager answers within a time limit, which a busy machine can exceed
                if last or "context deadline exceeded" not in (error.engine_message or ""):
                    raise
                self.docker(number, "rm", "-f", name)
        return self.docker(
            number, "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', name
        )

    def enter(self, number: int, name: str) -> list[str]:
        """The words that run a command of the engine's machine in the network namespace of one of its containers."""
        pid = self.docker(number, "inspect", "-f", "{{.State.Pid}}", name)
        return ["nsenter", "-t", pid, "-n"]

    def close(self) -> None:
        """Remove both engines, with all that is in them, and the network between them."""
        with self.lab.quiet(), suppress(LabError):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(self._remove, self.containers))
            self.containers = []
            self.lab.remove_network(UNDERLAY_NETWORK)

    def _remove(self, container: Container) -> None:
        with suppress(LabError):
            # killed, not stopped: nothing of it is kept
            self.lab.remove(container, force=True, volumes=True)


def swarm_of_two(lab: Lab) -> SwarmEngines:
    """Start two engines and join them; where that cannot be, the answer says why.

    They run in containers with the rights of `labhelpers.course.nested_engine`, on a network of their own, with no port
    published; their data is in anonymous volumes that go with them.

    Raises:
        NameTaken: somebody else has a container called engine-1 or engine-2.
        LabError: the image of the engines could not be made.
    """
    engines = SwarmEngines(lab)
    payload = lab.image("payload")
    image = lab.image("engine")
    began = time.monotonic()
    with lab.quiet(essential=ESSENTIAL):
        try:
            failed = _start(lab, engines, image, payload)
            if failed is None:
                _join(lab, engines)
        except BaseException:
            engines.close()
            raise
        if failed is not None:
            engines.close()
            engines.why_not = failed
            return engines
    engines.started_s = time.monotonic() - began
    return engines


def _start(lab: Lab, engines: SwarmEngines, image: str, payload: str) -> str | None:
    """Start both engines and give them the payload; why this engine cannot run them, or None."""
    script = f"{REMOUNT_CGROUPS_SCRIPT}exec dockerd --host=unix:///var/run/docker.sock"
    try:
        # of 1,500 also where the engine gives its networks another MTU (default-network-opts)
        lab.create_network(UNDERLAY_NETWORK, options={"com.docker.network.driver.mtu": "1500"})
        for name in NAMES:
            engines.containers.append(
                nested_engine.engine_container(
                    lab, image, script, name=name, hostname=name, network=UNDERLAY_NETWORK
                )
            )
    except EngineRefused as error:
        return f"this engine refuses engines in its containers: {error.engine_message}"
    archive = nested_engine.payload_archive(lab, payload)
    with ThreadPoolExecutor(2) as pool:
        failures = list(
            pool.map(lambda one: nested_engine.wait_until_ready(lab, one, archive), engines.containers)
        )
    failed = next((one for one in failures if one), None)
    return failed and f"this engine cannot run engines in its containers: {failed}"


def _join(lab: Lab, engines: SwarmEngines) -> None:
    engines.addresses += [lab.address_of(container, UNDERLAY_NETWORK) for container in engines.containers]
    # a short heartbeat: a lost engine is noticed in seconds, not in a quarter of a minute
    first = engines.addresses[0]
    engines.docker(1, "swarm", "init", "--advertise-addr", first, "--dispatcher-heartbeat", "1s")
    token = engines.docker(1, "swarm", "join-token", "-q", "worker")
    engines.docker(2, "swarm", "join", "--token", token, f"{first}:2377")
    engines.docker(1, "network", "create", "--driver", "overlay", "--attachable", OVERLAY)
