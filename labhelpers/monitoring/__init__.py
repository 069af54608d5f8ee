"""The room of `09_monitoring`: what containers use and print, restart policies, and access to the engine's socket."""

from labhelpers.monitoring.engine_control import control_panel
from labhelpers.monitoring.engine_socket import find_engine_socket, socket_access
from labhelpers.monitoring.restart import engine_restart_policies, restart_policies
from labhelpers.monitoring.storage import host_home, volume_files
from labhelpers.monitoring.timeline import timeline

__all__ = [
    "control_panel",
    "engine_restart_policies",
    "find_engine_socket",
    "host_home",
    "restart_policies",
    "socket_access",
    "timeline",
    "volume_files",
]
