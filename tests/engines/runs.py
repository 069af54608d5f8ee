"""Run the test suite on one engine or on all three, and print a table of the outcomes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from threading import Thread
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from labhelpers import state
from labhelpers.engine import Engine, connect, images
from labhelpers.engine.registry import Registry
from labhelpers.engine.root import run_as_root
from labhelpers.errors import LabError, SetupFailed
from labhelpers.lab import Lab, sessions
from labhelpers.results import Result
from labhelpers.terminal import console
from tests.engines import engine_b, engine_c

Echo = Callable[[str], object]

NAMES = ("A", "B", "C")
PHASES = (("A",), ("B", "C"))
"""Engines that run in parallel: A uses two cores alone; then B does, with C at a lower priority."""

STOP_TIMEOUT_S = 60.0
MAX_REGISTRY_BYTES = 3 << 30
TABLE_WIDTH = 120
MAX_LISTED = 3
SELECTED = ("-m", "engine and not local")
"""The tests that run on B and C: those that use an engine and depend on it, and every notebook."""

XDIST_OPTIONS = {name: ("-n", files, "--dist", "loadfile") for name, files in zip(NAMES, "332", strict=True)}
"""For the whole suite: files in parallel, because tests mostly wait for the engine."""

IMAGES_PULLED_LATER: Mapping[str, tuple[str, ...]] = {
    "B": (),
    "C": ("vm", "engine", "registry", "mysql", "netdata"),
}
"""Images that the default selection of an engine does not need; other tests pull them on demand."""


@dataclass(frozen=True, slots=True)
class Outcome(Result):
    """The outcome of the tests on one engine.

    Attributes:
        engine: `A`, `B` or `C`.
        what: its version, store and cgroup version, as text.
        status: the exit status of pytest; 0 if all passed.
        passed: how many tests (a cell of a notebook is one).
        failed: (name, last lines) of each test that failed.
        findings: how many cells with a finding were run and compared.
        skipped: (name, reason) of each test that was skipped.
        not_for_it: how many were deselected because they do not depend on the engine.
        ready_s: from the start to the first test: the engine and its images.
        tests_s: from the first test to the last.
        problem: why the engine did not start, or "".
    """

    engine: str
    what: str
    status: int
    passed: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    findings: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    not_for_it: int = 0
    ready_s: float = 0.0
    tests_s: float = 0.0
    problem: str = ""


def run(
    names: Sequence[str], engine: Engine, image_names: Sequence[str], args: Sequence[str], echo: Echo
) -> list[Outcome]:
    """Run the tests on each of the engines `names`, one phase of `PHASES` after the other.

    Args:
        engine: A, which this process's environment selects.
        image_names: the lab images that the tests need.
        args: for pytest; none for the default selection of the engine (see `conftest.py`).
    """
    if len(names) == 1:
        return [run_on(names[0], engine, image_names, args, echo)]
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        files = {name: Path(folder) / name for name in names}
        running: list[subprocess.Popen[str]] = []
        readers: list[Thread] = []
        try:
            for phase in PHASES:
                for name in (process for process in phase if process in names):
                    running.append(_start(name, files[name], image_names, args))
                    readers.append(Thread(target=_repeat, args=(name, running[-1], echo)))
                    readers[-1].start()
                for process in running:
                    process.wait()
        finally:
            _end(running)
            for reader in readers:
                reader.join()
        return [outcome for name, file in files.items() for outcome in _read_outcome(name, file)]


def _start(name: str, file: Path, image_names: Sequence[str], args: Sequence[str]) -> subprocess.Popen[str]:
    # it gets SIGTERM if this process is killed (prctl(2), PR_SET_PDEATHSIG)
    python = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-u", "-m", "tests.engines"]
    return subprocess.Popen(
        [*python, name, str(file), ",".join(image_names), *args],
        cwd=state.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _repeat(name: str, process: subprocess.Popen[str], echo: Echo) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            echo(f"{name} │ {line.rstrip()}")


def _end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Terminate the running processes, which clean up; kill those that do not exit in time."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    end = time.monotonic() + 2 * STOP_TIMEOUT_S
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0))
        process.kill()
        process.wait()


def _read_outcome(name: str, file: Path) -> list[Outcome]:
    try:
        outcomes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [Outcome(name, "", 1, problem="its tests ended early; the lines above say how")]
    return [Outcome(**{key: _tuples(value) for key, value in fields.items()}) for fields in outcomes]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def run_on(name: str, engine: Engine, image_names: Sequence[str], args: Sequence[str], echo: Echo) -> Outcome:
    """Run the tests on one engine, in this process."""
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            environment = (
                dict(os.environ)
                if name == "A"
                else stack.enter_context(run_on_test_engine(name, engine, image_names, echo))
            )
            if not args:
                environment["LABHELPERS_TEST_ENGINE"] = name
            ready = time.monotonic()
            with process_environment(environment):
                description = _what(connect("auto"))
            echo(f"engine {name}: {description}; ready after {ready - began:.0f} s")
            selected = SELECTED if name != "A" else ()
            result = _pytest(name, [*selected, *(args or XDIST_OPTIONS[name])], environment)
            return Outcome(
                name, description, ready_s=ready - began, tests_s=time.monotonic() - ready, **result
            )
    except LabError as error:
        echo(f"engine {name}: {error}")
        return Outcome(name, "", 1, problem=error.message, ready_s=time.monotonic() - began)


@contextmanager
def run_on_test_engine(
    name: str,
    engine: Engine,
    image_names: Sequence[str],
    echo: Echo,
    *,
    pulled: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, str]]:
    """Run B or C with the lab images for the block; yields the environment of its tests.

    Args:
        image_names: the images that are pushed to the registry.
        pulled: the images that the engine pulls first; None for all but `IMAGES_PULLED_LATER`.
        settings: keys of daemon.json for engine B.
    """
    with Lab(sessions.TEST_ENGINES, engine=engine) as lab, _folder(lab.session) as folder:
        # and the base of builds there
        refs = [*(images.ensure(engine, image, echo) for image in image_names), images.base(engine, echo)]
        labels = sessions.labels("container", sessions.TEST_ENGINES, lab.session)
        storage = _pushed_before(lab)
        test_registry = Registry(engine, labels, lambda: images.reference("registry"), storage=storage)
        for ref in refs:
            test_registry.push(ref)
        port = test_registry.address.rpartition(":")[2]
        if pulled is None:
            pulled = [ref for ref in image_names if ref not in IMAGES_PULLED_LATER[name]]

        def environment(address: str) -> dict[str, str]:
            inherited = {key: value for key, value in os.environ.items() if key != "LABHELPERS_ENGINE"}
            # not the reader's sessions and progress
            home = str(folder / "home")
            return {
                **inherited,
                "DOCKER_HOST": address,
                "LABHELPERS_HOME": home,
                "LABHELPERS_REGISTRY": registry,
            }

        def pull(address: str) -> None:
            with process_environment(environment(address)):
                _pull(connect("auto"), registry, pulled, echo)

        with ExitStack() as stack:
            if name == "B":
                test_registry.container.reload()
                (own,) = test_registry.container.attrs["NetworkSettings"]["Networks"].values()
                registry = f"{own['IPAddress']}:5000"
                address = stack.enter_context(engine_b.running(lab, registry, folder, echo, settings))
                pull(address)
            else:
                registry = f"{engine_c.HOST}:{port}"
                names = [*map(images.reference, pulled), images.BASE]
                ids = [str(engine.client.images.get(ref).id) for ref in names]
                address = stack.enter_context(engine_c.running(folder, ids, pull, echo))
            yield environment(address)


def _pushed_before(lab: Lab) -> str:
    """The volume on A with the registry's data, recreated if it has grown too large.

    Compressing the images costs an engine 47 s of CPU time, which is saved if the registry already has them.
    """
    with lab.quiet():
        volume = lab.create_volume(engine_b.REGISTRY_VOLUME, keep=True)
        if lab.host.disk_usage(volume.attrs["Mountpoint"]).allocated_bytes > MAX_REGISTRY_BYTES:
            engine_b.remove_pushed(lab.engine)
            volume = lab.create_volume(engine_b.REGISTRY_VOLUME, keep=True)
        if (volume.attrs["Labels"] or {}).get(sessions.SESSION) == lab.session:
            images.record_created(lab.engine, str(volume.name))
        return str(volume.name)


@contextmanager
def _folder(session: str) -> Iterator[Path]:
    """Create a directory for one run; those of killed runs are removed first."""
    folder = state.path("test-engines", session)
    for old in (stale for stale in folder.parent.iterdir() if not sessions.is_alive(stale.name)):
        run_as_root(["rm", "-rf", str(old)])
    folder.mkdir()
    try:
        yield folder
    finally:
        run_as_root(["rm", "-rf", str(folder)])


@contextmanager
def process_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment of this process for the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pull(engine: Engine, registry: str, image_names: Sequence[str], echo: Echo) -> None:
    for image in image_names:
        images.ensure(engine, image, echo)
    built = [
        image
        for image, status in images.status(engine).items()
        if image in image_names and status.source != "registry"
    ]
    refusal = images.pull_base(engine, f"{registry}/{images.BASE}")
    if built or refusal:
        raise SetupFailed(
            f"{', '.join(built) or images.BASE} were not pulled from the registry, as in a classroom",
            hint="see the messages of the registry and the engine above",
            engine_message=refusal.engine_message if refusal else None,
        )


def _what(engine: Engine) -> str:
    facts = engine.facts()
    return f"Docker {facts.version}, {facts.storage_driver}, cgroup v{facts.cgroup_version}"


def _pytest(name: str, args: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        file = Path(folder) / "outcome.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "tests.engines.outcome", *args],
            cwd=state.ROOT,
            env={**environment, "LABHELPERS_OUTCOME": str(file)},
        )
        try:
            status = process.wait()
        except BaseException as error:
            # it cleans up after its tests; ^C at the terminal has reached it as well
            if not isinstance(error, KeyboardInterrupt):
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.kill()
            process.wait()
            raise
        outcome = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {
        "status": status,
        "passed": outcome.get("passed", 0),
        "failed": tuple((test, failure) for test, failure in outcome.get("failed", ())),
        "findings": outcome.get("findings", 0),
        "skipped": tuple((test, reason) for test, reason in outcome.get("skipped", ())),
        "not_for_it": outcome.get("deselected", 0),
        "problem": "" if outcome else "pytest itself failed; the lines above say how",
    }


def _summarize(tests: Sequence[str]) -> list[str]:
    """The names of tests; more than `MAX_LISTED` tests of one file are listed as their number."""
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    lines = []
    for file, names in files.items():
        lines += names if len(names) <= MAX_LISTED else [f"{file} ({len(names)} tests)"]
    return lines


def show(outcomes: Sequence[Outcome]) -> bool:
    """Print the table, then skipped and failed tests with their reasons; whether all passed."""
    table = Table(
        "", "what", "passed", "failed", "findings", "skipped", "left out", "ready", "tests", box=SIMPLE
    )
    for outcome in outcomes:
        table.add_row(
            outcome.engine,
            outcome.what or outcome.problem,
            *map(
                str,
                (
                    outcome.passed,
                    len(outcome.failed),
                    outcome.findings,
                    len(outcome.skipped),
                    outcome.not_for_it,
                ),
            ),
            f"{outcome.ready_s:.0f} s",
            f"{outcome.tests_s:.0f} s",
        )
    # a pipe reports a width of 80, which would wrap the rows of the table
    Console(width=max(console.width, TABLE_WIDTH)).print(table)
    for outcome in outcomes:
        reasons: dict[str, list[str]] = {}
        for test, reason in outcome.skipped:
            reasons.setdefault(reason, []).append(test)
        for reason, tests in reasons.items():
            console.print(f"{outcome.engine} skipped: {reason}", markup=False)
            for line in _summarize(tests):
                console.print(f"    {line}", markup=False)
        for test, failure in outcome.failed:
            console.print(f"{outcome.engine} failed:  {test}", markup=False)
            console.print(indent(failure, "    "), markup=False)
    return all(not outcome.status and not outcome.problem for outcome in outcomes)
