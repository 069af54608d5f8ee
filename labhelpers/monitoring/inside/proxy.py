"""What runs in a container that holds the engine's socket for others. Its text is a command.

`proxy.py DIRECTORY` listens on two sockets there: `get.sock` lets every GET through to /var/run/docker.sock,
`list.sock` a GET of the paths in ALLOWED. `proxy.py DIRECTORY PORT` listens on `docker.sock` there, and everything goes
to that port of 127.0.0.1: it makes a socket file for an engine that has none.

It teaches, and no more: a real proxy streams, and is written by somebody who maintains it.
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
    """Lets a GET through; whatever else is asked for has no method here, and is refused (501)."""

    def do_GET(self) -> None:
        """Ask the engine and hand its answer on, if the path may be asked for."""
        if isinstance(self.server, AllowlistHandler) and not ALLOWED.fullmatch(self.path):
            self.send_error(403)
            return
        link = http.client.HTTPConnection("engine", timeout=TIMEOUT_S)
        link.sock = socket.socket(socket.AF_UNIX)
        link.sock.connect(ENGINE)
        link.request("GET", self.path)
        answer = link.getresponse()
        said = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse; what came with the request is read first, for a socket that is closed over it loses the answer."""
        if hasattr(self, "headers"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        super().send_error(code, message, explain)

    def address_string(self) -> str:
        """Nobody in particular: a socket file has no address."""
        return "a client"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread a connection."""

    daemon_threads = True


class AllowlistHandler(Server):
    """The one with a list of paths."""


class TcpForwardHandler(socketserver.BaseRequestHandler):
    """Everything goes through, both ways, to a port."""

    def handle(self) -> None:
        """Until both ends have ended."""
        with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as engine:
            back = threading.Thread(target=copy, args=(engine, self.request), daemon=True)
            back.start()
            copy(self.request, engine)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends."""
    with source.makefile("rb", 0) as reads, target.makefile("wb", 0) as writes:
        shutil.copyfileobj(reads, writes)
    target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    here = Path(sys.argv[1])
    wanted: list[tuple[str, type[Server], type[socketserver.BaseRequestHandler]]]
    wanted = [("get.sock", Server, ReadOnlyHandler), ("list.sock", AllowlistHandler, ReadOnlyHandler)]
    if len(sys.argv) > 2:
        wanted = [("docker.sock", Server, TcpForwardHandler)]
    for name, kind, handler in wanted:
        (here / name).unlink(missing_ok=True)
        threading.Thread(target=kind(str(here / name), handler).serve_forever).start()
    print("ready", flush=True)
