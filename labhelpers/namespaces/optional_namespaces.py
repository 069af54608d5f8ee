"""The three kinds of namespace that Docker need not create for a container: user, cgroup and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labhelpers.course.arguments import experiment
from labhelpers.engine.differences import security_option
from labhelpers.engine.host import cgroup_paths
from labhelpers.engine.host.text import decimal, integer
from labhelpers.namespaces.containers import temporary_containers
from labhelpers.results import Result, column, derived, record, rows

if TYPE_CHECKING:
    from labhelpers.lab import Lab

DEFAULT = "(no option)"
NO_FILTER = "--security-opt seccomp=unconfined"
LEAST_PRIVILEGE = f"--user 65534 --cap-drop ALL {NO_FILTER}"
_LEAST_PRIVILEGE: dict[str, Any] = {
    "user": 65534,
    "cap_drop": ["ALL"],
    "security_opt": ["seccomp=unconfined"],
}
ADMIN = "--cap-add SYS_ADMIN"
_UNSHARE = (
    'unshare --user --map-root-user sh -c "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status"'
)
# sysctls that disable user namespaces (user_namespaces(7); kernels of Debian and Ubuntu)
_DISABLING_SYSCTLS: Mapping[str, str] = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}


@record
class UnshareAttempt(Result):
    """A container that tried to create a user namespace."""

    options: str = column("options of `docker run`")
    user: int = column("user ID in the container")
    seccomp: int = column("seccomp mode of its processes: 0 is no filter, 2 is a filter (proc(5), Seccomp)")
    succeeded: bool = column("whether `unshare --user --map-root-user` succeeded")
    user_inside: int | None = column("user ID in the new namespace; none if it was not created")
    uid_map: tuple[int, ...] = column(
        "uid_map of the new namespace: first ID inside, first ID outside, count"
    )
    all_capabilities: bool = column("whether a process in the new namespace has every capability there")
    error: str = column("message of `unshare`, if it failed")


@record
class UserNamespaces(Result):
    """Containers that try to create a user namespace."""

    engine_remaps_users: bool = column(
        "whether the engine runs containers in a user namespace (userns-remap, rootless)"
    )
    attempts: tuple[UnshareAttempt, ...] = rows("one container for each set of options", of=UnshareAttempt)
    kernel_forbids: tuple[str, ...] = column("sysctls that disable user namespaces, as `file = value`")
    profile: str = column(
        "seccomp profile of the engine: `default` or `builtin` is Docker's, an empty string is none",
        default="default",
    )

    def of(self, options: str) -> UnshareAttempt:
        """The attempt with these options."""
        return next(attempt for attempt in self.attempts if attempt.options == options)

    @property
    def nonstandard_seccomp_reason(self) -> str | None:
        """Why the engine's seccomp profile is not Docker's default; None if it is."""
        if self.profile in ("default", "builtin"):
            return None
        return f"this engine's seccomp profile is {self.profile or 'off'}, not Docker's default"

    @property
    def seccomp_blocks(self) -> bool:
        """Whether the default container fails with the seccomp filter and succeeds without it."""
        default, without = self.of(DEFAULT), self.of(NO_FILTER)
        return default.seccomp == 2 and not default.succeeded and without.succeeded

    @property
    def explained(self) -> bool:
        """Whether each failure has a known cause: the seccomp filter, or a sysctl."""
        if self.kernel_forbids:
            return True
        return self.seccomp_blocks and all(
            each.succeeded for each in self.attempts if each.options != DEFAULT
        )


@experiment
def user(lab: Lab) -> UserNamespaces:
    """Try to create a user namespace in four containers, and find out what prevents it.

    Docker's default seccomp filter permits unshare(2) only with CAP_SYS_ADMIN (Docker docs, Seccomp
    security profiles). Without the filter the kernel lets any user create one (user_namespaces(7)). Root without
    capabilities would still not become root in it: mapping user 0 requires CAP_SETFCAP since Linux 5.12.
    """
    containers: dict[str, dict[str, Any]] = {
        DEFAULT: {},
        ADMIN: {"cap_add": ["SYS_ADMIN"]},
        NO_FILTER: {"security_opt": ["seccomp=unconfined"]},
        LEAST_PRIVILEGE: _LEAST_PRIVILEGE,
    }
    with temporary_containers(
        lab, [f"docker run -d {ADMIN}", f"docker run -d {NO_FILTER}", "docker run -d --cap-drop ALL"]
    ) as run:
        attempts = tuple(_unshare(lab, run, name, options) for name, options in containers.items())
        sysctls = lab.host.read_many(_DISABLING_SYSCTLS)
    disabling = [
        f"{path} = {value}"
        for path, value in _DISABLING_SYSCTLS.items()
        if (sysctls[path] or "").strip() == value
    ]
    info = lab.engine.info
    remaps = any(security_option(info, name) is not None for name in ("userns", "rootless"))
    seccomp = security_option(info, "seccomp")
    profile = "" if seccomp is None else seccomp.get("profile", "default")
    # a path on the engine's host differs on every machine
    return UserNamespaces(
        remaps, attempts, tuple(disabling), "a custom profile" if "/" in profile else profile
    )


def _unshare(lab: Lab, run: Any, name: str, options: Mapping[str, Any]) -> UnshareAttempt:
    container = run(lab.image("tools"), "sleep 9140", **options)
    # the line is missing on a kernel without seccomp
    status = lab.exec(container, ["sh", "-c", "id -u; grep Seccomp: /proc/self/status"]).stdout.split()
    user, seccomp = (integer(field) or 0 for field in [*status, "", "", ""][:3:2])
    output = lab.exec(container, ["sh", "-c", _UNSHARE])
    lines = output.stdout.splitlines()
    if output.exit_code:
        return UnshareAttempt(name, user, seccomp, False, None, (), False, output.stderr.strip())
    highest = int(lab.host.read("/proc/sys/kernel/cap_last_cap"))
    return UnshareAttempt(
        name,
        user=user,
        seccomp=seccomp,
        succeeded=True,
        user_inside=int(lines[0]),
        uid_map=tuple(map(int, lines[1].split())),
        all_capabilities=int(lines[2].split()[1], 16) == (1 << highest + 1) - 1,
        error="",
    )


@record
class CgroupPath:
    """The cgroup path that a container reads about itself."""

    option: str = column("value of `--cgroupns`: `host` or `private`")
    path: str = column("path in the container's /proc/self/cgroup, with long parts shortened")
    same_as_host: bool = column("whether the container is in the host's cgroup namespace")
    shows_own_id: bool = column("whether the path contains the container ID")


@record
class CgroupView(Result):
    """The path of a container's cgroup, in the host's cgroup namespace and in a private one."""

    version: int = column("cgroup version of the engine's host: 1 or 2")
    default: str = column("value of `--cgroupns` that the engine uses by default")
    containers: tuple[CgroupPath, ...] = rows("one container for each value of `--cgroupns`", of=CgroupPath)
    configured_reason: str | None = column(
        "why the default is not that of the cgroup version (`default-cgroupns-mode` of dockerd)", default=None
    )

    def of(self, option: str) -> CgroupPath:
        """The container with this value of `--cgroupns`."""
        return next(container for container in self.containers if container.option == option)


@experiment
def cgroup(lab: Lab) -> CgroupView:
    """Start a container in the host's cgroup namespace and one in its own, and read the paths that they see.

    In a cgroup namespace of its own a process sees its cgroup as the root, "/" (cgroup_namespaces(7)). Docker
    creates one for a container on cgroup version 2, and none on version 1 (Docker docs, docker run, --cgroupns).
    """
    views: list[CgroupPath] = []
    with temporary_containers(lab, ["docker run -d --cgroupns"]) as run:
        host = lab.host.process().namespaces.get("cgroup")
        plain = run(lab.image("payload"), "sleep 9150")
        default = lab.inspect(plain)["HostConfig"].get("CgroupnsMode") or "host"
        other = "private" if default == "host" else "host"
        containers = {default: plain, other: run(lab.image("payload"), "sleep 9151", cgroupns=other)}
        for mode, container in sorted(containers.items()):
            text = lab.exec(container, "cat /proc/self/cgroup").stdout
            # version 1 has one line for each hierarchy; a hierarchy without limits may have a shorter path
            path = max(cgroup_paths.paths(text).values(), key=len, default="/")
            shortened = "/".join(part if len(part) < 30 else f"{part[:12]}…" for part in path.split("/"))
            same = lab.host.process(container).namespaces.get("cgroup") == host
            views.append(CgroupPath(mode, shortened, same, str(container.id)[:12] in path))
    version = lab.engine.facts().cgroup_version
    # `docker info` lists cgroupns if the default is a private namespace; Podman never lists it
    private = security_option(lab.engine.info, "cgroupns") is not None
    configured = private is not (version == 2) and not lab.engine.is_podman
    reason = (
        f"this engine's default-cgroupns-mode is {'private' if private else 'host'!r}" if configured else None
    )
    return CgroupView(version, default, tuple(views), reason)


@record
class TimeNamespaceOffset(Result):
    """The clock since boot in a container, and in a time namespace with an offset."""

    kernel_supports: bool = column(
        "whether the kernel supports time namespaces; if not, nothing was measured"
    )
    requested_offset_s: int = column("requested offset of the clock since boot in the new namespace")
    uptime_s: float = column("time since boot in the container, from /proc/uptime")
    uptime_inside_s: float | None = column(
        "time since boot in the new namespace, read a moment later; none if it was not created"
    )
    error: str = column("message of `unshare`, if it failed")

    @derived
    def measured_offset_s(self) -> int | None:
        """Measured offset, rounded to the hour: the two clocks are not read at the same instant."""
        if self.uptime_inside_s is None:
            return None
        return round((self.uptime_inside_s - self.uptime_s) / 3600) * 3600


@experiment
def time(lab: Lab, offset_s: int = 86_400) -> TimeNamespaceOffset:
    """Create a time namespace in a container, with its clock since boot `offset_s` ahead, and read both clocks.

    Docker creates no time namespace: containers have the host's clocks. Creating a time namespace and setting its
    clock requires CAP_SYS_ADMIN and CAP_SYS_TIME in a user namespace (time_namespaces(7)). It is a new user
    namespace here, so the container itself needs no capability. The time of day is not in any namespace.
    """
    if "time" not in lab.host.process().namespaces:
        return TimeNamespaceOffset(False, offset_s, 0.0, None, "")
    with temporary_containers(lab, ["docker run -d", "docker exec"]) as run:
        container = run(lab.image("tools"), "sleep 9160", **_LEAST_PRIVILEGE)
        outside = _uptime(lab.exec(container, "cat /proc/uptime").stdout)
        command = f"unshare --user --map-root-user --time --boottime {offset_s} --fork cat /proc/uptime"
        output = lab.exec(container, command)
    inside = None if output.exit_code else _uptime(output.stdout)
    return TimeNamespaceOffset(True, offset_s, outside, inside, output.stderr.strip())


def _uptime(text: str) -> float:
    """The first number of /proc/uptime (proc(5))."""
    return decimal(text.partition(" ")[0]) or 0.0
