"""The control panel: shows what `monitoring.engine_control` reports, passes clicks to it, and decides nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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
    """A panel in the page that follows the engine. `stop()`, or the end of the lab, ends it.

    Attributes:
        page: the widget.
        last: what is shown now, None before the first look.
    """

    def __init__(self, desk: EngineControl, kinds: Sequence[str], verbs: Sequence[str], warning: str) -> None:
        self._desk, self._warning = desk, warning
        self.last: Snapshot | None = None
        self._shown: tuple[Any, ...] = ()
        self._to_do: tuple[Callable[[], str], str] | None = None
        self._end_logs: Callable[[], None] = lambda: None
        self.kind = widgets.ToggleButtons(options=[(f"{kind}s", kind) for kind in kinds])
        self.kind.style.button_width = "auto"
        self.list = widgets.HTML()
        self.which = widgets.Dropdown(layout=widgets.Layout(width="22em"))
        self.buttons = {
            verb: widgets.Button(description=verb, icon=ICONS[verb], layout=widgets.Layout(width="7em"))
            for verb in verbs
        }
        self.logs = widgets.Button(description="logs", icon="file-text-o", layout=widgets.Layout(width="7em"))
        self.only_mine = widgets.Checkbox(
            value=True, description="only what this notebook made", indent=False
        )
        self.asked = widgets.HTML()
        self.yes = widgets.Button(
            description="Yes", button_style="danger", layout=widgets.Layout(width="6em")
        )
        self.no = widgets.Button(description="No", layout=widgets.Layout(width="6em"))
        self.confirm = widgets.HBox([self.asked, self.yes, self.no])
        self.said = widgets.HTML()
        self.log = widgets.HTML()
        acts = widgets.HBox(
            [self.which, *self.buttons.values(), self.logs], layout=widgets.Layout(flex_flow="row wrap")
        )
        parts = [self.kind, self.list, acts, self.only_mine, self.confirm, self.said, self.log]
        frame = widgets.Layout(border=f"1px solid {FAINT}", padding="0.6em 0.9em", margin="0.3em 0")
        self.page = widgets.VBox(parts, layout=frame)
        self.page.add_class("labhelpers-control")
        self._ask(None)
        self._listen()
        self.stop_watching = desk.watch(self.show)

    def stop(self) -> None:
        """Follow the engine no more. A second call does nothing."""
        self.stop_watching()
        self._end_logs()

    def shows(self, container: str, within_s: float = 120.0) -> bool:
        """Whether the panel shows what a container uses, once it does; False if it does not within that time."""

        def is_shown() -> bool:
            seen = self.last
            if seen is None:
                return False
            return any(one.name == container and one.id in seen.use for one in seen.of("container"))

        try:
            return self._desk.lab.wait_for(f"the panel to show {container}", is_shown, within_s, every_s=0.1)
        except TimedOut:
            return False

    # --- showing

    def show(self, seen: Snapshot) -> None:
        """Show this from now on; called from the thread that watches."""
        self.last = seen
        kind = self.kind.value
        items = seen.of(kind)
        self.list.value = list_html(kind, items, seen)
        names = tuple((("" if one.mine else "○ ") + one.name, (one.kind, one.id, one.name)) for one in items)
        if names != self._shown:
            chosen = self.which.value
            self._shown = names
            self.which.options = names
            self.which.value = (
                chosen if chosen in [value for _, value in names] else next(iter(names), ("", None))[1]
            )
        self._offer()

    def _again(self) -> None:
        if self.last is not None:
            self.show(self.last)

    def _offer(self) -> None:
        item = self._item()
        for verb, button in self.buttons.items():
            fits = item is not None and (item.kind == "container" or verb == "remove")
            button.layout.display = "" if fits else "none"
            button.disabled = item is None or (self._desk.only_mine and not item.mine)
        self.logs.layout.display = "" if self.kind.value == "container" else "none"
        self.logs.disabled = item is None

    def _item(self) -> Item | None:
        if self.last is None or self.which.value is None:
            return None
        return next(
            (one for one in self.last.items if (one.kind, one.id, one.name) == self.which.value), None
        )

    # --- clicks

    def _listen(self) -> None:
        self.kind.observe(lambda _: self._again(), names="value")
        self.which.observe(lambda _: self._offer(), names="value")
        for verb, button in self.buttons.items():
            button.on_click(lambda _, verb=verb: self._clicked(verb))
        self.logs.on_click(lambda _: self._follow())
        self.only_mine.observe(self._unlock, names="value")
        self.yes.on_click(lambda _: self._answered())
        self.no.on_click(lambda _: self._refused())

    def _clicked(self, verb: str) -> None:
        item = self._item()
        if item is None:
            return
        question = self._desk.question(verb, item)
        act: Callable[[], str] = lambda: self._desk.act(verb, item, sure=True)  # noqa: E731
        if question:
            self._to_do = (act, question)
            self._ask(question)
        else:
            self._do(act, f"{verb} {item.name}")

    def _unlock(self, change: dict[str, Any]) -> None:
        if change["new"]:
            self._desk.only_mine = True
            self._ask(None)
            self._offer()
            return

        def unlock() -> str:
            self._desk.only_mine = False
            self._offer()
            return "The panel acts on everything now. The box above takes that back."

        self._to_do = (unlock, self._warning)
        self._ask(self._warning)

    def _answered(self) -> None:
        if self._to_do:
            act, question = self._to_do
            self._ask(None)
            self._do(act, question)

    def _refused(self) -> None:
        self._ask(None)
        if self._desk.only_mine:
            self.only_mine.value = True
        self.said.value = _line("Nothing was done.")

    def _ask(self, question: str | None) -> None:
        self.confirm.layout.display = "" if question else "none"
        style = f"background:{PAPER};padding:0.3em 0.6em;line-height:1.4"
        self.asked.value = f'<div style="{style}">{escape(question or "")}</div>'
        if question is None:
            self._to_do = None

    def _do(self, act: Callable[[], str], what: str) -> None:
        """In a thread: a stop may take ten seconds, and the page is not to wait for it."""
        self.said.value = _line(f"{what} …")

        def run() -> None:
            try:
                self.said.value = _line(act())
            except LabError as error:
                self.said.value = _line(str(error))

        self.working = threading.Thread(target=run, name="control panel acts", daemon=True)
        self.working.start()

    def _follow(self) -> None:
        item = self._item()
        if item is None:
            return
        self._end_logs()
        self._end_logs = self._desk.follow(
            item, lambda lines: setattr(self.log, "value", log_html(item.name, lines))
        )

    def __repr__(self) -> str:
        return "The control panel: what is on the engine, what it uses, and buttons to act on it (in a live page)."

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from labhelpers.results import with_text_fallback

        return with_text_fallback(self.page, repr(self))


def list_html(kind: str, items: Sequence[Item], seen: Snapshot) -> str:
    """The things of a kind as the panel lists them; a hollow mark is what this notebook did not make."""
    cell = "padding:0.15em 0.8em 0.15em 0;text-align:left;white-space:nowrap"
    # the curves come and go, and are not to move the columns
    wide = {"CPU": ";min-width:11.5em", "memory": ";min-width:5em"}
    head = "".join(
        f'<th style="{cell};color:#555;font-weight:normal{wide.get(word, "")}">{word}</th>'
        for word in HEADINGS[kind]
    )
    rows = ""
    for one in items[:MAX_ROWS]:
        cells = [_mark(one), f"<b>{escape(_short(one.name, 36))}</b>", escape(_short(one.about, 32))]
        if kind == "container":
            use = seen.use.get(one.id)
            cells += [_state(one), _cpu(use), _memory(use), escape(" ".join(one.ports))]
        boxed = (f'<td style="{cell}">{text}</td>' for text in cells)
        rows += f"<tr>{''.join(boxed)}</tr>"
    more = f"<div>… and {len(items) - MAX_ROWS} more</div>" if len(items) > MAX_ROWS else ""
    none = "" if items else f"<div>no {kind}s</div>"
    mine = sum(one.mine for one in items)
    legend = f'<div style="color:#555;font-size:90%">{_dot(True)} {mine} of this notebook'
    legend += f" &nbsp; {_dot(False)} {len(items) - mine} that it did not make</div>"
    table = f'<table style="border-collapse:collapse;line-height:1.3"><tr>{head}</tr>{rows}</table>'
    return f'<div style="color:{INK};max-height:24em;overflow:auto">{table if items else none}{more}{legend}</div>'


def log_html(name: str, lines: Sequence[str]) -> str:
    """The end of a container's log; it is scrolled to its end."""
    text = escape("\n".join(reversed(lines)))
    return (
        f'<div style="color:{INK}">Log of <b>{escape(name)}</b>, newest line first</div><pre style="max-height:14em;'
        f'overflow:auto;background:{PAPER};padding:0.4em;line-height:1.3;margin:0">{text}</pre>'
    )


def _mark(item: Item) -> str:
    return _dot(item.mine)


def _dot(mine: bool) -> str:
    return f'<span style="color:{CONTAINER if mine else FAINT}">{"●" if mine else "○"}</span>'


def _state(item: Item) -> str:
    return f'<span style="color:{COLOURS.get(item.state, INK)}">▮</span> {escape(item.status or item.state)}'


def _cpu(use: Usage | None) -> str:
    if use is None or use.cpu_percent is None:
        return ""
    top = max(100.0, *use.past_percent)
    step = WIDE / max(len(use.past_percent) - 1, 1)
    points = " ".join(
        f"{n * step:.0f},{HIGH - HIGH * value / top:.1f}" for n, value in enumerate(use.past_percent)
    )
    curve = (
        f'<svg width="{WIDE}" height="{HIGH}" style="vertical-align:middle;background:{PAPER}">'
        f'<polyline points="{points}" fill="none" stroke="{CONTAINER}" stroke-width="1.5"/></svg>'
    )
    number = f'<span style="display:inline-block;width:3.6em;text-align:right">{use.cpu_percent:.1f} %</span>'
    return f"{curve} {number}"


def _memory(use: Usage | None) -> str:
    return "" if use is None else human_bytes(use.memory_bytes)


def _line(text: str) -> str:
    return f'<pre style="margin:0.2em 0;color:{INK};white-space:pre-wrap">{escape(text)}</pre>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
