"""What an experiment reads of the engine, and the one way to wait for a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from docker.errors import ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.networks import Network
from docker.models.volumes import Volume

from labhelpers.engine import responses, waiting
from labhelpers.engine.arguments import name_of
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.run_once import last_lines
from labhelpers.errors import EngineRefused, NotRunning
from labhelpers.lab import refusals
from labhelpers.lab.base import Base
from labhelpers.lab.values import parse_filters, parse_image

T = TypeVar("T")
LAST_LINES = 8

Attributes = dict[str, Any]
"""An answer of the Engine API, as `docker inspect` prints it."""


class Lookups(Base):
    """Reads of the engine; none of them changes anything, so none prints a command."""

    def inspect(self, container: Container | str) -> Attributes:
        """A container, as `docker inspect` prints it.

        Raises:
            ContainerMissing: there is no such container.
        """
        name = name_of(container)
        with translate_errors(self.engine, container=name):
            found: Attributes = self.client.api.inspect_container(name)
            return found

    def inspect_image(self, ref: str) -> Attributes:
        """An image, as `docker image inspect` prints it.

        Raises:
            ImageMissing: the engine does not have it.
        """
        with translate_errors(self.engine):
            try:
                found: Attributes = self.client.api.inspect_image(parse_image(ref))  # type: ignore[no-untyped-call]
            except ImageNotFound as error:
                raise refusals.image_missing(ref, error) from None
            return found

    def history_of(self, ref: str) -> list[Attributes]:
        """The steps that made an image, the last one first; a row of `GET /images/NAME/history` for each.

        Raises:
            ImageMissing: the engine does not have it.
        """
        with translate_errors(self.engine):
            try:
                found: list[Attributes] = self.client.api.history(parse_image(ref))  # type: ignore[no-untyped-call]
            except ImageNotFound as error:
                raise refusals.image_missing(ref, error) from None
            return found

    def inspect_network(self, network: Network | str) -> Attributes:
        """A network, as `docker network inspect` prints it.

        Raises:
            EngineRefused: there is no such network.
        """
        with translate_errors(self.engine):
            found: Attributes = self.client.api.inspect_network(name_of(network))
            return found

    def inspect_volume(self, volume: Volume | str) -> Attributes:
        """A volume, as `docker volume inspect` prints it.

        Raises:
            EngineRefused: there is no such volume.
        """
        name = name_of(volume)
        with translate_errors(self.engine):
            try:
                found: Attributes = self.client.api.inspect_volume(name)
            except NotFound as error:
                raise EngineRefused(
                    f"the engine has no volume called {name}",
                    hint="run the cell that makes it again; `docker volume ls` lists what is there",
                    engine_message=str(error.explanation),
                ) from None
            return found

    def list_containers(
        self, *, stopped: bool = False, sizes: bool = False, filters: Mapping[str, Any] | None = None
    ) -> list[Attributes]:
        """The containers that run, and with `stopped` the others too; a row of `GET /containers/json` for each.

        Args:
            sizes: also what each one's own layer holds (`SizeRw`, bytes).
        """
        with translate_errors(self.engine):
            found: list[Attributes] = self.client.api.containers(
                all=stopped, size=sizes, filters=parse_filters(filters or {})
            )
            return found

    def changes_of(self, container: Container | str) -> list[Attributes]:
        """What a container has changed in its files, as `docker diff` lists it.

        A row has a `Path` and a `Kind`: 0 changed, 1 added, 2 deleted (Engine API, GET /containers/NAME/changes).

        Raises:
            ContainerMissing: there is no such container.
        """
        name = name_of(container)
        with translate_errors(self.engine, container=name):
            # the engine answers null where nothing has changed
            found: list[Attributes] = self.client.api.diff(name) or []
            return found

    def list_networks(self) -> list[Attributes]:
        """The networks; a row of `GET /networks` for each."""
        with translate_errors(self.engine):
            found: list[Attributes] = self.client.api.networks()
            return found

    def list_images(self) -> list[Attributes]:
        """The images; a row of `GET /images/json` for each."""
        with translate_errors(self.engine):
            found: list[Attributes] = self.client.api.images()
            return found

    def list_volumes(self) -> list[Attributes]:
        """The volumes; a row of `GET /volumes` for each."""
        with translate_errors(self.engine):
            return responses.nested_list(self.client.api.volumes(), "Volumes")

    def logs(self, container: Container | str, **options: Any) -> str:
        """What a container has written so far; `options` are those of docker-py's `logs` that do not stream.

        Raises:
            ContainerMissing: there is no such container.
            EngineRefused: its log driver keeps nothing.
        """
        name = name_of(container)
        with translate_errors(self.engine, container=name):
            return str(self.client.api.logs(name, **options).decode(errors="replace"))

    def is_running(self, container: Container | str) -> bool:
        """Whether a container runs, now.

        Raises:
            ContainerMissing: there is no such container.
        """
        return bool(self.inspect(container)["State"]["Running"])

    def address_of(self, container: Container | str, network: str | None = None) -> str:
        """The IPv4 address of a container, in `network` or in the first of its networks; "" where it has none.

        Raises:
            ContainerMissing: there is no such container.
        """
        networks = responses.networks(self.inspect(container))
        chosen = networks.get(name_of(network), {}) if network else next(iter(networks.values()), {})
        return str(chosen.get("IPAddress") or "")

    def directory_of(self, volume: Volume | str) -> str:
        """Where a volume's files are on the engine's host.

        Raises:
            EngineRefused: there is no such volume.
        """
        return str(self.inspect_volume(volume)["Mountpoint"])

    def wait_for(
        self,
        what: str,
        check: Callable[[], T],
        limit_s: float = waiting.TIMEOUT_S,
        *,
        every_s: float = waiting.POLL_S,
        while_running: Container | str | None = None,
    ) -> T:
        """Call `check` until it returns something true, and return that.

        Args:
            what: what is waited for, as the message says it: "the server to answer".
            limit_s: how long, in seconds.
            every_s: how long to pause between two calls, in seconds.
            while_running: a container that must not end meanwhile; its last lines are part of the message.

        Raises:
            TimedOut: `check` was not true within `limit_s`.
            NotRunning: the container `while_running` ended first.
        """

        def checked() -> T:
            result = check()
            if not result and while_running is not None and not self.is_running(while_running):
                result = check()  # it may have become true just before the end
                if not result:
                    raise self._ended(while_running, what)
            return result

        details = None if while_running is None else lambda: self.last_lines(while_running)
        return waiting.wait_for(what, checked, limit_s, every_s=every_s, details=details)

    def _ended(self, container: Container | str, what: str) -> NotRunning:
        name = name_of(container)
        code = self.inspect(container)["State"]["ExitCode"]
        return NotRunning(
            f"the container {name!r} exited with code {code} before this happened: {what}",
            hint="fix what its last lines name, then run the cell again",
            engine_message=self.last_lines(container),
        )

    def last_lines(self, container: Container | str, count: int = LAST_LINES) -> str:
        """The end of a container's log, for a message; a line that says so where its log cannot be read."""
        return last_lines(self.client.api, name_of(container), count)

    def engine_time(self) -> str:
        """The time now on the engine's clock (RFC 3339, with nanoseconds)."""
        with translate_errors(self.engine):
            return str(self.client.api.info()["SystemTime"])
