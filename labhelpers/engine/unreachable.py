"""Why an engine cannot be reached, and what to do about it: one message for each cause.

A failed connection has more details than the SDK's exceptions: an errno, a verification code of OpenSSL, the output
of ssh. Each cause has its own hint.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from labhelpers import state
from labhelpers.engine.dial import NoResponse, NotAnEngine, SshFailed
from labhelpers.engine.endpoint import EngineEndpoint, TlsFile
from labhelpers.errors import EngineUnreachable

ROOTLESS_PAGE = "https://docs.docker.com/engine/security/rootless/"
TLS_PAGE = "https://docs.docker.com/engine/security/protect-access/"
SSH_PAGE = (
    "https://docs.docker.com/engine/security/protect-access/#use-ssh-to-protect-the-docker-daemon-socket"
)
_TLS_ALERT = b"\x15\x03"
# verification codes: X509_V_ERR_… (openssl x509_vfy.h)
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)
_UNKNOWN_CA = (2, 7, 18, 19, 20, 21)


@dataclass(frozen=True, slots=True)
class _Cause:
    message: str
    hint: str


def is_not_listening(error: Exception) -> bool:
    """Whether `error` means that nothing listens at the address."""
    return isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError)


def explain(endpoint: EngineEndpoint, error: Exception) -> EngineUnreachable:
    """The error for a failed connection to `endpoint`, which raised `error`."""
    cause = _cause(endpoint, error)
    return EngineUnreachable(
        cause.message.replace("{by}", endpoint.found_by).replace(
            "{at}", state.abbreviate_home(endpoint.address)
        ),
        hint=cause.hint,
        engine_message=str(error) or type(error).__name__,
    )


def other_engine_hint(endpoint: EngineEndpoint) -> str:
    """How to undo the choice of this engine."""
    if endpoint.found_by.startswith("docker context"):
        hint = "`docker context use default`"
        return "`unset DOCKER_CONTEXT`" if os.environ.get("DOCKER_CONTEXT") else hint
    return "leave out `--engine`" if endpoint.found_by == "--engine" else f"`unset {endpoint.found_by}`"


def _cause(endpoint: EngineEndpoint, error: Exception) -> _Cause:
    if isinstance(error, SshFailed) or (endpoint.scheme == "ssh" and isinstance(error, FileNotFoundError)):
        return _ssh(endpoint, error)
    if isinstance(error, TlsFile):
        return _tls_file(error)
    if isinstance(error, ssl.SSLError):
        return _tls(endpoint, error)
    if isinstance(error, NoResponse):
        return _Cause(
            "the engine at {at} accepts connections but does not respond: it is overloaded or hangs",
            "wait until `docker version` works, or restart it; then try again",
        )
    if isinstance(error, NotAnEngine):
        return _not_an_engine(endpoint, error)
    if isinstance(error, ValueError):
        return _Cause("{by} is {at}, which is not a valid address", _forms())
    if isinstance(error, PermissionError):
        return _permission(endpoint)
    if endpoint.scheme == "ssh":
        return _ssh(endpoint, error)
    return _tcp(endpoint, error) if endpoint.scheme == "tcp" else _local(endpoint, error)


# ── on this machine ──────────────────────────────────────────────────────────────────────────────────


def _local(endpoint: EngineEndpoint, error: Exception) -> _Cause:
    path = Path(endpoint.path)
    points = "{by} points at {at}"
    if "too long" in str(error):
        return _Cause(
            f"{points}, a path too long for a socket (107 bytes)", "use a shorter path or a symbolic link"
        )
    if endpoint.scheme == "unix" and path.exists() and not path.is_socket():
        kind = "a directory" if path.is_dir() else "an ordinary file"
        hint = "a bind mount of a socket that does not exist creates a directory: remove it, then restart the engine"
        return _Cause(
            f"{points}, and that is {kind}, not a socket",
            hint if path.is_dir() else other_engine_hint(endpoint),
        )
    problem = (
        "and nothing listens on it" if isinstance(error, ConnectionRefusedError) else "which does not exist"
    )
    if not is_not_listening(error):
        problem = "and the connection failed"
    return _Cause(
        f"{points}, {problem}", f"{_start(endpoint)}, or use another engine: {other_engine_hint(endpoint)}"
    )


def _start(endpoint: EngineEndpoint) -> str:
    """How to start the engine that usually listens at `endpoint`."""
    path = endpoint.path.replace("\\", "/")
    if "podman" in path:
        user = "" if path.startswith("/run/podman") else "--user "
        return f"start Podman's socket: `systemctl {user}start podman.socket`"
    if platform.system() in ("Windows", "Darwin") or "/.docker/" in path:
        return "start Docker Desktop"
    if path in ("/var/run/docker.sock", "/run/docker.sock"):
        return "start Docker: `sudo systemctl start docker`"
    if path.startswith("/run/user/"):
        return "start rootless Docker: `systemctl --user start docker`"
    return "start the engine at this address"


def _permission(endpoint: EngineEndpoint) -> _Cause:
    if endpoint.scheme == "npipe":
        return _Cause(
            "an engine listens at {at}, but you do not have permission to use it",
            "add your account to the group docker-users, then sign out and in again",
        )
    if endpoint.scheme == "tcp":
        return _Cause(
            "connecting to {at} is forbidden on this machine", "check its firewall rules for local processes"
        )
    group, helps = _group(Path(endpoint.path))
    no_right = "an engine's socket is at {at}, but you do not have permission to use it"
    message = f"{no_right}: it belongs to the group “{group}”"
    if not helps:
        return _Cause(
            f"{message}, and only its owner can open it",
            f"ask its owner for access, or run Docker as your own user ({ROOTLESS_PAGE})",
        )
    join = f"`sudo usermod -aG {group} $USER`, then log out and in again"
    return _Cause(
        message,
        f"{'log out and in again' if _is_member(group) else join} (members of that group have "
        "root-equivalent access to this machine)",
    )


def _group(path: Path) -> tuple[str, bool]:
    """The group of a socket, and whether its members can use the socket."""
    try:
        group, mode = path.group(), path.stat().st_mode
    except (OSError, KeyError, NotImplementedError):
        return "docker", True
    return group, bool(mode & stat.S_IWGRP) and group != "root"


def _is_member(group: str) -> bool:
    """Whether the account is a member of `group`, although this session may not be."""
    import grp
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name in grp.getgrnam(group).gr_mem
    except KeyError:
        return False


# ── over TCP ─────────────────────────────────────────────────────────────────────────────────────────


def _tcp(endpoint: EngineEndpoint, error: Exception) -> _Cause:
    host, port = endpoint.host_port
    if isinstance(error, socket.gaierror):
        return _Cause(
            f"{{by}} points at {{at}}, but the host name “{host}” does not resolve",
            f"check the spelling and your DNS or VPN (`getent hosts {host}`)",
        )
    if isinstance(error, ConnectionRefusedError):
        return _Cause(
            f"{{by}} points at {{at}}, and nothing listens on port {port} of {host}",
            "check the port (usually 2376 with TLS, 2375 without); an engine does not listen on TCP by "
            f"default; ssh works without extra configuration: `ssh://user@{host}`",
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError) and endpoint.tls:
        return _refused_client(endpoint)  # with TLS 1.3 the alert may be lost when the connection closes
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _Cause(
            "{by} points at {at}, but the server there closed the connection, which was opened without TLS",
            "check whether that port expects TLS, and that it is the engine's",
        )
    return _Cause(f"{{by}} points at {{at}}, but {host} does not respond", _no_route(error))


def _no_route(error: Exception) -> str:
    proxies = [
        name
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        if os.environ.get(name) or os.environ.get(name.lower())
    ]
    if proxies:
        return (
            f"the lab connects directly, not through the proxy of {proxies[0]}: connect your VPN, or "
            "connect through a machine that you can log in to: `ssh://user@host`"
        )
    if getattr(error, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "check your network or VPN: there is no route to that host"
    return "check the address, your VPN, and the firewalls in between"


def _not_an_engine(endpoint: EngineEndpoint, error: NotAnEngine) -> _Cause:
    response = str(error)
    if "HTTP request to an HTTPS server" in response or response.encode(errors="replace").startswith(
        _TLS_ALERT
    ):
        return _Cause(
            "{by} points at {at}, which speaks TLS, but the connection was opened without it",
            "set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem, or use "
            f"a docker context that has them ({TLS_PAGE})",
        )
    if re.match(r"HTTP/1\.[01] 5", response):
        return _Cause(
            "the engine at {at} returns an error",
            "check its log (`journalctl -u docker`), restart it, then try again",
        )
    return _Cause(
        "{by} points at {at}, but the server there is not a Docker engine",
        f"check the address; or use another engine: {other_engine_hint(endpoint)}",
    )


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────


def _tls_file(error: TlsFile) -> _Cause:
    file = state.abbreviate_home(error.filename)
    hint = f"put it there, or set DOCKER_CERT_PATH to its directory ({TLS_PAGE})"
    if error.errno == errno.EINVAL:
        hint = (
            "neither the lab nor `docker` prompts for it: write a key without a passphrase with `openssl pkey "
            f"-in {file} -out FILE`"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = f"make it yours: `sudo chown $USER {file}`; or ask its owner for a copy"
    return _Cause(f"the file {file} for TLS with {{at}} cannot be used: {error.strerror}", hint)


def _tls(endpoint: EngineEndpoint, error: ssl.SSLError) -> _Cause:
    host = endpoint.host_port[0]
    files = _tls_directory(endpoint)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(endpoint, error, host, files)
    reason = f"{getattr(error, 'reason', '')} {error}".upper().replace(" ", "_")
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER_FAILURE" in reason:
        return _Cause(
            "{by} points at {at} with TLS, but the server there does not use TLS",
            "use the engine's TLS port (usually 2376); for one without TLS: "
            "`unset DOCKER_TLS_VERIFY DOCKER_TLS DOCKER_CERT_PATH`",
        )
    if "MISMATCH" in reason:
        return _Cause("cert.pem and key.pem do not belong together", f"put a matching pair into {files}")
    if re.search(r"PEM|ASN1|NO_START_LINE|NO_CERTIFICATE_OR_CRL|X509|BAD_BASE64", reason):
        return _Cause(
            "a certificate or key file is corrupted or invalid",
            f"replace ca.pem, cert.pem and key.pem in {files}",
        )
    if re.search(r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS_AVAILABLE", reason):
        return _Cause(
            "the engine at {at} and this machine share no version of TLS",
            "update the engine, or the proxy in front of it: TLS 1.2 is required",
        )
    if re.search(r"ALERT_\w*(CERT|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)|HANDSHAKE_FAILURE", reason):
        return _refused_client(endpoint)
    return _Cause("the TLS connection to {at} failed", f"check the certificates in {files} ({TLS_PAGE})")


def _refused_client(endpoint: EngineEndpoint) -> _Cause:
    sent = endpoint.tls is not None and endpoint.tls.cert is not None
    why = (
        "does not accept the client certificate"
        if sent
        else "requires a client certificate, and none is configured"
    )
    hint = (
        f"ask the engine's administrator for cert.pem and key.pem; they belong in {_tls_directory(endpoint)}"
    )
    return _Cause(f"the engine at {{at}} {why}", hint)


def _certificate(
    endpoint: EngineEndpoint, error: ssl.SSLCertVerificationError, host: str, files: str
) -> _Cause:
    code = error.verify_code
    if code == _EXPIRED:
        return _Cause(
            "the certificate of the engine at {at} has expired",
            "check this machine's clock (`date`); otherwise the engine needs a new certificate",
        )
    if code == _NOT_YET:
        return _Cause(
            "the certificate of the engine at {at} is not valid yet", "check this machine's clock (`date`)"
        )
    if code in _OTHER_NAME:
        return _Cause(
            f"the certificate of the engine at {{at}} is not valid for “{host}”",
            f"use one of its names: `openssl s_client -connect {endpoint.authority} </dev/null | openssl x509 "
            "-noout -ext subjectAltName`",
        )
    if code in _UNKNOWN_CA:
        by = "ca.pem" if endpoint.tls and endpoint.tls.ca else "any authority that this machine trusts"
        return _Cause(
            f"the certificate of the engine at {{at}} is not signed by {by}",
            f"get the ca.pem of that engine's authority; it belongs in {files}",
        )
    return _Cause(
        "the certificate of the engine at {at} cannot be verified",
        f"check the ca.pem in {files} ({TLS_PAGE})",
    )


def _tls_directory(endpoint: EngineEndpoint) -> str:
    """The directory of the TLS files, for messages."""
    known = endpoint.tls and (endpoint.tls.ca or endpoint.tls.cert or endpoint.tls.key)
    return state.abbreviate_home(Path(known).parent) if known else "the directory in DOCKER_CERT_PATH"


# ── ssh ──────────────────────────────────────────────────────────────────────────────────────────────


def _ssh(endpoint: EngineEndpoint, error: Exception) -> _Cause:
    if isinstance(error, FileNotFoundError):
        install = "on Debian or Ubuntu: `sudo apt-get install openssh-client`"
        return _Cause(
            "{by} is {at}, and this machine has no `ssh` program", f"install OpenSSH's client; {install}"
        )
    stderr, login = str(error), _login(endpoint)
    for pattern, problem, hint in _SSH_CAUSES:
        if re.search(pattern, stderr, re.I):
            return _Cause(f"{{by}} points at {{at}}, and {problem}", hint.replace("{login}", login))
    return _Cause(
        "{by} points at {at}, and ssh could not connect to the engine there",
        f"make sure this works in a terminal without a prompt: `ssh {login} docker version` ({SSH_PAGE})",
    )


def _login(endpoint: EngineEndpoint) -> str:
    user, host = endpoint.login
    port = f"-p {endpoint.url.port} " if endpoint.url.port else ""
    return f"{port}{user + '@' if user else ''}{host}"


# (what ssh or docker on the other machine printed, what that means, the next step)
_SSH_CAUSES = (
    # what `docker system dial-stdio` prints over there contains words that ssh uses for other things
    (
        r"(raw stream connection|dial unix)[^\n]*(refused|no such file)|cannot connect to the docker daemon",
        "the login works, but no engine is running there",
        "start it on that machine: `sudo systemctl start docker`",
    ),
    (
        r"identification has changed|host key .* has changed",
        "that machine's host key has changed",
        "if it was reinstalled, remove the old key with the `ssh-keygen -R` line of that message; otherwise ask why",
    ),
    (
        r"host key verification failed|no .* host key is known",
        "that machine's host key is unknown",
        "log in once in a terminal and compare the fingerprint: `ssh {login}`",
    ),
    (
        r"could not resolve hostname",
        "the host name does not resolve",
        "check the spelling, your DNS or VPN, and ~/.ssh/config",
    ),
    (
        r"permission denied \(|too many authentication failures|no supported authentication|bad permissions"
        r"|error in libcrypto|incorrect passphrase|sign_and_send_pubkey",
        "ssh cannot log in there without a password prompt",
        "install a key: `ssh-copy-id {login}`; add a key with a passphrase to the agent: `ssh-add`",
    ),
    (
        r"connection refused.*|connect to host .* refused",
        "no ssh server listens there",
        "check the port (`ssh://user@host:port`) and that sshd runs on that machine",
    ),
    (
        r"timed out|no route to host|network is unreachable|host is down",
        "that machine does not respond",
        "check the address, your VPN, and the firewalls in between",
    ),
    (
        r"docker[^\n]*not found|not found: docker|unknown command:? \W?docker\b|docker[^\n]*not recognized"
        r"|docker[^\n]*no such file or directory\s*$",
        "there is no `docker` command in that user's PATH",
        "install Docker there, or put it in the PATH of non-interactive logins; try `ssh {login} docker version`",
    ),
    (
        r"is not a docker command|unknown command|unknown flag|see 'docker",
        "Docker on that machine is too old for ssh connections (18.09 or later is required)",
        "update Docker on that machine",
    ),
    (
        r"permission denied",
        "that user does not have permission to use the engine's socket there",
        "on that machine: `sudo usermod -aG docker $USER`, then log in again",
    ),
    (
        r"unable to negotiate|no matching \w+",
        "its ssh server and the `ssh` of this machine share no algorithm",
        "update that server; or allow what it offers in ~/.ssh/config (`ssh -Q help` lists the kinds)",
    ),
    (
        r"connection (closed|reset) by",
        "that machine closed the connection before the login",
        "see the log of its sshd (`journalctl -u ssh`): it may limit connections, or block this address",
    ),
    (
        r"bad owner or permissions",
        "ssh refuses its own configuration, because others may write to it",
        "`chmod go-w ~/.ssh ~/.ssh/config`",
    ),
)


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────


def normalize_address(address: str, found_by: str) -> str:
    """`address` as docker's command line understands it: `host:port` is TCP, `unix://` alone is the usual socket.

    Raises:
        EngineUnreachable: it is no address of an engine.
    """
    address = address.strip()
    scheme, colon, rest = address.partition("://")
    if not colon and re.match(r"[~./\\]", address):
        meant = Path(address).expanduser()
        raise _invalid_address(
            address,
            found_by,
            f"the scheme is missing: `unix://{meant if meant.is_absolute() else meant.absolute()}`",
        )
    if not colon and (typo := re.match(r"(unix|tcp|ssh|npipe):/?(.*)", address)):
        slash = "/" if typo[1] == "unix" else ""
        raise _invalid_address(
            address, found_by, f"two slashes follow the scheme: `{typo[1]}://{slash}{typo[2].lstrip('/')}`"
        )
    if not colon:
        scheme, rest = "tcp", address
    if scheme == "tcp" and rest.startswith(":"):
        rest = f"localhost{rest}"
    if scheme == "unix" and not rest:
        return "unix:///var/run/docker.sock"
    if scheme in ("http", "https"):
        raise _invalid_address(address, found_by, f"the scheme is tcp, also for TLS: `tcp://{rest}`")
    if scheme not in ("unix", "tcp", "ssh", "npipe") or not rest:
        raise _invalid_address(address, found_by, _forms())
    if scheme == "npipe" and platform.system() != "Windows":
        raise _invalid_address(address, found_by, f"named pipes exist only on Windows; {_forms()}")
    try:
        checked = EngineEndpoint(f"{scheme}://{rest}", found_by)
        if scheme in ("tcp", "ssh") and not checked.url.hostname:
            raise ValueError("it has no host name")
        if scheme == "ssh" and checked.url.password is not None:
            raise ValueError("a password in the address is not supported; use an ssh key")
        if scheme == "tcp" and checked.url.path.strip("/"):
            raise ValueError("a path after the port is not supported")
    except ValueError as error:
        raise _invalid_address(address, found_by, f"{_forms()} ({error})") from None
    return checked.address


def _invalid_address(address: str, found_by: str, hint: str) -> EngineUnreachable:
    shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", state.abbreviate_home(address))
    return EngineUnreachable(f"{found_by} is “{shown}”, which is not a valid engine address", hint=hint)


def _forms() -> str:
    return "write it as `unix:///path/docker.sock`, `tcp://host:2376` or `ssh://user@host`"
