"""Tries what the Engine API allows through a socket; run as `python3 -c` in a container.

Its arguments are paths of sockets; it prints a JSON object for each. The environment variable PARAMETERS names what to
read: `label` of containers, `other` container, `file` in it, and the `reader` container's configuration.
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

PARAMETERS: dict[str, Any] = json.loads(os.environ.get("PARAMETERS", "{}"))
TIMEOUT_S = 60.0


class ApiClient:
    """A client of the Engine API on a Unix socket, with one connection for each request.

    Attributes:
        requests: (method, path, status) of each request.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.requests: list[tuple[str, str, int]] = []

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request; the status and body of the response."""
        connection = http.client.HTTPConnection("engine", timeout=TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_S)
        connection.sock.connect(self.path)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        self.requests.append((method, path, response.status))
        return response.status, content


def names(client: ApiClient) -> str:
    """The names of containers, as `docker ps` lists them."""
    label = quote(json.dumps({"label": [PARAMETERS["label"]]}))
    status, body = client.call("GET", f"/containers/json?filters={label}")
    return (
        " ".join(name for row in json.loads(body) for name in row.get("Names") or []) if status == 200 else ""
    )


def environment(client: ApiClient) -> str:
    """The environment of another container, as in `docker inspect`."""
    status, body = client.call("GET", f"/containers/{PARAMETERS['other']}/json")
    return "\n".join(json.loads(body)["Config"].get("Env") or []) if status == 200 else ""


def file_of_container(client: ApiClient) -> str:
    """A file of another container, as from `docker cp`."""
    status, body = client.call(
        "GET", f"/containers/{PARAMETERS['other']}/archive?path={quote(PARAMETERS['file'])}"
    )
    if status != 200:
        return ""
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        return file.read().decode() if file else ""


def file_of_host(client: ApiClient) -> str:
    """A file of the engine's host, mounted read-only into a new container that prints it."""
    status, body = client.call("POST", "/containers/create", PARAMETERS["reader"])
    if status != 201:
        return ""
    container = f"/containers/{json.loads(body)['Id']}"
    try:
        client.call("POST", f"{container}/start")
        client.call("POST", f"{container}/wait")
        _, body = client.call("GET", f"{container}/logs?stdout=1")
        return demultiplex(body)
    finally:
        client.call("DELETE", f"{container}?force=1")


def demultiplex(stream: bytes) -> str:
    """The text of a log: each frame has a header of 8 bytes, whose last four are its length (Engine API, attach)."""
    text = b""
    while stream:
        length = int.from_bytes(stream[4:8], "big")
        text, stream = text + stream[8 : 8 + length], stream[8 + length :]
    return text.decode()


def try_target(client: ApiClient, target: Callable[[ApiClient], str]) -> str:
    """What the target returned; "" if it was refused."""
    try:
        return target(client)
    except (OSError, ValueError, http.client.HTTPException, tarfile.TarError) as error:
        print(target.__name__, error, file=sys.stderr)
        return ""


if __name__ == "__main__":
    for path in sys.argv[1:]:
        client = ApiClient(path)
        output = {
            target.__name__: try_target(client, target)
            for target in (names, environment, file_of_container, file_of_host)
        }
        print(json.dumps({"output": output, "requests": client.requests}), flush=True)
