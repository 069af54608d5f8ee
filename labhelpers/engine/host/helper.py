"""The helper container of `HostView`: minimal privileges, requests over its standard input and output."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, DockerException, NotFound

from labhelpers.engine.removal import remove_container
from labhelpers.engine.streams import STDERR, Stream
from labhelpers.errors import EngineUnreachable, HostUnreadable, LabError

_AGENT = ["python3", "-I", "-c", Path(__file__).with_name("agent.py").read_text(encoding="utf-8")]
# the first response waits for the container's start, which takes seconds on a slow engine
_RESPONSE_TIMEOUT_S = 60.0
_ATTACHED = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
_CGROUPS = "/sys/fs/cgroup:/sys/fs/cgroup:ro"


@dataclass(frozen=True, slots=True)
class Privilege:
    """A privilege that the helper needs.

    Attributes:
        name: a capability (capabilities(7)), or a bind mount.
        enables: what cannot be read without it.
    """

    name: str
    enables: str


PRIVILEGES = (
    Privilege("SYS_PTRACE", "namespaces, mounts, memory (Pss) and directories of other processes"),
    Privilege("DAC_READ_SEARCH", "directories that belong to other users"),
    Privilege(
        "SYS_ADMIN", "the network of containers (setns(2)), and overlayfs attributes of files (xattr(7))"
    ),
    Privilege("NET_ADMIN", "firewall rules"),
    Privilege(_CGROUPS, "resource use and limits of containers on cgroup v1"),
)


class Helper:
    """One helper container. The first request starts it; it exits with this process.

    Args:
        api: the low-level client of the engine.
        labels: the labels of the container.
        image: returns the reference of an image with `python3`; called once, at the start.
    """

    def __init__(self, api: Any, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._api = api
        self._labels = dict(labels)
        self._image = image
        self._container: str | None = None
        self._agent: AgentConnection | None = None
        self._lock = threading.Lock()
        self._refused: tuple[Privilege, ...] = ()

    @property
    def container(self) -> str | None:
        """The ID of the container; None before it is started."""
        return self._container

    def refused_privileges(self) -> tuple[Privilege, ...]:
        """The privileges that the engine refuses.

        Raises:
            LabError: the helper could not be started.
        """
        with self._lock:
            self._start()
        return self._refused

    def request(self, action: str, **arguments: Any) -> Any:
        """The agent's response; if the connection is lost, the helper is restarted once.

        Raises:
            OSError: the agent's error message.
            LabError: the helper could not be started, or the connection was lost twice.
        """
        with self._lock:
            for attempt in (1, 2):
                try:
                    message = self._start().request({"do": action, **arguments})
                    break
                except (OSError, EOFError, ValueError) as error:
                    self._disconnect()
                    if attempt == 2:
                        raise _helper_lost(error) from None
        if "error" in message:
            raise OSError(message["error"])
        return message["response"]

    def stream(self, action: str, **arguments: Any) -> Generator[Any, None, None]:
        """The responses of a second agent in the same container, as they arrive; closing the generator ends it.

        Raises:
            LabError: the helper could not be started, or the connection was lost.
        """
        with self._lock:
            self._start()
        try:
            exec_id = self._api.exec_create(self._container, _AGENT, stdin=True)["Id"]
            agent = AgentConnection(self._api.exec_start(exec_id, socket=True))
        except (APIError, requests.RequestException) as error:
            raise _helper_lost(error) from None
        try:
            agent.send({"do": action, **arguments})
            while True:
                yield agent.receive()["response"]
        except (OSError, EOFError, ValueError) as error:
            raise _helper_lost(error) from None
        finally:
            agent.close()

    def close(self) -> None:
        """Remove the container. The next request starts another one."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        container, self._container = self._container, None
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        if container is not None:
            # the engine may not respond any more
            with suppress(DockerException, requests.RequestException):
                # it also removes itself (AutoRemove) at the end of its input, but later
                remove_container(self._api, container)

    def _start(self) -> AgentConnection:
        if self._agent is None:
            image = self._image()
            try:
                self._agent = self._start_with(image, PRIVILEGES)
                self._refused = ()
            except APIError as error:
                self._agent = self._start_without_refused(image, error)
            except (requests.RequestException, DockerException) as error:
                raise engine_gone_error(error) from None
        return self._agent

    def _start_without_refused(self, image: str, refusal: APIError) -> AgentConnection:
        """Find the refused privileges by requesting each one alone, then start with the others."""
        granted = []
        for privilege in PRIVILEGES:
            with suppress(APIError):
                self._start_with(image, [privilege]).close()
                self._disconnect()
                granted.append(privilege)
        try:
            agent = self._start_with(image, granted)
        except APIError:
            raise HostUnreadable(
                "the engine does not allow the lab to inspect its host",
                hint="continue with the next section; `./lab doctor` explains what differs on this engine "
                "(in Docker Desktop, the setting “Enhanced Container Isolation” does this)",
                engine_message=str(refusal.explanation),
            ) from None
        self._refused = tuple(privilege for privilege in PRIVILEGES if privilege not in granted)
        return agent

    def _start_with(self, image: str, privileges: Sequence[Privilege]) -> AgentConnection:
        names = [privilege.name for privilege in privileges]
        host = {
            "AutoRemove": True,
            "PidMode": "host",
            "CgroupnsMode": "host",
            # the host's interfaces are visible without setns(2); no port is opened
            "NetworkMode": "host",
            # an engine that maps users refuses the host's namespaces to a mapped container
            "UsernsMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": [name for name in names if "/" not in name],
            "Binds": [name for name in names if "/" in name],
            # AppArmor's default profile denies access to processes outside of it
            "SecurityOpt": ["apparmor=unconfined", "label=disable", "no-new-privileges"],
        }
        body = {
            "Image": image,
            "Cmd": _AGENT,
            "Entrypoint": [],
            "OpenStdin": True,
            # it exits at the end of its input, which ends with our connection, also when the notebook kernel is killed
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Labels": self._labels,
            "HostConfig": host,
        }
        container_id = self._api.create_container_from_config(body)["Id"]
        try:
            agent = AgentConnection(self._api.attach_socket(container_id, _ATTACHED))
            self._api.start(container_id)
        except BaseException:
            with suppress(NotFound):
                remove_container(self._api, container_id)
            raise
        self._container = container_id
        return agent


class AgentConnection:
    """An agent's standard input and output: one line of JSON per request and response."""

    def __init__(self, attached: Any) -> None:
        self._stream = Stream(attached, _RESPONSE_TIMEOUT_S)
        self._frames = self._stream.frames()
        self._text = b""

    def request(self, request: Mapping[str, Any]) -> Any:
        """The response to one request."""
        self.send(request)
        return self.receive()

    def send(self, request: Mapping[str, Any]) -> None:
        """Write one line."""
        self._stream.send(json.dumps(request).encode() + b"\n")

    def receive(self) -> Any:
        """Read one line."""
        parts = [self._text]
        while b"\n" not in parts[-1]:
            frame = next(self._frames, None)
            if frame is None:
                raise EOFError("the helper container has exited")
            kind, data = frame
            if kind == STDERR:
                raise OSError(data.decode(errors="replace"))
            parts.append(data)
        line, _, self._text = b"".join(parts).partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Close the connection, which ends the agent's input."""
        self._stream.close()


def engine_gone_error(error: Exception) -> EngineUnreachable:
    """The error for a lost connection to the engine."""
    return EngineUnreachable(
        "the engine does not respond, so its host cannot be inspected",
        hint="`./lab up` starts it again; then run the cell again",
        engine_message=str(error),
    )


def _helper_lost(error: Exception) -> LabError:
    return HostUnreadable(
        "lost the connection to the helper container",
        hint="run the cell again; if it fails again, run `./lab doctor`",
        engine_message=str(error),
    )
