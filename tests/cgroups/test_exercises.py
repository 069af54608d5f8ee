"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

from typing import Any

import pytest

from labhelpers.cgroups import exercises
from labhelpers.cgroups.safety_limits import MIB
from labhelpers.course.containers import stored_value
from labhelpers.engine.waiting import wait_for
from labhelpers.lab import Lab

BURST = "timeout 0.2 sh -c 'while :; do :; done'"
BURN = ["timeout", "300", "sh", "-c", "while :; do :; done"]


pytestmark = pytest.mark.usefixtures("temporary_state")


def started(lab: Lab, name: str, command: list[str], image: str = "payload", **options: Any) -> None:
    """A container of that name, in place of one that is there."""
    if lab.client.containers.list(all=True, filters={"name": f"^/{name}$"}, ignore_removed=True):
        lab.remove(name, force=True)
    bound = {"memory": "96m", "pids_limit": 24, "network": "none"}
    lab.run(lab.image(image), command, name=name, **bound | options)


def test_thirty(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.thirty(lab)
    assert "no container named warm" in str(exercise.check())
    started(lab, "warm", ["sleep", "300"], cpus=0.3)
    assert "nothing held it back" in str(exercise.check())
    assert "does not want more" in exercise.hint()
    started(lab, "warm", BURN, cpu_shares=300)
    assert "nothing held it back" in str(exercise.check())
    assert "Shares" in exercise.hint()
    lab.update("warm", cpus=0.1)
    assert "it is held back, and used" in str(exercise.check())
    lab.update("warm", cpus=0.35)
    assert "its quota is 35%" in str(exercise.check())
    # bursts that use the quota up now and then
    started(lab, "warm", ["timeout", "300", "sh", "-c", f"while :; do {BURST}; sleep 1; done"], cpus=0.3)
    assert "not always busy" in str(exercise.check())
    started(lab, "warm", BURN, cpus=0.3)
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed


def test_thirty_by_quota_and_period_counts_too(quiet_lab: Lab) -> None:
    exercise = exercises.thirty(quiet_lab)
    started(quiet_lab, "warm", BURN, cpu_quota=15_000, cpu_period=50_000)
    assert exercise.check().passed, exercise.check()


def test_survive(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.survive(lab)
    need = stored_value(lab, "hungry-food")[0]
    command = ["python3", "/food/hungry.py"]
    food = {"image": "tools", "volumes": ["hungry-food:/food:ro"]}
    assert "no container named hungry" in str(exercise.check())

    def after(command: list[str] = command, **limits: Any) -> str:
        started(lab, "hungry", command, **food | limits)
        hungry = lab.client.containers.get("hungry")

        def done() -> bool:
            hungry.reload()
            return hungry.status != "running" or b"has enough" in hungry.logs()

        wait_for("its end, or all that it wants", done, 60)
        return str(exercise.check())

    assert "exit code 137" in after(memory=need - 4 * MIB, memory_swap=need - 4 * MIB)
    assert "was killed" in exercise.hint()
    assert "unused" in after(memory=need + 96 * MIB)
    started(lab, "hungry", ["sleep", "300"])
    assert "no hungry.py runs in it" in str(exercise.check())
    other = f"import time; held = bytearray(b'x') * {need}; time.sleep(300)"
    started(lab, "hungry", ["python3", "-c", other, "hungry.py"], image="tools", memory=need + 16 * MIB)
    assert "is not the hungry.py of the volume" in str(exercise.check())
    # files fill the rest of a limit that is too large
    assert "unused" in after(memory=need + 96 * MIB, tmpfs={"/fill": ""})
    lab.exec("hungry", ["dd", "if=/dev/zero", "of=/fill/file", "bs=1M", "count=80"])
    assert "unused" in str(exercise.check())
    after(memory=need + 16 * MIB)
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    # from its folder, with a reservation, and more swap than memory
    after(
        memory=need + 12 * MIB, memory_reservation=need, workdir="/food", command=["python3", "./hungry.py"]
    )
    assert exercise.check().passed, exercise.check()
    # the cell that is run again does not change what it wants
    exercises.survive(lab)
    assert stored_value(lab, "hungry-food")[0] == need


def test_a_hog_without_a_limit_lives_and_does_not_pass(quiet_lab: Lab) -> None:
    exercise = exercises.survive(quiet_lab)
    # its own bound: it ends by itself, and its address space is held
    quiet_lab.run(
        quiet_lab.image("tools"),
        ["python3", "/food/hungry.py"],
        name="hungry",
        volumes=["hungry-food:/food:ro"],
    )
    wait_for(
        "the verdict", lambda: "no limit" in str(exercise.check()), 60, details=lambda: str(exercise.check())
    )


def test_throttled(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.throttled(lab)
    # before its work begins it is not throttled either
    assert not exercise.check().passed
    victim, busy, idle, free = stored_value(lab, "workers")
    wait_for("it to be throttled", lambda: lab.host.cgroup(victim).cpu.throttled_periods > 3, 60)
    assert "one of them is throttled" in str(exercise.check())
    assert "nr_throttled" in exercise.hint()
    lab.update(idle, cpus=1)
    assert f"{idle} was not throttled" in str(exercise.check())
    lab.update(idle, cpus=0.05)
    lab.update(victim, cpus=0.12)
    assert "one of them is throttled" in str(exercise.check())
    assert "still uses it up" in exercise.hint()
    lab.exec(victim, ["sh", "-c", "kill -STOP $(pgrep -x python3)"])
    assert "stopped by a signal" in str(exercise.check())
    assert "CONT" in exercise.hint()
    lab.exec(victim, ["sh", "-c", "kill -CONT $(pgrep -x python3)"])
    lab.update(busy, memory="80m", memory_swap="160m")
    assert f"{busy} was not throttled" in str(exercise.check())
    lab.update(busy, memory="64m", memory_swap="128m")
    lab.stop(victim, timeout_s=0)
    assert f"{victim} is not running" in str(exercise.check())
    lab.client.containers.get(victim).start()
    lab.update(victim, cpus=0.9)
    wait_for("it to pass", lambda: exercise.check().passed, 30, details=lambda: str(exercise.check()))
    assert exercise.check().passed
    exercises.throttled(lab)
    lab.client.containers.get(victim).rename("former")
    lab.run(lab.image("payload"), ["sleep", "300"], name=victim, network="none")
    assert f"{victim} has been replaced" in str(exercise.check())
    assert stored_value(lab, "workers") == (victim, busy, idle, free)


def test_three_to_one(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.three_to_one(lab)
    assert "no container named fast" in str(exercise.check())
    started(lab, "fast", BURN)
    started(lab, "slow", BURN, cpuset_cpus="0")
    if int(lab.engine.info["NCPU"]) > 1:
        assert "fast may use more than one CPU" in str(exercise.check())
    lab.update("fast", cpuset_cpus="0")
    assert "of what both used" in str(exercise.check())
    assert "weights" in exercise.hint()
    lab.update("fast", cpu_shares=2560)
    assert "fast weighs 2.5 times as much" in str(exercise.check())
    lab.update("fast", cpu_shares=3 * 1024)
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    lab.update("fast", cpu_shares=900)
    lab.update("slow", cpu_shares=300)
    assert exercise.check().passed, exercise.check()
    lab.update("slow", cpus=0.1)
    assert "a quota holds one of them back" in str(exercise.check())


def test_full_house(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.full_house(lab)
    assert "no container named full-house" in str(exercise.check())
    five = ["sh", "-c", "for n in 1 2 3 4; do sleep 300 & done; wait"]
    started(lab, "full-house", five, pids_limit=-1)
    said = str(exercise.check())
    assert "missing: it may have" in said
    started(lab, "full-house", five, pids_limit=8)
    # while a container starts, the runtime's own threads are in its cgroup
    wait_for(
        "the verdict",
        lambda: "it has 5, and may have 8" in str(exercise.check()),
        30,
        details=lambda: str(exercise.check()),
    )
    three = ["sh", "-c", "sleep 300 & sleep 300 & wait"]
    started(lab, "full-house", three, pids_limit=3)
    wait_for(
        "the verdict", lambda: "it has 3" in str(exercise.check()), 30, details=lambda: str(exercise.check())
    )
    short = ["sh", "-c", "for n in 1 2 3 4; do sleep 1 & done; wait"]
    started(lab, "full-house", short, pids_limit=5, restart="always")
    assert not exercise.check().passed
    started(lab, "full-house", five, pids_limit=5)
    wait_for("it to pass", lambda: exercise.check().passed, 30, details=lambda: str(exercise.check()))
    assert exercise.check().passed


def test_more_room(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.more_room(lab)
    assert "it may use 32 MiB" in str(exercise.check())
    assert "change both" in exercise.hint()
    lab.update("keeper", memory="64m", memory_swap="64m")
    assert "it may use 64 MiB" in str(exercise.check())
    lab.update("keeper", memory="128m", memory_swap="128m")
    assert "it may use 128 MiB" in str(exercise.check())
    lab.update("keeper", memory="96m", memory_swap="192m")
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    # in bytes, and as much swap as there is
    lab.update("keeper", memory=96 << 20, memory_swap=-1)
    assert exercise.check().passed, exercise.check()
    lab.stop("keeper", timeout_s=0)
    assert "is not running" in str(exercise.check())
    lab.client.containers.get("keeper").start()
    assert "stopped and started again" in str(exercise.check())
    started(lab, "keeper", ["sleep", "300"])
    assert "another container of that name" in str(exercise.check())
    lab.remove("keeper", force=True)
    assert "it may use 32 MiB" in str(exercises.more_room(lab).check())


def test_a_full_house_of_threads_and_by_update_counts_too(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = exercises.full_house(lab)
    threads = (
        "import threading, time; [threading.Thread(target=time.sleep, args=(300,)).start() for _ in range(5)]"
    )
    started(lab, "full-house", ["python3", "-c", threads], image="tools", pids_limit=20)
    wait_for("its threads", lambda: lab.host.cgroup("full-house").pids.current == 6, 30)
    assert "it has 6, and may have 20" in str(exercise.check())
    lab.update("full-house", pids_limit=6)
    assert exercise.check().passed, exercise.check()


def test_throttled_without_any_quota_counts_too(quiet_lab: Lab) -> None:
    exercise = exercises.throttled(quiet_lab)
    victim = stored_value(quiet_lab, "workers")[0]
    quiet_lab.client.api._post_json(  # `docker update --cpu-quota -1`
        quiet_lab.client.api._url("/containers/{0}/update", victim), data={"CpuQuota": -1, "NanoCpus": 0}
    )
    if quiet_lab.host.cgroup(victim).cpu.limit_cpus is None:
        wait_for("it to pass", lambda: exercise.check().passed, 30, details=lambda: str(exercise.check()))
