"""A monitor of containers: what it is given of the host, its page, and its numbers beside the kernel's."""

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

from labhelpers.errors import LabError, TimedOut
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from docker.models.containers import Container

    from labhelpers.engine.images import HubImage
    from labhelpers.lab import Lab

PORT = 8080
"""Where cAdvisor listens inside of its container, and the lab's image of Netdata as well."""
BOOK_MOUNTS = (
    ("/", "/rootfs", "every file of the host"),
    ("/var/run", "/var/run", "sockets of programs, the engine's own among them where it is kept there"),
    ("/sys", "/sys", "the kernel's objects; the counters of all control groups are in /sys/fs/cgroup"),
    ("/var/lib/docker/", "/var/lib/docker", "the engine's data, where it is kept there"),
    ("/dev/disk/", "/dev/disk", "names of disks"),
)
"""The five mounts of the book's line: on the host, in the container, what is there."""
SOCKETS = "/var/run"
NETDATA, CADVISOR = "Netdata", "cAdvisor"
_REQUEST_TIMEOUT_S = 30.0
_DISCOVERY_TIMEOUT_S = 60.0
_MAX_AGE_S = 30.0
MIB = 1024 * 1024


@record
class HostMount(Result):
    """What one mount of the book's line gives."""

    host: str = column("its path on the engine's host, and in the container")
    inside: str = column("its path on the engine's host, and in the container")
    gives: str = column("what is there, in a few words")
    there: bool = column("whether the host has it")


@record
class HostMounts(Result):
    """The mounts of the book's line, as the engine's host has them."""

    mounts: tuple[HostMount, ...] = rows("in the book's order", of=HostMount)

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths that the host does not have."""
        return tuple(one.host for one in self.mounts if not one.there)

    def options(self, without: Sequence[str] = ()) -> str:
        """`--volume` options for those that are there, but for the paths in `without`."""
        kept = (one for one in self.mounts if one.there and one.host not in without)
        return " ".join(f"--volume={one.host}:{one.inside}:ro" for one in kept)


def host_mounts(lab: Lab, mounts: Sequence[tuple[str, str, str]] = BOOK_MOUNTS) -> HostMounts:
    """Which paths of the book's mounts the engine's host has. `-v` makes a directory where one is missing.

    Args:
        mounts: on the host, in the container, what is there.
    """
    return HostMounts(tuple(HostMount(*one, _is_there(lab, one[0])) for one in mounts))


def remove_created_directories(lab: Lab, before: HostMounts) -> tuple[str, ...]:
    """Remove the empty directories that `-v` made on the engine's host where a source was missing.

    A container of the lab does it with rmdir(2), which removes no directory that holds something.

    Returns:
        The directories that are still there.
    """
    made = [one.host for one in before.mounts if not one.there and _is_there(lab, one.host)]
    with lab.quiet(essential=["docker run --rm"]):
        for path in made:
            above, _, name = lab.host.real_path(path).rpartition("/")
            lab.run_once(
                lab.image("payload"),
                ["rmdir", f"/above/{name}"],
                volumes=[f"{above or '/'}:/above"],
                network="none",
                cap_drop=["ALL"],
                cap_add=["DAC_OVERRIDE"],
                read_only=True,
            )
    return tuple(path for path in made if _is_there(lab, path))


def _is_there(lab: Lab, path: str) -> bool:
    name = lab.host.real_path(path).strip("/")
    return not name or lab.host.entries("/", [name])[name] is not None


# --- the page


# The page is shown in a frame where the reader's browser reaches it, and nowhere else: not through JupyterHub, Binder
# or Codespaces, not under https (mixed content), not through `ssh -L` of JupyterLab's port alone, and not on a web page
# of the stored notebook, which runs no script. `no-cors` asks whether anything answers, and may read nothing of it.
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
    """A web page of a container: in a frame where the browser reaches it, and everywhere as a link."""

    url: str = column("on the loopback of the machine on which the notebook's kernel runs")
    shows: str = column("what the page shows, in a line", default="")

    @property
    def port(self) -> int:
        """The port of `url`."""
        return urlsplit(self.url).port or 80

    def __repr__(self) -> str:
        lines = [f"open {self.url} in a browser on this machine", self.shows, f"elsewhere: {self._forward}"]
        return "\n".join(filter(None, lines))

    @property
    def _forward(self) -> str:
        return f"ssh -L {self.port}:127.0.0.1:{self.port} and the machine that runs JupyterLab, then open the same link"

    def _repr_html_(self) -> str:
        url = escape(self.url)
        link = f'<a href="{url}" target="_blank" rel="noopener"><code>{url}</code></a>'
        shows = f"<br>{escape(self.shows)}" if self.shows else ""
        elsewhere = (
            "<br><small>If your browser runs on another machine than JupyterLab, forward the port: "
            f"<code>ssh -L {self.port}:127.0.0.1:{self.port} HOST</code>, then open the same link.</small>"
        )
        return (
            f'<div class="labhelpers-page" data-url="{url}">{link}{shows}{elsewhere}</div>'
            f"<script>{_FRAME}</script>"
        )


def page(lab: Lab, container: Container | str, path: str = "") -> Page:
    """The page of a monitor.

    Raises:
        NotRunning, TimedOut: it ended, or did not answer in time.
    """
    answer = _get(lab, container, path.partition("#")[0])
    host, port = lab.forward_port(container, PORT)
    return Page(f"http://{host}:{port}/{path}", _shown(lab, container, answer))


def _shown(lab: Lab, container: Container | str, answer: Any) -> str:
    """What a monitor's page shows, in a line: its title, and of how many containers it has numbers."""
    found = re.search(r"<title>\s*([^<]+?)\s*</title>", answer, re.I) if isinstance(answer, str) else None
    title = f"The page “{unescape(found[1])}”" if found else "The page"
    known: set[str] = set()
    for path, pattern in (
        ("api/v1/charts", r"cgroup_[^\s\"]*?([0-9a-f]{12,64})[^\s\"]*\.cpu\b"),
        ("api/v1.3/subcontainers/", r"([0-9a-f]{64})"),
    ):
        with suppress(LabError):
            known |= set(re.findall(pattern, json.dumps(_get(lab, container, path, 0))))
    if not known:
        return f"{title} of this monitor."
    count = "1 container" if len(known) == 1 else f"{len(known)} containers"
    return f"{title} of this monitor: processor time and memory of {count}."


def _get(lab: Lab, container: Container | str, path: str, limit_s: float = _DISCOVERY_TIMEOUT_S) -> Any:
    """What the monitor answers: parsed where it is JSON, else text. It waits for a monitor that has just started."""
    host, port = lab.forward_port(container, PORT)
    last = ""

    def answered() -> tuple[Any, ...]:
        nonlocal last
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/{path}", timeout=_REQUEST_TIMEOUT_S) as answer:
                text = answer.read().decode(errors="replace")
            return (json.loads(text) if text.lstrip()[:1] in ("{", "[") else text,)
        except (OSError, ValueError) as error:
            last = str(error)
            return ()

    try:
        return lab.wait_for("the monitor to answer", answered, limit_s, every_s=0.2, while_running=container)[
            0
        ]
    except TimedOut as error:
        raise TimedOut(
            f"{error.message} on its port {PORT}: {last}",
            hint=f"see why: docker logs {container if isinstance(container, str) else container.name}",
            engine_message=error.engine_message,
        ) from None


# --- its numbers


@record
class MonitorReadings:
    """What a monitor says of a container."""

    cpu: tuple[tuple[float, float], ...] = column(
        "(seconds since 1970 on the host's clock, percent of one processor in the time before)"
    )
    memory: tuple[tuple[float, float], ...] = column("(seconds, anonymous memory in bytes)")


def monitor_kind(image: HubImage) -> str:
    """Which monitor `image` is: `cAdvisor`, or the `Netdata` that stands in for it."""
    return NETDATA if image.is_substitute else CADVISOR


def has_container(
    lab: Lab, monitor: Container | str, which: str, container_id: str, limit_s: float = _DISCOVERY_TIMEOUT_S
) -> bool:
    """Whether the monitor has found a container; False where it does not answer in the way of `which`."""
    try:
        if which == NETDATA:
            return {"cpu", "mem"} <= _charts(lab, monitor, container_id, limit_s).keys()
        return bool(_cadvisor(lab, monitor, container_id, limit_s))
    except LabError:
        return False


def memory_now(lab: Lab, monitor: Container | str, container_id: str) -> int | None:
    """The anonymous memory of a container as a monitor of either kind gives it now, in bytes; None where it does not.

    A number that is older than half a minute is none: the counters of a container that runs are read all the time.
    """
    now = float(lab.host.read("/proc/uptime").split()[0]) + _boot_s(lab)
    for read in (_netdata_now, _cadvisor_now):
        with suppress(LabError, LookupError, TypeError, ValueError, AttributeError):
            found = read(lab, monitor, container_id, now)
            rows = [(when, held) for when, held in found if abs(now - when) < _MAX_AGE_S]
            if rows:
                return int(max(rows)[1])
    return None


def _boot_s(lab: Lab) -> float:
    """When the engine's host was started, in seconds since 1970 on its own clock (proc(5), /proc/stat, btime)."""
    found = re.search(r"^btime (\d+)", lab.host.read("/proc/stat"), re.M)
    return float(found[1]) if found else time.time() - float(lab.host.read("/proc/uptime").split()[0])


def _netdata_now(
    lab: Lab, monitor: Container | str, container_id: str, now: float
) -> tuple[tuple[float, float], ...]:
    if "mem" not in _charts(lab, monitor, container_id, 0.5):
        return ()
    return netdata(lab, monitor, container_id, now - _MAX_AGE_S, now).memory


def _cadvisor_now(
    lab: Lab, monitor: Container | str, container_id: str, now: float
) -> tuple[tuple[float, float], ...]:
    """From the container's control group: without the engine's socket cAdvisor knows no other name of it."""
    stats = _cadvisor(lab, monitor, container_id, 0.5)
    if not stats:
        groups = _get(lab, monitor, "api/v1.3/subcontainers/", 0.5)
        stats = next((one.get("stats") or [] for one in groups if container_id in one["name"]), [])
    return parse_cadvisor(stats, now - _MAX_AGE_S, now).memory


def readings(
    lab: Lab, monitor: Container | str, which: str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """What the monitor says of a container between two times, in seconds since 1970.

    Raises:
        LabError: it does not know that container.
    """
    read = netdata if which == NETDATA else cadvisor
    said = read(lab, monitor, container_id, begin, end)
    if said.cpu and said.memory:
        return said
    raise LabError(
        f"the monitor says nothing of the container {container_id[:12]}",
        hint="it looks for new containers now and then: measure for longer",
    )


def netdata(
    lab: Lab, monitor: Container | str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """Netdata's /api/v1/data (learn.netdata.cloud, "REST API"): one row a second, a column for each dimension."""
    charts = _charts(lab, monitor, container_id)
    if not {"cpu", "mem"} <= charts.keys():
        return MonitorReadings((), ())
    rows = {}
    for what in ("cpu", "mem"):
        query = f"chart={charts[what]}&after={int(begin)}&before={int(end) + 1}&format=json"
        rows[what] = _get(lab, monitor, f"api/v1/data?{query}")
    # /sys/fs/cgroup/…/memory.stat calls it rss on version 1, anon on version 2; Netdata keeps its words
    names = rows["mem"]["labels"]
    column = names.index("anon" if "anon" in names else "rss")
    cpu = sorted((row[0], sum(row[1:])) for row in rows["cpu"]["data"] if None not in row)
    memory = sorted((row[0], row[column] * MIB) for row in rows["mem"]["data"] if None not in row)
    return MonitorReadings(tuple(cpu), tuple(memory))


def _charts(
    lab: Lab, monitor: Container | str, container_id: str, limit_s: float = _DISCOVERY_TIMEOUT_S
) -> dict[str, str]:
    """`cpu` and `mem` → Netdata's charts of a container, as far as it has them."""
    pattern = re.compile(rf"cgroup_\S*{container_id}\S*\.(cpu|mem)")
    answer = _get(lab, monitor, "api/v1/charts", limit_s)
    found = (pattern.fullmatch(name) for name in (answer["charts"] if isinstance(answer, dict) else ()))
    return {one[1]: one[0] for one in found if one}


def cadvisor(
    lab: Lab, monitor: Container | str, container_id: str, begin: float, end: float
) -> MonitorReadings:
    """cAdvisor's /api/v1.3/docker/ID (github.com/google/cadvisor, docs/api.md): counters, each with its time."""
    return parse_cadvisor(_cadvisor(lab, monitor, container_id), begin, end)


def _cadvisor(
    lab: Lab, monitor: Container | str, container_id: str, limit_s: float = 3.0
) -> list[dict[str, Any]]:
    try:
        # it answers with an error while it does not know the container
        answer = _get(lab, monitor, f"api/v1.3/docker/{container_id}", min(limit_s, 3.0))
    except LabError:
        return []
    one: dict[str, Any] = next(iter(answer.values()), {}) if isinstance(answer, dict) else {}
    return list(one.get("stats") or [])


def parse_cadvisor(stats: Sequence[dict[str, Any]], begin: float, end: float) -> MonitorReadings:
    """What cAdvisor's stats say: rates between one reading of the processor counter and the next."""
    from labhelpers.services.startup import seconds

    rows = sorted(
        (seconds(one["timestamp"]), one["cpu"]["usage"]["total"] / 1e9, float(one["memory"]["rss"]))
        for one in stats
    )
    inside = [row for row in rows if begin <= row[0] <= end + 1]
    pairs = pairwise(inside)
    cpu = ((b[0], 100 * (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairs if b[0] > a[0])
    return MonitorReadings(tuple(cpu), tuple((row[0], row[2]) for row in inside))
