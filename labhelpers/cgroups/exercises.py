"""The exercises of the chapter on control groups: the state of the engine and the kernel's counters prove them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from labhelpers.cgroups.safety_limits import MIB, program
from labhelpers.course.exercises import (
    Exercise,
    Task,
    container_named,
    file_in,
    given,
    keep,
    kept,
    not_as_given,
    not_running,
    running,
)
from labhelpers.drawing import human_bytes
from labhelpers.engine.host import Cpu
from labhelpers.lab.names import all_with_suffix
from labhelpers.results import column, record

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.lab import Lab

WARM, HUNGRY, FOOD, FULL, KEEPER = all_with_suffix("warm", "hungry", "hungry-food", "full-house", "keeper")
FAST, SLOW = all_with_suffix("fast", "slow")
LOOK_S, LONGEST_LOOK_S = 0.8, 6.0
# below this, who gets how much depends on who had the last slice
LEAST_USED_US = 200_000
LOOKS = 5
WANTED_CPUS, OFF, OFF_QUOTA = 0.3, 0.06, 0.01
RATIO, OFF_RATIO = 3.0, 0.2
ROOM_BYTES = 24 * MIB
LIFE_S = "7200"
LEAST_FULL, MOST_FULL = 5, 32
KEPT_BYTES, KEEPER_BYTES = 32 * MIB, 96 * MIB


# --- looking


def _runs(name: str, hint: Callable[[Lab], str] | str) -> Task:
    return Task("runs", f"A container {name} runs", lambda lab: not_running(lab, name), hint)


@record
class _Look:
    """What a container did in a short while."""

    cpus: float = column("used on average")
    throttled: int = column("periods in which it used up its quota")
    quota_cpus: float | None = column("its quota, None for none")
    wants: bool = column(
        "whether it wanted to run all the time: it was throttled in nearly every period, or had a process "
        "that was ready at each of several looks"
    )
    stopped: int = column("how many of its processes are stopped by a signal")


def _look(lab: Lab, *names: str) -> list[_Look]:
    """What containers do in `LOOK_S`; longer where the machine is so busy that they get nearly nothing."""
    containers = [running(lab, name) for name in names]

    def now() -> list[tuple[float, Cpu]]:
        return [(time.monotonic(), lab.host.cgroup(one).cpu) for one in containers]

    before, seen = now(), [_states(lab, containers)]
    end = time.monotonic() + LONGEST_LOOK_S
    while True:
        for _ in range(LOOKS):
            time.sleep(LOOK_S / LOOKS)
            seen.append(_states(lab, containers))
        after = now()
        ready = [all("R" in found for found in each) for each in zip(*seen, strict=True)]
        if not any(ready) or time.monotonic() > end or _tells(before, after):
            break
    stopped = [found.count("T") for found in seen[-1]]
    return [_between(*each) for each in zip(before, after, ready, stopped, strict=True)]


def _states(lab: Lab, containers: Sequence[Container]) -> list[str]:
    """The states of all threads of each container, one letter for each (proc(5), /proc/PID/stat)."""
    stats = [lab.host.cgroup_files(one, ["cpu.stat"])["cpu.stat"].path for one in containers]
    folders = [path.rpartition("/")[0] for path in stats]
    # the threads of a cgroup: version 1, version 2
    lists = [[f"{folder}/tasks", f"{folder}/cgroup.threads"] for folder in folders]
    texts = lab.host.read_many(path for both in lists for path in both)
    threads = [" ".join(texts[path] or "" for path in both).split() for both in lists]
    lines = lab.host.read_many(f"/proc/{thread}/stat" for each in threads for thread in each)
    found = [[lines[f"/proc/{thread}/stat"] or "" for thread in each] for each in threads]
    # the name of the program before it may hold blanks and brackets
    return ["".join(line.rpartition(") ")[2][:1] for line in each) for each in found]


def _tells(before: list[tuple[float, Cpu]], after: list[tuple[float, Cpu]]) -> bool:
    """Whether enough was used to tell something, or somebody was held back."""
    pairs = [(was, now) for (_, was), (_, now) in zip(before, after, strict=True)]
    return (
        sum(now.usage_us - was.usage_us for was, now in pairs) >= LEAST_USED_US
        or sum(now.throttled_periods - was.throttled_periods for was, now in pairs) > 2
    )


def _between(before: tuple[float, Cpu], after: tuple[float, Cpu], ready: bool, stopped: int) -> _Look:
    (start, was), (end, now) = before, after
    used_s, periods = (now.usage_us - was.usage_us) / 1e6, now.periods - was.periods
    throttled = now.throttled_periods - was.throttled_periods
    # where it used up every period, the periods are the better clock: ours is beside the kernel's
    at_its_limit = throttled > 0 and throttled >= 0.8 * periods
    seconds = periods * now.period_us / 1e6 if at_its_limit else end - start
    return _Look(used_s / seconds, throttled, now.limit_cpus, ready or at_its_limit, stopped)


# --- a burner held to 30 %


def thirty(lab: Lab) -> Exercise:
    """Hold a burner to 30 % of a core.

    Promises: the container would use more all the time, and its quota gives it 30 % of a core: one that works a
    third of the time, and a quota of 25 or 35 %, are not that.
    """
    held = Task(
        "held",
        "It is always busy, and gets 30 % of one core: measured",
        _held,
        _held_hint,
        ("runs",),
    )
    runs = _runs(WARM, "A shell can burn: `sh -c 'while :; do :; done'`, in labhelpers/payload.")
    return Exercise(lab, "04", "thirty-percent", "30 % of a core", (runs, held), 0.3, (WARM,))


def _held(lab: Lab) -> str | None:
    (seen,) = _look(lab, WARM)
    if not seen.throttled and seen.quota_cpus is None:
        return f"it used {seen.cpus:.0%} of one core, and nothing held it back"
    if not seen.wants:
        return (
            f"it used {seen.cpus:.0%} of one core, and is not always busy: nothing held it back all the time"
        )
    if seen.quota_cpus is not None and abs(seen.quota_cpus - WANTED_CPUS) > OFF_QUOTA:
        return f"it is held back, and used {seen.cpus:.0%} of one core: its quota is {seen.quota_cpus:.0%}"
    # a busy machine may not give it all of its quota
    return None if seen.cpus <= WANTED_CPUS + OFF else f"it used {seen.cpus:.0%} of one core"


def _held_hint(lab: Lab) -> str:
    (seen,) = _look(lab, WARM)
    if seen.wants and seen.quota_cpus is not None:
        return "Its quota is not 30 %. `docker update` changes it while it runs."
    if not seen.wants:
        return "It does not want more than it gets, so no limit shows. Let it do something without a pause."
    return "Shares and a set of CPUs hold nobody back who is alone. What gives so much time in each period?"


# --- a memory hog that stays alive

_needs: dict[str, int] = {}


def survive(lab: Lab) -> Exercise:
    """Keep a memory hog alive with a limit that fits.

    Promises: the given program runs, unchanged, and holds all the memory that it wants, which differs each time; the
    kernel killed nothing; and the limit leaves little above what the program holds. Cache does not count as held.
    """
    if lab.session not in _needs:
        # the cell that is run again keeps the hog's appetite
        need = _needs[lab.session] = 4 * (9 + secrets.randbelow(10))
        text = keep(lab, FOOD, program("hungry.py").replace("NEED_MIB = 0", f"NEED_MIB = {need}").strip())
        with lab.hidden():
            lab.create_volume(FOOD)
            lab.run_once(
                lab.image("payload"),
                ["sh", "-c", 'echo "$1" > /food/hungry.py', "sh", text],
                network="none",
                volumes=[f"{FOOD}:/food"],
            )
    runs = _runs(HUNGRY, _hungry_hint)
    alive = Task(
        "alive", "It holds all that it wants, and none of it was killed", _alive, _hungry_hint, ("runs",)
    )
    fits = Task(
        "fits",
        f"Its limit of memory leaves at most {human_bytes(ROOM_BYTES)} above what it holds",
        _fits,
        "What does `docker stats` say that it uses? `docker logs` tells what it wants.",
        ("alive",),
    )
    return Exercise(lab, "04", "survive", "Keep the hog alive", (runs, alive, fits), 0.5, (HUNGRY,))


def _hungry_hint(lab: Lab) -> str:
    container = container_named(lab, HUNGRY)
    if container is None:
        return (
            f"The volume {FOOD} holds /hungry.py: mount it, and let labhelpers/tools run it with python3. "
            "A limit of memory is asked for."
        )
    last = lab.logs(container, tail=1).strip()
    if container.attrs["State"]["ExitCode"] == 137:
        return f"Exit code 137 is 128 + 9: it was killed. The last line of its log: “{last}”. It wants more than that."
    return f"It is not there yet, or holds something else. The last line of its log: “{last}”."


def _alive(lab: Lab) -> str | None:
    container, need = running(lab, HUNGRY), _needs[lab.session] * MIB
    seen = lab.host.cgroup(container).memory
    if seen.oom_kills or container.attrs["RestartCount"]:
        return "the kernel has killed one of its processes"
    words = [
        word for one in lab.host.processes(container) for word in one.command.split() if word.endswith(".py")
    ]
    if not words:
        return "no hungry.py runs in it"
    folder = container.attrs["Config"]["WorkingDir"] or "/"
    if not any(file_in(lab, HUNGRY, _absolute(folder, word)) == kept(lab, FOOD) for word in words):
        return f"the program that runs is not the hungry.py of the volume {FOOD}, or it was changed"
    return None if seen.anon_bytes >= need else f"it holds {human_bytes(seen.anon_bytes)}, and wants more"


def _absolute(folder: str, path: str) -> str:
    return path if path.startswith("/") else f"{folder.rstrip('/')}/{path}"


def _fits(lab: Lab) -> str | None:
    seen = lab.host.cgroup(running(lab, HUNGRY)).memory
    if seen.limit_bytes is None:
        return "it has no limit: it lives, and could take the whole machine"
    # what it holds, not what is charged to it: files that it reads or writes fill the rest
    room = seen.limit_bytes - seen.anon_bytes
    return None if room <= ROOM_BYTES else f"its limit leaves {human_bytes(room)} unused"


def container_attrs(lab: Lab, name: str) -> dict[str, Any]:
    """What `docker inspect` says of a container."""
    found: dict[str, Any] = running(lab, name).attrs
    return found


# --- the one that is throttled

PERIOD_S = 0.1
DUTY = program("duty.py")
# (seconds of work in every 0.1 s, CPUs of quota): the first one wants 0.25 CPUs and may have 0.1
WORKERS: tuple[tuple[float, float | None], ...] = ((0.025, 0.1), (0.004, 0.5), (0.0, 0.05), (0.006, None))
_workers: dict[str, tuple[str, ...]] = {}


def throttled(lab: Lab) -> Exercise:
    """Find the container that is throttled, and give it room.

    Promises: the four given containers run, none replaced; the one that was throttled still does all of its work, and
    is not throttled while it does; and no limit of the other three has changed. One that is stopped, has not begun
    yet or does something else is not throttled either, and does not pass.
    """
    if lab.session not in _workers:
        _workers[lab.session] = tuple(f"worker-{secrets.token_hex(2)}" for _ in WORKERS)
    _start_workers(lab)
    names = sorted(_workers[lab.session])
    run = Task(
        "run",
        f"The four containers {', '.join(names)} run",
        lambda lab: next(filter(None, (not_as_given(lab, name) for name in names)), None),
        "A container that is stopped does no work. `docker start` brings it back.",
    )
    others = Task(
        "others",
        "The three that are not throttled have the limits that they had",
        _others,
        "Look at each before you change one: cgroups.sample(lab, [...], 2).frame() has a column for throttled time.",
        ("run",),
    )
    free = Task(
        "free",
        "None of them is throttled any more while it does its work: measured",
        _free,
        _free_hint,
        ("others",),
    )
    tasks = (run, others, free)
    return Exercise(lab, "04", "throttled", "Find the one that is throttled", tasks, 0.3, tuple(names))


def _start_workers(lab: Lab) -> None:
    """Start those that are not there: the cell that is run again keeps what the reader has changed."""
    for name, (work, cpus) in zip(_workers[lab.session], WORKERS, strict=True):
        with lab.hidden():
            given(lab, name, partial(_start_worker, lab, name, work, cpus))
        if not kept(lab, f"limits of {name}"):
            keep(lab, f"limits of {name}", _limits(lab, name))


def _start_worker(lab: Lab, name: str, work: float, cpus: float | None) -> None:
    command = ["python3", "-c", DUTY, str(work)] if work else ["sleep", LIFE_S]
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


def _limits(lab: Lab, name: str) -> str:
    """The limits of a container as the kernel has them, as text."""
    container = running(lab, name)
    seen = lab.host.cgroup(container)
    files = lab.host.cgroup_files(container, ["cpuset.cpus", "cpu.shares", "cpu.weight"])
    return repr(
        [
            seen.cpu.limit_cpus,
            seen.memory.limit_bytes,
            seen.pids.limit,
            *(file.text for file in files.values()),
        ]
    )


def _others(lab: Lab) -> str | None:
    for name in _workers[lab.session][1:]:
        if _limits(lab, name) != kept(lab, f"limits of {name}"):
            return f"{name} was not throttled, and has other limits now"
    return None


def _free(lab: Lab) -> str | None:
    seen = _look(lab, *_workers[lab.session])
    # a period more or less is no lasting state
    if any(one.throttled > 1 for one in seen):
        return "one of them is throttled"
    if any(one.stopped for one in seen):
        return "a process of one of them is stopped by a signal: it does no work"
    first, wanted = seen[0], WORKERS[0][0] / PERIOD_S
    if first.quota_cpus is not None and first.quota_cpus < wanted:
        return "one of them is throttled as soon as it does all of its work"
    # a busy machine may keep it waiting: then it gets a part of what it wants, or is ready at each look
    return None if first.cpus >= wanted / 10 or first.wants else "one of them does not do its work (yet)"


def _free_hint(lab: Lab) -> str:
    if "stopped by a signal" in (_free(lab) or ""):
        return "That slows it even more. A process goes on with the signal CONT."
    quota = lab.host.cgroup(running(lab, _workers[lab.session][0])).cpu.limit_cpus
    if quota is not None and quota > WORKERS[0][1]:  # type: ignore[operator]
        return "It has more room now and still uses it up. How much would it use if nothing held it?"
    return (
        "A limit alone slows nobody: a container is throttled when it wants more. The kernel counts it in cpu.stat, "
        "nr_throttled; `docker stats` does not show it."
    )


# --- three to one


def three_to_one(lab: Lab) -> Exercise:
    """Two burners on one CPU, the first with three times as much as the second, and no quota.

    Promises: both want the same single CPU all the time, no quota holds either back, and the kernel divides it three
    to one. A ratio of 2.5 or 4 is not that.
    """
    names = (FAST, SLOW)
    run = Task(
        "run",
        f"Two containers {FAST} and {SLOW} run",
        lambda lab: next(filter(None, (not_running(lab, name) for name in names)), None),
        "Two containers of labhelpers/payload, each with a shell that burns.",
    )
    one = Task("one", "Both may use one CPU only, and it is the same one", _one_cpu, _one_hint, ("run",))
    ratio = Task(
        "ratio", f"{FAST} gets three times as much of it as {SLOW}: measured", _ratio, _ratio_hint, ("one",)
    )
    return Exercise(lab, "04", "three-to-one", "Three to one", (run, one, ratio), 0.3, names)


def _one_cpu(lab: Lab) -> str | None:
    sets = [
        lab.host.cgroup_files(running(lab, name), ["cpuset.cpus"])["cpuset.cpus"].text or ""
        for name in (FAST, SLOW)
    ]
    every = f"0-{int(lab.engine.info['NCPU']) - 1}"
    if not all(text.isdigit() for text in sets):
        wide = next(name for name, text in zip((FAST, SLOW), sets, strict=True) if not text.isdigit())
        return f"{wide} may use more than one CPU ({every})"
    return None if sets[0] == sets[1] else f"{FAST} may use CPU {sets[0]} and {SLOW} CPU {sets[1]}"


def _one_hint(lab: Lab) -> str:
    return (
        "Who has a CPU for himself competes with nobody. `docker run` and `docker update` take a set of CPUs."
    )


def _ratio(lab: Lab) -> str | None:
    fast, slow = _look(lab, FAST, SLOW)
    if fast.throttled or slow.throttled:
        return "a quota holds one of them back: that is no competition"
    if not (fast.wants and slow.wants):
        return "they do not want the CPU all the time"
    part = fast.cpus / (fast.cpus + slow.cpus)
    if not 0.68 <= part <= 0.82:
        return f"{FAST} got {part:.0%} of what both used"
    # a short measurement cannot tell 3.0 from 2.5: the kernel's weights can
    weights = _weight(lab, FAST) / _weight(lab, SLOW)
    return (
        None if abs(weights - RATIO) <= OFF_RATIO else f"{FAST} weighs {weights:.1f} times as much as {SLOW}"
    )


def _weight(lab: Lab, name: str) -> int:
    files = lab.host.cgroup_files(running(lab, name), ["cpu.shares", "cpu.weight"])
    return next(int(file.text) for file in files.values() if file.text)


def _ratio_hint(lab: Lab) -> str:
    said = _ratio(lab) or ""
    if "quota" in said:
        return "A quota is a limit, also for who is alone. Shares divide what is wanted by several."
    if "do not want" in said:
        return "Both must burn all the time."
    return "The kernel divides the time by the weights of those who want it. The default is 1024 shares."


# --- a full house


def full_house(lab: Lab) -> Exercise:
    """A container that holds as many processes as it may have.

    Promises: the kernel lets it have at most so many, and it has exactly these and not fewer a moment later: one that
    is about to end does not count. Threads count, as the kernel counts them.
    """
    runs = _runs(
        FULL, "Any image with a shell; a shell can start several `sleep` in the background, and `wait`."
    )
    some = Task("some", f"It may have at most {MOST_FULL} processes", _limited, _limited_hint, ("runs",))
    full = Task(
        "full",
        f"It has as many as it may have, and at least {LEAST_FULL}",
        _full,
        "A process that cannot be started is an error in its log. Count the shell itself.",
        ("some",),
    )
    return Exercise(lab, "04", "full-house", "A full house", (runs, some, full), 2.0, (FULL,))


def _limited(lab: Lab) -> str | None:
    limit = lab.host.cgroup(running(lab, FULL)).pids.limit
    if limit is None:
        return "it may have as many as the machine can hold"
    return None if limit <= MOST_FULL else f"it may have {limit}"


def _limited_hint(lab: Lab) -> str:
    return "The resource is the number of processes and threads: pids."


def _full(lab: Lab) -> str | None:
    seen = lab.host.cgroup(running(lab, FULL)).pids
    if seen.current < LEAST_FULL:
        return f"it has {seen.current}"
    return None if seen.limit == seen.current else f"it has {seen.current}, and may have {seen.limit}"


# --- more room for one that runs

_kept: dict[str, tuple[str, str]] = {}


def more_room(lab: Lab) -> Exercise:
    """Give a running container more memory, without starting it again.

    Promises: the kernel's limit of the given container is so much, and its first process is still the one that it
    began with: the same container, never stopped, restarted or paused.
    """
    if container_named(lab, KEEPER) is None:
        with lab.hidden():
            made = lab.run(
                lab.image("payload"),
                ["sleep", LIFE_S],
                name=KEEPER,
                network="none",
                cap_drop=["ALL"],
                memory=KEPT_BYTES,
                memory_swap=KEPT_BYTES,
                pids_limit=16,
            )
        _kept[lab.session] = (str(made.id), made.attrs["State"]["StartedAt"])
    runs = _runs(
        KEEPER, "The cell of the exercise starts it. `docker start` starts it again, but it must not stop."
    )
    same = Task("same", "It was never stopped, and is the same container", _same, _same_hint, ("runs",))
    room = Task("room", f"It may use {human_bytes(KEEPER_BYTES)} of memory", _room, _room_hint, ("runs",))
    tasks = (runs, same, room)
    return Exercise(lab, "04", "more-room", "More room while it runs", tasks, 0.3, (KEEPER,))


def _same(lab: Lab) -> str | None:
    found = container_attrs(lab, KEEPER)
    id, started = _kept.get(lab.session, ("", ""))
    if found["Id"] != id:
        return "it is another container of that name"
    if found["RestartCount"]:
        return "it was stopped and started again"
    return None if found["State"]["StartedAt"] == started else "it was stopped and started again"


def _same_hint(lab: Lab) -> str:
    return f"Remove {KEEPER} and run the cell of the exercise again: it starts a new one. Change that while it runs."


def _room(lab: Lab) -> str | None:
    limit = lab.host.cgroup(running(lab, KEEPER)).memory.limit_bytes
    if limit is None:
        return "it may use all memory of the machine"
    return None if limit == KEEPER_BYTES else f"it may use {human_bytes(limit)}"


def _room_hint(lab: Lab) -> str:
    both = container_attrs(lab, KEEPER)["HostConfig"]["MemorySwap"]
    if 0 < both < KEEPER_BYTES:
        return (
            f"Memory and swap together may be {human_bytes(both)} here, and memory alone cannot be more than both: "
            "change both in one command."
        )
    return "`docker update` changes a limit of a container that runs. 96m means powers of 1,024."
