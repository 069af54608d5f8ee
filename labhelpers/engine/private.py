"""The lab's private engine, for a machine without one.

A `dockerd` with its own socket, data root, exec root and PID file in the state directory. It keeps running after the
command that started it. Stopping it undoes what an engine changes on its machine: bridges, firewall rules, IP
forwarding, cgroup directories and the few files that dockerd and containerd write elsewhere.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from labhelpers import state
from labhelpers.engine import machine_changes, other_dockerd
from labhelpers.engine.root import may_be_root, run_as_root, unmount_below, with_proxies
from labhelpers.errors import EngineMissing, SetupFailed

Echo = Callable[[str], object]

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
# dockerd executes itself twice for each container start, and each of these processes collects garbage first: 60 ms of
# CPU time with the default of 100, 35 ms with this (pkg.go.dev/runtime, GOGC)
GOGC = 400
# sun_path holds 108 bytes (unix(7)); containerd's is the longest name below the directory
SOCKET_BYTES = 107
# dockerd is detached, so that sudo, which may allocate a terminal, exits at once
_DETACHED = 'trap "" HUP; setsid "$@" >&2 & echo $!'
LONGEST_SOCKET_PATH = "exec/containerd/containerd-debug.sock"


_USE_ANOTHER = (
    "use an engine that works with this kernel (Docker Desktop, or one on another machine: DOCKER_HOST)"
)
# what dockerd 20 to 29 prints if it cannot start, the cause, and a hint; the first match is reported
_CAUSES = (
    (
        r"no space left on device|[Dd]isk quota exceeded",
        "the disk of the state directory is full",
        "free some space, or set LABHELPERS_HOME to a directory on a larger disk, then `./lab up` again",
    ),
    (
        r"Failed to initialize nft|[Tt]able does not exist|can't initialize ip6?tables|do you need to insmod"
        r"|Extension \S+ .*(not supported|missing kernel module)|No chain/target/match by that name"
        r"|iptables.*(executable file not found|not found in \$PATH)|modprobe: FATAL: Module ip_tables",
        "iptables does not work with this kernel: a table or module is missing",
        "WSL2: `wsl --update`, then `wsl --shutdown`; Debian and Ubuntu: `sudo apt-get install iptables`, and "
        "`sudo update-alternatives --set iptables /usr/sbin/iptables-legacy` where nft is not supported; a kernel "
        f"that was upgraded needs a restart; else {_USE_ANOTHER}; then `./lab up` again",
    ),
    (
        r"could not find an available, non-overlapping|predefined address pools|Pool overlaps|fully subnetted",
        "every address range that Docker uses for its bridge is in use on this machine, often by a VPN",
        "disconnect the VPN, or remove unused bridges (`ip route` lists the ranges in use), then `./lab up` again",
    ),
    (
        r"[Dd]evices? cgroup isn't mounted|cgroup.*(not mounted|no such file or directory)|cgroups: cannot find"
        r"|cgroup mountpoint does not exist",
        "required cgroups are not mounted",
        "WSL2: set `systemd=true` under [boot] in /etc/wsl.conf, then `wsl --shutdown`; in a container: start it "
        f"with --cgroupns host and /sys/fs/cgroup; elsewhere `sudo mount -a`; else {_USE_ANOTHER}",
    ),
    (
        r"overlay.*(not supported|invalid argument|no such device)|driver not supported|[Ff]ailed to mount overlay"
        r"|backing file system is unsupported|no supported storage driver",
        "the file system of the state directory cannot hold image layers",
        "set LABHELPERS_HOME to a directory on ext4 or xfs (NFS, FAT and another overlay cannot hold "
        "them; on WSL2 a Windows drive below /mnt cannot either), then `./lab up` again",
    ),
    (
        r"[Aa]ddress already in use|already running|resource temporarily unavailable.*lock|pid file found",
        "another process uses its socket or its data",
        "`./lab down`, then `./lab up`; `ps -e | grep dockerd` lists the engines of this machine",
    ),
    (
        r"a password is required|a terminal is required|may not run sudo|not in the sudoers|not allowed to execute",
        "sudo refused to start it",
        "run `./lab up` in a terminal, where sudo can prompt for your password; or ask an administrator to "
        "install Docker",
    ),
    (
        r"setsid: |dockerd.*(not found|No such file)",
        "a required program is not in root's PATH",
        "Debian and Ubuntu: `sudo apt-get install docker.io util-linux`, then `./lab up` again",
    ),
    (
        r"[Pp]ermission denied|[Oo]peration not permitted",
        "even root lacks the permissions that an engine needs on this machine (it is a container, or a "
        "security policy applies)",
        f"{_USE_ANOTHER}; in a container: start it with --privileged",
    ),
)


def home() -> Path:
    """The engine's directory below the state directory."""
    return state.path("engine", "x").parent


def address() -> str:
    """The engine's address, whether or not it is running."""
    return f"unix://{home() / 'docker.sock'}"


def should_run() -> bool:
    """Whether the engine was started and not stopped since: it is running, or it was killed."""
    return (state.home() / "engine" / "wanted").exists()


def is_responding() -> bool:
    """Whether something accepts connections on the engine's socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(home() / "docker.sock"))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def running_pid() -> int | None:
    """The PID of the engine, if it is running."""
    return _pid()


def start(echo: Echo) -> None:
    """Start the engine unless it responds; concurrent callers start only one.

    Raises:
        EngineMissing: this machine has no dockerd, or the user cannot become root.
        EngineUnreachable: another engine uses docker0 and Docker's firewall chains on this machine.
        SetupFailed: dockerd exited or did not respond in time; the message includes its last output.
    """
    if is_responding():
        return
    with state.locked("engine", waiting=lambda: echo("engine: waiting for another lab command to start it")):
        if is_responding():
            return
        _check_prerequisites()
        _clear_stale()
        _save_snapshot()
        began = time.monotonic()
        echo("engine: starting the lab's private engine")
        _launch()
        (home() / "wanted").write_text("started by the lab; removed by `./lab down`\n", encoding="utf-8")
        echo(f"engine: ready after {time.monotonic() - began:.1f} s")


def stop(echo: Echo) -> None:
    """Stop the engine and its containers, keep its data, and undo its changes to the machine."""
    if not (state.home() / "engine").exists():
        return
    with state.locked("engine"):
        pid = _pid()
        if (pid or (home() / "before.json").exists()) and not may_be_root():
            raise SetupFailed(
                "the private engine runs as root, and sudo cannot be used here to stop it",
                hint="run this command in a terminal, where sudo can prompt for your password; or as root",
            )
        if pid:
            echo("engine: stopping its containers, then the engine")
            run_as_root(["kill", "-TERM", str(pid)])
            if not _wait_until(lambda: _pid() is None, STOP_TIMEOUT_S):
                echo(f"engine: timed out after {STOP_TIMEOUT_S} s waiting for it to stop; killing it")
                run_as_root(["kill", "-KILL", str(pid)])
                _wait_until(lambda: _pid() is None, 10)
        _kill_orphans(echo)
        unmount_below(home())
        _restore_machine(echo)
        (home() / "wanted").unlink(missing_ok=True)
        run_as_root(["rm", "-rf", *(str(home() / name) for name in ("exec", "docker.sock", "docker.pid"))])
        if pid:
            echo("engine: stopped")


def remove_data() -> None:
    """Remove the engine's directory: every image, container and volume in it. It must not be running."""
    run_as_root(["rm", "-rf", str(home())])


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────


def _check_prerequisites() -> None:
    if len(str(home() / LONGEST_SOCKET_PATH)) > SOCKET_BYTES:
        raise SetupFailed(
            f"the path of the state directory is too long for a socket below it ({state.home()})",
            hint="use a shorter path: `LABHELPERS_HOME=~/.labhelpers ./lab up`",
        )
    # check first: if a running engine is inaccessible, a second one would not help
    other = other_dockerd.running(_pid())
    if other:
        raise other_dockerd.conflict_error(other)
    if not may_be_root():
        raise EngineMissing(
            "the private engine needs root, and you cannot use sudo",
            hint="ask an administrator to install Docker and to add you to its group",
        )


def _dockerds() -> Iterable[int]:
    """The PIDs of all other dockerds of this machine, in any namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_dockerd = (process / "comm").read_bytes().strip() == b"dockerd"
        except OSError:
            continue
        if is_dockerd and _is_alive(int(process.name)) and int(process.name) != _pid():
            yield int(process.name)


def _pid() -> int | None:
    """The PID of the private dockerd; None if the PID in its PID file belongs to another process."""
    return _running(home() / "docker.pid", str(home() / "docker.pid"))


def _running(pid_file: Path, text: str) -> int | None:
    """The PID in `pid_file`, if that process is running, is no zombie, and has `text` in its command line."""
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        running = "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return pid if running and text.encode() in line else None


def _clear_stale() -> None:
    """Remove the files of a killed dockerd: it does not start if its PID file names a running process."""
    if _pid() is None:
        containerd = home() / "exec" / "containerd" / "containerd.pid"
        # the kernel kills it with its dockerd; a new dockerd takes the zombie for a running one until init reaps it
        _wait_until(lambda: _running(containerd, str(home())) is None, 3)
        stale = [home() / "docker.pid", home() / "docker.sock"]
        stale += [containerd] if _running(containerd, str(home())) is None else []
        run_as_root(["rm", "-f", *map(str, stale)])
    elif not _wait_until(lambda: is_responding() or _pid() is None, 20):
        raise SetupFailed(
            f"the lab's engine (PID {_pid()}) is running but has not responded for 20 s",
            hint=f"`./lab down`, then `./lab up`; its log is {state.abbreviate_home(home() / 'dockerd.log')}",
        )


def _launch() -> None:
    if is_responding():
        return
    directory = home()
    # a separate file, so that /etc/docker/daemon.json is neither read nor needed
    (directory / "daemon.json").write_text("{}\n", encoding="utf-8")
    log = directory / "dockerd.log"
    log_size = log.stat().st_size if log.exists() else 0
    dockerd = [
        *("sh", "-c", _DETACHED, "labhelpers", "env", f"GOGC={GOGC}", "dockerd"),
        f"--host={address()}",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'docker.pid'}",
        f"--config-file={directory / 'daemon.json'}",
        f"--group={os.getgid()}",
    ]
    with log.open("ab") as out, with_proxies(dockerd) as (command, proxies):
        completed = subprocess.run(command, stdin=proxies, stdout=subprocess.PIPE, stderr=out, cwd="/")
    pid = int(completed.stdout) if completed.stdout.strip().isdigit() else None
    _wait_until(lambda: is_responding() or not _is_alive(pid), START_TIMEOUT_S)
    if is_responding():
        return
    output = log.read_bytes()[log_size:].decode(errors="replace").strip().splitlines()
    if pid and _is_alive(pid):
        run_as_root(["kill", "-TERM", str(pid)])
    raise _start_error(output, log)


def _is_alive(pid: int | None) -> bool:
    """Whether a process is running and is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(errors="replace", encoding="utf-8")
    except OSError:
        return False


def _start_error(output: Sequence[str], log: Path) -> SetupFailed:
    """The error for a dockerd that exited, from its output."""
    text = "\n".join(output)
    for pattern, cause, hint in _CAUSES:
        if matches := [line for line in output if re.search(pattern, line)]:
            last = "\n".join(dict.fromkeys([matches[0], *output[-2:]]))
            return SetupFailed(
                f"the private engine did not start: {cause}",
                hint=f"{hint}; see its log: {state.abbreviate_home(log)}",
                engine_message=last,
            )
    return SetupFailed(
        "the private engine did not start",
        hint=f"fix the problem in the last lines of {state.abbreviate_home(log)}, then run `./lab up` again",
        engine_message="\n".join(text.splitlines()[-5:]),
    )


def _wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until `condition` is true; False after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ── undoing changes to the machine ──────────────────────────────────────────────────────────────────────────


def _save_snapshot() -> None:
    """Save the state of the machine before the engine's first start since boot, for `_restore_machine`."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    if _load_snapshot().get("boot") == boot:
        return
    state.write_json("engine/before.json", {"boot": boot, **machine_changes.snapshot()})


def _load_snapshot() -> dict[str, Any]:
    """The snapshot of `_save_snapshot`; empty if it is missing or damaged."""
    snapshot = state.read_json("engine/before.json", {})
    complete = {"network", "links", "firewall", "forwarding", "cgroups", "elsewhere"} <= snapshot.keys()
    return snapshot if complete else {}


def _restore_machine(echo: Echo) -> None:
    before = _load_snapshot()
    if before:
        after = machine_changes.snapshot()
        if before["network"] != after["network"]:
            echo("engine: it ran in another network namespace, which is not changed")
        elif other := other_dockerd.running(_pid()):
            echo(
                f"engine: another dockerd (PID {other.pid}) uses docker0 and Docker's firewall chains; they "
                "are kept"
            )
        else:
            machine_changes.undo_network(before, after, echo)
        if not any(_dockerds()):
            machine_changes.undo_files(before, after)
    (home() / "before.json").unlink(missing_ok=True)


def _kill_orphans(echo: Echo) -> None:
    """Kill what a killed dockerd left behind: containerd, shims and proxies with our exec root or data root."""
    engine_pids = [
        pid for pid, line in _command_lines() if str(home()) + "/" in line and _is_engine_part(line)
    ]
    container_pids = [pid for pid in _in_our_containers() if pid not in engine_pids]
    for pid in engine_pids + container_pids:
        run_as_root(["kill", "-KILL", str(pid)])
    if engine_pids + container_pids:
        echo(f"engine: killed {len(engine_pids + container_pids)} orphaned processes of a previous engine")
        _wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in engine_pids + container_pids), 10
        )


def _command_lines() -> Iterable[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue


def _is_engine_part(line: str) -> bool:
    return Path(line.split(" ")[0]).name in {
        "dockerd",
        "containerd",
        "containerd-shim-runc-v2",
        "docker-proxy",
    }


def _in_our_containers() -> Iterable[int]:
    """The PIDs of processes in the cgroups of containers in our data root."""
    containers = run_as_root(["ls", str(home() / "data" / "containers")]).stdout.split()
    for process in Path("/proc").glob("[0-9]*") if containers else []:
        try:
            cgroups = (process / "cgroup").read_text(encoding="utf-8")
        except OSError:
            continue
        if any(container in cgroups for container in containers):
            yield int(process.name)
