"""What other kernels, engines and tools print: real forms are read, unknown ones are skipped, nothing is a traceback.

Sources of the forms: kernel, Documentation/admin-guide/cgroup-v1/, cgroup-v2.rst, accounting/psi.rst,
filesystems/proc.rst, overlayfs.rst; proc(5); the field log's reports.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import QUICK, mutated_json, mutated_text

from labhelpers.engine import debootstrap, machine_changes, responses
from labhelpers.engine.host import agent, cgroup_paths, cgroups, network, processes, storage
from labhelpers.engine.host.text import contains_word, integer, json_of, lines
from labhelpers.engine.image_builds import build_steps
from labhelpers.errors import LabError
from labhelpers.monitoring import engine_socket
from labhelpers.volumes.ownership import host_id

# --- /proc/PID/cgroup and mountinfo

ID = "ab" * 32
V2 = f"0::/system.slice/docker-{ID}.scope\n"
V1 = (
    f"12:memory:/docker/{ID}\n11:cpu,cpuacct:/docker/{ID}\n10:blkio:/docker/{ID}\n9:pids:/docker/{ID}\n"
    f"2:rdma:/\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n"
)
V1_NO_MEMORY = V1.split("\n", 1)[1]
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db.scope (deleted)\n"
MOUNTS_V1 = (
    "30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    "33 30 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n"
    "34 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 master:3 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 30 0:31 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
    "36 30 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    "37 30 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
)
MOUNTS_V2 = (
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)
OVERLAY = (
    "100 90 0:50 / / rw,relatime master:7 propagate_from:2 - overlay overlay rw,lowerdir=/a\\134:b:/c\\054d,"
    "upperdir=/up,workdir=/work,xino=off\n"
    "101 100 8:1 /my\\040dir//deleted /da\\040ta\\134x rw - ext4 /dev/sda1 rw\n"
    "102 100 0:51 / /run rw shared:1 - tmpfs  rw,size=64k\n"
    "103 100 0:4 net:[4026532000] /run/docker/netns/1 rw shared:2 - nsfs nsfs rw\n"
    "104 100 0:52 / /six rw - overlay o rw,lowerdir+=/one,lowerdir+=/two,datadir+=/data,upperdir=/u,workdir=/w"
)


def test_a_cgroup_of_each_kind_is_found() -> None:
    two = cgroup_paths.locate_cgroup(V2, MOUNTS_V2)
    assert two == cgroup_paths.CgroupLocation(2, V2[3:].strip(), {"": f"/sys/fs/cgroup{V2[3:].strip()}"})
    item = cgroup_paths.locate_cgroup(V1, MOUNTS_V1)
    assert item is not None
    assert (item.version, item.path) == (1, f"/docker/{ID}")
    assert item.directories["cpu"] == f"/sys/fs/cgroup/cpu,cpuacct/docker/{ID}"
    user = cgroup_paths.locate_cgroup(USER, MOUNTS_V2)
    assert user is not None
    assert user.path.endswith("app-a\\x2db.scope")


def test_a_kernel_without_the_memory_controller_shows_the_rest() -> None:
    """cgroup_disable=memory, as on a Raspberry Pi, with either version (field log A09)."""
    mounts = MOUNTS_V1.replace(
        "33 30 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n", ""
    )
    place = cgroup_paths.locate_cgroup(V1_NO_MEMORY, mounts)
    assert place is not None
    assert place.version == 1
    texts: dict[str, str | None] = dict.fromkeys(place.files)
    texts |= {
        f"{place.directories['pids']}/pids.current": "3\n",
        f"{place.directories['pids']}/pids.max": "max\n",
    }
    texts |= {f"{place.directories['cpuacct']}/cpuacct.usage": "5000\n"}
    texts |= {
        f"{place.directories['cpu']}/cpu.stat": "nr_periods 1\nnr_throttled 0\nthrottled_time 0\nnr_bursts 0\n"
    }
    seen = cgroups.cgroup(place, texts)
    assert (seen.cpu.usage_us, seen.pids.current, seen.pids.limit) == (5, 3, None)
    with pytest.raises(LabError, match="its memory is not accounted") as none:
        _ = seen.memory
    assert "cgroup_enable=memory" in none.value.hint
    assert cgroup_paths.is_below(V1_NO_MEMORY, V1_NO_MEMORY)
    two = cgroup_paths.locate_cgroup(V2, MOUNTS_V2)
    assert two is not None
    where = two.directories[""]
    seen = cgroups.cgroup(
        two, {f"{where}/pids.current": "1", f"{where}/cpu.stat": "usage_usec 1", f"{where}/cpu.max": "max"}
    )
    assert (seen.pids.current, seen.cpu.usage_us, seen.cpu.quota_us, seen.cpu.period_us) == (
        1,
        1,
        None,
        100_000,
    )


def test_a_controller_that_version_1_does_not_use_may_be_version_2s() -> None:
    service = cgroup_paths.locate_cgroup(V1_NO_MEMORY, MOUNTS_V1)
    assert service is not None
    assert "" not in service.directories, "that is the cgroup of containerd, which counts other processes"
    place = cgroup_paths.locate_cgroup(
        V1_NO_MEMORY.replace("0::/system.slice/containerd.service", f"0::/docker/{ID}"), MOUNTS_V1
    )
    assert place is not None
    where = place.directories[""]
    texts = {
        f"{where}/memory.current": "4096\n",
        f"{where}/memory.stat": "anon 1\nfile 2\ninactive_file 0\nnew_key 9\n",
    }
    assert cgroups.cgroup(place, texts).memory.anon_bytes == 1


def test_processes_below_a_cgroup_are_recognized_by_whole_names() -> None:
    below = V2.replace(".scope", ".scope/init")
    assert cgroup_paths.is_below(below, V2)
    assert not cgroup_paths.is_below(V2.replace(".scope", ".scope2"), V2)
    assert not cgroup_paths.is_below("", V2)
    assert not cgroup_paths.is_below(V2, "")


def test_a_mount_table_of_every_kind() -> None:
    root, deleted, empty, name, six = storage.mounts(OVERLAY)
    assert root.lower == ("/a:b", "/c,d")
    assert root.propagation == ("master:7", "propagate_from:2")
    assert (deleted.root, deleted.point) == ("/my dir//deleted", "/da ta\\x")
    assert (empty.source, empty.settings["size"]) == ("", "64k")
    assert name.root == "net:[4026532000]"
    assert six.lower == ("/one", "/two")
    odd = "105 100 0:53 / /a\x0bb\u2028c rw - tmpfs t rw\r\nno mount at all\n"
    assert [mount.point for mount in storage.mounts(odd)] == ["/a\x0bb\u2028c"]


# --- cgroup files

FILES_1 = {
    "cpu.cfs_quota_us": "-1\n",
    "cpu.cfs_period_us": "100000\n",
    "cpu.shares": "1024\n",
    "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\nnr_bursts 0\nburst_time 0\nwait_sum 12\n",
    "cpuacct.usage": "123456\n",
    "cpuacct.usage_user": "23456\n",
    "cpuacct.usage_sys": "100000\n",
    "memory.usage_in_bytes": "4096\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.max_usage_in_bytes": "8192\n",
    "memory.failcnt": "0\n",
    "memory.stat": "cache 0\nrss 4096\nhierarchical_memory_limit 18446744073709551615\ntotal_cache 1\ntotal_rss 2\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 0\n(unknown) Read 9\nTotal 9\n",
    "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
    "pids.current": "1\n",
    "pids.max": "max\n",
}
FILES_2 = {
    "cpu.stat": "usage_usec 5\nuser_usec 2\nsystem_usec 3\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 0\n",
    "cpu.max": "max 100000\n",
    "cpu.weight": "100\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=17\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.peak": "8192\n",
    "memory.swap.current": "0\n",
    "memory.swap.max": "0\n",
    "memory.stat": "anon 4096\nfile 0\nkernel 100\nsec_pagetables 0\ninactive_file 0\nzswpin 0\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory.pressure": "some avg10=1.50 avg60=0 avg300=0 total=20\nfull avg10=0.50 avg60=0 avg300=0 total=7\n",
    "io.stat": "8:16 8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=9\n254:0\n259:1 rbytes=5\n",
    "pids.current": "1\n",
    "pids.max": "9223372036854775807\n",
}


def _seen(version: int, files: dict[str, str]) -> cgroups.Cgroup:
    names = [name for name in cgroup_paths.FILES if bool(name) == (version == 1)]
    place = cgroup_paths.CgroupLocation(version, "/x", {name: f"/{name}" for name in names})
    texts = {f"/{name}/{file}": files.get(file) for name in names for file in cgroup_paths.FILES[name]}
    return cgroups.cgroup(place, texts)


def test_the_files_of_version_1() -> None:
    seen = _seen(1, FILES_1)
    assert (seen.memory.limit_bytes, seen.memory.anon_bytes, seen.cpu.quota_us, seen.pids.limit) == (
        None,
        2,
        None,
        None,
    )
    assert seen.io.devices == (cgroups.DeviceIo("8:0", 4096, 0, 1, 0),)
    flat = {
        **FILES_1,
        "memory.stat": "cache 3\nrss 4\n",
        "blkio.throttle.io_service_bytes_recursive": "Total 0\n",
    }
    assert (_seen(1, flat).memory.cache_bytes, _seen(1, flat).memory.anon_bytes) == (3, 4)


def test_the_files_of_version_2() -> None:
    seen = _seen(2, FILES_2)
    assert (seen.memory.limit_hits, seen.memory.swap_limit_bytes, seen.pids.limit) == (3, 0, None)
    assert seen.io.devices == (cgroups.DeviceIo("259:1", 5, 0, 0, 0), cgroups.DeviceIo("8:0", 4096, 0, 1, 0))
    cpu, memory = seen.pressure
    assert (cpu.some_us, cpu.full_us, memory.full_us, memory.some_percent) == (17, 0, 7, 1.5)


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (1, {"cpuacct.usage": "5000", "cpu.shares": "1024"}),
        (2, {"cpu.stat": FILES_2["cpu.stat"].partition("nr_periods")[0], "cpu.weight": "100"}),
    ],
)
def test_a_kernel_without_quotas_counts_processor_time(version: int, files: dict[str, str]) -> None:
    """Built without CONFIG_CFS_BANDWIDTH, as for NAS boxes; `docker run --cpus` fails there."""
    cpu = _seen(version, files).cpu
    assert (cpu.usage_us, cpu.quota_us, cpu.periods) == (5, None, 0)
    bare = _seen(2, {"cpu.stat": FILES_2["cpu.stat"]})
    with pytest.raises(LabError, match="no cpu controller"):
        _ = bare.cpu


@pytest.mark.parametrize("limit", ["9223372036854771712", "9223372036854710272", "8796093018112", "-1"])
def test_no_limit_as_kernels_with_other_pages_and_words_write_it(limit: str) -> None:
    assert _seen(1, {**FILES_1, "memory.limit_in_bytes": limit}).memory.limit_bytes is None


def test_blkio_of_older_kernels() -> None:
    """Linux 3.10 and 4.15 have the counters of the cgroup itself alone."""
    old = {name.removesuffix("_recursive"): text for name, text in FILES_1.items()}
    assert _seen(1, old).io == _seen(1, FILES_1).io
    assert _seen(1, old).io.read_bytes == 4096


@QUICK
@given(st.data(), st.sampled_from([1, 2]))
def test_cgroup_files_in_any_form(data: st.DataObject, version: int) -> None:
    files = dict(FILES_1 if version == 1 else FILES_2)
    for name in data.draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        files[name] = data.draw(mutated_text([files[name]]))
    seen = _seen(version, files)
    assert seen.frame()["version"].item() == version


@QUICK
@given(
    mutated_text([V1, V2, V1_NO_MEMORY, USER, ""]),
    mutated_text([MOUNTS_V1, MOUNTS_V2, OVERLAY]),
    mutated_text([V1, V2]),
)
def test_tables_in_any_form(table: str, mountinfo: str, other: str) -> None:
    found = cgroup_paths.locate_cgroup(table, mountinfo)
    assert found is None or found.files is not None
    cgroup_paths.is_below(table, other)
    storage.mounts(mountinfo)


# --- processes

STATUS = (
    "Name:\tmy (odd) pro:g\nState:\tS (sleeping)\nTgid:\t7\nNgid:\t0\nPid:\t7\nPPid:\t1\nUid:\t0\t5\t0\t0\n"
    "Gid:\t0\t0\t0\t0\nGroups:\t\nNStgid:\t7\t1\nNSpid:\t7\t1\nKthread:\t0\nThreads:\t2\nSigQ:\t0/7\nx86_Thread_features:\t\n"
)
OLD_STATUS = "Name:\tinit\nState:\tR (running)\nPid:\t7\nPPid:\t0\nUid:\t0\t0\t0\t0\n"


def test_a_process_of_an_old_kernel_and_of_a_new_one() -> None:
    new = processes.process(
        7, {"status": STATUS, "cmdline": "", "ns": {"pid": "pid:[4026531836]", "odd": "x"}}
    )
    assert new is not None
    assert (new.command, new.nspid, new.user, new.state, new.namespaces) == (
        "[my (odd) pro:g]",
        (7, 1),
        5,
        "S",
        {"pid": 4026531836},
    )
    old = processes.process(7, {"status": OLD_STATUS, "cmdline": "/sbin/init\0", "ns": {}})
    assert old is not None
    assert (old.nspid, old.threads) == ((7,), 1)
    # a program may call itself anything: what stands in its name is no line of its own
    named = processes.process(7, {"status": STATUS.replace("my", "x\x0cUid:\t9\t9"), "cmdline": "", "ns": {}})
    assert named is not None
    assert named.user == 5
    assert processes.process(7, {"status": "Name:\tx\nState:\tS"}) is None


@QUICK
@given(
    mutated_text([STATUS, OLD_STATUS]),
    mutated_text(["a\0b", ""]),
    st.sampled_from(["pid:[1]", "pid", "", "[x]", "[²]"]),
)
def test_a_process_in_any_form(status: str, cmdline: str, link: str) -> None:
    found = processes.process(7, {"status": status, "cmdline": cmdline, "ns": {"pid": link}})
    assert found is None or found.command


# --- words and numbers


@pytest.mark.parametrize(
    ("text", "word", "is_there"),
    [
        ("-p tcp --dport 8080 -j DNAT", "80", False),
        ("-p tcp --dport 80 -j DNAT", "80", True),
        ("-i veth0 -j x", "eth0", False),
        ("-i eth01 -j x", "eth0", False),
        ("! -i docker0 -o docker0 -j x", "docker0", True),
        ("-i docker01 -j x", "docker0", False),
        ("-i docker0+ -j x", "docker0", False),
        ("-d 172.17.0.20/32", "172.17.0.2", False),
        ("-d 172.17.0.2/32", "172.17.0.2", True),
        ("--to-destination 172.17.0.2:80", "172.17.0.2", True),
        ('"right": "172.17.0.2"', "172.17.0.2", True),
        ("-s 110.0.0.1/32", "10.0.0.1", False),
        ("-s 10.0.0.0/24", "10.0.0.0/2", False),
        ("-d fd00::20/128", "fd00::2", False),
        ("-d fd00::2:1/128", "fd00::2", False),
        ("--to-destination [fd00::2]:80", "fd00::2", True),
        ("-o br-0123456789ab", "br-0123456789a", False),
        ("anything", "", False),
    ],
)
def test_words_are_compared_as_a_whole(text: str, word: str, is_there: bool) -> None:
    assert contains_word(text, word) is is_there


@QUICK
@given(st.text(max_size=30), st.text(max_size=6))
def test_words_and_numbers_in_any_form(text: str, word: str) -> None:
    contains_word(text, word)
    number = integer(text)
    assert number is None or str(number).lstrip("-") in text
    assert all("\n" not in line for line in lines(text))


# --- ip, bridge, nft, iptables

LINKS: list[Any] = [
    {"ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "operstate": "UNKNOWN", "address": "0"},
    {"ifindex": 5, "link_index": 4, "ifname": "eth0", "flags": [], "mtu": 1500, "operstate": "UP", "link_netnsid": 0,
     "address": "02:42:ac:11:00:02", "linkinfo": {"info_kind": "veth"}, "stats64": {"rx": {"bytes": 9}, "tx": {}}},
    {},
]  # fmt: skip
ADDRESSES: list[Any] = [
    {
        "ifname": "eth0",
        "addr_info": [{"family": "inet", "local": "10.0.0.2", "prefixlen": 24, "scope": "global"}],
    }
]
ROUTES: list[Any] = [
    {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0", "flags": []},
    {"dst": "10.1.0.0/16", "nexthops": [{"gateway": "10.0.0.9", "dev": "eth1", "weight": 1}], "metric": 5},
    {"dst": "10.2.0.0/16", "via": {"family": "inet6", "host": "fe80::1"}, "dev": "eth0"},
    {"type": "unreachable", "dst": "10.3.0.0/16"},
]
NEIGHBOURS: list[Any] = [
    {"dst": "10.0.0.1", "dev": "eth0", "lladdr": "02:00", "state": ["REACHABLE"]},
    {"dst": "x", "state": []},
]
PORTS: list[Any] = [{"ifname": "veth1", "master": "docker0", "state": "forwarding"}, {"ifname": "lo"}]
RULESET: dict[str, Any] = {
    "nftables": [
        {"metainfo": {"version": "1.1.3", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "docker-bridges", "handle": 1}},
        {"map": {"family": "ip", "name": "filter-forward-in-jumps", "map": "verdict"}},
        {"chain": {"family": "ip", "table": "docker-bridges", "name": "nat-prerouting", "policy": "accept"}},
        {"rule": {"family": "ip", "table": "docker-bridges", "chain": "nat-prerouting", "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}},
            {"counter": {"packets": 3, "bytes": 4}}, {"dnat": {"addr": "172.17.0.2", "port": 80}}]}},
        {"rule": {"family": "ip", "table": "docker-bridges", "chain": "x", "expr": [{"vmap": 1}, "?", {"xt": None}]}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"counter": "named"}, {"accept": None}]}},
    ]
}  # fmt: skip
SAVED = (
    "# Generated by iptables-save v1.8.9 (nf_tables) on Fri\n*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n"
    "[5:300] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n"
    '[0:0] -A PREROUTING -m comment --comment "a \\"-j DROP\\" -j ACCEPT" -g DOCKER\nCOMMIT\n'
    "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
    "*filter\n:FORWARD DROP\n-A FORWARD -m addrtype --dst-type LOCAL\nCOMMIT\n"
)


def test_the_other_end_in_the_same_namespace_is_written_by_its_name() -> None:
    """As iproute2 6.1 prints a veth pair, a macvlan on it, and one whose other end is elsewhere."""
    rows = [
        {"ifindex": 18, "link": "va", "ifname": "vb", "linkinfo": {"info_kind": "veth"}},
        {"ifindex": 19, "link": "vb", "ifname": "va", "linkinfo": {"info_kind": "veth"}},
        {"ifindex": 20, "link": "va", "ifname": "mv", "linkinfo": {"info_kind": "macvlan"}},
        {"ifindex": 21, "link_index": 7, "ifname": "v0", "link_netnsid": 3},
        {"ifindex": 22, "link": None, "ifname": "tunl0"},
        {"ifindex": 23, "ifname": "docker0"},
        {"ifindex": 24},
    ]
    found = network.interfaces(json.dumps(rows))
    assert [(item.name, item.peer_index) for item in found] == [
        ("vb", 19), ("va", 18), ("mv", 19), ("v0", 7), ("tunl0", None), ("docker0", None)
    ]  # fmt: skip


def test_what_iproute2_prints() -> None:
    _, veth = network.interfaces(json.dumps(LINKS))
    assert (veth.kind, veth.received_bytes, veth.sent_bytes) == ("veth", 9, 0)
    found = network.routes(json.dumps(ROUTES), "inet")
    assert [(item.gateway, item.interface) for item in found] == [
        ("10.0.0.1", "eth0"), ("10.0.0.9", "eth1"), ("fe80::1", "eth0"), (None, "")
    ]  # fmt: skip
    assert [item.state for item in network.neighbours(json.dumps(NEIGHBOURS))] == ["REACHABLE", "NONE"]
    assert [item.bridge for item in network.bridge_ports(json.dumps(PORTS))] == ["docker0"]
    assert network.interfaces("") == network.interfaces("[]\n") == network.interfaces("[{}]") == []
    assert json_of("# Warning: odd\n[1]\n[2]", "ip") == [1]
    with pytest.raises(LabError, match="did not print JSON") as odd:
        network.interfaces("1: lo: <LOOPBACK> mtu 65536")
    assert odd.value.engine_message


def test_what_the_firewall_prints() -> None:
    found = network.firewall([("iptables-nft", "ip", SAVED)], json.dumps(RULESET))
    assert [(item.table, item.name, item.policy) for item in found.chains] == [
        ("nat", "PREROUTING", "ACCEPT"), ("nat", "DOCKER", None), ("filter", "FORWARD", "DROP"),
        ("docker-bridges", "nat-prerouting", "ACCEPT"),
    ]  # fmt: skip
    by_target = [(item.chain, item.target, item.packets) for item in found.rules]
    assert by_target[:3] == [("DOCKER", "DNAT", 5), ("PREROUTING", "DOCKER", 0), ("FORWARD", None, None)]
    assert by_target[3:] == [("nat-prerouting", "DNAT", 3), ("x", None, None), ("c", "ACCEPT", None)]


@QUICK
@given(
    mutated_json(LINKS),
    mutated_json(ADDRESSES),
    mutated_json(ROUTES),
    mutated_json(RULESET),
    mutated_text([SAVED]),
)
def test_networks_in_any_form(links: Any, addresses: Any, routes: Any, ruleset: Any, saved: str) -> None:
    # a number or a word in place of a list is no answer of `ip -j`: a LabError
    with suppress(LabError):
        network.interfaces(json.dumps(links))
    with suppress(LabError):
        network.addresses(json.dumps(addresses))
    with suppress(LabError):
        network.routes(json.dumps(routes), "inet6")
    with suppress(LabError):
        network.neighbours(json.dumps(routes))
    with suppress(LabError):
        network.bridge_ports(json.dumps(links))
    with suppress(LabError):
        network.firewall([("iptables-legacy", "ip6", saved)], json.dumps(ruleset)).frame()


@QUICK
@given(mutated_text([json.dumps(LINKS), "[", "null", "\0"]))
def test_json_in_any_form(text: str) -> None:
    try:
        network.interfaces(text)
    except LabError as error:
        assert error.hint  # noqa: PT017


# --- undoing the firewall, apt's repositories, sockets


def test_only_dockers_own_rules_are_taken_out() -> None:
    was = "*filter\n:FORWARD ACCEPT [1:2]\n-A FORWARD -i docker01 -j ACCEPT\nCOMMIT\n"
    is_now = (
        "*filter\n:FORWARD DROP [9:9]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n:DOCKERISH - [0:0]\n:x\n"
        "-A FORWARD -i docker01 -j ACCEPT\n-A FORWARD -i mydocker0 -j ACCEPT\n-A FORWARD -i docker02 -j LOG\n"
        "-A FORWARD -o br-0123456789abc -j ACCEPT\n-A FORWARD -j DOCKER-USER\n"
        '-A FORWARD -i docker0 -m comment --comment "it\'s \\"mine\\"" -j ACCEPT\nCOMMIT\n'
    )
    undone = machine_changes.undo_firewall(was, is_now)
    removed = [" ".join(item) for item in undone if "-D" in item]
    assert removed == [
        "-t filter -D FORWARD -j DOCKER-USER",
        '-t filter -D FORWARD -i docker0 -m comment --comment it\'s "mine" -j ACCEPT',
    ]
    assert [item[3] for item in undone if "-X" in item] == ["DOCKER", "DOCKER-USER"]
    assert ["-t", "filter", "-P", "FORWARD", "ACCEPT"] in undone


@QUICK
@given(mutated_text([SAVED, ""]), mutated_text([SAVED]))
def test_undoing_in_any_form(was: str, is_now: str) -> None:
    assert all(item[0] == "-t" for item in machine_changes.undo_firewall(was, is_now))


def test_apts_repositories() -> None:
    caught = (
        "Debian|http://deb.example/debian|trixie|main\nDebian|http://deb.example/debian|trixie|main\r\n"
        "Debian|cdrom://x|trixie|main\n|http://other/|stable|main\nDebian|http://deb.example/debian|trixie\n"
        "W: something else\nUbuntu|https://u.example/|noble||\n\n"
    )
    assert debootstrap._targets(caught) == [["Debian", "http://deb.example/debian", "trixie", "main"]]


UNIX = (
    "Num       RefCount Protocol Flags    Type St Inode Path\n"
    "0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/docker/libnetwork/x.sock\n"
    "0000000000000000: 00000002 00000000 00010000 0001 01 101 /run/odd name/docker.sock\n"
    "0000000000000000: 00000003 00000000 00000000 0001 03 102 /run/connected.sock\n"
    "0000000000000000: 00000002 00000000 00010000 0001 01 103 @abstract\n"
    "0000000000000000: 00000003 00000000 00000000 0001 03 104\n"
)
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 0100007F:0947 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 200 1 0 100 0 0 10 0\n"
    "   1: 0200000A:0948 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 200 1 0 100 0 0 10 0\n"
)
TCP6 = "   0: 00000000000000000000000000000000:0949 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 200 1 0\n"


def test_sockets_that_listen() -> None:
    held = {"100", "101", "102", "103", "104", "200"}
    assert engine_socket.sockets(UNIX, held) == ["/run/odd name/docker.sock", "/run/docker/libnetwork/x.sock"]
    assert engine_socket.ports([TCP, TCP6, None], held) == [0x947, 0x949]


@QUICK
@given(
    mutated_text([UNIX]), mutated_text([TCP, TCP6]), mutated_text(["0 100000 65536\n1 5 2", "0 0 4294967295"])
)
def test_sockets_and_maps_in_any_form(unix: str, tcp: str, uid_map: str) -> None:
    held = {"100", "101", "200", "0", "max"}
    engine_socket.sockets(unix, held)
    engine_socket.ports([tcp], held)
    host_id(uid_map, 7)


# --- answers of the Engine API

# as Engine 29.0 (API 1.52) writes them, and older ones
CONTAINER_29: dict[str, Any] = {
    "Id": ID, "Name": "/web", "Image": "sha256:00", "State": {"Status": "running", "Running": True, "Pid": 9},
    "Config": {"Hostname": "x", "Labels": {"a": "b"}},
    "HostConfig": {"NetworkMode": "bridge", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
    "NetworkSettings": {"SandboxID": "1", "SandboxKey": "/var/run/docker/netns/1",
        "Ports": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "81/tcp": None},
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}, "none": None}},
    "Mounts": [{"Type": "volume", "Source": "/var/lib/docker/volumes/abc/_data", "Destination": "/d", "RW": True}],
}  # fmt: skip
IMAGE_29: dict[str, Any] = {
    "Id": "sha256:00",
    "RepoTags": ["a:1"],
    "Config": {"Env": ["A=b"]},
    "RootFS": {"Type": "layers"},
}


def test_answers_of_engine_29() -> None:
    assert responses.addresses(CONTAINER_29) == ["172.17.0.2"]
    assert responses.bindings(CONTAINER_29, "80/tcp") == [("0.0.0.0", 8080), ("::", 8080)]
    assert responses.bindings(CONTAINER_29, "81/tcp") == responses.bindings(CONTAINER_29, "82/tcp") == []
    assert (responses.name(CONTAINER_29), responses.labels(CONTAINER_29)) == ("web", {"a": "b"})
    assert responses.volume_name(CONTAINER_29["Mounts"][0]) == "abc"
    assert responses.volume_name({"Type": "bind", "Source": "/x"}) == ""
    assert (
        responses.labels(IMAGE_29)
        == responses.labels({"Config": None})
        == responses.labels({"Labels": None})
        == {}
    )
    assert responses.name({"Id": ID, "Names": None}) == ID[:12]
    assert (
        responses.tags({"RepoTags": None})
        == responses.tags({"RepoTags": ["<none>:<none>"]})
        == responses.tags({})
        == []
    )
    assert responses.subnets({"IPAM": {"Config": None}}) == responses.subnets({"IPAM": None}) == []
    assert responses.subnets({"IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}, {}, None]}}) == ["10.0.0.0/8"]


@QUICK
@given(mutated_json(dict(CONTAINER_29)), mutated_json({"Config": [{"Subnet": "a"}]}))
def test_answers_with_keys_left_out(container: Any, pools: Any) -> None:
    found = container if isinstance(container, dict) else {}
    responses.addresses(found)
    responses.name(found)
    responses.labels(found)
    responses.subnets({"IPAM": pools})
    responses.nested_list(found, "Mounts")


# --- the agent, as it runs in the helper


def test_the_agent_reads_odd_names(tmp_path: Path) -> None:
    for name in ("a\nb", "\udcff", "d", "d/e"):
        os.mkdir(tmp_path / name)
    found = agent.list_directory(os.getpid(), str(tmp_path), True, 100)
    assert {item["path"] for item in found["entries"]} == {"a\nb", "\udcff", "d", "d/e"}
    assert agent.run([["printf", "\\377"]])[0][1] == "\ufffd"
    asked = (
        '{"do": "read", "paths": ["/proc/\\u0000"]}\n{"do": "real_path", "pid": 1, "path": "/a\\u0000b"}\n'
    )
    done = subprocess.run(
        ["python3", "-I", agent.__file__], input=asked, capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 2, "")


LOST = {"error": 'failed commit on ref "sha256:e6f4": commit failed: lease does not exist: not found'}


@pytest.mark.parametrize(
    ("attempts", "reported"),
    [
        ([["1", "2"]], ["1", "2"]),
        # the second attempt repeats what is in the cache
        ([["1", LOST], ["1", "2"]], ["1", "1", "2"]),
        ([["1", LOST], ["1", LOST]], ["1", "1", LOST]),
        ([["1", {"error": "no space left on device"}]], ["1", {"error": "no space left on device"}]),
    ],
)
def test_a_build_whose_lease_was_lost_is_tried_once_more(attempts: list[list[Any]], reported: list[Any]):
    runs = iter(attempts)

    def recorded(**options: Any) -> Iterator[dict[str, Any]]:
        assert options["path"] == "folder"
        return iter([step if isinstance(step, dict) else {"stream": step} for step in next(runs)])

    steps = list(build_steps(recorded, path="folder"))
    assert [step.get("stream", step) for step in steps] == reported
    assert next(runs, None) is None
