"""The room of `02_image_layers`: what an image is made of, where its files are, and what a write costs."""

from labhelpers.layers.archives import archive
from labhelpers.layers.builds import build_cache, find_leaks, recover, secrets, stages
from labhelpers.layers.experiments import (
    copy_up,
    example_images,
    image_layers,
    pull,
    pull_corrupted,
    sharing,
    verify,
)
from labhelpers.layers.overlay import changes, mounts, no_overlay_reason, path_in_layers, write_effects

__all__ = [
    "archive",
    "build_cache",
    "changes",
    "copy_up",
    "example_images",
    "find_leaks",
    "image_layers",
    "mounts",
    "no_overlay_reason",
    "path_in_layers",
    "pull",
    "pull_corrupted",
    "recover",
    "secrets",
    "sharing",
    "stages",
    "verify",
    "write_effects",
]
