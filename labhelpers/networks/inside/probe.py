"""An echo server, and a client that measures round trips and throughput. The throughput needs iperf3.

probe.py free                  print two free ports of 127.0.0.1
probe.py serve ADDRESS PORT    echo what each client sends
probe.py measure OPTIONS       measure one path; OPTIONS and the results are JSON
"""

import json
import socket
import subprocess
import sys
import threading
import time
from typing import Any

TIMEOUT_S = 60.0
MESSAGE = b"x" * 64


def print_free_ports() -> None:
    """Print two free ports of 127.0.0.1."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    print(*(server.getsockname()[1] for server in sockets))


def serve(address: str, port: int) -> None:
    """Echo what each client sends."""
    with socket.create_server((address, port)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection: socket.socket) -> None:
    """Echo one connection until it ends."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def connect(address: str, port: int) -> socket.socket:
    """Connect, and try again until the server listens."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=10)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def round_trips_us(address: str, port: int, count: int) -> list[float]:
    """The times of `count` small messages and their echoes, after ten for warm-up."""
    times = []
    with connect(address, port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count + 10):
            began = time.perf_counter_ns()
            connection.sendall(MESSAGE)
            remaining = len(MESSAGE)
            while remaining:
                remaining -= len(connection.recv(remaining))
            times.append(round((time.perf_counter_ns() - began) / 1000, 1))
    return times[10:]


def bits_per_s(address: str, port: int, size: int, streams: int) -> float:
    """The throughput of iperf3 with `size` bytes over all streams."""
    command = ["timeout", "60", "iperf3", "-c", address, "-p", str(port), "-J", "-P", str(streams)]
    end = time.monotonic() + TIMEOUT_S
    while True:
        result = subprocess.run(
            [*command, "-n", str(size)], capture_output=True, encoding="utf-8", errors="replace"
        )
        report = json.loads(result.stdout or "{}")
        received = report.get("end", {}).get("sum_received", {}).get("bits_per_second", 0)
        # on a busy machine all of it may still be in docker-proxy when the test ends: 0 bits/s
        if not result.returncode and received:
            return float(received)
        # the server handles one client at a time, and is busy for a moment after each
        if time.monotonic() > end:
            sys.exit(f"iperf3: {report.get('error', result.stderr)}")
        time.sleep(0.05)


def measure(options: dict[str, Any]) -> None:
    """Measure one path, and print the results as JSON."""
    address = options["address"]
    times = round_trips_us(address, options["echo"], options["round_trips"])
    one = bits_per_s(address, options["iperf"], options["one_bytes"], 1)
    four = bits_per_s(address, options["iperf"], options["four_bytes"], 4)
    print(json.dumps({"round_trips_us": times, "one_bits_per_s": one, "four_bits_per_s": four}))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "free":
        print_free_ports()
    elif verb == "serve":
        serve(arguments[0], int(arguments[1]))
    else:
        measure(json.loads(arguments[0]))
