"""The helper container of `HostView`: started with the fewest rights, asked over its standard input and output."""

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
# the first answer waits for the container's start, which takes seconds on a slow engine
_RESPONSE_TIMEOUT_S = 60.0
_ATTACHED = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
_CGROUPS = "/sys/fs/cgroup:/sys/fs/cgroup:ro"


@dataclass(frozen=True, slots=True)
class Privilege:
    """A right that the helper asks of the engine.

    Attributes:
        name: a capability (capabilities(7)), or a bind mount.
        enables: what can only be seen with it.
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
    """One helper container. The first question starts it; it ends when this process does.

    Args:
        api: the low-level client of the engine.
        labels: what the container carries, so that it is known as the lab's.
        image: gives the reference of an image with `python3`; asked once, at the start.
    """

    def __init__(self, api: Any, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._api = api
        self._labels = dict(labels)
        self._image = image
        self._container: str | None = None
        self._line: AgentConnection | None = None
        self._turn = threading.Lock()
        self._refused: tuple[Privilege, ...] = ()

    @property
    def container(self) -> str | None:
        """The id of the container, None while there is none."""
        return self._container

    def refused_privileges(self) -> tuple[Privilege, ...]:
        """The rights that the engine did not give.

        Raises:
            LabError: the helper could not be started at all.
        """
        with self._turn:
            self._start()
        return self._refused

    def request(self, action: str, **what: Any) -> Any:
        """The agent's answer; a helper that was lost is started once more.

        Raises:
            OSError: the agent could not do it; its words are kept.
            LabError: the helper could not be started, or was lost twice.
        """
        with self._turn:
            for attempt in (1, 2):
                try:
                    message = self._start().request({"do": action, **what})
                    break
                except (OSError, EOFError, ValueError) as error:
                    self._disconnect()
                    if attempt == 2:
                        raise _helper_lost(error) from None
        if "error" in message:
            raise OSError(message["error"])
        return message["answer"]

    def stream(self, do: str, **what: Any) -> Generator[Any, None, None]:
        """The agent's answers as they come, from a second agent in the same container; closing ends it.

        Raises:
            LabError: the helper could not be started, or was lost.
        """
        with self._turn:
            self._start()
        try:
            made = self._api.exec_create(self._container, _AGENT, stdin=True)["Id"]
            line = AgentConnection(self._api.exec_start(made, socket=True))
        except (APIError, requests.RequestException) as error:
            raise _helper_lost(error) from None
        try:
            line.send({"do": do, **what})
            while True:
                yield line.receive()["answer"]
        except (OSError, EOFError, ValueError) as error:
            raise _helper_lost(error) from None
        finally:
            line.close()

    def close(self) -> None:
        """End the container. The next question starts another."""
        with self._turn:
            self._disconnect()

    def _disconnect(self) -> None:
        container, self._container = self._container, None
        if self._line is not None:
            self._line.close()
            self._line = None
        if container is not None:
            # the engine may be gone
            with suppress(DockerException, requests.RequestException):
                # it removes itself when its input ends, and takes a moment
                remove_container(self._api, container)

    def _start(self) -> AgentConnection:
        if self._line is None:
            image = self._image()
            try:
                self._line = self._start_with(image, PRIVILEGES)
                self._refused = ()
            except APIError as error:
                self._line = self._start_without_refused(image, error)
            except (requests.RequestException, DockerException) as error:
                raise engine_gone_error(error) from None
        return self._line

    def _start_without_refused(self, image: str, refusal: APIError) -> AgentConnection:
        """Find out which rights are refused, by asking for each alone, and start with the others."""
        given = []
        for need in PRIVILEGES:
            with suppress(APIError):
                self._start_with(image, [need]).close()
                self._disconnect()
                given.append(need)
        try:
            line = self._start_with(image, given)
        except APIError:
            raise HostUnreadable(
                "the engine does not allow the lab to inspect its host",
                hint="continue with the next section; `./lab doctor` explains what differs on this engine "
                "(in Docker Desktop, the setting “Enhanced Container Isolation” does this)",
                engine_message=str(refusal.explanation),
            ) from None
        self._refused = tuple(need for need in PRIVILEGES if need not in given)
        return line

    def _start_with(self, image: str, needs: Sequence[Privilege]) -> AgentConnection:
        rights = [need.name for need in needs]
        host = {
            "AutoRemove": True,
            "PidMode": "host",
            "CgroupnsMode": "host",
            # the host's own interfaces are then seen without entering anything; no port is opened
            "NetworkMode": "host",
            # an engine that maps users refuses the host's namespaces to a mapped container
            "UsernsMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": [right for right in rights if "/" not in right],
            "Binds": [right for right in rights if "/" in right],
            # AppArmor's default profile forbids looking at processes outside of it
            "SecurityOpt": ["apparmor=unconfined", "label=disable", "no-new-privileges"],
        }
        body = {
            "Image": image,
            "Cmd": _AGENT,
            "Entrypoint": [],
            "OpenStdin": True,
            # its input ends with our connection, and it with its input: a killed kernel leaves nothing behind
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Labels": self._labels,
            "HostConfig": host,
        }
        made = self._api.create_container_from_config(body)["Id"]
        try:
            line = AgentConnection(self._api.attach_socket(made, _ATTACHED))
            self._api.start(made)
        except BaseException:
            with suppress(NotFound):
                remove_container(self._api, made)
            raise
        self._container = made
        return line


class AgentConnection:
    """An agent's standard input and output: a line of JSON for each request and each answer."""

    def __init__(self, attached: Any) -> None:
        self._stream = Stream(attached, _RESPONSE_TIMEOUT_S)
        self._frames = self._stream.frames()
        self._text = b""

    def request(self, request: Mapping[str, Any]) -> Any:
        """The answer to one request."""
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
                raise EOFError("it ended")
            kind, data = frame
            if kind == STDERR:
                raise OSError(data.decode(errors="replace"))
            parts.append(data)
        line, _, self._text = b"".join(parts).partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Hang up. The agent sees its input end."""
        self._stream.close()


def engine_gone_error(error: Exception) -> EngineUnreachable:
    """What is said where the engine went away before it could be asked about its host."""
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
