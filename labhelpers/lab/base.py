"""What every operation of `Lab` needs: the engine, the session, and the `docker …` lines of what was done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import docker
from docker.errors import APIError

from labhelpers.engine import Engine, responses
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.host import HostView
from labhelpers.errors import NameTaken, NotOwned
from labhelpers.lab import refusals, sessions
from labhelpers.lab.commands import show_commands
from labhelpers.lab.operations import Connect, OnContainer, Operation, Update

ProgressCallback = Callable[[Mapping[str, Any]], object]
"""Is called with each message of the engine while it works."""


class Base:
    """The engine, the session and the commands of a lab."""

    chapter: str
    engine: Engine
    session: str
    host: HostView
    commands: list[str]
    _quiet: int
    _here: threading.local
    _there_before: set[str]

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client for the lab's engine."""
        return self.engine.client

    @contextmanager
    def quiet(self, essential: Sequence[str] = ()) -> Iterator[None]:
        """Do not print each command: for experiments with many operations.

        In a notebook, the outermost block shows its commands when it ends: those that begin with one of `essential`
        openly, once each, and all of them in one collapsed block. A background thread never prints a command, so
        there the block does nothing.

        Args:
            essential: beginnings of the commands that carry the lesson, such as "docker network create".
        """
        if not _is_main_thread():
            yield
            return
        first = len(self.commands)
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1
            if not self._quiet:
                show_commands(self.commands[first:], essential)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Neither show nor keep the commands of this thread: an exercise's own, which would give the answer away.

        A check runs in the background as well, while the cell in the foreground shows its own commands.
        """
        before, self._here.is_hidden = self._is_hidden, True
        try:
            yield
        finally:
            self._here.is_hidden = before

    @property
    def _is_hidden(self) -> bool:
        return getattr(self._here, "is_hidden", False)

    def _print_command(self, operation: Operation) -> None:
        line = operation.line()
        if self._is_hidden:
            return
        self.commands.append(line)
        if not self._quiet and _is_main_thread():
            print(f"$ {line}")

    def _warn(self, warnings: Sequence[str]) -> None:
        """Print that the engine has dropped a limit, as the command line does; the container starts without it."""
        if not self._quiet and not self._is_hidden and _is_main_thread():
            for warning in warnings:
                if "discarded" in warning.lower():
                    print(f"WARNING: {warning}")

    def _labels(self, kind: str) -> dict[str, str]:
        return sessions.labels(kind, self.chapter, self.session)

    def _check_owned(self, container: str) -> None:
        found = responses.labels(self.client.api.inspect_container(container))
        if not sessions.has_lab_labels("container", found):
            raise NotOwned(
                f"the lab did not create the container {container!r} and will not change it",
                hint=f"if it is yours, remove it in a terminal: docker rm {container}",
            )
        if not sessions.may_modify(found.get(sessions.SESSION, ""), self.session):
            raise NotOwned(
                f"the container {container!r} belongs to {_owner(found)}; this notebook will not change it",
                hint="use a container of this notebook; `%docker ps` lists them",
            )

    @contextmanager
    def _changing(self, call: OnContainer | Update | Connect) -> Iterator[None]:
        """Show a command that changes a container, which must be the lab's, and report what the block raises."""
        with translate_errors(self.engine, container=call.container):
            self._check_owned(call.container)
            self._print_command(call)
            yield

    def _name_taken(self, kind: str, name: str, error: APIError | None) -> NameTaken:
        return refusals.name_taken(self.client, self.chapter, self.session, kind, name, error)


def _is_main_thread() -> bool:
    """Whether this runs for a cell: what a background thread does must not change what the cell shows."""
    return threading.current_thread() is threading.main_thread()


def _owner(labels: Mapping[str, str]) -> str:
    return f"another lab session (chapter {labels[sessions.CHAPTER]})"
