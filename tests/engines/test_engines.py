"""The engines of the tests: which tests they run, and what the summary reports. Their own runs prove the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import docker
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labhelpers.commandline.runner import execute
from labhelpers.engine import Engine
from labhelpers.engine.endpoint import EngineEndpoint
from labhelpers.errors import BadInput, SetupFailed
from labhelpers.state import ROOT
from tests.engines import engine_b, engine_c, matrix, runs
from tests.engines.runs import Outcome

TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert False
def test_left(): pytest.skip("no such device here")
@pytest.mark.other
def test_other(): pass
"""


def pytest_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, encoding="utf-8"
    )


@pytest.mark.parametrize("spread", [(), ("-n", "2", "--dist", "loadfile")])
def test_what_became_of_the_tests_is_counted(tmp_path: Path, spread: tuple[str, ...]) -> None:
    (tmp_path / "test_suite.py").write_text(TESTS, encoding="utf-8")
    output = [new_output("stream", name="stdout", text="one: yes\n")]
    sources = ("from labhelpers.results import finding", "finding('one', True)", "finding('one', False)")
    cells = [
        new_code_cell(source, execution_count=1, outputs=[] if "import" in source else output)
        for source in sources
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "suite.ipynb")
    pytest_in(
        tmp_path,
        *(
            "-c",
            "/dev/null",
            "--nbval",
            "--nbval-current-env",
            "-p",
            "tests.engines.outcome",
            *("-m", "not other", *spread),
            str(tmp_path),
        ),
        LABHELPERS_OUTCOME=str(tmp_path / "outcome.json"),
    )
    caught = json.loads((tmp_path / "outcome.json").read_text(encoding="utf-8"))
    assert (caught["passed"], caught["findings"], caught["deselected"]) == (3, 1, 1)
    failed = {name.rpartition("::")[2]: text for name, text in caught["failed"]}
    assert set(failed) == {"test_bad", "Cell 2"}
    assert "AssertionError" in failed["test_bad"]
    assert "FindingFailed: “one”" in failed["Cell 2"]
    ((name, reason),) = caught["skipped"]
    assert (name.rpartition("::")[2], reason) == ("test_left", "no such device here")


def test_what_runs_on_another_engine() -> None:
    done = pytest_in(ROOT, "--collect-only", *runs.SELECTED)
    chosen = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert {"tests/engine/test_host.py", "tests/lab/test_lab.py"} < chosen
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} < chosen
    assert (
        not {"tests/commandline/test_jupyter.py", "tests/test_style.py", "tests/engines/test_engines.py"}
        & chosen
    )
    assert not [name for name in chosen if name.startswith("tests/browser")]


@pytest.mark.parametrize(
    ("outcomes", "all_passed"),
    [
        ([Outcome("A", "Docker 20", 0, passed=3)], True),
        (
            [
                Outcome("A", "Docker 20", 0),
                Outcome("B", "Docker 28", 1, failed=(("test_bad", "assert 1 == 2"),)),
            ],
            False,
        ),
        ([Outcome("C", "", 1, problem="it did not boot")], False),
    ],
)
def test_the_table_says_whether_all_passed(
    outcomes: list[Outcome], all_passed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.show(outcomes) is all_passed
    printed = capsys.readouterr().out
    for item in outcomes:
        assert (item.what or item.problem) in printed
        assert all(f"failed:  {name}\n    {text}\n" in printed for name, text in item.failed)


def test_a_skip_is_reported_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple((f"test_many.py::test_{n}", "too slow") for n in range(4))
    runs.show([Outcome("C", "Docker 26", 0, skipped=(("test_one.py::test_kvm", "no /dev/kvm"), *many))])
    printed = capsys.readouterr().out
    assert "C skipped: no /dev/kvm\n    test_one.py::test_kvm\n" in printed
    assert "C skipped: too slow\n    test_many.py (4 tests)\n" in printed


def test_several_engines_and_one_that_cannot_be_had_is_reported(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / ("long" * 30)))
    printed: list[str] = []
    a, b = runs.run(
        ("A", "B"), engine, ("payload",), ("-q", "tests/commandline/test_environment.py"), printed.append
    )
    assert (a.engine, a.status, a.passed, a.problem) == ("A", 0, 4, "")
    assert b.engine == "B"
    assert "too long for a socket" in b.problem
    assert not runs.show([a, b])
    assert {line[:3] for line in printed} == {"A │", "B │"}


def test_what_an_engine_leaves_out_is_reported_with_its_reason() -> None:
    printed = pytest_in(ROOT, "tests/vm/test_exercises.py", LABHELPERS_TEST_ENGINE="C").stdout
    assert "not among those of engine C: its room's tests run on A" in printed
    assert "passed" not in printed


def test_a_changed_recipe_is_another_one() -> None:
    for recipe in (engine_b.RECIPE, engine_c.RECIPE):
        assert replace(recipe, files={**recipe.files, "etc/motd": "hello"}).content != recipe.content
        assert replace(recipe, packages=[*recipe.packages, "jq"]).content != recipe.content
    assert engine_b.RECIPE.content != engine_c.RECIPE.content


def test_b_needs_an_engine_on_this_machine() -> None:
    client = docker.DockerClient(base_url="tcp://192.0.2.1:2375", version="1.41")
    with pytest.raises(SetupFailed, match="is on another machine"):
        engine_b.ensure(Engine(EngineEndpoint("tcp://192.0.2.1:2375", "test"), "existing", client), print)
    client.close()


# --- the settings matrix


def test_every_setting_and_every_chapter_comes_in_rotation() -> None:
    runs_of_ci = [
        matrix.settings_for_run(number) for number in range(len(matrix.SETTINGS) * len(matrix.CHAPTERS))
    ]
    assert {name for name, _ in runs_of_ci} == set(matrix.SETTINGS)
    assert len(matrix.SETTINGS) >= 8
    for name in matrix.SETTINGS:
        with_it = {chapter for item, chapters in runs_of_ci if item == name for chapter in chapters}
        assert with_it == set(matrix.CHAPTERS)
    assert matrix.settings_for_run(matrix.commits()) == matrix.settings_for_run(matrix.commits())


def test_unknown_settings_are_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match="icc-of'") as raised:
        matrix.select_settings("icc-of")
    assert "icc-off, " in raised.value.hint
    assert matrix.select_settings("all") == tuple(matrix.SETTINGS)


def test_a_notebook_that_is_executed_reports_what_does_not_apply(tmp_path: Path) -> None:
    lines = (
        "from labhelpers.results import finding",
        "finding('isolated', False, unless='the engine was started with iptables=false')\nfinding('named', True)",
        "finding('reached', False)",
    )
    path = tmp_path / "one.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(line) for line in lines]), path)
    done = execute(path)
    assert done.not_applicable == (("isolated", "the engine was started with iptables=false"),)
    assert (done.failed_cell, "FindingFailed" in done.error) == (3, True)


@pytest.mark.parametrize("problem", ["", "cell 3: FindingFailed: “web reaches mail”"])
def test_the_table_of_the_matrix(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        matrix.Row("icc-off", "05_networking", 40, problem, (("web reaches mail", "icc=false"),)),
        matrix.Row("icc-off", "00_start_here", 4, "", ()),
    ]
    assert matrix.show(rows) is (not problem)
    printed = capsys.readouterr().out
    assert ("failed (cell 3)" if problem else "passed, 1 do not apply (40 s)") in printed
    assert "does not apply: web reaches mail (icc=false)" in printed
    assert problem in printed
    outcome = matrix.outcome(rows, print)
    assert (outcome.status, outcome.passed) == ((1, 1) if problem else (0, 2))
    assert outcome.skipped == (("05_networking: web reaches mail", "icc=false"),)
    assert "--settings icc-off 05 00" in capsys.readouterr().out
