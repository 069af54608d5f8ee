"""Requests to the helper container, and the errors they raise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from typing import Any

import requests
from docker.errors import APIError, DockerException
from docker.models.containers import Container

from labhelpers.engine import responses
from labhelpers.engine.arguments import name_or_id
from labhelpers.engine.find import Engine
from labhelpers.engine.host.helper import Helper, engine_gone_error
from labhelpers.errors import (
    BadInput,
    ContainerMissing,
    EngineUnreachable,
    HostUnreadable,
    LabError,
    NotRunning,
)
from labhelpers.results import Result, column, record

Target = Container | str | int | None
"""A container, its name or id; the pid of a process of the host; None for the engine's host itself."""
MIN_INTERVAL_MS = 10


@record
class Texts(Result):
    """Files of the host at one moment."""

    at_s: float = column("on the monotonic clock of the engine's host: only differences mean something")
    texts: Mapping[str, str | None] = column("path → text; None for one that could not be read", shown=False)


class HostReader:
    """Reads files and runs commands through the helper container. `HostView` lists the errors raised."""

    def __init__(self, engine: Engine, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._engine = engine
        self._api: Any = engine.client.api
        self._helper = Helper(self._api, labels, image)

    @property
    def unavailable(self) -> tuple[str, ...]:
        """What the engine does not let the view read, one line each; empty if it allows everything.

        If the engine refuses to start the helper (Enhanced Container Isolation of Docker Desktop, an authorization
        plugin), a single line gives its reason.
        """
        try:
            refused = self._helper.refused_privileges()
        except EngineUnreachable:
            raise
        except LabError as error:
            return (f"anything of the engine's host ({(error.engine_message or error.message).strip()})",)
        return tuple(f"{privilege.enables} (refused: {privilege.name})" for privilege in refused)

    @property
    def helper(self) -> str | None:
        """The ID of the helper container, so that figures of the host can omit it; None before it runs."""
        return self._helper.container

    def close(self) -> None:
        """Remove the helper container. The next read starts another one."""
        self._helper.close()

    # --- files of the kernel

    def read(self, path: str, *, begin_bytes: int | None = None) -> str:
        """The text of a file on the host: at most 16 MiB, or its first `begin_bytes`; invalid UTF-8 is replaced."""
        texts, errors = self._read([path], begin_bytes)
        if path in errors:
            raise self._unreadable(path, errors[path])
        return texts[path]

    def read_many(self, paths: Iterable[str]) -> dict[str, str | None]:
        """The texts of many files in one request; None for each that cannot be read."""
        paths = list(paths)
        texts, _ = self._read(paths)
        return {path: texts.get(path) for path in paths}

    def watch(self, paths: Iterable[str], every_ms: float) -> Generator[Texts, None, None]:
        """The texts of files, read repeatedly until the iterator is closed or dropped.

        Args:
            every_ms: the sampling interval, 10 or more. A sample that would be late is skipped: see `at_s`.
        """
        paths = [absolute_path(path) for path in paths]
        if not MIN_INTERVAL_MS <= every_ms < math.inf:
            raise BadInput(f"cannot sample every {every_ms} ms", hint=f"use at least {MIN_INTERVAL_MS}")
        return self._watch(paths, every_ms)

    def _watch(self, paths: list[str], every_ms: float) -> Generator[Texts, None, None]:
        with closing(self._helper.stream("stream", paths=paths, every_s=every_ms / 1000)) as samples:
            for sample in samples:
                yield Texts(sample["at_s"], {path: sample["texts"].get(path) for path in paths})

    # --- requests

    def _request(self, do: str, **arguments: Any) -> Any:
        try:
            return self._helper.request(do, **arguments)
        except OSError as error:
            raise self._unreadable("processes or files", str(error)) from None

    def _read(
        self, paths: list[str], begin_bytes: int | None = None
    ) -> tuple[dict[str, str], dict[str, str]]:
        response = self._request(
            "read", paths=[absolute_path(path) for path in paths], begin_bytes=begin_bytes
        )
        return response["texts"], response["errors"]

    def _read_process_file(self, target: Target, path: str) -> str:
        """The text of a file below the /proc/PID of `target`; if it is missing, the process has exited."""
        texts, errors = self._read([path])
        if "No such" in errors.get(path, ""):
            raise target_ended(target)
        if path in errors:
            raise self._unreadable(path, errors[path])
        return texts[path]

    def _request_path(self, target: Target, do: str, path: str, **arguments: Any) -> Any:
        pid = self._pid(target)
        try:
            return self._helper.request(do, pid=pid or 0, path=absolute_path(path), **arguments)
        except OSError as error:
            if pid and "No such" in str(error) and not self._is_running(pid):
                raise target_ended(target) from None
            raise self._unreadable(path, str(error)) from None

    def _run(self, target: Target, commands: list[list[str]]) -> list[str]:
        pid = self._pid(target)
        results = self._request("run", commands=commands, net=pid)
        for status, _, stderr in results:
            # IPv6 may be off there, and a kernel has nf_tables, or ip_tables, or both
            if not status or "not supported" in stderr or "does not exist" in stderr:
                continue
            if pid and not self._is_running(pid):
                raise target_ended(target)
            raise self._unreadable(f"the network of {target_name(target)}", stderr)
        return [output for _, output, _ in results]

    def _is_running(self, pid: int) -> bool:
        return self.read_many([f"/proc/{pid}/status"])[f"/proc/{pid}/status"] is not None

    def _engine_pid(self) -> int:
        """The process that runs containers for the engine: the helper's parent."""
        match = re.search(r"^PPid:\s+(\d+)", self.read("/proc/self/status"), re.M)
        assert match is not None
        return int(match[1])

    def _pid(self, target: Target) -> int | None:
        """The pid of a container's first process; None for the host."""
        if target is None:
            return None
        if isinstance(target, bool) or not isinstance(target, int | str | Container) or target in ("", 0):
            raise BadInput(
                f"{target!r} is neither a container nor a PID",
                hint="use a container, its name or a PID above 0",
            )
        if isinstance(target, int):
            if target < 0 or not self._is_running(target):
                raise NotRunning(
                    f"the engine's host has no process {target}",
                    hint="lab.host.processes() lists the processes",
                )
            return target
        return self._first_pid(target)

    def _first_pid(self, container: Container | str) -> int:
        name = name_or_id(container)
        try:
            state = responses.nested_object(self._api.inspect_container(name), "State")
        except APIError as error:
            raise ContainerMissing(
                f"there is no container named {target_name(container)}",
                hint="run the cell that creates it again; `docker ps -a` lists all containers",
                engine_message=str(error.explanation),
            ) from None
        except (requests.RequestException, DockerException) as error:
            raise engine_gone_error(error) from None
        if not state.get("Pid"):
            raise NotRunning(
                f"the container {target_name(container)} is not running (its state is "
                f"{state.get('Status', 'stopped')}), so it has no process on the host",
                hint=f"check `docker logs {target_name(container)}`, then run the cell that starts it again",
            )
        return int(state["Pid"])

    def _unreadable(self, subject: str, engine_message: str) -> LabError:
        missing = "; ".join(self.unavailable)
        return HostUnreadable(
            f"cannot read {subject} on the engine's host",
            hint=f"this engine does not give the lab access to: {missing}"
            if missing
            else "check the path; some engines hide parts of their host (`./lab doctor` shows which engine this is)",
            engine_message=engine_message,
        )


def absolute_path(path: str) -> str:
    """`path`, if it is absolute. Raises BadInput if it is not."""
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise BadInput(f"{path!r} is not an absolute path", hint='use an absolute path: "/var/lib/docker"')
    return path


def target_name(target: object) -> str:
    """The name of a target in messages."""
    return str(getattr(target, "name", target) if target is not None else "the host")


def target_ended(target: object) -> LabError:
    """The error for a target that exited during the read."""
    kind = "process" if isinstance(target, int) else "container"
    return NotRunning(
        f"the {kind} {target_name(target)} exited while it was read",
        hint="run the cell that starts it again; `docker ps -a` shows the exit code",
    )
