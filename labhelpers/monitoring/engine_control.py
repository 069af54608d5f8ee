"""What the control panel asks of the engine and does to it. No widget here: the panel shows what this says.

It acts on what this notebook made, and on nothing else, until the reader says otherwise. Then each act on something
that the lab did not make asks once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError

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
    "From here on this panel also stops and removes what the lab did not make: other people's containers, databases, "
    "the engine's own networks. What is removed does not come back."
)
STOP_TIMEOUT_S = 10
REFRESH_S = 1.0
REFRESH_TIMEOUT_S = 10.0
HISTORY_LENGTH = 60
LAST_LINES = 200


@record
class Item(Result):
    """One thing on the engine."""

    kind: str = column("`container`, `image`, `network` or `volume`")
    id: str = column("what the engine knows it by")
    name: str = column("what people call it")
    mine: bool = column("whether this notebook made it")
    about: str = column("a container's image, an image's size, a network's or a volume's driver")
    state: str = column("of a container: `running`, `exited`, …; else an empty string", default="")
    status: str = column(
        "of a container, in the engine's words: `Up 3 minutes`, `Exited (0) …`; else an empty string",
        default="",
    )
    ports: tuple[str, ...] = column("that a container publishes, `127.0.0.1:8080→80/tcp`", default=())


@record
class Usage(Result):
    """What a running container uses."""

    cpu_percent: float | None = column(
        "of one processor, since the reading before; None at the first reading"
    )
    memory_bytes: int = column("as `docker stats` counts: without the file pages that were not used lately")
    past_percent: tuple[float, ...] = column("`cpu_percent` of the last readings, oldest first", default=())


@record
class Snapshot(Result):
    """What is on the engine, and what it uses."""

    items: tuple[Item, ...] = rows("containers, images, networks and volumes", of=Item)
    use: Mapping[str, Usage] = column(
        "id → what a running container uses; those that could not be read are missing", shown=False
    )

    def of(self, kind: str) -> tuple[Item, ...]:
        """Those of a kind, what this notebook made first."""
        return tuple(one for one in self.items if one.kind == kind)

    def named(self, kind: str, name: str) -> Item:
        """The one of that name.

        Raises:
            LabError: there is none.
        """
        for one in self.of(kind):
            if one.name == name:
                return one
        raise LabError(f"the engine has no {kind} called {name!r}", hint="`docker ps -a` lists containers")

    def frame(self) -> pd.DataFrame:
        """One row a thing."""
        rows = []
        for one in self.items:
            use = self.use.get(one.id)
            cpu = use.cpu_percent if use else None
            rows.append(
                (one.kind, one.name, one.mine, one.about, one.state, cpu, use.memory_bytes if use else None)
            )
        return table(rows, ["kind", "name", "mine", "about", "state", "cpu_percent", "memory_bytes"])


class EngineControl:
    """Looks at the engine and acts on it.

    Attributes:
        only_mine: whether it refuses to act on what this notebook did not make; True at first.
        done: the `docker …` line of every act so far.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.only_mine = True
        self.done: list[str] = []

    # --- looking

    def look(self) -> Snapshot:
        """What is on the engine now; what containers use is in what `watch` gives.

        Raises:
            EngineUnreachable: the engine does not answer.
        """
        items = [*self._containers(), *self._images(), *self._networks(), *self._volumes()]
        return Snapshot(
            tuple(sorted(items, key=lambda one: (KINDS.index(one.kind), not one.mine, one.name))), {}
        )

    def watch(self, seen: Callable[[Snapshot], object], every_s: float = REFRESH_S) -> Callable[[], None]:
        """Call `seen` with what is on the engine and what it uses, again and again, in a background thread.

        It ends with the lab. Gives a function that ends it; that may be called twice.
        """
        return _SnapshotThread(self, seen, every_s).stop

    def follow(self, item: Item, seen: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        """Call `seen` with the last lines of a container's log, and anew when there are more; in a background thread.

        Gives a function that ends it; that may be called twice.
        """
        return _LogThread(self.lab, item, seen).stop

    # --- acting

    def question(self, verb: str, item: Item) -> str | None:
        """What the reader must say yes to before this is done; None where nothing is asked."""
        if not item.mine:
            return f"{verb} the {item.kind} {item.name}? The lab did not make it."
        return f"remove the {item.kind} {item.name}, and what is in it?" if verb == "remove" else None

    def act(self, verb: str, item: Item, *, sure: bool = False) -> str:
        """Do it; gives the `docker …` line of what was done.

        Args:
            verb: one of `VERBS` of its kind.
            sure: the reader's yes to `question`.

        Raises:
            BadInput: there is no such verb for this kind, or the question was not answered.
            NotOwned: this notebook did not make it, and `only_mine` holds.
            EngineRefused: the engine said no.
        """
        if verb not in VERBS.get(item.kind, ()):
            raise BadInput(
                f"a {item.kind} cannot be asked to {verb}", hint=f"it knows: {VERBS.get(item.kind)}"
            )
        if self.only_mine and not item.mine:
            raise NotOwned(
                f"this notebook did not make the {item.kind} {item.name!r}, so the panel leaves it alone",
                hint="the box “only what this notebook made” turns that off, after a warning",
            )
        question = self.question(verb, item)
        if question and not sure:
            raise BadInput(f"nothing was done: {question}", hint="say yes to it")
        with translate_errors(self.lab.engine):
            line = self._do(verb, item)
        self.done.append(line)
        return line

    def _do(self, verb: str, item: Item) -> str:
        # not by the lab's own operations: they refuse what another made
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
        # an image by its name: an id with two names would need force, and lose both
        remove[item.kind](item.id if item.kind == "network" else item.name)
        return f"docker {item.kind} rm {item.name}"

    # --- what the engine has

    def _mine(self, kind: str, labels: Mapping[str, str] | None) -> bool:
        found = dict(labels or {})
        return sessions.has_lab_labels(kind, found) and found.get(sessions.SESSION) == self.lab.session

    def _containers(self) -> list[Item]:
        helper = self.lab.host.helper  # it reads for this panel: a panel that removes its own eyes is no use
        return [
            Item(
                "container",
                row["Id"],
                responses.name(row),
                self._mine("container", responses.labels(row)),
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
        found = []
        for row in self.lab.list_images():
            mine = self._mine("image", responses.labels(row))
            for name in responses.tags(row) or [row["Id"].removeprefix("sha256:")[:12]]:
                found.append(Item("image", row["Id"], name, mine, human_bytes(row.get("Size") or 0)))
        return found

    def _networks(self) -> list[Item]:
        rows = self.lab.list_networks()
        return [
            Item(
                "network", row["Id"], row["Name"], self._mine("network", responses.labels(row)), row["Driver"]
            )
            for row in rows
        ]

    def _volumes(self) -> list[Item]:
        rows = self.lab.list_volumes()
        return [
            Item(
                "volume", row["Name"], row["Name"], self._mine("volume", responses.labels(row)), row["Driver"]
            )
            for row in rows
        ]


def _port(port: Mapping[str, Any]) -> str:
    return f"{port.get('IP', '')}:{port['PublicPort']}→{port['PrivatePort']}/{port['Type']}"


class _SnapshotThread:
    """One thread: the engine's list when something happened, and a reading of every running container each time."""

    def __init__(self, desk: EngineControl, seen: Callable[[Snapshot], object], every_s: float) -> None:
        self._desk, self._seen, self._every_s = desk, seen, every_s
        self._stopped, self._changed = threading.Event(), threading.Event()
        self._use: dict[str, Usage] = {}
        self._before: dict[str, Sample] = {}
        self._unsubscribe = desk.lab.events.subscribe(self._heard)
        threading.Thread(target=self._run, name="control panel", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._changed.set()
        self._unsubscribe()

    def _heard(self, event: dict[str, Any]) -> None:
        # an exec, of the lab's own looks among them, changes nothing that is shown
        if not str(event.get("Action", "")).startswith("exec_"):
            self._changed.set()

    def _run(self) -> None:
        while not self._stopped.is_set() and sessions.is_alive(self._desk.lab.session):
            # a container ended while it was read, or the engine is away: looked at again in a moment
            with suppress(LabError):
                self._round()
            self._stopped.wait(self._every_s)  # one `docker run` makes several events; one look is enough
        self._unsubscribe()

    def _round(self) -> None:
        """One list, and readings until something changes on the engine."""
        self._changed.clear()
        items = self._desk.look().items
        running = [one.id for one in items if one.state in ("running", "paused")]
        # what was read before stays on show, and goes on: a new list is no reason to forget it
        self._use = {id: use for id, use in self._use.items() if id in running}
        self._before = {id: reading for id, reading in self._before.items() if id in running}
        self._show(items)
        if not running:
            self._changed.wait(REFRESH_TIMEOUT_S)
            return
        end = time.monotonic() + REFRESH_TIMEOUT_S
        with closing(self._desk.lab.host.samples_of(running, self._every_s * 1000)) as samples:
            for readings in samples:
                for id, reading in zip(running, readings, strict=True):
                    if reading is not None:
                        self._note(id, reading)
                self._show(items)
                if self._changed.is_set() or self._stopped.is_set() or time.monotonic() > end:
                    return

    def _note(self, id: str, now: Sample) -> None:
        memory = now.cgroup.memory.usage_bytes - now.cgroup.memory.inactive_file_bytes
        before, past = self._before.get(id), self._use[id].past_percent if id in self._use else ()
        # the clock is the host's, so a reading of the last stream counts as well
        if before is not None and now.at_s > before.at_s:
            used_us = max(now.cgroup.cpu.usage_us - before.cgroup.cpu.usage_us, 0)  # a new life counts from 0
            past = (*past, used_us / 1e4 / (now.at_s - before.at_s))[-HISTORY_LENGTH:]
        self._before[id] = now
        self._use[id] = Usage(past[-1] if past else None, max(memory, 0), past)

    def _show(self, items: tuple[Item, ...]) -> None:
        if not self._stopped.is_set():
            self._seen(Snapshot(items, dict(self._use)))


class _LogThread:
    """One thread: the lines of a container's log, as `docker logs -f --timestamps --tail` gives them."""

    def __init__(self, lab: Lab, item: Item, seen: Callable[[Sequence[str]], object]) -> None:
        self._lab, self._item, self._seen = lab, item, seen
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
        text = ""
        try:
            self._stream = api.logs(self._item.id, stream=True, follow=True, timestamps=True, tail=LAST_LINES)
            for part in self._stream:
                if self._stopped.is_set():
                    return
                *whole, text = (text + part.decode(errors="replace")).split("\n")
                if whole:
                    lines = [*lines, *whole][-LAST_LINES:]
                    self._seen(lines)
            if not self._stopped.is_set():
                self._seen([*lines, "— the container does not run: its log ends here —"])
        except (APIError, requests.RequestException, OSError, ValueError, AttributeError) as error:
            if not self._stopped.is_set():
                words = getattr(error, "explanation", None) or error
                self._seen([*lines, f"— {words} —"])


def control_panel(lab: Lab) -> ControlPanel:
    """A panel that lists containers, images, networks and volumes, shows what containers use and say, and acts on them.

    As the last value of a cell it shows itself. It acts on what this notebook made, until the reader takes that
    limit off. `.stop()` ends it, and so does the end of the lab.
    """
    from labhelpers.monitoring.live import ControlPanel

    return ControlPanel(EngineControl(lab), KINDS, VERBS["container"], WARNING)
