"""The first chapter: how long a container lives, and the first exercise."""

from labhelpers.start.exercises import first_exercise
from labhelpers.start.lives import Life, Lives, lives

__all__ = ["Life", "Lives", "first_exercise", "lives"]
