"""Restart policies: which containers the engine restarts after each kind of exit.

Source of the policies: docs.docker.com, "Start containers automatically".
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.course import nested_engine
from labhelpers.course.arguments import experiment
from labhelpers.course.nested_engine import REMOUNT_CGROUPS_SCRIPT
from labhelpers.errors import BadInput, ContainerError, EngineRefused, LabError
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

POLICIES = ("no", "on-failure", "on-failure:1", "always", "unless-stopped")
EXIT_CAUSES = ("exit code 0", "exit code 1", "out of memory", "docker kill", "docker stop")
SELF_EXIT_CAUSES = EXIT_CAUSES[:3]
"""The program exits by itself; the other two are operations of the engine."""
ENGINE_EXIT_CAUSES = ("engine restarted", "stopped, then engine restarted", "power cut")

FAILING_RUNS = 2
"""The program exits in its first runs, and keeps running in the next one."""
# the start alone needs memory: runc 1.1.15 used up to 16.8 MB, and 7 to 15 MB in most runs
MEMORY_LIMIT_BYTES = 32 << 20
# without the limit, it would allocate 128 MiB and no more
ALLOCATE_COMMAND = "exec dd if=/dev/zero of=/dev/null bs=134217728 count=1"
EXIT_COMMANDS = {
    SELF_EXIT_CAUSES[0]: "exit 0",
    SELF_EXIT_CAUSES[1]: "exit 1",
    SELF_EXIT_CAUSES[2]: ALLOCATE_COMMAND,
}
KEEP_RUNNING = "trap 'exit 0' TERM; while :; do sleep 600 & wait $!; done"
TIMEOUT_S = 300.0
MAX_PARALLEL = 4


@record
class RestartResult(Result):
    """The final state of a container with a restart policy."""

    policy: str = column("the restart policy")
    exit_cause: str = column("why the container exited")
    runs: bool = column("whether the container runs in the end")
    restarts: int = column("RestartCount of `docker inspect`: restarts by the engine")
    exit_code: int | None = column("exit code of the last exit, if the container is not running")
    # With cgroup v1 the engine learns of the kill after the exit, and misses it if a container exits at once: 1 to 20
    # of 60 on a busy Docker 20.10.
    oom_killed: bool = column("OOMKilled of `docker inspect`; older engines miss some kills on cgroup v1")

    @derived
    def description(self) -> str:
        """What the engine did after the exit."""
        if self.runs:
            return "comes back"
        return f"comes back {_times(self.restarts)}, then stays down" if self.restarts else "stays down"


@record
class RestartResults(Result):
    """Restart policies after each kind of exit."""

    policies: tuple[str, ...] = column("the restart policies")
    exit_causes: tuple[str, ...] = column("the kinds of exit")
    results: tuple[RestartResult, ...] = rows("one for each policy and kind of exit", of=RestartResult)
    unavailable_reason: str | None = column("why nothing was measured on this engine, or None", default=None)

    def of(self, policy: str, exit_cause: str) -> RestartResult:
        """The result of one policy and one kind of exit.

        Raises:
            BadInput: there is no such result.
        """
        for result in self.results:
            if (result.policy, result.exit_cause) == (policy, exit_cause):
                return result
        measured = ", ".join(self.exit_causes) if self.results else "nothing"
        raise BadInput(
            f"{policy!r} after {exit_cause!r} was not measured: {self.unavailable_reason or 'there is no such pair'}",
            hint=f"measured: {', '.join(self.policies)} after {measured}",
        )

    def restarted(self, exit_cause: str) -> tuple[str, ...]:
        """The policies whose container runs after that kind of exit, in order."""
        return tuple(
            result.policy for result in self.results if result.exit_cause == exit_cause and result.runs
        )

    def restarted_text(self, exit_cause: str) -> str:
        """The policies of `restarted`, separated by commas; “none” if there are none."""
        return ", ".join(self.restarted(exit_cause)) or "none"

    def exit_description(self, exit_cause: str) -> str:
        """The exit code of the container that is never restarted, and whether it was OOM-killed."""
        result = self.of("no", exit_cause)
        return f"exit code {result.exit_code}" + (", OOMKilled" if result.oom_killed else "")


@record
class EngineRestartResults(RestartResults):
    """Restart policies after a restart of the engine."""


@experiment
def restart_policies(
    lab: Lab, policies: Sequence[str] = POLICIES, exit_causes: Sequence[str] = EXIT_CAUSES
) -> RestartResults:
    """Run one container for each policy and kind of exit, let them exit, and read their final states.

    A program exits in its first two runs and keeps running in the third, so that nothing restarts forever. No waiting
    time decides a result: the engine decides about a restart when it records the exit, so a container that is `exited`
    stays down, and one that will start again is `restarting`.

    For “out of memory”, the limit is 32 MiB without swap; the program would allocate 128 MiB.

    Raises:
        TimedOut: a container did not reach its final state.
    """
    pairs = [(policy, exit_cause) for exit_cause in exit_causes for policy in policies]
    image = lab.image("payload")
    started: dict[tuple[str, str], Container] = {}

    def start(pair: tuple[str, str]) -> None:
        started[pair] = _start(lab, image, *pair)

    def end(pair: tuple[str, str]) -> None:
        if pair[1] == "docker kill":
            lab.kill(started[pair])
        if pair[1] == "docker stop":
            lab.stop(started[pair], timeout_s=10)

    essential = ["docker run -d --network none --pids-limit 20 --cap-drop ALL --restart always"]
    with lab.quiet(essential=essential), ThreadPoolExecutor(MAX_PARALLEL) as pool:
        try:
            list(pool.map(start, pairs))
            list(pool.map(end, pairs))
            results = tuple(pool.map(lambda pair: _final_state(lab, pair[0], pair[1], started[pair]), pairs))
        finally:
            list(pool.map(lambda container: lab.remove(container, force=True), started.values()))
    return RestartResults(tuple(policies), tuple(exit_causes), results)


def _start(lab: Lab, image: str, policy: str, exit_cause: str) -> Container:
    script = KEEP_RUNNING
    if exit_cause in EXIT_COMMANDS:
        # a file in the container's own layer counts the runs
        exits = f"{{ {EXIT_COMMANDS[exit_cause]}; }}"
        script = f"echo >>/runs; [ $(wc -l </runs) -gt {FAILING_RUNS} ] || {exits}; {KEEP_RUNNING}"
    limits: dict[str, Any] = {}
    if exit_cause == "out of memory":
        limits = {"memory": MEMORY_LIMIT_BYTES, "memory_swap": MEMORY_LIMIT_BYTES}
    return lab.run(
        image, ["sh", "-c", script], restart=policy, network="none", cap_drop=["ALL"], pids_limit=20, **limits
    )


def _final_state(lab: Lab, policy: str, exit_cause: str, container: Container) -> RestartResult:
    """Wait until the engine will neither start nor stop the container again."""

    def final() -> RestartResult | None:
        attrs = lab.inspect(container)
        state, count = attrs["State"], int(attrs["RestartCount"])
        restarts = FAILING_RUNS if exit_cause in SELF_EXIT_CAUSES else 1
        if state["Status"] != "exited" and not (state["Running"] and count >= restarts):
            return None
        code = None if state["Running"] else int(state["ExitCode"])
        return RestartResult(policy, exit_cause, state["Running"], count, code, bool(state["OOMKilled"]))

    condition = f"the final state of a container with --restart {policy} after {exit_cause}"
    result = lab.wait_for(condition, final, TIMEOUT_S, every_s=0.1)
    assert result is not None, "wait_for returns a value that is true"
    return result


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# --- the engine itself ends


@experiment
def engine_restart_policies(lab: Lab) -> EngineRestartResults:
    """Restart policies after a restart of the engine, measured with a nested engine in a container.

    - `engine restarted`: the engine receives SIGTERM, as from `systemctl restart docker`, and stops its containers.
    - `stopped, then engine restarted`: `docker stop` stopped the container before.
    - `power cut`: the engine and its containers are killed at once, as in a power failure.

    States are read once the engine responds again: it restores containers before that (moby, daemon.restore).
    """
    payload = lab.image("payload")
    image = lab.image("engine")
    with lab.quiet(essential=["docker kill", "docker start"]):
        try:
            script = f"{REMOUNT_CGROUPS_SCRIPT}{_program('engine.sh')}"
            container = nested_engine.engine_container(lab, image, script, network="none")
        except EngineRefused as error:
            return _not_measured(f"this engine refuses nested engines: {error.engine_message}")
        try:
            failed = nested_engine.wait_until_ready(
                lab, container, nested_engine.payload_archive(lab, payload)
            )
            if failed:
                return _not_measured(f"this engine cannot run nested engines: {failed}")
            results = _end_engine(_NestedEngine(lab, container), payload)
            return EngineRestartResults(POLICIES, ENGINE_EXIT_CAUSES, tuple(results))
        finally:
            with suppress(LabError):
                lab.remove(container, force=True, volumes=True)


def _not_measured(reason: str) -> EngineRestartResults:
    return EngineRestartResults(POLICIES, ENGINE_EXIT_CAUSES, (), reason)


_INSPECT = (
    "docker inspect --format "
    "'{{.Name}} {{.State.Running}} {{.RestartCount}} {{.State.ExitCode}} {{.State.OOMKilled}}' $(docker ps -aq)"
)


def _program(name: str) -> str:
    return Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")


class _NestedEngine:
    """The nested engine and its containers."""

    def __init__(self, lab: Lab, container: Container) -> None:
        self._lab, self._container = lab, container

    def sh(self, script: str) -> str:
        """The output of a script in the engine's container.

        Raises:
            ContainerError: the script failed.
        """
        result = self._lab.exec(self._container, ["sh", "-c", script])
        if result.exit_code:
            raise ContainerError(
                "a command for the nested engine failed",
                hint="run the cell again; if it fails again, the message below shows why",
                engine_message=str(result),
            )
        return result.stdout

    def restart(self) -> None:
        """Restart the engine as an administrator would: it ends, and a loop in the container starts it again."""
        self.sh(f"touch /before; kill -TERM $(cat /var/run/docker.pid); {_program('wait-for-engine.sh')}")

    def power_loss(self) -> None:
        """Kill every process at once: the kernel ends a PID namespace with its process 1."""
        self.sh("touch /before")
        self._lab.kill(self._container)
        self._lab.start(self._container)
        self.sh(_program("wait-for-engine.sh"))

    def states(self, exit_cause: str, prefix: str) -> list[RestartResult]:
        """The states of the containers whose names start with `prefix`."""
        lines = (line.split() for line in self.sh(_INSPECT).splitlines())
        states = {name.removeprefix("/"): rest for name, *rest in lines}
        results = []
        for policy in POLICIES:
            running, count, code, oom = states[_name(prefix, policy)]
            runs = running == "true"
            exit_code = None if runs else int(code)
            results.append(RestartResult(policy, exit_cause, runs, int(count), exit_code, oom == "true"))
        return results


def _name(prefix: str, policy: str) -> str:
    return f"{prefix}-{policy.replace(':', '-')}"


def _end_engine(engine: _NestedEngine, image: str) -> list[RestartResult]:
    restarted, stopped_before, power_cut = ENGINE_EXIT_CAUSES
    names = {prefix: [_name(prefix, policy) for policy in POLICIES] for prefix in ("running", "stopped")}
    starts = [
        f"docker run -d --network none --restart {policy} --name {name} {image} sh -c {shlex.quote(KEEP_RUNNING)} &"
        for group in names.values()
        for policy, name in zip(POLICIES, group, strict=True)
    ]
    engine.sh("\n".join([*starts, "wait", f"docker stop {' '.join(names['stopped'])}"]))
    engine.restart()
    results = engine.states(restarted, "running") + engine.states(stopped_before, "stopped")
    engine.sh(f"docker start {' '.join(names['running'])}")
    engine.power_loss()
    return results + engine.states(power_cut, "running")
