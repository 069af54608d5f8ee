"""The test suite on one engine or on all three, and the table of what became of it."""

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

Say = Callable[[str], object]

NAMES = ("A", "B", "C")
PHASES = (("A",), ("B", "C"))
"""What runs side by side: A takes two cores by itself, and B, with C at a lower priority, takes them after it."""

STOP_TIMEOUT_S = 60.0
MAX_REGISTRY_BYTES = 3 << 30
TABLE_WIDTH = 120
MAX_LISTED = 3
SELECTED = ("-m", "engine and not local")
"""What runs on B and C: what uses an engine and is not about this machine; every notebook is among it."""

XDIST_OPTIONS = {name: ("-n", files, "--dist", "loadfile") for name, files in zip(NAMES, "332", strict=True)}
"""For a whole suite: so many files at once, for most of a test is waiting for the engine."""

IMAGES_PULLED_LATER: Mapping[str, tuple[str, ...]] = {
    "B": (),
    "C": ("vm", "engine", "registry", "mysql", "netdata"),
}
"""Images that an engine's own selection does without; a test that is asked for by name pulls what it needs."""


@dataclass(frozen=True, slots=True)
class Outcome(Result):
    """What became of the tests on one engine.

    Attributes:
        engine: `A`, `B` or `C`.
        what: its version, store and cgroup version, in words.
        status: of pytest; 0 where all passed.
        passed: how many tests (a cell of a notebook is one).
        failed: (name, last lines) of each test that failed.
        findings: how many cells with a finding were run and compared.
        skipped: (name, reason) of each test that was skipped.
        not_for_it: how many were left out because they are about this machine alone.
        ready_s: from the start to the first test: the engine and its images.
        tests_s: from the first test to the last.
        problem: why the engine could not be had, or "".
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
    names: Sequence[str], engine: Engine, image_names: Sequence[str], args: Sequence[str], say: Say
) -> list[Outcome]:
    """Run the tests on each of the engines `names`, one phase of `PHASES` after the other, and take B and C away again.

    Args:
        engine: A; this process's environment leads to it.
        image_names: the lab images that the tests need.
        args: for pytest; none means all that the engine runs by itself (`conftest.py` says what).
    """
    if len(names) == 1:
        return [run_on(names[0], engine, image_names, args, say)]
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        files = {name: Path(folder) / name for name in names}
        running: list[subprocess.Popen[str]] = []
        readers: list[Thread] = []
        try:
            for phase in PHASES:
                for name in (one for one in phase if one in names):
                    running.append(_start(name, files[name], image_names, args))
                    readers.append(Thread(target=_repeat, args=(name, running[-1], say)))
                    readers[-1].start()
                for one in running:
                    one.wait()
        finally:
            _end(running)
            for reader in readers:
                reader.join()
        return [outcome for name, file in files.items() for outcome in _read_outcome(name, file)]


def _start(name: str, file: Path, wanted: Sequence[str], args: Sequence[str]) -> subprocess.Popen[str]:
    # if this process is killed, it is asked to end (prctl(2), PR_SET_PDEATHSIG)
    python = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-u", "-m", "tests.engines"]
    return subprocess.Popen(
        [*python, name, str(file), ",".join(wanted), *args],
        cwd=state.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _repeat(name: str, process: subprocess.Popen[str], say: Say) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            say(f"{name} │ {line.rstrip()}")


def _end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Ask those that still run to end, and to take away what they started; then wait no longer."""
    running = [one for one in processes if one.poll() is None]
    for one in running:
        one.terminate()
    end = time.monotonic() + 2 * STOP_TIMEOUT_S
    for one in running:
        with suppress(subprocess.TimeoutExpired):
            one.wait(max(end - time.monotonic(), 0))
        one.kill()
        one.wait()


def _read_outcome(name: str, file: Path) -> list[Outcome]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [Outcome(name, "", 1, problem="its tests ended early; the lines above say how")]
    return [Outcome(**{key: _tuples(value) for key, value in one.items()}) for one in told]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def run_on(name: str, engine: Engine, wanted: Sequence[str], args: Sequence[str], say: Say) -> Outcome:
    """Run the tests on one engine, in this process."""
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            environment = (
                dict(os.environ)
                if name == "A"
                else stack.enter_context(run_on_test_engine(name, engine, wanted, say))
            )
            if not args:
                environment["LABHELPERS_TEST_ENGINE"] = name
            ready = time.monotonic()
            with process_environment(environment):
                what = _what(connect("auto"))
            say(f"engine {name}: {what}; ready after {ready - began:.0f} s")
            selected = SELECTED if name != "A" else ()
            found = _pytest(name, [*selected, *(args or XDIST_OPTIONS[name])], environment)
            return Outcome(name, what, ready_s=ready - began, tests_s=time.monotonic() - ready, **found)
    except LabError as error:
        say(f"engine {name}: {error}")
        return Outcome(name, "", 1, problem=error.message, ready_s=time.monotonic() - began)


@contextmanager
def run_on_test_engine(
    name: str,
    engine: Engine,
    wanted: Sequence[str],
    say: Say,
    *,
    pulled: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, str]]:
    """The environment of tests that run on B or C, while it runs and has the lab images.

    Args:
        wanted: the images that the registry has.
        pulled: those that the engine has from the start; None for all but `IMAGES_PULLED_LATER`.
        settings: keys of daemon.json for engine B.
    """
    with Lab(sessions.TEST_ENGINES, engine=engine) as lab, _folder(lab.session) as folder:
        # and what a build there begins with
        refs = [*(images.ensure(engine, image, say) for image in wanted), images.base(engine, say)]
        labels = sessions.labels("container", sessions.TEST_ENGINES, lab.session)
        storage = _pushed_before(lab)
        there = Registry(engine, labels, lambda: images.reference("registry"), storage=storage)
        for ref in refs:
            there.push(ref)
        port = there.address.rpartition(":")[2]
        if pulled is None:
            pulled = [one for one in wanted if one not in IMAGES_PULLED_LATER[name]]

        def environment(address: str) -> dict[str, str]:
            ours = {key: value for key, value in os.environ.items() if key != "LABHELPERS_ENGINE"}
            # a reader's sessions and progress are of another engine
            home = str(folder / "home")
            return {**ours, "DOCKER_HOST": address, "LABHELPERS_HOME": home, "LABHELPERS_REGISTRY": registry}

        def pull(address: str) -> None:
            with process_environment(environment(address)):
                _pull(connect("auto"), registry, pulled, say)

        with ExitStack() as stack:
            if name == "B":
                there.container.reload()
                (own,) = there.container.attrs["NetworkSettings"]["Networks"].values()
                registry = f"{own['IPAddress']}:5000"
                address = stack.enter_context(engine_b.running(lab, registry, folder, say, settings))
                pull(address)
            else:
                registry = f"{engine_c.HOST}:{port}"
                names = [*map(images.reference, pulled), images.BASE]
                ids = [str(engine.client.images.get(one).id) for one in names]
                address = stack.enter_context(engine_c.running(folder, ids, pull, say))
            yield environment(address)


def _pushed_before(lab: Lab) -> str:
    """The volume of A that keeps what was pushed, made anew where too much of older images is in it.

    To compress the images costs an engine 47 s of processor time, and nothing where the registry has them already.
    """
    with lab.quiet():
        kept = lab.create_volume(engine_b.REGISTRY_VOLUME, keep=True)
        if lab.host.disk_usage(kept.attrs["Mountpoint"]).allocated_bytes > MAX_REGISTRY_BYTES:
            engine_b.remove_pushed(lab.engine)
            kept = lab.create_volume(engine_b.REGISTRY_VOLUME, keep=True)
        if (kept.attrs["Labels"] or {}).get(sessions.SESSION) == lab.session:
            images.record_created(lab.engine, str(kept.name))
        return str(kept.name)


@contextmanager
def _folder(session: str) -> Iterator[Path]:
    """A directory for one run; those of runs that were killed are removed first."""
    folder = state.path("test-engines", session)
    for old in (one for one in folder.parent.iterdir() if not sessions.is_alive(one.name)):
        run_as_root(["rm", "-rf", str(old)])
    folder.mkdir()
    try:
        yield folder
    finally:
        run_as_root(["rm", "-rf", str(folder)])


@contextmanager
def process_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Be, for the block, a process with that environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pull(engine: Engine, registry: str, wanted: Sequence[str], say: Say) -> None:
    for image in wanted:
        images.ensure(engine, image, say)
    made = [
        image
        for image, found in images.status(engine).items()
        if image in wanted and found.source != "registry"
    ]
    refusal = images.pull_base(engine, f"{registry}/{images.BASE}")
    if made or refusal:
        raise SetupFailed(
            f"{', '.join(made) or images.BASE} did not come from the registry: a classroom's way is broken",
            hint="the lines above say what the registry or the engine said",
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
            # it takes away what its tests made; a ^C at the terminal has reached it as well
            if not isinstance(error, KeyboardInterrupt):
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.kill()
            process.wait()
            raise
        told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {
        "status": status,
        "passed": told.get("passed", 0),
        "failed": tuple((test, words) for test, words in told.get("failed", ())),
        "findings": told.get("findings", 0),
        "skipped": tuple((test, reason) for test, reason in told.get("skipped", ())),
        "not_for_it": told.get("deselected", 0),
        "problem": "" if told else "pytest itself failed; the lines above say how",
    }


def _summarize(tests: Sequence[str]) -> list[str]:
    """The tests by name; a file of which more than `MAX_LISTED` are among them by its name and their number."""
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    lines = []
    for file, those in files.items():
        lines += those if len(those) <= MAX_LISTED else [f"{file} ({len(those)} tests)"]
    return lines


def show(outcomes: Sequence[Outcome]) -> bool:
    """Print the table, what was skipped or failed, and why; whether all passed."""
    table = Table(
        "", "what", "passed", "failed", "findings", "skipped", "left out", "ready", "tests", box=SIMPLE
    )
    for one in outcomes:
        table.add_row(
            one.engine,
            one.what or one.problem,
            *map(str, (one.passed, len(one.failed), one.findings, len(one.skipped), one.not_for_it)),
            f"{one.ready_s:.0f} s",
            f"{one.tests_s:.0f} s",
        )
    # a pipe says that it is 80 wide, and a table is read better where its rows are lines
    Console(width=max(console.width, TABLE_WIDTH)).print(table)
    for one in outcomes:
        reasons: dict[str, list[str]] = {}
        for test, reason in one.skipped:
            reasons.setdefault(reason, []).append(test)
        for reason, tests in reasons.items():
            console.print(f"{one.engine} skipped: {reason}", markup=False)
            for line in _summarize(tests):
                console.print(f"    {line}", markup=False)
        for test, words in one.failed:
            console.print(f"{one.engine} failed:  {test}", markup=False)
            console.print(indent(words, "    "), markup=False)
    return all(not one.status and not one.problem for one in outcomes)
