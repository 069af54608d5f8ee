"""The room of `01_vm_and_container`: a real guest beside a container, with the same payload in both."""

from labhelpers.vm.experiments import (
    boot_log,
    devices,
    disk_used,
    engine_home,
    how_many_fit,
    kernels,
    memory_held,
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
    "devices",
    "disk_used",
    "engine_home",
    "how_many_fit",
    "kernels",
    "memory_held",
    "payload_image",
    "probe_accel",
    "stacks",
    "start_guest",
    "start_pair",
    "start_payload",
    "start_times",
]
