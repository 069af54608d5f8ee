"""A proxy for the engine's socket, run as `python3 -c` in a container.

`proxy.py DIRECTORY` listens on two sockets in DIRECTORY: `get.sock` forwards every GET to /var/run/docker.sock,
`list.sock` only a GET of the paths in ALLOWED. `proxy.py DIRECTORY PORT` listens on `docker.sock` in DIRECTORY and
forwards everything to PORT of 127.0.0.1: a socket file for an engine that has none.

For teaching only: it does not stream, as a proxy for real use must.
"""

import http.client
import http.server
import re
import shutil
import socket
import socketserver
import sys
import threading
from pathlib import Path

ENGINE = "/var/run/docker.sock"
ALLOWED = re.compile(r"(/v[\d.]+)?/(_ping|version|containers/json)(\?.*)?")
TIMEOUT_S = 60.0


class ReadOnlyHandler(http.server.BaseHTTPRequestHandler):
    """Forwards GET requests; any other method is refused with status 501."""

    def do_GET(self) -> None:
        """Forward the request to the engine if the path is allowed, and return its response."""
        if isinstance(self.server, AllowlistServer) and not ALLOWED.fullmatch(self.path):
            self.send_error(403)
            return
        connection = http.client.HTTPConnection("engine", timeout=TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(ENGINE)
        connection.request("GET", self.path)
        response = connection.getresponse()
        body = response.read()
        self.send_response(response.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse the request after reading its body: closing a socket with unread data would discard the response."""
        if hasattr(self, "headers"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        super().send_error(code, message, explain)

    def address_string(self) -> str:
        """A name for the log, since clients of a Unix socket have no address."""
        return "a client"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server on a Unix socket, with a thread for each connection."""

    daemon_threads = True


class AllowlistServer(Server):
    """A server that allows only the paths in ALLOWED."""


class TcpForwardHandler(socketserver.BaseRequestHandler):
    """Forwards a connection to a TCP port, in both directions."""

    def handle(self) -> None:
        """Forward until both directions are closed."""
        with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as engine:
            responses = threading.Thread(target=copy, args=(engine, self.request), daemon=True)
            responses.start()
            copy(self.request, engine)
            responses.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source is closed."""
    with source.makefile("rb", 0) as reads, target.makefile("wb", 0) as writes:
        shutil.copyfileobj(reads, writes)
    target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    servers: list[tuple[str, type[Server], type[socketserver.BaseRequestHandler]]]
    servers = [("get.sock", Server, ReadOnlyHandler), ("list.sock", AllowlistServer, ReadOnlyHandler)]
    if len(sys.argv) > 2:
        servers = [("docker.sock", Server, TcpForwardHandler)]
    for name, server, handler in servers:
        (directory / name).unlink(missing_ok=True)
        threading.Thread(target=server(str(directory / name), handler).serve_forever).start()
    print("ready", flush=True)
