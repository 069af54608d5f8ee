"""The room of `09_monitoring`: how containers do, what becomes of them, and who may command the engine."""

from labhelpers.monitoring.desk import control_panel
from labhelpers.monitoring.door import docker_sock, holders
from labhelpers.monitoring.places import files_in, home
from labhelpers.monitoring.restart import engine_restarts, restarts
from labhelpers.monitoring.timeline import timeline

__all__ = [
    "control_panel",
    "docker_sock",
    "engine_restarts",
    "files_in",
    "holders",
    "home",
    "restarts",
    "timeline",
]
