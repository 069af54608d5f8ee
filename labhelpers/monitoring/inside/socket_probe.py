"""What runs in a container that holds an engine's socket: it tries what can be had through it. Its text is a command.

Its arguments are paths of sockets; it prints one JSON object for each. The environment variable ASK says what to try.
"""

import http.client
import io
import json
import os
import socket
import sys
import tarfile
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

PARAMETERS: dict[str, Any] = json.loads(os.environ.get("ASK", "{}"))
TIMEOUT_S = 60.0


class ApiClient:
    """The engine's API behind one socket, one connection a request.

    Attributes:
        requests: (method, path, status) of each so far.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.requests: list[tuple[str, str, int]] = []

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the text of one answer."""
        link = http.client.HTTPConnection("engine", timeout=TIMEOUT_S)
        link.sock = socket.socket(socket.AF_UNIX)
        link.sock.settimeout(TIMEOUT_S)
        link.sock.connect(self.path)
        text = None if body is None else json.dumps(body)
        link.request(method, path, text, {"Content-Type": "application/json"})
        answer = link.getresponse()
        said = answer.read()
        self.requests.append((method, path, answer.status))
        return answer.status, said


def names(door: ApiClient) -> str:
    """The names of containers, as `docker ps` lists them."""
    label = quote(json.dumps({"label": [PARAMETERS["label"]]}))
    status, said = door.call("GET", f"/containers/json?filters={label}")
    return (
        " ".join(name for one in json.loads(said) for name in one.get("Names") or []) if status == 200 else ""
    )


def environment(door: ApiClient) -> str:
    """The environment of another container, as `docker inspect` shows it."""
    status, said = door.call("GET", f"/containers/{PARAMETERS['other']}/json")
    return "\n".join(json.loads(said)["Config"].get("Env") or []) if status == 200 else ""


def file_of_container(door: ApiClient) -> str:
    """A file of another container, as `docker cp` gets it."""
    status, said = door.call(
        "GET", f"/containers/{PARAMETERS['other']}/archive?path={quote(PARAMETERS['file'])}"
    )
    if status != 200:
        return ""
    with tarfile.open(fileobj=io.BytesIO(said)) as packed:
        found = packed.extractfile(packed.getmembers()[0])
        return found.read().decode() if found else ""


def file_of_host(door: ApiClient) -> str:
    """A file of the engine's host: a new container has it, read-only, and prints it."""
    status, said = door.call("POST", "/containers/create", PARAMETERS["reader"])
    if status != 201:
        return ""
    made = f"/containers/{json.loads(said)['Id']}"
    try:
        door.call("POST", f"{made}/start")
        door.call("POST", f"{made}/wait")
        _, said = door.call("GET", f"{made}/logs?stdout=1")
        return demultiplex(said)
    finally:
        door.call("DELETE", f"{made}?force=1")


def demultiplex(said: bytes) -> str:
    """The text of a log: each piece has a head of 8 bytes, whose last four are its length (Engine API, attach)."""
    text = b""
    while said:
        length = int.from_bytes(said[4:8], "big")
        text, said = text + said[8 : 8 + length], said[8 + length :]
    return text.decode()


def try_target(door: ApiClient, what: Callable[[ApiClient], str]) -> str:
    """What was got, "" where nothing was."""
    try:
        return what(door)
    except (OSError, ValueError, http.client.HTTPException, tarfile.TarError) as error:
        print(what.__name__, error, file=sys.stderr)
        return ""


if __name__ == "__main__":
    for path in sys.argv[1:]:
        door = ApiClient(path)
        got = {
            one.__name__: try_target(door, one)
            for one in (names, environment, file_of_container, file_of_host)
        }
        print(json.dumps({"got": got, "requests": door.requests}), flush=True)
