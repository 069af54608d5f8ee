"""Engine C: Docker 26 on cgroup version 2 under systemd, in a virtual machine, reached over TCP on loopback.

Its disk is made once and kept in the state directory under the hash of its recipe. Each boot starts from that
disk and forgets at its end what was written, so the engine is empty each time.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labhelpers import state
from labhelpers.engine import install
from labhelpers.engine.root import run_as_root
from labhelpers.errors import SetupFailed
from labhelpers.trial.system import ENGINE, Recipe, made, wait_until_it_answers

Say = Callable[[str], object]

HOST = "10.0.2.2"
"""This machine's loopback, as the guest reaches it (QEMU's user network)."""

START_S = 300.0
STOP_S = 60.0
CPUS, MEMORY_MB, DISK = 2, 3072, "8G"
PORT = 2375
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
# with --tls=false it does not wait 15 s to warn that anybody on the network may command it: nobody else is on it
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
def running(work: Path, say: Say) -> Iterator[str]:
    """Engine C's address, for as long as the block lasts.

    Args:
        work: a directory of this machine, for what is written to C's disk and for its console.

    Raises:
        SetupFailed: it could not be made or did not boot; its last lines are kept.
    """
    folder = ensure(say)
    port = _free_port()
    process = subprocess.Popen(
        _command(folder, work, port),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # a ^C at the terminal is for us: the guest is shut down, not cut off
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(work)},
    )
    try:
        address = f"tcp://127.0.0.1:{port}"
        say(f"engine C: booting (QEMU without hardware help, {CPUS} processors, {MEMORY_MB} MiB)")
        try:
            wait_until_it_answers(address, START_S, lambda: process.poll() is None, "C")
        except SetupFailed as error:
            error.engine_words = _last_words(work, process)
            raise
        yield address
    finally:
        _shut_down(process, say)


def ensure(say: Say) -> Path:
    """The directory with C's disk, kernel and initrd, made if there is none of this recipe."""
    if platform.machine() != "x86_64":
        raise SetupFailed(
            f"engine C is made for x86_64, and this machine is {platform.machine()}",
            hint="run the tests on the other engines: `./lab test --engine A`, `./lab test --engine B`",
        )
    install.ensure(install.GUESTS, "engine C is a virtual machine")
    cache = state.path("cache", "x").parent
    folder = cache / f"engine-c-{RECIPE.content[:16]}"
    with state.locked("trial", waiting=lambda: say("engine C: another lab command is making it; waiting")):
        if not folder.exists():
            for old in cache.glob("engine-c-*"):
                shutil.rmtree(old)
            with made(RECIPE, "C", say) as root:
                say("engine C: writing its disk")
                partial = root.parent / "disk"
                _write_disk(root, partial)
                partial.rename(folder)
    return folder


def _write_disk(root: Path, folder: Path) -> None:
    folder.mkdir()
    disk = folder / "disk.img"
    done = run_as_root(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), DISK])
    if done.returncode:
        raise SetupFailed(
            "the disk of engine C could not be written; nothing of it is left",
            hint=f"look at the free space of {state.shown(state.home())}; then run this again",
            engine_words=done.stderr,
        )
    for name in ("vmlinuz", "initrd.img"):
        run_as_root(["cp", "--dereference", str(root / name), str(folder / name)])
    run_as_root(["chown", "-R", f"{os.getuid()}:{os.getgid()}", str(folder)])


def _command(folder: Path, work: Path, port: int) -> list[str]:
    drive = f"file={folder / 'disk.img'},if=virtio,format=raw,snapshot=on,cache=unsafe"
    # mitigations: guards against faults that a translated processor does not have, paid for on every system call;
    # norandmaps: a program at the same addresses each time is translated once (QEMU 7 translates for an address):
    # a container costs a quarter less, the boot a fifth
    kernel = "root=/dev/vda rw console=ttyS0 panic=-1 quiet mitigations=off norandmaps"
    return [
        # if this process is killed, so is the guest (prctl(2), PR_SET_PDEATHSIG)
        *("setpriv", "--pdeathsig", "KILL"),
        # tests on B, beside it, share processors out and look at who gets how much
        *("nice", "-n", "5", "qemu-system-x86_64"),
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


def _shut_down(process: subprocess.Popen[bytes], say: Say) -> None:
    """Ctrl-Alt-Delete at its keyboard: systemd ends every service; QEMU exits where the machine would reboot."""
    keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
    commands = [{"execute": "qmp_capabilities"}, {"execute": "send-key", "arguments": {"keys": keys}}]
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        process.communicate("\n".join(map(json.dumps, commands)).encode() + b"\n", timeout=STOP_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            say("engine C: it did not shut down by itself; ending its QEMU")
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)


def _last_words(work: Path, process: subprocess.Popen[bytes]) -> str:
    lines = []
    if process.poll() is not None and process.stdout is not None:
        lines = process.stdout.read().decode(errors="replace").splitlines()[-4:]
    with suppress(OSError):
        lines += (work / "serial.log").read_text(errors="replace").splitlines()[-4:]
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
