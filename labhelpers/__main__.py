"""`python -m labhelpers VERB` does what `./lab VERB` does, from an installed environment."""

from labhelpers.cli import main

main()
