"""Append one byte, twice, to each file of the requested sizes, and print the milliseconds of every write as JSON."""

import json
import sys
import time

writes = []
for size in sys.argv[1:]:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        with open(f"/sized/{size}", "ab", buffering=0) as file:
            file.write(b"x")
        times.append((time.perf_counter() - start) * 1000)
    writes.append(times)
print(json.dumps(writes), flush=True)
time.sleep(3600)
