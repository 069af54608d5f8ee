"""Credentials stored by `docker login`, and the credential helpers."""

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
        config: the configuration as the SDK reads it: `credsStore` and `credHelpers`
            (docs.docker.com/reference/cli/docker/login, "Credential helpers").
    """
    helpers = config.get("credHelpers")
    named = [config.get("credsStore"), *(helpers.values() if isinstance(helpers, dict) else [])]
    programs = dict.fromkeys(f"docker-credential-{name}" for name in named if name)
    return tuple(program for program in programs if not shutil.which(program))


class Logins(auth.AuthConfig):
    """Credentials stored by `docker login`; a credential helper that fails counts as one without credentials.

    A helper may be missing (Docker Desktop leaves its name in the file when it is uninstalled), may be unable to open
    its store (`pass` without a key), or may print something unexpected. Public images need no credentials, and the SDK
    calls the helper before each build and pull.
    """

    @property
    def is_empty(self) -> bool:
        """Always false: otherwise the SDK would read the file again, into its own class."""
        return False

    def _get_store_instance(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing helper: see `warning`
            return super()._get_store_instance(name)  # type: ignore[misc]

    def resolve_authconfig(self, registry: str | None = None) -> Any:
        """As in the SDK; if the helper fails, the credentials in the file itself."""
        try:
            return super().resolve_authconfig(registry)
        except _FAILS:
            return auth.AuthConfig({"auths": self.auths}).resolve_authconfig(registry)

    def get_all_credentials(self) -> dict[str, Any]:
        """As in the SDK; if a helper fails, the credentials in the file itself."""
        try:
            return dict(super().get_all_credentials())  # type: ignore[no-untyped-call]
        except _FAILS:
            return dict(self.auths)


# `StoreError` is a RuntimeError; the others are raised for a response that violates the protocol
_FAILS = (DockerException, RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError)


def logins(api: Any) -> Mapping[str, Any]:
    """Docker's configuration as the SDK's client `api` has read it."""
    configuration: Mapping[str, Any] = api._auth_configs
    return configuration


def tolerate_failing_helpers(api: Any) -> None:
    """Make the SDK's client `api` ignore credential helpers that fail."""
    api._auth_configs = Logins(api._auth_configs, api._auth_configs._credstore_env)


def warning(config: Mapping[str, Any]) -> str | None:
    """A warning about missing helpers; None if none is missing."""
    missing = missing_helpers(config)
    if not missing:
        return None
    return (
        f"the Docker configuration uses the credential helper {' and '.join(missing)}, which is not "
        "installed; the lab pulls without a login: remove “credsStore” (or the entry of “credHelpers”) from "
        "~/.docker/config.json, or install the helper"
    )
