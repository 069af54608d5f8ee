"""What `docker login` keeps, and the helper programs that keep it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from typing import Any

from docker import auth
from docker.errors import DockerException


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


class Logins(auth.AuthConfig):
    """What `docker login` has kept, without what a credential helper fails to give.

    A helper that is missing (Docker Desktop leaves its name in the file when it is removed), cannot reach its store
    (`pass` without a key) or prints something else has no logins. Public images need none, and the SDK asks the
    helper before each build and pull.
    """

    @property
    def is_empty(self) -> bool:
        """Never: the SDK would read the file again, into a class of its own."""
        return False

    def _get_store_instance(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing helper: `warning` says so in the reader's words
            return super()._get_store_instance(name)  # type: ignore[misc]

    def resolve_authconfig(self, registry: str | None = None) -> Any:
        """As in the SDK; what the file itself holds where the helper fails."""
        try:
            return super().resolve_authconfig(registry)
        except _FAILS:
            return auth.AuthConfig({"auths": self.auths}).resolve_authconfig(registry)

    def get_all_credentials(self) -> dict[str, Any]:
        """As in the SDK; what the file itself holds where a helper fails."""
        try:
            return dict(super().get_all_credentials())  # type: ignore[no-untyped-call]
        except _FAILS:
            return dict(self.auths)


# `StoreError` is a RuntimeError; the others are of an answer that is not of the protocol
_FAILS = (DockerException, RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError)


def logins(api: Any) -> Mapping[str, Any]:
    """What the SDK's client `api` read of docker's configuration."""
    found: Mapping[str, Any] = api._auth_configs
    return found


def tolerate_failing_helpers(api: Any) -> None:
    """Make the SDK's client `api` go on without the logins of a credential helper that does not work."""
    api._auth_configs = Logins(api._auth_configs, api._auth_configs._credstore_env)


def warning(config: Mapping[str, Any]) -> str | None:
    """A sentence about the helpers that are missing; None where none is."""
    missing = missing_helpers(config)
    if not missing:
        return None
    return (
        f"the Docker configuration uses the credential helper {' and '.join(missing)}, which is not "
        "installed; the lab pulls without a login: remove “credsStore” (or the entry of “credHelpers”) from "
        "~/.docker/config.json, or install the helper"
    )
