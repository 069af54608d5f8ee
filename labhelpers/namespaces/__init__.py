"""The room of `03_namespaces`: what a process can see, and what it shares with whom."""

from labhelpers.namespaces.experiments import ipc, mnt, net, pid, uts
from labhelpers.namespaces.first_process import masks, signals, stops, zombies
from labhelpers.namespaces.identity import matrix, of
from labhelpers.namespaces.joining import entered, sharing
from labhelpers.namespaces.others import cgroup, time, user
from labhelpers.namespaces.trees import inside, start_nested, tree

__all__ = [
    "cgroup",
    "entered",
    "inside",
    "ipc",
    "masks",
    "matrix",
    "mnt",
    "net",
    "of",
    "pid",
    "sharing",
    "signals",
    "start_nested",
    "stops",
    "time",
    "tree",
    "user",
    "uts",
    "zombies",
]
