"""Engine C: Docker 26 on cgroup version 2 under systemd, in a virtual machine, over TCP on loopback.

Its disk is built once per hash of its recipe and kept in the state directory. Booting the emulated machine and pulling
the images takes minutes: so the first run after a change of either saves the machine, disk and memory, once it has the
images, and every run resumes from that state and discards its changes at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker

from labhelpers import state
from labhelpers.engine import images, install
from labhelpers.engine.root import run_as_root
from labhelpers.errors import SetupFailed
from tests.engines.debian import ENGINE, Recipe, debian_root, wait_until_it_answers

Echo = Callable[[str], object]

HOST = "10.0.2.2"
"""This machine's loopback, as the guest reaches it (QEMU's user network)."""

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
CPUS, MEMORY_MB, DISK = 2, 3072, "8G"
PORT = 2375
DISK_FILE, SNAPSHOT_FILE, SAVED = "disk.img", "memory", "saved-"
UNLIMITED = 1 << 40
QEMU = "qemu-system-x86_64"
NOT_NEEDED = (
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
)
# without --tls=false it waits 15 s to warn about unprotected access; the network is private
SERVICE = f"""[Service]
ExecStart=
ExecStart=/usr/sbin/dockerd --tls=false --host=tcp://0.0.0.0:{PORT}
"""
NETWORK = f"""[Match]
Type=ether
Kind=!*
[Network]
Address=10.0.2.15/24
Gateway={HOST}
"""
RECIPE = Recipe(
    suite="trixie",
    packages=(*ENGINE, "linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "kmod"),
    files={
        "etc/docker/daemon.json": json.dumps({"insecure-registries": [f"{HOST}/32"]}),
        "etc/systemd/system/docker.service.d/lab.conf": SERVICE,
        "etc/systemd/network/lab.network": NETWORK,
        "etc/resolv.conf": "nameserver 10.0.2.3\n",
        "etc/hostname": "engine-c\n",
    },
    commands=(
        ("systemctl", "enable", "systemd-networkd", "docker"),
        ("systemctl", "mask", *NOT_NEEDED),
    ),
)


@contextmanager
def running(work: Path, pulled: Sequence[str], pull: Callable[[str], object], echo: Echo) -> Iterator[str]:
    """Run engine C for the block; yields its address.

    Args:
        work: a directory of this machine, for changes to C's disk and for its console log.
        pulled: the IDs of the images on C.
        pull: called with C's address to pull them, unless a machine with these images is saved.

    Raises:
        SetupFailed: it could not be built or did not boot; the message includes its last output.

    If the machine exits during the block, its last messages are printed.
    """
    folder = ensure(echo)
    saved = folder / f"{SAVED}{_digest(pulled)}"
    with state.locked("engine-c", 3600, lambda: echo("engine C: waiting for another lab command to boot it")):
        if not saved.exists():
            _save(folder, saved, work, pull, echo)
    echo("engine C: resuming from its saved state")
    resumed = ["-incoming", f"exec:cat {shlex.quote(str(saved / SNAPSHOT_FILE))}"]
    with ExitStack() as stack:
        try:
            machine = _machine(folder, saved / DISK_FILE, work, ["-snapshot", *resumed], echo)
            process, address = stack.enter_context(machine)
        except SetupFailed:
            shutil.rmtree(saved, ignore_errors=True)  # the next run boots it again
            raise
        _set_clock(address)
        try:
            yield address
        finally:
            if process.poll() is not None:
                echo("engine C: its virtual machine exited while in use; its last messages:")
                echo(_console_tail(work, process) or "nothing")


def _digest(pulled: Sequence[str]) -> str:
    """The key of a saved machine: a hash of its images, its command line and the version of QEMU."""
    qemu = subprocess.run(
        [QEMU, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout
    machine = _command(Path(), Path(), Path(), 0)
    return hashlib.sha256(json.dumps([sorted(pulled), machine, qemu]).encode()).hexdigest()[:16]


def _save(folder: Path, saved: Path, work: Path, pull: Callable[[str], object], echo: Echo) -> None:
    """Boot the machine, pull the images, and save its state; older ones are removed."""
    for old in folder.glob(f"{SAVED}*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=SAVED, dir=folder) as name:
        partial = Path(name)
        # a sparse copy: 0.6 of 8 GB
        copy = ["cp", "--sparse=always", str(folder / DISK_FILE), str(partial / DISK_FILE)]
        completed = subprocess.run(copy, capture_output=True, encoding="utf-8", errors="replace")
        if completed.returncode:
            raise _not_saved(completed.stderr)
        echo(f"engine C: booting (QEMU without hardware acceleration, {CPUS} processors, {MEMORY_MB} MiB)")
        with _machine(folder, partial / DISK_FILE, work, [], echo) as (process, address):
            pull(address)
            echo("engine C: saving it, disk and memory")
            _qmp(process, "migrate-set-parameters", **{"max-bandwidth": UNLIMITED})
            _qmp(process, "migrate", uri=f"exec:cat > {shlex.quote(str(partial / SNAPSHOT_FILE))}")
            while (status := _qmp(process, "query-migrate")["status"]) != "completed":
                if status == "failed":
                    raise _not_saved("its memory could not be written")
                time.sleep(0.2)
            _qmp(process, "quit")
        partial.rename(saved)


def _not_saved(message: str) -> SetupFailed:
    return SetupFailed(
        "engine C could not be saved; partial results were removed",
        hint=f"check the free space of {state.abbreviate_home(state.home())}: it takes 2 GB; then try again",
        engine_message=message,
    )


def _qmp(process: subprocess.Popen[bytes], command: str, **arguments: Any) -> Any:
    """QEMU's response to a command (QEMU Machine Protocol)."""
    assert process.stdin is not None
    assert process.stdout is not None
    output = []
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        process.stdin.flush()
    for line in process.stdout:
        with suppress(ValueError):
            response = json.loads(line)
            if "return" in response:
                return response["return"]
        output.append(line.decode(errors="replace"))
        if b'"error"' in line:
            break
    raise SetupFailed(
        f"the machine of engine C exited or refused `{command}`",
        hint="see its last messages, then try again",
        engine_message="".join(output[-4:]),
    )


def _set_clock(address: str) -> None:
    """Set the guest's system time from its hardware clock: the time of the saved machine is in the past."""
    client = docker.DockerClient(base_url=address)
    try:
        client.containers.run(
            images.BASE,
            ["sh", "-c", "date --set=@$(cat /sys/class/rtc/rtc0/since_epoch)"],
            cap_drop=["ALL"],
            cap_add=["SYS_TIME"],
            network_mode="none",
            remove=True,
        )
    finally:
        client.close()


@contextmanager
def _machine(
    folder: Path, disk: Path, work: Path, options: Sequence[str], echo: Echo
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a machine with this disk for the block; yields its process and the address of its engine."""
    port = _free_port()
    process = subprocess.Popen(
        [*_command(folder, disk, work, port), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # ^C at the terminal must not kill the guest, which is shut down
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(work)},
    )
    try:
        _qmp(process, "qmp_capabilities")
        address = f"tcp://127.0.0.1:{port}"
        try:
            wait_until_it_answers(address, START_TIMEOUT_S, lambda: process.poll() is None, "C")
        except SetupFailed as error:
            error.engine_message = _console_tail(work, process)
            raise
        yield process, address
    finally:
        _shut_down(process, echo)


def ensure(echo: Echo) -> Path:
    """The directory with C's disk, kernel and initrd, built unless there is one of this recipe."""
    if platform.machine() != "x86_64":
        raise SetupFailed(
            f"engine C requires x86_64, and this machine is {platform.machine()}",
            hint="run the tests on the other engines: `./lab test --engine A`, `./lab test --engine B`",
        )
    install.ensure(install.GUEST_PACKAGES, "engine C is a virtual machine")
    cache = state.path("cache", "x").parent
    folder = cache / f"engine-c-{RECIPE.content[:16]}"
    with state.locked(
        "test-engines", waiting=lambda: echo("engine C: waiting for another lab command to create it")
    ):
        if not folder.exists():
            for old in cache.glob("engine-c-*"):
                shutil.rmtree(old)
            with debian_root(RECIPE, "C", echo) as root:
                echo("engine C: writing its disk")
                partial = root.parent / "disk"
                _write_disk(root, partial)
                partial.rename(folder)
    return folder


def _write_disk(root: Path, folder: Path) -> None:
    folder.mkdir()
    disk = folder / DISK_FILE
    completed = run_as_root(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), DISK])
    if completed.returncode:
        raise SetupFailed(
            "the disk of engine C could not be written; partial results were removed",
            hint=f"check the free space of {state.abbreviate_home(state.home())}; then try again",
            engine_message=completed.stderr,
        )
    for name in ("vmlinuz", "initrd.img"):
        run_as_root(["cp", "--dereference", str(root / name), str(folder / name)])
    run_as_root(["chown", "-R", f"{os.getuid()}:{os.getgid()}", str(folder)])


def _command(folder: Path, disk: Path, work: Path, port: int) -> list[str]:
    drive = f"file={disk},if=virtio,format=raw,cache=unsafe"
    # mitigations: an emulated CPU does not have these vulnerabilities, and the mitigations slow down every system call;
    # norandmaps: QEMU 7 translates code per address, so programs at fixed addresses are translated once: a container
    # takes a quarter less CPU time, booting a fifth
    kernel = "root=/dev/vda rw console=ttyS0 panic=-1 quiet mitigations=off norandmaps"
    return [
        # if this process is killed, so is the guest (prctl(2), PR_SET_PDEATHSIG)
        *("setpriv", "--pdeathsig", "KILL"),
        # tests on B, which run at the same time, measure shares of CPU time
        *("nice", "-n", "5", QEMU),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-smp", str(CPUS), "-m", str(MEMORY_MB)),
        *("-nodefaults", "-display", "none", "-no-reboot", "-qmp", "stdio"),
        *("-serial", f"file:{work / 'serial.log'}"),
        *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", kernel),
        *("-drive", drive, "-device", "virtio-rng-pci"),
        *(
            "-netdev",
            f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{PORT}",
            "-device",
            "virtio-net-pci,netdev=net",
        ),
    ]


def _shut_down(process: subprocess.Popen[bytes], echo: Echo) -> None:
    """Send Ctrl-Alt-Delete: systemd stops all services; QEMU exits instead of a reboot."""
    keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
    command = {"execute": "send-key", "arguments": {"keys": keys}}
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        process.communicate(json.dumps(command).encode() + b"\n", timeout=STOP_TIMEOUT_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            echo("engine C: it did not shut down; killing its QEMU process")
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)


def _console_tail(work: Path, process: subprocess.Popen[bytes]) -> str:
    lines = []
    if process.poll() is not None and process.stdout is not None:
        lines = process.stdout.read().decode(errors="replace").splitlines()[-4:]
    with suppress(OSError):
        lines += (work / "serial.log").read_text(errors="replace", encoding="utf-8").splitlines()[-4:]
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
