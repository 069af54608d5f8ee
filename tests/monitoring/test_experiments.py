"""The experiments of the room: restart policies, access to the engine's socket, and a container's timeline."""

from __future__ import annotations

import itertools
import json

import pytest

from labhelpers import monitoring
from labhelpers.engine import Engine
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.lab.sessions import session_resources
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
RESTARTED = {
    "exit code 0": ("always", "unless-stopped"),
    "exit code 1": ("on-failure", "always", "unless-stopped"),
    "out of memory": ("on-failure", "always", "unless-stopped"),
    "docker kill": (),
    "docker stop": (),
}


def leftovers(lab: Lab) -> list[str]:
    """The lab's containers, without its helper container."""
    found = lab.client.containers.list(
        all=True, filters={"label": f"labhelpers.session={lab.session}"}, ignore_removed=True
    )
    return [str(container.name) for container in found if container.id != lab.host.helper]


def test_the_hosts_file_is_read_with_any_default_log_driver(shared_lab: Lab) -> None:
    with _test_data(shared_lab, dict.fromkeys(TARGETS[1:], "secret")) as parameters:
        assert parameters["reader"]["HostConfig"]["LogConfig"] == {"Type": "json-file"}


@pytest.mark.parametrize("exit_cause", EXIT_CAUSES)
def test_which_policies_restart(restart_results: RestartResults, exit_cause: str) -> None:
    assert restart_results.restarted(exit_cause) == RESTARTED[exit_cause]


def test_on_failure_1_gives_up_after_one_restart(restart_results: RestartResults) -> None:
    for exit_cause in ("exit code 1", "out of memory"):
        result = restart_results.of("on-failure:1", exit_cause)
        assert (result.runs, result.restarts) == (False, 1)
        assert result.description == "comes back once, then stays down"


def test_exit_codes(restart_results: RestartResults) -> None:
    exits = {exit_cause: restart_results.exit_description(exit_cause) for exit_cause in EXIT_CAUSES}
    # Docker 20.10 misses some of these kills (`RestartResult.oom_killed`)
    assert exits.pop("out of memory").removesuffix(", OOMKilled") == "exit code 137"
    assert list(exits.values()) == ["exit code 0", "exit code 1", "exit code 137", "exit code 0"]


def test_the_table_has_every_pair_and_nothing_is_left(
    restart_results: RestartResults, shared_lab: Lab
) -> None:
    frame = restart_results.frame()
    columns = ["policy", "exit_cause", "runs", "restarts", "exit_code", "oom_killed", "description"]
    assert list(frame.columns) == columns
    pairs = list(zip(frame.exit_cause, frame.policy, strict=True))
    assert pairs == [(exit_cause, policy) for exit_cause in EXIT_CAUSES for policy in POLICIES]
    assert leftovers(shared_lab) == []


def test_a_pair_that_was_not_measured(restart_results: RestartResults) -> None:
    with pytest.raises(BadInput, match="was not measured"):
        restart_results.of("always", "old age")


def test_always_and_unless_stopped_differ(engine_restart_results: RestartResults) -> None:
    assert engine_restart_results.restarted("engine restarted") == ("always", "unless-stopped")
    assert engine_restart_results.restarted("stopped, then engine restarted") == ("always",)
    # on-failure is not asserted: the engine treats a container that is gone as a failure
    assert {"always", "unless-stopped"} <= set(engine_restart_results.restarted("power cut"))
    assert not engine_restart_results.of("no", "power cut").runs


def test_the_nested_engine_is_removed(engine_restart_results: RestartResults, shared_lab: Lab) -> None:
    assert engine_restart_results.unavailable_reason is None
    assert leftovers(shared_lab) == []


# --- docker.sock


def test_the_socket_is_this_engines(engine_socket: EngineSocket, shared_lab: Lab, engine: Engine) -> None:
    if engine.address.startswith("unix://") and not engine_socket.created_by_lab:
        entry = shared_lab.host.entries(
            str(engine_socket).rpartition("/")[0], [str(engine_socket).rpartition("/")[2]]
        )
        assert [each.kind for each in entry.values() if each] == ["socket"]
    command = ["curl", "-s", "--unix-socket", SOCKET_PATH, "http://engine/info"]
    curl = shared_lab.run(
        shared_lab.image("tools"),
        command,
        volumes=[f"{engine_socket}:{SOCKET_PATH}"],
        network="none",
        cap_drop=["ALL"],
    )
    curl.wait()
    assert json.loads(curl.logs(stderr=False))["ID"] == engine.info["ID"]
    shared_lab.remove(curl)


def test_another_socket_is_not_taken_for_this_engines(shared_lab: Lab) -> None:
    volume = shared_lab.create_volume(f"empty-{shared_lab.session}")
    assert not _is_this_engine(shared_lab, [f"{volume.name}:{SOCKET_PATH}"])
    volume.remove()


def test_a_path_of_the_machine_is_not_in_the_text(engine_socket: EngineSocket) -> None:
    assert (
        str(engine_socket) == SOCKET_PATH
        or str(engine_socket) not in repr(engine_socket) + engine_socket._repr_html_()
    )


def test_what_each_kind_of_access_gives(socket_access: SocketAccess) -> None:
    granted = {
        result.access: [target for target, is_granted in result.granted.items() if is_granted]
        for result in socket_access.results
    }
    everything = ["names", "environment", "file_of_container", "file_of_host"]
    assert granted == {
        ACCESS_METHODS[0]: everything,
        ACCESS_METHODS[1]: everything,
        ACCESS_METHODS[2]: everything[:3],
        ACCESS_METHODS[3]: everything[:1],
    }
    assert "No such file" in socket_access.open_error


def test_the_proxies_refuse_by_status(socket_access: SocketAccess) -> None:
    assert socket_access.of(ACCESS_METHODS[2]).status_of("POST", "/containers/create") == 501
    assert {request.status for request in socket_access.of(ACCESS_METHODS[3]).requests} == {200, 403, 501}


def test_the_container_that_reads_the_host_is_removed(socket_access: SocketAccess, shared_lab: Lab) -> None:
    requests = socket_access.of(ACCESS_METHODS[0]).requests
    assert [request.status for request in requests if request.method == "DELETE"] == [204]
    assert leftovers(shared_lab) == []
    # the tests of this folder share one lab (conftest.py); an exercise of test_exercises.py makes the volume `home-…`
    made = session_resources(shared_lab.client, shared_lab.session)
    volumes = [resource.name for resource in made if resource.kind == "volume"]
    assert [name for name in volumes if not name.startswith(("socket-", "home-"))] == []
    with pytest.raises(BadInput, match="there is no access"):
        socket_access.of("a key")


def test_the_table_has_one_row_for_each_kind_of_access(socket_access: SocketAccess) -> None:
    frame = socket_access.frame()
    assert list(frame.access) == list(ACCESS_METHODS)
    assert list(frame.reads_host_files) == [True, True, False, False]
    requests = socket_access.of(ACCESS_METHODS[0]).frame()
    assert list(requests.columns) == ["method", "path", "status"]


# --- events and logs


def test_three_runs(timeline: Timeline, shared_lab: Lab) -> None:
    events = [event.text for event in timeline.events]
    assert [event for event in events if event.startswith("die")] == [
        f"die, exit code {code}" for code in (1, 0, 137)
    ]
    assert events.count("start") == 3
    assert events[0] == "create"
    assert events[-1] == "destroy"
    assert (
        events.index("pause")
        < events.index("unpause")
        < events.index("kill, signal 15")
        < events.index("stop")
    )
    assert leftovers(shared_lab) == []


def test_every_line_was_followed_once(timeline: Timeline) -> None:
    assert tuple(line.text for line in timeline.lines) == timeline.log_lines
    assert any(line.text == "run 2: SIGTERM, exits" for line in timeline.lines)
    assert list(timeline.frame().columns) == ["at_s", "kind", "text"]


def test_the_states_follow_one_another(timeline: Timeline) -> None:
    names = [state for state, _, _ in timeline.states]
    assert names == ["created", "running", "down", "running", "paused", "running", "down", "running", "down"]
    assert all(end == begin for (*_, end), (_, begin, _) in itertools.pairwise(timeline.states))
    assert [entry.at_s for entry in timeline.entries] == sorted(entry.at_s for entry in timeline.entries)


def test_a_paused_container_prints_nothing(timeline: Timeline) -> None:
    begin, end = next((begin, end) for state, begin, end in timeline.states if state == "paused")
    assert end - begin > 0.5
    assert [line for line in timeline.lines if begin + 0.2 < line.at_s < end - 0.2] == []


# --- where files are stored


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
