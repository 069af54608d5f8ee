"""A known load: `load.py SECONDS LONGEST BUSY_MS:MIB…`. SIGUSR1 starts its steps, a second one ends it.

It ends by itself after LONGEST seconds. Of each step it prints when it began, and the processor time that it used.
"""

import mmap
import signal
import sys
import time
from types import FrameType

seconds, longest, *steps = sys.argv[1:]
signals: list[int] = []


def note(number: int, _: FrameType | None) -> None:
    """Remember that a signal came."""
    signals.append(number)


signal.signal(signal.SIGUSR1, note)
end = time.monotonic() + float(longest)
print("waits", flush=True)
while not signals and time.monotonic() < end:
    time.sleep(0.02)
for step in steps:
    busy_ms, mib = map(int, step.split(":"))
    held = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(held), 4096):
        held[at] = 1
    used = time.process_time()
    print("step", time.monotonic(), time.time(), flush=True)
    due = time.monotonic()
    over = min(due + float(seconds), end)
    while time.monotonic() < over:
        most = time.process_time() + busy_ms / 1000
        while time.process_time() < most and time.monotonic() < over:
            pass
        due = max(due + 0.1, time.monotonic())
        time.sleep(max(0, min(due, over) - time.monotonic()))
    print("did", time.monotonic(), time.process_time() - used, flush=True)
    held.close()
signals.clear()
print("done", flush=True)
while not signals and time.monotonic() < end:
    time.sleep(0.05)
