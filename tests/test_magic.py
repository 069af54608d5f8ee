"""The reader's own commands: the real CLI on the lab's engine, with the lab's labels, and no shell."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from docker.errors import NotFound
from IPython.testing.globalipapp import start_ipython

from labhelpers import magic
from labhelpers.errors import BadInput
from labhelpers.lab import Lab

IMAGE = "labhelpers/payload"


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ps -a", [["ps", "-a"]]),
        ("docker ps", [["ps"]]),
        ("run \\\n  -d x # a comment", [["run", "-d", "x"]]),
        ("ps\n\n# only a comment\nimages", [["ps"], ["images"]]),
        ("ps --format '{{.Names}} {{.ID}}'", [["ps", "--format", "{{.Names}} {{.ID}}"]]),
        ("rm $who", [["rm", "web"]]),
        ("exec x sh -c 'echo $UNKNOWN_HERE'", [["exec", "x", "sh", "-c", "echo $UNKNOWN_HERE"]]),
    ],
)
def test_words(text: str, words: list[list[str]]) -> None:
    assert magic.commands(text, {"who": "web"}) == words


def test_the_working_directory_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with blank").mkdir()
    monkeypatch.chdir(tmp_path / "with blank")
    ((_, _, mount, _),) = magic.commands('run --mount type=bind,source="$(pwd)"/target,target=/var/log x', {})
    assert mount == f"type=bind,source={tmp_path}/with blank/target,target=/var/log"


def test_quotes_that_are_not_closed_are_said() -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        magic.commands("run 'x", {})


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (["run", "-d", "x"], 1),
        (["container", "create", "x"], 2),
        (["--log-level", "debug", "volume", "create", "x"], 4),
        (["-D", "network", "create", "x"], 3),
        (["build", "."], 1),
    ],
)
def test_what_makes_something_gets_the_labels_at_the_right_place(words: list[str], at: int) -> None:
    done = magic.labelled(words, "05", "abc")
    assert done[at : at + 2] == ["--label", "labhelpers.chapter=05"]
    assert [*done[:at], *done[at + 6 :]] == words


@pytest.mark.parametrize("words", [["ps"], ["rm", "run"], ["image", "ls"], ["exec", "x", "run"]])
def test_nothing_else_is_changed(words: list[str]) -> None:
    assert magic.labelled(words, "05", "abc") == words


def test_what_a_reader_makes_goes_with_the_lab(
    lab: Lab, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert magic.run(lab, ["run", "-d", "--name", name, IMAGE, "sleep", "300"]) == 0
    assert magic.run(lab, ["volume", "create", name]) == 0
    assert magic.run(lab, ["network", "create", name]) == 0
    assert magic.run(lab, ["inspect", "no-such-thing"]) == 1
    assert "No such object" in capfd.readouterr().err
    lab.close()
    assert not lab.client.containers.list(all=True, filters={"name": name})
    assert not lab.client.volumes.list(filters={"name": name})
    assert not lab.client.networks.list(names=[name])


def test_in_ipython_a_line_and_a_cell_work(lab: Lab, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    shell = start_ipython() or __import__("IPython").get_ipython()
    magic.register(lab)
    shell.user_ns["who"] = name
    shell.run_line_magic("docker", f"run -d --name $who {IMAGE} sleep 300")
    assert lab.client.containers.get(name).labels["labhelpers.session"] == lab.session
    capfd.readouterr()
    shell.run_cell_magic("docker", "", "ps --format {{.Names}} --filter name=$who\ninspect nix\nps -a")
    said = capfd.readouterr().out
    assert name in said
    assert "exit status 1" in said
    assert "CONTAINER ID" not in said, "the cell goes on after a command that failed"


def test_what_the_sdk_raises_in_a_cell_is_said_in_words(
    lab: Lab, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = start_ipython() or __import__("IPython").get_ipython()
    magic.register(lab)
    shell.user_ns["lab"] = lab
    ran = shell.run_cell(f"lab.client.containers.get({name!r})")
    said = capfd.readouterr()
    assert isinstance(ran.error_in_exec, NotFound)
    assert "EngineRefused: the engine refused" in said.out
    assert f"No such container: {name}" in said.out
    assert "Traceback" not in said.out + said.err
    lab.run(IMAGE, ["sleep", "300"], name=name, network="none")
    shell.run_cell(f"lab.client.api.wait({name!r}, timeout=0.2)")  # as of an engine that hangs
    assert "EngineUnreachable: the engine at" in capfd.readouterr().out


def test_a_request_of_the_readers_own_is_not_taken_for_the_engines(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = start_ipython() or __import__("IPython").get_ipython()
    magic.register(lab)
    # the port of discard: nobody is there
    shell.run_cell("import requests; requests.get('http://127.0.0.1:9')")
    said = capfd.readouterr()
    assert "ConnectionError" in said.out + said.err
    assert "EngineUnreachable" not in said.out + said.err
