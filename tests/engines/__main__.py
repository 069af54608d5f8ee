"""Run the tests of one engine: `python -m tests.engines NAME FILE IMAGES [ARGS…]`.

Output goes to standard output, the outcome to FILE, as JSON. DOCKER_HOST is engine A.
After its tests, engine B also runs two notebooks with one of the settings of `matrix`, in rotation.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from labhelpers.engine import connect
from labhelpers.terminal import echo
from tests.engines import matrix, runs


def main(name: str, file: str, image_names: str, *args: str) -> None:
    """Run the tests and write the outcome."""
    # exit normally on SIGTERM, so that engines are stopped
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    engine = connect("auto")
    outcomes = [runs.run_on(name, engine, image_names.split(","), args, echo)]
    if name == "B" and not args:
        settings, chapters = matrix.settings_for_run(matrix.commits())
        outcomes.append(matrix.outcome(matrix.run([settings], chapters, engine, echo), echo))
    Path(file).write_text(json.dumps([asdict(outcome) for outcome in outcomes]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
