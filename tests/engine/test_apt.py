"""Installing packages: nothing of the machine's is removed, downgraded or changed on hold; failures are named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from labhelpers.engine import apt
from labhelpers.errors import SetupFailed

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt-get on this machine")

INSTALLED = """Package: containerd.io
Status: {hold} ok installed
Version: 1.7.1-1
Architecture: all
Maintainer: t
Conflicts: containerd
Description: t

Package: libold
Status: install ok installed
Version: 2.0
Architecture: all
Maintainer: t
Description: t

"""
OFFERED = """Package: docker.io
Version: 20.10
Architecture: all
Maintainer: t
Depends: containerd (>= 1.4)
Filename: ./docker.io.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: t

Package: containerd
Version: 1.6
Architecture: all
Maintainer: t
Filename: ./containerd.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: t

Package: debootstrap
Version: 1.0
Architecture: all
Maintainer: t
Filename: ./debootstrap.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: t

"""


def own_apt(folder: Path, hold: str = "install") -> list[str]:
    """The options of apt-get for a machine that has INSTALLED and whose only source has OFFERED."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "repository"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").write_text(INSTALLED.format(hold=hold), encoding="utf-8")
    (folder / "repository/Packages").write_text(OFFERED, encoding="utf-8")
    (folder / "etc/sources.list").write_text(
        f"deb [trusted=yes] file:{folder}/repository ./\n", encoding="utf-8"
    )
    options = [
        *("-o", f"Dir::State={folder}/state", "-o", f"Dir::State::status={folder}/state/status"),
        *("-o", f"Dir::Cache={folder}/cache", "-o", f"Dir::Etc={folder}/etc"),
        *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"),
    ]
    done = subprocess.run(
        ["apt-get", *options, "-q", "update"], capture_output=True, encoding="utf-8", errors="replace"
    )
    assert done.returncode == 0, done.stderr
    return options


@needs_apt
def test_an_engine_of_another_vendor_is_never_removed(tmp_path: Path) -> None:
    options = own_apt(tmp_path)
    with pytest.raises(SetupFailed) as refused:
        apt.check(["docker.io"], options)
    assert refused.value.engine_message == "Remv containerd.io [1.7.1-1]"
    assert "would remove or downgrade installed packages: containerd.io" in refused.value.message
    assert "systemctl start docker" in refused.value.hint
    apt.check(["debootstrap"], options)  # what harms nothing is not refused


@needs_apt
def test_a_package_on_hold_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed) as refused:
        apt.check(["docker.io"], own_apt(tmp_path, hold="hold"))
    assert "containerd.io" in (refused.value.engine_message or "")


@needs_apt
def test_a_package_that_no_source_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed, match="sources do not provide them") as refused:
        apt.check(["no-such-package"], own_apt(tmp_path))
    assert "Unable to locate package" in (refused.value.engine_message or "")


@pytest.mark.parametrize(
    ("line", "harmful"),
    [
        ("Remv containerd.io [1.7.1-1]", True),
        ("Remv python3 [3.11.2-1+b1] [libfoo:amd64 ]", True),
        ("Purg cri-tools [1.26]", True),
        ("Inst docker.io (20.10.24+dfsg1-1 Debian:12.4/stable [amd64])", False),
        ("Conf containerd (1.6.20~ds1-1+b1 Debian:12.4/stable [amd64])", False),
        ("  Remv is only a word of this sentence", False),
    ],
)
def test_lines_of_a_simulation(line: str, harmful: bool) -> None:
    assert apt.removed_or_downgraded(f"Reading package lists...\n{line}\n") == ([line] if harmful else [])


@pytest.mark.skipif(not shutil.which("dpkg"), reason="no dpkg on this machine compares versions")
@pytest.mark.parametrize(
    ("old", "new", "harmful"), [("2.36-9", "2.35-1", True), ("1:1.0", "9.9", True), ("1.9", "1.10", False)]
)
def test_a_downgrade_is_harm_and_an_upgrade_is_not(old: str, new: str, harmful: bool) -> None:
    line = f"Inst libc6 [{old}] ({new} Debian:12.4/stable [amd64]) []"
    assert apt.removed_or_downgraded(line) == ([line] if harmful else [])


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)",
            "another program",
        ),
        (
            "Err:1 http://mirror.example stable InRelease\n  Temporary failure resolving 'mirror.example'",
            "mirror cannot",
        ),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "disk is full"),
        ("E: dpkg was interrupted, you must manually run 'sudo dpkg --configure -a'", "interrupted"),
        ("E: Packages need to be removed but remove is disabled.", "would remove"),
        (
            "E: Release file for http://x/InRelease is not valid yet (invalid for another 3h)",
            "not valid at this",
        ),
        ("E: Held packages were changed and -y was used without --allow-change-held-packages.", "on hold"),
        ("Err:2 http://x stable/main amd64 y\n  404  Not Found [IP: 192.0.2.1 80]", "out of date"),
        (
            "E: Failed to fetch http://x/P.xz  File has unexpected size (1 != 2). Mirror sync in progress?",
            "out of date",
        ),
        ("dpkg: error: dpkg frontend lock was locked by another process with pid 5", "another program"),
        (
            "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\n"
            "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?",
            "you do not have permission",
        ),
        (
            # a harmless warning before the cause
            "W: Download is performed unsandboxed as root - pkgAcquire::Run (13: Permission denied)\n"
            "E: Failed to fetch http://x/y.deb  Connection reset by peer",
            "mirror cannot",
        ),
        (
            "dpkg: error: unable to access the dpkg database directory /var/lib/dpkg: Read-only file system",
            "read-only",
        ),
        (
            " trying to overwrite '/usr/bin/runc', which is also in package containerd.io 1.6.33-1\n"
            "Errors were encountered while processing:\n /var/cache/apt/archives/runc.deb",
            "the same files",
        ),
        ("Errors were encountered while processing:\n docker.io", "the script of a package"),
        (
            "Err:5 http://x buster Release\n  404  Not Found [IP: 192.0.2.1 80]\n"
            "E: The repository 'http://x buster Release' no longer has a Release file.",
            "a package source is gone",
        ),
        (
            "E: Repository 'http://x stable InRelease' changed its 'Suite' value from 'stable' to 'oldstable'",
            "a package source is gone, or has become",
        ),
        (
            "Certificate verification failed: The certificate is NOT trusted.\n"
            "E: The repository 'https://x stable Release' does not have a Release file.",
            "certificate of the package mirror",
        ),
        ("E: Failed to fetch http://x/y.deb  403  Forbidden [IP: 192.0.2.1 80]", "refuses"),
        ("E: The list of sources could not be read.", "corrupted"),
    ],
)
def test_the_cause_of_a_failure_is_named(output: str, why: str) -> None:
    error = apt.failed(["docker.io"], output)
    assert why in error.message
    assert output.splitlines()[-1].strip() in (error.engine_message or "")


def test_reading_the_lists_does_not_wait_for_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt.time, "sleep", lambda _: pytest.fail("it waits"))
    denied = (
        "E: Could not open lock file /var/lib/apt/lists/lock - open (13: Permission denied)\n"
        "E: Unable to lock directory /var/lib/apt/lists/"
    )
    assert apt.update(lambda *_: (100, denied), print) == (100, denied)


def test_reading_the_lists_waits_for_another_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    locked = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)"
    answers = [(100, locked), (0, "Reading package lists...")]
    monkeypatch.setattr(apt.time, "sleep", lambda seconds: None)
    lines: list[str] = []
    assert apt.update(lambda command, title: answers.pop(0), lines.append)[0] == 0
    assert len(lines) == 1
    assert "process 4711 (apt-get)" in lines[0]


def test_the_real_run_may_remove_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "check", lambda packages: None)
    ran: list[list[str]] = []

    def run(command: object, title: str) -> tuple[int, str]:
        ran.append(list(command))  # type: ignore[call-overload]
        return 0, ""

    apt.install(["debootstrap"], run)
    assert "--no-remove" in ran[0]
    assert any(word.startswith("DPkg::Lock::Timeout=") for word in ran[0])
