"""The reader's own commands: the real CLI, run by a shell, through the lab socket."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import numpy as np
import pytest
from docker.errors import NotFound
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython

from labhelpers.errors import BadInput
from labhelpers.lab import Lab, magic

IMAGE = "labhelpers/payload"


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """An IPython shell for this file; the tests after it are outside of a notebook again."""
    start_ipython()
    shell = get_ipython()
    assert shell is not None
    yield shell
    type(shell).clear_instance()


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ps -a", "docker ps -a"),
        ("docker ps", "docker ps"),
        ("docker-compose ps", "docker docker-compose ps"),
        ("ps --format '{{.Names}}' | wc -l", "docker ps --format '{{.Names}}' | wc -l"),
    ],
)
def test_docker_may_be_left_out_of_a_line(line: str, expected: str) -> None:
    assert magic.script(line) == expected


# each is what the same line prints in a terminal; `IMAGE` is text of the notebook
SHELL = {
    "the shell's own process id": "echo $$ | grep -cE '^[0-9]+$'",
    "single quotes keep $": f"docker run --rm --network none {IMAGE} sh -c 'echo $$; echo $HOSTNAME_X; echo a$b'",
    "awk's fields": "printf 'a b\n' | awk '{print $2}'",
    "a pipe": "docker version --format '{{.Server.Os}}' | tr a-z A-Z",
    "a redirect": "docker version --format '{{.Server.Os}}' > /dev/null && echo redirected",
    "a list": "true && echo yes || echo no; echo after",
    "a glob": "cd /proc/self && echo stat*",
    "a subshell": 'echo "$(pwd)"',
    "a tilde and braces": "echo ~root {1..3}",
    "a comment": "echo a # b",
    "docker's braces": f"docker image inspect {IMAGE} --format '{{{{.Os}}}}'",
    "escapes": r"echo \$HOME 'it'\''s'",
    "a here-document": "cat <<'END'\n$HOME stays\nEND",
    "a loop": "for n in 1 2; do echo $n; done",
    "an exit status": "false; echo $?",
    "no such command": "nosuchcommand_x 2>/dev/null; echo $?",
}


@pytest.mark.parametrize("line", SHELL.values(), ids=SHELL.keys())
def test_a_line_means_what_it_means_in_a_shell(
    shared_lab: Lab, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = line.replace("\\n", "\n") if "<<" in line else line
    text = f"true; {line}"
    status = magic.run(shared_lab, text, {})
    printed = capfd.readouterr().out
    expected = subprocess.run(["bash", "-c", text], capture_output=True, text=True, encoding="utf-8")
    assert (status, printed) == (expected.returncode, expected.stdout)
    assert printed


def test_a_cell_is_a_script_that_stops_at_the_first_failure(
    shared_lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = "false || echo handled\ncat <<END\nin a here-document\nEND\nfalse\necho not reached\n"
    assert magic.run(shared_lab, magic.script("", cell), {}) == 1
    assert capfd.readouterr().out == "handled\nin a here-document\n"


def test_values_of_the_notebook_are_variables_of_the_shell(
    shared_lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    container = shared_lab.run(IMAGE, "sleep 300", network="none")
    values = {
        "who": container,
        "image": shared_lab.client.images.get(IMAGE),
        "blank": "two words; echo no",
        "number": 3,
        "path": Path("/tmp/x"),
        "items": ["a b", "$HOME"],
        "table": object(),
        "limit": np.int64(64),
        "PATH": "/nowhere",
        "DOCKER_HOST": "tcp://127.0.0.1:9",
        "_quoted": "'",
    }
    line = "docker inspect $who --format '{{.Config.Image}}'; "
    line += "echo \"$blank|${number}|$path|$items|$table|$_quoted|$image\" '$who'; "
    line += "echo $limit; "
    assert magic.run(shared_lab, line + "echo $PATH $DOCKER_HOST >&2; docker version >&2", values) == 0
    first, second, limit = capfd.readouterr().out.splitlines()
    assert first == IMAGE
    assert limit == "64", "a number out of a table, which is no Python int"
    assert second == f"two words; echo no|3|/tmp/x|'a b' '$HOME'||'|{IMAGE}:latest $who"


@pytest.mark.parametrize(
    ("text", "values"),
    [("echo $long", {"long": "x" * 200_000}), ("cat <<'END'\n" + "x" * 200_000 + "\nEND", {})],
    ids=["a value", "the cell"],
)
def test_what_is_too_long_for_a_command_is_reported(
    shared_lab: Lab, text: str, values: dict[str, str]
) -> None:
    with pytest.raises(BadInput, match="too long"):
        magic.run(shared_lab, text, values)


@pytest.mark.parametrize("redirect", ["", "> /dev/null"])
def test_a_command_in_the_background_does_not_hold_the_cell(
    shared_lab: Lab, name: str, redirect: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shared_lab.run(
        IMAGE, ["sh", "-c", "echo early; until [ -e /go ]; do sleep 0.1; done; echo late"], name=name
    )
    # it ends with the container, which ends after this line
    assert magic.run(shared_lab, f"docker logs -f {name} {redirect} & echo $! ; sleep 1; echo shown", {}) == 0
    first = capfd.readouterr().out
    pid = int(first.split()[0])
    assert first.rstrip().endswith("shown")
    os.kill(pid, 0)
    shared_lab.exec(name, ["touch", "/go"])
    end = time.monotonic() + 30
    printed = first
    while (Path(f"/proc/{pid}").exists() or ("late" not in printed) != bool(redirect)) and (
        time.monotonic() < end
    ):
        time.sleep(0.1)
        printed += capfd.readouterr().out
    assert not Path(f"/proc/{pid}").exists()
    assert ("early" in printed, "late" in printed) == ((not redirect,) * 2)


def test_the_working_directory_is_the_notebooks(
    shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "with blank").mkdir()
    monkeypatch.chdir(tmp_path / "with blank")
    magic.run(shared_lab, 'echo type=bind,source="$(pwd)"/target', {})
    assert capfd.readouterr().out == f"type=bind,source={tmp_path}/with blank/target\n"


def test_a_missing_quote_is_the_shells_to_report(shared_lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    assert magic.run(shared_lab, "docker run 'x", {}) != 0
    assert "'" in capfd.readouterr().err


def test_an_interrupt_ends_the_whole_pipeline(shared_lab: Lab) -> None:
    mark = f"{time.time_ns()}"
    # what JupyterLab's stop button sends
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    status = magic.run(shared_lab, f"sleep 6{mark[:8]} | cat", {})
    assert status != 0
    running = subprocess.run(["pgrep", "-f", f"sleep 6{mark[:8]}"], capture_output=True, encoding="utf-8")
    assert running.stdout == ""


def test_what_a_reader_makes_goes_with_the_lab(
    lab: Lab, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert magic.run(lab, f"docker run -d --name {name} {IMAGE} sleep 300", {}) == 0
    assert magic.run(lab, f"docker network create {name}", {}) == 0
    assert magic.run(lab, "docker inspect no-such-thing", {}) == 1
    assert "No such object" in capfd.readouterr().err
    lab.close()
    assert not lab.client.containers.list(all=True, filters={"name": name}, ignore_removed=True)
    assert not lab.client.networks.list(names=[name])


def test_in_ipython_a_line_and_a_cell_work(
    shell: InteractiveShell, lab: Lab, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    magic.register(lab)
    shell.user_ns["who"] = name
    shell.run_line_magic("docker", f"run -d --name $who {IMAGE} sleep 300")
    assert lab.client.containers.get(name).labels["labhelpers.session"] == lab.session
    # so does whatever else in this process asks DOCKER_HOST
    assert os.environ["DOCKER_HOST"] == lab.socket.address
    assert docker.from_env().containers.create(IMAGE).labels["labhelpers.session"] == lab.session
    capfd.readouterr()
    shell.run_cell_magic(
        "docker", "", "docker ps --format {{.Names}} --filter name=$who\ndocker inspect nix\ndocker ps -a"
    )
    output = capfd.readouterr().out
    assert name in output
    assert "exit status 1" in output
    assert "CONTAINER ID" not in output, "the cell goes on after a command that failed"


def test_what_the_sdk_raises_in_a_cell_is_translated(
    shell: InteractiveShell, lab: Lab, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    magic.register(lab)
    shell.user_ns["lab"] = lab
    ran = shell.run_cell(f"lab.client.containers.get({name!r})")
    output = capfd.readouterr()
    assert isinstance(ran.error_in_exec, NotFound)
    assert "EngineRefused: the engine refused" in output.out
    assert f"No such container: {name}" in output.out
    assert "Traceback" not in output.out + output.err
    lab.run(IMAGE, ["sleep", "300"], name=name, network="none")
    shell.run_cell(f"lab.client.api.wait({name!r}, timeout=0.2)")  # as of an engine that hangs
    assert "EngineUnreachable: timed out" in capfd.readouterr().out


def test_a_request_of_the_readers_own_is_not_taken_for_the_engines(
    shell: InteractiveShell, lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    magic.register(lab)
    # the port of discard: nobody is there
    shell.run_cell("import requests; requests.get('http://127.0.0.1:9')")
    output = capfd.readouterr()
    assert "ConnectionError" in output.out + output.err
    assert "EngineUnreachable" not in output.out + output.err
