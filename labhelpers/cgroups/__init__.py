"""The room of `04_cgroups`: how much a container may use."""

from labhelpers.cgroups.cpu import cpuset, quota, shares, update
from labhelpers.cgroups.devices import devices
from labhelpers.cgroups.disk import disk_limits
from labhelpers.cgroups.limits import compare_versions, limits
from labhelpers.cgroups.memory import out_of_memory, reservation
from labhelpers.cgroups.network import bandwidth
from labhelpers.cgroups.noisy_neighbour import measure_noisy_neighbour
from labhelpers.cgroups.pids import pids_limit
from labhelpers.cgroups.safety_limits import DEFAULT_SAFETY_LIMITS, SafetyLimits, load, missing_controllers
from labhelpers.cgroups.samples import Sampler, Samples, sample

__all__ = [
    "DEFAULT_SAFETY_LIMITS",
    "SafetyLimits",
    "Sampler",
    "Samples",
    "bandwidth",
    "compare_versions",
    "cpuset",
    "devices",
    "disk_limits",
    "limits",
    "load",
    "measure_noisy_neighbour",
    "missing_controllers",
    "out_of_memory",
    "pids_limit",
    "quota",
    "reservation",
    "sample",
    "shares",
    "update",
]
