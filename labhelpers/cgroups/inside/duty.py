"""Use WORK seconds of CPU time in every tenth of a second, however fast the CPU is."""

import sys
import time


def work(work_s: float) -> None:
    """Work forever; a late interval is not made up for."""
    due = time.monotonic()
    while True:
        end = time.thread_time() + work_s
        while time.thread_time() < end:
            pass
        due = max(due + 0.1, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    work(float(sys.argv[1]))
