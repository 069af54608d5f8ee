"""Measure writes to several directories: `write.py JSON`, a list of the schedule, the size of the file and of a small
write in bytes, and the number and duration limits of small writes.

Each entry of the schedule is [storage, directory, "sequential" or "small"]. Small writes change existing blocks of a
file that is written before the measurements.
"""

import json
import os
import random
import sys
import time

schedule, large, block, count, limit_s = json.loads(sys.argv[1])
chunk = os.urandom(1 << 20)
now = time.monotonic

Part = tuple[int, float]


def sequential(directory: str) -> list[Part]:
    """(bytes, seconds) until the file is written, and until it is synced."""
    file, begin = os.open(f"{directory}/lab-sequential", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), now()
    for _ in range(large >> 20):
        os.write(file, chunk)
    written = now() - begin
    os.fdatasync(file)
    synced = now() - begin
    os.close(file)
    return [(large, written), (large, synced)]


def small(directory: str) -> list[Part]:
    """(bytes, seconds) of small writes at random offsets, with a sync after each."""
    file, done, begin = os.open(f"{directory}/lab-small", os.O_WRONLY), 0, now()
    while done < count and now() - begin < limit_s:
        os.pwrite(file, chunk[:block], block * random.randrange(large // block))
        os.fdatasync(file)
        done += 1
    duration = now() - begin
    os.close(file)
    return [(done * block, duration)]


results = []
directories = sorted({directory for _, directory, _ in schedule})
try:
    for directory in directories:
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/lab-small", "wb") as target:
            for _ in range(large >> 20):
                target.write(chunk)
            target.flush()
            os.fdatasync(target.fileno())
    for storage, directory, kind in schedule:
        results.append([storage, kind, small(directory) if kind == "small" else sequential(directory)])
finally:
    for directory in directories:
        for name in ("lab-small", "lab-sequential"):
            if os.path.exists(f"{directory}/{name}"):
                os.remove(f"{directory}/{name}")
with open("/proc/self/mounts", encoding="utf-8") as mounts:
    types = {point: kind for _, point, kind, *_ in map(str.split, mounts)}
print(json.dumps([results, {directory: types.get(directory, types["/"]) for directory in directories}]))
