"""A monitor of containers: its mounts of the host, its page, and the readings that it reports."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from html import escape, unescape
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labhelpers.course.arguments import experiment
from labhelpers.engine.responses import seconds
from labhelpers.errors import ExperimentFailed, LabError, TimedOut
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.images import HubImage
    from labhelpers.lab import Lab

PORT = 8080
"""The port on which cAdvisor listens in its container; the lab's image of Netdata uses it too."""
BOOK_MOUNTS = (
    ("/", "/rootfs", "every file of the host"),
    ("/var/run", "/var/run", "sockets of programs, usually including the engine's"),
    ("/sys", "/sys", "kernel objects; the counters of all control groups are in /sys/fs/cgroup"),
    ("/var/lib/docker/", "/var/lib/docker", "the engine's data, unless it has another data root"),
    ("/dev/disk/", "/dev/disk", "names of disks"),
)
"""The five mounts of the book's command: path on the host, path in the container, contents."""
SOCKETS = "/var/run"
NETDATA, CADVISOR = "Netdata", "cAdvisor"
_REQUEST_TIMEOUT_S = 30.0
_DISCOVERY_TIMEOUT_S = 60.0
_MAX_AGE_S = 30.0
MIB = 1024 * 1024


@record
class HostMount(Result):
    """One mount of the book's command."""

    host_path: str = column("path on the engine's host")
    container_path: str = column("path in the container")
    provides: str = column("contents of the directory")
    exists: bool = column("whether the engine's host has the directory")


@record
class HostMounts(Result):
    """Mounts of the book's command, as they exist on the engine's host."""

    mounts: tuple[HostMount, ...] = rows("the mounts in the book's order", of=HostMount)

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths that do not exist on the engine's host."""
        return tuple(mount.host_path for mount in self.mounts if not mount.exists)

    def options(self, without: Sequence[str] = ()) -> str:
        """`--volume` options for the mounts that exist, except the host paths in `without`."""
        mounts = (mount for mount in self.mounts if mount.exists and mount.host_path not in without)
        return " ".join(f"--volume={mount.host_path}:{mount.container_path}:ro" for mount in mounts)


@experiment
def host_mounts(lab: Lab, mounts: Sequence[tuple[str, str, str]] = BOOK_MOUNTS) -> HostMounts:
    """Which of the book's mounts exist on the engine's host. `-v` creates a directory if one is missing.

    Args:
        mounts: path on the host, path in the container, contents.
    """
    return HostMounts(tuple(HostMount(*mount, _exists(lab, mount[0])) for mount in mounts))


@experiment
def remove_created_directories(lab: Lab, before: HostMounts) -> tuple[str, ...]:
    """Remove the empty directories that `-v` created on the engine's host for missing sources.

    A container of the lab removes them with rmdir(2), which fails for a directory that is not empty.

    Returns:
        The directories that remain.
    """
    created = [path for path in before.missing if _exists(lab, path)]
    with lab.quiet(essential=["docker run --rm"]):
        for path in created:
            parent, _, name = lab.host.real_path(path).rpartition("/")
            lab.run_once(
                lab.image("payload"),
                ["rmdir", f"/parent/{name}"],
                volumes=[f"{parent or '/'}:/parent"],
                network="none",
                cap_drop=["ALL"],
                cap_add=["DAC_OVERRIDE"],
                read_only=True,
            )
    return tuple(path for path in created if _exists(lab, path))


def _exists(lab: Lab, path: str) -> bool:
    name = lab.host.real_path(path).strip("/")
    return not name or lab.host.entries("/", [name])[name] is not None


# --- the page


# The page is shown in a frame only if the reader's browser can reach it: not through JupyterHub, Binder or Codespaces,
# not under https (mixed content), not through `ssh -L` of JupyterLab's port alone, and not on a web page of the stored
# notebook, which runs no script. `no-cors` tests whether a server responds, without access to the response.
_FRAME = """
for (const place of document.querySelectorAll(".labhelpers-page:not(.is-tried)")) {
  place.classList.add("is-tried");
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  if (!loopback || location.protocol !== "http:") continue;
  const url = place.dataset.url;
  fetch(url, {mode: "no-cors"}).then(() => {
    const frame = document.createElement("iframe");
    Object.assign(frame, {src: url, title: url, width: "100%", height: 520});
    place.prepend(frame);
  }).catch(() => {});
}
"""


@record
class Page(Result):
    """A web page of a container: a link, and a frame if the browser can reach the page."""

    url: str = column("address on the loopback interface of the machine that runs the notebook's kernel")
    summary: str = column("what the page shows, in one line", default="")

    @property
    def port(self) -> int:
        """The port of `url`."""
        return urlsplit(self.url).port or 80

    def __repr__(self) -> str:
        lines = [f"open {self.url} in a browser on this machine", self.summary, f"elsewhere: {self._forward}"]
        return "\n".join(filter(None, lines))

    @property
    def _forward(self) -> str:
        return f"ssh -L {self.port}:127.0.0.1:{self.port} and the machine that runs JupyterLab, then open the same link"

    def _repr_html_(self) -> str:
        url = escape(self.url)
        link = f'<a href="{url}" target="_blank" rel="noopener"><code>{url}</code></a>'
        summary = f"<br>{escape(self.summary)}" if self.summary else ""
        elsewhere = (
            "<br><small>If your browser runs on another machine than JupyterLab, forward the port: "
            f"<code>ssh -L {self.port}:127.0.0.1:{self.port} HOST</code>, then open the same link.</small>"
        )
        return (
            f'<div class="labhelpers-page" data-url="{url}">{link}{summary}{elsewhere}</div>'
            f"<script>{_FRAME}</script>"
        )


@experiment
def page(lab: Lab, container: Container | str, path: str = "") -> Page:
    """The page of a monitor.

    Raises:
        NotRunning, TimedOut: the monitor exited, or did not respond in time.
    """
    response = _get(lab, container, path.partition("#")[0])
    host, port = lab.forward_port(container, PORT)
    return Page(f"http://{host}:{port}/{path}", _summary(lab, container, response))


def _summary(lab: Lab, container: Container | str, response: Any) -> str:
    """The title of a monitor's page, and the number of containers that the monitor reports."""
    match = re.search(r"<title>\s*([^<]+?)\s*</title>", response, re.I) if isinstance(response, str) else None
    title = f"The page “{unescape(match[1])}”" if match else "The page"
    ids: set[str] = set()
    for path, pattern in (
        ("api/v1/charts", r"cgroup_[^\s\"]*?([0-9a-f]{12,64})[^\s\"]*\.cpu\b"),
        ("api/v1.3/subcontainers/", r"([0-9a-f]{64})"),
    ):
        with suppress(LabError):
            ids |= set(re.findall(pattern, json.dumps(_get(lab, container, path, 0))))
    if not ids:
        return f"{title} of this monitor."
    count = "1 container" if len(ids) == 1 else f"{len(ids)} containers"
    return f"{title} of this monitor: processor time and memory of {count}."


def _get(lab: Lab, container: Container | str, path: str, limit_s: float = _DISCOVERY_TIMEOUT_S) -> Any:
    """The monitor's response, parsed if it is JSON. Waits for a monitor that has just started."""
    host, port = lab.forward_port(container, PORT)
    last_error = ""

    def respond() -> tuple[Any, ...]:
        nonlocal last_error
        try:
            with urllib.request.urlopen(
                f"http://{host}:{port}/{path}", timeout=_REQUEST_TIMEOUT_S
            ) as response:
                text = response.read().decode(errors="replace")
            return (json.loads(text) if text.lstrip()[:1] in ("{", "[") else text,)
        except (OSError, ValueError) as error:
            last_error = str(error)
            return ()

    try:
        (response,) = lab.wait_for(
            "the monitor to respond", respond, limit_s, every_s=0.2, while_running=container
        )
        return response
    except TimedOut as error:
        raise TimedOut(
            f"{error.message} on its port {PORT}: {last_error}",
            hint=f"see the reason: docker logs {container if isinstance(container, str) else container.name}",
            engine_message=error.engine_message,
        ) from None


# --- its numbers


@record
class MonitorReadings:
    """What a monitor reports about a container."""

    cpu: tuple[tuple[float, float], ...] = column(
        "pairs of seconds since 1970 on the host's clock, and percent of one CPU since the reading before"
    )
    memory: tuple[tuple[float, float], ...] = column(
        "pairs of seconds since 1970 on the host's clock, and bytes of anonymous memory"
    )


@experiment
def monitor_kind(image: HubImage) -> str:
    """The monitor that `image` contains: `cAdvisor`, or its substitute `Netdata`."""
    return NETDATA if image.is_substitute else CADVISOR


def has_container(
    lab: Lab, monitor: Container | str, kind: str, container_id: str, limit_s: float = _DISCOVERY_TIMEOUT_S
) -> bool:
    """Whether the monitor reports a container; False if it does not respond as a monitor of that kind."""
    try:
        if kind == NETDATA:
            return {"cpu", "mem"} <= _charts(lab, monitor, container_id, limit_s).keys()
        return bool(_cadvisor(lab, monitor, container_id, limit_s))
    except LabError:
        return False


def memory_now(lab: Lab, monitor: Container | str, container_id: str) -> int | None:
    """The anonymous memory that a monitor of either kind reports for a container now, in bytes, or None.

    Readings older than half a minute are ignored: a monitor reads the counters of a running container continuously.
    """
    now = float(lab.host.read("/proc/uptime").split()[0]) + _boot_s(lab)
    for read in (_netdata_now, _cadvisor_now):
        with suppress(LabError, LookupError, TypeError, ValueError, AttributeError):
            readings = read(lab, monitor, container_id, now)
            recent = [(at, used) for at, used in readings if abs(now - at) < _MAX_AGE_S]
            if recent:
                return int(max(recent)[1])
    return None


def _boot_s(lab: Lab) -> float:
    """Boot time of the engine's host, in seconds since 1970 on its own clock (proc(5), /proc/stat, btime)."""
    match = re.search(r"^btime (\d+)", lab.host.read("/proc/stat"), re.M)
    return float(match[1]) if match else time.time() - float(lab.host.read("/proc/uptime").split()[0])


def _netdata_now(
    lab: Lab, monitor: Container | str, container_id: str, now: float
) -> tuple[tuple[float, float], ...]:
    if "mem" not in _charts(lab, monitor, container_id, 0.5):
        return ()
    return netdata(lab, monitor, container_id, now - _MAX_AGE_S, now).memory


def _cadvisor_now(
    lab: Lab, monitor: Container | str, container_id: str, now: float
) -> tuple[tuple[float, float], ...]:
    """By the container's control group: without the engine's socket, cAdvisor has no other name for it."""
    stats = _cadvisor(lab, monitor, container_id, 0.5)
    if not stats:
        groups = _get(lab, monitor, "api/v1.3/subcontainers/", 0.5)
        stats = next((group.get("stats") or [] for group in groups if container_id in group["name"]), [])
    return parse_cadvisor(stats, now - _MAX_AGE_S, now).memory


def readings(
    lab: Lab, monitor: Container | str, kind: str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """What the monitor reports about a container between two times, in seconds since 1970.

    Raises:
        ExperimentFailed: the monitor does not report that container.
    """
    read = netdata if kind == NETDATA else cadvisor
    result = read(lab, monitor, container_id, begin, end)
    if result.cpu and result.memory:
        return result
    raise ExperimentFailed(
        f"the monitor reports nothing about the container {container_id[:12]}",
        hint="a monitor detects new containers with a delay: use a longer load",
    )


def netdata(
    lab: Lab, monitor: Container | str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """Netdata's /api/v1/data (learn.netdata.cloud, "REST API"): a row for each second, a column for each dimension."""
    charts = _charts(lab, monitor, container_id)
    if not {"cpu", "mem"} <= charts.keys():
        return MonitorReadings((), ())
    data = {}
    for chart in ("cpu", "mem"):
        query = f"chart={charts[chart]}&after={int(begin)}&before={int(end) + 1}&format=json"
        data[chart] = _get(lab, monitor, f"api/v1/data?{query}")
    # as in /sys/fs/cgroup/…/memory.stat: rss on version 1, anon on version 2
    names = data["mem"]["labels"]
    anonymous = names.index("anon" if "anon" in names else "rss")
    cpu = sorted((row[0], sum(row[1:])) for row in data["cpu"]["data"] if None not in row)
    memory = sorted((row[0], row[anonymous] * MIB) for row in data["mem"]["data"] if None not in row)
    return MonitorReadings(tuple(cpu), tuple(memory))


def _charts(
    lab: Lab, monitor: Container | str, container_id: str, limit_s: float = _DISCOVERY_TIMEOUT_S
) -> dict[str, str]:
    """`cpu` and `mem` → the ids of Netdata's charts of a container, if it has them."""
    pattern = re.compile(rf"cgroup_\S*{container_id}\S*\.(cpu|mem)")
    response = _get(lab, monitor, "api/v1/charts", limit_s)
    matches = map(pattern.fullmatch, response["charts"] if isinstance(response, dict) else ())
    return {match[1]: match[0] for match in matches if match}


def cadvisor(
    lab: Lab, monitor: Container | str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """cAdvisor's /api/v1.3/docker/ID (github.com/google/cadvisor, docs/api.md): counters with timestamps."""
    return parse_cadvisor(_cadvisor(lab, monitor, container_id), begin, end)


def _cadvisor(
    lab: Lab, monitor: Container | str, container_id: str, limit_s: float = 3.0
) -> list[dict[str, Any]]:
    try:
        # cAdvisor responds with an error until it detects the container
        response = _get(lab, monitor, f"api/v1.3/docker/{container_id}", min(limit_s, 3.0))
    except LabError:
        return []
    info: dict[str, Any] = next(iter(response.values()), {}) if isinstance(response, dict) else {}
    return list(info.get("stats") or [])


def parse_cadvisor(stats: Sequence[dict[str, Any]], begin: float, end: float) -> MonitorReadings:
    """cAdvisor's stats between two times: rates from one reading of the CPU counter to the next, and memory."""
    points = sorted(
        (seconds(each["timestamp"]), each["cpu"]["usage"]["total"] / 1e9, float(each["memory"]["rss"]))
        for each in stats
    )
    inside = [point for point in points if begin <= point[0] <= end + 1]
    pairs = pairwise(inside)
    cpu = ((b[0], 100 * (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairs if b[0] > a[0])
    return MonitorReadings(tuple(cpu), tuple((at, used) for at, _, used in inside))
