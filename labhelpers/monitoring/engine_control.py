"""What the control panel reads from the engine and changes on it, without widgets.

It changes only resources of this notebook until the user removes that limit. Then each change of a foreign resource
needs a confirmation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError

from labhelpers.course.arguments import experiment
from labhelpers.drawing import human_bytes
from labhelpers.engine import responses
from labhelpers.engine.error_translation import translate_errors
from labhelpers.engine.removal import remove_container
from labhelpers.errors import BadInput, LabError, NotOwned
from labhelpers.lab import sessions
from labhelpers.results import Result, column, record, rows, table

if TYPE_CHECKING:
    import pandas as pd

    from labhelpers.engine.host import Sample
    from labhelpers.lab import Lab
    from labhelpers.monitoring.live import ControlPanel

KINDS = ("container", "image", "network", "volume")
VERBS: Mapping[str, tuple[str, ...]] = {
    "container": ("start", "stop", "restart", "remove"),
    "image": ("remove",),
    "network": ("remove",),
    "volume": ("remove",),
}
WARNING = (
    "Without this limit, the panel also stops and removes resources that the lab did not create, such as containers "
    "and databases of other people. A removed resource cannot be restored."
)
STOP_TIMEOUT_S = 10
REFRESH_S = 1.0
REFRESH_TIMEOUT_S = 10.0
HISTORY_LENGTH = 60
LAST_LINES = 200


@record
class Item(Result):
    """A resource on the engine."""

    kind: str = column("`container`, `image`, `network` or `volume`")
    id: str = column("the resource's ID")
    name: str = column("the resource's name")
    owned: bool = column("whether this notebook created it")
    detail: str = column("image of a container, size of an image, driver of a network or volume")
    state: str = column("state of a container: `running`, `exited`, …", default="")
    status: str = column(
        "status of a container, as in `docker ps`: `Up 3 minutes`, `Exited (0) …`", default=""
    )
    ports: tuple[str, ...] = column("published ports, such as `127.0.0.1:8080→80/tcp`", default=())


@record
class Usage(Result):
    """The resource usage of a running container."""

    cpu_percent: float | None = column("share of one CPU since the previous reading, if there is one")
    memory_bytes: int = column("memory usage as in `docker stats`: without inactive file pages")
    history_percent: tuple[float, ...] = column(
        "`cpu_percent` of the last readings, oldest first", default=()
    )


@record
class Snapshot(Result):
    """The resources on the engine, and what the running containers use."""

    items: tuple[Item, ...] = rows("containers, images, networks and volumes", of=Item)
    usage: Mapping[str, Usage] = column("container ID → its usage, if it could be read", shown=False)

    def of(self, kind: str) -> tuple[Item, ...]:
        """The resources of a kind, those of this notebook first."""
        return tuple(item for item in self.items if item.kind == kind)

    def named(self, kind: str, name: str) -> Item:
        """A resource by its name.

        Raises:
            BadInput: there is no such resource.
        """
        for item in self.of(kind):
            if item.name == name:
                return item
        raise BadInput(f"the engine has no {kind} called {name!r}", hint="`docker ps -a` lists containers")

    def frame(self) -> pd.DataFrame:
        """One row for each resource, with the usage of running containers."""
        rows = []
        for item in self.items:
            usage = self.usage.get(item.id)
            cpu, memory = (usage.cpu_percent, usage.memory_bytes) if usage else (None, None)
            rows.append((item.kind, item.name, item.owned, item.detail, item.state, cpu, memory))
        return table(rows, ["kind", "name", "owned", "detail", "state", "cpu_percent", "memory_bytes"])


class EngineControl:
    """Reads the engine's resources and changes them.

    Attributes:
        only_owned: whether it changes only resources of this notebook; True at first.
        commands: the `docker …` command of each change.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.only_owned = True
        self.commands: list[str] = []

    # --- reading

    def snapshot(self) -> Snapshot:
        """The resources on the engine, without usage, which only `watch` reads.

        Raises:
            EngineUnreachable: the engine does not respond.
        """
        items = [*self._containers(), *self._images(), *self._networks(), *self._volumes()]
        order = sorted(items, key=lambda item: (KINDS.index(item.kind), not item.owned, item.name))
        return Snapshot(tuple(order), {})

    def watch(self, callback: Callable[[Snapshot], object], every_s: float = REFRESH_S) -> Callable[[], None]:
        """Call `callback` with a snapshot and the usage, repeatedly, in a background thread that ends with the lab.

        Returns:
            A function that stops it, and may be called twice.
        """
        return _SnapshotThread(self, callback, every_s).stop

    def follow(self, item: Item, callback: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        """Call `callback` with the last lines of a container's log, and again for new lines, in a background thread.

        Returns:
            A function that stops it, and may be called twice.
        """
        return _LogThread(self.lab, item, callback).stop

    # --- changing

    def confirmation(self, verb: str, item: Item) -> str | None:
        """The question that the user must confirm first; None if there is none."""
        if not item.owned:
            return f"{verb} the {item.kind} {item.name}? The lab did not create it."
        return f"remove the {item.kind} {item.name} and its contents?" if verb == "remove" else None

    def act(self, verb: str, item: Item, *, confirmed: bool = False) -> str:
        """Change a resource; the `docker …` command of the change.

        Args:
            verb: a verb of `VERBS` for the item's kind.
            confirmed: the user's answer to `confirmation`.

        Raises:
            BadInput: the verb does not exist for this kind, or the question was not confirmed.
            NotOwned: this notebook did not create the resource, and `only_owned` is True.
            EngineRefused: the engine refused the change.
        """
        if verb not in VERBS.get(item.kind, ()):
            raise BadInput(
                f"{verb} is not a command for a {item.kind}",
                hint=f"use one of: {', '.join(VERBS.get(item.kind, ()))}",
            )
        if self.only_owned and not item.owned:
            raise NotOwned(
                f"this notebook did not create the {item.kind} {item.name!r}, so the panel does not change it",
                hint="the box “only resources of this notebook” removes this limit, after a warning",
            )
        question = self.confirmation(verb, item)
        if question and not confirmed:
            raise BadInput(f"not confirmed: {question}", hint="confirm the question")
        with translate_errors(self.lab.engine):
            line = self._do(verb, item)
        self.commands.append(line)
        return line

    def _do(self, verb: str, item: Item) -> str:
        # not with the lab's own operations, which refuse foreign resources
        api: Any = self.lab.client.api
        if item.kind == "container" and verb == "remove":
            remove_container(api, item.id, v=True)
            return f"docker rm -f -v {item.name}"
        if item.kind == "container":
            wait = {} if verb == "start" else {"timeout": STOP_TIMEOUT_S}
            getattr(api, verb)(item.id, **wait)
            return f"docker {verb} {item.name}"
        remove: dict[str, Callable[[str], Any]] = {
            "image": api.remove_image,
            "network": api.remove_network,
            "volume": api.remove_volume,
        }
        # an image by its name: an ID with two names would need force, and remove both
        remove[item.kind](item.id if item.kind == "network" else item.name)
        return f"docker {item.kind} rm {item.name}"

    # --- lists of the engine

    def _is_owned(self, kind: str, labels: Mapping[str, str] | None) -> bool:
        labels = dict(labels or {})
        return sessions.has_lab_labels(kind, labels) and labels.get(sessions.SESSION) == self.lab.session

    def _containers(self) -> list[Item]:
        helper = self.lab.host.helper  # hidden: the panel reads the usage through it
        return [
            Item(
                "container",
                row["Id"],
                responses.name(row),
                self._is_owned("container", responses.labels(row)),
                row.get("Image") or "",
                row.get("State") or "",
                row.get("Status") or "",
                tuple(
                    sorted(
                        {
                            _port(port)
                            for port in responses.nested_list(row, "Ports")
                            if port.get("PublicPort")
                        }
                    )
                ),
            )
            for row in self.lab.list_containers(stopped=True)
            if row["Id"] != helper
        ]

    def _images(self) -> list[Item]:
        items = []
        for row in self.lab.list_images():
            owned = self._is_owned("image", responses.labels(row))
            for name in responses.tags(row) or [row["Id"].removeprefix("sha256:")[:12]]:
                items.append(Item("image", row["Id"], name, owned, human_bytes(row.get("Size") or 0)))
        return items

    def _networks(self) -> list[Item]:
        rows = self.lab.list_networks()
        return [
            Item(
                "network",
                row["Id"],
                row["Name"],
                self._is_owned("network", responses.labels(row)),
                row["Driver"],
            )
            for row in rows
        ]

    def _volumes(self) -> list[Item]:
        rows = self.lab.list_volumes()
        return [
            Item(
                "volume",
                row["Name"],
                row["Name"],
                self._is_owned("volume", responses.labels(row)),
                row["Driver"],
            )
            for row in rows
        ]


def _port(port: Mapping[str, Any]) -> str:
    return f"{port.get('IP', '')}:{port['PublicPort']}→{port['PrivatePort']}/{port['Type']}"


class _SnapshotThread:
    """A thread that lists the resources after each event, and reads the usage of running containers periodically."""

    def __init__(
        self, control: EngineControl, callback: Callable[[Snapshot], object], every_s: float
    ) -> None:
        self._control, self._callback, self._every_s = control, callback, every_s
        self._stopped, self._changed = threading.Event(), threading.Event()
        self._usage: dict[str, Usage] = {}
        self._previous: dict[str, Sample] = {}
        self._unsubscribe = control.lab.events.subscribe(self._on_event)
        threading.Thread(target=self._run, name="control panel", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._changed.set()
        self._unsubscribe()

    def _on_event(self, event: dict[str, Any]) -> None:
        # an exec changes nothing on the panel; the lab's own readings are execs
        if not str(event.get("Action", "")).startswith("exec_"):
            self._changed.set()

    def _run(self) -> None:
        while not self._stopped.is_set() and sessions.is_alive(self._control.lab.session):
            # a container ended while it was read, or the engine is unavailable: try again
            with suppress(LabError):
                self._round()
            self._stopped.wait(self._every_s)  # one `docker run` causes several events
        self._unsubscribe()

    def _round(self) -> None:
        """List the resources once, then read the usage until something changes on the engine."""
        self._changed.clear()
        items = self._control.snapshot().items
        running = [item.id for item in items if item.state in ("running", "paused")]
        # earlier readings of containers that still run stay on the panel
        self._usage = {id: usage for id, usage in self._usage.items() if id in running}
        self._previous = {id: reading for id, reading in self._previous.items() if id in running}
        self._show(items)
        if not running:
            self._changed.wait(REFRESH_TIMEOUT_S)
            return
        end = time.monotonic() + REFRESH_TIMEOUT_S
        with closing(self._control.lab.host.samples_of(running, self._every_s * 1000)) as samples:
            for readings in samples:
                for id, reading in zip(running, readings, strict=True):
                    if reading is not None:
                        self._add_reading(id, reading)
                self._show(items)
                if self._changed.is_set() or self._stopped.is_set() or time.monotonic() > end:
                    return

    def _add_reading(self, id: str, now: Sample) -> None:
        memory = now.cgroup.memory.usage_bytes - now.cgroup.memory.inactive_file_bytes
        previous = self._previous.get(id)
        history = self._usage[id].history_percent if id in self._usage else ()
        # times are those of the host's clock, so readings of two streams can be compared
        if previous is not None and now.at_s > previous.at_s:
            # a restarted container counts from 0 again
            used_us = max(now.cgroup.cpu.usage_us - previous.cgroup.cpu.usage_us, 0)
            history = (*history, used_us / 1e4 / (now.at_s - previous.at_s))[-HISTORY_LENGTH:]
        self._previous[id] = now
        self._usage[id] = Usage(history[-1] if history else None, max(memory, 0), history)

    def _show(self, items: tuple[Item, ...]) -> None:
        if not self._stopped.is_set():
            self._callback(Snapshot(items, dict(self._usage)))


class _LogThread:
    """A thread that follows a container's log, like `docker logs -f --timestamps --tail`."""

    def __init__(self, lab: Lab, item: Item, callback: Callable[[Sequence[str]], object]) -> None:
        self._lab, self._item, self._callback = lab, item, callback
        self._stopped = threading.Event()
        self._stream: Any = None
        threading.Thread(target=self._run, name=f"logs of {item.name}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        with suppress(OSError, ValueError, AttributeError):
            self._stream.close()

    def _run(self) -> None:
        api: Any = self._lab.client.api
        lines: list[str] = []
        rest = ""
        try:
            self._stream = api.logs(self._item.id, stream=True, follow=True, timestamps=True, tail=LAST_LINES)
            for chunk in self._stream:
                if self._stopped.is_set():
                    return
                *complete, rest = (rest + chunk.decode(errors="replace")).split("\n")
                if complete:
                    lines = [*lines, *complete][-LAST_LINES:]
                    self._callback(lines)
            if not self._stopped.is_set():
                self._callback([*lines, "— the container is not running: end of its log —"])
        except (APIError, requests.RequestException, OSError, ValueError, AttributeError) as error:
            if not self._stopped.is_set():
                message = getattr(error, "explanation", None) or error
                self._callback([*lines, f"— {message} —"])


@experiment
def control_panel(lab: Lab) -> ControlPanel:
    """A panel that lists containers, images, networks and volumes, shows usage and logs, and changes resources.

    As the last value of a cell, it displays itself. It changes only resources of this notebook until the user removes
    that limit. `.stop()`, or the end of the lab, ends it.
    """
    from labhelpers.monitoring.live import ControlPanel

    return ControlPanel(EngineControl(lab), KINDS, VERBS["container"], WARNING)
