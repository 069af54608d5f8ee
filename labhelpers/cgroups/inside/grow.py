"""Allocate STEP bytes more every EVERY seconds, up to MAX bytes, and keep them."""

import sys
import time


def grow(step: int, every_s: float, max_bytes: int) -> None:
    """Write to every page: memory that was never written is not allocated (mmap(2), MAP_POPULATE)."""
    blocks: list[bytearray] = []
    print("starting", flush=True)
    while len(blocks) * step < max_bytes:
        blocks.append(bytearray(b"x") * step)
        print("allocated", len(blocks) * step, flush=True)
        time.sleep(every_s)
    print("done", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    grow(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
