"""Finding an engine: the order, and and the message where it cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from labhelpers import state
from labhelpers.commandline import jupyter
from labhelpers.engine import Engine, connect, contexts, find, images, other_dockerd, podman, unreachable
from labhelpers.engine.dial import SshFailed, dial, ssh_command
from labhelpers.engine.endpoint import EngineEndpoint
from labhelpers.errors import EngineMissing, EngineRefused, EngineUnreachable, LabError
from labhelpers.lab import Lab


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that knows of no engine: no DOCKER_HOST, no context, a state directory of its own."""
    for name in (*jupyter.UNSET_VARIABLES, "DOCKER_HOST", find.ENGINE_VARIABLE, find.ENDPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path


def test_docker_host_comes_first(engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    found = connect()
    assert (found.address, found.found_by, found.source) == (engine.address, "DOCKER_HOST", "existing")
    assert found.info["ID"] == engine.info["ID"]


def test_a_docker_host_that_points_nowhere_is_reported(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{alone}/none.sock")
    with pytest.raises(EngineUnreachable, match="DOCKER_HOST points at") as caught:
        connect()
    assert "unset DOCKER_HOST" in caught.value.hint
    assert caught.value.engine_message


@pytest.mark.parametrize("address", ["unix://{there}", "unix:///nowhere.sock"])
def test_the_context_in_use_comes_next(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    there = address.format(there=engine.address.removeprefix("unix://"))
    docker = ["docker", "context"]
    subprocess.run([*docker, "create", "mine", "--docker", f"host={there}"], check=True, capture_output=True)
    subprocess.run([*docker, "use", "mine"], check=True, capture_output=True)
    if "nowhere" in address:
        with pytest.raises(EngineUnreachable, match="docker context mine points at"):
            connect()
    else:
        assert connect().found_by == "docker context mine"


def test_a_context_that_does_not_exist_is_reported(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such")
    with pytest.raises(EngineUnreachable, match="no-such"):
        connect()


def test_an_engine_that_was_asked_for_and_is_not_there(alone: Path) -> None:
    with pytest.raises(EngineUnreachable, match="--engine points at"):
        connect("tcp://127.0.0.1:1")
    with pytest.raises(EngineMissing):
        connect("private")


@pytest.mark.skipif(
    not shutil.which("setpriv") or os.geteuid() != 0, reason="taking a right away needs root and setpriv"
)
def test_a_socket_without_permission_names_its_group(alone: Path) -> None:
    path = alone / "closed.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        shutil.chown(path, "daemon", "games")
        path.chmod(0o600)
        # root without its right to pass over permissions is a user like any other
        rights = "-dac_override,-dac_read_search"
        done = subprocess.run(
            [
                "setpriv",
                f"--bounding-set={rights}",
                f"--inh-caps={rights}",
                sys.executable,
                "-c",
                "from labhelpers.engine import connect; connect()",
            ],
            env={**os.environ, "DOCKER_HOST": f"unix://{path}"},
            capture_output=True,
            encoding="utf-8",
        )
    assert "EngineUnreachable" in done.stderr
    assert "it belongs to the group “games”" in done.stderr


@pytest.mark.skipif(
    not shutil.which("setpriv") or os.geteuid() != 0, reason="taking a right away needs root and setpriv"
)
@pytest.mark.parametrize("answers", [True, False])
def test_a_socket_of_somebody_elses_does_not_end_the_search(
    engine: Engine, alone: Path, answers: bool
) -> None:
    """Root's socket comes first; the reader's own engine, rootless or Podman, comes later."""
    closed = alone / "closed.sock"
    others = [engine.address] if answers and engine.endpoint.scheme != "ssh" else []
    code = (
        "from labhelpers.engine import connect, find, other_dockerd; other_dockerd.running = lambda own: None\n"
        f"find._default_endpoints = lambda: {[f'unix://{closed}', f'unix://{alone}/none.sock', *others]!r}\n"
        "print(connect().address)"
    )
    rights = "-dac_override,-dac_read_search"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(closed))
        server.listen()
        shutil.chown(closed, "daemon", "games")
        closed.chmod(0o660)
        done = subprocess.run(
            ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", sys.executable, "-c", code],
            capture_output=True,
            encoding="utf-8",
        )
    if answers:
        assert done.stdout.strip() == engine.address, done.stderr
    else:
        assert done.stderr.count("it belongs to the group “games”") == 1


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("/var/run/docker.sock", "`unix:///var/run/docker.sock`"),
        ("unix:/var/run/docker.sock", "`unix:///var/run/docker.sock`"),
        ("tcp:127.0.0.1:2375", "`tcp://127.0.0.1:2375`"),
        ("https://127.0.0.1:2376", "`tcp://127.0.0.1:2376`"),
        ("bogus://x", "unix:///"),
        ("tcp://127.0.0.1:99999", "tcp://host:2376"),
        ("tcp://[::1:2375", "tcp://host:2376"),
        ("ssh://", "ssh://user@host"),
        ("ssh://me:secret@host", "use an ssh key"),
        ("npipe:////./pipe/docker_engine", "only on Windows"),
    ],
)
def test_an_address_that_is_none_is_reported_with_one_that_is(
    alone: Path, monkeypatch: pytest.MonkeyPatch, address: str, hint: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineUnreachable, match="not a valid engine address") as caught:
        connect()
    assert hint in caught.value.hint
    assert "Docker Desktop" not in caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "what", "hint"),
    [
        ("unix:///var/run/no/docker.sock", "does not exist", "start the engine"),
        ("unix:///run/user/1/docker.sock", "does not exist", "--user start docker"),
        ("unix:///run/podman/none.sock", "does not exist", "start podman.socket"),
        ("unix:///home/x/.docker/run/docker.sock", "does not exist", "start Docker Desktop"),
        ("unix://{alone}", "a directory", "bind mount"),
        ("unix://{alone}/" + "x" * 120, "too long", "shorter"),
        ("tcp://127.0.0.1:1", "nothing listens on port 1", "check the port"),
        ("tcp://no-such-host.invalid:2375", "does not resolve", "spelling"),
        ("ssh://127.0.0.1:1", "no ssh", ""),
    ],
)
def test_the_next_step_fits_the_cause(
    alone: Path, monkeypatch: pytest.MonkeyPatch, address: str, what: str, hint: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address.replace("{alone}", str(alone)))
    with pytest.raises(EngineUnreachable, match=what) as caught:
        connect()
    assert hint in caught.value.hint
    assert ("Docker Desktop" in caught.value.hint) is (".docker" in address)


@pytest.mark.parametrize(
    ("address", "login"),
    [
        # a `Host` of ssh_config(5) is compared as it is written
        ("ssh://MyServer", (None, "MyServer")),
        ("ssh://me@MyServer:2222", ("me", "MyServer")),
        ("ssh://me%40corp.example@host", ("me@corp.example", "host")),
        ("ssh://me@[fe80::1%25eth0]:22", ("me", "fe80::1%eth0")),
        ("ssh://me@[::1]/run/docker.sock", ("me", "::1")),
    ],
)
def test_who_logs_in_where_over_ssh(address: str, login: tuple[str | None, str]) -> None:
    place = EngineEndpoint(unreachable.normalize_address(address, "DOCKER_HOST"), "DOCKER_HOST")
    assert place.login == login
    command = ssh_command(place)
    assert command[command.index("--") + 1] == login[1]
    assert (command[command.index("-l") + 1] if "-l" in command else None) == login[0]


def test_a_name_with_several_addresses(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is ::1 and 127.0.0.1 on most machines, and both refuse."""
    real = socket.getaddrinfo

    def both(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        return [found for item in ("::1", "127.0.0.1") for found in real(item, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    for address in ("tcp://localhost:1", "tcp://:1"):
        monkeypatch.setenv("DOCKER_HOST", address)
        with pytest.raises(EngineUnreachable, match="nothing listens on port 1 of localhost"):
            connect()


def test_something_else_than_an_engine_is_reported(alone: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EngineUnreachable, match="is not a Docker engine"):
            connect(f"tcp://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_an_engine_that_hangs_is_not_taken_for_one_that_is_gone(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "SLOW_PROBE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EngineUnreachable) as caught:
        connect(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert "accepts connections but does not respond" in caught.value.message


def test_no_ssh_program(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(alone))
    with pytest.raises(EngineUnreachable, match="no `ssh` program") as caught:
        connect("ssh://127.0.0.1")
    assert "openssh-client" in caught.value.hint


def test_what_ssh_prints_is_kept_if_it_ends_before_it_is_asked(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = alone / "ssh"
    program.write_text("#!/bin/sh\necho 'Host key verification failed.' >&2\nexit 255\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(alone), prepend=os.pathsep)

    async def ask() -> None:
        connection = await dial(EngineEndpoint("ssh://x", "DOCKER_HOST"))
        try:
            await asyncio.sleep(0.5)  # it has ended, and the event loop has seen that
            await connection.write(b"GET /version HTTP/1.1\r\n\r\n")
            await connection.read(1)
        finally:
            await connection.close()

    with pytest.raises(SshFailed, match="Host key verification failed"):
        asyncio.run(ask())


# --- contexts


def _context(name: str, endpoint: str, *, use: bool) -> None:
    docker = ["docker", "context"]
    subprocess.run([*docker, "create", name, "--docker", endpoint], check=True, capture_output=True)
    if use:
        subprocess.run([*docker, "use", name], check=True, capture_output=True)


def test_a_context_is_found_where_there_is_no_config_file(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.endpoint.scheme != "unix":
        pytest.skip("the engine has no socket on this machine")
    _context("mine", f"host={engine.address}", use=False)
    (alone / "docker" / "config.json").unlink(missing_ok=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    assert connect().found_by == "docker context mine"
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert connect("context:mine").identity == engine.identity


def test_a_current_context_that_was_removed_is_named(alone: Path) -> None:
    _context("mine", "host=unix:///nowhere.sock", use=True)
    shutil.rmtree(alone / "docker" / "contexts")
    with pytest.raises(EngineUnreachable, match=r"context “mine” \(from .*config\.json\)") as caught:
        connect()
    assert "docker context use default" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"Endpoints": {"kubernetes": {}}}', '{"Endpoints": []}'])
def test_a_damaged_context_is_reported(alone: Path, text: str) -> None:
    _context("mine", "host=unix:///nowhere.sock", use=True)
    (file,) = (alone / "docker" / "contexts" / "meta").glob("*/meta.json")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(EngineUnreachable, match="context “mine”"):
        connect()


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_configuration_is_reported(alone: Path, text: str) -> None:
    (alone / "docker").mkdir()
    (alone / "docker" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(EngineUnreachable, match=r"config\.json cannot be read"):
        connect()


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", '{"proxies": []}', '{"HttpHeaders": {"a": 1}}', '{"auths": {"x": "y"}}'),
        *('{"auths": {"x": {"auth": "!!!"}}}', '{"auths": {"x": {"auth": "é"}}}'),
        '{"auths": {"x": {"auth": "aGVsbG8="}}}',
    ],
)
def test_a_value_of_another_kind_in_the_configuration_is_reported(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Also where DOCKER_HOST names the engine: the SDK reads the file for logins and proxies."""
    (alone / "docker").mkdir()
    (alone / "docker" / "config.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    with pytest.raises(
        EngineUnreachable, match=r"docker configuration .*config\.json cannot be read"
    ) as caught:
        connect()
    assert "move it away" in caught.value.hint


def _as_another_user(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python as a user id without a passwd entry and a home directory."""
    closed = [folder for folder in Path(sys.prefix).parents if not folder.stat().st_mode & stat.S_IXOTH]
    if closed:
        pytest.skip("other users may not read this Python environment")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "DOCKER_CONFIG")}
    return subprocess.run(
        ["setpriv", "--reuid=54321", "--clear-groups", sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(state.ROOT), **variables},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_configuration_that_sudo_docker_login_left_to_root() -> None:
    # pytest's own directories are closed to other users
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "config.json").chmod(0o600)
        code = "from labhelpers.engine import contexts; contexts.current_endpoint()"
        done = _as_another_user(code, folder, DOCKER_CONFIG=name, LABHELPERS_HOME=name)
    assert "EngineUnreachable" in done.stderr
    assert f"sudo chown -R $USER {name}" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_home_directory_looks_everywhere_else() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        code = "from labhelpers.engine import find; print(find.candidate_endpoints('auto')[0].address)"
        variables = {
            "XDG_STATE_HOME": name,
            "LABHELPERS_HOME": "",
            "DOCKER_HOST": "",
            find.ENGINE_VARIABLE: "",
        }
        done = _as_another_user(code, Path(name), **variables)
    assert done.stdout.startswith(f"unix://{name}/labhelpers/"), done.stderr


def test_files_for_tls_that_are_missing_are_reported(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(alone / "none"))
    with pytest.raises(EngineUnreachable, match="no such directory"):
        connect()
    (alone / "none").mkdir()
    with pytest.raises(EngineUnreachable, match=r"does not contain ca\.pem"):
        connect()
    for name in ("ca", "key"):
        (alone / "none" / f"{name}.pem").touch()
    with pytest.raises(EngineUnreachable, match=r"does not contain cert\.pem"):
        connect()
    (alone / "none" / "cert.pem").touch()
    assert contexts.tls_of_environment() is not None
    assert find.candidate_endpoints("tcp://127.0.0.1:2376")[0].tls == contexts.tls_of_environment()


def test_what_a_parent_hands_over_is_for_that_address_only(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in find.environment(engine).items():
        monkeypatch.setenv(name, value)
    assert find.candidate_endpoints(engine.address) == [engine.endpoint]
    assert find.candidate_endpoints("tcp://127.0.0.1:1")[0].found_by == "--engine"
    for damaged in ("", "[]", "{}", "null", '{"address": 1}'):
        monkeypatch.setenv(find.ENDPOINT_VARIABLE, damaged)
        assert find.candidate_endpoints(engine.address)[0].address == engine.address


# --- Windows, a foreign dockerd, Podman


def test_windows_has_pipes(alone: Path) -> None:
    """As close as this machine comes: none of the modules that Windows lacks, and its answer to platform.system()."""
    code = (
        "import os, platform, sys\n"
        "for name in ('fcntl', 'grp', 'pwd', 'termios', 'resource'): sys.modules[name] = None\n"
        "for name in ('getuid', 'geteuid', 'getgid', 'killpg'): delattr(os, name)\n"
        "import labhelpers.commandline.doctor, labhelpers.lab\n"
        "from labhelpers.engine import find\n"
        "platform.system = lambda: 'Windows'\n"
        "for place in find.candidate_endpoints('auto'): print(place.address, place.path)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout.splitlines()[0] == r"npipe:////./pipe/docker_engine \\.\pipe\docker_engine", (
        done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ["unix:///var/run/docker.sock"]),
        (["-H", "fd://", "--containerd=/run/x.sock"], ["unix:///var/run/docker.sock"]),
        (["-Htcp://:2375", "--host=unix:///a/b.sock"], ["unix:///a/b.sock", "tcp://127.0.0.1:2375"]),
        (["--host", "tcp://0.0.0.0:2376"], ["tcp://127.0.0.1:2376"]),
        (["-H=unix://"], ["unix:///var/run/docker.sock"]),
        (["--config-file={file}"], ["unix:///c.sock"]),
        (["--config-file", "{file}", "-H", "unix:///c.sock"], ["unix:///c.sock"]),
        (["--config-file=/nowhere"], ["unix:///var/run/docker.sock"]),
    ],
)
def test_where_a_dockerd_listens(tmp_path: Path, arguments: list[str], found: list[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"hosts": ["unix:///c.sock"]}', encoding="utf-8")
    read = other_dockerd.addresses([word.replace("{file}", str(file)) for word in arguments])
    assert sorted(read) == sorted(found)


def test_a_foreign_dockerd_that_was_not_found_is_named(
    engine: Engine, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite's own engine is one to a reader with another state directory."""
    if engine.source != "private" or not (other := other_dockerd.running(None)):
        pytest.skip("no dockerd runs on this machine")
    monkeypatch.setattr(find, "_default_endpoints", list)
    with pytest.raises(EngineUnreachable, match=f"PID {other.pid}") as caught:
        connect()
    assert f"--engine {other.address}" in caught.value.hint


def test_podman_has_one_identity_and_one_list_of_chapters(engine: Engine) -> None:
    there = {"BuildahVersion": "1.28", "Name": "here", "DockerRootDir": "/root"}
    assert find.identity({**there, "ID": "a"}) == find.identity({**there, "ID": "b"})
    assert find.identity({"ID": "a"}) == "a"
    assert engine.identity == find.identity(engine.client.info())
    assert engine.identity.startswith(engine.info["ID"])
    chapters = {path.name[:2] for path in (state.ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert chapters == {*podman.SUPPORTED_CHAPTERS, *podman.UNSUPPORTED_REASONS}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Podman takes no run root of more than 50 characters."""
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.skipif(not shutil.which("podman"), reason="no Podman on this machine")
def test_a_chapter_that_does_not_work_on_podman_is_refused(short_path: Path) -> None:
    where = [f"--root={short_path}/root", f"--runroot={short_path}/run", f"--tmpdir={short_path}/tmp"]
    command = ["podman", *where, "system", "service", "-t", "0", f"unix://{short_path}/p.sock"]
    with subprocess.Popen(command, start_new_session=True) as service:
        try:
            end = time.monotonic() + 30
            while not (short_path / "p.sock").is_socket() and time.monotonic() < end:
                time.sleep(0.1)
            found = connect(f"unix://{short_path}/p.sock")
            assert found.identity == find.identity(found.client.info())
            podman.check_chapter(found, "00")
            for chapter in (*podman.UNSUPPORTED_REASONS, "05b"):
                with pytest.raises(
                    EngineRefused, match=f"chapter {chapter} does not work on Podman"
                ) as caught:
                    Lab(chapter, engine=found)
                assert "chapter 00 works" in caught.value.hint
            assert "chapter 00 works" in found.warnings[0]
            # it cannot be asked about a registry: the pull itself says what is wrong
            with pytest.raises(LabError) as refused:
                images.from_hub(found, "127.0.0.1:1/none:latest", "no-such-image", print)
            assert "no-such-image" in str(refused.value)
        finally:
            service.terminate()


def test_the_facts_are_the_engines_own(engine: Engine) -> None:
    facts = engine.facts()
    output = json.loads(
        subprocess.run(
            ["docker", "-H", engine.address, "info", "--format", "{{json .}}"],
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
    )
    assert facts.version == output["ServerVersion"]
    assert facts.storage_driver == output["Driver"]
    assert facts.cgroup_version == int(output["CgroupVersion"])
    assert (facts.cpus, facts.memory_bytes, facts.kernel) == (
        output["NCPU"],
        output["MemTotal"],
        output["KernelVersion"],
    )
