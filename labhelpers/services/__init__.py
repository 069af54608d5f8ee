"""The room of `06_services`: a database that becomes ready, the ways in which it does not, and a monitor beside it."""

from labhelpers.services.broken import killed_starts
from labhelpers.services.monitor import PORT, kind, page, sources, tidy
from labhelpers.services.numbers import numbers
from labhelpers.services.pulls import offer, pull
from labhelpers.services.starting import CHECK, watch

__all__ = [
    "CHECK",
    "PORT",
    "killed_starts",
    "kind",
    "numbers",
    "offer",
    "page",
    "pull",
    "sources",
    "tidy",
    "watch",
]
