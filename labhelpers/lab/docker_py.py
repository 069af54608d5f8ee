"""Options of `run` as docker-py spells them, where they mean the same as the lab's.

Source: docker-py, docker/models/containers.py, `ContainerCollection.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from labhelpers.engine.arguments import is_integer
from labhelpers.errors import BadInput

_NAMES = {
    "mem_limit": "memory",
    "memswap_limit": "memory_swap",
    "mem_reservation": "memory_reservation",
    "working_dir": "workdir",
    "network_mode": "network",
    "pid_mode": "pid",
    "ipc_mode": "ipc",
    "uts_mode": "uts",
    "remove": "rm",
    "auto_remove": "rm",
    "restart_policy": "restart",
    "nano_cpus": "cpus",
}


def translate_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` in the lab's spelling; what docker-py does not spell otherwise stays as it is.

    `detach=True` is dropped, for `run` always starts a container in the background.

    Raises:
        BadInput: an option in both spellings, or `detach=False`.
    """
    translated: dict[str, Any] = {}
    for name, value in options.items():
        if name == "detach" and value is True:
            continue
        if name == "detach":
            raise BadInput(
                f"lab.run cannot run in the foreground (detach={value!r})",
                hint="leave `detach` out; lab.run_once waits for the command and returns its output",
            )
        own = _NAMES.get(name, name)
        if own in translated:
            raise BadInput(f"{name!r} and {own!r} are the same option", hint=f"pass {own!r} only")
        translated[own] = _VALUES.get(name, lambda same: same)(value)
    return translated


def _restart(policy: Any) -> Any:
    """`{"Name": "on-failure", "MaximumRetryCount": 3}` → `on-failure:3`."""
    if not isinstance(policy, Mapping) or not isinstance(policy.get("Name"), str):
        return policy
    count = policy.get("MaximumRetryCount")
    return f"{policy['Name']}:{count}" if count else policy["Name"]


def _cpus(billionths: Any) -> Any:
    return billionths / 1e9 if is_integer(billionths) else billionths


def _environment(variables: Any) -> Any:
    """`["NAME=value"]` → `{"NAME": "value"}`."""
    if not isinstance(variables, (list, tuple)) or not all(isinstance(each, str) for each in variables):
        return variables
    return {name: value for name, _, value in (each.partition("=") for each in variables)}


def _volumes(volumes: Any) -> Any:
    """`{"data": {"bind": "/data", "mode": "ro"}}` → `["data:/data:ro"]`."""
    if not isinstance(volumes, Mapping):
        return volumes
    mounts = []
    for source, mount in volumes.items():
        if not isinstance(mount, Mapping) or not isinstance(mount.get("bind"), str):
            return volumes
        mode = mount.get("mode", "rw")
        mounts.append(f"{source}:{mount['bind']}" + ("" if mode == "rw" else f":{mode}"))
    return mounts


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "restart_policy": _restart,
    "nano_cpus": _cpus,
    "environment": _environment,
    "volumes": _volumes,
}
