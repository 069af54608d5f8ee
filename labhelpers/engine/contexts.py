"""Docker contexts, and the TLS settings that the environment names (docs.docker.com, "Docker contexts").

They are read here and not by the SDK, which looks in another folder where `config.json` is missing, and which takes
no certificates unless all three files are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from labhelpers import state
from labhelpers.engine import unreachable
from labhelpers.engine.dial import EngineEndpoint, Tls
from labhelpers.errors import EngineUnreachable

LIST_HINT = "`docker context ls` lists those that exist"


def current_endpoint() -> EngineEndpoint | None:
    """The engine of the docker context in use; None for the default context.

    Raises:
        EngineUnreachable: the context is missing or damaged, or its TLS files are.
    """
    if name := os.environ.get("DOCKER_CONTEXT"):
        return None if name == "default" else endpoint_of(name, "DOCKER_CONTEXT")
    file = _config() / "config.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("currentContext")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise unreadable(error) from error
    return endpoint_of(str(name), state.abbreviate_home(file)) if name and name != "default" else None


def unreadable(error: Exception) -> EngineUnreachable:
    """What to tell the reader where docker's configuration cannot be read, or a value in it is of another kind."""
    file = _config() / "config.json"
    hint = "repair that file (it must contain a JSON object, as `docker` writes it) or move it away"
    if isinstance(error, PermissionError):
        hint = f"`sudo docker login` leaves it to root: `sudo chown -R $USER {state.abbreviate_home(file.parent)}`"
    return EngineUnreachable(
        f"the docker configuration {state.abbreviate_home(file)} cannot be read",
        hint=hint,
        engine_message=str(error),
    )


def endpoint_of(name: str, source: str) -> EngineEndpoint:
    """The engine of the docker context `name`; `source` says where that name comes from.

    Raises:
        EngineUnreachable: see `current_endpoint`.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()
    file = _config() / "contexts" / "meta" / digest / "meta.json"
    undo = "`unset DOCKER_CONTEXT`" if source == "DOCKER_CONTEXT" else "`docker context use default`"
    if source == "--engine":
        undo = "leave out `--engine`"
    try:
        endpoint = json.loads(file.read_text(encoding="utf-8"))["Endpoints"]["docker"]
        address, skips = str(endpoint["Host"]), bool(endpoint.get("SkipTLSVerify"))
    except FileNotFoundError:
        raise EngineUnreachable(
            f"the docker context “{name}” (from {source}) does not exist",
            hint=f"{LIST_HINT}; choose one, or {undo}",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineUnreachable(
            f"the docker context “{name}” (from {source}) cannot be read or has no Docker endpoint",
            hint=f"recreate it (`docker context rm {name}`, `docker context create {name} …`), or {undo}",
            engine_message=f"{type(error).__name__}: {error}",
        ) from error
    found_by = f"docker context {name}"
    address = unreachable.normalize_address(address, found_by)
    tls = _tls_of_context(digest, skips) if address.startswith("tcp:") else None
    return EngineEndpoint(address, found_by, tls, requested_address=True)


def _tls_of_context(digest: str, skips: bool) -> Tls | None:
    folder = _config() / "contexts" / "tls" / digest / "docker"
    ca, cert, key = (_file(folder, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return Tls(ca, cert, key, verify=not skips) if skips or ca or cert or key else None


def tls_of_environment() -> Tls | None:
    """What DOCKER_TLS_VERIFY, DOCKER_TLS and DOCKER_CERT_PATH ask for; None for plain HTTP.

    As in the SDK, DOCKER_CERT_PATH alone turns TLS on. As in docker's command line, the files are `ca.pem`, `cert.pem`
    and `key.pem`, a missing pair of the last two means no client certificate, and any value of DOCKER_TLS_VERIFY
    (even 0) asks for verification.

    Raises:
        EngineUnreachable: files that were asked for are missing.
    """
    path, verify = os.environ.get("DOCKER_CERT_PATH"), bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not (path or verify or os.environ.get("DOCKER_TLS")):
        return None
    folder = Path(path).expanduser() if path else _config()
    ca, cert, key = (_file(folder, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    missing = [] if bool(cert) == bool(key) else ["key.pem" if cert else "cert.pem"]
    missing += ["ca.pem"] if path and verify and not ca else []
    is_there = not path or folder.is_dir()
    if missing or not is_there:
        lacks = (
            f"which does not contain {' or '.join(missing)}" if is_there else "but there is no such directory"
        )
        raise EngineUnreachable(
            f"DOCKER_CERT_PATH is {state.abbreviate_home(folder)}, {lacks}",
            hint="set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem; "
            "for an engine without TLS: `unset DOCKER_TLS_VERIFY DOCKER_TLS DOCKER_CERT_PATH`",
        )
    return Tls(ca, cert, key, verify)


def _file(folder: Path, name: str) -> str | None:
    try:
        # a child process may run in another directory
        return str((folder / name).absolute()) if (folder / name).is_file() else None
    except OSError:
        return None


def _config() -> Path:
    # as the SDK does; a user without a home directory has no such file
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
