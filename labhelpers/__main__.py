"""`python -m labhelpers VERB` and `labhelpers VERB` do what `./lab VERB` does, from an installed environment."""

from __future__ import annotations

import sys

from labhelpers import errors, state
from labhelpers.commandline import bootstrap
from labhelpers.errors import LabError


def main() -> None:
    """Run the verb; an error that a reader can cause ends in its message and status 1."""
    state.normalize_environment()
    try:
        try:
            from labhelpers.commandline.cli import main as verbs
        except ImportError as error:
            bootstrap.repair(error)
        verbs()
    except OSError as error:
        # the disk of the state directory: everything else is reported where it happens
        if error.errno not in state.DISK_ERRORS:
            raise
        errors.print_error(state.directory_error(error, state.location()))
        sys.exit(1)
    except LabError as error:
        errors.print_error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
