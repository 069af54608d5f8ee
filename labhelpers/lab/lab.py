"""One reader's work on one chapter: it owns what it makes, removes it, and touches nothing else."""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from docker.models.containers import Container

from labhelpers import engine as engines
from labhelpers.engine import Engine, podman
from labhelpers.engine.differences import differences, relevant_to
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.events import Events
from labhelpers.engine.find import environment
from labhelpers.engine.host import HostView
from labhelpers.engine.port_forward import PortForwarder
from labhelpers.engine.registry import Registry
from labhelpers.errors import LabError
from labhelpers.lab import learners, magic, sessions
from labhelpers.lab.containers import Containers, Output
from labhelpers.lab.inventory import RemainingResources
from labhelpers.lab.labsocket import LabSocket, RequestLog
from labhelpers.lab.lookups import Lookups
from labhelpers.lab.reaper import Reaper
from labhelpers.lab.resources import Resources
from labhelpers.lab.sessions import Resource
from labhelpers.lab.values import parse_port

if TYPE_CHECKING:
    from labhelpers.engine.images import HubImage, Images

__all__ = ["Lab", "Output"]

_SOCKETS: list[tuple[str, str | None]] = []
"""(address of a lab socket that is in use, `DOCKER_HOST` before it), the oldest first."""


class Lab(Containers, Resources, Lookups):
    """One reader's work on one chapter.

    Each operation prints the `docker …` line that a person would type for it. What it makes carries the
    labels `labhelpers.chapter` and `labhelpers.session`; `close` removes what carries this session's. Where this
    process is killed, its `Reaper` does, and at the latest the next Lab.

    Args:
        chapter: its number, as in the notebook's name: "01".
        engine: the engine to work on; None for the one that `./lab` finds.

    Attributes:
        session: the short random id of this session.
        commands: the line of every operation so far, without the `$ `.

    Raises:
        EngineMissing, EngineUnreachable: there is no engine to work on.
        NameTaken: the chapter needs names that belong to somebody else on this engine.
        EngineRefused: the engine is Podman, and the chapter does not work on it.
    """

    def __init__(self, chapter: str, *, engine: Engine | None = None) -> None:
        self.chapter = chapter
        self.engine = engine if engine is not None else engines.connect()
        with translate_errors(self.engine):
            podman.check_chapter(self.engine, chapter)
        self.commands: list[str] = []
        self._quiet = 0
        self._here = threading.local()
        self._closed = False
        with translate_errors(self.engine):
            self._session = sessions.start_session(self.client, chapter)
            self._there_before = {thing.id for thing in self._unlabelled_since_start()}
        self.session = self._session.id
        try:
            with translate_errors(self.engine):
                notes = learners.check(self.client, chapter, self.session)
        except BaseException:
            self._session.end()
            raise
        for line in notes:
            print(line)
        self._reaper = Reaper(self.session, environment(self.engine))
        atexit.register(self._close_at_exit)
        magic.register(self)
        for difference in relevant_to(chapter, differences(self.engine)):
            print(f"note: {difference}")

    def image(self, name: str) -> str:
        """The reference of the lab image `name`; the image is made, with progress, when it is not there."""
        from labhelpers.engine import images

        ref: str = images.ensure(self.engine, name, print)
        return ref

    def images(self) -> Images:
        """The lab images on this engine, and what they stand on."""
        from labhelpers.engine import images

        found: Images = images.overview(self.engine, self._labels("container"))
        return found

    def from_hub(self, ref: str, substitute: str) -> HubImage:
        """The image `ref` of Docker Hub, or of the registry in its name; or a lab image where it cannot be had.

        A line says which it is. What stands in never gets the other's name.

        Args:
            substitute: the name of a lab image.
        """
        from labhelpers.engine import images

        found: HubImage = images.from_hub(self.engine, ref, substitute, print)
        return found

    def forward_port(self, container: Container | str, port: int) -> tuple[str, int]:
        """Where the TCP port `port` of a running container answers on this machine: (`127.0.0.1`, a port).

        It is the published port where the engine's loopback is this machine's (tried once), else a way through the
        engine's API.

        Raises:
            LabError: there is no such container, or it does not run.
        """
        number = int(parse_port(port))
        with translate_errors(self.engine):
            return self._port_forwarder.forward(container, number)

    @cached_property
    def _port_forwarder(self) -> PortForwarder:
        return PortForwarder(self.engine, self._labels("container"), lambda: self.image("payload"))

    @cached_property
    def host(self) -> HostView:  # type: ignore[override]
        """The view of the engine's host, started by its first read."""
        return HostView(self.engine, self._labels("container"), lambda: self.image("tools"))

    @cached_property
    def socket(self) -> LabSocket:
        """The lab socket: the engine, for what the reader types; started by its first use."""
        return LabSocket(self.engine.endpoint, self.session, self._labels)

    def use_socket(self) -> None:
        """Set this process's `DOCKER_HOST` to the lab socket, until the lab is closed."""
        _SOCKETS.append((self.socket.address, os.environ.get("DOCKER_HOST")))
        os.environ["DOCKER_HOST"] = self.socket.address

    def record_requests(self) -> AbstractContextManager[RequestLog]:
        """Record the requests to the engine of what is typed while the block lasts.

        `with lab.record_requests() as calls: …`; the lab's own operations do not go through the lab socket.
        """
        return self.socket.record()

    @cached_property
    def events(self) -> Events:
        """The engine's events, from the first use of this on."""
        return Events(self.engine)

    @cached_property
    def registry(self) -> Registry:
        """A registry of this lab's own, started by its first use; `close` removes it with what came from it."""
        labels = self._labels("container")
        return Registry(self.engine, labels, lambda: self.image("registry"), self._session.record_registry)

    def remaining(self) -> RemainingResources:
        """What stays on the engine when this lab closes, and was made since it began, or to be kept.

        That is what was made in JupyterLab's terminals, what carries no label of a lab, and the volumes that the
        reader created. As the last value of a cell it shows the list with a box for each item. Only what is ticked
        there, or named in `.remove("name", …)`, is removed.
        """
        with translate_errors(self.engine):
            new = [t for t in self._unlabelled_since_start() if t.id not in self._there_before]
            listed = {(t.kind, t.id) for t in new}
            readers = [
                t
                for t in sessions.session_resources(self.client)
                if t.created_by_reader and (t.kind, t.id) not in listed
            ]
            readers = [t for t in readers if sessions.may_modify(t.session, self.session)]
        return RemainingResources(self, (*new, *readers))

    def _unlabelled_since_start(self) -> list[Resource]:
        """What no lab made, and what was made in JupyterLab's terminals."""
        made = sessions.unlabelled_resources(self.client)
        typed = [t for t in sessions.session_resources(self.client) if t.chapter == sessions.TERMINAL]
        return [*typed, *made]

    @property
    def is_closed(self) -> bool:
        """Whether `close` has begun: what is made from then on would stay."""
        return self._closed

    def close(self) -> None:
        """Remove what carries this session's label, and nothing else. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if "socket" in self.__dict__:
            self._restore_docker_host()
        with translate_errors(self.engine):
            for helper in ("host", "events", "_port_forwarder"):
                if helper in self.__dict__:
                    getattr(self, helper).close()
            kept = sessions.remove_session_resources(self.client, self.session)
        if not kept:
            self._session.end()
            self._reaper.stop()

    def _restore_docker_host(self) -> None:
        self.socket.close()
        address = self.socket.address
        while entry := next((entry for entry in _SOCKETS if entry[0] == address), None):
            _SOCKETS.remove(entry)
            # a lab that was opened later, in the same kernel, would go back to a socket that is closed by now
            _SOCKETS[:] = [(each, entry[1] if before == address else before) for each, before in _SOCKETS]
            if os.environ.get("DOCKER_HOST") == address:
                del os.environ["DOCKER_HOST"]
                if entry[1]:
                    os.environ["DOCKER_HOST"] = entry[1]

    def _close_at_exit(self) -> None:
        # nobody reads a message now: what could not be removed is the reaper's
        with suppress(LabError):
            self.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
