"""An engine in a container: what such a container may do, and what it must do first.

Not `--privileged`: runc refuses that where root itself lacks a capability, as in many sandboxes.
"""

from __future__ import annotations

from typing import Any

RIGHTS: dict[str, Any] = {
    "cap_add": ["ALL"],
    "cap_drop": ["SYS_RESOURCE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"],
}
"""Options of `Lab.run` for the container of an engine."""

WRITABLE_CGROUPS = """\
# this container's part of each hierarchy is mounted read-only, because it is not privileged
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    for one in /sys/fs/cgroup/*; do mount -o remount,bind,rw "$one"; done
fi
"""
"""Lines of a shell script to run in it before its engine starts."""
