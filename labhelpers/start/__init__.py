"""The first chapter: how long a container lives, and the first exercise."""

from labhelpers.start.exercises import first_exercise
from labhelpers.start.lifetimes import ContainerLifetime, ContainerLifetimes, container_lifetimes

__all__ = ["ContainerLifetime", "ContainerLifetimes", "container_lifetimes", "first_exercise"]
