"""The reader's home directory is written as `~` in paths, and in nothing else."""

from __future__ import annotations

import pytest

from labhelpers import state


@pytest.mark.parametrize(
    ("home", "text", "shown"),
    [
        ("/root", "ssh://root@host", "ssh://root@host"),
        ("/root", "ssh://root@host/root/docker.sock", "ssh://root@host/root/docker.sock"),
        ("/root", "unix:///root/x.sock", "unix://~/x.sock"),
        ("/root", "/root", "~"),
        ("/root", "it is in /root.", "it is in ~."),
        ("/root", "“/root/x” (/root/y)", "“~/x” (~/y)"),
        ("/root", "/rootless/x /root.bak/x /mnt/root/x", "/rootless/x /root.bak/x /mnt/root/x"),
        ("/root", "-v data:/root/x", "-v data:/root/x"),
        ("/home/a b", "unix:///home/a b/x", "unix://~/x"),
        ("/", "ssh://root@host unix:///x", "ssh://root@host unix:///x"),
        ("", "/x", "/x"),
    ],
)
def test_shown(monkeypatch: pytest.MonkeyPatch, home: str, text: str, shown: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert state.abbreviate_home(text) == shown
