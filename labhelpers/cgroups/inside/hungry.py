"""Allocate NEED_MIB MiB of memory, 4 MiB at a time, and keep it for two hours."""

import resource
import time

NEED_MIB = 0


def main() -> None:
    """Allocate the memory."""
    # its own limit: its address space
    resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
    blocks: list[bytearray] = []
    for number in range(NEED_MIB // 4):
        blocks.append(bytearray(b"x") * (4 << 20))
        print("holds", 4 * (number + 1), "MiB", flush=True)
        time.sleep(0.03)
    print("has enough", flush=True)
    time.sleep(7200)


if __name__ == "__main__":
    main()
