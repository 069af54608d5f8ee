"""A registry of the lab's own: `docker pull` from it is a real pull, with no way to Docker Hub.

CNCF Distribution (the Debian package docker-registry) in one container on the engine's host, published on that
host's loopback: engines take a registry at 127.0.0.0/8 without TLS (dockerd(8), --insecure-registry).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from docker.errors import APIError
from docker.models.containers import Container

from labhelpers.engine.find import Engine
from labhelpers.engine.removal import remove_container
from labhelpers.engine.run_once import DEFAULT_LOG_DRIVER
from labhelpers.errors import EngineRefused, TimedOut

STORAGE_PATH = "/registry/docker/registry/v2"
"""Where its container keeps manifests and blobs (CNCF Distribution, registry/storage/paths.go)."""

_ROOT = STORAGE_PATH.removesuffix("/docker/registry/v2")
_INSIDE = "5000/tcp"
_START_TIMEOUT_S = 20.0


class Registry:
    """One registry. The first use of its address starts it.

    Args:
        engine: the engine that runs it and pushes to it.
        labels: what its container carries, so that it is known as the lab's.
        image: gives the reference of the lab image `registry`; asked once, at the start.
        started: told the address when it has started.
        storage: the name of a volume that keeps what is pushed; None to lose it with the container.
    """

    def __init__(
        self,
        engine: Engine,
        labels: Mapping[str, str],
        image: Callable[[], str],
        started: Callable[[str], object] = lambda address: None,
        storage: str | None = None,
    ) -> None:
        self._client = engine.client
        self._labels = dict(labels)
        self._image = image
        self._started = started
        self._storage = storage
        self._container: Container | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, as the engine reaches it.

        Raises:
            LabError: it could not be started.
        """
        if self._container is None:
            self._start()
        return self._address

    @property
    def container(self) -> Container:
        """Its container; `STORAGE_PATH` is where it keeps what was pushed."""
        if self._container is None:
            self._start()
        assert self._container is not None
        return self._container

    def push(self, ref: str, name: str | None = None) -> str:
        """Push the engine's image `ref`; gives the reference under which it can be pulled.

        The engine keeps no extra name for it.

        Args:
            name: what it is called in the registry, with or without a tag; None for the name in `ref`.

        Raises:
            EngineRefused: the engine has no such image, or could not push it; its words are kept.
        """
        target = f"{self.address}/{name or ref}"
        if ":" not in target.rpartition("/")[2]:
            target += ":latest"
        try:
            self._client.api.tag(ref, target)
            for step in self._client.api.push(target, stream=True, decode=True):
                if "error" in step:
                    raise _push_error(ref, step["error"])
        except APIError as error:
            raise _push_error(ref, error.explanation) from None
        self._client.api.remove_image(target, noprune=True)
        return target

    def close(self) -> None:
        """Remove its container and, without a `storage`, all that was pushed to it.

        The next use starts another, at another address.
        """
        if self._container is not None:
            container, self._container = self._container, None
            remove_container(self._client.api, str(container.id), v=True)

    def _start(self) -> None:
        try:
            run: Any = self._client.containers.run  # the stubs do not know a port that the engine chooses
            container: Container = run(
                self._image(),
                detach=True,
                labels=self._labels,
                # its log is read, so it does not depend on the engine's default driver
                log_config={"type": DEFAULT_LOG_DRIVER, "config": {}},
                ports={_INSIDE: ("127.0.0.1", None)},
                volumes=[f"{self._storage}:{_ROOT}"] if self._storage else [],
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            )
        except APIError as error:
            raise EngineRefused(
                "the lab's registry could not be started",
                hint="run `./lab doctor`, then run the cell again",
                engine_message=str(error.explanation),
            ) from None
        self._container = container
        self._wait(container)
        published: Any = container.ports[_INSIDE]
        self._address = f"127.0.0.1:{published[0]['HostPort']}"
        self._started(self._address)

    def _wait(self, container: Container) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while b"listening on" not in container.logs():
            container.reload()
            if container.status not in ("created", "running") or time.monotonic() > end:
                words = container.logs().decode(errors="replace").strip()
                self.close()
                raise TimedOut(
                    "the lab's registry exited or did not become ready in time",
                    hint="run the cell again; if it fails again, run `./lab doctor`",
                    engine_message="\n".join(words.splitlines()[-4:]),
                )
            time.sleep(0.05)
        container.reload()


def _push_error(ref: str, words: Any) -> EngineRefused:
    return EngineRefused(
        f"the image {ref!r} could not be pushed to the lab's registry",
        hint="see the engine's message; `docker images` lists its images",
        engine_message=str(words),
    )
