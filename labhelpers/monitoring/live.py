"""The widgets of the control panel: they show what `engine_control` reads and pass clicks to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets  # type: ignore[import-untyped]  # it ships no types

from labhelpers.drawing import CONTAINER, FAINT, HOST, INK, KERNEL, PAPER, VM, human_bytes
from labhelpers.errors import LabError, TimedOut

if TYPE_CHECKING:
    from labhelpers.monitoring.engine_control import EngineControl, Item, Snapshot, Usage

ICONS = {"start": "play", "stop": "stop", "restart": "refresh", "remove": "trash"}
COLOURS = {
    "running": HOST,
    "paused": KERNEL,
    "restarting": KERNEL,
    "exited": FAINT,
    "created": FAINT,
    "dead": VM,
}
HEADINGS = {
    "container": ("", "name", "image", "status", "CPU", "memory", "ports"),
    "image": ("", "name", "size"),
    "network": ("", "name", "driver"),
    "volume": ("", "name", "driver"),
}
MAX_ROWS = 40
WIDE, HIGH = 90, 18


class ControlPanel:
    """A panel on the page that follows the engine. `stop()`, or the end of the lab, ends it.

    Attributes:
        page: the widget.
        last: the current snapshot, None before the first.
    """

    def __init__(
        self, control: EngineControl, kinds: Sequence[str], verbs: Sequence[str], warning: str
    ) -> None:
        self._control, self._warning = control, warning
        self.last: Snapshot | None = None
        self._options: tuple[Any, ...] = ()
        self._pending: tuple[Callable[[], str], str] | None = None
        self._end_logs: Callable[[], None] = lambda: None
        self.kind = widgets.ToggleButtons(options=[(f"{kind}s", kind) for kind in kinds])
        self.kind.style.button_width = "auto"
        self.list = widgets.HTML()
        self.selection = widgets.Dropdown(layout=widgets.Layout(width="22em"))
        self.buttons = {
            verb: widgets.Button(description=verb, icon=ICONS[verb], layout=widgets.Layout(width="7em"))
            for verb in verbs
        }
        self.logs = widgets.Button(description="logs", icon="file-text-o", layout=widgets.Layout(width="7em"))
        self.only_owned = widgets.Checkbox(
            value=True, description="only resources of this notebook", indent=False
        )
        self.question = widgets.HTML()
        self.yes = widgets.Button(
            description="Yes", button_style="danger", layout=widgets.Layout(width="6em")
        )
        self.no = widgets.Button(description="No", layout=widgets.Layout(width="6em"))
        self.confirm = widgets.HBox([self.question, self.yes, self.no])
        self.message = widgets.HTML()
        self.log = widgets.HTML()
        acts = widgets.HBox(
            [self.selection, *self.buttons.values(), self.logs], layout=widgets.Layout(flex_flow="row wrap")
        )
        parts = [self.kind, self.list, acts, self.only_owned, self.confirm, self.message, self.log]
        frame = widgets.Layout(border=f"1px solid {FAINT}", padding="0.6em 0.9em", margin="0.3em 0")
        self.page = widgets.VBox(parts, layout=frame)
        self.page.add_class("labhelpers-control")
        self._ask(None)
        self._listen()
        self.stop_watching = control.watch(self.show)

    def stop(self) -> None:
        """Stop following the engine. A second call does nothing."""
        self.stop_watching()
        self._end_logs()

    def shows(self, container: str, within_s: float = 120.0) -> bool:
        """Wait until the panel shows the usage of a container; False if it does not within that time."""

        def is_shown() -> bool:
            snapshot = self.last
            if snapshot is None:
                return False
            containers = snapshot.of("container")
            return any(item.name == container and item.id in snapshot.usage for item in containers)

        try:
            return self._control.lab.wait_for(
                f"the panel to show {container}", is_shown, within_s, every_s=0.1
            )
        except TimedOut:
            return False

    # --- display

    def show(self, snapshot: Snapshot) -> None:
        """Display a snapshot; called by the thread of `EngineControl.watch`."""
        self.last = snapshot
        kind = self.kind.value
        items = snapshot.of(kind)
        self.list.value = list_html(kind, items, snapshot)
        names = tuple(
            (("" if item.owned else "○ ") + item.name, (item.kind, item.id, item.name)) for item in items
        )
        if names != self._options:
            chosen = self.selection.value
            self._options = names
            self.selection.options = names
            self.selection.value = (
                chosen if chosen in [value for _, value in names] else next(iter(names), ("", None))[1]
            )
        self._update_buttons()

    def _refresh(self) -> None:
        if self.last is not None:
            self.show(self.last)

    def _update_buttons(self) -> None:
        item = self._item()
        for verb, button in self.buttons.items():
            fits = item is not None and (item.kind == "container" or verb == "remove")
            button.layout.display = "" if fits else "none"
            button.disabled = item is None or (self._control.only_owned and not item.owned)
        self.logs.layout.display = "" if self.kind.value == "container" else "none"
        self.logs.disabled = item is None

    def _item(self) -> Item | None:
        if self.last is None or self.selection.value is None:
            return None
        return next(
            (item for item in self.last.items if (item.kind, item.id, item.name) == self.selection.value),
            None,
        )

    # --- clicks

    def _listen(self) -> None:
        self.kind.observe(lambda _: self._refresh(), names="value")
        self.selection.observe(lambda _: self._update_buttons(), names="value")
        for verb, button in self.buttons.items():
            button.on_click(lambda _, verb=verb: self._on_verb(verb))
        self.logs.on_click(lambda _: self._on_logs())
        self.only_owned.observe(self._on_limit, names="value")
        self.yes.on_click(lambda _: self._on_yes())
        self.no.on_click(lambda _: self._on_no())

    def _on_verb(self, verb: str) -> None:
        item = self._item()
        if item is None:
            return
        question = self._control.confirmation(verb, item)
        action = partial(self._control.act, verb, item, confirmed=True)
        if question:
            self._ask(question, action)
        else:
            self._run(action, f"{verb} {item.name}")

    def _on_limit(self, change: dict[str, Any]) -> None:
        if change["new"]:
            self._control.only_owned = True
            self._ask(None)
            self._update_buttons()
            return

        def unlock() -> str:
            self._control.only_owned = False
            self._update_buttons()
            return "The panel changes every resource now. The box above restores the limit."

        self._ask(self._warning, unlock)

    def _on_yes(self) -> None:
        if self._pending:
            action, question = self._pending
            self._ask(None)
            self._run(action, question)

    def _on_no(self) -> None:
        self._ask(None)
        if self._control.only_owned:
            self.only_owned.value = True
        self.message.value = _line("Nothing was changed.")

    def _ask(self, question: str | None, action: Callable[[], str] | None = None) -> None:
        self.confirm.layout.display = "" if question else "none"
        style = f"background:{PAPER};padding:0.3em 0.6em;line-height:1.4"
        self.question.value = f'<div style="{style}">{escape(question or "")}</div>'
        self._pending = (action, question) if action and question else None

    def _run(self, action: Callable[[], str], text: str) -> None:
        """Run an action in a thread: a stop may take ten seconds, and the page must not wait for it."""
        self.message.value = _line(f"{text} …")

        def run() -> None:
            try:
                self.message.value = _line(action())
            except LabError as error:
                self.message.value = _line(str(error))

        self.working = threading.Thread(target=run, name="control panel action", daemon=True)
        self.working.start()

    def _on_logs(self) -> None:
        item = self._item()
        if item is None:
            return
        self._end_logs()
        self._end_logs = self._control.follow(
            item, lambda lines: setattr(self.log, "value", log_html(item.name, lines))
        )

    def __repr__(self) -> str:
        return "The control panel: in a running notebook, it lists the engine's resources and changes them."

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from labhelpers.results import with_text_fallback

        return with_text_fallback(self.page, repr(self))


def list_html(kind: str, items: Sequence[Item], snapshot: Snapshot) -> str:
    """The resources of a kind as a table; a hollow mark is a resource of another owner."""
    cell = "padding:0.15em 0.8em 0.15em 0;text-align:left;white-space:nowrap"
    # fixed widths, so that the curves do not move the columns
    wide = {"CPU": ";min-width:11.5em", "memory": ";min-width:5em"}
    head = "".join(
        f'<th style="{cell};color:#555;font-weight:normal{wide.get(text, "")}">{text}</th>'
        for text in HEADINGS[kind]
    )
    rows = ""
    for item in items[:MAX_ROWS]:
        name, detail = escape(_short(item.name, 36)), escape(_short(item.detail, 32))
        cells = [_dot(item.owned), f"<b>{name}</b>", detail]
        if kind == "container":
            usage = snapshot.usage.get(item.id)
            cells += [_state(item), _cpu(usage), _memory(usage), escape(" ".join(item.ports))]
        rows += "<tr>" + "".join(f'<td style="{cell}">{text}</td>' for text in cells) + "</tr>"
    more = f"<div>… and {len(items) - MAX_ROWS} more</div>" if len(items) > MAX_ROWS else ""
    none = "" if items else f"<div>no {kind}s</div>"
    owned = sum(item.owned for item in items)
    legend = f'<div style="color:#555;font-size:90%">{_dot(True)} {owned} of this notebook'
    legend += f" &nbsp; {_dot(False)} {len(items) - owned} of others</div>"
    table = f'<table style="border-collapse:collapse;line-height:1.3"><tr>{head}</tr>{rows}</table>'
    return f'<div style="color:{INK};max-height:24em;overflow:auto">{table if items else none}{more}{legend}</div>'


def log_html(name: str, lines: Sequence[str]) -> str:
    """The end of a container's log, newest line first."""
    text = escape("\n".join(reversed(lines)))
    return (
        f'<div style="color:{INK}">Log of <b>{escape(name)}</b>, newest line first</div><pre style="max-height:14em;'
        f'overflow:auto;background:{PAPER};padding:0.4em;line-height:1.3;margin:0">{text}</pre>'
    )


def _dot(owned: bool) -> str:
    return f'<span style="color:{CONTAINER if owned else FAINT}">{"●" if owned else "○"}</span>'


def _state(item: Item) -> str:
    return f'<span style="color:{COLOURS.get(item.state, INK)}">▮</span> {escape(item.status or item.state)}'


def _cpu(usage: Usage | None) -> str:
    if usage is None or usage.cpu_percent is None:
        return ""
    top = max(100.0, *usage.history_percent)
    step = WIDE / max(len(usage.history_percent) - 1, 1)
    points = " ".join(
        f"{n * step:.0f},{HIGH - HIGH * value / top:.1f}" for n, value in enumerate(usage.history_percent)
    )
    curve = (
        f'<svg width="{WIDE}" height="{HIGH}" style="vertical-align:middle;background:{PAPER}">'
        f'<polyline points="{points}" fill="none" stroke="{CONTAINER}" stroke-width="1.5"/></svg>'
    )
    number = (
        f'<span style="display:inline-block;width:3.6em;text-align:right">{usage.cpu_percent:.1f} %</span>'
    )
    return f"{curve} {number}"


def _memory(usage: Usage | None) -> str:
    return "" if usage is None else human_bytes(usage.memory_bytes)


def _line(text: str) -> str:
    return f'<pre style="margin:0.2em 0;color:{INK};white-space:pre-wrap">{escape(text)}</pre>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
