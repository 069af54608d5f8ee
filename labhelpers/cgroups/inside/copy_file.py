"""Write to a disk, then read from it, for SECONDS each; prints (seconds, bytes so far) of both as JSON.

It bypasses the page cache (open(2), O_DIRECT): version 1 limits only what a process itself sends to the disk, and what
comes from memory does not come from the disk. It is always the same 16 MiB, so that the disk does not fill.
"""

import json
import mmap
import os
import sys
import time

PATH = "/data/file"
PIECE, WHOLE = 1 << 17, 1 << 24


def main(seconds: float) -> None:
    """Measure both directions, and print the result."""
    buffer = mmap.mmap(-1, PIECE)
    buffer.write(os.urandom(PIECE))
    if not os.path.exists(PATH):  # the first run, which has no limit, creates it
        file = os.open(
            PATH, os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        )  # no fsync(2): it waits for everybody's data
        for at in range(0, WHOLE, PIECE):
            os.pwritev(file, [buffer], at)
        os.close(file)
    result = {}
    for way, flag, move in (("write", os.O_WRONLY, os.pwritev), ("read", os.O_RDONLY, os.preadv)):
        file, begin, done = os.open(PATH, flag | os.O_DIRECT), time.monotonic(), 0
        points: list[tuple[float, int]] = [(0, 0)]
        while points[-1][0] < seconds:
            move(file, [buffer], done % WHOLE)
            done += PIECE
            now = time.monotonic() - begin
            if now - points[-1][0] > seconds / 50 or now >= seconds:
                points.append((round(now, 4), done))
        result[way] = points
        os.close(file)
    print(json.dumps(result))


if __name__ == "__main__":
    main(float(sys.argv[1]))
