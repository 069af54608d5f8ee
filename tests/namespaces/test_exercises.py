"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from docker.models.containers import Container

from labhelpers import namespaces
from labhelpers.course.containers import setup_changed
from labhelpers.course.exercises import Exercise
from labhelpers.errors import LabError
from labhelpers.lab import Lab
from labhelpers.namespaces.containers import wait_until_started
from labhelpers.namespaces.exercises import (
    ROOMS,
    alone,
    join_network,
    letterbox,
    polite,
    third_level,
    who_shares,
)
from labhelpers.namespaces.optional_namespaces import UserNamespaces

Start = Callable[..., Container]


pytestmark = pytest.mark.usefixtures("temporary_state")


@pytest.fixture
def start(lab: Lab) -> Start:
    """Start the reader's container, in the place of the one before."""
    before: list[Container] = []

    def run(name: str, command: Any = "sleep 600", image: str = "payload", **options: Any) -> Container:
        for container in before:
            container.remove(force=True)
        before[:] = [lab.run(lab.image(image), command, name=name, **options)]
        with suppress(LabError):  # some wrong answers end at once
            wait_until_started(lab, before[0])
        return before[0]

    return run


def write(lab: Lab, container: str, path: str, text: str) -> None:
    assert lab.exec(container, ["sh", "-c", f"echo {text} > {path}"]).exit_code == 0


def copy_in(container: Container, path: str, text: str) -> None:
    """What `docker cp FILE CONTAINER:/PATH` does."""
    packed, content = io.BytesIO(), text.encode()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(path)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    assert container.put_archive("/", packed.getvalue())


def said(exercise: Exercise) -> str:
    verdict = exercise.check()
    assert not verdict.passed, verdict
    return str(verdict)


def test_join_network(lab: Lab, start: Start) -> None:
    exercise = join_network(lab)
    assert "no container named listener" in said(exercise)
    start("listener", network="none")
    assert "a network namespace that radio is not in" in said(exercise)
    assert "more: `docker run --help`" in exercise.hint()
    start("listener", network="host")
    assert "network namespace of the host" in said(exercise)
    assert "host's loopback" in exercise.hint()
    start("listener", network="container:radio", pid="container:radio")
    assert "shares process ids (pid) with radio as well" in said(exercise)
    start("listener", network="container:radio")
    assert "no file /heard" in said(exercise)
    assert "one and the same" in exercise.hint()
    write(lab, "listener", "/heard", "nothing")
    assert "which radio does not say" in said(exercise)
    again = join_network(lab)  # the cell that is run again keeps what is there
    assert lab.exec("listener", ["sh", "-c", "wget -q -O /heard http://127.0.0.1:9000/"]).exit_code == 0
    assert again.check().passed
    assert exercise.check().passed
    # another image, and the word by way of a pipe
    start("listener", image="tools", network="container:radio", init=True)
    word = lab.exec("listener", ["curl", "-s", "http://localhost:9000/"]).stdout.strip()
    write(lab, "listener", "/heard", word)
    assert exercise.check().passed


def test_alone(lab: Lab, start: Start) -> None:
    exercise = alone(lab)
    assert "no container named hermit" in said(exercise)
    start("hermit", pid="host")
    assert "sees every process of the host" in said(exercise)
    two = start("hermit", ["sh", "-c", "sleep 600 & wait"])
    lab.wait_for("two processes", lambda: len(lab.host.processes(two)) == 2)
    assert "the host sees 2 processes in it" in said(exercise)
    hermit = start("hermit")
    assert "no file /outside" in said(exercise)
    write(lab, "hermit", "/outside", "1")
    assert "what the process calls itself" in said(exercise)
    assert "docker top" in exercise.hint()
    write(lab, "hermit", "/outside", "999999")
    assert "not the PID that the host gives it" in said(exercise)
    hermit.reload()
    write(lab, "hermit", "/outside", str(hermit.attrs["State"]["Pid"]))
    assert exercise.check().passed
    assert exercise.check().passed
    # a file that was copied in, of another container
    hermit = start("hermit", ["python3", "-c", "import time; time.sleep(600)"], image="tools")
    hermit.reload()
    copy_in(hermit, "outside", f"{hermit.attrs['State']['Pid']}\n")
    assert exercise.check().passed
    lab.run(lab.image("payload"), "sleep 600", pid="container:hermit")
    assert "in a pid namespace with 1 more" in said(exercise)


def test_letterbox(lab: Lab, start: Start) -> None:
    exercise = letterbox(lab)
    assert "no container named courier" in said(exercise)
    start("courier", image="tools")
    assert "postbox is not in" in said(exercise)
    assert "made shareable" in exercise.hint()
    start("courier", image="tools", ipc="container:postbox")
    assert "no file /key" in said(exercise)
    lab.exec("courier", ["sh", "-c", "ipcs -q | grep ^0x | cut -d' ' -f1 > /key"])
    assert "the key of the queue" in said(exercise)
    write(lab, "courier", "/key", "0x1")
    assert "no key there" in said(exercise)
    assert "ipcs" in exercise.hint()
    lab.exec("courier", ["sh", "-c", "ipcs -m | grep ^0x | cut -d' ' -f1 > /key"])
    assert letterbox(lab).check().passed
    assert exercise.check().passed


def test_who_shares(lab: Lab, start: Start) -> None:
    exercise = who_shares(lab)
    assert "no container named notes" in said(exercise)
    start("notes")
    assert "no file /pair" in said(exercise)
    matrix = namespaces.matrix(lab, *ROOMS)
    pairs = {
        (one, other): set(matrix.shared(one, other)) - set(matrix.shared(one))
        for one, other in (ROOMS[:2], ROOMS[1:], ROOMS[::2])
    }
    ((pair, kinds),) = [(pair, kinds) for pair, kinds in pairs.items() if kinds]
    wrong = next(other for other in pairs if other != pair)
    write(lab, "notes", "/pair", " ".join(wrong))
    assert "share nothing" in said(exercise)
    assert "one colour" in exercise.hint()
    write(lab, "notes", "/pair", "room-1")
    assert "does not hold two names" in said(exercise)
    write(lab, "notes", "/pair", ", ".join(pair))
    write(lab, "notes", "/kind", "mnt")
    assert "no two of them alone share mount points" in said(exercise)
    write(lab, "notes", "/kind", "network")
    assert "no kind of namespace" in said(exercise)
    write(lab, "notes", "/kind", kinds.pop())
    assert who_shares(lab).check().passed, "the cell that is run again does not change the answer"
    assert exercise.check().passed
    lab.exec("notes", ["sh", "-c", f"printf '%s\n' {pair[1]} {pair[0]} > /pair"])
    assert exercise.check().passed, "in the other order, on two lines"
    write(lab, "notes", "/pair", " ".join(ROOMS))
    assert "does not hold two names" in said(exercise)
    lab.remove(pair[0], force=True)
    lab.run(lab.image("payload"), "sleep 600", name=pair[0], network="none")
    assert f"{pair[0]} has been replaced" in said(exercise)
    who_shares(lab)  # the cell that is run again makes all three again
    assert not any(setup_changed(lab, room) for room in ROOMS)


NO_WAIT = """import signal, subprocess
signal.signal(signal.SIGTERM, lambda *_: exit())
subprocess.Popen(["sleep", "600"])
while True: signal.pause()"""


def test_polite(lab: Lab, start: Start) -> None:
    exercise = polite(lab)
    assert "no container named polite" in said(exercise)
    start("polite")
    assert "no handler for TERM" in said(exercise)
    assert "stay as zombies" in said(exercise)
    assert "Process 1 is `sleep 600`" in exercise.hint()
    python = start("polite", ["python3", "-c", NO_WAIT], image="tools")
    lab.wait_for("its sleep", lambda: len(lab.host.processes(python)) == 2)
    verdict = exercise.check()
    assert [task.status for task in verdict.tasks] == ["done", "done", "done", "missing"], verdict
    assert "child of process 1" in exercise.hint()
    init = start("polite", init=True)
    lab.wait_for("its init", lambda: namespaces.signal_dispositions(lab, init).handles("SIGTERM"))
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed


def test_polite_by_a_shell_counts_too(lab: Lab, start: Start) -> None:
    shell = start("polite", ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 600 & wait $!; done"])
    lab.wait_for("its trap", lambda: namespaces.signal_dispositions(lab, shell).handles("SIGTERM"))
    exercise = polite(lab)
    assert exercise.check().passed, exercise.check()


@pytest.mark.parametrize(
    "command",
    [
        "trap : TERM; sleep 600 & while :; do wait; done",
        "trap '' TERM; sleep 600",
        "trap 'echo stopping; sleep 30; exit' TERM; while :; do sleep 600 & wait $!; done",
    ],
)
def test_a_handler_that_does_not_end_the_process_is_not_polite(lab: Lab, start: Start, command: str) -> None:
    exercise = polite(lab)
    shell = start("polite", ["sh", "-c", command], network="none")
    lab.wait_for(
        "its trap", lambda: namespaces.signal_dispositions(lab, shell).disposition("SIGTERM") != "default"
    )
    assert "ignores TERM" in said(exercise) or "a stop waits until the engine kills it" in said(exercise)
    shell.reload()
    assert shell.status == "running"


def test_files_are_read_from_outside(lab: Lab, start: Start) -> None:
    """A `cat` in the reader's image could print anything."""
    exercise = alone(lab)
    hermit = start("hermit", network="none")
    pid = hermit.attrs["State"]["Pid"]
    lab.exec(
        "hermit", ["sh", "-c", f"rm /bin/cat; printf '#!/bin/sh\necho {pid}' > /bin/cat; chmod +x /bin/cat"]
    )
    assert "no file /outside" in said(exercise)
    lab.exec("hermit", ["sh", "-c", f"echo {pid} > /somewhere; ln -s somewhere /outside"])
    assert exercise.check().passed


def test_what_was_given_cannot_be_replaced(lab: Lab, start: Start) -> None:
    exercise = join_network(lab)
    lab.remove("radio", force=True)
    mine = ["sh", "-c", "mkdir /say; echo mine > /say/index.html; exec httpd -f -p 127.0.0.1:9000 -h /say"]
    lab.run(lab.image("payload"), mine, name="radio")
    start("listener", network="container:radio")
    write(lab, "listener", "/heard", "mine")
    assert "radio has been replaced" in said(exercise)
    exercise = letterbox(lab)
    start("courier", image="tools", ipc="container:postbox")
    lab.exec(
        "courier", ["sh", "-c", "ipcmk --shmem 100; ipcs -m | grep ^0x | cut -d' ' -f1 | tail -n 1 > /key"]
    )
    lab.exec("courier", ["sh", "-c", "ipcs -m | grep ' 100 ' | cut -d' ' -f1 > /key"])
    assert "the key of a segment that postbox did not make" in said(exercise)
    lab.exec("courier", ["sh", "-c", "ipcs -m | grep ' 8192 ' | cut -d' ' -f1 | cut -c3- > /key"])
    assert exercise.check().passed, "the digits alone are the key too"


def test_a_namespace_of_a_third_container_is_not_its_own(lab: Lab, start: Start) -> None:
    exercise = join_network(lab)
    other = lab.run(lab.image("payload"), network="none")
    start("listener", network="container:radio", pid=f"container:{other.name}")
    lab.exec("listener", ["sh", "-c", "wget -q -O /heard http://127.0.0.1:9000/"])
    assert "shares process ids (pid) with another container" in said(exercise)


INNER = "unshare --pid --fork sleep 600"


def test_third_level(lab: Lab, start: Start) -> None:
    exercise = third_level(lab)
    assert "no container named matryoshka" in said(exercise)
    refused = start("matryoshka", INNER, image="tools")
    refused.wait()
    assert "its state is “exited”" in said(exercise)
    assert "its command was `unshare" in exercise.hint()
    start("matryoshka", INNER, image="tools", cap_add=["SYS_ADMIN", "SYS_PTRACE"])
    assert "SYS_PTRACE added" in said(exercise)
    start("matryoshka", "sleep 600", image="tools", cap_add=["SYS_ADMIN"])
    assert "none of its processes has more than 2 PIDs" in said(exercise)
    assert "so it must fork" in exercise.hint()
    start("matryoshka", INNER, image="tools", cap_add=["SYS_ADMIN"], volumes=["/:/host:ro"])
    assert "its mount /host is the whole disk of the host" in said(exercise)
    right = start("matryoshka", INNER, image="tools", cap_add=["SYS_ADMIN"])
    lab.wait_for("the third level", lambda: len(lab.host.processes(right)) == 2)
    assert "no file /pids" in said(exercise)
    nspid = lab.host.processes(right)[-1].nspid
    write(lab, "matryoshka", "/pids", " ".join(map(str, nspid[::-1])))
    assert "in the other order" in said(exercise)
    write(lab, "matryoshka", "/pids", " ".join(map(str, nspid[1:])))
    assert "the host's is missing" in said(exercise)
    write(lab, "matryoshka", "/pids", " ".join(map(str, nspid)))
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed


def test_without_any_right_but_without_the_filter_counts_too(
    lab: Lab, start: Start, user: UserNamespaces
) -> None:
    if user.kernel_forbids:
        pytest.skip(f"the kernel of this engine forbids user namespaces: {', '.join(user.kernel_forbids)}")
    free = {"security_opt": ["seccomp=unconfined"], "cap_drop": ["ALL"], "user": 65534}
    made = start(
        "matryoshka", f"unshare --user --map-root-user {INNER.partition(' ')[2]}", image="tools", **free
    )
    lab.wait_for("the third level", lambda: len(lab.host.processes(made)) == 2)
    nspid = lab.host.processes(made)[-1].nspid
    assert lab.exec(made, ["sh", "-c", f"echo {' '.join(map(str, nspid))} > /pids"], user=0).exit_code == 0
    exercise = third_level(lab)
    assert exercise.check().passed, exercise.check()
