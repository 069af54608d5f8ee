"""Notebooks on engine B with other daemon settings, as readers' engines may have.

The notebooks are executed, not compared with their stored outputs: every cell must complete, and each finding must hold
or report that it does not apply.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from labhelpers import state
from labhelpers.commandline import runner
from labhelpers.engine import Engine
from labhelpers.errors import BadInput, LabError
from labhelpers.results import Result
from labhelpers.terminal import console
from tests.engines import runs

Echo = Callable[[str], object]

ULIMITS = {
    name: {"Name": name, "Soft": most, "Hard": most} for name, most in (("nofile", 256), ("nproc", 64))
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "icc-off": {"icc": False},
    "iptables-off": {"iptables": False, "ip6tables": False},
    "userland-proxy-off": {"userland-proxy": False},
    "log-none": {"log-driver": "none"},
    "log-local": {"log-driver": "local"},
    "userns-remap": {"userns-remap": "default"},
    "hardened": {"live-restore": True, "no-new-privileges": True, "icc": False, "userland-proxy": False},
    "cgroup-parent": {"cgroup-parent": "/course"},
    "low-ulimits": {"default-ulimits": ULIMITS},
    "small-pools": {"default-address-pools": [{"base": "10.99.0.0/24", "size": 28}]},
    "ipv6": {
        "ipv6": True,
        "ip6tables": True,
        "fixed-cidr-v6": "fd00:b::/64",
        "default-network-opts": {"bridge": {"com.docker.network.enable_ipv6": "true"}},
    },
    "bip-mtu": {"bip": "10.98.7.1/24", "mtu": 1400},
    "vfs": {"storage-driver": "vfs", "features": {"containerd-snapshotter": False}},
}
"""Name → keys of daemon.json (dockerd(8)), in addition to those of engine B.

`hardened` is recommended by docker-bench-security, sections 2.2, 2.14, 2.15 and 2.16 of the CIS Docker Benchmark.
"""

CHAPTERS = ("00", "03", "05", "07")
IMAGES = ("base", "payload", "tools", "registry", "engine")
"""Lab images that are pushed to the registry; B pulls the first three before the notebooks run, others on demand."""
PULLED = IMAGES[:3]
WIDTH = 140


@dataclass(frozen=True, slots=True)
class Row(Result):
    """One notebook with one of the settings.

    Attributes:
        settings: a key of `SETTINGS`.
        notebook: its file name without the extension, or "" if the engine did not start.
        seconds: wall time.
        problem: the failed cell and its error, or "".
        not_applicable: (finding, reason) of those that do not apply to such an engine.
    """

    settings: str
    notebook: str
    seconds: float
    problem: str
    not_applicable: tuple[tuple[str, str], ...]


def select_settings(name: str) -> tuple[str, ...]:
    """The settings selected by `name`: one of them, or `all`.

    Raises:
        BadInput: there are no settings of that name.
    """
    if name == "all":
        return tuple(SETTINGS)
    if name not in SETTINGS:
        raise BadInput(
            f"engine B has no settings called {name!r}",
            hint=f"use one of: {', '.join(SETTINGS)}; or all, for each of them in turn",
        )
    return (name,)


def settings_for_run(number: int) -> tuple[str, tuple[str, ...]]:
    """The settings and chapters of CI run `number`: in rotation, with chapter 00 and one other."""
    turn, at = divmod(number, len(SETTINGS))
    others = CHAPTERS[1:]
    return tuple(SETTINGS)[at], (CHAPTERS[0], others[(turn + at) % len(others)])


def commits() -> int:
    """The number of commits of this checkout; 0 if git fails."""
    completed = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"],
        cwd=state.ROOT,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return int(completed.stdout) if completed.returncode == 0 else 0


def run(names: Sequence[str], chapters: Sequence[str], engine: Engine, echo: Echo) -> list[Row]:
    """Execute the notebooks of `chapters` on engine B with each of the settings `names`.

    Args:
        engine: A; it runs B.
        chapters: as for `./lab run`; none means `CHAPTERS`.
    """
    paths = runner.notebooks(chapters or CHAPTERS)
    rows = []
    for name in names:
        echo(f"settings {name}: {SETTINGS[name]}")
        began = time.monotonic()
        try:
            with (
                runs.run_on_test_engine(
                    "B", engine, IMAGES, echo, pulled=PULLED, settings=SETTINGS[name]
                ) as environment,
                runs.process_environment(environment),
            ):
                for path in paths:
                    result = runner.execute(path)
                    problem = f"cell {result.failed_cell}: {result.error}" if result.failed_cell else ""
                    rows.append(Row(name, result.name, result.seconds, problem, result.not_applicable))
                    if problem:
                        echo(f"{name}, {result.name}, {problem}")
        except LabError as error:
            echo(f"settings {name}: {error}")
            rows.append(Row(name, "", time.monotonic() - began, str(error), ()))
    return rows


def show(rows: Sequence[Row]) -> bool:
    """Print a table, settings by notebooks, then findings that do not apply and failures; whether all passed."""
    notebooks = list(dict.fromkeys(row.notebook for row in rows if row.notebook))
    table = Table("settings", *notebooks, box=SIMPLE)
    for name in dict.fromkeys(row.settings for row in rows):
        by_notebook = {row.notebook: row for row in rows if row.settings == name}
        table.add_row(name, *(_cell(by_notebook.get(notebook)) for notebook in notebooks))
    Console(width=max(console.width, WIDTH)).print(table)
    for row in rows:
        for claim, reason in row.not_applicable:
            console.print(f"{row.settings}, {row.notebook}: does not apply: {claim} ({reason})", markup=False)
    for row in rows:
        if row.problem:
            console.print(f"{row.settings}, {row.notebook or 'engine'} failed: {row.problem}", markup=False)
    return not any(row.problem for row in rows)


def _cell(row: Row | None) -> str:
    if row is None:
        return "not run"
    if row.problem:
        return f"failed ({row.problem.partition(':')[0]})"
    left_out = f", {len(row.not_applicable)} do not apply" if row.not_applicable else ""
    return f"passed{left_out} ({row.seconds:.0f} s)"


def outcome(rows: Sequence[Row], echo: Echo) -> runs.Outcome:
    """One run of the matrix as a row of the table of engines: a notebook counts as a test."""
    name = rows[0].settings
    failed = tuple((f"{row.notebook or 'engine B'} under {name}", row.problem) for row in rows if row.problem)
    echo(f"repeat it with: ./lab test --engine B --settings {name} {' '.join(r.notebook[:2] for r in rows)}")
    return runs.Outcome(
        "B",
        f"settings {name}: {' '.join(row.notebook for row in rows)}",
        int(bool(failed)),
        passed=len(rows) - len(failed),
        failed=failed,
        skipped=tuple((f"{row.notebook}: {claim}", why) for row in rows for claim, why in row.not_applicable),
        tests_s=sum(row.seconds for row in rows),
    )
