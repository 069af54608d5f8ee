"""The room of `04_cgroups`: how much a container may use."""

from labhelpers.cgroups.bounds import OUTER, Bound, hog
from labhelpers.cgroups.samples import Sampler, Samples, sample

__all__ = ["OUTER", "Bound", "Sampler", "Samples", "hog", "sample"]
