"""A service: COUNT requests, each due EVERY seconds after the last, each taking WORK seconds of processor time.

A request is due whether the last one is done or not, and its processor time does not depend on the processor, so it is
the same load on a slow machine. Prints how many milliseconds after it was due each was done, as JSON.
"""

import json
import sys
import time


def serve(every_s: float, work_s: float, count: int) -> None:
    """Serve all requests, and print their latencies."""
    latencies_ms, due = [], time.monotonic() + every_s
    for _ in range(count):
        time.sleep(max(0, due - time.monotonic()))
        end = time.thread_time() + work_s
        while time.thread_time() < end:
            pass
        latencies_ms.append(round((time.monotonic() - due) * 1000, 2))
        due += every_s
    print(json.dumps(latencies_ms))


if __name__ == "__main__":
    serve(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
