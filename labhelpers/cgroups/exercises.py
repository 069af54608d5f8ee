"""The exercises of the chapter on control groups: the state of the engine and the kernel's counters prove them."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from labhelpers.cgroups.activity import CpuActivity, cpu_activity
from labhelpers.cgroups.safety_limits import MIB, program
from labhelpers.course.checks import are_running, runs, setup_runs
from labhelpers.course.containers import (
    container_named,
    file_in,
    running,
    session_value,
    setup_container,
    store_value,
    stored_value,
)
from labhelpers.course.exercises import Exercise, Task
from labhelpers.drawing import human_bytes
from labhelpers.lab.names import all_with_suffix

if TYPE_CHECKING:
    from labhelpers.lab import Lab

WARM, HUNGRY, FOOD, FULL, KEEPER = all_with_suffix("warm", "hungry", "hungry-food", "full-house", "keeper")
FAST, SLOW = all_with_suffix("fast", "slow")
WANTED_CPUS, TOLERANCE, QUOTA_TOLERANCE = 0.3, 0.06, 0.01
RATIO, RATIO_TOLERANCE = 3.0, 0.2
ROOM_BYTES = 24 * MIB
LIFE_S = "7200"
MIN_PIDS, MAX_PIDS = 5, 32
KEPT_BYTES, KEEPER_BYTES = 32 * MIB, 96 * MIB


def _activity(lab: Lab, *names: str) -> list[CpuActivity]:
    return cpu_activity(lab, *(running(lab, name) for name in names))


# --- a load held to 30 %


def thirty(lab: Lab) -> Exercise:
    """Hold a CPU load to 30 % of a core.

    Promises: the container would use more all the time, and its quota gives it 30 % of a core. A load that works a
    third of the time, and a quota of 25 or 35 %, do not pass.
    """
    tasks = (
        runs(WARM, "A shell can use a core: `sh -c 'while :; do :; done'`, in labhelpers/payload."),
        Task(
            "held", "It is always busy, and gets 30 % of one core: measured", _is_held, _held_hint, ("runs",)
        ),
    )
    return Exercise(lab, "04", "thirty-percent", "30 % of a core", tasks, 0.3, (WARM,))


def _is_held(lab: Lab) -> str | None:
    (load,) = _activity(lab, WARM)
    if not load.throttled and load.quota_cpus is None:
        return f"it used {load.cpus:.0%} of one core, and nothing held it back"
    if not load.wants_cpu:
        return (
            f"it used {load.cpus:.0%} of one core, and is not always busy: nothing held it back all the time"
        )
    if load.quota_cpus is not None and abs(load.quota_cpus - WANTED_CPUS) > QUOTA_TOLERANCE:
        return f"it is held back, and used {load.cpus:.0%} of one core: its quota is {load.quota_cpus:.0%}"
    # a busy machine may not give it all of its quota
    return None if load.cpus <= WANTED_CPUS + TOLERANCE else f"it used {load.cpus:.0%} of one core"


def _held_hint(lab: Lab) -> str:
    (load,) = _activity(lab, WARM)
    if load.wants_cpu and load.quota_cpus is not None:
        return "Its quota is not 30 %. `docker update` changes it while it runs."
    if not load.wants_cpu:
        return "It does not want more than it gets, so no limit shows. Give it work without a pause."
    return "Shares and a CPU set do not limit a container that has no competitor. What limits its time in each period?"


# --- a memory load that stays alive


def survive(lab: Lab) -> Exercise:
    """Keep a memory load alive with a limit that fits.

    Promises: the lab's program runs, unchanged, and holds all the memory that it wants, which differs each time; the
    kernel killed nothing; and the limit leaves little above what the program holds. Page cache does not count as held.
    """
    session_value(lab, FOOD, lambda: _new_program(lab))
    tasks = (
        runs(HUNGRY, _hungry_hint),
        Task(
            "alive",
            "It holds all that it wants, and none of it was killed",
            _is_alive,
            _hungry_hint,
            ("runs",),
        ),
        Task(
            "fits",
            f"Its limit of memory leaves at most {human_bytes(ROOM_BYTES)} above what it holds",
            _limit_fits,
            "How much does `docker stats` show? `docker logs` says how much it wants.",
            ("alive",),
        ),
    )
    return Exercise(lab, "04", "survive", "Keep the hog alive", tasks, 0.5, (HUNGRY,))


def _new_program(lab: Lab) -> tuple[int, str]:
    """Put a program into the volume; how much memory it wants, in bytes, and its text."""
    need_mib = 4 * (9 + secrets.randbelow(10))
    text = program("hungry.py").replace("NEED_MIB = 0", f"NEED_MIB = {need_mib}").strip()
    write = ["sh", "-c", 'echo "$1" > /food/hungry.py', "sh", text]
    with lab.hidden():
        lab.create_volume(FOOD)
        lab.run_once(lab.image("payload"), write, network="none", volumes=[f"{FOOD}:/food"])
    return need_mib * MIB, text


def _hungry_hint(lab: Lab) -> str:
    container = container_named(lab, HUNGRY)
    if container is None:
        return (
            f"The volume {FOOD} holds /hungry.py: mount it, and let labhelpers/tools run it with python3. "
            "Set a memory limit."
        )
    last = lab.logs(container, tail=1).strip()
    if container.attrs["State"]["ExitCode"] == 137:
        return f"Exit code 137 is 128 + 9: it was killed. The last line of its log: “{last}”. It wants more than that."
    return f"It is not ready yet, or runs something else. The last line of its log: “{last}”."


def _is_alive(lab: Lab) -> str | None:
    container, (need_bytes, text) = running(lab, HUNGRY), stored_value(lab, FOOD)
    memory = lab.host.cgroup(container).memory
    if memory.oom_kills or container.attrs["RestartCount"]:
        return "the kernel has killed one of its processes"
    arguments = [word for process in lab.host.processes(container) for word in process.command.split()]
    scripts = [word for word in arguments if word.endswith(".py")]
    if not scripts:
        return "no hungry.py runs in it"
    directory = (container.attrs["Config"]["WorkingDir"] or "/").rstrip("/")
    paths = [script if script.startswith("/") else f"{directory}/{script}" for script in scripts]
    if not any(file_in(lab, HUNGRY, path) == text for path in paths):
        return f"the program that runs is not the hungry.py of the volume {FOOD}, or it was changed"
    if memory.anon_bytes >= need_bytes:
        return None
    return f"it holds {human_bytes(memory.anon_bytes)}, and wants more"


def _limit_fits(lab: Lab) -> str | None:
    memory = lab.host.cgroup(running(lab, HUNGRY)).memory
    if memory.limit_bytes is None:
        return "it has no limit: it lives, and could take the whole machine"
    # what it holds, not what is charged to it: the cache of files that it reads or writes fills the rest
    room = memory.limit_bytes - memory.anon_bytes
    return None if room <= ROOM_BYTES else f"its limit leaves {human_bytes(room)} unused"


# --- the container that is throttled

PERIOD_S = 0.1
DUTY = program("duty.py")
# (seconds of work in every 0.1 s, CPUs of quota): the first one wants 0.25 CPUs and may have 0.1
WORKERS: tuple[tuple[float, float | None], ...] = ((0.025, 0.1), (0.004, 0.5), (0.0, 0.05), (0.006, None))


def throttled(lab: Lab) -> Exercise:
    """Find the container that is throttled, and raise its quota.

    Promises: the lab's four containers run, none replaced; the throttled one still does all of its work, and is not
    throttled while it does; and no limit of the other three has changed. A container that is stopped, has not begun
    yet or does something else is not throttled either, and does not pass.
    """
    workers = session_value(lab, "workers", lambda: tuple(f"worker-{secrets.token_hex(2)}" for _ in WORKERS))
    for name, (work_s, cpus) in zip(workers, WORKERS, strict=True):
        setup_container(lab, name, partial(_start_worker, lab, name, work_s, cpus))
        session_value(lab, f"limits of {name}", partial(_limits, lab, name))
    names = sorted(workers)
    tasks = (
        Task(
            "run",
            f"The four containers {', '.join(names)} run",
            setup_runs(*names),
            "A container that is stopped does no work. `docker start` starts it again.",
        ),
        Task(
            "others",
            "The three that are not throttled have the limits that they had",
            lambda lab: _limits_changed(lab, workers[1:]),
            "Look at each before you change one: cgroups.sample(lab, [...], 2).frame() has a column for throttling.",
            ("run",),
        ),
        Task(
            "free",
            "None of them is throttled any more while it does its work: measured",
            lambda lab: _is_throttled(lab, workers),
            lambda lab: _free_hint(lab, workers),
            ("others",),
        ),
    )
    return Exercise(lab, "04", "throttled", "Find the one that is throttled", tasks, 0.3, tuple(names))


def _start_worker(lab: Lab, name: str, work_s: float, cpus: float | None) -> None:
    command = ["python3", "-c", DUTY, str(work_s)] if work_s else ["sleep", LIFE_S]
    lab.run(
        lab.image("tools"),
        ["timeout", "-s", "KILL", LIFE_S, *command],
        name=name,
        network="none",
        cap_drop=["ALL"],
        cpus=cpus,
        memory="64m",
        pids_limit=16,
        init=True,
    )


def _limits(lab: Lab, name: str) -> list[object]:
    """The limits of a container, as the kernel has them."""
    container = running(lab, name)
    cgroup = lab.host.cgroup(container)
    files = lab.host.cgroup_files(container, ["cpuset.cpus", "cpu.shares", "cpu.weight"])
    numbers = (cgroup.cpu.limit_cpus, cgroup.memory.limit_bytes, cgroup.pids.limit)
    return [*numbers, *(file.text for file in files.values())]


def _limits_changed(lab: Lab, names: tuple[str, ...]) -> str | None:
    for name in names:
        if _limits(lab, name) != stored_value(lab, f"limits of {name}"):
            return f"{name} was not throttled, and has other limits now"
    return None


def _is_throttled(lab: Lab, workers: tuple[str, ...]) -> str | None:
    loads = _activity(lab, *workers)
    # a single period does not last
    if any(load.throttled > 1 for load in loads):
        return "one of them is throttled"
    if any(load.stopped for load in loads):
        return "a process of one of them is stopped by a signal: it does no work"
    first, wanted_cpus = loads[0], WORKERS[0][0] / PERIOD_S
    if first.quota_cpus is not None and first.quota_cpus < wanted_cpus:
        return "one of them is throttled as soon as it does all of its work"
    # a busy machine may keep it waiting: then it gets a part of what it wants, or is ready at each poll
    works = first.cpus >= wanted_cpus / 10 or first.wants_cpu
    return None if works else "one of them does not do its work (yet)"


def _free_hint(lab: Lab, workers: tuple[str, ...]) -> str:
    first, *others = _activity(lab, *workers)
    if any(load.stopped for load in (first, *others)):
        return "That slows it even more. A process continues with the signal CONT."
    initial_cpus = WORKERS[0][1] or 0
    if first.quota_cpus is not None and first.quota_cpus > initial_cpus:
        return "It has more room now and still uses it up. How much would it use without a quota?"
    return (
        "A limit alone slows nothing: a container is throttled when it wants more. The kernel counts it in cpu.stat, "
        "nr_throttled; `docker stats` does not show it."
    )


# --- three to one


def three_to_one(lab: Lab) -> Exercise:
    """Two loads on one CPU, the first with three times as much CPU time as the second, and no quota.

    Promises: both want the same single CPU all the time, no quota holds either back, and the kernel divides it three
    to one. A ratio of 2.5 or 4 does not pass.
    """
    tasks = (
        Task(
            "run",
            f"Two containers {FAST} and {SLOW} run",
            are_running(FAST, SLOW),
            "Two containers of labhelpers/payload, each with a shell in a busy loop.",
        ),
        Task(
            "one",
            "Both may use one CPU only, and it is the same one",
            _one_cpu,
            "Containers on different CPUs do not compete. `docker run` and `docker update` take a set of CPUs.",
            ("run",),
        ),
        Task(
            "ratio",
            f"{FAST} gets three times as much of it as {SLOW}: measured",
            _three_to_one,
            _ratio_hint,
            ("one",),
        ),
    )
    return Exercise(lab, "04", "three-to-one", "Three to one", tasks, 0.3, (FAST, SLOW))


def _one_cpu(lab: Lab) -> str | None:
    cpus = {
        name: lab.host.cgroup_files(running(lab, name), ["cpuset.cpus"])["cpuset.cpus"].text or ""
        for name in (FAST, SLOW)
    }
    for name, text in cpus.items():
        if not text.isdigit():
            return f"{name} may use more than one CPU (0-{int(lab.engine.info['NCPU']) - 1})"
    same = cpus[FAST] == cpus[SLOW]
    return None if same else f"{FAST} may use CPU {cpus[FAST]} and {SLOW} CPU {cpus[SLOW]}"


def _three_to_one(lab: Lab) -> str | None:
    fast, slow = _activity(lab, FAST, SLOW)
    if fast.throttled or slow.throttled:
        return "a quota holds one of them back: that is no competition"
    if not (fast.wants_cpu and slow.wants_cpu):
        return "they do not want the CPU all the time"
    part = fast.cpus / (fast.cpus + slow.cpus)
    if not 0.68 <= part <= 0.82:
        return f"{FAST} got {part:.0%} of what both used"
    # a short measurement cannot distinguish 3.0 from 2.5: the kernel's weights can
    ratio = _weight(lab, FAST) / _weight(lab, SLOW)
    return (
        None
        if abs(ratio - RATIO) <= RATIO_TOLERANCE
        else f"{FAST} weighs {ratio:.1f} times as much as {SLOW}"
    )


def _weight(lab: Lab, name: str) -> int:
    files = lab.host.cgroup_files(running(lab, name), ["cpu.shares", "cpu.weight"])
    return next(int(file.text) for file in files.values() if file.text)


def _ratio_hint(lab: Lab) -> str:
    fast, slow = _activity(lab, FAST, SLOW)
    if fast.throttled or slow.throttled:
        return (
            "A quota limits a container even without a competitor. Shares divide the CPU among competitors."
        )
    if not (fast.wants_cpu and slow.wants_cpu):
        return "Both must be busy all the time."
    return "The kernel divides the time by the weights of the competitors. The default is 1024 shares."


# --- a full house


def full_house(lab: Lab) -> Exercise:
    """A container that has as many processes as its limit allows.

    Promises: the kernel's limit is low, and the container reaches it exactly, and still does a moment later: a process
    that is about to end does not count. Threads count, as the kernel counts them.
    """
    tasks = (
        runs(
            FULL, "Any image with a shell; a shell can start several `sleep` in the background, and `wait`."
        ),
        Task(
            "some",
            f"It may have at most {MAX_PIDS} processes",
            _pids_limited,
            "The resource is the number of processes and threads: pids.",
            ("runs",),
        ),
        Task(
            "full",
            f"It has as many as it may have, and at least {MIN_PIDS}",
            _is_full,
            "A process that cannot be started is an error in its log. Count the shell itself.",
            ("some",),
        ),
    )
    return Exercise(lab, "04", "full-house", "A full house", tasks, 2.0, (FULL,))


def _pids_limited(lab: Lab) -> str | None:
    limit = lab.host.cgroup(running(lab, FULL)).pids.limit
    if limit is None:
        return "it may have as many as the machine can hold"
    return None if limit <= MAX_PIDS else f"it may have {limit}"


def _is_full(lab: Lab) -> str | None:
    pids = lab.host.cgroup(running(lab, FULL)).pids
    if pids.current < MIN_PIDS:
        return f"it has {pids.current}"
    return None if pids.limit == pids.current else f"it has {pids.current}, and may have {pids.limit}"


# --- more memory for a running container


def more_room(lab: Lab) -> Exercise:
    """Raise the memory limit of a running container, without a restart.

    Promises: the kernel's limit of the lab's container has the wanted value, and its first process is still the one
    that it began with: the same container, never stopped, restarted or paused.
    """
    if container_named(lab, KEEPER) is None:
        with lab.hidden():
            keeper = lab.run(
                lab.image("payload"),
                ["sleep", LIFE_S],
                name=KEEPER,
                network="none",
                cap_drop=["ALL"],
                memory=KEPT_BYTES,
                memory_swap=KEPT_BYTES,
                pids_limit=16,
            )
        store_value(lab, KEEPER, (keeper.id, keeper.attrs["State"]["StartedAt"]))
    tasks = (
        runs(
            KEEPER,
            "The cell of the exercise starts it. `docker start` starts it again, but it must not stop.",
        ),
        Task(
            "same",
            "It was never stopped, and is the same container",
            _is_same,
            f"Remove {KEEPER} and run the cell of the exercise again: it starts a new one. Change that while it runs.",
            ("runs",),
        ),
        Task("room", f"It may use {human_bytes(KEEPER_BYTES)} of memory", _has_room, _room_hint, ("runs",)),
    )
    return Exercise(lab, "04", "more-room", "More room while it runs", tasks, 0.3, (KEEPER,))


def _is_same(lab: Lab) -> str | None:
    attrs = running(lab, KEEPER).attrs
    id, started = stored_value(lab, KEEPER) or ("", "")
    if attrs["Id"] != id:
        return "it is another container of that name"
    if attrs["RestartCount"] or attrs["State"]["StartedAt"] != started:
        return "it was stopped and started again"
    return None


def _has_room(lab: Lab) -> str | None:
    limit = lab.host.cgroup(running(lab, KEEPER)).memory.limit_bytes
    if limit is None:
        return "it may use all memory of the machine"
    return None if limit == KEEPER_BYTES else f"it may use {human_bytes(limit)}"


def _room_hint(lab: Lab) -> str:
    memory_swap = running(lab, KEEPER).attrs["HostConfig"]["MemorySwap"]
    if 0 < memory_swap < KEEPER_BYTES:
        return (
            f"Memory and swap together may be {human_bytes(memory_swap)} here, and memory alone cannot be more than "
            "both: change both in one command."
        )
    return "`docker update` changes a limit of a running container. 96m means powers of 1,024."
