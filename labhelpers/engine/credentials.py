"""What `docker login` keeps, and the helper programs that keep it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from docker import auth


def missing_helpers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The credential helpers that docker's configuration names and this machine does not have.

    Args:
        config: what the SDK read of it: `credsStore` and `credHelpers`
            (docs.docker.com/reference/cli/docker/login, "Credential helpers").
    """
    helpers = config.get("credHelpers")
    named = [config.get("credsStore"), *(helpers.values() if isinstance(helpers, dict) else [])]
    programs = dict.fromkeys(f"docker-credential-{name}" for name in named if name)
    return tuple(program for program in programs if not shutil.which(program))


def drop_missing_helpers(api: Any) -> None:
    """Make the SDK's client `api` go on without the logins that only a missing credential helper has.

    Docker Desktop leaves its name in the file when it is removed. Public images need no login, and the SDK fails on
    the missing program before it asks for anything.
    """
    missing = missing_helpers(api._auth_configs)
    if not missing:
        return
    config = _Kept(api._auth_configs, api._auth_configs._credstore_env)
    helpers = config.get("credHelpers") or {}
    config["credHelpers"] = {
        host: name for host, name in helpers.items() if f"docker-credential-{name}" not in missing
    }
    if f"docker-credential-{config.get('credsStore')}" in missing:
        config.pop("credsStore")
    api._auth_configs = config


class _Kept(auth.AuthConfig):
    """Logins that the SDK does not read again from the file where none is left."""

    @property
    def is_empty(self) -> bool:
        return False


def warning(config: Mapping[str, Any]) -> str | None:
    """A sentence about the helpers that are missing; None where none is."""
    missing = missing_helpers(config)
    if not missing:
        return None
    return (
        f"docker's configuration names the credential helper {' and '.join(missing)}, which is not installed: the lab "
        "pulls without a login; remove “credsStore” (or the entry of “credHelpers”) from ~/.docker/config.json, or "
        "install the helper"
    )
