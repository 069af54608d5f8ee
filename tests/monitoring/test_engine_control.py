"""The control panel: what it lists, what it refuses, what it asks, and what its buttons do. No browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers.errors import BadInput, EngineRefused, LabError, NotOwned
from labhelpers.lab import Lab
from labhelpers.monitoring.engine_control import KINDS, WARNING, EngineControl, Item, Snapshot, Usage
from labhelpers.monitoring.live import ControlPanel, list_html, log_html

TALKS = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo word $n; sleep 0.2 & wait $!; done",
]


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def talker(shared_lab: Lab) -> Iterator[Container]:
    made = shared_lab.run(
        shared_lab.image("payload"), TALKS, name=f"talker-{shared_lab.session}", network="none"
    )
    yield made
    shared_lab.remove(str(made.name), force=True)


@pytest.fixture
def foreign(shared_lab: Lab) -> Iterator[Container]:
    """A container that no lab made; this test removes it."""
    made = shared_lab.client.containers.run(
        shared_lab.image("payload"),
        TALKS,
        name=f"foreign-{shared_lab.session}",
        network_mode="none",
        detach=True,
    )
    yield made
    made.remove(force=True)


def test_it_lists_everything_and_knows_what_is_its_own(
    shared_lab: Lab, talker: Container, foreign: Container
) -> None:
    seen = EngineControl(shared_lab).look()
    assert {one.kind for one in seen.items} >= set(KINDS) - {"volume"}  # a fresh engine has none of those
    own = seen.named("container", str(talker.name))
    assert (own.mine, own.state, own.about) == (True, "running", shared_lab.image("payload"))
    assert not seen.named("container", str(foreign.name)).mine
    assert not seen.named("network", "bridge").mine
    assert not seen.named("image", shared_lab.image("payload")).mine
    assert seen.of("container")[0].mine  # its own stand first
    with pytest.raises(LabError, match="no container called"):
        seen.named("container", "nobody")


def test_its_own_eyes_are_not_on_the_list(shared_lab: Lab) -> None:
    assert shared_lab.host.helper is not None
    assert shared_lab.host.helper not in [one.id for one in EngineControl(shared_lab).look().items]


def test_what_others_made_is_left_alone(shared_lab: Lab, foreign: Container) -> None:
    desk = EngineControl(shared_lab)
    item = desk.look().named("container", str(foreign.name))
    with pytest.raises(NotOwned, match="did not make"):
        desk.act("remove", item, sure=True)
    desk.only_mine = False
    assert "did not make it" in (desk.question("stop", item) or "")
    with pytest.raises(BadInput, match="nothing was done"):
        desk.act("stop", item)
    foreign.reload()
    assert foreign.status == "running"
    assert desk.act("stop", item, sure=True) == f"docker stop {foreign.name}"
    foreign.reload()
    assert foreign.status == "exited"


def test_what_it_does_is_what_its_line_says(shared_lab: Lab) -> None:
    desk = EngineControl(shared_lab)
    made = shared_lab.run(
        shared_lab.image("payload"), TALKS, name=f"acted-{shared_lab.session}", network="none"
    )

    def do(verb: str, **sure: bool) -> str:
        desk.act(verb, desk.look().named("container", str(made.name)), **sure)
        made.reload()
        return made.status

    started = made.attrs["State"]["StartedAt"]
    assert do("stop") == "exited"
    assert do("start") == "running"
    assert do("restart") == "running"
    assert made.attrs["State"]["StartedAt"] > started
    with pytest.raises(BadInput, match="nothing was done: remove"):
        do("remove")
    with pytest.raises(BadInput, match="cannot be asked to pause"):
        do("pause")
    desk.act("remove", desk.look().named("container", str(made.name)), sure=True)
    assert str(made.name) not in [one.name for one in desk.look().of("container")]
    assert [line.split()[1] for line in desk.done] == ["stop", "start", "restart", "rm"]


def test_networks_and_volumes_are_removed_and_a_refusal_keeps_the_engines_words(shared_lab: Lab) -> None:
    desk = EngineControl(shared_lab)
    name = f"shelf-{shared_lab.session}"
    shared_lab.create_network(name)
    shared_lab.create_volume(name)
    user = shared_lab.run(shared_lab.image("payload"), ["true"], volumes=[f"{name}:/data"], network="none")
    volume = desk.look().named("volume", name)
    with pytest.raises(EngineRefused) as refused:
        desk.act("remove", volume, sure=True)
    assert "in use" in (refused.value.engine_message or "")
    shared_lab.remove(user, force=True)
    assert desk.act("remove", volume, sure=True) == f"docker volume rm {name}"
    assert desk.act("remove", desk.look().named("network", name), sure=True) == f"docker network rm {name}"


def test_a_log_is_followed_until_it_ends(shared_lab: Lab, talker: Container) -> None:
    desk = EngineControl(shared_lab)
    heard: list[Sequence[str]] = []
    stop = desk.follow(
        desk.look().named("container", str(talker.name)), lambda lines: heard.append(list(lines))
    )
    until(lambda: len(heard) >= 3)
    stop()
    stop()
    assert len(heard[-1]) > len(heard[0]) or len(heard[-1]) == 200
    stamp, _, words = heard[-1][-1].partition(" ")
    assert stamp.endswith("Z")
    assert words.startswith("word ")


@pytest.fixture(scope="module")
def panel(shared_lab: Lab, talker: Container) -> Iterator[ControlPanel]:
    from labhelpers.monitoring import control_panel

    made = control_panel(shared_lab)
    assert made.shows(str(talker.name))
    yield made
    made.stop()


def choose(panel: ControlPanel, name: str) -> None:
    until(lambda: any(value[2] == name for _, value in panel.which.options))
    panel.which.value = next(value for _, value in panel.which.options if value[2] == name)


def test_it_shows_what_containers_use(panel: ControlPanel, talker: Container) -> None:
    def percent() -> Any:
        assert panel.last is not None
        use = panel.last.use.get(str(talker.id))
        return None if use is None else use.cpu_percent

    until(lambda: percent() is not None)
    assert 0 <= percent() < 400
    assert str(talker.name) in panel.list.value
    assert "polyline" in panel.list.value


def test_it_notices_what_comes_and_goes(panel: ControlPanel, shared_lab: Lab) -> None:
    made = shared_lab.run(
        shared_lab.image("payload"), TALKS, name=f"guest-{shared_lab.session}", network="none"
    )
    until(lambda: str(made.name) in panel.list.value)
    shared_lab.remove(made, force=True)
    until(lambda: str(made.name) not in panel.list.value)


def test_a_removal_asks_first(panel: ControlPanel, shared_lab: Lab) -> None:
    made = shared_lab.run(
        shared_lab.image("payload"), TALKS, name=f"doomed-{shared_lab.session}", network="none"
    )
    choose(panel, str(made.name))
    panel.buttons["remove"].click()
    assert f"remove the container {made.name}" in panel.asked.value
    assert panel.confirm.layout.display == ""
    panel.no.click()
    assert "Nothing was done" in panel.said.value
    made.reload()
    panel.buttons["remove"].click()
    panel.yes.click()
    until(lambda: f"docker rm -f -v {made.name}" in panel.said.value)
    until(lambda: str(made.name) not in panel.list.value)


def test_the_limit_comes_off_after_a_warning_alone(panel: ControlPanel, foreign: Container) -> None:
    choose(panel, str(foreign.name))
    assert panel.buttons["stop"].disabled
    panel.only_mine.value = False
    assert WARNING in panel.asked.value.replace("&#x27;", "'")
    assert panel.buttons["stop"].disabled
    panel.no.click()
    assert panel.only_mine.value
    panel.only_mine.value = False
    panel.yes.click()
    until(lambda: not panel.buttons["stop"].disabled)
    panel.buttons["stop"].click()
    assert "did not make it" in panel.asked.value
    panel.no.click()
    panel.only_mine.value = True
    assert panel.buttons["stop"].disabled
    foreign.reload()
    assert foreign.status == "running"


def test_other_kinds_have_one_button(panel: ControlPanel) -> None:
    panel.kind.value = "network"
    until(lambda: "driver" in panel.list.value)
    shown = [verb for verb, button in panel.buttons.items() if button.layout.display == ""]
    assert shown == ["remove"]
    assert panel.logs.layout.display == "none"
    panel.kind.value = "container"


def test_the_logs_button(panel: ControlPanel, talker: Container) -> None:
    choose(panel, str(talker.name))
    panel.logs.click()
    until(lambda: "word " in panel.log.value)
    assert str(talker.name) in panel.log.value


def test_it_ends_with_stop(shared_lab: Lab, talker: Container) -> None:
    calls: list[Snapshot] = []
    stop = EngineControl(shared_lab).watch(calls.append, every_s=0.2)
    until(lambda: len(calls) >= 3)
    before = threading.active_count()
    stop()
    stop()
    until(lambda: threading.active_count() < before)
    count = len(calls)
    time.sleep(0.6)
    assert len(calls) == count
    assert talker.id in calls[-1].use


def test_what_is_drawn_is_escaped() -> None:
    item = Item("container", "1", "<b>", True, "<i>", "running", "Up", ("127.0.0.1:1→2/tcp",))
    html = list_html("container", [item], Snapshot((item,), {"1": Usage(12.34, 2048, (1.0, 12.34))}))
    assert "<b><b>" not in html
    assert "&lt;i&gt;" in html
    assert "12.3 %" in html
    assert "2 KiB" in html
    assert "&lt;script&gt;" in log_html("x", ["<script>"])
