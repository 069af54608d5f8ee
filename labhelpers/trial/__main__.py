"""One engine's tests in a process of their own: `python -m labhelpers.trial NAME FILE IMAGES [ARGS…]`.

The lines go to standard output, what became of the tests into FILE, as JSON. DOCKER_HOST leads to engine A.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from labhelpers.engine import connect
from labhelpers.terminal import say
from labhelpers.trial import runs


def main(name: str, file: str, wanted: str, *args: str) -> None:
    """Run them."""
    # what a terminated process has started is stopped too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    outcome = runs.on(name, connect("auto"), wanted.split(","), args, say)
    Path(file).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
