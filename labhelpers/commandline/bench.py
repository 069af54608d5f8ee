"""The cost of operations on this engine, as ratios, which are comparable between machines."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from statistics import median

import pandas as pd

from labhelpers.engine import Engine
from labhelpers.engine.find import cli_address
from labhelpers.lab import Lab, sessions

IMAGE = "labhelpers/payload"
COMMAND = ["/bin/busybox", "true"]
LARGE, LARGE_MIB = "/large", 64
KEEP_RUNNING = ["/bin/busybox", "sleep", "600"]


def compare(engine: Engine, repeats: int) -> pd.DataFrame:
    """One row per operation, with the median of `repeats` runs and the ratio to the first row of its group.

    Columns: group, operation, median_ms, ratio.
    """
    with Lab("bench", engine=engine) as lab, lab.quiet():
        target = lab.run(IMAGE, KEEP_RUNNING, network="none")
        cli = ["docker", "--host", cli_address(engine)]
        labels = sessions.labels("container", lab.chapter, lab.session).items()
        run = [*cli, "run", *(f"--label={key}={value}" for key, value in labels), "--rm"]
        socket_cli = ["docker", "--host", lab.socket.address]
        copy = ["cp", f"{target.id}:{LARGE}", "-"]
        lab.exec(
            target, ["/bin/busybox", "dd", "if=/dev/urandom", f"of={LARGE}", "bs=1M", f"count={LARGE_MIB}"]
        )
        groups: dict[str, dict[str, Callable[[], object]]] = {
            "run and remove": {
                "docker run --rm": lambda: _run_typed_command([*run, IMAGE, *COMMAND]),
                "docker run --rm, lab socket": lambda: _run_typed_command(
                    [*socket_cli, "run", "--rm", IMAGE, *COMMAND]
                ),
                "docker run --rm --network none": lambda: _run_typed_command(
                    [*run, "--network", "none", IMAGE, *COMMAND]
                ),
                "lab.run, wait, lab.remove": lambda: _run(lab),
            },
            "exec": {
                "docker exec": lambda: _run_typed_command([*cli, "exec", str(target.id), *COMMAND]),
                "docker exec, lab socket": lambda: _run_typed_command(
                    [*socket_cli, "exec", str(target.id), *COMMAND]
                ),
                "lab.exec": lambda: lab.exec(target, COMMAND),
            },
            f"copy {LARGE_MIB} MiB out": {
                "docker cp": lambda: _run_typed_command([*cli, *copy]),
                "docker cp, lab socket": lambda: _run_typed_command([*socket_cli, *copy]),
            },
            "inspect the engine's host": {
                "docker stats --no-stream": lambda: _run_typed_command(
                    [*cli, "stats", "--no-stream", str(target.id)]
                ),
                "lab.host.memory": lambda: lab.host.memory(target),
                "lab.host.read, one file": lambda: lab.host.read("/proc/loadavg"),
            },
        }
        lab.host.read("/proc/loadavg")  # the first read starts the helper
        rows: list[tuple[str, str, float, float]] = []
        for group, operations in groups.items():
            times = {name: _median_ms(operation, repeats) for name, operation in operations.items()}
            first = next(iter(times.values()))
            rows += [(group, name, round(ms, 1), round(ms / first, 3)) for name, ms in times.items()]
    return pd.DataFrame(rows, columns=["group", "operation", "median_ms", "ratio"])


def _median_ms(operation: Callable[[], object], repeats: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        operation()
        return (time.perf_counter() - began) * 1000

    once()  # warm up caches
    return median(once() for _ in range(repeats))


def _run_typed_command(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _run(lab: Lab) -> None:
    container = lab.run(IMAGE, COMMAND)
    container.wait()
    lab.remove(container)
