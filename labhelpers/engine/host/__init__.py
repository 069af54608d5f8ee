"""The view of the engine's host: its processes, cgroups, mounts, networks and directories.

That host may be a virtual machine of Docker Desktop or a server elsewhere, so nothing is read from the
notebook's own. `helper` starts one container there, in which `agent` runs; `reader` sends it requests;
`processes`, `cgroup_paths`, `cgroups`, `storage` and `network` parse its responses; `view` is what the course uses.
"""

from labhelpers.engine.host.cgroups import Cgroup, Cpu, DeviceIo, File, Io, Memory, Pids, Pressure, Sample
from labhelpers.engine.host.network import (
    Address,
    BridgePort,
    Chain,
    Firewall,
    Interface,
    Neighbour,
    Network,
    Route,
    Rule,
)
from labhelpers.engine.host.processes import Namespace, Process
from labhelpers.engine.host.reader import Texts
from labhelpers.engine.host.storage import DiskUsage, Entry, Mount
from labhelpers.engine.host.view import HostView, Kernel, MemoryUsage

__all__ = [
    "Address",
    "BridgePort",
    "Cgroup",
    "Chain",
    "Cpu",
    "DeviceIo",
    "DiskUsage",
    "Entry",
    "File",
    "Firewall",
    "HostView",
    "Interface",
    "Io",
    "Kernel",
    "Memory",
    "MemoryUsage",
    "Mount",
    "Namespace",
    "Neighbour",
    "Network",
    "Pids",
    "Pressure",
    "Process",
    "Route",
    "Rule",
    "Sample",
    "Texts",
]
