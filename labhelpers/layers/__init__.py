"""The room of `02_image_layers`: what an image consists of, where its files are stored, and what a write costs."""

from labhelpers.layers.archives import archive
from labhelpers.layers.builds import build_cache, stages
from labhelpers.layers.copy_on_write import copy_up
from labhelpers.layers.digests import pull_corrupted, verify
from labhelpers.layers.docker_save import image_layers
from labhelpers.layers.leaks import find_leaks, recover, secrets
from labhelpers.layers.overlay import changes, mounts, no_overlay_reason, path_in_layers, write_effects
from labhelpers.layers.pulls import example_images, pull
from labhelpers.layers.shared_layers import sharing

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
