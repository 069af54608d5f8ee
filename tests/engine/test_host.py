"""The view of the engine's host, held against tools that are not ours: on whatever engine the tests run on.

`lsns`, `findmnt`, `du`, `ip` and `iptables` run in containers of that engine; `docker top` and `docker stats` are
its own.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from docker.errors import APIError
from docker.models.containers import Container
from docker.models.volumes import Volume

from labhelpers.engine import Engine
from labhelpers.engine.host import HostView
from labhelpers.engine.streams import ExecResult, execute
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab

VOLUME_POINT = "/kept here"


@pytest.fixture(scope="module")
def host(shared_lab: Lab) -> HostView:
    return shared_lab.host


@pytest.fixture(scope="module")
def volume(shared_lab: Lab) -> Volume:
    return shared_lab.create_volume(f"t-{shared_lab.session}")


@pytest.fixture(scope="module")
def subject(shared_lab: Lab, volume: Volume) -> Container:
    """What is looked at: three processes, limits, a volume, a published port."""
    container = shared_lab.run(
        shared_lab.image("tools"),
        ["sh", "-c", "sleep 5001 & sleep 5002 & exec sleep 5003"],
        memory="64m",
        cpus=0.5,
        pids_limit=50,
        volumes=[f"{volume.name}:{VOLUME_POINT}"],
        ports={"80/tcp": None},
        cap_add=["NET_ADMIN"],
    )

    def has_started() -> bool:
        # between the start and the last exec, its processes are `runc init` and `sh`
        commands = [row[-1] for row in container.top(ps_args="-eo pid,args")["Processes"]]
        return sorted(commands) == ["sleep 5001", "sleep 5002", "sleep 5003"]

    shared_lab.wait_for("the three processes of the container", has_started)
    return container


@pytest.fixture(scope="module")
def looker(shared_lab: Lab) -> Container:
    """Where tools look at the host from."""
    return shared_lab.run(
        shared_lab.image("tools"),
        ["sleep", "5004"],
        pid="host",
        network="host",
        cap_add=["SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN", "DAC_READ_SEARCH"],
        security_opt=["apparmor=unconfined"],
    )


@pytest.fixture(scope="module")
def writer(shared_lab: Lab, host: HostView, volume: Volume) -> Iterator[Container]:
    """What writes to a disk: with a limit that it never reaches, because some kernels count only then."""
    point = volume.attrs["Mountpoint"]
    device = max((m for m in host.mounts() if point.startswith(m.point)), key=lambda m: len(m.point)).device
    event = host.read_many([f"/sys/dev/block/{device}/uevent"]).popitem()[1] or ""
    names = [line.partition("=")[2] for line in event.splitlines() if line.startswith("DEVNAME=")]
    limit = [{"Path": f"/dev/{name}", "Rate": 1 << 40} for name in names]
    make = partial(
        shared_lab.client.containers.create,
        shared_lab.image("tools"),
        ["sleep", "5009"],
        volumes=[f"{volume.name}:{VOLUME_POINT}"],
        labels=shared_lab._labels("container"),
    )
    made = make(device_write_bps=limit)
    try:
        made.start()
    except APIError:  # an engine without that disk's device
        made.remove(force=True)
        made = make()
        made.start()
    yield made
    made.remove(force=True)


def run_in(container: Container, command: str) -> ExecResult:
    assert container.client
    return execute(container.client.api, str(container.id), shlex.split(command))


def output(container: Container, command: str) -> str:
    """What a command in the container writes."""
    done = run_in(container, command)
    assert done.exit_code == 0, done
    return done.stdout.decode()


def raised(container: Container, question: str) -> str:
    """What a command that only looks writes; lsns gives up where processes end while it looks."""
    for _ in range(10):
        done = run_in(container, question)
        if done.exit_code == 0 and done.stdout:
            return done.stdout.decode()
    raise AssertionError((question, done))


def pid_of(container: Container) -> int:
    container.reload()
    return int(container.attrs["State"]["Pid"])


def stats(container: Container) -> dict[str, Any]:
    """What `docker stats` is made from (Engine API, GET /containers/{id}/stats)."""
    found: dict[str, Any] = container.stats(stream=False)
    return found


class TestProcesses:
    def test_as_docker_top(self, host: HostView, subject: Container) -> None:
        top = subject.top(ps_args="-eo pid,ppid,args")
        rows = sorted((int(pid), int(parent), command) for pid, parent, command in top["Processes"])
        mine = host.processes(subject)
        assert [(item.pid, item.parent_pid, item.command) for item in mine] == rows
        assert len(rows) == 3

    def test_their_pids_inside(self, host: HostView, subject: Container) -> None:
        inside = {int(line.split()[0]) for line in output(subject, "pgrep -x sleep").splitlines()}
        mine = host.processes(subject)
        assert {item.inside_pid for item in mine} == inside
        assert all(item.nspid == (item.pid, item.inside_pid) for item in mine)

    def test_as_lsns(self, host: HostView, subject: Container, looker: Container) -> None:
        rows = json.loads(raised(looker, "lsns -J -o NS,TYPE,NPROCS,PID"))["namespaces"]
        theirs = {(row["type"], int(row["ns"])): (int(row["nprocs"]), int(row["pid"])) for row in rows}
        own = {item.kind: item for item in host.namespaces(subject)}
        for kind in ("mnt", "uts", "ipc", "net", "pid"):
            item = own[kind]
            assert theirs[kind, item.id] == (item.processes, item.first_pid) == (3, pid_of(subject)), kind
        # those that it shares with the host have the host's other processes too
        everything = {(item.kind, item.id): item for item in host.namespaces()}
        assert everything["user", own["user"].id].processes > 3

    def test_the_whole_host_has_the_container_and_more(self, host: HostView, subject: Container) -> None:
        everything = {item.pid: item for item in host.processes()}
        assert {item.pid for item in host.processes(subject)} < set(everything)
        assert any("containerd-shim" in item.command for item in everything.values())

    def test_one_process(self, host: HostView, subject: Container) -> None:
        everything = {item.pid: item for item in host.processes()}
        first = host.process(subject)
        assert first == host.process(pid_of(subject)) == everything[pid_of(subject)]
        # the engine's own process is the one that started the container, and stands outside of it
        own = host.process()
        assert "shim" in own.command
        assert own.nspid == (own.pid,)
        assert own.namespaces["mnt"] != first.namespaces["mnt"]
        with pytest.raises(LabError, match="no process 99999999"):
            host.process(99_999_999)

    def test_what_exec_started_is_among_them(self, host: HostView, subject: Container) -> None:
        subject.exec_run(["sleep", "5005"], detach=True)
        try:
            assert "sleep 5005" in [item.command for item in host.processes(subject)]
        finally:
            output(subject, "pkill -f 'sleep 5005'")


class TestCgroup:
    def test_as_docker_stats(self, host: HostView, subject: Container) -> None:
        before = host.cgroup(subject)
        theirs = stats(subject)
        after = host.cgroup(subject)
        memory, cpu = theirs["memory_stats"], theirs["cpu_stats"]
        assert before.memory.limit_bytes == memory["limit"] == 64 * 1024 * 1024
        assert abs(before.memory.usage_bytes - memory["usage"]) < 1024 * 1024
        assert before.memory.usage_bytes >= before.memory.anon_bytes > 0
        usage_us = cpu["cpu_usage"]["total_usage"] // 1000
        assert before.cpu.usage_us <= usage_us <= after.cpu.usage_us
        assert before.pids.current == theirs["pids_stats"]["current"] == 3
        assert before.pids.limit == 50

    def test_the_limits_that_were_given(self, host: HostView, subject: Container, looker: Container) -> None:
        limited, free = host.cgroup(subject), host.cgroup(looker)
        assert (limited.cpu.quota_us, limited.cpu.period_us, limited.cpu.limit_cpus) == (50_000, 100_000, 0.5)
        assert free.cpu.limit_cpus is None
        assert free.memory.limit_bytes is None
        assert limited.version == int(host_info(subject)["CgroupVersion"])

    def test_throttling_as_docker_stats(self, shared_lab: Lab, host: HostView) -> None:
        busy = shared_lab.run(
            shared_lab.image("payload"), ["-c", "while :; do :; done"], entrypoint="/bin/sh", cpus=0.1
        )
        while not (before := host.cgroup(busy).cpu).throttled_periods:
            time.sleep(0.1)
        theirs = stats(busy)["cpu_stats"]["throttling_data"]
        after = host.cgroup(busy).cpu
        shared_lab.remove(busy, force=True)
        assert before.throttled_periods <= theirs["throttled_periods"] <= after.throttled_periods
        assert before.throttled_us <= theirs["throttled_time"] // 1000 <= after.throttled_us
        assert after.throttled_periods <= after.periods

    def test_an_oom_kill_is_counted(self, shared_lab: Lab, host: HostView) -> None:
        greedy = shared_lab.run(
            shared_lab.image("tools"),
            ["sh", "-c", "read go; python3 -c 'b = bytearray(100 << 20)'; echo ended $?; sleep 5006"],
            memory="48m",
            memory_swap="48m",
            stdin_open=True,
        )
        assert host.cgroup(greedy).memory.oom_kills == 0
        pipe = greedy.attach_socket(params={"stdin": 1, "stream": 1})
        getattr(pipe, "_sock", pipe).sendall(b"go\n")
        while not host.cgroup(greedy).memory.oom_kills:
            time.sleep(0.1)
        seen = host.cgroup(greedy).memory
        pipe.close()
        while not (said_by_it := greedy.logs(stderr=False)):
            time.sleep(0.1)
        # 128 + SIGKILL
        assert said_by_it == b"ended 137\n"
        assert seen.oom_kills == 1
        # version 1's failcnt stays at 0 on recent kernels
        assert seen.limit_hits > 0 or host.cgroup(greedy).version == 1
        assert seen.peak_bytes is None or seen.peak_bytes > 40 << 20
        shared_lab.remove(greedy, force=True)

    def test_writes_as_docker_stats(self, host: HostView, writer: Container) -> None:
        output(writer, f"dd if=/dev/zero of='{VOLUME_POINT}/block' bs=1M count=4 oflag=direct status=none")
        before = host.cgroup(writer).io
        rows = stats(writer)["blkio_stats"]["io_service_bytes_recursive"] or []
        theirs = sum(row["value"] for row in rows if row["op"].lower() == "write")
        after = host.cgroup(writer).io
        assert before.written_bytes <= theirs <= after.written_bytes
        if not theirs:
            pytest.skip("this kernel counts no I/O of a cgroup without a limit: docker stats says 0 as well")
        assert before.written_bytes >= 4 * 1024 * 1024

    def test_pressure_where_there_is_any(self, host: HostView, subject: Container) -> None:
        seen = {item.resource: item for item in host.cgroup(subject).pressure}
        if not seen:
            pytest.skip("this engine's host measures no pressure for cgroups (PSI)")
        assert set(seen) == {"cpu", "memory", "io"}
        assert all(item.full_us <= item.some_us for item in seen.values())

    def test_files_by_name(self, host: HostView, subject: Container) -> None:
        files = host.cgroup_files(subject, ["pids.max", "memory.nothing", "nobody.knows"])
        assert files["pids.max"].text == "50"
        assert files["pids.max"].path.endswith("/pids.max")
        assert host.read(files["pids.max"].path).strip() == "50"
        assert files["memory.nothing"].text is None
        assert ("nobody.knows" in files) == (host.cgroup(subject).version == 2)

    def test_a_table_of_it(self, host: HostView, subject: Container) -> None:
        row = host.cgroup(subject).frame().iloc[0]
        assert row["pids_limit"] == 50
        assert row["memory_limit_bytes"] == 64 << 20

    def test_memory_held(self, host: HostView, subject: Container) -> None:
        held = host.memory(subject)
        assert 0 < held.pss_bytes < 64 << 20
        assert 0 < held.anon_bytes < 64 << 20


class TestSamples:
    def test_they_come_at_the_rate_and_end_when_closed(
        self, shared_lab: Lab, host: HostView, subject: Container
    ) -> None:
        def agents() -> int:
            # of this view's helper alone: those of others come and go
            return len(shared_lab.client.api.top(host.helper)["Processes"])

        samples = host.samples(subject, every_ms=100)
        seen = [next(samples) for _ in range(5)]
        streaming = agents()
        samples.close()
        times = [item.at_s for item in seen]
        assert times == sorted(times)
        # each comes on a tick, one tick or more after the one before
        assert times[-1] - times[0] >= 0.35
        assert {item.cgroup.pids.limit for item in seen} == {50}
        deadline = time.monotonic() + 30
        while agents() >= streaming:
            assert time.monotonic() < deadline, "the second agent did not end"
            time.sleep(0.2)

    def test_they_end_with_the_container(self, shared_lab: Lab, host: HostView) -> None:
        short = shared_lab.run(shared_lab.image("payload"), ["-c", "sleep 5007"], entrypoint="/bin/sh")
        samples = host.samples(short, every_ms=50)
        next(samples)
        shared_lab.remove(short, force=True)
        assert len(list(samples)) < 10_000

    def test_several_are_read_at_one_instant_and_the_others_go_on(
        self, shared_lab: Lab, host: HostView
    ) -> None:
        short, long = (
            shared_lab.run(shared_lab.image("payload"), ["-c", "sleep 5007"], entrypoint="/bin/sh")
            for _ in range(2)
        )
        samples = host.samples_of([short, long], every_ms=50)
        first = next(samples)
        assert len({item.at_s for item in first if item}) == 1
        assert len({item.cgroup.path for item in first if item}) == 2
        shared_lab.remove(short, force=True)
        gone = next(seen for seen in samples if seen[0] is None)
        assert gone[1] is not None
        shared_lab.remove(long, force=True)
        assert len(list(samples)) < 10_000

    def test_any_file_can_be_watched(self, host: HostView) -> None:
        watched = host.watch(["/proc/uptime", "/proc/none"], every_ms=20)
        first, second = next(watched), next(watched)
        watched.close()
        assert float((second.texts["/proc/uptime"] or "").split()[0]) >= float(
            (first.texts["/proc/uptime"] or "").split()[0]
        )
        assert first.texts["/proc/none"] is None


class TestMountsAndDirectories:
    def test_as_findmnt(self, host: HostView, subject: Container) -> None:
        rows = json.loads(raised(subject, "findmnt -J -l -o ID,PARENT,TARGET,FSTYPE,VFS-OPTIONS"))[
            "filesystems"
        ]
        theirs = {(int(r["id"]), int(r["parent"]), r["target"], r["fstype"], r["vfs-options"]) for r in rows}
        mine = {(m.id, m.parent_id, m.point, m.kind, ",".join(m.options)) for m in host.mounts(subject)}
        assert mine == theirs
        assert VOLUME_POINT in {mount.point for mount in host.mounts(subject)}

    def test_the_layers_of_a_container(self, host: HostView, subject: Container) -> None:
        output(
            subject, "sh -c 'echo mine > /made; rm /etc/hostname.gone /etc/issue -f; rm -r /opt; mkdir /opt'"
        )
        root = next(mount for mount in host.mounts(subject) if mount.point == "/")
        assert root.kind == "overlay"
        assert root.upper
        changed = {item.path: item for item in host.directory(root.upper, recursive=True)}
        assert changed["made"].size_bytes == len("mine\n")
        assert changed["etc/issue"].is_whiteout
        assert changed["opt"].is_opaque
        assert not changed["etc"].is_opaque
        # the file that it deleted is still in a layer below
        assert [low for low in root.lower if "issue" in {item.path for item in host.directory(f"{low}/etc")}]

    def test_as_du(self, host: HostView, subject: Container, volume: Volume) -> None:
        output(
            subject,
            f'sh -c \'cd "{VOLUME_POINT}"; mkdir -p a/b; head -c 300000 /dev/zero > a/b/c; ln a/b/c twin; '
            "truncate -s 5M hole; chown -R 1234 a; chmod 700 a; sync'",
        )
        mine = host.disk_usage(volume.attrs["Mountpoint"])
        inside = host.disk_usage(VOLUME_POINT, subject)
        assert (mine.allocated_bytes, mine.apparent_bytes) == (inside.allocated_bytes, inside.apparent_bytes)
        blocks, lengths, inodes = (
            int(output(subject, f"du -sx {how} '{VOLUME_POINT}'").split()[0])
            for how in ("--block-size=1", "--block-size=1 --apparent-size", "--inodes")
        )
        assert mine.allocated_bytes == blocks
        assert mine.files + mine.directories == inodes
        # du 9 counts the lengths of files alone
        assert lengths <= mine.apparent_bytes <= lengths + mine.directories * 65536

    def test_a_directory_as_ls(self, host: HostView, subject: Container) -> None:
        output(subject, "sh -c 'mkdir -p /d; ln -sf /etc /d/link; mkfifo -m 600 /d/pipe; echo x > /d/file'")
        rows = output(subject, "find /d -mindepth 1 -printf '%f|%m|%U|%s|%i|%l\\n'").splitlines()
        mine = host.directory("/d", subject)
        assert sorted(rows) == [
            f"{m.path}|{m.mode:o}|{m.user}|{m.size_bytes}|{m.inode}|{m.target}" for m in mine
        ]
        assert [item.kind for item in mine] == ["file", "link", "fifo"]

    def test_names_as_stat(self, host: HostView, subject: Container) -> None:
        output(
            subject, "sh -c 'mkdir -p /n/d; echo x > /n/d/file; ln -sfn d /n/link; ln -sfn gone /n/dangling'"
        )
        seen = host.entries("/n", ["d/file", "link", "dangling", "link/file", "none", "d/none"], subject)
        assert [name for name, item in seen.items() if item is None] == ["link/file", "none", "d/none"]
        for name in ("d/file", "link", "dangling"):
            item = seen[name]
            assert item is not None
            size, inode, changed = output(subject, f"stat -c '%s %i %.9Y' /n/{name}").split()
            assert (item.path, item.size_bytes, item.inode) == (name, int(size), int(inode))
            assert item.modified_ns == int(changed.replace(".", ""))

    def test_a_real_path_as_readlink(self, host: HostView, subject: Container) -> None:
        output(subject, "sh -c 'mkdir -p /r/d; ln -sfn /r/d /r/one; ln -sfn ../r/one /r/two'")
        for path in ("/r/two/x/y", "/r/one/../two", "/", "/lib/../bin/sh"):
            assert host.real_path(path, subject) == output(subject, f"readlink -m {path}").strip()

    def test_a_link_leads_where_it_leads_in_the_container(self, host: HostView, subject: Container) -> None:
        output(
            subject, "sh -c 'mkdir -p /elsewhere; touch /elsewhere/only-here; ln -sfn /elsewhere /srv/link'"
        )
        assert [item.path for item in host.directory("/srv/link/.", subject)] == ["only-here"]
        assert host.directory("/srv/../../srv/link", subject) == host.directory("/elsewhere", subject)

    def test_files_of_the_host(self, host: HostView, volume: Volume, subject: Container) -> None:
        output(subject, f"sh -c 'echo from the volume > \"{VOLUME_POINT}/note\"'")
        note = f"{volume.attrs['Mountpoint']}/note"
        assert host.read(note) == "from the volume\n"
        assert host.read(note, begin_bytes=4) == "from"


class TestNetwork:
    def test_interfaces_as_ip(self, host: HostView, subject: Container) -> None:
        rows = json.loads(raised(subject, "ip -j link"))
        theirs = [(r["ifindex"], r["ifname"], r["mtu"], r["operstate"], tuple(r["flags"])) for r in rows]
        mine = host.interfaces(subject)
        assert [(i.index, i.name, i.mtu_bytes, i.state, i.flags) for i in mine] == theirs
        counted = int(output(subject, "cat /sys/class/net/eth0/statistics/rx_bytes"))
        assert mine[1].received_bytes <= counted

    def test_addresses_and_routes_as_ip(self, host: HostView, subject: Container) -> None:
        rows = json.loads(raised(subject, "ip -j address"))
        theirs = {(r["ifname"], a["local"], a["prefixlen"]) for r in rows for a in r["addr_info"]}
        assert {(a.interface, a.address, a.prefix_length) for a in host.addresses(subject)} == theirs
        routes = [(r["dst"], r.get("gateway"), r["dev"]) for r in json.loads(raised(subject, "ip -j route"))]
        mine = [r for r in host.routes(subject) if r.family == "inet"]
        assert [(r.destination, r.gateway, r.interface) for r in mine] == routes

    def test_the_engine_says_the_same_address(self, host: HostView, subject: Container) -> None:
        subject.reload()
        (raised,) = subject.attrs["NetworkSettings"]["Networks"].values()
        mine = next(a for a in host.addresses(subject) if a.interface == "eth0" and a.family == "inet")
        assert (mine.address, mine.prefix_length) == (raised["IPAddress"], raised["IPPrefixLen"])
        default = next(r for r in host.routes(subject) if r.destination == "default")
        assert default.gateway == raised["Gateway"]
        assert next(i.mac for i in host.interfaces(subject) if i.name == "eth0") == raised["MacAddress"]

    def test_a_neighbour_that_was_met(self, host: HostView, subject: Container) -> None:
        gateway = next(r.gateway for r in host.routes(subject) if r.destination == "default")
        output(subject, f"ping -c 1 -W 5 {gateway}")
        met = next(item for item in host.neighbours(subject) if item.address == gateway)
        bridge = next(item for item in host.interfaces() if item.name == "docker0")
        assert met.mac == bridge.mac

    def test_both_ends_of_the_cable(self, host: HostView, subject: Container, looker: Container) -> None:
        inner = next(item for item in host.interfaces(subject) if item.name == "eth0")
        outer = next(item for item in host.interfaces() if item.index == inner.peer_index)
        assert (inner.kind, outer.kind) == ("veth", "veth")
        assert outer.peer_index == inner.index
        assert outer.master == "docker0"
        assert output(looker, f"cat /sys/class/net/{outer.name}/ifindex").strip() == str(outer.index)
        # containers of others come and go meanwhile
        look = lambda: set(output(looker, "ls /sys/class/net/docker0/brif").split())  # noqa: E731
        before = look()
        ports = {port.interface for port in host.bridge_ports() if port.bridge == "docker0"}
        after = look()
        assert before & after <= ports <= before | after
        assert outer.name in before & after
        assert outer.name in ports

    def test_the_hosts_firewall_as_iptables(
        self, host: HostView, subject: Container, looker: Container
    ) -> None:
        subject.reload()
        (raised,) = subject.attrs["NetworkSettings"]["Networks"].values()

        def listed() -> list[str]:
            return [
                ln for ln in output(looker, "iptables -t nat -S DOCKER").splitlines() if ln.startswith("-A")
            ]

        for _ in range(10):  # other tests publish ports meanwhile: both must be of one moment
            before, mine, theirs = listed(), host.firewall().of("nat", "DOCKER"), listed()
            if before == theirs:
                break
        assert [rule for rule in mine if rule.target == "DNAT" and f"{raised['IPAddress']}:80" in rule.text]
        assert [f"-A DOCKER {rule.text}" for rule in mine if rule.family == "ip"] == theirs

    def test_the_firewall_of_a_container(self, host: HostView, subject: Container) -> None:
        assert host.firewall(subject).frame().empty
        output(subject, "iptables -A OUTPUT -d 192.0.2.7 -j REJECT")
        output(subject, "nft add table inet mine")
        output(
            subject, "nft add chain inet mine out { type filter hook output priority 5 ; policy accept ; }"
        )
        output(subject, "nft add rule inet mine out ip daddr 192.0.2.8 counter drop")
        subject.exec_run(["ping", "-c", "1", "-W", "1", "192.0.2.7"])
        seen = host.firewall(subject)
        (reject,) = seen.of("filter", "OUTPUT")
        assert (reject.tool, reject.target, reject.packets) == ("iptables-nft", "REJECT", 1)
        (drop,) = seen.of("mine", "out")
        assert (drop.tool, drop.family, drop.target, drop.packets) == ("nft", "inet", "DROP", 0)
        assert "192.0.2.8" in drop.text
        assert ("mine", "out", "ACCEPT") in [(c.table, c.name, c.policy) for c in seen.chains]
        output(subject, "nft flush ruleset")


Read = Callable[[HostView, Any], object]
READS: dict[str, Read] = {
    "processes": lambda host, of: host.processes(of),
    "namespaces": lambda host, of: host.namespaces(of),
    "memory": lambda host, of: host.memory(of),
    "cgroup": lambda host, of: host.cgroup(of),
    "samples": lambda host, of: next(host.samples(of)),
    "samples_of": lambda host, of: next(host.samples_of([of])),
    "cgroup_files": lambda host, of: host.cgroup_files(of, ["pids.max"]),
    "mounts": lambda host, of: host.mounts(of),
    "directory": lambda host, of: host.directory("/etc", of),
    "entries": lambda host, of: host.entries("/etc", ["passwd"], of),
    "disk_usage": lambda host, of: host.disk_usage("/etc", of),
    "interfaces": lambda host, of: host.interfaces(of),
    "addresses": lambda host, of: host.addresses(of),
    "routes": lambda host, of: host.routes(of),
    "neighbours": lambda host, of: host.neighbours(of),
    "bridge_ports": lambda host, of: host.bridge_ports(of),
    "firewall": lambda host, of: host.firewall(of),
}


@pytest.fixture(scope="module")
def stopped(shared_lab: Lab) -> Container:
    made = shared_lab.run(shared_lab.image("payload"), ["-c", "true"], entrypoint="/bin/sh")
    made.wait()
    return made


@pytest.fixture(scope="module")
def dead(shared_lab: Lab, host: HostView) -> tuple[Container, int]:
    """A container, and the pid that its first process had."""
    made = shared_lab.run(shared_lab.image("payload"), ["-c", "sleep 5008"], entrypoint="/bin/sh")
    pid = host._first_pid(made)
    made.kill()
    made.wait()
    return made, pid


@pytest.mark.parametrize("name", READS)
class TestWhatCannotBeRead:
    def test_a_container_that_is_not_there(self, host: HostView, name: str) -> None:
        with pytest.raises(LabError, match="no container named no-such") as caught:
            READS[name](host, "no-such")
        assert caught.value.hint
        assert caught.value.engine_message

    def test_a_stopped_container(self, host: HostView, stopped: Container, name: str) -> None:
        with pytest.raises(LabError, match=r"is not running \(its state is exited\)") as caught:
            READS[name](host, stopped)
        assert "docker logs" in caught.value.hint

    @pytest.mark.parametrize("wrong", ["", 0, True, 1.5, ["web"]], ids=repr)
    def test_what_is_no_container(self, host: HostView, name: str, wrong: object) -> None:
        with pytest.raises(BadInput):
            READS[name](host, wrong)

    def test_a_container_that_dies_while_it_is_read(
        self, host: HostView, dead: tuple[Container, int], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        container, pid = dead
        # as if it had died right after its pid was looked up
        monkeypatch.setattr(host, "_first_pid", lambda container: pid)
        with pytest.raises(LabError, match=r"exited while it was read|is not running") as caught:
            READS[name](host, container)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda host: host.read("relative"), "not an absolute path"),
        (lambda host: host.read("/a\0b"), "not an absolute path"),
        (lambda host: host.directory(""), "not an absolute path"),
        (lambda host: host.watch(["/proc/uptime"], every_ms=1), "cannot sample"),
        (lambda host: host.watch(["/proc/uptime"], every_ms=float("nan")), "cannot sample"),
        (lambda host: host.directory("/usr", recursive=True, limit=3), "more than 3"),
        (lambda host: host.mounts(-1), "no process -1"),
        (lambda host: host.mounts(999_999_999), "no process 999999999"),
        (lambda host: host.read("/no/such"), "cannot read"),
        (lambda host: host.read("/proc"), "cannot read"),
        (lambda host: host.read("/dev/zero"), "cannot read"),
        (lambda host: host.directory("/proc/version"), "cannot read"),
        (lambda host: host.disk_usage("/no/such"), "cannot read"),
        (lambda host: host.entries("/no/such", ["x"]), "cannot read"),
        (lambda host: host.entries("/etc", ["../x"]), "not a relative path below"),
        (lambda host: host.entries("/etc", ["/x"]), "not a relative path below"),
    ],
)
def test_what_cannot_be_meant(host: HostView, read: Callable[[HostView], object], text: str) -> None:
    with pytest.raises(LabError, match=text) as caught:
        read(host)
    assert caught.value.hint


class TestHelper:
    def test_it_is_one_and_has_few_rights(self, shared_lab: Lab, host: HostView) -> None:
        host.kernel()
        host.firewall()
        mine = helpers(shared_lab)
        assert len(mine) == 1
        rights, names = mine[0].attrs["HostConfig"], mine[0].attrs["NetworkSettings"]
        assert not rights["Privileged"]
        assert rights["CapDrop"] == ["ALL"]
        caps = {cap.removeprefix("CAP_") for cap in rights["CapAdd"]}
        assert caps == {"SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN", "DAC_READ_SEARCH"}
        assert all(cap in (HostView.__doc__ or "") for cap in caps)
        assert rights["ReadonlyRootfs"]
        assert rights["Binds"] == ["/sys/fs/cgroup:/sys/fs/cgroup:ro"]
        assert not names.get("Ports")
        assert host.unavailable == ()

    def test_one_that_was_killed_is_started_again(self, shared_lab: Lab, host: HostView) -> None:
        first = host.kernel()
        helpers(shared_lab)[0].kill()
        assert host.kernel() == first

    def test_closing_ends_it_and_reading_starts_another(self, shared_lab: Lab, host: HostView) -> None:
        host.kernel()
        host.close()
        assert helpers(shared_lab) == []
        assert host.kernel().release
        assert len(helpers(shared_lab)) == 1

    def test_it_ends_with_its_owner(self, engine: Engine) -> None:
        code = "from labhelpers.lab import Lab; lab = Lab('test'); lab.host.kernel(); print(lab.session); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        ) as process:
            assert process.stdout
            session = process.stdout.readline().strip()
            wanted = {"label": f"labhelpers.session={session}"}
            assert engine.client.containers.list(filters=wanted, ignore_removed=True)
            process.kill()
        deadline = time.monotonic() + 30
        while engine.client.api.containers(all=True, filters=wanted):
            assert time.monotonic() < deadline
            time.sleep(0.1)


class Refusing:
    """The engine's client, but for an engine that does not give some rights."""

    def __init__(self, api: Any, *refused: str) -> None:
        self._api = api
        self._refused = refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def create_container_from_config(self, body: dict[str, Any]) -> Any:
        asked = [*body["HostConfig"]["CapAdd"], *body["HostConfig"]["Binds"], body["HostConfig"]["PidMode"]]
        for right in self._refused:
            if right in asked:
                raise APIError("refused", explanation=f"no {right} here")
        return self._api.create_container_from_config(body)


class TestAnEngineThatRefuses:
    @pytest.fixture
    def view(self, shared_lab: Lab) -> Iterator[Callable[..., HostView]]:
        made = []

        def build(*refused: str) -> HostView:
            view = HostView(
                shared_lab.engine, shared_lab._labels("container"), lambda: shared_lab.image("tools")
            )
            view._helper._api = Refusing(view._helper._api, *refused)
            made.append(view)
            return view

        yield build
        for view in made:
            view.close()

    def test_a_capability(self, view: Callable[..., HostView], subject: Container, shared_lab: Lab) -> None:
        less = view("SYS_ADMIN", "NET_ADMIN")
        assert less.processes(subject)[0].namespaces["net"]
        assert less.cgroup(subject).pids.limit == 50
        assert [item.name for item in less.interfaces()]
        assert [line.partition(" (refused: ")[2] for line in less.unavailable] == ["SYS_ADMIN)", "NET_ADMIN)"]
        for read in (less.interfaces, less.firewall):
            with pytest.raises(LabError, match="cannot read") as caught:
                read(subject)
            assert "refused: SYS_ADMIN" in caught.value.hint

    def test_the_cgroups(self, view: Callable[..., HostView], host: HostView, subject: Container) -> None:
        less = view("/sys/fs/cgroup:/sys/fs/cgroup:ro")
        assert [item.name for item in less.interfaces(subject)] == ["lo", "eth0"]
        if host.cgroup(subject).version == 2:
            # a container in the host's cgroup namespace has all of version 2 anyway
            assert less.cgroup(subject).pids.limit == 50
            return
        with pytest.raises(LabError, match="cannot read") as caught:
            less.cgroup(subject)
        assert "cgroup v1" in caught.value.hint

    def test_looking_at_other_processes(self, view: Callable[..., HostView], subject: Container) -> None:
        less = view("SYS_PTRACE")
        assert len(less.processes(subject)) == 3
        with pytest.raises(LabError, match="cannot read") as caught:
            less.directory("/etc", subject)
        assert "refused: SYS_PTRACE" in caught.value.hint

    def test_the_host_itself(self, view: Callable[..., HostView], shared_lab: Lab) -> None:
        before = {item.id for item in helpers(shared_lab)}
        with pytest.raises(LabError, match="does not allow the lab to inspect its host") as caught:
            view("host").kernel()
        assert caught.value.engine_message == "no host here"
        assert {item.id for item in helpers(shared_lab)} == before


def helpers(lab: Lab) -> list[Container]:
    wanted = {"label": f"labhelpers.session={lab.session}"}
    mine = lab.client.containers.list(all=True, filters=wanted, ignore_removed=True)
    return [
        item
        for item in mine
        if item.attrs["HostConfig"]["PidMode"] == "host" and "python3" in item.attrs["Path"]
    ]


def host_info(container: Container) -> dict[str, Any]:
    client: Any = container.client
    found: dict[str, Any] = client.info()
    return found


def test_a_network_at_once_is_what_its_parts_are(subject: Container, host: HostView) -> None:
    found = host.network(subject)
    assert [(item.index, item.name, item.mac) for item in found.interfaces] == [
        (item.index, item.name, item.mac) for item in host.interfaces(subject)
    ]
    assert list(found.addresses) == host.addresses(subject)
    assert list(found.routes) == host.routes(subject)
    assert list(found.bridge_ports) == host.bridge_ports(subject)


def test_the_helper_is_known_by_its_id(shared_lab: Lab, host: HostView) -> None:
    host.kernel()
    assert host.helper in {row["Id"] for row in shared_lab.client.api.containers()}


def test_an_engine_that_starts_no_helper_at_all(engine: Engine) -> None:
    """As Enhanced Container Isolation refuses it: here the engine refuses because it does not have the image."""
    fenced = HostView(engine, {}, lambda: "labhelpers/no-such-image")
    (output,) = fenced.unavailable
    assert output.startswith("anything of the engine's host")
    assert "no-such-image" in output
    with pytest.raises(LabError, match="does not allow the lab to inspect its host"):
        fenced.processes()
