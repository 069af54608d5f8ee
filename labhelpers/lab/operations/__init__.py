"""The operations of `Lab`, each with the `docker …` line that a person would type for it."""

from labhelpers.lab.operations.base import Operation, make_operation
from labhelpers.lab.operations.containers import (
    Exec,
    Kill,
    OnContainer,
    Pause,
    Remove,
    Restart,
    Run,
    RunOnce,
    Start,
    Stop,
    Unpause,
    Update,
    Wait,
)
from labhelpers.lab.operations.images import Build, Commit, Pull, RemoveImage, Tag
from labhelpers.lab.operations.networks import (
    Connect,
    CreateNetwork,
    CreateVolume,
    RemoveNetwork,
    RemoveVolume,
)

__all__ = [
    "Build",
    "Commit",
    "Connect",
    "CreateNetwork",
    "CreateVolume",
    "Exec",
    "Kill",
    "OnContainer",
    "Operation",
    "Pause",
    "Pull",
    "Remove",
    "RemoveImage",
    "RemoveNetwork",
    "RemoveVolume",
    "Restart",
    "Run",
    "RunOnce",
    "Start",
    "Stop",
    "Tag",
    "Unpause",
    "Update",
    "Wait",
    "make_operation",
]
