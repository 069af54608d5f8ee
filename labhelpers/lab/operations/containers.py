"""Operations on containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labhelpers.lab import options as opt
from labhelpers.lab import values
from labhelpers.lab.operations.base import Operation
from labhelpers.lab.options import Option


@dataclass(frozen=True)
class Run(Operation):
    """`docker run -d`: make a container and start it.

    Attributes:
        image: reference or id.
        command: a text is split into words as a shell does; None for the image's own.
        dns: addresses of name servers, in place of the host's.
        ports: inside → outside, `{'80/tcp': 8080}`. Published on 127.0.0.1 unless the outside is given as
            `('0.0.0.0', 8080)`; None for a free port.
        environment, labels: name → value.
        volumes: as `-v` takes them: 'name:/inside', '/outside:/inside:ro', '/anonymous'.
        mounts: as `--mount` takes them: 'type=bind,source=/outside,target=/inside', also `readonly`, `volume-nocopy`.
        tmpfs: path inside → mount options ('' for none).
        memory, memory_swap: bytes, or a text such as '64m' (powers of 1,024); memory_swap -1 for no limit.
        memory_reservation: a soft limit, as memory: bytes, or '64m'.
        cpus: CPUs' worth of time; 0.5 is half of one.
        cpu_quota, cpu_period: microseconds of time in each period of so many microseconds; not together with cpus.
        cpu_shares: weight against other containers that want the same CPU, from 2; 1,024 is the default.
        cpuset_cpus: which CPUs: '0', '0-2', '0,2'.
        pids_limit: processes and threads; -1 for no limit.
        device_read_bps, device_write_bps: '/dev/sda:1mb': bytes in a second, for a disk of the engine's machine.
        device_read_iops, device_write_iops: '/dev/sda:100': operations in a second.
        devices: '/dev/fuse' or '/dev/outside:/dev/inside:rwm'.
        device_cgroup_rules: what may be opened: 'c 10:229 rwm' (kind, major:minor, rights).
        pid: 'host' or 'container:NAME'. cgroupns: 'host' or 'private'. uts: 'host'.
        userns_mode: 'host': the host's user namespace, on an engine that maps users (`userns-remap`).
        ipc: 'private', 'shareable' (others may join it), 'container:NAME', 'host' or 'none'.
        entrypoint: one word; its arguments belong into command.
        restart: 'no', 'always', 'unless-stopped', 'on-failure:3'.
        health_cmd: what a shell inside runs to see whether the service is well; exit status 0 is healthy.
        health_interval: seconds from one such check to the next; a whole number.
        log_driver: 'json-file', 'local', 'none', …; None for the engine's own.
        ulimits: name → limit, `{'nofile': 1024}` or `{'nofile': (1024, 4096)}` (soft, hard); getrlimit(2).
        rm: the engine removes it, and its anonymous volumes, when it has ended. Not for a command that ends at once:
            the lab would look for a container that is gone.

    Raises:
        BadInput: a value that cannot be meant.
    """

    image: str
    command: str | Sequence[str] | None = None
    name: str | None = None
    hostname: str | None = None
    network: str | None = None
    dns: Sequence[str] | None = None
    ports: Mapping[str | int, Any] | None = None
    environment: Mapping[str, str] | None = None
    volumes: Sequence[str] | None = None
    mounts: Sequence[str] | None = None
    tmpfs: Mapping[str, str] | None = None
    memory: int | str | None = None
    memory_swap: int | str | None = None
    memory_reservation: int | str | None = None
    cpus: float | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None
    device_read_bps: Sequence[str] | None = None
    device_write_bps: Sequence[str] | None = None
    device_read_iops: Sequence[str] | None = None
    device_write_iops: Sequence[str] | None = None
    devices: Sequence[str] | None = None
    device_cgroup_rules: Sequence[str] | None = None
    cap_add: Sequence[str] | None = None
    cap_drop: Sequence[str] | None = None
    security_opt: Sequence[str] | None = None
    pid: str | None = None
    ipc: str | None = None
    uts: str | None = None
    cgroupns: str | None = None
    userns_mode: str | None = None
    log_driver: str | None = None
    ulimits: Mapping[str, int | tuple[int, int]] | None = None
    read_only: bool = False
    init: bool = False
    stdin_open: bool = False
    tty: bool = False
    entrypoint: str | None = None
    user: str | int | None = None
    workdir: str | None = None
    restart: str | None = None
    health_cmd: str | None = None
    health_interval: int | None = None
    rm: bool = False
    labels: Mapping[str, str] | None = None

    VERB = ("run", "-d")
    OPTIONS = {  # noqa: RUF012 - the base class says ClassVar
        "name": opt.single("--name", "name", values.parse_name),
        "hostname": opt.single("--hostname", "Hostname"),
        "network": opt.single("--network", "HostConfig.NetworkMode"),
        "dns": opt.repeated("--dns", "HostConfig.Dns"),
        "ports": Option("-p", opt.port_arguments, opt.port_api),
        "environment": opt.mapping("-e", "Env", values.parse_pairs),
        "volumes": Option("-v", opt.parse_volumes, opt.volume_api),
        "mounts": opt.repeated("--mount", "HostConfig.Mounts", opt.parse_mounts),
        "tmpfs": Option("--tmpfs", opt.tmpfs_arguments, opt.at("HostConfig.Tmpfs", opt.parse_tmpfs)),
        "memory": opt.single("--memory", "HostConfig.Memory", values.parse_size),
        "memory_swap": opt.single("--memory-swap", "HostConfig.MemorySwap", values.parse_swap),
        "memory_reservation": opt.single(
            "--memory-reservation", "HostConfig.MemoryReservation", values.parse_size
        ),
        "cpus": opt.single("--cpus", "HostConfig.NanoCpus", values.parse_cpus),
        "cpu_quota": opt.single("--cpu-quota", "HostConfig.CpuQuota", values.parse_microseconds),
        "cpu_period": opt.single("--cpu-period", "HostConfig.CpuPeriod", values.parse_microseconds),
        "cpu_shares": opt.single("--cpu-shares", "HostConfig.CpuShares", values.parse_shares),
        "cpuset_cpus": opt.single("--cpuset-cpus", "HostConfig.CpusetCpus", values.parse_cpu_list),
        "pids_limit": opt.single("--pids-limit", "HostConfig.PidsLimit", values.parse_count),
        "device_read_bps": opt.repeated(
            "--device-read-bps", "HostConfig.BlkioDeviceReadBps", opt.parse_byte_rates
        ),
        "device_write_bps": opt.repeated(
            "--device-write-bps", "HostConfig.BlkioDeviceWriteBps", opt.parse_byte_rates
        ),
        "device_read_iops": opt.repeated(
            "--device-read-iops", "HostConfig.BlkioDeviceReadIOps", opt.parse_rates
        ),
        "device_write_iops": opt.repeated(
            "--device-write-iops", "HostConfig.BlkioDeviceWriteIOps", opt.parse_rates
        ),
        "devices": opt.repeated("--device", "HostConfig.Devices", opt.parse_devices),
        "device_cgroup_rules": opt.repeated(
            "--device-cgroup-rule", "HostConfig.DeviceCgroupRules", opt.parse_device_rules
        ),
        "cap_add": opt.repeated("--cap-add", "HostConfig.CapAdd", opt.parse_capabilities),
        "cap_drop": opt.repeated("--cap-drop", "HostConfig.CapDrop", opt.parse_capabilities),
        "security_opt": Option("--security-opt", values.parse_texts, opt.security_api),
        "pid": opt.single("--pid", "HostConfig.PidMode"),
        "ipc": opt.single("--ipc", "HostConfig.IpcMode", values.parse_ipc),
        "uts": opt.single("--uts", "HostConfig.UTSMode", values.one_of("host")),
        "cgroupns": opt.single("--cgroupns", "HostConfig.CgroupnsMode", values.one_of("host", "private")),
        "userns_mode": opt.single("--userns", "HostConfig.UsernsMode", values.one_of("host")),
        "log_driver": opt.single("--log-driver", "HostConfig.LogConfig", opt.parse_log_config),
        "ulimits": Option("--ulimit", opt.ulimit_arguments, opt.at("HostConfig.Ulimits", opt.parse_ulimits)),
        "read_only": opt.switch("--read-only", "HostConfig.ReadonlyRootfs"),
        "init": opt.switch("--init", "HostConfig.Init"),
        "stdin_open": opt.switch("-i", "OpenStdin"),
        "tty": opt.switch("-t", "Tty"),
        "entrypoint": opt.single("--entrypoint", "Entrypoint", lambda word: [values.parse_text(word)]),
        "user": opt.single("--user", "User", values.parse_user),
        "workdir": opt.single("--workdir", "WorkingDir"),
        "restart": opt.single("--restart", "HostConfig.RestartPolicy", opt.parse_restart),
        "health_cmd": opt.single(
            "--health-cmd", "Healthcheck.Test", lambda text: ["CMD-SHELL", values.parse_text(text)]
        ),
        "health_interval": Option(
            "--health-interval",
            lambda value: [f"{value}s"],
            opt.at("Healthcheck.Interval", lambda value: values.parse_some_seconds(value) * 10**9),
        ),
        "rm": opt.switch("--rm", "HostConfig.AutoRemove"),
        "labels": opt.mapping("--label", "Labels"),
    }

    def _arguments(self) -> list[str]:
        return [values.parse_image(self.image), *self._command()]

    def _fixed_arguments(self) -> dict[str, Any]:
        # the command line sends the first two even when nobody gives them. The third keeps an engine set to
        # `"init": true` from putting its init before each command; `/info` does not tell that setting.
        always = {
            "HostConfig.NetworkMode": "default",
            "HostConfig.RestartPolicy": opt.parse_restart("no"),
            "HostConfig.Init": False,
        }
        return {"Image": self.image} | always | ({"Cmd": command} if (command := self._command()) else {})

    def _command(self) -> list[str]:
        return [] if self.command is None else values.parse_command(self.command)


@dataclass(frozen=True)
class RunOnce(Run):
    """`docker run --rm`: make a container, start it, show its output, and remove it when it has ended."""

    VERB = ("run", "--rm")


@dataclass(frozen=True)
class Update(Operation):
    """`docker update`: change the limits of a container while it runs.

    Attributes:
        container: its name.
        memory, memory_swap, memory_reservation, cpus, cpu_quota, cpu_period, cpu_shares, cpuset_cpus, pids_limit: as in
            `Run`; what is not given stays as it is.

    Raises:
        BadInput: a value that cannot be meant, or nothing to change.
    """

    container: str
    memory: int | str | None = None
    memory_swap: int | str | None = None
    memory_reservation: int | str | None = None
    cpus: float | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None

    VERB = ("update",)
    OPTIONS = {  # noqa: RUF012
        "memory": opt.single("--memory", "Memory", values.parse_size),
        "memory_swap": opt.single("--memory-swap", "MemorySwap", values.parse_swap),
        "memory_reservation": opt.single("--memory-reservation", "MemoryReservation", values.parse_size),
        "cpus": opt.single("--cpus", "NanoCpus", values.parse_cpus),
        "cpu_quota": opt.single("--cpu-quota", "CpuQuota", values.parse_microseconds),
        "cpu_period": opt.single("--cpu-period", "CpuPeriod", values.parse_microseconds),
        "cpu_shares": opt.single("--cpu-shares", "CpuShares", values.parse_shares),
        "cpuset_cpus": opt.single("--cpuset-cpus", "CpusetCpus", values.parse_cpu_list),
        "pids_limit": opt.single("--pids-limit", "PidsLimit", values.parse_count),
    }

    def _arguments(self) -> list[str]:
        if not self._set_options():
            raise values.refuse(
                self.container,
                "has nothing to update",
                "give at least one option to change, for example cpus=0.5",
            )
        return [values.parse_name(self.container)]


@dataclass(frozen=True)
class Exec(Operation):
    """`docker exec`: run one more process in a running container; with `detach` do not wait for its end."""

    container: str
    command: str | Sequence[str]
    detach: bool = False
    user: str | int | None = None
    workdir: str | None = None
    environment: Mapping[str, str] | None = None

    VERB = ("exec",)
    OPTIONS = {  # noqa: RUF012
        "detach": opt.switch("-d", "detach"),
        "user": opt.single("--user", "user", str),
        "workdir": opt.single("--workdir", "workdir"),
        "environment": opt.mapping("-e", "environment", values.parse_pairs),
    }

    def _arguments(self) -> list[str]:
        arguments = values.parse_command(self.command)
        if not arguments:
            raise values.refuse(
                self.command, "is not a command", "give the command to run, for example 'uname -r'"
            )
        return [values.parse_name(self.container), *arguments]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"container": self.container, "cmd": values.parse_command(self.command)}


@dataclass(frozen=True)
class OnContainer(Operation):
    """Base of the operations that need a container and nothing else; most of them take no option."""

    container: str

    def _arguments(self) -> list[str]:
        return [values.parse_name(self.container)]

    def _fixed_arguments(self) -> dict[str, Any]:
        return {"container": self.container}


@dataclass(frozen=True)
class Stop(OnContainer):
    """`docker stop`: ask a container's first process to end; kill it after `timeout_s` (10 s if None)."""

    timeout_s: int | None = None

    VERB = ("stop",)
    OPTIONS = {"timeout_s": opt.single("-t", "timeout", values.parse_seconds)}  # noqa: RUF012


@dataclass(frozen=True)
class Remove(OnContainer):
    """`docker rm`: with `force` a running container too, with `volumes` its anonymous volumes."""

    force: bool = False
    volumes: bool = False

    VERB = ("rm",)
    OPTIONS = {"force": opt.switch("-f", "force"), "volumes": opt.switch("-v", "v")}  # noqa: RUF012


@dataclass(frozen=True)
class Start(OnContainer):
    """`docker start`: start a container that is stopped."""

    VERB = ("start",)


@dataclass(frozen=True)
class Restart(OnContainer):
    """`docker restart`: stop a container, with `timeout_s` before it is killed (10 s if None), and start it."""

    timeout_s: int | None = None

    VERB = ("restart",)
    OPTIONS = {"timeout_s": opt.single("-t", "timeout", values.parse_seconds)}  # noqa: RUF012


@dataclass(frozen=True)
class Kill(OnContainer):
    """`docker kill`: send a signal to a container's first process (SIGKILL if None)."""

    signal: str | None = None

    VERB = ("kill",)
    OPTIONS = {"signal": opt.single("--signal", "signal")}  # noqa: RUF012


@dataclass(frozen=True)
class Pause(OnContainer):
    """`docker pause`: freeze all processes of a container (cgroups(7), freezer)."""

    VERB = ("pause",)


@dataclass(frozen=True)
class Unpause(OnContainer):
    """`docker unpause`: let the processes of a paused container go on."""

    VERB = ("unpause",)


@dataclass(frozen=True)
class Wait(OnContainer):
    """`docker wait`: wait until a container ends; prints its exit code."""

    VERB = ("wait",)
