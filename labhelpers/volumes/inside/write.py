"""Time writes into several directories: `write.py JSON`, with [turns, file bytes, bytes of a small write, most, limit].

A turn is [place, directory, "sequential" or "small"]. Each directory has a file of its own, written once before: the
small writes change blocks that exist already.
"""

import json
import os
import random
import sys
import time

turns, whole, piece, most, limit_s = json.loads(sys.argv[1])
data = os.urandom(1 << 20)
now = time.monotonic

Part = tuple[int, float]


def sequential(folder: str) -> list[Part]:
    """(bytes, seconds) until they are written, and until they are synced."""
    file, begin = os.open(f"{folder}/lab-sequential", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), now()
    for _ in range(whole >> 20):
        os.write(file, data)
    written = now() - begin
    os.fdatasync(file)
    synced = now() - begin
    os.close(file)
    return [(whole, written), (whole, synced)]


def small(folder: str) -> list[Part]:
    """(bytes, seconds) of small writes at random places, with a sync after each."""
    file, done, begin = os.open(f"{folder}/lab-small", os.O_WRONLY), 0, now()
    while done < most and now() - begin < limit_s:
        os.pwrite(file, data[:piece], piece * random.randrange(whole // piece))
        os.fdatasync(file)
        done += 1
    took = now() - begin
    os.close(file)
    return [(done * piece, took)]


measured = []
folders = sorted({folder for _, folder, _ in turns})
try:
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/lab-small", "wb") as target:
            for _ in range(whole >> 20):
                target.write(data)
            target.flush()
            os.fdatasync(target.fileno())
    for place, folder, what in turns:
        measured.append([place, what, small(folder) if what == "small" else sequential(folder)])
finally:
    for folder in folders:
        for name in ("lab-small", "lab-sequential"):
            if os.path.exists(f"{folder}/{name}"):
                os.remove(f"{folder}/{name}")
with open("/proc/self/mounts", encoding="utf-8") as mounts:
    kinds = {point: kind for _, point, kind, *_ in map(str.split, mounts)}
print(json.dumps([measured, {folder: kinds.get(folder, kinds["/"]) for folder in folders}]))
