"""Figures of the chapter on networking: data on an Axes; they talk to no engine."""

from __future__ import annotations

from labhelpers.networks.chart import draw_network_map

__all__ = ["draw_network_map"]
