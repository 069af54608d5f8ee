"""The room of `01_vm_and_container`: a real guest beside a container, with the same payload in both."""

from labhelpers.vm.experiments import (
    boot_log,
    density,
    devices,
    disk_usage,
    engine_host,
    kernels,
    memory_usage,
    payload_image,
    probe_accel,
    stacks,
    start_guest,
    start_pair,
    start_payload,
    start_times,
)

__all__ = [
    "boot_log",
    "density",
    "devices",
    "disk_usage",
    "engine_host",
    "kernels",
    "memory_usage",
    "payload_image",
    "probe_accel",
    "stacks",
    "start_guest",
    "start_pair",
    "start_payload",
    "start_times",
]
