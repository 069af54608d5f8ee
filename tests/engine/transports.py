"""Ways to the suite's own engine that people have and the suite has not: TLS with certificates, and ssh.

The engine behind them is the real one. TLS ends in a thread of the test; ssh is a real `sshd` on loopback.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from labhelpers.engine.endpoint import EngineEndpoint

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
LOOPBACK: list[x509.GeneralName] = [
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
]
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Authority:
    """A certificate authority whose files are in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.issue("ca", authority=True)

    def issue(
        self,
        name: str,
        *,
        authority: bool = False,
        names: list[x509.GeneralName] | None = None,
        days: int = 30,
        since_days: int = -60,
    ) -> Path:
        """Write `name.pem` and `name-key.pem`, valid from `since_days` to `days` from now; the certificate's path."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the tests")])
        issuer, signer = (subject, key) if authority else self._ca()
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=since_days))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (self.folder / f"{name}-key.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        )
        file = self.folder / f"{name}.pem"
        file.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(pem))
        return file

    def _ca(self) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
        certificate = x509.load_pem_x509_certificate((self.folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((self.folder / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return certificate.subject, key

    def client(self, folder: Path, *names: str) -> Path:
        """A folder as DOCKER_CERT_PATH takes it, with ca.pem and a client certificate; or only the files `names`."""
        folder.mkdir()
        self.issue("client")
        for source, name in (("ca", "ca"), ("client", "cert"), ("client-key", "key")):
            if not names or name in names:
                shutil.copy(self.folder / f"{source}.pem", folder / f"{name}.pem")
        return folder


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def tls_front(place: EngineEndpoint, authority: Authority, certificate: Path) -> Iterator[int]:
    """A TLS server on loopback in front of the engine at `place`; its port. It demands a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name(f"{certificate.stem}-key.pem"))
    context.load_verify_locations(authority.folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, context, place), daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, context: ssl.SSLContext, place: EngineEndpoint) -> None:
    with suppress(OSError):
        while True:
            near, _ = server.accept()
            threading.Thread(target=_serve, args=(near, context, place), daemon=True).start()


def _serve(near: socket.socket, context: ssl.SSLContext, place: EngineEndpoint) -> None:
    with suppress(OSError), context.wrap_socket(near, server_side=True) as secure, _engine(place) as far:
        _pump(secure, far)


def _engine(place: EngineEndpoint) -> socket.socket:
    if place.scheme == "tcp":
        return socket.create_connection(place.host_port)
    far = socket.socket(socket.AF_UNIX)
    far.connect(place.path)
    return far


def _pump(secure: ssl.SSLSocket, far: socket.socket) -> None:
    """Copy both ways, in one thread because OpenSSL is not for two. A close_notify is a half-close, as in Go's TLS."""
    sources: list[socket.socket] = [secure, far]
    while far in sources:
        ready = [secure] if secure in sources and secure.pending() else select.select(sources, [], [])[0]
        if far in ready:
            data = far.recv(_CHUNK_BYTES)
            if not data:
                return
            secure.sendall(data)
        if secure in ready:
            secure.setblocking(False)
            with suppress(ssl.SSLWantReadError):
                data = secure.recv(_CHUNK_BYTES)
                if data:
                    far.sendall(data)
                else:
                    far.shutdown(socket.SHUT_WR)
                    sources.remove(secure)
            secure.setblocking(True)


# ── ssh ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sshd:
    """A server that logs in whoever has the key, with the suite's engine as that login's DOCKER_HOST.

    Attributes:
        folder: its keys and settings; `bin/ssh` in it is OpenSSH's client with these settings.
        port: on 127.0.0.1.
        user: whom it logs in.
    """

    folder: Path
    port: int
    user: str

    @property
    def address(self) -> str:
        """What DOCKER_HOST takes."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        """A PATH in which `ssh` reads the test's settings; OpenSSH finds its own by the account, not by HOME."""
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"


@contextmanager
def sshd(folder: Path, docker_host: str, path: str | None = None) -> Iterator[Sshd]:
    """A real sshd on loopback; its logins have `docker_host`, and `path` as their PATH.

    The caller skips where `SSHD` is None.
    """
    assert SSHD
    for name in ("host_key", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port, user = _free_port(), subprocess.check_output(["id", "-un"], encoding="utf-8").strip()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/id.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"SetEnv DOCKER_HOST={docker_host} PATH={path or os.environ['PATH']}\n",
        encoding="utf-8",
    )
    kind, key = (folder / "host_key.pub").read_text(encoding="utf-8").split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n", encoding="utf-8")
    (folder / "config").write_text(
        f"Host *\n IdentityFile {folder}/id\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n"
        " GlobalKnownHostsFile /dev/null\n",
        encoding="utf-8",
    )
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    with subprocess.Popen(
        [SSHD, "-D", "-f", folder / "sshd_config", "-E", folder / "log"], start_new_session=True
    ) as server:
        try:
            _wait_for(port, server, folder / "log")
            yield Sshd(folder, port, user)
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer: {log.read_text(encoding='utf-8')}")


def python(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=120
    )
