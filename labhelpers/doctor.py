"""What is here, what is missing, and what to do about it. Starts no engine and installs nothing."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

from labhelpers import ours, state
from labhelpers.bootstrap import hub_answers
from labhelpers.engine import Engine, connect, images
from labhelpers.engine.smallest import first_run
from labhelpers.errors import LabError
from labhelpers.terminal import say

HUB_S = 1.0
# an engine that takes longer for one answer has a problem of its own
CALL_S = 3
FACTS = ("version", "api", "host", "source", "storage_driver", "cgroup_version", "cpus", "memory_bytes")
GO_ON = "go on; the notebooks say where it matters"
ENOUGH_DISK_BYTES = 4 * 1024**3


def examine(choice: str | None = None) -> dict[str, Any]:
    """The report of `./lab doctor --json`.

    Returns:
        `{"ok", "engine": {…} or None, "hub_reachable", "images": {name: {"ref",
        "source", "present"}}, "problems": [{"what", "why", "next"}]}`; `ok` is true where nothing stands in the
        course's way (that the engine is Podman is told among the problems, and does not). Hub is
        asked by the engine, or by this machine where there is none.
    """
    problems: list[dict[str, str]] = []
    notes: list[dict[str, str]] = []
    report: dict[str, Any] = {"ok": False, "engine": None, "hub_reachable": False, "images": {}}
    try:
        engine = connect(choice, revive=False)
    except LabError as error:
        problems.append(_problem(error))
        report["hub_reachable"] = hub_answers(HUB_S)
    else:
        engine.client.api.timeout = CALL_S
        facts = asdict(engine.facts())
        report["engine"] = {name: facts[name] for name in FACTS}
        notes = [
            {"what": warning, "why": f"{engine.product} answers on Docker's API", "next": GO_ON}
            for warning in engine.warnings
        ]
        problems += _first_run(engine)
        report["hub_reachable"] = images.hub_reachable(engine, HUB_S)
        report["images"] = {
            name: {"ref": status.ref, "source": status.source, "present": status.present}
            for name, status in images.status(engine).items()
        }
    problems += _of_this_machine()
    return report | {"ok": not problems, "problems": notes + problems}


def show(report: dict[str, Any]) -> None:
    """The report for a person."""
    engine = report["engine"]
    if engine:
        say(
            f"engine:   version {engine['version']} (API {engine['api']}), {engine['source']}, at {engine['host']}"
        )
        say(f"          {engine['storage_driver']}, cgroup v{engine['cgroup_version']}, {engine['cpus']} CPUs, "
            f"{engine['memory_bytes'] / 1024**3:.1f} GiB")  # fmt: skip
        say(
            f"hub:      {'answers' if report['hub_reachable'] else 'does not answer; bases are made from packages'}"
        )
    for name, image in report["images"].items():
        here = (
            f"here, from {image['source']}" if image["present"] else "not made yet; made when first asked for"
        )
        say(f"image:    {name:<9} {here}")
    for problem in report["problems"]:
        say(f"problem:  {problem['what']}\n  why:    {problem['why']}\n  next:   {problem['next']}")
    say("all is well" if report["ok"] else f"{len(report['problems'])} problem(s)")


def _first_run(engine: Engine) -> list[dict[str, str]]:
    try:
        with ours.short_session(engine.client, "doctor") as labels:
            first_run(engine, labels)
    except LabError as error:
        return [_problem(error)]
    return []


def _of_this_machine() -> list[dict[str, str]]:
    found = []
    if not shutil.which("docker"):
        found.append(
            {
                "what": "the `docker` command is not here",
                "why": "the cells in which you type docker commands run the real one",
                "next": "./lab up brings it on Debian and Ubuntu; elsewhere it comes with Docker Desktop",
            }
        )
    free = shutil.disk_usage(state.home()).free
    if free < ENOUGH_DISK_BYTES:
        found.append(
            {
                "what": f"only {free / 1024**3:.1f} GiB are free where the state directory is",
                "why": "the private engine, its images and the Python environment take about 4 GiB there",
                "next": f"free some space, or set LABHELPERS_HOME to a larger disk (now {state.shown(state.home())})",
            }
        )
    return found


def _problem(error: LabError) -> dict[str, str]:
    why = error.engine_words or "nothing answered at the places where engines listen"
    return {"what": error.message, "why": why.strip(), "next": error.hint}
