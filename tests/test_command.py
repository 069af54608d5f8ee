"""The printed line is true: run by the real CLI, it makes what the lab made (`docker inspect` of both)."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from typing import Any

import pytest

from labhelpers.command import CreateNetwork, Run
from labhelpers.errors import BadInput
from labhelpers.lab import Lab

IMAGE = "labhelpers/payload:latest"
RUN_OPTIONS: dict[str, Any] = {
    "name": None,
    "hostname": "inner",
    "network": "none",
    "ports": {"80/tcp": 28123, "53/udp": ("0.0.0.0", 28124)},
    "environment": {"A": "b c", "D": ""},
    "volumes": ["/tmp:/there:ro", "/anonymous"],
    "tmpfs": {"/run": "size=1m", "/scratch": ""},
    "memory": "64m",
    "memory_swap": -1,
    "cpus": 0.5,
    "pids_limit": 20,
    "devices": ["/dev/null:/dev/nothing:r", "/dev/zero"],
    "cap_add": ["net_admin", "SYS_PTRACE"],
    "cap_drop": ["ALL"],
    "security_opt": ["seccomp=unconfined", "systempaths=unconfined", "no-new-privileges"],
    "pid": "host",
    "cgroupns": "host",
    "read_only": True,
    "init": True,
    "stdin_open": True,
    "tty": True,
    "entrypoint": "/bin/sh",
    "user": "65534:65534",
    "workdir": "/tmp",
    "restart": "on-failure:3",
    "labels": {"colour": "blue sky"},
}
# what differs between any two containers
VOLATILE = "Id Created Name State NetworkSettings ResolvConfPath HostnamePath HostsPath LogPath GraphDriver"


def _plain(value: Any) -> Any:
    """Without the lab's labels; a missing list and an empty one are the same to the engine."""
    if isinstance(value, dict):
        kept = {key: _plain(part) for key, part in value.items() if not key.startswith("labhelpers.")}
        return kept or None
    return ([_plain(part) for part in value] if isinstance(value, list) else value) or None


def _told(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.client.api.inspect_container(name)
    config, host = found["Config"], found["HostConfig"]
    if config["Hostname"] == found["Id"][:12]:
        del config["Hostname"]
    # the CLI notes the size of its own terminal
    host.pop("ConsoleSize", None)
    found["Mounts"] = sorted((m["Destination"], m["Type"], m["RW"]) for m in found["Mounts"])
    return {key: _plain(part) for key, part in found.items() if key not in VOLATILE.split()}


def test_every_option_of_run_is_tried() -> None:
    assert set(RUN_OPTIONS) == set(Run.OPTIONS)


@pytest.mark.parametrize("option", RUN_OPTIONS)
def test_run(lab: Lab, option: str) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    options = {} if option == "name" else {option: RUN_OPTIONS[option]}
    command = ["-c", "sleep 300"] if option == "entrypoint" else ["sleep", "300"]
    lab.run(IMAGE, command, name=name, **options)
    by_lab = _told(lab, name)
    lab.remove(name, force=True, volumes=True)
    subprocess.run(shlex.split(lab.commands[0]), check=True, capture_output=True)
    try:
        assert _told(lab, name) == by_lab
    finally:
        lab.client.api.remove_container(name, v=True, force=True)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "no blanks"},
        {"memory": "64q"},
        {"memory": -1},
        {"cpus": -0.5},
        {"ports": {"80/tcp": 70000}},
        {"ports": {"80/ftp": 8080}},
        {"volumes": ["relative:here"]},
        {"restart": "sometimes"},
        {"cgroupns": "shared"},
        {"pids_limit": 0},
        {"devices": ["fuse"]},
        {"tmpfs": {"run": ""}},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        Run(IMAGE, **options)
    assert refused.value.hint


def test_a_gateway_needs_its_subnet() -> None:
    with pytest.raises(BadInput, match="subnet"):
        CreateNetwork("net", gateway="10.1.0.1")
