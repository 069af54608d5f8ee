"""Restart policies against ways of dying: what comes back, found out by letting containers die.

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
from labhelpers.course.nested_engine import REMOUNT_CGROUPS_SCRIPT
from labhelpers.errors import ContainerError, EngineRefused, LabError
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd
    from docker.models.containers import Container

    from labhelpers.lab import Lab

POLICIES = ("no", "on-failure", "on-failure:1", "always", "unless-stopped")
EXIT_CAUSES = ("exit code 0", "exit code 1", "out of memory", "docker kill", "docker stop")
SELF_EXIT_CAUSES = EXIT_CAUSES[:3]
"""Those that the program does itself; the other two come from the engine's API."""
ENGINE_EXIT_CAUSES = ("engine restarted", "stopped, then engine restarted", "power cut")

FAILING_RUNS = 2
"""How many lives end; in the next one the program stays."""
# a container needs some only to start: up to 16.8 MB were measured with runc 1.1.15, and 7 to 15 more often
MEMORY_LIMIT_BYTES = 32 << 20
# it would take 128 MiB and no more, if the limit did not hold
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
    """What became of one container."""

    policy: str = column("its restart policy")
    death: str = column("how it died")
    runs: bool = column("whether it runs, now that nothing happens any more")
    restarts: int = column("how often the engine started it again (RestartCount of `docker inspect`)")
    exit_code: int | None = column("of its last death; None where it runs")
    oom_killed: bool = column(
        "whether the engine says that it died for want of memory (OOMKilled). False proves nothing: with "
        "cgroup v1 the engine hears of the kill beside the death, and too late where a container died at "
        "once (of 60 on a busy Docker 20.10, 1 to 20 were missed)"
    )

    @property
    def words(self) -> str:
        """What became of it, for people."""
        if self.runs:
            return "comes back"
        return f"comes back {_times(self.restarts)}, then stays down" if self.restarts else "stays down"


@record
class RestartResults(Result):
    """Every policy against every way of dying."""

    policies: tuple[str, ...] = column("the rows and the columns")
    deaths: tuple[str, ...] = column("the rows and the columns")
    fates: tuple[RestartResult, ...] = rows("one for each pair that was tried", of=RestartResult)
    why_not: str | None = column("None, or why nothing was tried here; then there are no fates", default=None)

    def of(self, policy: str, death: str) -> RestartResult:
        """What became of the container with that policy that died so.

        Raises:
            LabError: that was not tried.
        """
        for fate in self.fates:
            if (fate.policy, fate.death) == (policy, death):
                return fate
        tried = ", ".join(self.deaths) if self.fates else "nothing"
        raise LabError(
            f"{policy!r} against {death!r} was not tried: {self.why_not or 'there is no such pair'}",
            hint=f"tried were {', '.join(self.policies)} against {tried}",
        )

    def back(self, death: str) -> tuple[str, ...]:
        """The policies whose container runs after that death, in their order."""
        return tuple(one.policy for one in self.fates if one.death == death and one.runs)

    def who(self, death: str) -> str:
        """The same in words; “none” where none runs."""
        return ", ".join(self.back(death)) or "none"

    def died(self, death: str) -> str:
        """What the exit code of a container that nobody starts again was, in words."""
        fate = self.of("no", death)
        return f"exit code {fate.exit_code}" + (", OOMKilled" if fate.oom_killed else "")

    def frame(self) -> pd.DataFrame:
        """One row a policy, one column a way of dying."""
        rows = [
            [policy, *(self.of(policy, death).words for death in self.deaths)] for policy in self.policies
        ]
        return table(rows if self.fates else [], ["policy", *self.deaths])


def restart_policies(
    lab: Lab, policies: Sequence[str] = POLICIES, deaths: Sequence[str] = EXIT_CAUSES
) -> RestartResults:
    """Let one container for each pair of policy and death die, all at once, and see what becomes of it.

    A program dies in each of its first two lives and stays in the third, so that nothing restarts for ever. Nothing is
    guessed from waiting: the engine decides on a restart in the moment in which it notes the death, so a container
    that is `exited` stays so, and one that waits for its next start is `restarting`.

    The memory of one is limited to 32 MiB, without swap; it would take 128 MiB if the limit did not hold.
    """
    pairs = [(policy, death) for death in deaths for policy in policies]
    image = lab.image("payload")
    made: dict[tuple[str, str], Container] = {}

    def begin(pair: tuple[str, str]) -> None:
        made[pair] = _begin(lab, image, *pair)

    def end(pair: tuple[str, str]) -> None:
        if pair[1] == "docker kill":
            lab.kill(made[pair])
        if pair[1] == "docker stop":
            lab.stop(made[pair], timeout_s=10)

    essential = ["docker run -d --network none --pids-limit 20 --cap-drop ALL --restart always"]
    with lab.quiet(essential=essential), ThreadPoolExecutor(MAX_PARALLEL) as pool:
        try:
            list(pool.map(begin, pairs))
            list(pool.map(end, pairs))
            fates = tuple(pool.map(lambda pair: _fate(lab, pair[0], pair[1], made[pair]), pairs))
        finally:
            list(pool.map(lambda one: lab.remove(one, force=True), made.values()))
    return RestartResults(tuple(policies), tuple(deaths), fates)


def _begin(lab: Lab, image: str, policy: str, death: str) -> Container:
    script = KEEP_RUNNING
    if death in EXIT_COMMANDS:
        # the container's own layer outlives its lives
        exits = f"{{ {EXIT_COMMANDS[death]}; }}"
        script = f"echo >>/lives; [ $(wc -l </lives) -gt {FAILING_RUNS} ] || {exits}; {KEEP_RUNNING}"
    limits: dict[str, Any] = {}
    if death == "out of memory":
        limits = {"memory": MEMORY_LIMIT_BYTES, "memory_swap": MEMORY_LIMIT_BYTES}
    return lab.run(
        image, ["sh", "-c", script], restart=policy, network="none", cap_drop=["ALL"], pids_limit=20, **limits
    )


def _fate(lab: Lab, policy: str, death: str, container: Container) -> RestartResult:
    """The state of a container once nothing will happen to it any more."""

    def settled() -> RestartResult | None:
        inspected = lab.inspect(container)
        state, count = inspected["State"], int(inspected["RestartCount"])
        # killed or stopped from outside it stays; from inside it stays once it has died often enough
        lives = FAILING_RUNS if death in SELF_EXIT_CAUSES else 1
        if state["Status"] != "exited" and not (state["Running"] and count >= lives):
            return None
        code = None if state["Running"] else int(state["ExitCode"])
        return RestartResult(policy, death, state["Running"], count, code, bool(state["OOMKilled"]))

    what = f"a container with --restart {policy} that died by {death} to settle"
    fate = lab.wait_for(what, settled, TIMEOUT_S, every_s=0.1)
    assert fate is not None, "wait_for returns what is true"
    return fate


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# --- the engine itself goes


def engine_restart_policies(lab: Lab) -> RestartResults:
    """The same policies, and an engine that goes away and comes again: one of the lab's own, in a container.

    - `engine restarted`: the engine gets SIGTERM, as from `systemctl restart docker`; it stops its containers first.
    - `stopped, then engine restarted`: the container had been stopped by `docker stop` before.
    - `power cut`: the engine and all that it runs are killed at once, as with the machine.

    The fates are those after the engine answers again: it starts containers before it does (moby, daemon.restore).
    """
    payload = lab.image("payload")
    image = lab.image("engine")
    with lab.quiet(essential=["docker kill", "docker start"]):
        try:
            script = f"{REMOUNT_CGROUPS_SCRIPT}{_program('engine.sh')}"
            container = nested_engine.engine_container(lab, image, script, network="none")
        except EngineRefused as error:
            return _not_tried(f"this engine refuses an engine in a container: {error.engine_message}")
        try:
            failed = nested_engine.wait_until_ready(
                lab, container, nested_engine.payload_archive(lab, payload)
            )
            if failed:
                return _not_tried(f"this engine cannot run one in a container: {failed}")
            return RestartResults(
                POLICIES, ENGINE_EXIT_CAUSES, tuple(_trigger_exit(_NestedEngine(lab, container), payload))
            )
        finally:
            with suppress(LabError):
                lab.remove(container, force=True, volumes=True)


def _not_tried(why_not: str) -> RestartResults:
    return RestartResults(POLICIES, ENGINE_EXIT_CAUSES, (), why_not)


_INSPECT = (
    "docker inspect --format "
    "'{{.Name}} {{.State.Running}} {{.RestartCount}} {{.State.ExitCode}} {{.State.OOMKilled}}' $(docker ps -aq)"
)


def _program(name: str) -> str:
    return Path(__file__).with_name("inside").joinpath(name).read_text(encoding="utf-8")


class _NestedEngine:
    """The engine in the container."""

    def __init__(self, lab: Lab, container: Container) -> None:
        self._lab, self._container = lab, container

    def sh(self, script: str) -> str:
        """The output of a script that runs beside that engine.

        Raises:
            ContainerError: the script failed.
        """
        done = self._lab.exec(self._container, ["sh", "-c", script])
        if done.exit_code:
            raise ContainerError(
                "a command for the engine in the container failed",
                hint="run the cell again; if it fails again, the message below shows why",
                engine_message=str(done),
            )
        return done.stdout

    def restart(self) -> None:
        """As an administrator does it; the engine ends, and its loop starts it anew."""
        self.sh(f"touch /before; kill -TERM $(cat /var/run/docker.pid); {_program('wait-for-engine.sh')}")

    def cut_power(self) -> None:
        """All of its processes end in one moment: the kernel kills a pid namespace with its first process."""
        self.sh("touch /before")
        self._lab.kill(self._container)
        self._lab.start(self._container)
        self.sh(_program("wait-for-engine.sh"))

    def fates(self, death: str, prefix: str) -> list[RestartResult]:
        """What became of the containers whose names begin so."""
        rows = {name[1:]: rest for name, *rest in (line.split() for line in self.sh(_INSPECT).splitlines())}
        found = []
        for policy in POLICIES:
            runs, count, code, oom = rows[_name(prefix, policy)]
            up = runs == "true"
            found.append(
                RestartResult(policy, death, up, int(count), None if up else int(code), oom == "true")
            )
        return found


def _name(prefix: str, policy: str) -> str:
    return f"{prefix}-{policy.replace(':', '-')}"


def _trigger_exit(inner: _NestedEngine, image: str) -> list[RestartResult]:
    ran, stopped, cut = ENGINE_EXIT_CAUSES
    names = {prefix: [_name(prefix, policy) for policy in POLICIES] for prefix in ("ran", "stopped")}
    starts = [
        f"docker run -d --network none --restart {policy} --name {name} {image} sh -c {shlex.quote(KEEP_RUNNING)} &"
        for own in names.values()
        for policy, name in zip(POLICIES, own, strict=True)
    ]
    inner.sh("\n".join([*starts, "wait", f"docker stop {' '.join(names['stopped'])}"]))
    inner.restart()
    found = inner.fates(ran, "ran") + inner.fates(stopped, "stopped")
    inner.sh(f"docker start {' '.join(names['ran'])}")
    inner.cut_power()
    return found + inner.fates(cut, "ran")
