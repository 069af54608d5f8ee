"""The three kinds of namespace that a container need not have for itself: user, cgroup and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labhelpers.engine.differences import security_option
from labhelpers.engine.host import cgroup_paths
from labhelpers.engine.host.text import decimal, integer
from labhelpers.namespaces.containers import NOT_FOUND, temporary_containers
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.lab import Lab

DEFAULT = "(no option)"
NO_FILTER = "--security-opt seccomp=unconfined"
LEAST_PRIVILEGE = f"--user 65534 --cap-drop ALL {NO_FILTER}"
_FEWEST: dict[str, Any] = {"user": 65534, "cap_drop": ["ALL"], "security_opt": ["seccomp=unconfined"]}
ADMIN = "--cap-add SYS_ADMIN"
_UNSHARE = (
    'unshare --user --map-root-user sh -c "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status"'
)
# sysctls by which a kernel, or a distribution's, forbids them (user_namespaces(7); Debian and Ubuntu kernels)
_FORBID: Mapping[str, str] = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}


@record
class UnshareAttempt(Result):
    """One container that tried to make a user namespace."""

    options: str = column("what the container was started with")
    user: int = column("its user id")
    seccomp: int = column(
        "the filter on its processes: 0 is none, 2 is a list of system calls (proc(5), Seccomp)"
    )
    worked: bool = column("whether `unshare --user --map-root-user` did")
    user_inside: int | None = column("the user id in the new namespace, None if there is none")
    map: tuple[int, ...] = column("the line of its uid_map: first id inside, first id outside, how many")
    all_capabilities: bool = column("whether a process in it has every capability (in that namespace)")
    said: str = column("what `unshare` said when it failed")


@record
class UserNamespaces(Result):
    """User namespaces on this engine."""

    engine_maps: bool = column(
        "whether the engine itself gives containers a user namespace (userns-remap, rootless)"
    )
    tries: tuple[UnshareAttempt, ...] = rows("containers that tried to make one", of=UnshareAttempt)
    kernel_forbids: tuple[str, ...] = column(
        "settings of the kernel that forbid them, as `file = value`; empty if none"
    )
    profile: str = column(
        "the engine's system call filter: `default` or `builtin` is Docker's, an empty string is none",
        default="default",
    )

    def of(self, options: str) -> UnshareAttempt:
        """The try with these options."""
        return next(one for one in self.tries if one.options == options)

    @property
    def other_filter(self) -> str | None:
        """Why the engine's filter is not Docker's default one; None where it is."""
        if self.profile in ("default", "builtin"):
            return None
        return f"this engine's system call filter is {self.profile or 'off'}, not Docker's default"

    @property
    def filter_refuses(self) -> bool:
        """Whether taking the filter away is all that the default container needs."""
        default, without = self.of(DEFAULT), self.of(NO_FILTER)
        return default.seccomp == 2 and not default.worked and without.worked

    @property
    def explained(self) -> bool:
        """Whether each refusal has a reason that is named: the filter, or a setting of the kernel."""
        if self.kernel_forbids:
            return True
        return self.filter_refuses and all(one.worked for one in self.tries if one.options != DEFAULT)

    def frame(self) -> pd.DataFrame:
        """One row a container: options, user, seccomp, worked, user_inside, map, all_capabilities, said."""
        rows = [
            (
                one.options,
                one.user,
                one.seccomp,
                one.worked,
                NOT_FOUND if one.user_inside is None else str(one.user_inside),
                " ".join(map(str, one.map)) or NOT_FOUND,
                one.all_capabilities,
                one.said,
            )
            for one in self.tries
        ]
        names = "options user seccomp worked user_inside map all_capabilities said"
        return table(rows, names.split())


def user(lab: Lab) -> UserNamespaces:
    """Try to make a user namespace in four containers, and say what refuses it.

    Docker's default seccomp filter lets unshare(2) through only with CAP_SYS_ADMIN (Docker docs, Seccomp
    security profiles). Without the filter the kernel lets anybody make one (user_namespaces(7)). Root without
    capabilities would still not become root in it: to map user 0 takes CAP_SETFCAP since Linux 5.12.
    """
    options: dict[str, dict[str, Any]] = {
        DEFAULT: {},
        ADMIN: {"cap_add": ["SYS_ADMIN"]},
        NO_FILTER: {"security_opt": ["seccomp=unconfined"]},
        LEAST_PRIVILEGE: _FEWEST,
    }
    with temporary_containers(
        lab, [f"docker run -d {ADMIN}", f"docker run -d {NO_FILTER}", "docker run -d --cap-drop ALL"]
    ) as run:
        tries = tuple(_unshare(lab, run, name, words) for name, words in options.items())
        found = lab.host.read_many(_FORBID)
    forbids = [
        f"{path} = {_FORBID[path]}" for path, text in found.items() if (text or "").strip() == _FORBID[path]
    ]
    info = lab.engine.info
    maps = any(security_option(info, name) is not None for name in ("userns", "rootless"))
    seccomp = security_option(info, "seccomp")
    profile = "" if seccomp is None else seccomp.get("profile", "default")
    # a file of the engine's host is a path that nobody else has
    return UserNamespaces(maps, tries, tuple(forbids), "another one" if "/" in profile else profile)


def _unshare(lab: Lab, run: Any, options: str, words: Mapping[str, Any]) -> UnshareAttempt:
    container = run(lab.image("tools"), "sleep 9140", **words)
    # a kernel without seccomp has no such line
    said = lab.exec(container, ["sh", "-c", "id -u; grep Seccomp: /proc/self/status"]).stdout.split()
    user, seccomp = (integer(word) or 0 for word in [*said, "", "", ""][:3:2])
    done = lab.exec(container, ["sh", "-c", _UNSHARE])
    lines = done.stdout.splitlines()
    if done.exit_code:
        return UnshareAttempt(options, user, seccomp, False, None, (), False, done.stderr.strip())
    highest = int(lab.host.read("/proc/sys/kernel/cap_last_cap"))
    return UnshareAttempt(
        options,
        user=user,
        seccomp=seccomp,
        worked=True,
        user_inside=int(lines[0]),
        map=tuple(map(int, lines[1].split())),
        all_capabilities=int(lines[2].split()[1], 16) == (1 << highest + 1) - 1,
        said="",
    )


@record
class CgroupView(Result):
    """Where two containers believe to be in the tree of cgroups."""

    version: int = column("of the cgroups of the engine's host, 1 or 2")
    default: str = column("what the engine chooses where nobody does: `host` or `private`")
    paths: Mapping[str, str] = column(
        "mode → the path that /proc/self/cgroup shows inside, shortened at both ends of long parts",
        shown=False,
    )
    same_as_host: Mapping[str, bool] = column(
        "mode → whether the container is in the host's cgroup namespace", shown=False
    )
    shows_own_id: Mapping[str, bool] = column("mode → whether the path names the container", shown=False)
    set_to: str | None = column(
        "why the default is not the version's: dockerd's `default-cgroupns-mode`; None where it is",
        default=None,
    )

    def frame(self) -> pd.DataFrame:
        """One row a mode: option, path_inside, same_as_host."""
        rows = [(f"--cgroupns {mode}", path, self.same_as_host[mode]) for mode, path in self.paths.items()]
        return table(rows, ["option", "path_inside", "same_as_host"])


def cgroup(lab: Lab) -> CgroupView:
    """Start one container in the host's cgroup namespace and one in its own, and read the paths that each sees.

    In a cgroup namespace of its own a process sees its cgroup as the root, "/" (cgroup_namespaces(7)). Docker gives
    a container one where the host has version 2, and none on version 1 (Docker docs, docker run, --cgroupns).
    """
    paths: dict[str, str] = {}
    same: dict[str, bool] = {}
    named: dict[str, bool] = {}
    with temporary_containers(lab, ["docker run -d --cgroupns"]) as run:
        host = lab.host.process().namespaces.get("cgroup")
        plain = run(lab.image("payload"), "sleep 9150")
        default = lab.inspect(plain)["HostConfig"].get("CgroupnsMode") or "host"
        other = "private" if default == "host" else "host"
        asked = run(lab.image("payload"), "sleep 9151", cgroupns=other)
        for mode, container in sorted({default: plain, other: asked}.items()):
            said = lab.exec(container, "cat /proc/self/cgroup").stdout
            # version 1 has one line for each hierarchy; one without limits may say less than the others
            path = max(cgroup_paths.paths(said).values(), key=len, default="/")
            paths[mode] = "/".join(part if len(part) < 30 else f"{part[:12]}…" for part in path.split("/"))
            same[mode] = lab.host.process(container).namespaces.get("cgroup") == host
            named[mode] = str(container.id)[:12] in path
    version = lab.engine.facts().cgroup_version
    # `docker info` lists cgroupns where the default is a namespace of its own; Podman lists it never
    private = security_option(lab.engine.info, "cgroupns") is not None
    changed = private is not (version == 2) and not lab.engine.is_podman
    reason = (
        f"this engine's default-cgroupns-mode is {'private' if private else 'host'!r}" if changed else None
    )
    return CgroupView(version, default, paths, same, named, reason)


@record
class TimeNamespaceOffset(Result):
    """The clock of a container, and of a process in a time namespace of its own."""

    kernel_has: bool = column("whether the kernel has time namespaces; where not, nothing else was measured")
    asked_s: int = column("by how much the clock since boot was set forward in the new namespace")
    uptime_s: float = column("the seconds since boot in the container, by /proc/uptime")
    uptime_inside_s: float | None = column(
        "the same in the new namespace, a moment later; None where it was refused"
    )
    said: str = column("what `unshare` said when it failed")

    @property
    def shift_s(self) -> int | None:
        """By how much the two differ, to the hour: what passed between the two readings is left out."""
        if self.uptime_inside_s is None:
            return None
        return round((self.uptime_inside_s - self.uptime_s) / 3600) * 3600


def time(lab: Lab, asked_s: int = 86_400) -> TimeNamespaceOffset:
    """Make a time namespace in a container, with its clock since boot `asked_s` seconds ahead, and read both.

    Docker gives containers none: the clocks are the host's. To make one and set its clock takes CAP_SYS_ADMIN and
    CAP_SYS_TIME in a user namespace (time_namespaces(7)): one of its own, so that the container itself needs no
    capability. The clock of the day is in no namespace.
    """
    if "time" not in lab.host.process().namespaces:
        return TimeNamespaceOffset(False, asked_s, 0.0, None, "")
    with temporary_containers(lab, ["docker run -d", "docker exec"]) as run:
        container = run(lab.image("tools"), "sleep 9160", **_FEWEST)
        outside = _uptime(lab.exec(container, "cat /proc/uptime").stdout)
        shifted = f"unshare --user --map-root-user --time --boottime {asked_s} --fork cat /proc/uptime"
        done = lab.exec(container, shifted)
    inside = None if done.exit_code else _uptime(done.stdout)
    return TimeNamespaceOffset(True, asked_s, outside, inside, done.stderr.strip())


def _uptime(text: str) -> float:
    """The first number of /proc/uptime (proc(5))."""
    return decimal(text.partition(" ")[0]) or 0.0
