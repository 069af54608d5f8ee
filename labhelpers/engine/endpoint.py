"""The address of an engine, and the TLS settings that a connection to it needs."""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

PORT, TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS to an engine.

    Attributes:
        ca: the file of the certificate authority; None for those that this machine trusts.
        cert, key: the files of the client's certificate and its key; None where the engine asks for none.
        verify: whether the engine's certificate is checked.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """The same as Python's own type.

        Raises:
            TlsFile: a file cannot be read, or the key has a passphrase.
            ssl.SSLError: a file is no certificate or key.
        """
        ca = self.ca if self.verify else None
        for file in filter(None, (ca, self.cert, self.key)):
            _check_readable(file)  # the errors of `ssl` do not name the file
        context = ssl.create_default_context(cafile=ca)
        # Python 3.13 refuses certificates that docker accepts: those that OpenSSL 1.1 made as Docker's page shows
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert and self.key:
            context.load_cert_chain(self.cert, self.key, password=self._passphrase)
        return context

    def _passphrase(self) -> str:
        # OpenSSL would ask for it on the terminal
        raise TlsFile(errno.EINVAL, "the key has a passphrase", self.key)


class TlsFile(OSError):
    """A file that `Tls` names cannot be used; `filename` and `strerror` say which one and why."""


def _check_readable(file: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise TlsFile(error.errno, error.strerror, file) from None


@dataclass(frozen=True)
class EngineEndpoint:
    """Where an engine may be.

    Attributes:
        address: `unix:///path`, `tcp://host:port`, `ssh://user@host` or `npipe:////./pipe/name`.
        found_by: how the lab came to it, for messages: "DOCKER_HOST", "docker context mine", …
        tls: how to speak TLS to it; None for plain HTTP.
        requested_address: the reader named this place, so no other is used when it does not answer.
    """

    address: str
    found_by: str
    tls: Tls | None = None
    requested_address: bool = False

    @property
    def scheme(self) -> str:
        """`unix`, `tcp`, `ssh` or `npipe`; "" where the address has none."""
        return self.address.partition("://")[0] if "://" in self.address else ""

    @property
    def url(self) -> SplitResult:
        """The parts of the address.

        Raises:
            ValueError: it is no URL (a port that is no number, a bracket too many).
        """
        parts = urlsplit(self.address)
        _ = parts.port  # checked only when it is read
        return parts

    @property
    def path(self) -> str:
        """The file of a `unix` or `npipe` address."""
        path = self.address.partition("://")[2]
        return path.replace("/", "\\") if self.scheme == "npipe" else path

    @property
    def authority(self) -> str:
        """`host:port` of a `tcp` address, as a URL has it.

        Raises:
            ValueError: see `url`.
        """
        host, port = self.host_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def host_port(self) -> tuple[str, int]:
        """The host and port of a `tcp` address, with Docker's default port.

        Raises:
            ValueError: see `url`.
        """
        return self.url.hostname or "127.0.0.1", self.url.port or (TLS_PORT if self.tls else PORT)

    @property
    def login(self) -> tuple[str | None, str]:
        """The user, or None, and the host of an `ssh` address; a `Host` of ssh_config(5) may have upper case.

        Raises:
            ValueError: see `url`.
        """
        user, _, host = self.url.netloc.rpartition("@")
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return unquote(user) or None, unquote(host)
