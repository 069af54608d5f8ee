"""Understand containers by running, measuring and drawing them on a real Docker engine."""

__version__ = "0.1.0"
