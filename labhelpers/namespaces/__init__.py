"""The room of `03_namespaces`: the resources that a process sees, and the processes that share them."""

from labhelpers.namespaces.identity import matrix, namespaces_of
from labhelpers.namespaces.joining import enter_namespaces, sharing
from labhelpers.namespaces.optional_namespaces import cgroup, time, user
from labhelpers.namespaces.pid1 import signal_dispositions, signals, stops, zombies
from labhelpers.namespaces.trees import pids_in_container, process_tree, start_nested
from labhelpers.namespaces.visibility import ipc, mnt, net, pid, uts

__all__ = [
    "cgroup",
    "enter_namespaces",
    "ipc",
    "matrix",
    "mnt",
    "namespaces_of",
    "net",
    "pid",
    "pids_in_container",
    "process_tree",
    "sharing",
    "signal_dispositions",
    "signals",
    "start_nested",
    "stops",
    "time",
    "user",
    "uts",
    "zombies",
]
