"""The printed line is true: run by the real CLI, it makes what the lab made (`docker inspect` of both)."""

from __future__ import annotations

import shlex
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers.errors import BadInput
from labhelpers.lab import Lab
from labhelpers.lab.operations import Build, CreateNetwork, CreateVolume, Exec, Run, Update

IMAGE = "labhelpers/payload:latest"
# together, those that do not exclude one another: each container costs as much as a hundred comparisons
RUN_OPTIONS: list[dict[str, Any]] = [
    {
        "name": None,
        "hostname": "inner",
        "dns": ["127.0.0.1"],
        "ports": {"80/tcp": 28123, "53/udp": ("0.0.0.0", 28124)},
        "environment": {"A": "b c", "D": ""},
        "volumes": ["/tmp:/there:ro", "/anonymous"],
        "tmpfs": {"/run": "size=1m", "/scratch": ""},
        "labels": {"colour": "blue sky"},
        "restart": "on-failure:3",
        "workdir": "/tmp",
        "log_driver": "local",
        "ulimits": {"nproc": 512, "nofile": (256, 1024)},
        "userns_mode": "host",
    },
    {
        "network": "none",
        "memory": "64m",
        "memory_swap": -1,
        "memory_reservation": "32m",
        "cpus": 0.5,
        "cpu_shares": 512,
        "cpuset_cpus": "0",
        "pids_limit": 20,
        "ipc": "shareable",
        "read_only": True,
        "init": True,
        "stdin_open": True,
        "tty": True,
        "rm": True,
        "health_cmd": "test -e /tmp && true",
        "health_interval": 300,
        "mounts": [
            "type=bind,source=/tmp,target=/there,readonly",
            "type=volume,dst=/anonymous,volume-nocopy",
            "type=tmpfs,target=/run",
        ],
    },
    {
        "network": "none",
        "device_read_bps": ["{disk}:1mb"],
        "device_write_bps": ["{disk}:2mb"],
        "device_read_iops": ["{disk}:100"],
        "device_write_iops": ["{disk}:200"],
    },
    {
        "network": "none",
        "devices": ["/dev/null:/dev/nothing:r", "/dev/zero"],
        "device_cgroup_rules": ["c 1:3 r"],
        "cap_add": ["net_admin", "SYS_PTRACE"],
        "cap_drop": ["ALL"],
        "security_opt": ["seccomp=unconfined", "systempaths=unconfined", "no-new-privileges"],
        "pid": "host",
        "uts": "host",
        "cgroupns": "host",
        "cpu_quota": 50_000,
        "cpu_period": 50_000,
        "entrypoint": "/bin/sh",
        "user": "65534:65534",
    },
]
# what differs between any two containers
VOLATILE = "Id Created Name State NetworkSettings ResolvConfPath HostnamePath HostsPath LogPath GraphDriver"


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """One lab for all; its lines are those of the test."""
    shared_lab.commands.clear()
    return shared_lab


def _plain(value: Any) -> Any:
    """Without the lab's labels; a missing list and an empty one are the same to the engine."""
    if isinstance(value, dict):
        kept = {key: _plain(part) for key, part in value.items() if not key.startswith("labhelpers.")}
        return kept or None
    return ([_plain(part) for part in value] if isinstance(value, list) else value) or None


def _inspected(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.client.api.inspect_container(name)
    config, host = found["Config"], found["HostConfig"]
    if config["Hostname"] == found["Id"][:12]:
        del config["Hostname"]
    # docker 28's command line sends its -e options in an order of chance (2 of 14 runs turned two of them round)
    config["Env"] = sorted(config["Env"] or [])
    # the CLI notes the size of its own terminal
    host.pop("ConsoleSize", None)
    # the lab says no where the CLI leaves it to the engine, whose own setting here is no
    host["Init"] = bool(host.get("Init"))
    found["Mounts"] = sorted((m["Destination"], m["Type"], m["RW"]) for m in found["Mounts"])
    return {key: _plain(part) for key, part in found.items() if key not in VOLATILE.split()}


def _a_disk(lab: Lab) -> str:
    """A block device that the engine can open."""
    found = [f"/dev/{item.path}" for item in lab.host.directory("/dev") if item.kind == "block device"]
    if not found:
        pytest.skip("the engine has no block device in its /dev")
    return found[-1]


def test_every_option_of_run_is_tried() -> None:
    assert {option for options in RUN_OPTIONS for option in options} == set(Run.OPTIONS)


@pytest.mark.parametrize("options", RUN_OPTIONS, ids=" ".join)
def test_run(lab: Lab, options: dict[str, Any]) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    options = {option: value for option, value in options.items() if option != "name"}
    if "{disk}" in str(options):
        disk = _a_disk(lab)
        for option, value in options.items():
            if option.startswith("device_"):
                options[option] = [item.format(disk=disk) for item in value]
    command = ["-c", "sleep 300"] if "entrypoint" in options else ["sleep", "300"]
    lab.run(IMAGE, command, name=name, **options)
    by_lab = _inspected(lab, name)
    lab.remove(name, force=True, volumes=True)
    subprocess.run(shlex.split(lab.commands[0]), check=True, capture_output=True)
    try:
        assert _inspected(lab, name) == by_lab
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
        {"mounts": ["type=bind.source=/tmp,target=/there"]},
        {"mounts": ["type=bind,source=relative,target=/there"]},
        {"mounts": ["type=disk,source=/tmp,target=/there"]},
        {"mounts": ["type=volume,source=some"]},
        {"mounts": ["type=volume,target=/there,readonly=perhaps"]},
        {"restart": "sometimes"},
        {"health_interval": 0},
        {"cgroupns": "shared"},
        {"ipc": "shared"},
        {"uts": "private"},
        {"pids_limit": 0},
        {"cpu_quota": 10},
        {"cpu_shares": 1},
        {"cpuset_cpus": "first"},
        {"device_read_bps": ["/dev/sda"]},
        {"device_write_iops": ["/dev/sda:1mb"]},
        {"device_cgroup_rules": ["c 1:3"]},
        {"devices": ["fuse"]},
        {"tmpfs": {"run": ""}},
        {"userns_mode": "private"},
        {"ulimits": {"nofile": "many"}},
        {"ulimits": ["nofile=1024"]},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        Run(IMAGE, **options)
    assert refused.value.hint


def test_an_update_without_a_change_is_refused() -> None:
    with pytest.raises(BadInput, match="has nothing to update"):
        Update("web")


def test_a_gateway_needs_its_subnet() -> None:
    with pytest.raises(BadInput, match="subnet"):
        CreateNetwork("net", gateway="10.1.0.1")


# --- the other operations: the line, typed by the real CLI, does what the lab did


def typed(line: str) -> str:
    """What the real command line answers to `line`."""
    done = subprocess.run(shlex.split(line), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


NETWORK_OPTIONS: dict[str, Any] = {
    "driver": "bridge",
    "subnet": "10.213.7.0/24",
    "gateway": "10.213.7.9",
    "internal": True,
    "attachable": True,
    "options": {"com.docker.network.driver.mtu": "1400"},
}


def options_of(operation: type[Any]) -> set[str]:
    return set(operation.OPTIONS)


def test_every_option_of_the_others_is_tried() -> None:
    assert {option for options in UPDATE_OPTIONS for option in options} == options_of(Update)
    assert set(NETWORK_OPTIONS) == options_of(CreateNetwork)
    assert set(VOLUME_OPTIONS) == options_of(CreateVolume)
    assert {option for options in EXEC_OPTIONS for option in options} == options_of(Exec)
    assert {option for options in BUILD_OPTIONS for option in options} == options_of(Build) - {"tag"}


@pytest.mark.parametrize("option", NETWORK_OPTIONS)
def test_create_network(lab: Lab, name: str, option: str) -> None:
    options = {option: NETWORK_OPTIONS[option]}
    if option == "gateway":
        options["subnet"] = NETWORK_OPTIONS["subnet"]

    def inspected() -> Any:
        found: dict[str, Any] = lab.client.api.inspect_network(name)
        # without a subnet the engine takes the next free one
        volatile = {"Id", "Created"} | (set() if "subnet" in options else {"IPAM"})
        return {key: _plain(value) for key, value in found.items() if key not in volatile}

    made = lab.create_network(name, **options)
    by_lab = inspected()
    made.remove()
    typed(lab.commands[0])
    try:
        assert inspected() == by_lab
    finally:
        lab.client.api.remove_network(name)


VOLUME_OPTIONS: dict[str, Any] = {
    "driver": "local",
    "options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"},
}


@pytest.mark.parametrize("option", VOLUME_OPTIONS)
def test_create_volume(lab: Lab, name: str, option: str) -> None:
    def inspected() -> Any:
        found: dict[str, Any] = lab.client.api.inspect_volume(name)
        return {key: _plain(value) for key, value in found.items() if key != "CreatedAt"}

    made = lab.create_volume(name, **{option: VOLUME_OPTIONS[option]})
    by_lab = inspected()
    made.remove()
    typed(lab.commands[0])
    try:
        assert inspected() == by_lab
    finally:
        lab.client.api.remove_volume(name)


UPDATE_OPTIONS: list[dict[str, Any]] = [
    {
        "memory": "48m",
        "memory_swap": -1,
        "memory_reservation": "32m",
        "cpus": 0.3,
        "cpu_shares": 512,
        "cpuset_cpus": "0",
        "pids_limit": 9,
    },
    {"cpu_quota": 30_000, "cpu_period": 50_000},
]


@pytest.mark.parametrize("options", UPDATE_OPTIONS, ids=" ".join)
def test_update(lab: Lab, name: str, options: dict[str, Any]) -> None:
    def start() -> dict[str, Any]:
        # a limit of swap, or below one, is for a container that has a limit of memory
        lab.run(IMAGE, "sleep 300", name=name, memory="64m", network="none")
        return _inspected(lab, name)["HostConfig"]

    before = start()
    lab.update(name, **options)
    by_lab = _inspected(lab, name)["HostConfig"]
    assert sum(by_lab[key] != before[key] for key in before) == len(options), "each of them changes something"
    lab.remove(name, force=True)
    start()
    typed(lab.commands[1])
    assert _inspected(lab, name)["HostConfig"] == by_lab
    lab.remove(name, force=True)


@pytest.fixture(scope="module")
def sleeper(shared_lab: Lab) -> Container:
    return shared_lab.run(IMAGE, "sleep 300", network="none")


EXEC_OPTIONS: list[dict[str, Any]] = [
    {"user": 65534},
    {"workdir": "/www"},
    {"environment": {"A": "b c"}},
    {"detach": True},
]
SAY = ["sh", "-c", 'id -u; pwd; echo "$A"']


@pytest.mark.parametrize("options", EXEC_OPTIONS, ids=str)
def test_exec(lab: Lab, sleeper: Container, options: dict[str, Any]) -> None:
    by_lab = lab.exec(sleeper, SAY, **options)
    without = lab.exec(sleeper, SAY)
    assert by_lab.stdout != without.stdout
    assert typed(lab.commands[0]) == by_lab.stdout


DOCKERFILE = f"""FROM {IMAGE} AS first
ARG COLOUR=red
ENV COLOUR=$COLOUR
RUN ["/bin/busybox", "sh", "-c", "cat /proc/sys/kernel/random/uuid > /made"]
FROM first
WORKDIR /second
"""
BUILD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"dockerfile": "Other", "buildargs": {"COLOUR": "sky blue"}},
    {"target": "first"},
    {"no_cache": True},
]


@pytest.mark.parametrize("options", BUILD_OPTIONS, ids=str)
def test_build(lab: Lab, name: str, tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    (tmp_path / "Other").write_text(DOCKERFILE + "ENV OTHER=yes\n", encoding="utf-8")

    def inspected() -> tuple[dict[str, Any], list[str]]:
        found = lab.client.images.get(name).attrs
        kept = {key: _plain(found["Config"].get(key)) for key in ("Env", "WorkingDir", "Cmd", "Entrypoint")}
        return kept, found["RootFS"]["Layers"]

    lab.build(str(tmp_path), name, **options)
    by_lab, made_by_lab = inspected()
    try:
        typed(lab.commands[0])
        by_line, made_by_line = inspected()
    finally:
        lab.client.api.remove_image(name)
    assert by_line == by_lab
    if options.get("no_cache"):
        assert made_by_line != made_by_lab


SLOW_TO_END = ["sh", "-c", "trap 'sleep 3; exit 5' TERM; echo listens; while :; do sleep 0.1; done"]


@pytest.mark.parametrize(("timeout_s", "exit_code"), [(1, 137), (None, 5)])
def test_stop(lab: Lab, name: str, timeout_s: int | None, exit_code: int) -> None:
    def inspected() -> tuple[Any, ...]:
        state = lab.client.api.inspect_container(name)["State"]
        return state["Status"], state["ExitCode"]

    def until_it_listens(life: int) -> None:
        # started is not begun: a signal may still meet runc's own process, which ends with status 2
        while lab.client.api.logs(name).count(b"listens") < life:
            time.sleep(0.05)

    lab.run(IMAGE, SLOW_TO_END, name=name, network="none")
    until_it_listens(1)
    lab.stop(name, timeout_s=timeout_s)
    by_lab = inspected()
    lab.client.api.start(name)
    until_it_listens(2)
    typed(lab.commands[-1])
    assert inspected() == by_lab == ("exited", exit_code)
    lab.remove(name)


@pytest.mark.parametrize("options", [{"force": True}, {"force": True, "volumes": True}], ids=str)
def test_remove(lab: Lab, name: str, options: dict[str, bool]) -> None:
    def make() -> str:
        made = lab.client.containers.run(
            IMAGE,
            "sleep 300",
            name=name,
            detach=True,
            volumes=["/anonymous"],
            network_mode="none",
            labels=lab._labels("container"),
        )
        made.reload()
        # its name is that of its directory; Docker 28 leaves `Name` out
        return Path(made.attrs["Mounts"][0]["Source"]).parent.name

    def left(volume: str) -> tuple[int, int]:
        found = lab.client.volumes.list(filters={"name": volume})
        for item in found:
            item.remove()
        return len(
            lab.client.containers.list(all=True, filters={"name": f"^/{name}$"}, ignore_removed=True)
        ), len(found)

    volume = make()
    lab.remove(name, **options)
    by_lab = left(volume)
    volume = make()
    typed(lab.commands[-1])
    assert left(volume) == by_lab == (0, 0 if options.get("volumes") else 1)


def test_pull(lab: Lab) -> None:
    ref = lab.registry.push(IMAGE, "try/payload:1")
    by_lab = lab.pull(ref).id
    lab.client.api.remove_image(ref)
    typed(lab.commands[-1])
    assert lab.client.images.get(ref).id == by_lab == lab.client.images.get(IMAGE).id
