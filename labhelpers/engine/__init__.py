"""Finding or providing an engine, its images, its registry, and the view of its host."""

from labhelpers.engine.find import Engine, EngineFacts, connect

__all__ = ["Engine", "EngineFacts", "connect"]
