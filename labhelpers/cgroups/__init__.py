"""The room of `04_cgroups`: how much a container may use."""

from labhelpers.cgroups.bounds import OUTER, Bound, hog, missing
from labhelpers.cgroups.cpu import cpuset, quota, shares, update
from labhelpers.cgroups.crowd import crowd
from labhelpers.cgroups.devices import devices
from labhelpers.cgroups.disk import disk_limits
from labhelpers.cgroups.limits import limits, spellings
from labhelpers.cgroups.memory import out_of_memory, reservation
from labhelpers.cgroups.neighbour import neighbour
from labhelpers.cgroups.network import bandwidth
from labhelpers.cgroups.samples import Sampler, Samples, sample

__all__ = [
    "OUTER",
    "Bound",
    "Sampler",
    "Samples",
    "bandwidth",
    "cpuset",
    "crowd",
    "devices",
    "disk_limits",
    "hog",
    "limits",
    "missing",
    "neighbour",
    "out_of_memory",
    "quota",
    "reservation",
    "sample",
    "shares",
    "spellings",
    "update",
]
