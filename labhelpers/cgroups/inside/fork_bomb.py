"""A fork bomb: every process forks as fast as it can. Each failed fork(2) appends a byte to a file."""

import os
import time


def explode() -> None:
    """Fork forever."""
    failures = os.open("/refused", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        try:
            os.fork()
        except BlockingIOError:
            os.write(failures, b"x")
            time.sleep(0.1)
        time.sleep(0.02)


if __name__ == "__main__":
    explode()
