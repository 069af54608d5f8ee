"""Take STEP bytes more every EVERY seconds, up to MOST bytes, and keep them."""

import sys
import time


def grow(step: int, every_s: float, most: int) -> None:
    """Write to every page: memory that nobody has touched is not allocated (mmap(2), MAP_POPULATE)."""
    held: list[bytearray] = []
    print("begins", flush=True)
    while len(held) * step < most:
        held.append(bytearray(b"x") * step)
        print("holds", len(held) * step, flush=True)
        time.sleep(every_s)
    print("has enough", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    grow(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
