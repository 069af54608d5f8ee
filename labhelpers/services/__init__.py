"""The room of `06_services`: how a database becomes ready, how its start fails, and a monitor of containers."""

from labhelpers.services.interrupted_start import killed_starts
from labhelpers.services.monitor import PORT, host_mounts, monitor_kind, page, remove_created_directories
from labhelpers.services.pulls import pull, push_image
from labhelpers.services.startup import CHECK, watch_startup
from labhelpers.services.usage_comparison import compare_usage

__all__ = [
    "CHECK",
    "PORT",
    "compare_usage",
    "host_mounts",
    "killed_starts",
    "monitor_kind",
    "page",
    "pull",
    "push_image",
    "remove_created_directories",
    "watch_startup",
]
