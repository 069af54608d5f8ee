"""The lab's own engine, for a machine that has none.

A `dockerd` with its own socket, data, exec root and pid file under the state directory. It outlives the
command that started it, and stopping it puts back what an engine changes on its machine: bridges, firewall
rules, IP forwarding, cgroup directories and the few paths that dockerd and containerd write elsewhere.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from labhelpers import state
from labhelpers.engine import other_dockerd
from labhelpers.engine.root import may_be_root, run_as_root, unmount_below, with_proxies
from labhelpers.errors import EngineMissing, SetupFailed

Echo = Callable[[str], object]

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
# dockerd calls itself twice for each container that starts, and each call collects garbage before it begins:
# 60 ms of a processor with Go's 100, 35 ms so (pkg.go.dev/runtime, GOGC)
GOGC = 400
# sun_path holds 108 bytes (unix(7)); containerd's is the longest name below the directory
SOCKET_BYTES = 107
# dockerd outlives the command that starts it: sudo, which may have a terminal of its own for it, ends at once
_DETACHED = 'trap "" HUP; setsid "$@" >&2 & echo $!'
LONGEST_SOCKET_PATH = "exec/containerd/containerd-debug.sock"
# what dockerd 20 to 29 and its containerd write outside the directories that they are given
PATHS_OUTSIDE_STATE = (
    "/etc/docker/key.json",
    "/run/docker/plugins",
    "/run/docker/netns",
    "/run/docker",
    "/run/containerd/s",
    "/run/containerd",
    "/opt/containerd/bin",
    "/opt/containerd/lib",
    "/opt/containerd",
)


_USE_ANOTHER = (
    "use an engine that works with this kernel (Docker Desktop, or one on another machine: DOCKER_HOST)"
)
# what dockerd 20 to 29 prints where it cannot start, the reason, and what to do; the first that matches is reported
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


_ENGINE_LINK = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7}")
# the last alternative is a published port as its own container reaches it
_CHAIN = r"DOCKER(?:[-_][\w-]+)?"
# whole names: a bridge called docker01 is somebody else's
_ENGINE_RULE = re.compile(
    rf"(?<![\w.-])(?:{_CHAIN}|docker0|docker_gwbridge|br-[0-9a-f]{{12}})(?![\w.-])"
    r"|-A POSTROUTING -s (\S+) -d \1 .*-j MASQUERADE"
)


def home() -> Path:
    """The engine's directory below the state directory."""
    return state.path("engine", "x").parent


def address() -> str:
    """The engine's address, whether it runs or not."""
    return f"unix://{home() / 'docker.sock'}"


def should_run() -> bool:
    """Whether the engine was started and not stopped since: it runs, or it was killed."""
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
    """The pid of the engine, if it runs."""
    return _pid()


def start(echo: Echo) -> None:
    """Start the engine if it does not answer; two callers start one.

    Raises:
        EngineMissing: this machine has no dockerd, or this user may not become root.
        EngineUnreachable: another engine has this machine's docker0 and firewall chains.
        SetupFailed: dockerd ended or did not answer in time; its last words are kept.
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


def stop(say: Echo) -> None:
    """Stop the engine and its containers, keep its data, and put back what it changed on the machine."""
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
            say("engine: stopping its containers, then the engine")
            run_as_root(["kill", "-TERM", str(pid)])
            if not _wait_until(lambda: _pid() is None, STOP_TIMEOUT_S):
                say(f"engine: timed out after {STOP_TIMEOUT_S} s waiting for it to stop; killing it")
                run_as_root(["kill", "-KILL", str(pid)])
                _wait_until(lambda: _pid() is None, 10)
        _kill_orphans(say)
        unmount_below(home())
        _restore_machine(say)
        (home() / "wanted").unlink(missing_ok=True)
        run_as_root(["rm", "-rf", *(str(home() / name) for name in ("exec", "docker.sock", "docker.pid"))])
        if pid:
            say("engine: stopped")


def remove_data() -> None:
    """Remove the engine's directory: every image, container and volume in it. It must be stopped."""
    run_as_root(["rm", "-rf", str(home())])


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────


def _check_prerequisites() -> None:
    if len(str(home() / LONGEST_SOCKET_PATH)) > SOCKET_BYTES:
        raise SetupFailed(
            f"the path of the state directory is too long for a socket below it ({state.home()})",
            hint="use a shorter path: `LABHELPERS_HOME=~/.labhelpers ./lab up`",
        )
    # first of all: a reader who may not use the engine that runs needs no other one
    other = other_dockerd.running(_pid())
    if other:
        raise other_dockerd.conflict_error(other)
    if not may_be_root():
        raise EngineMissing(
            "the private engine needs root, and you cannot use sudo",
            hint="ask an administrator to install Docker and to add you to its group",
        )


def _dockerds() -> Iterable[int]:
    """Each dockerd of this machine that is not ours, in whatever namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_dockerd = (process / "comm").read_bytes().strip() == b"dockerd"
        except OSError:
            continue
        if is_dockerd and _is_alive(int(process.name)) and int(process.name) != _pid():
            yield int(process.name)


def _pid() -> int | None:
    """The pid of our dockerd; a number in the pid file that belongs to another process is not it."""
    return _running(home() / "docker.pid", str(home() / "docker.pid"))


def _running(pid_file: Path, word: str) -> int | None:
    """The pid in `pid_file`, if that process runs and its command line holds `word`; a zombie does not run."""
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        running = "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return pid if running and word.encode() in line else None


def _clear_stale() -> None:
    """A killed dockerd leaves its pid file; it will not start where that number lives again as another process."""
    if _pid() is None:
        containerd = home() / "exec" / "containerd" / "containerd.pid"
        # the kernel kills it with its dockerd; until somebody reaps it, a new dockerd takes the zombie for alive
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
    # a file of our own, so that a machine's /etc/docker/daemon.json is neither read nor needed
    (directory / "daemon.json").write_text("{}\n", encoding="utf-8")
    log = directory / "dockerd.log"
    where = log.stat().st_size if log.exists() else 0
    dockerd = [
        *("sh", "-c", _DETACHED, "labhelpers", "env", f"GOGC={GOGC}", "dockerd"),
        f"--host={address()}",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'docker.pid'}",
        f"--config-file={directory / 'daemon.json'}",
        f"--group={os.getgid()}",
    ]
    with log.open("ab") as out, with_proxies(dockerd) as (as_it_runs, proxies):
        started = subprocess.run(as_it_runs, stdin=proxies, stdout=subprocess.PIPE, stderr=out, cwd="/")
    pid = int(started.stdout) if started.stdout.strip().isdigit() else None
    _wait_until(lambda: is_responding() or not _is_alive(pid), START_TIMEOUT_S)
    if is_responding():
        return
    output = log.read_bytes()[where:].decode(errors="replace").strip().splitlines()
    if pid and _is_alive(pid):
        run_as_root(["kill", "-TERM", str(pid)])
    raise _start_error(output, log)


def _is_alive(pid: int | None) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(errors="replace", encoding="utf-8")
    except OSError:
        return False


def _start_error(output: Sequence[str], log: Path) -> SetupFailed:
    """What to tell the reader where dockerd ended, from what it printed."""
    whole = "\n".join(output)
    for pattern, why, hint in _CAUSES:
        if found := [line for line in output if re.search(pattern, line)]:
            last = "\n".join(dict.fromkeys([found[0], *output[-2:]]))
            return SetupFailed(
                f"the private engine did not start: {why}",
                hint=f"{hint}; see its log: {state.abbreviate_home(log)}",
                engine_message=last,
            )
    return SetupFailed(
        "the private engine did not start",
        hint=f"fix the problem in the last lines of {state.abbreviate_home(log)}, then run `./lab up` again",
        engine_message="\n".join(whole.splitlines()[-5:]),
    )


def _wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ── putting the machine back ──────────────────────────────────────────────────────────────────────────


def _save_snapshot() -> None:
    """Note what the machine was like before the engine's first start since boot, for `_restore_machine`."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    if _load_snapshot().get("boot") == boot:
        return
    state.write_json("engine/before.json", {"boot": boot, **machine_snapshot()})


def _load_snapshot() -> dict[str, Any]:
    """What `_save_snapshot` noted; empty where there is nothing, or it is damaged."""
    noted = state.read_json("engine/before.json", {})
    complete = {"network", "links", "firewall", "forwarding", "cgroups", "elsewhere"} <= noted.keys()
    return noted if complete else {}


def machine_snapshot() -> dict[str, Any]:
    """What an engine changes on its machine: links, firewall, forwarding, cgroups, paths elsewhere."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    return {
        "network": os.readlink("/proc/self/ns/net"),
        "links": sorted(name for _, name in socket.if_nameindex()),
        "firewall": {tool: _rules(tool) for tool in ("iptables", "ip6tables")},
        "forwarding": forwarding.read_text(encoding="utf-8").strip() if forwarding.exists() else "",
        "cgroups": sorted(str(path) for path in _cgroups()),
        "elsewhere": [path for path in PATHS_OUTSIDE_STATE if Path(path).exists()],
    }


def _rules(tool: str) -> str:
    done = run_as_root([f"{tool}-save"])
    # counters and dates differ from one call to the next
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", done.stdout, flags=re.M)


def _cgroups() -> Iterable[Path]:
    return [path for name in ("docker", "*/docker") for path in Path("/sys/fs/cgroup").glob(name)]


def _restore_machine(say: Echo) -> None:
    was = _load_snapshot()
    if was:
        is_now = machine_snapshot()
        if was["network"] != is_now["network"]:
            say("engine: it ran in another network namespace, which is not changed")
        elif other := other_dockerd.running(_pid()):
            say(
                f"engine: another dockerd (PID {other.pid}) uses docker0 and Docker's firewall chains; they "
                "are kept"
            )
        else:
            _restore_network(was, is_now, say)
        if not any(_dockerds()):
            _restore_files(was, is_now)
    (home() / "before.json").unlink(missing_ok=True)


def _restore_network(was: dict[str, Any], is_now: dict[str, Any], say: Echo) -> None:
    added = set(is_now["links"]) - set(was["links"])
    ours = {link for link in added if _ENGINE_LINK.fullmatch(link)}
    for link in ours:
        run_as_root(["ip", "link", "delete", link])
    for tool in ("iptables", "ip6tables"):
        for arguments in undo_firewall(was["firewall"][tool], is_now["firewall"][tool]):
            run_as_root([tool, *arguments])
    if was["forwarding"] != is_now["forwarding"]:
        # a VPN, a hypervisor or another namespace's uplink that came meanwhile has needed forwarding since
        users = sorted(added - ours) + foreign_forwarding(was["firewall"], is_now["firewall"])
        if users:
            say(
                "engine: IP forwarding stays enabled because something else may need it "
                f"({', '.join(users[:3])})"
            )
        else:
            run_as_root(["sysctl", "-qw", f"net.ipv4.ip_forward={was['forwarding']}"])


def foreign_forwarding(was: dict[str, str], is_now: dict[str, str]) -> list[str]:
    """Rules of FORWARD and POSTROUTING that came meanwhile and are not Docker's: something else forwards packets."""
    found = []
    for tool, text in is_now.items():
        old, new = _by_table(was.get(tool, "")), _by_table(text)
        for table, lines in new.items():
            for line in lines:
                forwards = line.startswith(("-A FORWARD", "-A POSTROUTING"))
                # each address that an engine masquerades is that of one of its bridges
                if forwards and line not in old.get(table, []) and not _ENGINE_RULE.search(line):
                    found.append(f"{tool} {line}")
    return found


def _restore_files(was: dict[str, Any], is_now: dict[str, Any]) -> None:
    """Remove empty cgroups and what dockerd wrote elsewhere; other engines, in any namespace, share these."""
    for group in set(is_now["cgroups"]) - set(was["cgroups"]):
        run_as_root(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
    for path in (
        path for path in PATHS_OUTSIDE_STATE if path in is_now["elsewhere"] and path not in was["elsewhere"]
    ):
        run_as_root(["rm", "-f", path] if Path(path).is_file() else ["rmdir", path])


def undo_firewall(before: str, after: str) -> list[list[str]]:
    """The arguments of iptables that take Docker's rules and chains out of `after` again.

    Both are texts of `iptables-save`. A rule goes if it was not there before and names a Docker chain or an
    engine's bridge; a chain goes if it was not there before and is named DOCKER…; a changed policy goes back.
    """
    old, new = _by_table(before), _by_table(after)
    rules: list[list[str]] = []
    chains: list[list[str]] = []
    for table, lines in new.items():
        kept = set(old.get(table, []))
        for line in lines:
            words = _split_rule(line)
            if line in kept:
                continue
            if line.startswith("-A") and _ENGINE_RULE.search(line):
                rules.append(["-t", table, "-D", *words[1:]])
            elif line.startswith(":") and re.fullmatch(_CHAIN, words[0][1:]):
                chains += [["-t", table, "-F", words[0][1:]], ["-t", table, "-X", words[0][1:]]]
            elif line.startswith(":") and len(words) > 1 and words[1] != "-":
                policy = next((_split_rule(e)[1] for e in kept if e.startswith(words[0] + " ")), "ACCEPT")
                rules.append(["-t", table, "-P", words[0][1:], policy])
    # all are emptied before any is removed: a chain that another one jumps to cannot go
    return rules + [c for c in chains if c[2] == "-F"] + [c for c in chains if c[2] == "-X"]


def _split_rule(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark that nothing closes
        return line.split()


def _by_table(saved: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    table: list[str] = []
    for line in saved.split("\n"):
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "-A ")) and line.strip() != ":":
            table.append(line.strip())
    return tables


def _kill_orphans(say: Echo) -> None:
    """End what a killed dockerd left: its containerd, shims and proxies, all named by our exec root or data."""
    ours = [pid for pid, line in _command_lines() if str(home()) + "/" in line and _is_engine_part(line)]
    contained = [pid for pid in _in_our_containers() if pid not in ours]
    for pid in ours + contained:
        run_as_root(["kill", "-KILL", str(pid)])
    if ours + contained:
        say(f"engine: killed {len(ours + contained)} orphaned processes of a previous engine")
        _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours + contained), 10)


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
    """Processes whose cgroup is that of a container whose directory is in our data."""
    containers = run_as_root(["ls", str(home() / "data" / "containers")]).stdout.split()
    for process in Path("/proc").glob("[0-9]*") if containers else []:
        try:
            cgroups = (process / "cgroup").read_text(encoding="utf-8")
        except OSError:
            continue
        if any(container in cgroups for container in containers):
            yield int(process.name)
