"""What an experiment reads of the engine, waits for, and does to containers: on a real engine."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from docker.models.containers import Container

from labhelpers.engine import Engine
from labhelpers.errors import (
    ContainerMissing,
    EngineRefused,
    ImageMissing,
    NotOwned,
    NotRunning,
    TimedOut,
)
from labhelpers.lab import Lab
from labhelpers.lab.commands import CSS_CLASS, commands
from labhelpers.state import ROOT

SLEEP = "sleep 600"


@pytest.fixture
def container(shared_lab: Lab) -> Container:
    return shared_lab.run(shared_lab.image("payload"), SLEEP, network="none")


def state(lab: Lab, container: Container) -> tuple[str, int]:
    found = lab.inspect(container)["State"]
    return found["Status"], found["ExitCode"]


def typed(lab: Lab, line: str) -> str:
    """What a command of the lab prints where a person types it."""
    environment = {"DOCKER_HOST": lab.engine.address, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        shlex.split(line), env=environment, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("operate", "undo"),
    [
        (lambda lab, c: lab.kill(c), lambda lab, c: lab.start(c)),
        (lambda lab, c: lab.kill(c, "KILL"), lambda lab, c: lab.start(c)),
        (lambda lab, c: lab.pause(c), lambda lab, c: lab.unpause(c)),
        (lambda lab, c: lab.stop(c, timeout_s=0), lambda lab, c: lab.start(c)),
        (lambda lab, c: lab.restart(c, timeout_s=0), lambda lab, c: None),
    ],
    ids=["kill", "kill with a signal", "pause", "stop", "restart"],
)
def test_a_command_does_what_the_operation_does(
    shared_lab: Lab,
    container: Container,
    operate: Callable[[Lab, Container], None],
    undo: Callable[[Lab, Container], None],
) -> None:
    before = len(shared_lab.commands)
    operate(shared_lab, container)
    shared_lab.wait_for("the state to settle", lambda: state(shared_lab, container)[0] != "removing")
    (line,) = shared_lab.commands[before:]
    by_lab = state(shared_lab, container)
    undo(shared_lab, container)
    assert state(shared_lab, container)[0] == "running"
    typed(shared_lab, line)
    assert state(shared_lab, container) == by_lab


def test_a_container_lasts_as_long_as_its_block(shared_lab: Lab) -> None:
    with shared_lab.running(shared_lab.image("payload"), SLEEP, network="none") as made:
        assert shared_lab.is_running(made)
    with pytest.raises(ContainerMissing, match="no container"):
        shared_lab.inspect(made)
    assert shared_lab.commands[-1] == f"docker rm -f -v {made.name}"


def test_a_block_that_fails_or_removes_it_leaves_nothing(shared_lab: Lab) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        shared_lab.running(shared_lab.image("payload"), SLEEP, network="none") as made,
    ):
        _ = 1 / 0
    with pytest.raises(ContainerMissing):
        shared_lab.inspect(made)
    with shared_lab.running(shared_lab.image("payload"), SLEEP, network="none") as made:
        shared_lab.remove(made, force=True)


def test_waiting_for_the_end_gives_the_exit_code(shared_lab: Lab) -> None:
    ends = shared_lab.run(shared_lab.image("payload"), ["sh", "-c", "exit 7"], network="none")
    assert shared_lab.wait(ends) == 7
    assert shared_lab.commands[-1] == f"docker wait {ends.name}"
    assert typed(shared_lab, shared_lab.commands[-1]) == "7"


def test_waiting_too_long_for_the_end(shared_lab: Lab, container: Container) -> None:
    with pytest.raises(TimedOut, match=r"timed out after 0\.5 s waiting for the container .* to end"):
        shared_lab.wait(container, limit_s=0.5)


def test_a_condition_that_comes_true_gives_its_value(shared_lab: Lab) -> None:
    values = iter(["", "", "ready"])
    assert shared_lab.wait_for("a value", lambda: next(values)) == "ready"


def test_a_condition_that_does_not_come_true_is_named_with_the_time(shared_lab: Lab) -> None:
    with pytest.raises(TimedOut, match=r"timed out after 0\.2 s waiting for the moon"):
        shared_lab.wait_for("the moon", lambda: False, 0.2)


def test_a_container_that_ends_first_is_an_error_with_its_last_lines(shared_lab: Lab) -> None:
    ends = shared_lab.run(
        shared_lab.image("payload"), ["sh", "-c", "echo no disk left >&2; exit 3"], network="none"
    )
    with pytest.raises(
        NotRunning, match="exited with code 3 before this happened: the server to answer"
    ) as error:
        shared_lab.wait_for("the server to answer", lambda: False, 30, while_running=ends)
    assert error.value.engine_message == "no disk left"


def test_what_is_not_there_is_an_error_of_its_kind(shared_lab: Lab) -> None:
    for ask in (
        shared_lab.inspect,
        shared_lab.logs,
        shared_lab.is_running,
        shared_lab.kill,
        shared_lab.start,
        shared_lab.wait,
    ):
        with pytest.raises(ContainerMissing):
            ask("no-such-container")
    with pytest.raises(ImageMissing):
        shared_lab.inspect_image("no-such-image:1")
    for look in (shared_lab.inspect_network, shared_lab.inspect_volume):
        with pytest.raises(EngineRefused):
            look("no-such-thing")


def test_addresses_and_directories(shared_lab: Lab, container: Container) -> None:
    assert shared_lab.address_of(container) == ""
    network, volume = (
        shared_lab.create_network(f"t-{shared_lab.session}"),
        shared_lab.create_volume(f"t-{shared_lab.session}"),
    )
    inside = shared_lab.run(shared_lab.image("payload"), SLEEP, network=str(network.name))
    address = shared_lab.exec(inside, ["hostname", "-i"]).stdout.strip()
    assert shared_lab.address_of(inside) == shared_lab.address_of(inside, str(network.name)) == address
    assert shared_lab.directory_of(volume) == shared_lab.inspect_volume(volume)["Mountpoint"]
    assert shared_lab.image("payload") in [
        tag for row in shared_lab.list_images() for tag in row["RepoTags"] or []
    ]
    assert str(network.name) in [row["Name"] for row in shared_lab.list_networks()]
    assert str(volume.name) in [row["Name"] for row in shared_lab.list_volumes()]
    shared_lab.remove(inside, force=True)
    shared_lab.remove_network(network)
    shared_lab.remove_volume(volume)
    shared_lab.remove_network(network)
    assert str(network.name) not in [row["Name"] for row in shared_lab.list_networks()]
    assert str(volume.name) not in [row["Name"] for row in shared_lab.list_volumes()]


def test_a_detached_process_runs_on(shared_lab: Lab, container: Container) -> None:
    assert str(shared_lab.exec(container, "sleep 601", detach=True)) == ""
    assert shared_lab.commands[-1] == f"docker exec -d {container.name} sleep 601"
    typed(shared_lab, shared_lab.commands[-1])
    processes = shared_lab.host.processes
    shared_lab.wait_for("both", lambda: [p.command for p in processes(container)].count("sleep 601") == 2)


def test_the_steps_of_an_image_and_the_changes_of_a_container(shared_lab: Lab, container: Container) -> None:
    image = shared_lab.image("payload")
    steps = typed(shared_lab, f"docker history -q {image}").splitlines()
    assert len(shared_lab.history_of(image)) == len(steps)
    with pytest.raises(ImageMissing):
        shared_lab.history_of("no-such-image:1")
    assert shared_lab.changes_of(container) == []
    shared_lab.exec(container, ["sh", "-c", "echo 12345 > /new"])
    assert shared_lab.changes_of(container) == [{"Path": "/new", "Kind": 1}]
    assert typed(shared_lab, f"docker diff {container.name}") == "A /new"
    (row,) = shared_lab.list_containers(sizes=True, filters={"id": str(container.id)})
    assert row["SizeRw"] > 0


def test_only_this_notebooks_networks_and_volumes_are_removed(shared_lab: Lab) -> None:
    name = f"foreign-{shared_lab.session}"
    shared_lab.client.api.create_volume(name)
    try:
        with pytest.raises(NotOwned, match="did not create the volume"):
            shared_lab.remove_volume(name)
        with pytest.raises(NotOwned, match="did not create the network"):
            shared_lab.remove_network("bridge")
        assert shared_lab.inspect_volume(name)
    finally:
        shared_lab.client.api.remove_volume(name)


def test_what_one_thread_hides_does_not_hide_the_commands_of_another(
    shared_lab: Lab, container: Container
) -> None:
    before = len(shared_lab.commands)
    with ThreadPoolExecutor() as pool, shared_lab.hidden():
        shared_lab.exec(container, "true")
        with shared_lab.hidden(), shared_lab.quiet():
            shared_lab.exec(container, "true")
        shared_lab.exec(container, "true")
        pool.submit(shared_lab.exec, container, "sleep 0").result()
    assert shared_lab.commands[before:] == [f"docker exec {container.name} sleep 0"]


def test_a_volume_that_a_run_made_is_removed_where_that_is_asked_for(shared_lab: Lab) -> None:
    with shared_lab.running(
        shared_lab.image("payload"), SLEEP, network="none", volumes=[f"t-by-run-{shared_lab.session}:/data"]
    ):
        pass
    name = f"t-by-run-{shared_lab.session}"
    with pytest.raises(NotOwned):
        shared_lab.remove_volume(name)
    shared_lab.remove_volume(name, made_by_run=True)
    assert shared_lab.commands[-1] == f"docker volume rm {name}"
    with pytest.raises(EngineRefused, match="no volume called"):
        shared_lab.inspect_volume(name)


def test_an_older_volume_is_not_taken_for_one_that_a_run_made(engine: Engine) -> None:
    name = f"t-older-{secrets.token_hex(4)}"
    engine.client.api.create_volume(name)
    try:
        with Lab("test", engine=engine) as lab, pytest.raises(NotOwned):
            lab.remove_volume(name, made_by_run=True)
    finally:
        engine.client.api.remove_volume(name)


def test_a_background_thread_changes_nothing_of_what_a_cell_shows(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    container = lab.run(lab.image("payload"), SLEEP, network="none")
    begun, over = threading.Event(), threading.Event()

    def check() -> None:
        with lab.hidden(), lab.quiet():
            lab.exec(container, ["true"])
            begun.set()
            over.wait(60)

    thread = threading.Thread(target=check)
    thread.start()
    begun.wait(60)
    try:
        assert capsys.readouterr().out.count("docker exec") == 0
        lab.exec(container, ["echo", "shown"])
        assert capsys.readouterr().out == f"$ docker exec {container.name} echo shown\n"
    finally:
        over.set()
        thread.join()


LINES = ("docker network create b", "docker run -d a", "docker run -d a", "docker rm a")


def test_a_block_counts_its_commands_and_shows_the_essential_ones_once() -> None:
    block = commands(LINES, ["docker run"])
    assert block.lines == LINES
    assert block.essential == ("docker run -d a",)
    text = repr(block)
    assert text == "$ docker run -d a\n4 docker commands: see lab.commands"
    html = block._repr_html_()
    assert html.startswith(f'<div class="{CSS_CLASS}">')
    assert "<summary>4 docker commands</summary>" in html
    assert commands(LINES[:1]).title == "1 docker command"
    assert "<script>" not in commands(["docker run '<script>'"])._repr_html_()


def test_a_program_of_the_package_is_named_by_its_file() -> None:
    file = ROOT / "labhelpers" / "networks" / "inside" / "probe.py"
    program = file.read_text(encoding="utf-8")
    line = shlex.join(["docker", "exec", "web", "python3", "-c", program, "it's"])
    (shown,) = commands([line]).lines
    assert shown == """docker exec web python3 -c "$(cat labhelpers/networks/inside/probe.py)" 'it'"'"'s'"""
    shell = subprocess.run(
        ["sh", "-c", f"set -- {shown}; printf '%s' \"$6\""],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert shell.stdout == program.rstrip("\n")


def test_a_program_in_a_variable_is_named_by_its_file_too() -> None:
    file = ROOT / "labhelpers" / "networks" / "inside" / "probe.py"
    line = shlex.join(
        ["docker", "run", "-e", f"PROBE={file.read_text(encoding='utf-8')}", "-e", "A=b c", "x"]
    )
    (shown,) = commands([line]).lines
    assert shown == """docker run -e PROBE="$(cat labhelpers/networks/inside/probe.py)" -e 'A=b c' x"""


def test_the_token_of_a_swarm_is_not_shown() -> None:
    (shown,) = commands(["docker exec e1 docker swarm join --token SWMTKN-1-2ab-c3 10.0.0.2"]).lines
    assert shown == "docker exec e1 docker swarm join --token SWMTKN-… 10.0.0.2"
