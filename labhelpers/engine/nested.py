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
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -o remount,bind,rw /sys/fs/cgroup
    # version 2: a cgroup that hands controllers on to others has no processes of its own
    mkdir -p /sys/fs/cgroup/init
    for one in $(cat /sys/fs/cgroup/cgroup.procs); do
        echo "$one" >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || :
    done
    sed -e 's/ / +/g' -e 's/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
    for one in /sys/fs/cgroup/*; do mount -o remount,bind,rw "$one"; done
fi
"""
"""Lines of a shell script to run in it before its engine starts.

Source: kernel docs, cgroup-v2.rst, "No Internal Process Constraint"; moby's `hack/dind` does the same.
"""
