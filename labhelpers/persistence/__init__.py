"""The room of `08_persistence`: data that outlives its container."""

from labhelpers.persistence.kills import FAST, SAFE, WRITTEN, kills, trade
from labhelpers.persistence.places import Places, place
from labhelpers.persistence.servers import ask, copy, data_directory, host_directory, ulimit, wait
from labhelpers.persistence.survival import guesses, survival
from labhelpers.persistence.twins import two_on_one

__all__ = [
    "FAST",
    "SAFE",
    "WRITTEN",
    "Places",
    "ask",
    "copy",
    "data_directory",
    "guesses",
    "host_directory",
    "kills",
    "place",
    "survival",
    "trade",
    "two_on_one",
    "ulimit",
    "wait",
]
