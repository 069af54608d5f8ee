"""The lab socket: a proxy in front of the engine, for everything that a reader types.

Kernels and JupyterLab's terminals have `DOCKER_HOST` set to it, so the CLI, Compose, an SDK in a cell and `%%bash` all
behave alike. Requests and responses pass unchanged, attached streams included, with three exceptions:

- what creates a container, a network, a volume or an image gets the labels of the session;
- every `prune` is limited to what the session created, and one whose filters cannot be read is refused;
- each request asks the engine to close the connection after its response, so that the next one is seen as well.

It protects against accidents and is no security boundary: the engine's own socket is still there, and BuildKit's gRPC
passes through it unseen. (Engine API: docs.docker.com/reference/api/engine; hijacked connections: ContainerAttach.)
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from labhelpers import state
from labhelpers.engine.dial import Connection, Streams, dial, join
from labhelpers.engine.endpoint import EngineEndpoint
from labhelpers.engine.gateway import Gateway, new_socket_path
from labhelpers.errors import BadRequest
from labhelpers.lab import sessions
from labhelpers.results import Result, column, derived, record, rows

BODY_BYTES = 64 << 20
"""The longest body that is read whole, to add labels to it."""

Labels = Callable[[str], dict[str, str]]
"""The labels for a kind: container, network, volume or image."""

# moby's own pattern: it takes "v1.41.0" as well (api/server/server.go, versionMatcher)
_VERSION = re.compile(r"^/v[0-9.]+(?=/)")
_CREATE_ENDPOINTS = {
    "/containers/create": "container",
    "/networks/create": "network",
    "/volumes/create": "volume",
}
_PRUNE_ENDPOINTS = {f"/{kind}s/prune": kind for kind in ("container", "network", "volume", "image")}
_FORM = "application/x-www-form-urlencoded"
_ID = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass
class Request:
    """The head of an HTTP request.

    Attributes:
        method: `GET`, `POST`, …
        target: path and query, as on the request line.
        protocol: `HTTP/1.1`.
        headers: (name, value) in order, as sent.
    """

    method: str
    target: str
    protocol: str
    headers: list[tuple[str, str]]

    @property
    def path(self) -> str:
        """The path without the version of the API and without percent-encoding."""
        return _VERSION.sub("", unquote(urlsplit(self.target).path)).rstrip("/") or "/"

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's (name, value) pairs, in order."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @query.setter
    def query(self, pairs: list[tuple[str, str]]) -> None:
        self.target = urlsplit(self.target)._replace(query=urlencode(pairs)).geturl()

    def header(self, name: str) -> str:
        """The value of the header `name`, with those of its repetitions; empty where there is none."""
        return ", ".join(value for key, value in self.headers if key.lower() == name)

    def replace_header(self, name: str, value: str | None) -> None:
        """Set the header `name`, or remove it where `value` is None."""
        self.headers = [(key, old) for key, old in self.headers if key.lower() != name]
        if value is not None:
            self.headers.append((name.title(), value))

    @property
    def is_upgrade(self) -> bool:
        """Whether the connection is to become a raw stream (attach, exec, BuildKit)."""
        return "upgrade" in self.header("connection").lower()

    def head(self) -> bytes:
        """The head as it is sent on, with the empty line."""
        lines = [f"{self.method} {self.target} {self.protocol}", *(f"{k}: {v}" for k, v in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_head(data: bytes) -> Request:
    """The request whose head is `data`, without the empty line.

    Raises:
        BadRequest: it is not HTTP.
    """
    first, *lines = data.decode("latin-1").split("\r\n")
    method, target, protocol, *_ = [*first.split(" "), "", ""]
    headers = [line.partition(":") for line in lines]
    if not protocol.startswith("HTTP/") or not all(colon for _, colon, _ in headers):
        raise _no_request()
    try:
        urlsplit(target)
    except ValueError:
        raise _no_request() from None
    return Request(method, target, protocol, [(name, value.strip()) for name, _, value in headers])


def _no_request() -> BadRequest:
    return BadRequest("this is not an HTTP request", hint="the lab socket accepts Engine API requests only")


# --- what is changed in a request


def created_kind(request: Request) -> str | None:
    """The kind of thing that a request creates from a JSON body: container, network or volume."""
    return _CREATE_ENDPOINTS.get(request.path) if request.method == "POST" else None


def with_labels(body: bytes, labels: Mapping[str, str]) -> bytes:
    """The JSON object `body` with `labels`; a label that is there already stays as it is.

    `body` is read as the engine reads it: `null` is an empty object, invalid UTF-8 is replaced, and what follows the
    first value is left to the engine, of which some versions ignore it (Go, encoding/json).

    Raises:
        BadRequest: it is nested too deeply.
    """
    text = body.decode(errors="replace").lstrip(" \t\r\n") or "{}"
    try:
        wanted, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return body  # the engine says what is wrong with it
    except RecursionError:
        raise BadRequest("the body of the request is nested too deeply", hint="send a simpler one") from None
    wanted = {} if wanted is None else wanted
    key = (
        next((key for key in wanted if key.lower() == "labels"), "Labels") if isinstance(wanted, dict) else ""
    )
    asked = (wanted.get(key) or {}) if key else None
    if not isinstance(asked, dict):
        return body
    wanted[key] = {**labels, **asked}
    return (json.dumps(wanted) + text[end:]).encode()


def limit_prune(request: Request, session: str) -> None:
    """Limit a prune to what `session` created: labels are one more filter, and filters are combined with AND.

    The kind is asked for as well, because a container has the labels of its image, whoever runs it.

    Raises:
        BadRequest: the filters cannot be read, so nobody knows what the engine would make of them.
    """
    asked = next((value for name, value in request.query if name == "filters"), "")  # Go takes the first one
    kind = _PRUNE_ENDPOINTS[request.path]
    filters = _filters(asked)
    filters["label"] = filters.get("label", {}) | {
        f"{sessions.SESSION}={session}": True,
        f"{sessions.KIND}={kind}": True,
    }
    request.query = [*((k, v) for k, v in request.query if k != "filters"), ("filters", json.dumps(filters))]


def _filters(text: str) -> dict[str, dict[str, Any]]:
    """The filters `{"name": ["value"]}` or `{"name": {"value": true}}` in the second form: a request has only one.

    Raises:
        BadRequest: they have neither form.
    """
    try:
        found = json.loads(text or "{}")
        return {
            name: dict(values) if isinstance(values, dict) else dict.fromkeys(_values(values), True)
            for name, values in ({} if found is None else found).items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        hint = 'send a JSON object of lists, for example {"label": ["name=value"]}'
        raise BadRequest(f"the filters of the prune cannot be read; {hint}", hint=hint) from None


def _values(values: object) -> list[str]:
    found = [] if values is None else values
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise TypeError
    return found


def label_image(request: Request, labels: Mapping[str, str]) -> None:
    """Add `labels` to the image that a build, a commit or an import makes: its query carries them."""
    if request.method != "POST":
        return
    if request.path == "/build":
        try:
            asked = json.loads(dict(request.query).get("labels") or "{}") or {}
        except ValueError:
            return
        if not isinstance(asked, dict):
            return  # the engine refuses it
        pairs = [pair for pair in request.query if pair[0] != "labels"]
        request.query = [*pairs, ("labels", json.dumps({**labels, **asked}))]
    elif request.path == "/commit" or (request.path == "/images/create" and "fromSrc" in dict(request.query)):
        changes = [("changes", f"LABEL {name}={value}") for name, value in labels.items()]
        request.query = [*request.query, *changes]


# --- the recording


@dataclass
class ApiRequest:
    """One request to the engine and the status of its response."""

    method: str = column("`GET`, `POST`, …", shown=False)
    path: str = column(
        "path without the version and the query, IDs of 64 digits written as `ID`", shown=False
    )
    status: int | None = column(
        "status of the response: 101 if the connection became a stream, None without a response", default=None
    )

    @derived
    def request(self) -> str:
        """Method and path, without the version and the query, IDs of 64 digits written as `ID`"""
        return str(self)

    @derived
    def meaning(self) -> str:
        """HTTP's phrase for the status"""
        return HTTPStatus(self.status).phrase if self.status else ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@record
class RequestLog(Result):
    """Requests that went through the lab socket while they were recorded."""

    requests: list[ApiRequest] = rows("the requests in their order", of=ApiRequest, default_factory=list)

    def __repr__(self) -> str:
        return "\n".join(f"{call.status or '…'}  {call}" for call in self.requests)

    def contains(self, *requests: str) -> bool:
        """Whether these requests (`POST /containers/create`) were made, in this order, others between them or not."""
        made = iter(map(str, self.requests))
        return all(request in made for request in requests)


# --- the proxy


class LabSocket:
    """A proxy in front of an engine, on a Unix socket of its own.

    Args:
        endpoint: where the engine is.
        session: what a prune is limited to.
        labels: the labels that a kind of thing gets.
        path: where to listen; None for a path of its own.

    Attributes:
        address: what `DOCKER_HOST` takes.
    """

    def __init__(
        self, endpoint: EngineEndpoint, session: str, labels: Labels, path: Path | None = None
    ) -> None:
        self._place, self._session = endpoint, session
        self._labels = labels
        self._recordings: list[RequestLog] = []
        self._lock = threading.Lock()
        self._gateway = Gateway(path or new_socket_path(f"{session}-{secrets.token_hex(2)}"), self._serve)
        self.address = self._gateway.address

    def close(self) -> None:
        """Stop listening, end the connections that are open, and remove the socket. A second call does nothing."""
        self._gateway.close()

    @contextmanager
    def record(self) -> Iterator[RequestLog]:
        """Keep the requests that go through the socket while the block lasts."""
        conversation = RequestLog()
        with self._lock:
            self._recordings.append(conversation)
        try:
            yield conversation
        finally:
            with self._lock:
                # by identity: two recordings of nothing are equal
                self._recordings = [kept for kept in self._recordings if kept is not conversation]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Streams(reader, writer)
        call = None
        try:
            request = await _read_head(reader)
            if request is not None:
                call = self._record_request(request)
                await self._pass_on(request, call, reader, client)
        except BadRequest as error:
            await client.write(_response(400, {"message": f"lab socket: {error.message}"}))
        except (OSError, ValueError) as error:
            # in a response that has begun, this would be part of a stream
            if call is not None and call.status is None:
                where = state.abbreviate_home(self._place.address)
                message = f"lab socket: the engine at {where} does not respond: {error}"
                await client.write(_response(502, {"message": message}))
        finally:
            await client.close()

    async def _pass_on(
        self, request: Request, call: ApiRequest, reader: asyncio.StreamReader, client: Streams
    ) -> None:
        if request.method == "POST" and request.path == "/build/prune":
            # the build cache has no labels: nobody can know whose it is
            call.status = 200
            await client.write(_response(200, {"CachesDeleted": [], "SpaceReclaimed": 0}))
            return
        body = await self._changed_body(request, reader, client)
        # the engine may refuse to upgrade, and would then read the client's next request here
        request.replace_header("connection", "Upgrade, close" if request.is_upgrade else "close")
        engine = _StatusRecorder(await dial(self._place), call)
        try:
            await engine.write(request.head() + body)
            await join(client, engine)
        finally:
            await engine.close()

    def _record_request(self, request: Request) -> ApiRequest:
        call = ApiRequest(request.method, _ID.sub("ID", request.path))
        with self._lock:
            for conversation in self._recordings:
                conversation.requests.append(call)
        return call

    async def _changed_body(self, request: Request, reader: asyncio.StreamReader, client: Streams) -> bytes:
        """Add what the session asks for to `request`; gives the body where it had to be read for that."""
        kind = created_kind(request)
        body = b""
        is_prune = request.method == "POST" and request.path in _PRUNE_ENDPOINTS
        if kind or is_prune:
            if request.header("expect").lower() == "100-continue":
                await client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.replace_header("expect", None)
            body = await _read_body(request, reader)
        if is_prune:
            if request.header("content-type").lower().startswith(_FORM):
                # the engine prefers the filters of a form to those of the query (Go, Request.ParseForm)
                form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
                request.query = [*form, *request.query]
            limit_prune(request, self._session)
            body = b""
        elif kind:
            body = with_labels(body, {**self._labels(kind), sessions.CREATED_BY: sessions.READER})
        else:
            label_image(request, self._labels("image"))
            return b""
        request.replace_header("transfer-encoding", None)
        request.replace_header("content-length", str(len(body)))
        return body


async def _read_head(reader: asyncio.StreamReader) -> Request | None:
    """The head of the next request; None where the client closed the connection without one."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadRequest("the request header is incomplete", hint="send it again") from None
        return None
    except asyncio.LimitOverrunError:
        raise BadRequest("the request header is too long", hint="send shorter headers") from None
    return parse_head(data.removesuffix(b"\r\n\r\n"))


async def _read_body(request: Request, reader: asyncio.StreamReader) -> bytes:
    if "chunked" in request.header("transfer-encoding").lower():
        return await _read_chunks(reader)
    length = request.header("content-length") or "0"
    if not length.isdecimal() or int(length) > BODY_BYTES:
        raise BadRequest(f"the body is {length} bytes long", hint=f"send at most {BODY_BYTES} bytes")
    with _whole_body():
        return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks (RFC 9112, section 7.1), without its trailers."""
    body = b""
    with _whole_body():
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(body) + size > BODY_BYTES:
                raise ValueError
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    return body


@contextmanager
def _whole_body() -> Iterator[None]:
    try:
        yield
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise BadRequest("the request body is malformed or too long", hint="send it again") from None


def _response(status: int, body: Mapping[str, Any]) -> bytes:
    """A response of the lab socket's own."""
    text = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + text


class _StatusRecorder:
    """A connection to the engine that notes the status of the response."""

    def __init__(self, engine: Connection, call: ApiRequest) -> None:
        self._engine, self._call = engine, call
        self.write, self.write_eof, self.close = engine.write, engine.write_eof, engine.close

    async def read(self, size: int) -> bytes:
        piece = await self._engine.read(size)
        # 100 Continue is not yet the response
        if self._call.status is None and (found := re.match(rb"HTTP/1\.\d ([2-5]\d\d|101)", piece)):
            self._call.status = int(found[1])
        return piece
