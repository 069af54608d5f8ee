"""The lab's own engine, for a machine that has none.

A `dockerd` with its own socket, data, exec root and pid file under the state directory. It outlives the
command that started it, and stopping it puts back what an engine changes on its machine: bridges, firewall
rules, IP forwarding, cgroup directories and the few paths that dockerd and containerd write elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from labhelpers import state
from labhelpers.engine.root import as_root, may_be_root, run_as_root, unmount_below
from labhelpers.errors import EngineMissing, EngineUnreachable, SetupFailed

Say = Callable[[str], object]

START_S = 60
STOP_S = 60
# dockerd calls itself twice for each container that starts, and each call collects garbage before it begins:
# 60 ms of a processor with Go's 100, 35 ms so (pkg.go.dev/runtime, GOGC)
GOGC = 400
# sun_path holds 108 bytes (unix(7)); containerd's is the longest name below the directory
SOCKET_BYTES = 107
LONGEST_SOCKET = "exec/containerd/containerd-debug.sock"
# what dockerd 20 to 29 and its containerd write outside the directories that they are given
ELSEWHERE = (
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


def home() -> Path:
    """The engine's directory below the state directory."""
    return state.path("engine", "x").parent


def address() -> str:
    """The engine's address, whether it runs or not."""
    return f"unix://{home() / 'docker.sock'}"


def is_wanted() -> bool:
    """Whether the engine was started and not stopped since: it runs, or it was killed."""
    return (state.home() / "engine" / "wanted").exists()


def answers() -> bool:
    """Whether something accepts connections on the engine's socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(home() / "docker.sock"))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def start(say: Say) -> None:
    """Start the engine if it does not answer; two callers start one.

    Raises:
        EngineMissing: this machine has no dockerd, or this user may not become root.
        EngineUnreachable: another engine has this machine's docker0 and firewall chains.
        SetupFailed: dockerd ended or did not answer in time; its last words are kept.
    """
    if answers():
        return
    with state.locked("engine", waiting=lambda: say("engine: another lab command is starting it; waiting")):
        if answers():
            return
        _check_it_can_start()
        _clear_stale()
        _remember_the_machine()
        began = time.monotonic()
        say("engine: starting the lab's private engine")
        _launch()
        (home() / "wanted").write_text("started by the lab; removed by `./lab down`\n")
        say(f"engine: answers after {time.monotonic() - began:.1f} s")


def stop(say: Say) -> None:
    """Stop the engine and its containers, keep its data, and put back what it changed on the machine."""
    if not (state.home() / "engine").exists():
        return
    with state.locked("engine"):
        pid = _pid()
        if pid:
            say("engine: stopping (its containers first)")
            run_as_root(["kill", "-TERM", str(pid)])
            if not _gone(lambda: _pid() is None, STOP_S):
                say(f"engine: it did not stop within {STOP_S} s; killing it")
                run_as_root(["kill", "-KILL", str(pid)])
                _gone(lambda: _pid() is None, 10)
        _end_orphans(say)
        unmount_below(home())
        _put_the_machine_back(say)
        (home() / "wanted").unlink(missing_ok=True)
        run_as_root(["rm", "-rf", *(str(home() / name) for name in ("exec", "docker.sock", "docker.pid"))])
        if pid:
            say("engine: stopped")


def remove_data() -> None:
    """Remove the engine's directory: every image, container and volume in it. It must be stopped."""
    run_as_root(["rm", "-rf", str(home())])


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────


def _check_it_can_start() -> None:
    if len(str(home() / LONGEST_SOCKET)) > SOCKET_BYTES:
        raise SetupFailed(
            f"the path of the state directory is too long for a socket below it ({state.home()})",
            hint="name a shorter one: `LABHELPERS_HOME=~/.labhelpers ./lab up`",
        )
    if not may_be_root():
        raise EngineMissing(
            "the private engine needs root, and this user may not use sudo",
            hint="ask an administrator to install Docker and to add you to its group",
        )
    other = _other_dockerd()
    if other:
        raise EngineUnreachable(
            f"another dockerd (process {other}) runs on this machine and has docker0 and the firewall's "
            "Docker chains; a second one would break its published ports",
            hint="use that one (`--engine auto`, or `--engine unix:///its/socket`), or stop it first",
        )


def _other_dockerd() -> int | None:
    """A dockerd that is not ours in this network namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() != "dockerd":
                continue
            same_network = os.readlink(process / "ns/net") == os.readlink("/proc/self/ns/net")
        except PermissionError:
            same_network = True
        except OSError:
            continue
        if same_network and int(process.name) != _pid():
            return int(process.name)
    return None


def _pid() -> int | None:
    """The pid of our dockerd; a number in the pid file that belongs to another process is not it."""
    return _running(home() / "docker.pid", str(home() / "docker.pid"))


def _running(pid_file: Path, word: str) -> int | None:
    """The pid in `pid_file`, if that process runs and its command line holds `word`; a zombie does not run."""
    try:
        pid = int(pid_file.read_text())
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        running = "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (OSError, ValueError):
        return None
    return pid if running and word.encode() in line else None


def _clear_stale() -> None:
    """A killed dockerd leaves its pid file; it will not start where that number lives again as another process."""
    if _pid() is None:
        containerd = home() / "exec" / "containerd" / "containerd.pid"
        # the kernel kills it with its dockerd; until somebody reaps it, a new dockerd takes the zombie for alive
        _gone(lambda: _running(containerd, str(home())) is None, 3)
        stale = [home() / "docker.pid", home() / "docker.sock"]
        stale += [containerd] if _running(containerd, str(home())) is None else []
        run_as_root(["rm", "-f", *map(str, stale)])
    elif not _gone(lambda: answers() or _pid() is None, 20):
        raise SetupFailed(
            f"the lab's engine (process {_pid()}) runs but has not answered for 20 s",
            hint=f"`./lab down`, then `./lab up`; its log is {state.shown(home() / 'dockerd.log')}",
        )


def _launch() -> None:
    if answers():
        return
    directory = home()
    # a file of our own, so that a machine's /etc/docker/daemon.json is neither read nor needed
    (directory / "daemon.json").write_text("{}\n")
    log = directory / "dockerd.log"
    where = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            as_root(
                [
                    *("env", f"GOGC={GOGC}", "dockerd"),
                    f"--host={address()}",
                    f"--data-root={directory / 'data'}",
                    f"--exec-root={directory / 'exec'}",
                    f"--pidfile={directory / 'docker.pid'}",
                    f"--config-file={directory / 'daemon.json'}",
                    f"--group={os.getgid()}",
                ]
            ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
        )
    _gone(lambda: answers() or process.poll() is not None, START_S)
    if answers():
        # the engine outlives this process on purpose: it is not waited for
        process.returncode = 0
        return
    said = log.read_bytes()[where:].decode(errors="replace").strip().splitlines()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    raise SetupFailed(
        "the private engine did not start",
        hint=f"its whole log is {state.shown(log)}; when the cause is mended, `./lab up` again",
        engine_words="\n".join(said[-5:]),
    )


def _gone(condition: Callable[[], object], seconds: float) -> bool:
    """Whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ── putting the machine back ──────────────────────────────────────────────────────────────────────────


def _remember_the_machine() -> None:
    """Note what the machine was like before the engine's first start since boot, for `_put_the_machine_back`."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    before = home() / "before.json"
    if before.exists() and json.loads(before.read_text()).get("boot") == boot:
        return
    before.write_text(json.dumps({"boot": boot, **machine()}, indent=1))


def machine() -> dict[str, Any]:
    """What an engine changes on its machine: links, firewall, forwarding, cgroups, paths elsewhere."""
    return {
        "links": sorted(name for _, name in socket.if_nameindex()),
        "firewall": {tool: _rules(tool) for tool in ("iptables", "ip6tables")},
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
        "cgroups": sorted(str(path) for path in _cgroups()),
        "elsewhere": [path for path in ELSEWHERE if Path(path).exists()],
    }


def _rules(tool: str) -> str:
    done = run_as_root([f"{tool}-save"])
    # counters and dates differ from one call to the next
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", done.stdout, flags=re.M)


def _cgroups() -> Iterable[Path]:
    return [path for name in ("docker", "*/docker") for path in Path("/sys/fs/cgroup").glob(name)]


def _put_the_machine_back(say: Say) -> None:
    before = home() / "before.json"
    if not before.exists():
        return
    was = json.loads(before.read_text())
    is_now = machine()
    for link in set(is_now["links"]) - set(was["links"]):
        if re.fullmatch(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7}", link):
            run_as_root(["ip", "link", "delete", link])
    for tool in ("iptables", "ip6tables"):
        for arguments in undo_firewall(was["firewall"][tool], is_now["firewall"][tool]):
            run_as_root([tool, *arguments])
    if was["forwarding"] != is_now["forwarding"]:
        run_as_root(["sysctl", "-qw", f"net.ipv4.ip_forward={was['forwarding']}"])
    for group in set(is_now["cgroups"]) - set(was["cgroups"]):
        run_as_root(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
    for path in (path for path in ELSEWHERE if path in is_now["elsewhere"] and path not in was["elsewhere"]):
        run_as_root(["rm", "-f", path] if Path(path).is_file() else ["rmdir", path])
    before.unlink()


def undo_firewall(was: str, is_now: str) -> list[list[str]]:
    """The arguments of iptables that take Docker's rules and chains out of `is_now` again.

    Both are texts of `iptables-save`. A rule goes if it was not there before and names a Docker chain or an
    engine's bridge; a chain goes if it was not there before and is named DOCKER…; a changed policy goes back.
    """
    old, new = _by_table(was), _by_table(is_now)
    chain = r"DOCKER(?:[-_][\w-]+)?"
    docker = re.compile(rf"(?<![\w.-])(?:{chain}|docker0|docker_gwbridge|br-[0-9a-f]{{12}})(?![\w.-])")
    rules: list[list[str]] = []
    chains: list[list[str]] = []
    for table, lines in new.items():
        kept = set(old.get(table, []))
        for line in lines:
            words = _words(line)
            if line in kept:
                continue
            if line.startswith("-A") and docker.search(line):
                rules.append(["-t", table, "-D", *words[1:]])
            elif line.startswith(":") and re.fullmatch(chain, words[0][1:]):
                chains += [["-t", table, "-F", words[0][1:]], ["-t", table, "-X", words[0][1:]]]
            elif line.startswith(":") and len(words) > 1 and words[1] != "-":
                policy = next((_words(e)[1] for e in kept if e.startswith(words[0] + " ")), "ACCEPT")
                rules.append(["-t", table, "-P", words[0][1:], policy])
    # all are emptied before any is removed: a chain that another one jumps to cannot go
    return rules + [c for c in chains if c[2] == "-F"] + [c for c in chains if c[2] == "-X"]


def _words(line: str) -> list[str]:
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


def _end_orphans(say: Say) -> None:
    """End what a killed dockerd left: its containerd, shims and proxies, all named by our exec root or data."""
    ours = [pid for pid, line in _command_lines() if str(home()) + "/" in line and _is_engine_part(line)]
    contained = [pid for pid in _in_our_containers() if pid not in ours]
    for pid in ours + contained:
        run_as_root(["kill", "-KILL", str(pid)])
    if ours + contained:
        say(f"engine: ended {len(ours + contained)} processes that a killed engine had left")
        _gone(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours + contained), 10)


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
            cgroups = (process / "cgroup").read_text()
        except OSError:
            continue
        if any(container in cgroups for container in containers):
            yield int(process.name)
