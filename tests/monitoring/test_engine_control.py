"""The control panel, without a browser: what it lists, refuses and asks, and what its buttons do."""

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

CHATTY = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2 & wait $!; done",
]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def talker(shared_lab: Lab) -> Iterator[Container]:
    made = shared_lab.run(
        shared_lab.image("payload"), CHATTY, name=f"talker-{shared_lab.session}", network="none"
    )
    yield made
    shared_lab.remove(str(made.name), force=True)


@pytest.fixture
def foreign(shared_lab: Lab) -> Iterator[Container]:
    """A container that no lab created; the fixture removes it."""
    made = shared_lab.client.containers.run(
        shared_lab.image("payload"),
        CHATTY,
        name=f"foreign-{shared_lab.session}",
        network_mode="none",
        detach=True,
    )
    yield made
    made.remove(force=True)


def test_it_lists_everything_and_recognises_its_own_resources(
    shared_lab: Lab, talker: Container, foreign: Container
) -> None:
    snapshot = EngineControl(shared_lab).snapshot()
    assert {item.kind for item in snapshot.items} >= set(KINDS) - {
        "volume"
    }  # a fresh engine has none of those
    own = snapshot.named("container", str(talker.name))
    assert (own.owned, own.state, own.detail) == (True, "running", shared_lab.image("payload"))
    assert not snapshot.named("container", str(foreign.name)).owned
    assert not snapshot.named("network", "bridge").owned
    assert not snapshot.named("image", shared_lab.image("payload")).owned
    assert snapshot.of("container")[0].owned  # its own come first
    with pytest.raises(LabError, match="no container called"):
        snapshot.named("container", "no-such-container")


def test_the_helper_container_is_not_listed(shared_lab: Lab) -> None:
    assert shared_lab.host.helper is not None
    assert shared_lab.host.helper not in [item.id for item in EngineControl(shared_lab).snapshot().items]


def test_a_foreign_container_is_not_changed(shared_lab: Lab, foreign: Container) -> None:
    control = EngineControl(shared_lab)
    item = control.snapshot().named("container", str(foreign.name))
    with pytest.raises(NotOwned, match="did not create"):
        control.act("remove", item, confirmed=True)
    control.only_owned = False
    assert "did not create it" in (control.confirmation("stop", item) or "")
    with pytest.raises(BadInput, match="not confirmed"):
        control.act("stop", item)
    foreign.reload()
    assert foreign.status == "running"
    assert control.act("stop", item, confirmed=True) == f"docker stop {foreign.name}"
    foreign.reload()
    assert foreign.status == "exited"


def test_each_change_has_its_command(shared_lab: Lab) -> None:
    control = EngineControl(shared_lab)
    made = shared_lab.run(
        shared_lab.image("payload"), CHATTY, name=f"acted-{shared_lab.session}", network="none"
    )

    def do(verb: str, **confirmed: bool) -> str:
        control.act(verb, control.snapshot().named("container", str(made.name)), **confirmed)
        made.reload()
        return made.status

    started = made.attrs["State"]["StartedAt"]
    assert do("stop") == "exited"
    assert do("start") == "running"
    assert do("restart") == "running"
    assert made.attrs["State"]["StartedAt"] > started
    with pytest.raises(BadInput, match="not confirmed: remove"):
        do("remove")
    with pytest.raises(BadInput, match="pause is not a command"):
        do("pause")
    control.act("remove", control.snapshot().named("container", str(made.name)), confirmed=True)
    assert str(made.name) not in [item.name for item in control.snapshot().of("container")]
    assert [line.split()[1] for line in control.commands] == ["stop", "start", "restart", "rm"]


def test_networks_and_volumes_are_removed_and_a_refusal_keeps_the_engines_message(shared_lab: Lab) -> None:
    control = EngineControl(shared_lab)
    name = f"shelf-{shared_lab.session}"
    shared_lab.create_network(name)
    shared_lab.create_volume(name)
    user = shared_lab.run(shared_lab.image("payload"), ["true"], volumes=[f"{name}:/data"], network="none")
    volume = control.snapshot().named("volume", name)
    with pytest.raises(EngineRefused) as refused:
        control.act("remove", volume, confirmed=True)
    assert "in use" in (refused.value.engine_message or "")
    shared_lab.remove(user, force=True)
    assert control.act("remove", volume, confirmed=True) == f"docker volume rm {name}"
    assert (
        control.act("remove", control.snapshot().named("network", name), confirmed=True)
        == f"docker network rm {name}"
    )


def test_a_log_is_followed_until_it_ends(shared_lab: Lab, talker: Container) -> None:
    control = EngineControl(shared_lab)
    calls: list[Sequence[str]] = []
    stop = control.follow(
        control.snapshot().named("container", str(talker.name)), lambda lines: calls.append(list(lines))
    )
    until(lambda: len(calls) >= 3)
    stop()
    stop()
    assert len(calls[-1]) > len(calls[0]) or len(calls[-1]) == 200
    timestamp, _, text = calls[-1][-1].partition(" ")
    assert timestamp.endswith("Z")
    assert text.startswith("line ")


@pytest.fixture(scope="module")
def panel(shared_lab: Lab, talker: Container) -> Iterator[ControlPanel]:
    from labhelpers.monitoring import control_panel

    made = control_panel(shared_lab)
    assert made.shows(str(talker.name))
    yield made
    made.stop()


def choose(panel: ControlPanel, name: str) -> None:
    until(lambda: any(value[2] == name for _, value in panel.selection.options))
    panel.selection.value = next(value for _, value in panel.selection.options if value[2] == name)


def test_it_shows_the_usage_of_containers(panel: ControlPanel, talker: Container) -> None:
    def percent() -> Any:
        assert panel.last is not None
        usage = panel.last.usage.get(str(talker.id))
        return None if usage is None else usage.cpu_percent

    until(lambda: percent() is not None)
    assert 0 <= percent() < 400
    assert str(talker.name) in panel.list.value
    assert "polyline" in panel.list.value


def test_it_follows_containers_that_start_and_stop(panel: ControlPanel, shared_lab: Lab) -> None:
    made = shared_lab.run(
        shared_lab.image("payload"), CHATTY, name=f"guest-{shared_lab.session}", network="none"
    )
    until(lambda: str(made.name) in panel.list.value)
    shared_lab.remove(made, force=True)
    until(lambda: str(made.name) not in panel.list.value)


def test_a_removal_asks_first(panel: ControlPanel, shared_lab: Lab) -> None:
    made = shared_lab.run(
        shared_lab.image("payload"), CHATTY, name=f"doomed-{shared_lab.session}", network="none"
    )
    choose(panel, str(made.name))
    panel.buttons["remove"].click()
    assert f"remove the container {made.name}" in panel.question.value
    assert panel.confirm.layout.display == ""
    panel.no.click()
    assert "Nothing was changed" in panel.message.value
    made.reload()
    panel.buttons["remove"].click()
    panel.yes.click()
    until(lambda: f"docker rm -f -v {made.name}" in panel.message.value)
    until(lambda: str(made.name) not in panel.list.value)


def test_the_limit_is_removed_only_after_a_warning(panel: ControlPanel, foreign: Container) -> None:
    choose(panel, str(foreign.name))
    assert panel.buttons["stop"].disabled
    panel.only_owned.value = False
    assert WARNING in panel.question.value.replace("&#x27;", "'")
    assert panel.buttons["stop"].disabled
    panel.no.click()
    assert panel.only_owned.value
    panel.only_owned.value = False
    panel.yes.click()
    until(lambda: not panel.buttons["stop"].disabled)
    panel.buttons["stop"].click()
    assert "did not create it" in panel.question.value
    panel.no.click()
    panel.only_owned.value = True
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
    until(lambda: "line " in panel.log.value)
    assert str(talker.name) in panel.log.value


def test_stop_ends_the_thread(shared_lab: Lab, talker: Container) -> None:
    calls: list[Snapshot] = []
    stop = EngineControl(shared_lab).watch(calls.append, every_s=0.2)
    until(lambda: len(calls) >= 3 and talker.id in calls[-1].usage)
    before = threading.active_count()
    stop()
    stop()
    until(lambda: threading.active_count() < before)
    count = len(calls)
    time.sleep(0.6)
    assert len(calls) == count


def test_names_and_logs_are_escaped() -> None:
    item = Item("container", "1", "<b>", True, "<i>", "running", "Up", ("127.0.0.1:1→2/tcp",))
    html = list_html("container", [item], Snapshot((item,), {"1": Usage(12.34, 2048, (1.0, 12.34))}))
    assert "<b><b>" not in html
    assert "&lt;i&gt;" in html
    assert "12.3 %" in html
    assert "2 KiB" in html
    assert "&lt;script&gt;" in log_html("x", ["<script>"])
