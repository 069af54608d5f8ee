"""What runs at both ends of a way: an echo server, and a client that measures. Its text is a command.

It needs Python alone, and iperf3 for throughput.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from typing import Any

PATIENCE_S = 60.0
MESSAGE = b"x" * 64


def free() -> None:
    """Print two ports of 127.0.0.1 that nobody has."""
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    print(*(end.getsockname()[1] for end in ends))


def serve(address: str, port: int) -> None:
    """Echo whatever comes, to whoever connects."""
    with socket.create_server((address, port)) as server:
        while True:
            line, _ = server.accept()
            threading.Thread(target=echo, args=(line,), daemon=True).start()


def echo(line: socket.socket) -> None:
    """Echo one connection until it ends."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with line:
        while data := line.recv(4096):
            line.sendall(data)


def connected(address: str, port: int) -> socket.socket:
    """A connection, once the server listens."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=10)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def round_trips_us(address: str, port: int, count: int) -> list[float]:
    """The times of `count` small messages and their echoes; those of ten more before them are not kept."""
    found = []
    with connected(address, port) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count + 10):
            began = time.perf_counter_ns()
            line.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                left -= len(line.recv(left))
            found.append(round((time.perf_counter_ns() - began) / 1000, 1))
    return found[10:]


def bits_per_s(address: str, port: int, size: int, streams: int) -> float:
    """What iperf3 carried, `size` bytes over all streams together."""
    command = ["timeout", "60", "iperf3", "-c", address, "-p", str(port), "-J", "-P", str(streams)]
    end = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(
            [*command, "-n", str(size)], capture_output=True, encoding="utf-8", errors="replace"
        )
        told = json.loads(done.stdout or "{}")
        if not done.returncode and "end" in told and told["end"].get("sum_received"):
            return float(told["end"]["sum_received"]["bits_per_second"])
        # its server serves one at a time and needs a moment after each
        if time.monotonic() > end:
            sys.exit(f"iperf3: {told.get('error', done.stderr)}")
        time.sleep(0.05)


def ask(told: dict[str, Any]) -> None:
    """Measure one way, and print what was found as JSON."""
    address = told["address"]
    found = {"round_trips_us": round_trips_us(address, told["echo"], told["round_trips"])}
    one = bits_per_s(address, told["iperf"], told["one_bytes"], 1)
    four = bits_per_s(address, told["iperf"], told["four_bytes"], 4)
    print(json.dumps({**found, "one_bits_per_s": one, "four_bits_per_s": four}))


if sys.argv[1:2] == ["serve"]:
    serve(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1:2] == ["ask"]:
    ask(json.loads(sys.argv[2]))
