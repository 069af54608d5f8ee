"""Faults of the engine, of its disk, of a registry, and of what others hold: a clear message, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from labhelpers.course import watcher
from labhelpers.course.exercises import Exercise, Task
from labhelpers.engine import connect
from labhelpers.engine.registry import STORAGE_PATH
from labhelpers.errors import EngineUnreachable, ImageMissing, LabError, NameTaken, PortTaken
from labhelpers.lab import Lab

from .conftest import RUN_ALL_CELLS, PrivateEngine, wait_for

P = "labhelpers/payload"


@pytest.fixture
def lab(private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab on the fault tests' own engine; the engine may be gone when it ends."""
    monkeypatch.setenv("LABHELPERS_HOME", str(private_engine.reader))
    made = Lab("05", engine=connect(private_engine.address))
    yield made
    private_engine.start()
    made.close()


def test_an_engine_that_stops_and_starts(private_engine: PrivateEngine, lab: Lab) -> None:
    web = lab.run(P, "sleep 300", name="fault-web", init=True)  # it ends when the engine asks it to
    lab.host.kernel()
    for name, keep in (("fault-vol", False), ("fault-work", True)):
        lab.create_volume(name, keep=keep)
    private_engine.stop()
    for operation in (lambda: lab.exec(web, "true"), lambda: lab.host.kernel(), lambda: lab.run(P, "true")):
        with pytest.raises(LabError) as caught:
            operation()
        assert caught.value.hint
    private_engine.start()
    # first of all, because a look at them makes this engine remember their labels
    lab.create_volume("fault-vol")
    lab.create_volume("fault-work", keep=True)
    assert lab.host.kernel().release
    lab.remove(web, force=True)
    lab.close()
    lab.client.api.remove_volume("fault-work")
    before = private_engine.census()
    private_engine.rerun()
    private_engine.back_to(before)


def test_an_engine_that_is_killed_while_a_container_writes(private_engine: PrivateEngine, lab: Lab) -> None:
    before = private_engine.census()
    work = lab.create_volume("fault-vol")
    writer = lab.run(
        P,
        ["sh", "-c", "while :; do date +%s%N >> /work/lines; done"],
        volumes=[f"{work.name}:/work"],
        init=True,
    )
    wait_for(lambda: lab.exec(writer, "wc -l /work/lines").stdout > "1")
    pid = private_engine.machine.python("print(json.dumps(private._pid()))")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineUnreachable, match="lost the connection") as caught:
        lab.exec(writer, "true")
    assert "./lab up" in caught.value.hint
    private_engine.start()
    reader = lab.run(P, ["sh", "-c", "wc -l < /work/lines"], volumes=["fault-vol:/work"])
    reader.wait()
    assert int(reader.logs()) > 0, "what was written before the kill is gone"
    lab.close()
    wait_for(lambda: {k: v for k, v in private_engine.census().items() if k not in ("reapers", "sessions")}
          == {k: v for k, v in before.items() if k not in ("reapers", "sessions")}, 40)  # fmt: skip
    private_engine.rerun()


def test_a_registry_that_is_gone_in_the_middle_of_a_pull(private_engine: PrivateEngine, lab: Lab) -> None:
    ref = lab.registry.push(P)
    container = lab.registry.container
    container.pause()
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(lab.pull, ref)
        time.sleep(1)
        assert not pull.done(), "the registry was to be in the middle of it"
        container.remove(force=True)
        with pytest.raises(ImageMissing) as caught:
            pull.result(timeout=60)
    assert caught.value.engine_message
    assert ref not in [tag for row in lab.client.api.images() for tag in row["RepoTags"] or []]


def test_a_pull_on_a_full_disk(private_engine: PrivateEngine, lab: Lab) -> None:
    ref = lab.registry.push(P)
    saved = b"".join(lab.client.images.get(P).save(named=True))
    lab.client.images.remove(P)  # the engine has the layers already: it must fetch them anew
    try:
        before = private_engine.census()
        with private_engine.full_disk(), pytest.raises(ImageMissing) as caught:
            lab.pull(ref)
        assert "disk is full" in caught.value.hint
        assert private_engine.census() == before
        assert lab.pull(ref)
    finally:
        lab.client.images.load(saved)


def test_a_corrupted_blob_is_refused_with_the_engines_message(
    private_engine: PrivateEngine, lab: Lab
) -> None:
    ref = lab.registry.push(P)
    script = (
        f"for f in $(find {STORAGE_PATH}/blobs -name data -size +100k); do "
        "printf X | dd of=$f bs=1 seek=1000 conv=notrunc 2>/dev/null; done"
    )
    assert lab.exec(lab.registry.container, ["sh", "-c", script]).exit_code == 0
    saved = b"".join(lab.client.images.get(P).save(named=True))
    lab.client.images.remove(P)  # the engine has the layers already: it must fetch them anew
    try:
        with pytest.raises(ImageMissing) as caught:
            lab.pull(ref)
    finally:
        lab.client.images.load(saved)
    assert "verif" in (caught.value.engine_message or "") or "digest" in (caught.value.engine_message or "")


def test_what_others_hold_is_named_and_stays(private_engine: PrivateEngine, lab: Lab) -> None:
    client = private_engine.client()
    container = client.containers.run(
        P, "sleep 300", name="fault-theirs", ports={"80/tcp": ("127.0.0.1", 28321)}, detach=True
    )
    network = client.networks.create(
        "fault-their-net", ipam={"Config": [{"Subnet": "10.214.0.0/24"}], "Driver": "default"}
    )
    try:
        with pytest.raises(NameTaken, match="did not create"):
            lab.run(P, "sleep 300", name="fault-theirs")
        with pytest.raises(PortTaken, match="fault-theirs") as port:
            lab.run(P, "sleep 300", ports={"80/tcp": 28321})
        assert "ports=" in port.value.hint
        with pytest.raises(NameTaken, match="fault-their-net") as subnet:
            lab.create_network("fault-net", subnet="10.214.0.128/25")
        lab.create_network("fault-net", subnet=subnet.value.hint.split("'")[1])
        lab.close()
        assert client.containers.get("fault-theirs").status == "running"
        assert client.networks.get("fault-their-net")
    finally:
        container.remove(force=True)
        network.remove()
        client.close()


def test_two_notebooks_of_one_reader_at_once(private_engine: PrivateEngine) -> None:
    before = private_engine.census()
    both = RUN_ALL_CELLS.replace("fault-", "fault-{n}-")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(private_engine.python, (both.replace("{n}", n) for n in "ab")))
    assert [item.returncode for item in done] == [0, 0], [item.stderr for item in done]
    private_engine.back_to(before)


def test_a_name_of_the_other_notebook_is_reported_as_such(private_engine: PrivateEngine, lab: Lab) -> None:
    lab.run(P, "sleep 300", name="fault-web")
    done = private_engine.python(RUN_ALL_CELLS)
    assert done.returncode != 0
    assert "another notebook of yours created (chapter 05)" in done.stderr
    assert "shut down that notebook's kernel" in done.stderr


class OldOrNew(BaseHTTPRequestHandler):
    """What engines of other ages answer; no such engine runs here, so their words are all that is tried."""

    version = ""
    refusal = ""

    def do_GET(self) -> None:
        body = b'{"ApiVersion": "%s", "Version": "x"}' % self.version.encode()
        if self.refusal and not self.path.startswith("/version"):
            body = b'{"message": "%s"}' % self.refusal.encode()
        self.send_response(400 if self.refusal and not self.path.startswith("/version") else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("version", "refusal"),
    [
        ("1.12", ""),
        (
            "1.41",
            "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade your client",
        ),
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.41"),
    ],
    ids=["too old for the SDK", "too new for the SDK", "older than it says"],
)
def test_an_engine_of_another_age_is_reported(version: str, refusal: str) -> None:
    kind = type("Age", (OldOrNew,), {"version": version, "refusal": refusal})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(EngineUnreachable, match="no API version in common") as caught:
                connect(f"tcp://127.0.0.1:{server.server_port}")
            assert "update" in caught.value.hint
        finally:
            server.shutdown()


def test_a_wall_clock_that_jumps_back_does_not_stop_a_watch(
    private_engine: PrivateEngine, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 600)

    def look(lab: Lab) -> str | None:
        return (
            None
            if lab.client.containers.list(filters={"name": "fault-web"}, ignore_removed=True)
            else "no container"
        )

    passed = threading.Event()
    seen = threading.Event()
    exercise = Exercise(lab, "05", "clock", "Clock", [Task("it", "It", look)], settle_s=0)
    exercise.watch(lambda verdict: (seen.set(), verdict.passed and passed.set()))
    assert seen.wait(20)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    lab.run(P, "sleep 300", name="fault-web")
    assert passed.wait(20)
    assert lab.host.kernel().release


def test_the_docker_command_of_a_reader_says_when_the_engine_is_gone(
    private_engine: PrivateEngine, lab: Lab
) -> None:
    private_engine.stop()
    done = subprocess.run(
        ["docker", "ps"], env=private_engine.environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode != 0
    with pytest.raises(EngineUnreachable):
        Lab("05", engine=lab.engine)
