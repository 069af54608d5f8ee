"""Find the engine that is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import docker

from labhelpers.errors import EngineMissing
from labhelpers.results import Result


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    Attributes:
        address: `unix:///…`, `tcp://host:port` or `npipe:////./pipe/…`; what `DOCKER_HOST` takes.
        source: `private` (the lab started it and may stop it) or `existing` (somebody else's, used as it is).
        found_by: how it was found, for people: "DOCKER_HOST", "docker context desktop-linux", …
        client: the SDK's client for it.
    """

    address: str
    source: Literal["private", "existing"]
    found_by: str
    client: docker.DockerClient

    @cached_property
    def info(self) -> dict[str, Any]:
        """What `docker info` says, as a dict (Engine API, GET /info)."""
        return self.client.info()


@dataclass(frozen=True, slots=True)
class EngineFacts(Result):
    """What an engine says of itself."""

    version: str


def connect(choice: str | None = None) -> Engine:
    """The engine to use."""
    address = os.environ.get("DOCKER_HOST")
    if not address:
        raise EngineMissing("no engine", hint="./lab up")
    return Engine(address, "existing", "DOCKER_HOST", docker.DockerClient(base_url=address))
