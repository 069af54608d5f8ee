"""The private engine: it starts on a bare machine, survives what kills engines, and leaves the machine as it was."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netns import PRELUDE, Machine, machine_without_engine

from labhelpers.engine import Engine, images, machine_changes, private
from labhelpers.errors import BuildFailed

PAYLOAD = "labhelpers/payload:latest"
LOG_BEGINS = "time="
START = "private.start(print); print(json.dumps(private._pid()))"

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare"),
    reason="a private engine of the tests' own needs root on Linux",
)


@pytest.fixture
def machine() -> Iterator[Machine]:
    # not pytest's tmp_path: its names are too long for a socket
    home = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    with machine_without_engine(home) as made:
        yield made
    shutil.rmtree(home)


def load(engine: Engine, machine: Machine) -> None:
    """Carry the payload image over from the engine of the suite."""
    theirs = machine.engine().client
    theirs.images.load(b"".join(engine.client.images.get(PAYLOAD).save(named=True)))
    theirs.close()


def staying(engine: Engine, machine: Machine) -> str:
    """Start a container that stays."""
    load(engine, machine)
    theirs = machine.engine().client
    container = theirs.containers.run(
        PAYLOAD, ["/bin/busybox", "sleep", "600"], detach=True, volumes=["kept:/data"]
    )
    theirs.close()
    assert container.id
    return container.id


@needs_root
class TestLife:
    def test_it_leaves_the_machine_as_it_was(self, machine: Machine, engine: Engine) -> None:
        before = machine.census()
        machine.python(START)
        staying(engine, machine)
        machine.engine().client.networks.create("another", driver="bridge")
        during = machine.census()
        assert "docker0" in during["links"]
        assert any("DOCKER" in rule for rule in during["firewall"]["iptables"])
        machine.python("private.stop(lambda line: None)")
        assert machine.census() == before
        assert machine.processes() == []
        assert machine.mounts() == []

    def test_stopped_from_another_network_it_changes_none(self, machine: Machine) -> None:
        machine.python(START)
        with machine_without_engine(machine.home / "unused") as other:
            other.run("ip", "link", "add", "docker0", "type", "bridge")
            other.python("private.stop(lambda line: None)", home=machine.home)
            assert "docker0" in other.census()["links"]
        assert machine.processes() == []

    def test_what_came_meanwhile_keeps_forwarding(self, machine: Machine) -> None:
        forwarding = "/proc/sys/net/ipv4/ip_forward"
        machine.run("sh", "-c", f"echo 0 >{forwarding}")
        machine.python(START)
        machine.run("ip", "link", "add", "vpn0", "type", "bridge")
        machine.python("private.stop(lambda line: None)")
        assert machine.run("cat", forwarding).stdout == "1\n"

    def test_a_foreign_rule_stays(self, machine: Machine) -> None:
        machine.run(
            "iptables",
            "-A",
            "FORWARD",
            "-s",
            "192.0.2.0/24",
            "-m",
            "comment",
            "--comment",
            "not ours",
            "-j",
            "DROP",
        )
        before = machine.census()
        machine.python(START)
        machine.python("private.stop(lambda line: None)")
        assert machine.census() == before
        assert any("not ours" in rule for rule in before["firewall"]["iptables"])

    def test_killed_it_starts_again_with_its_data(self, machine: Machine, engine: Engine) -> None:
        pid = machine.python(START)
        kept = staying(engine, machine)
        os.kill(pid, signal.SIGKILL)
        again = machine.python("connect('auto'); print(json.dumps(private._pid()))")
        assert again not in (None, pid)
        client = machine.engine().client
        assert [c.id for c in client.containers.list(all=True, ignore_removed=True)] == [kept]
        assert [v.name for v in client.volumes.list()] == ["kept"]

    def test_stopped_after_a_kill_nothing_is_left(self, machine: Machine, engine: Engine) -> None:
        before = machine.census()
        pid = machine.python(START)
        staying(engine, machine)
        os.kill(pid, signal.SIGKILL)
        machine.python("private.stop(lambda line: None)")
        assert machine.processes() == []
        assert machine.mounts() == []
        assert machine.census() == before

    def test_a_pid_file_that_names_another_process_is_stale(self, machine: Machine) -> None:
        (machine.home / "engine").mkdir()
        (machine.home / "engine" / "docker.pid").write_text(str(os.getpid()), encoding="utf-8")
        (machine.home / "engine" / "docker.sock").write_text("not a socket", encoding="utf-8")
        assert machine.python(START) not in (None, os.getpid())

    def test_two_starts_at_once_start_one(self, machine: Machine) -> None:
        both = [
            subprocess.Popen(
                machine.command(sys.executable, "-c", PRELUDE + START),
                env=machine.environment(),
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            for _ in range(2)
        ]
        answers = [process.communicate(timeout=90)[0] for process in both]
        pids = {answer.splitlines()[-1] for answer in answers}
        assert len(pids) == 1
        assert len([line for line in machine.processes() if "dockerd" in line.split(" ")[0]]) == 1

    def test_a_second_engine_beside_another_is_refused(self, machine: Machine) -> None:
        machine.python(START)
        other = machine.home / "other"
        done = machine.run(sys.executable, "-c", PRELUDE + START, home=other)
        assert "EngineUnreachable" in done.stderr
        assert "a dockerd (PID" in done.stderr

    def test_an_engine_that_cannot_start_says_why(self, machine: Machine) -> None:
        (machine.home / "engine").mkdir()
        (machine.home / "engine" / "data").write_text("a file where a directory must be", encoding="utf-8")
        done = machine.run(sys.executable, "-c", PRELUDE + START)
        assert "SetupFailed: the private engine did not start" in done.stderr
        assert f"message: {LOG_BEGINS}" in done.stderr
        assert f"{machine.home}/engine/data" in done.stderr

    def test_a_path_too_long_for_a_socket_is_reported(self, machine: Machine) -> None:
        done = machine.run(sys.executable, "-c", PRELUDE + START, home=machine.home / ("long" * 20))
        assert "too long for a socket" in done.stderr

    def test_a_full_disk_leaves_nothing_half_made(
        self, machine: Machine, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = machine.home / "engine" / "data"
        data.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", data], check=True)
        machine.python(START)
        load(engine, machine)
        there = machine.engine()
        a_base = there.client.containers.create(PAYLOAD)  # a base has no label of the lab
        there.client.api.import_image_from_data(b"".join(a_base.export()), repository="base", tag="1")
        a_base.remove()
        (tmp_path / "big").mkdir()
        dockerfile = tmp_path / "big" / "Dockerfile"
        dockerfile.write_text(
            "FROM base:1\nLABEL labhelpers.stage=big\nRUN dd if=/dev/zero of=/big bs=1M count=99",
            encoding="utf-8",
        )
        monkeypatch.setattr(images, "IMAGES_DIRECTORY", tmp_path)
        monkeypatch.setattr(images, "BASE", "base:1")
        with pytest.raises(BuildFailed) as failed:
            images.ensure(there, "big")
        assert "disk is full" in failed.value.hint
        assert sorted(tag for image in there.client.images.list() for tag in image.tags or ["?"]) == [
            "base:1",
            PAYLOAD,
        ]
        assert there.client.containers.list(all=True, ignore_removed=True) == []
        dockerfile.write_text(
            dockerfile.read_text(encoding="utf-8").replace("count=99", "count=9"), encoding="utf-8"
        )
        images.ensure(there, "big")
        there.client.close()

    def test_purge_leaves_no_file(self, machine: Machine) -> None:
        machine.python(START)
        done = machine.lab("down", "--purge", "--yes")
        assert done.returncode == 0, done.stderr
        assert not machine.home.exists()
        assert machine.processes() == []
        machine.home.mkdir()

    def test_purge_asks_first(self, machine: Machine) -> None:
        machine.python(START)
        done = machine.lab("down", "--purge")
        assert done.returncode == 1
        assert "nothing was removed" in done.stderr
        assert machine.python("print(json.dumps(private.is_responding()))") is True

    def test_doctor_tells_of_a_killed_engine_and_does_not_start_it(self, machine: Machine) -> None:
        pid = machine.python(START)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        done = machine.lab("doctor", "--json")
        assert time.monotonic() - began < 60
        assert '"engine": null' in done.stdout
        assert machine.python("print(json.dumps(private._pid()))") is None

    def test_doctor_runs_a_container(self, machine: Machine) -> None:
        machine.python(START)
        done = machine.lab("doctor", "--json")
        assert '"source": "private"' in done.stdout
        assert machine.engine().client.images.list(all=True) == []


DOCKERS = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
{rules}-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -j RETURN
COMMIT
"""

foreign = st.lists(
    st.sampled_from(["-A INPUT -s 192.0.2.1/32 -j DROP", "-A FORWARD -i eth7 -j ACCEPT", ":MINE - [0:0]"]),
    unique=True,
)


@given(foreign)
def test_only_dockers_rules_are_taken_out(lines: list[str]) -> None:
    was = (
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n"
        + "".join(f"{line}\n" for line in lines)
        + "COMMIT\n"
    )
    is_now = DOCKERS.format(rules="".join(f"{line}\n" for line in lines))
    undone = [" ".join(arguments) for arguments in machine_changes.undo_firewall(was, is_now)]
    assert "-t filter -D FORWARD -o docker0 -j DOCKER" in undone
    assert "-t filter -P FORWARD ACCEPT" in undone
    assert undone.index("-t filter -F DOCKER") < undone.index("-t filter -X DOCKER")
    assert not [item for item in undone if re.search(r"192\.0\.2\.1|eth7|MINE|INPUT", item)]


def test_what_else_forwards_packets_keeps_forwarding_on() -> None:
    was = {"iptables": "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"}
    dockers = "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n"
    published = "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE\n"
    theirs = "-A POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE"
    rules = f"*nat\n:POSTROUTING ACCEPT [0:0]\n{dockers}{published}{{}}COMMIT\n"
    assert machine_changes.foreign_forwarding(was, {"iptables": rules.format("")}) == []
    assert machine_changes.foreign_forwarding(was, {"iptables": rules.format(theirs + "\n")}) == [
        f"iptables {theirs}"
    ]


@pytest.mark.parametrize(
    ("line", "why", "step"),
    [
        (
            "failed to start daemon: Error initializing network controller: error obtaining controller instance: "
            "failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: iptables v1.8.9 "
            "(nf_tables): Could not fetch rule set generation id: Table does not exist",
            "iptables",
            "wsl --update",
        ),
        ("iptables/1.8.7 Failed to initialize nft: Protocol not supported", "iptables", "iptables-legacy"),
        (
            "can't initialize iptables table `nat': Table does not exist (do you need to insmod?)",
            "iptables",
            "restart",
        ),
        (
            "failed to start daemon: Devices cgroup isn't mounted",
            "required cgroups",
            "systemd=true",
        ),
        (
            "error initializing graphdriver: overlay2: overlay is not supported over overlayfs",
            "layers",
            "ext4",
        ),
        ('failed to mount overlay: invalid argument" storage-driver=overlay2', "layers", "ext4"),
        (
            'Error creating default "bridge" network: could not find an available, non-overlapping IPv4 address pool',
            "address range",
            "VPN",
        ),
        ("write /x/engine/data/tmp: no space left on device", "disk", "LABHELPERS_HOME"),
        ("sudo: a password is required", "sudo", "in a terminal"),
        ("failed to mount: operation not permitted", "even root lacks the permissions", "--privileged"),
    ],
)
def test_why_dockerd_did_not_start(line: str, why: str, step: str, tmp_path: Path) -> None:
    output = [
        "time=1 level=info msg=Starting",
        f'time=2 level=error msg="{line}"',
        "time=3 level=info msg=stopped",
    ]
    error = private._start_error(output, tmp_path / "dockerd.log")
    assert why in error.message
    assert step in error.hint
    assert line in (error.engine_message or "")


def test_an_unknown_reason_keeps_the_last_lines(tmp_path: Path) -> None:
    error = private._start_error(["one", "two"], tmp_path / "dockerd.log")
    assert (error.message, error.engine_message) == ("the private engine did not start", "one\ntwo")
