"""The address of an engine, and the TLS settings that a connection to it needs."""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

PORT, TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS settings of a connection to an engine.

    Attributes:
        ca: the CA certificate file; None for the CAs that this machine trusts.
        cert, key: the files of the client certificate and its key; None for no client certificate.
        verify: whether the engine's certificate is verified.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """These settings as an `ssl.SSLContext`.

        Raises:
            TlsFile: a file cannot be read, or the key has a passphrase.
            ssl.SSLError: a file is not a certificate or key.
        """
        ca = self.ca if self.verify else None
        for file in filter(None, (ca, self.cert, self.key)):
            _check_readable(file)  # the errors of `ssl` do not name the file
        context = ssl.create_default_context(cafile=ca)
        # Python 3.13 rejects certificates that docker accepts: those made with OpenSSL 1.1 as in Docker's documentation
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert and self.key:
            context.load_cert_chain(self.cert, self.key, password=self._passphrase)
        return context

    def _passphrase(self) -> str:
        # OpenSSL would prompt for it on the terminal
        raise TlsFile(errno.EINVAL, "the key has a passphrase", self.key)


class TlsFile(OSError):
    """A TLS file cannot be used; `filename` and `strerror` have the file and the reason."""


def _check_readable(file: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise TlsFile(error.errno, error.strerror, file) from None


@dataclass(frozen=True)
class EngineEndpoint:
    """An address at which an engine may listen.

    Attributes:
        address: `unix:///path`, `tcp://host:port`, `ssh://user@host` or `npipe:////./pipe/name`.
        found_by: the source of the address, for messages: "DOCKER_HOST", "docker context mine", …
        tls: the TLS settings; None for plain HTTP.
        requested_address: whether the reader requested this address; then no other is tried.
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
            ValueError: it is not a URL (a port that is not a number, unbalanced brackets).
        """
        parts = urlsplit(self.address)
        _ = parts.port  # reading it validates it
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
