"""The view of the engine's host: /proc and /sys/fs/cgroup of the machine that the engine runs on.

That machine may be a virtual machine of Docker Desktop or a server elsewhere, so nothing is read from the
notebook's own. One small helper container reads, with the host's pid and cgroup namespaces, no network, and
the one capability that another process's /proc/PID needs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from labhelpers.engine.find import Engine
from labhelpers.errors import LabError
from labhelpers.results import Result

_AGENT = Path(__file__).with_name("agent.py")
_ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class Kernel(Result):
    """The kernel of the engine's host.

    Attributes:
        release: what `uname -r` says there.
        version: the line of /proc/version.
        boot_id: random, new with each boot (proc(5), /proc/sys/kernel/random).
    """

    release: str
    version: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Process(Result):
    """A process of a container, as its engine's host sees it.

    Attributes:
        pid, parent_pid: in the host's pid namespace.
        inside_pid: in the container's own (last number of NSpid, proc(5)).
        command: its command line, words joined by blanks.
    """

    pid: int
    parent_pid: int
    inside_pid: int
    command: str


@dataclass(frozen=True, slots=True)
class MemoryHeld(Result):
    """Memory that a container holds on the engine's host.

    Attributes:
        pss_bytes: proportional set size, summed over its processes: a page shared by n processes counts 1/n
            (kernel, Documentation/filesystems/proc.rst, smaps_rollup).
        anon_bytes: anonymous memory charged to its cgroup (memory.stat: `anon`, or `total_rss` on version 1).
        cache_bytes: file pages charged to its cgroup (memory.stat: `file`, or `total_cache` on version 1).
    """

    pss_bytes: int
    anon_bytes: int
    cache_bytes: int


class HostView:
    """Reads the engine's host through one helper container. The first read starts it.

    The helper ends by itself when this process does.

    Args:
        engine: the engine.
        labels: what the helper carries, so that it is known as the lab's.
        image: gives the reference of an image with `python3`; asked once, at the first read.
    """

    def __init__(self, engine: Engine, labels: Mapping[str, str], image: Callable[[], str]) -> None:
        self._api: Any = engine.client.api
        self._labels = dict(labels)
        self._image = image
        self._line: _Line | None = None
        self._turn = threading.Lock()

    def read(self, path: str) -> str:
        """The text of a file of the host.

        Raises:
            LabError: it cannot be read there.
        """
        found, failed = self._ask("read", [path])
        if path in failed:
            raise LabError(
                f"{path} cannot be read on the engine's host, so what it would tell cannot be shown",
                hint="`./lab doctor` says which engine this is; some hide parts of their host",
                engine_words=failed[path],
            )
        return str(found[path])

    def read_many(self, paths: Iterable[str]) -> dict[str, str | None]:
        """The texts of many files in one go; None for each that cannot be read."""
        wanted = list(paths)
        found, _ = self._ask("read", wanted)
        return {path: found.get(path) for path in wanted}

    def kernel(self) -> Kernel:
        """The kernel that the engine's host runs."""
        paths = ("/proc/sys/kernel/osrelease", "/proc/version", "/proc/sys/kernel/random/boot_id")
        return Kernel(*((text or "").strip() for text in self.read_many(paths).values()))

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo of the host, in bytes (counts of huge pages as they are)."""
        table = {}
        for line in self.read("/proc/meminfo").splitlines():
            name, _, rest = line.partition(":")
            number, *unit = rest.split()
            table[name] = int(number) * (1024 if unit == ["kB"] else 1)
        return table

    def processes(self, container: Container | str) -> list[Process]:
        """The container's processes, by pid; those that `docker exec` started are among them.

        Raises:
            LabError: the container does not run.
        """
        cgroup = self._cgroup(self._first_pid(container))
        pids = [int(name) for name in self._ask("names", ["/proc"])[0]["/proc"] if name.isdigit()]
        cgroups = self.read_many(f"/proc/{pid}/cgroup" for pid in pids)
        members = [pid for pid in pids if _is_below(cgroups[f"/proc/{pid}/cgroup"], cgroup)]
        texts = self.read_many(f"/proc/{pid}/{file}" for pid in members for file in ("status", "cmdline"))
        seen = (_process(pid, texts[f"/proc/{pid}/status"], texts[f"/proc/{pid}/cmdline"]) for pid in members)
        return sorted((process for process in seen if process), key=lambda process: process.pid)

    def memory(self, container: Container | str) -> MemoryHeld:
        """What the container holds of the host's memory.

        Raises:
            LabError: it does not run, or the engine does not let the lab see it.
        """
        controller, path = self._cgroup(self._first_pid(container))
        stat = _numbers(self.read(f"{self._mounted(controller, path)}/memory.stat"))
        pss_kib = 0
        for process in self.processes(container):
            try:
                rollup = self.read(f"/proc/{process.pid}/smaps_rollup")
            except LabError as error:
                if "No such" in (error.engine_words or ""):
                    continue  # it ended meanwhile
                raise
            pss_kib += next((int(ln.split()[1]) for ln in rollup.splitlines() if ln.startswith("Pss:")), 0)
        anon, cache = ("total_rss", "total_cache") if controller else ("anon", "file")
        return MemoryHeld(pss_kib * 1024, stat[anon], stat[cache])

    def close(self) -> None:
        """End the helper. The next read starts another."""
        with self._turn:
            self._hang_up()

    # --- the container's place on the host

    def _first_pid(self, container: Container | str) -> int:
        name = container if isinstance(container, str) else container.id
        try:
            pid = int(self._api.inspect_container(name)["State"]["Pid"])
        except NotFound:
            pid = 0
        if not pid:
            raise LabError(
                f"the container {getattr(container, 'name', container)!r} does not run on the host",
                hint="run the cell that starts it again",
            )
        return pid

    def _cgroup(self, pid: int) -> tuple[str, str]:
        """(`memory`, path) on cgroup version 1, (``, path) on version 2."""
        lines = _cgroup_lines(self.read(f"/proc/{pid}/cgroup"))
        return ("memory", lines["memory"]) if "memory" in lines else ("", lines[""])

    def _mounted(self, controller: str, path: str) -> str:
        """Where the helper sees that cgroup, by its own mount table (proc(5), mountinfo)."""
        for line in self.read("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            root, point = before.split()[3:5]
            kind, _, options = after.split()[:3]
            right = (
                kind == "cgroup2" if not controller else kind == "cgroup" and controller in options.split(",")
            )
            if right and path.startswith(root.rstrip("/") + "/"):
                return point + path[len(root.rstrip("/")) :]
        raise LabError(
            f"the cgroup {path} is not visible on the engine's host, so its memory cannot be shown",
            hint="`./lab doctor` says which engine this is; rootless engines hide their cgroups",
        )

    # --- talking to the helper

    def _ask(self, do: str, paths: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        with self._turn:
            for attempt in (1, 2):
                try:
                    if self._line is None:
                        self._line = self._start()
                    answer = self._line.ask({"do": do, "paths": paths})
                    return answer["found"], answer["failed"]
                except (OSError, EOFError, ValueError) as error:
                    self._hang_up()
                    if attempt == 2:
                        raise LabError(
                            "the helper that reads the engine's host was lost twice",
                            hint="run the cell again; if it stays so, `./lab doctor` looks at the engine",
                            engine_words=str(error),
                        ) from None
        raise AssertionError("unreachable")

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            # it removes itself when its input ends: it may be gone
            with suppress(APIError):
                self._api.remove_container(self._line.container, force=True)
            self._line = None

    def _start(self) -> _Line:
        host = {
            "AutoRemove": True,
            "PidMode": "host",
            "CgroupnsMode": "host",
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["SYS_PTRACE"],
            # AppArmor's default profile forbids looking at processes outside of it
            "SecurityOpt": ["apparmor=unconfined", "label=disable", "no-new-privileges"],
            "Binds": ["/sys/fs/cgroup:/sys/fs/cgroup:ro"],
        }
        body = {
            "Image": self._image(),
            "Cmd": ["python3", "-I", "-c", _AGENT.read_text()],
            "Entrypoint": [],
            "OpenStdin": True,
            # its input ends with our connection, and it with its input: a killed kernel leaves nothing behind
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Labels": self._labels,
            "HostConfig": host,
        }
        try:
            made = self._api.create_container_from_config(body)["Id"]
            line = _Line(made, self._api.attach_socket(made, _BOTH_WAYS))
            self._api.start(made)
        except APIError as error:
            raise LabError(
                "the engine does not let the lab look at its host, so what happens there cannot be shown",
                hint="its words say what it refused; `./lab doctor` says which engine this is",
                engine_words=str(error.explanation),
            ) from None
        return line


_BOTH_WAYS = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}


class _Line:
    """The helper's standard input and output, over the attached connection."""

    def __init__(self, container: str, attached: Any) -> None:
        self.container = container
        self._kept = attached  # it holds the connection open
        self._socket: Any = getattr(attached, "_sock", attached)
        self._socket.settimeout(_ANSWER_S)
        self._text = b""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        rest = memoryview(json.dumps(request).encode() + b"\n")
        while rest:
            rest = rest[self._socket.send(rest) :]
        while b"\n" not in self._text:
            self._text += self._frame()
        line, _, self._text = self._text.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _frame(self) -> bytes:
        """One frame of standard output (Engine API, attach: kind, three zeros, length, data)."""
        header = self._exactly(8)
        data = self._exactly(int.from_bytes(header[4:], "big"))
        if header[0] == 2:
            raise OSError(data.decode(errors="replace"))
        return data

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._socket.recv(min(count, 1 << 16))
            if not part:
                raise EOFError("it ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        for end in (getattr(self._kept, "_response", None), self._kept, self._socket):
            # the three own one another in ways that differ between unix, tcp and npipe
            with suppress(OSError, ValueError):
                if end is not None:
                    end.close()


def _cgroup_lines(text: str) -> dict[str, str]:
    """Controller → path of /proc/PID/cgroup; the unified hierarchy's controller is the empty text."""
    table: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        table |= dict.fromkeys(controllers.split(","), path)
    return table


def _is_below(text: str | None, cgroup: tuple[str, str]) -> bool:
    controller, path = cgroup
    mine = _cgroup_lines(text or "").get(controller, "")
    return mine == path or mine.startswith(path.rstrip("/") + "/")


def _process(pid: int, status: str | None, cmdline: str | None) -> Process | None:
    if not status:
        return None  # it ended between two reads
    fields = {name: rest.strip() for name, _, rest in (line.partition(":") for line in status.splitlines())}
    command = " ".join((cmdline or "").split("\0")).strip() or f"[{fields['Name']}]"
    return Process(pid, int(fields["PPid"]), int(fields.get("NSpid", str(pid)).split()[-1]), command)


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split() for line in text.splitlines())}
