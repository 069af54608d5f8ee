"""What the room measures: restart policies, the engine's socket, and one container's time line."""

from __future__ import annotations

import json

import pytest

from labhelpers import monitoring
from labhelpers.engine import Engine
from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.monitoring.engine_socket import (
    ACCESS_METHODS,
    SOCKET_PATH,
    TARGETS,
    EngineSocket,
    SocketAccess,
    _is_this_engine,
    _test_data,
)
from labhelpers.monitoring.restart import EXIT_CAUSES, POLICIES, RestartResults
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


def test_the_hosts_file_is_read_whatever_the_engine_does_with_logs(shared_lab: Lab) -> None:
    with _test_data(shared_lab, dict.fromkeys(TARGETS[1:], "word")) as ask:
        assert ask["reader"]["HostConfig"]["LogConfig"] == {"Type": "json-file"}


@pytest.mark.parametrize("death", EXIT_CAUSES)
def test_who_comes_back(restart_results: RestartResults, death: str) -> None:
    assert restart_results.back(death) == BACK[death]


def test_on_failure_1_gives_up_after_one_restart(restart_results: RestartResults) -> None:
    for death in ("exit code 1", "out of memory"):
        fate = restart_results.of("on-failure:1", death)
        assert (fate.runs, fate.restarts) == (False, 1)
        assert fate.words == "comes back once, then stays down"


def test_how_they_died(restart_results: RestartResults) -> None:
    died = {death: restart_results.died(death) for death in EXIT_CAUSES}
    # Docker 20.10 misses some of these kills (`Fate.oom_killed`)
    assert died.pop("out of memory").removesuffix(", OOMKilled") == "exit code 137"
    assert list(died.values()) == ["exit code 0", "exit code 1", "exit code 137", "exit code 0"]


def test_the_table_has_every_pair_and_nothing_is_left(
    restart_results: RestartResults, shared_lab: Lab
) -> None:
    frame = restart_results.frame()
    assert list(frame.columns) == ["policy", *EXIT_CAUSES]
    assert list(frame["policy"]) == list(POLICIES)
    assert left(shared_lab) == []


def test_a_pair_that_was_not_tried(restart_results: RestartResults) -> None:
    with pytest.raises(LabError, match="was not tried"):
        restart_results.of("always", "old age")


def test_where_always_and_unless_stopped_differ(engine_restart_results: RestartResults) -> None:
    assert engine_restart_results.back("engine restarted") == ("always", "unless-stopped")
    assert engine_restart_results.back("stopped, then engine restarted") == ("always",)
    # on-failure: an engine that finds a container dead takes that for a failure
    assert {"always", "unless-stopped"} <= set(engine_restart_results.back("power cut"))
    assert not engine_restart_results.of("no", "power cut").runs


def test_the_engine_in_a_container_is_gone(engine_restart_results: RestartResults, shared_lab: Lab) -> None:
    assert engine_restart_results.why_not is None
    assert left(shared_lab) == []


# --- docker.sock


def test_the_socket_is_this_engines(engine_socket: EngineSocket, shared_lab: Lab, engine: Engine) -> None:
    if engine.address.startswith("unix://") and not engine_socket.made:
        entry = shared_lab.host.entries(
            str(engine_socket).rpartition("/")[0], [str(engine_socket).rpartition("/")[2]]
        )
        assert [one.kind for one in entry.values() if one] == ["socket"]
    words = ["curl", "-s", "--unix-socket", SOCKET_PATH, "http://engine/info"]
    asked = shared_lab.run(
        shared_lab.image("tools"),
        words,
        volumes=[f"{engine_socket}:{SOCKET_PATH}"],
        network="none",
        cap_drop=["ALL"],
    )
    asked.wait()
    assert json.loads(asked.logs(stderr=False))["ID"] == engine.info["ID"]
    shared_lab.remove(asked)


def test_another_socket_is_not_taken_for_this_engines(shared_lab: Lab) -> None:
    volume = shared_lab.create_volume(f"empty-{shared_lab.session}")
    assert not _is_this_engine(shared_lab, [f"{volume.name}:{SOCKET_PATH}"])
    volume.remove()


def test_a_path_of_the_machine_is_not_in_the_text(engine_socket: EngineSocket) -> None:
    assert (
        str(engine_socket) == SOCKET_PATH
        or str(engine_socket) not in repr(engine_socket) + engine_socket._repr_html_()
    )


def test_what_each_way_gives(socket_access: SocketAccess) -> None:
    had = {
        holder.way: [thing for thing, yes in holder.got.items() if yes] for holder in socket_access.holders
    }
    everything = ["names", "environment", "file_of_container", "file_of_host"]
    assert had == {
        ACCESS_METHODS[0]: everything,
        ACCESS_METHODS[1]: everything,
        ACCESS_METHODS[2]: everything[:3],
        ACCESS_METHODS[3]: everything[:1],
    }
    assert "No such file" in socket_access.forbidden


def test_the_proxies_refuse_by_status(socket_access: SocketAccess) -> None:
    assert ("POST", "/containers/create", 501) in socket_access.of(ACCESS_METHODS[2]).requests
    assert {status for *_, status in socket_access.of(ACCESS_METHODS[3]).requests} == {200, 403, 501}


def test_what_the_holder_started_is_removed(socket_access: SocketAccess, shared_lab: Lab) -> None:
    assert [
        status for verb, _, status in socket_access.of(ACCESS_METHODS[0]).requests if verb == "DELETE"
    ] == [204]
    assert left(shared_lab) == []
    volumes = shared_lab.client.volumes.list(filters={"label": f"labhelpers.session={shared_lab.session}"})
    assert [one.name for one in volumes if not one.name.startswith("door-")] == []
    with pytest.raises(LabError, match="no holder had"):
        socket_access.of("a key")


# --- events and logs


def test_three_lives(timeline: Timeline, shared_lab: Lab) -> None:
    words = [one.words for one in timeline.events]
    assert [one for one in words if one.startswith("die")] == [
        f"die, exit code {code}" for code in (1, 0, 137)
    ]
    assert words.count("start") == 3
    assert words[0] == "create"
    assert words[-1] == "destroy"
    assert (
        words.index("pause") < words.index("unpause") < words.index("kill, signal 15") < words.index("stop")
    )
    assert left(shared_lab) == []


def test_every_line_was_followed_once(timeline: Timeline) -> None:
    assert tuple(one.words for one in timeline.lines) == timeline.said
    assert any(one.words == "life 2: asked to end, and does" for one in timeline.lines)


def test_the_states_follow_one_another(timeline: Timeline) -> None:
    names = [state for state, _, _ in timeline.states]
    assert names == ["created", "running", "down", "running", "paused", "running", "down", "running", "down"]
    assert all(one[2] == two[1] for one, two in zip(timeline.states, timeline.states[1:], strict=False))
    assert [one.at_s for one in timeline.moments] == sorted(one.at_s for one in timeline.moments)


def test_a_paused_container_says_nothing(timeline: Timeline) -> None:
    begin, end = next((begin, end) for state, begin, end in timeline.states if state == "paused")
    assert end - begin > 0.5
    assert [one for one in timeline.lines if begin + 0.2 < one.at_s < end - 0.2] == []


# --- where files end up


def test_files_in_a_volume_and_beside_it(shared_lab: Lab) -> None:
    name = f"v-{shared_lab.session}"
    volume = shared_lab.create_volume(name)
    assert monitoring.volume_files(shared_lab, name) == ()
    for source in (f"{monitoring.host_home(shared_lab)}/volumes/{name}", name):
        writes = ["sh", "-c", "echo x >/data/file; : >/data/nothing"]
        made = shared_lab.run(
            shared_lab.image("payload"), writes, volumes=[f"{source}:/data"], network="none"
        )
        made.wait()
        assert monitoring.volume_files(shared_lab, name) == (() if source != name else ("file",))
        shared_lab.remove(made)
    volume.remove()
    shared_lab.client.volumes.get(f"home-{shared_lab.session}").remove()
    with pytest.raises(LabError, match="no volume called"):
        monitoring.volume_files(shared_lab, name)
