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
