"""The room of `03_namespaces`: what a process can see, and what it shares with whom."""

from labhelpers.namespaces.identity import matrix, of
from labhelpers.namespaces.trees import inside, start_nested, tree

__all__ = [
    "inside",
    "matrix",
    "of",
    "start_nested",
    "tree",
]
