"""What the room measures: restart policies, the engine's socket, and one container's time line."""

from __future__ import annotations

import json

import pytest

from labhelpers import monitoring
from labhelpers.engine import Engine
from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.monitoring.door import INSIDE, THINGS, WAYS, Door, Holders, _is_this_engine, _treasures
from labhelpers.monitoring.restart import DEATHS, POLICIES, Fates
from labhelpers.monitoring.timeline import Timeline

# docs.docker.com, "Start containers automatically"
BACK = {
    "exit code 0": ("always", "unless-stopped"),
    "exit code 1": ("on-failure", "always", "unless-stopped"),
    "out of memory": ("on-failure", "always", "unless-stopped"),
    "docker kill": (),
    "docker stop": (),
}


def left(lab: Lab) -> list[str]:
    """The lab's containers, without those that the room keeps on purpose."""
    found = lab.client.containers.list(
        all=True, filters={"label": f"labhelpers.session={lab.session}"}, ignore_removed=True
    )
    return [str(one.name) for one in found if one.id != lab.host.helper]


def test_the_hosts_file_is_read_whatever_the_engine_does_with_logs(there: Lab) -> None:
    with _treasures(there, dict.fromkeys(THINGS[1:], "word")) as ask:
        assert ask["reader"]["HostConfig"]["LogConfig"] == {"Type": "json-file"}


@pytest.mark.parametrize("death", DEATHS)
def test_who_comes_back(fates: Fates, death: str) -> None:
    assert fates.back(death) == BACK[death]


def test_on_failure_1_gives_up_after_one_restart(fates: Fates) -> None:
    for death in ("exit code 1", "out of memory"):
        fate = fates.of("on-failure:1", death)
        assert (fate.runs, fate.restarts) == (False, 1)
        assert fate.words == "comes back once, then stays down"


def test_how_they_died(fates: Fates) -> None:
    died = {death: fates.died(death) for death in DEATHS}
    # Docker 20.10 misses some of these kills (`Fate.oom_killed`)
    assert died.pop("out of memory").removesuffix(", OOMKilled") == "exit code 137"
    assert list(died.values()) == ["exit code 0", "exit code 1", "exit code 137", "exit code 0"]


def test_the_table_has_every_pair_and_nothing_is_left(fates: Fates, there: Lab) -> None:
    frame = fates.frame()
    assert list(frame.columns) == ["policy", *DEATHS]
    assert list(frame["policy"]) == list(POLICIES)
    assert left(there) == []


def test_a_pair_that_was_not_tried(fates: Fates) -> None:
    with pytest.raises(LabError, match="was not tried"):
        fates.of("always", "old age")


def test_where_always_and_unless_stopped_differ(engine_fates: Fates) -> None:
    assert engine_fates.back("engine restarted") == ("always", "unless-stopped")
    assert engine_fates.back("stopped, then engine restarted") == ("always",)
    # on-failure: an engine that finds a container dead takes that for a failure
    assert {"always", "unless-stopped"} <= set(engine_fates.back("power cut"))
    assert not engine_fates.of("no", "power cut").runs


def test_the_engine_in_a_container_is_gone(engine_fates: Fates, there: Lab) -> None:
    assert engine_fates.why_not is None
    assert left(there) == []


# --- docker.sock


def test_the_socket_is_this_engines(door: Door, there: Lab, engine: Engine) -> None:
    if engine.address.startswith("unix://") and not door.made:
        entry = there.host.entries(str(door).rpartition("/")[0], [str(door).rpartition("/")[2]])
        assert [one.kind for one in entry.values() if one] == ["socket"]
    words = ["curl", "-s", "--unix-socket", INSIDE, "http://engine/info"]
    asked = there.run(
        there.image("tools"), words, volumes=[f"{door}:{INSIDE}"], network="none", cap_drop=["ALL"]
    )
    asked.wait()
    assert json.loads(asked.logs(stderr=False))["ID"] == engine.info["ID"]
    there.remove(asked)


def test_another_socket_is_not_taken_for_this_engines(there: Lab) -> None:
    volume = there.create_volume(f"empty-{there.session}")
    assert not _is_this_engine(there, [f"{volume.name}:{INSIDE}"])
    volume.remove()


def test_a_path_of_the_machine_is_not_in_the_text(door: Door) -> None:
    assert str(door) == INSIDE or str(door) not in repr(door) + door._repr_html_()


def test_what_each_way_gives(held: Holders) -> None:
    had = {holder.way: [thing for thing, yes in holder.got.items() if yes] for holder in held.holders}
    everything = ["names", "environment", "file_of_container", "file_of_host"]
    assert had == {
        WAYS[0]: everything,
        WAYS[1]: everything,
        WAYS[2]: everything[:3],
        WAYS[3]: everything[:1],
    }
    assert "No such file" in held.forbidden


def test_the_proxies_refuse_by_status(held: Holders) -> None:
    assert ("POST", "/containers/create", 501) in held.of(WAYS[2]).requests
    assert {status for *_, status in held.of(WAYS[3]).requests} == {200, 403, 501}


def test_what_the_holder_started_is_removed(held: Holders, there: Lab) -> None:
    assert [status for verb, _, status in held.of(WAYS[0]).requests if verb == "DELETE"] == [204]
    assert left(there) == []
    volumes = there.client.volumes.list(filters={"label": f"labhelpers.session={there.session}"})
    assert [one.name for one in volumes if not one.name.startswith("door-")] == []
    with pytest.raises(LabError, match="no holder had"):
        held.of("a key")


# --- events and logs


def test_three_lives(story: Timeline, there: Lab) -> None:
    words = [one.words for one in story.events]
    assert [one for one in words if one.startswith("die")] == [
        f"die, exit code {code}" for code in (1, 0, 137)
    ]
    assert words.count("start") == 3
    assert words[0] == "create"
    assert words[-1] == "destroy"
    assert (
        words.index("pause") < words.index("unpause") < words.index("kill, signal 15") < words.index("stop")
    )
    assert left(there) == []


def test_every_line_was_followed_once(story: Timeline) -> None:
    assert tuple(one.words for one in story.lines) == story.said
    assert any(one.words == "life 2: asked to end, and does" for one in story.lines)


def test_the_states_follow_one_another(story: Timeline) -> None:
    names = [state for state, _, _ in story.states]
    assert names == ["created", "running", "down", "running", "paused", "running", "down", "running", "down"]
    assert all(one[2] == two[1] for one, two in zip(story.states, story.states[1:], strict=False))
    assert [one.at_s for one in story.moments] == sorted(one.at_s for one in story.moments)


def test_a_paused_container_says_nothing(story: Timeline) -> None:
    begin, end = next((begin, end) for state, begin, end in story.states if state == "paused")
    assert end - begin > 0.5
    assert [one for one in story.lines if begin + 0.2 < one.at_s < end - 0.2] == []


# --- where files end up


def test_files_in_a_volume_and_beside_it(there: Lab) -> None:
    name = f"v-{there.session}"
    volume = there.create_volume(name)
    assert monitoring.files_in(there, name) == ()
    for source in (f"{monitoring.home(there)}/volumes/{name}", name):
        writes = ["sh", "-c", "echo x >/data/file; : >/data/nothing"]
        made = there.run(there.image("payload"), writes, volumes=[f"{source}:/data"], network="none")
        made.wait()
        assert monitoring.files_in(there, name) == (() if source != name else ("file",))
        there.remove(made)
    volume.remove()
    there.client.volumes.get(f"home-{there.session}").remove()
    with pytest.raises(LabError, match="no volume called"):
        monitoring.files_in(there, name)
