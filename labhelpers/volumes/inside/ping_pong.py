"""Pass a number back and forth through a file, `ping_pong.py FILE inside|outside ROUNDS`, and measure the delays.

The file has two copies of the number: if they differ, the read overlapped a write. CLOCK_MONOTONIC is the same clock in
all containers of a kernel.
"""

import json
import os
import struct
import sys
import time

RECORD = struct.Struct("QQQ")
READY = 1 << 40
LIMIT_S = 90

path, side, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_RDWR | os.O_CREAT)


def write(number: int) -> None:
    """Write `number` with the current time."""
    os.pwrite(file, RECORD.pack(number, time.monotonic_ns(), number), 0)


def wait(number: int) -> int:
    """Read until the file has `number`; return the nanoseconds since it was written."""
    deadline = time.monotonic_ns() + LIMIT_S * 10**9
    while True:
        raw = os.pread(file, RECORD.size, 0)
        now = time.monotonic_ns()
        if len(raw) == RECORD.size:
            first, written, last = RECORD.unpack(raw)
            if first == last == number:
                return int(now - written)
        if now > deadline:
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
