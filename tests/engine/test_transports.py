"""Engines behind TLS and ssh do what an engine on a socket does: in this process, in a kernel, in the reaper."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import docker
import pytest
from cryptography import x509

from labhelpers.commandline import jupyter
from labhelpers.engine import Engine, connect, find, unreachable
from labhelpers.engine.dial import NotAnEngine, SshFailed, dial
from labhelpers.engine.endpoint import EngineEndpoint, Tls
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.gateway import forward
from labhelpers.errors import EngineUnreachable
from labhelpers.lab import Lab
from tests.engine.transports import LOOPBACK, SSHD, Authority, python, sshd, tls_front

IMAGE = "labhelpers/payload"
MANY = 3_000_000
WAYS = ("tls", pytest.param("ssh", marks=pytest.mark.skipif(SSHD is None, reason="no sshd on this machine")))


@pytest.fixture(scope="module")
def clean() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*jupyter.UNSET_VARIABLES, "DOCKER_HOST", find.ENGINE_VARIABLE, find.ENDPOINT_VARIABLE):
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(scope="module", params=WAYS)
def far(
    request: pytest.FixtureRequest, engine: Engine, clean: pytest.MonkeyPatch, tmp_path_factory: Any
) -> Iterator[Engine]:
    """The suite's engine, found over TLS or ssh through the docker context in use."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    clean.setenv("DOCKER_CONFIG", str(folder / "docker"))
    if request.param == "tls":
        authority = Authority(folder / "ca")
        files = authority.client(folder / "client")
        with tls_front(engine.endpoint, authority, authority.issue("server", names=LOOPBACK)) as port:
            tls = ",".join(f"{name}={files / name}.pem" for name in ("ca", "cert", "key"))
            yield _in_context(f"host=tcp://127.0.0.1:{port},{tls}")
    else:
        with sshd(folder, engine.address) as server:
            clean.setenv("PATH", server.path)
            yield _in_context(f"host={server.address}")


def _in_context(endpoint: str) -> Engine:
    docker = ["docker", "context"]
    subprocess.run([*docker, "create", "far", "--docker", endpoint], check=True, capture_output=True)
    subprocess.run([*docker, "use", "far"], check=True, capture_output=True)
    return connect()


@pytest.fixture(scope="module")
def lab(far: Engine) -> Iterator[Lab]:
    with Lab("test", engine=far) as made, made.quiet():
        yield made


def test_the_context_leads_to_the_engine(engine: Engine, far: Engine) -> None:
    assert (far.found_by, far.source) == ("docker context far", "existing")
    assert far.identity == engine.identity
    assert far.address.startswith(("tcp://127.0.0.1:", "ssh://"))


def test_a_child_finds_it_whatever_its_own_variables_say(far: Engine) -> None:
    there = find.environment(far)
    assert not [name for name in there if name.startswith("DOCKER_")]
    misled = {"DOCKER_HOST": "unix:///nowhere.sock", "DOCKER_CONTEXT": "nowhere", "DOCKER_CONFIG": "/nowhere"}
    code = "from labhelpers.engine import connect; e = connect(); print(e.identity, e.found_by, sep='\\n')"
    done = python(os.environ | misled | there, code)
    assert done.stdout.splitlines() == [far.identity, "docker context far"], done.stderr


def test_commands_in_containers(lab: Lab) -> None:
    container = lab.run(IMAGE, "sleep 300", network="none")
    output = lab.exec(container, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (output.stdout, output.stderr, output.exit_code) == ("out\n", "err\n", 3)
    assert len(lab.exec(container, ["head", "-c", str(MANY), "/dev/zero"]).stdout) == MANY


def test_a_raw_connection_is_half_closed(lab: Lab, far: Engine) -> None:
    """`docker run -i` with its input closed: `cat` gets all of it, sees the end, and its last output still comes."""
    made = lab.client.api.create_container(
        IMAGE,
        ["sh", "-c", "cat | wc -c"],
        stdin_open=True,
        labels=lab._labels("container"),
        host_config=lab.client.api.create_host_config(network_mode="none"),
    )
    lines = [f"POST /containers/{made['Id']}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1", "Host: docker"]
    head = "\r\n".join([*lines, "Connection: Upgrade", "Upgrade: tcp", "", ""]).encode()

    async def talk() -> bytes:
        connection = await dial(far.endpoint)
        await connection.write(head)
        answer = await connection.read(4096)
        lab.client.api.start(made["Id"])
        await connection.write(b"x" * MANY)
        await connection.write_eof()
        while part := await connection.read(4096):
            answer += part
        await connection.close()
        return answer

    assert asyncio.run(asyncio.wait_for(talk(), 60)).rstrip().endswith(str(MANY).encode())


def test_a_port_is_reached_and_the_end_of_input_is_passed_on(lab: Lab) -> None:
    # the server answers only when its input has ended
    server = lab.run(IMAGE, ["nc", "-ll", "-p", "80", "-e", "wc", "-c"])
    with socket.create_connection(lab.forward_port(server, 80), timeout=60) as connection:
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read().strip() == b"100000"


def test_a_kernel_works_on_it(far: Engine, tmp_path: Path) -> None:
    """What JupyterLab starts gets this environment; so does `./lab run`."""
    code = (
        "from labhelpers.lab import Lab\n"
        f"with Lab('test') as lab: print(lab.exec(lab.run({IMAGE!r}, 'sleep 60', network='none'), 'echo hi').stdout)"
    )
    done = python(jupyter.environment(far), code)
    assert done.stdout.strip().endswith("hi"), done.stderr


def test_the_reaper_works_on_it(far: Engine) -> None:
    code = (
        "from labhelpers.lab import Lab; lab = Lab('test'); "
        f"print('id', lab.run({IMAGE!r}, 'sleep 300', network='none').id, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | find.environment(far),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout
        # the line that the lab prints comes first
        id = next(line.split()[1] for line in process.stdout if line.startswith("id "))
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while far.client.api.containers(all=True, filters={"id": id}) and time.monotonic() < end:
        time.sleep(0.2)
    assert not far.client.api.containers(all=True, filters={"id": id})


def test_the_verbs_work_on_it(far: Engine) -> None:
    status = subprocess.run(
        [sys.executable, "-m", "labhelpers", "status"], capture_output=True, encoding="utf-8", timeout=120
    )
    assert "(docker context far)" in status.stdout, status.stderr


# --- what goes wrong on the way, each with a next step of its own


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority") / "ca")
    made.issue("good", names=LOOPBACK)
    made.issue("expired", names=LOOPBACK, days=-1)
    made.issue("early", names=LOOPBACK, since_days=1)
    made.issue("elsewhere", names=[x509.DNSName("elsewhere.example")])
    return made


@pytest.fixture
def at_tls(
    engine: Engine, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Sets the reader's variables for an engine behind TLS: (its certificate, the client's files)."""
    for name in (*jupyter.UNSET_VARIABLES, find.ENGINE_VARIABLE, find.ENDPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def listen(certificate: str, *files: str, verify: bool = True) -> None:
            front = tls_front(engine.endpoint, authority, authority.folder / f"{certificate}.pem")
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{stack.enter_context(front)}")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(authority.client(tmp_path / "client", *files)))
            monkeypatch.setenv("DOCKER_TLS_VERIFY", "1" if verify else "")

        yield listen


@pytest.mark.parametrize(
    ("certificate", "what", "hint"),
    [
        ("expired", "has expired", "clock"),
        ("early", "not valid yet", "clock"),
        ("elsewhere", "not valid for “127.0.0.1”", "subjectAltName"),
    ],
)
def test_certificates_that_are_refused(
    at_tls: Callable[..., None], certificate: str, what: str, hint: str
) -> None:
    at_tls(certificate)
    with pytest.raises(EngineUnreachable, match=what) as caught:
        connect()
    assert hint in caught.value.hint
    assert "Docker Desktop" not in caught.value.hint


def test_without_verification_any_certificate_will_do(at_tls: Callable[..., None], engine: Engine) -> None:
    at_tls("expired", verify=False)
    assert connect().identity == engine.identity


def test_an_unknown_authority_and_damaged_files(
    at_tls: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_tls("good")
    files = Path(os.environ["DOCKER_CERT_PATH"])
    other = Authority(tmp_path / "other")
    shutil.copy(other.folder / "ca.pem", files / "ca.pem")
    with pytest.raises(EngineUnreachable, match=r"not signed by ca\.pem"):
        connect()
    shutil.copy(other.folder / "ca-key.pem", files / "key.pem")
    with pytest.raises(EngineUnreachable, match="do not belong together"):
        connect()
    (files / "cert.pem").write_text("nothing", encoding="utf-8")
    with pytest.raises(EngineUnreachable, match="corrupted"):
        connect()


def test_a_client_certificate_that_is_missing(at_tls: Callable[..., None]) -> None:
    at_tls("good", "ca")
    with pytest.raises(EngineUnreachable, match="client certificate") as caught:
        connect()
    assert "cert.pem and key.pem" in caught.value.hint


def test_a_file_for_tls_that_cannot_be_used_is_named(at_tls: Callable[..., None]) -> None:
    at_tls("good")
    key = Path(os.environ["DOCKER_CERT_PATH"]) / "key.pem"
    plain = key.read_bytes()
    secret = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-out", str(key)]
    subprocess.run(secret, input=plain, check=True, capture_output=True)
    with pytest.raises(EngineUnreachable, match=r"key\.pem for TLS .* the key has a passphrase") as caught:
        connect()
    assert "openssl pkey" in caught.value.hint
    key.write_bytes(plain)
    key.chmod(0)
    code = "from labhelpers.engine import connect; print(connect())"
    rights = "-dac_override,-dac_read_search"
    root = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.getuid() == 0 else []
    done = subprocess.run([*root, sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert "key.pem for TLS with" in done.stderr
    assert "Permission denied" in done.stderr
    assert "sudo chown $USER" in done.stderr
    assert "firewall" not in done.stderr


def test_certificates_as_older_openssl_makes_them_are_accepted(
    at_tls: Callable[..., None], engine: Engine
) -> None:
    """Python 3.13 asks for an authority key identifier, which `openssl x509 -req` wrote only from version 3 on."""
    at_tls("good")
    certificate = x509.load_pem_x509_certificate(
        (Path(os.environ["DOCKER_CERT_PATH"]) / "cert.pem").read_bytes()
    )
    assert not [
        item for item in certificate.extensions if isinstance(item.value, x509.AuthorityKeyIdentifier)
    ]
    assert connect().identity == engine.identity
    assert not Tls().context().verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "share no version of TLS"),
        ("UNSUPPORTED_PROTOCOL", "share no version of TLS"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "client certificate"),
        ("TLSV1_ALERT_UNKNOWN_CA", "client certificate"),
        ("TLSV1_ALERT_INTERNAL_ERROR", "the TLS connection to"),
        ("TLSV1_UNRECOGNIZED_NAME", "the TLS connection to"),
    ],
)
def test_messages_of_openssl(reason: str, what: str) -> None:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower().replace('_', ' ')} (_ssl.c:1006)")
    assert what in unreachable.explain(EngineEndpoint("tcp://x:2376", "DOCKER_HOST", Tls()), error).message


def test_tls_is_spoken_on_both_sides_or_on_none(
    at_tls: Callable[..., None], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_tls("good")
    for name in ("DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name)
    with pytest.raises(EngineUnreachable) as caught:
        connect()
    # what a Go server says to a request without TLS (net/http); OpenSSL's just hangs up
    text = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    raised = unreachable.explain(EngineEndpoint("tcp://127.0.0.1:1", "DOCKER_HOST"), NotAnEngine(text))
    assert "which speaks TLS" in raised.message
    assert "TLS" in caught.value.message + caught.value.hint
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_TLS", "1")
        with pytest.raises(EngineUnreachable, match="does not use TLS") as caught:
            connect(f"tcp://127.0.0.1:{server.server_port}")
        assert "unset DOCKER_TLS_VERIFY" in caught.value.hint
        server.shutdown()


def test_neither_proxies_nor_other_authorities_of_the_environment_come_between(
    at_tls: Callable[..., None], engine: Engine, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_tls("good")
    empty = authority.folder / "empty.pem"
    empty.write_bytes((Authority(authority.folder / "unrelated").folder / "ca.pem").read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(empty))
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    assert connect().client.info()["ID"] == engine.info["ID"]


@pytest.mark.skipif(SSHD is None, reason="no sshd on this machine")
def test_what_ssh_says_has_a_next_step(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (find.ENGINE_VARIABLE, find.ENDPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with sshd(tmp_path, engine.address, path="/nowhere") as server:
        monkeypatch.setenv("PATH", server.path)
        monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "home"))
        with pytest.raises(EngineUnreachable, match="no `docker` command"):
            connect(server.address)
        # without the connection that is still logged in
        monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "another"))
        key = (server.folder / "id").read_bytes()
        (server.folder / "id").write_bytes(b"")
        with pytest.raises(EngineUnreachable, match="cannot log in") as caught:
            connect(server.address)
        assert "ssh-copy-id" in caught.value.hint
        (server.folder / "id").write_bytes(key)
        (server.folder / "known_hosts").write_bytes(b"")
        with pytest.raises(EngineUnreachable, match="host key") as caught:
            connect(server.address)
        assert "log in once" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "host key has changed",
        ),
        ("ssh: Could not resolve hostname x: Name or service not known", "the host name does not resolve"),
        ("ssh: connect to host x port 22: Connection timed out", "does not respond"),
        ("bash: line 1: docker: command not found", "no `docker` command"),
        ("'docker' is not recognized as an internal or external command", "no `docker` command"),
        ("docker: 'system dial-stdio' is not a docker command.", "too old"),
        (
            "dial unix /var/run/docker.sock: connect: permission denied",
            "does not have permission to use the engine's socket",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            "no engine is running there",
        ),
        ("root@x: Permission denied (publickey,password).", "cannot log in"),
        # of the other machine's engine, though the words are those of a missing command or ssh server
        (
            "failed to open the raw stream connection: "
            "dial unix /var/run/docker.sock: connect: no such file or directory",
            "no engine is running there",
        ),
        (
            "failed to open the raw stream connection: "
            "dial unix /var/run/docker.sock: connect: connection refused",
            "no engine is running there",
        ),
        ("ssh: connect to host x port 22: Connection refused", "no ssh server"),
        ("zsh:1: command not found: docker", "no `docker` command"),
        ("fish: Unknown command: docker", "no `docker` command"),
        ("nohup: failed to run command 'docker': No such file or directory", "no `docker` command"),
        (
            "Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their offer: ssh-rsa",
            "share no algorithm",
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 192.0.2.1 port 22",
            "closed the connection",
        ),
        ("Bad owner or permissions on /home/me/.ssh/config", "its own configuration"),
        ("ssh: connect to host x port 22: Host is down", "does not respond"),
        ("something new", "could not connect"),
    ],
)
def test_messages_of_ssh(text: str, what: str) -> None:
    raised = unreachable.explain(EngineEndpoint("ssh://me@x:23", "DOCKER_HOST"), SshFailed(text))
    assert what in raised.message
    assert raised.engine_message == text
    assert raised.hint


def test_a_gateway_is_for_this_user_only_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    gateway = forward(tmp_path / "g.sock", engine.endpoint)
    assert gateway.path.stat().st_mode & 0o777 == 0o600
    client = docker.DockerClient(base_url=gateway.address)
    assert client.info()["ID"] == engine.info["ID"]
    gateway.close()
    gateway.close()
    assert not gateway.path.exists()


def test_a_gateway_to_nowhere_says_so_and_is_not_taken_for_an_engine_that_refuses(
    engine: Engine, tmp_path: Path
) -> None:
    gateway = forward(tmp_path / "g.sock", EngineEndpoint(f"unix://{tmp_path}/none.sock", "test"))
    client = docker.DockerClient(base_url=gateway.address, version="1.41")
    gone = Engine(EngineEndpoint(f"unix://{tmp_path}/none.sock", "test"), "existing", client)
    with pytest.raises(EngineUnreachable, match="lost the connection"), translate_errors(gone):
        client.info()
    gateway.close()
