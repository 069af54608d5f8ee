"""Removes what a session made once its process has gone: `python -m labhelpers.lab.reaper SESSION ENGINE`.

ENGINE is the engine's id. Nothing here reads it: it says to another state directory of this machine that the session is
alive on that engine (`sessions.live_foreign_sessions`).

Testcontainers' Ryuk is the model: its owner holds a connection open, and a connection that ends says that the
owner is gone, whatever ended it. Here the connection is this process's standard input, a pipe from the notebook's
kernel, so that no container needs the engine's socket. It waits with the standard library alone, and
loads the SDK only when there is something to remove.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

# an engine that is being restarted comes back within this time; after it, the next lab cleans up
RETRY_LIMIT_S = 60.0
# a request that was on its way when its owner died may still make something, on a busy machine seconds later
ATTEMPTS, PAUSE_S = 5, 2.0


class Reaper:
    """A process that outlives this one for as long as it takes to remove what `session` made.

    Args:
        session: its id.
        engine: the variables that lead to its engine (`engine.find.environment`).
    """

    def __init__(self, session: str, engine: Mapping[str, str]) -> None:
        import subprocess  # half of what the process that waits would load

        from labhelpers.lab import sessions

        self._process = subprocess.Popen(
            [sys.executable, "-m", "labhelpers.lab.reaper", session, *sessions.engine_id_of(session)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {**engine, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd="/",
            # a kernel's shutdown ends the kernel's whole group; this one must see the end of it
            start_new_session=True,
        )

    def stop(self) -> None:
        """Nothing is left to remove: end it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


def main(session: str) -> None:
    """Wait for the owner's end, then remove what the session made; try again while the engine does not answer."""
    sys.stdin.buffer.read()
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    from labhelpers import engine as engines
    from labhelpers.engine.find import identity
    from labhelpers.errors import LabError
    from labhelpers.lab import sessions

    end = time.monotonic() + RETRY_LIMIT_S
    passes = 0
    while passes < ATTEMPTS and time.monotonic() < end:
        try:
            client = engines.connect(revive=False).client
            if passes + 1 < ATTEMPTS:
                sessions.remove_session_resources(client, session)
                passes += 1
            elif sessions.reap_session(client, session, identity(client.info())):
                return
        except (LabError, OSError, DockerException, RequestException):
            passes = 0  # the engine is away: look again when it is back
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1])
