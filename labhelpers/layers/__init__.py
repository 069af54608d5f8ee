"""The room of `02_image_layers`: what an image is made of, where its files are, and what a write costs."""

from labhelpers.layers.archives import archive
from labhelpers.layers.builds import build_orders, leaks_of, recover, secrets, stages
from labhelpers.layers.experiments import copy_up, example, image, pull, refused_pull, sharing, verify
from labhelpers.layers.overlay import before_and_after, changes, mounts, no_overlay, through

__all__ = [
    "archive",
    "before_and_after",
    "build_orders",
    "changes",
    "copy_up",
    "example",
    "image",
    "leaks_of",
    "mounts",
    "no_overlay",
    "pull",
    "recover",
    "refused_pull",
    "secrets",
    "sharing",
    "stages",
    "through",
    "verify",
]
