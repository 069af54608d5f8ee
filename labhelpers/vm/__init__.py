"""The room of `01_vm_and_container`: a guest and a container with the same payload."""

from labhelpers.vm.acceleration import probe_accel
from labhelpers.vm.boot import boot_log, start_times
from labhelpers.vm.capacity import density
from labhelpers.vm.guests import start_guest, start_payload
from labhelpers.vm.hardware import devices
from labhelpers.vm.kernel import engine_host, kernels, payload_image
from labhelpers.vm.pairs import start_pair
from labhelpers.vm.resources import disk_usage, memory_usage
from labhelpers.vm.stack import stacks

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
