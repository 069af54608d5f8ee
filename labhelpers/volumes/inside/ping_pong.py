"""Pass a number back and forth through one file, `ball.py FILE inside|outside ROUNDS`, and time each reading.

A number counts only when both copies of it agree: a reading may fall into the middle of a write. CLOCK_MONOTONIC is one
clock for all containers of a kernel.
"""

import json
import os
import struct
import sys
import time

BALL = struct.Struct("QQQ")
READY = 1 << 40
LIMIT_S = 90

path, side, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_RDWR | os.O_CREAT)


def write(number: int) -> None:
    """Write `number` and the time."""
    os.pwrite(file, BALL.pack(number, time.monotonic_ns(), number), 0)


def wait(number: int) -> int:
    """Read until `number` is there; give the nanoseconds since it was written."""
    end = time.monotonic_ns() + LIMIT_S * 10**9
    while True:
        raw = os.pread(file, BALL.size, 0)
        now = time.monotonic_ns()
        if len(raw) == BALL.size:
            first, at, last = BALL.unpack(raw)
            if first == last == number:
                return int(now - at)
        if now > end:
            sys.exit(f"timed out after {LIMIT_S} s waiting for the other side")
        os.sched_yield()


delays = []
if side == "inside":
    wait(READY)
    for number in range(1, 2 * rounds, 2):
        write(number)
        delays.append(wait(number + 1))
else:
    write(READY)
    for number in range(1, 2 * rounds, 2):
        delays.append(wait(number))
        write(number + 1)
status = os.stat(path)
print(json.dumps([delays, status.st_ino, status.st_dev]))
