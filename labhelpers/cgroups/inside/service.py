"""A service: COUNT requests, one every EVERY seconds, each of which takes WORK seconds of CPU time.

A request is due whether or not the previous request is done, and its CPU time does not depend on the CPU, so the load
is the same on a slow machine. Print the latency of each request, from the moment when it is due, in ms, as JSON.
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
