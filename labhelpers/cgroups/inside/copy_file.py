"""Write to a disk, then read from it, for SECONDS each; print (seconds, bytes so far) of both as JSON.

The page cache is bypassed (open(2), O_DIRECT): cgroup version 1 limits only the I/O that a process submits itself, and
a read from memory is no I/O. The same 16 MiB are written and read repeatedly, so the disk does not fill up.
"""

import json
import mmap
import os
import sys
import time

PATH = "/data/file"
BLOCK_BYTES, FILE_BYTES = 1 << 17, 1 << 24


def main(seconds: float) -> None:
    """Measure both directions, and print the result."""
    buffer = mmap.mmap(-1, BLOCK_BYTES)
    buffer.write(os.urandom(BLOCK_BYTES))
    if not os.path.exists(PATH):  # the first run, without a limit, creates it
        file = os.open(
            PATH, os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        )  # no fsync(2): it would wait for all data of the disk
        for offset in range(0, FILE_BYTES, BLOCK_BYTES):
            os.pwritev(file, [buffer], offset)
        os.close(file)
    result = {}
    for direction, flag, transfer in (("write", os.O_WRONLY, os.pwritev), ("read", os.O_RDONLY, os.preadv)):
        file, begin, done = os.open(PATH, flag | os.O_DIRECT), time.monotonic(), 0
        points: list[tuple[float, int]] = [(0, 0)]
        while points[-1][0] < seconds:
            transfer(file, [buffer], done % FILE_BYTES)
            done += BLOCK_BYTES
            now = time.monotonic() - begin
            if now - points[-1][0] > seconds / 50 or now >= seconds:
                points.append((round(now, 4), done))
        result[direction] = points
        os.close(file)
    print(json.dumps(result))


if __name__ == "__main__":
    main(float(sys.argv[1]))
