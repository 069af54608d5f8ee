"""Report what works, what is missing and how to fix it; starts no engine and installs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict
from typing import Any

from requests import Response

from labhelpers import state
from labhelpers.engine import Engine, connect, hub, images
from labhelpers.engine.differences import differences
from labhelpers.engine.find import INSTALL_PAGE, cli_address
from labhelpers.engine.smoke_test import first_run
from labhelpers.errors import LabError
from labhelpers.lab import sessions
from labhelpers.terminal import echo

HUB_TIMEOUT_S = 1.0
# longer than an overloaded engine needs: a container created after the timeout would be left behind
REQUEST_TIMEOUT_S = 60
# an engine that takes longer for one response is slow
SLOW_S = 3
FACTS = ("version", "api", "host", "source", "storage_driver", "cgroup_version", "cpus", "memory_bytes")
CONTINUE_HINT = "continue; the notebooks point out where it matters"
ENOUGH_DISK_BYTES = 4 * 1024**3


def run_checks(choice: str | None = None) -> dict[str, Any]:
    """The report of `./lab doctor --json`.

    Returns:
        `{"ok", "engine": {…} or None, "hub_reachable", "images": {name: {"ref",
        "source", "present"}}, "problems": [{"what", "why", "next"}]}`; `ok` is true if there are no
        problems. Differences of this engine are listed with `"kind": "note"` and do not count. Hub is contacted by
        the engine, or by this machine if there is no engine.
    """
    problems: list[dict[str, str]] = []
    notes: list[dict[str, str]] = []
    report: dict[str, Any] = {"ok": False, "engine": None, "hub_reachable": False, "images": {}}
    try:
        engine = connect(choice, revive=False)
    except LabError as error:
        problems.append(_problem(error))
        report["hub_reachable"] = hub.is_reachable(HUB_TIMEOUT_S)
    else:
        engine.client.api.timeout = REQUEST_TIMEOUT_S
        slowest = _slowest(engine)
        facts = asdict(engine.facts())
        report["engine"] = {name: facts[name] for name in FACTS}
        notes = [
            {
                "kind": "note",
                "what": warning,
                "why": f"{engine.product} serves the Docker API",
                "next": CONTINUE_HINT,
            }
            for warning in engine.warnings
        ]
        notes += [
            {
                "kind": "note",
                "what": difference.message,
                "why": f"the engine's setting {difference.name}",
                "next": difference.hint,
            }
            for difference in differences(engine)
        ]
        problems += _first_run(engine) + _docker_cli_problem(engine)
        report["hub_reachable"] = images.hub_reachable(engine, HUB_TIMEOUT_S)
        report["images"] = {
            name: {"ref": status.ref, "source": status.source, "present": status.present}
            for name, status in images.status(engine).items()
        }
        notes += _slow_engine_problem(slowest)
    problems += _machine_problems()
    return report | {"ok": not problems, "problems": notes + problems}


def print_report(report: dict[str, Any]) -> None:
    """Print the report as text."""
    engine = report["engine"]
    if engine:
        echo(
            f"engine:   version {engine['version']} (API {engine['api']}), {engine['source']}, at {engine['host']}"
        )
        echo(f"          {engine['storage_driver']}, cgroup v{engine['cgroup_version']}, {engine['cpus']} CPUs, "
            f"{engine['memory_bytes'] / 1024**3:.1f} GiB")  # fmt: skip
        echo(
            "hub:      "
            f"{'reachable' if report['hub_reachable'] else 'not reachable; base images are built from packages'}"
        )
    for name, image in report["images"].items():
        status = (
            f"present, from {image['source']}" if image["present"] else "not built yet; built on first use"
        )
        echo(f"image:    {name:<9} {status}")
    for problem in report["problems"]:
        kind = problem.get("kind", "problem") + ":"
        echo(f"{kind:<9} {problem['what']}\n  why:    {problem['why']}\n  next:   {problem['next']}")
    problems = sum(problem.get("kind") != "note" for problem in report["problems"])
    echo("no problems found" if report["ok"] else f"{problems} problem(s)")


def _slowest(engine: Engine) -> list[float]:
    """The longest response time of the engine so far, in seconds, as the only item of a list."""
    longest = [0.0]

    def note(response: Response, *_: Any, **__: Any) -> None:
        # the response to a wait comes when the container exits
        if not response.url.partition("?")[0].endswith("/wait"):
            longest[0] = max(longest[0], response.elapsed.total_seconds())

    engine.client.api.hooks["response"].append(note)
    return longest


def _slow_engine_problem(slowest: list[float]) -> list[dict[str, str]]:
    if slowest[0] <= SLOW_S:
        return []
    return [
        {
            "kind": "note",
            "what": f"the engine is slow (a response took more than {SLOW_S} s)",
            "why": f"the slowest response took {slowest[0]:.0f} s: its machine is overloaded or too small",
            "next": "reduce the load on that machine (`top`, `docker stats`); until then measurements are unreliable",
        }
    ]


def _docker_cli_problem(engine: Engine) -> list[dict[str, str]]:
    """Whether the `docker` command and this engine have a common API version, from running it."""
    cli = shutil.which("docker")
    if cli is None:
        return []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_TLS")}
    command = [cli, "--host", cli_address(engine), "version", "--format", "{{.Server.APIVersion}}"]
    try:
        completed = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=REQUEST_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [_docker_cli_error(str(error), "run `docker version` yourself")]
    return (
        []
        if completed.returncode == 0
        else [_docker_cli_error(completed.stderr.strip(), _newer_or_older(completed.stderr))]
    )


def _docker_cli_error(message: str, hint: str) -> dict[str, str]:
    return {"what": "the `docker` command cannot talk to this engine", "why": message, "next": hint}


def _newer_or_older(stderr: str) -> str:
    if pinned := os.environ.get("DOCKER_API_VERSION"):
        return f"DOCKER_API_VERSION is set to {pinned}: `unset DOCKER_API_VERSION`"
    if "too old" in stderr:
        return f"update the `docker` command to the engine's version: {INSTALL_PAGE}"
    if "too new" in stderr or "minimum supported" in stderr.lower():
        return f"update the engine to the version of the `docker` command: {INSTALL_PAGE}"
    return "run `docker version` yourself; a corrupted ~/.docker/config.json is one cause"


def _first_run(engine: Engine) -> list[dict[str, str]]:
    try:
        with sessions.temporary_session(engine.client, "doctor") as labels:
            first_run(engine, labels)
    except LabError as error:
        return [_problem(error)]
    return []


def _machine_problems() -> list[dict[str, str]]:
    problems = []
    if not shutil.which("docker"):
        problems.append(
            {
                "what": "the `docker` command is not installed",
                "why": "cells with docker commands need it",
                "next": "./lab up installs it on Debian and Ubuntu; elsewhere it is part of Docker Desktop",
            }
        )
    free = shutil.disk_usage(state.home()).free
    if free < ENOUGH_DISK_BYTES:
        problems.append(
            {
                "what": f"only {free / 1024**3:.1f} GiB free on the disk of the state directory",
                "why": "the private engine, its images and the Python environment need about 4 GiB",
                "next": "free some space, or set LABHELPERS_HOME to a directory on a larger disk "
                f"(now {state.abbreviate_home(state.home())})",
            }
        )
    return problems


def _problem(error: LabError) -> dict[str, str]:
    why = error.engine_message or "no engine answered at any of the usual addresses"
    return {"what": error.message, "why": why.strip(), "next": error.hint}
