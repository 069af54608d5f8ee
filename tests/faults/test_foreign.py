"""Someone else's things: whatever they are called and labelled, the lab changes none of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers.engine import connect, images
from labhelpers.engine.find import identity
from labhelpers.errors import BadInput, NameTaken, NotOwned
from labhelpers.lab import Lab, learners
from labhelpers.lab.inventory import clean, owned_resources
from labhelpers.lab.sessions import CHAPTER, CREATED_BY, READER, SESSION, TERMINAL, TEST_ENGINES
from labhelpers.lab.sessions import labels as labels_of
from labhelpers.lab.sessions import start_session as begin_session
from labhelpers.state import ROOT

from .conftest import PrivateEngine, wait_for

P = "labhelpers/payload"

# as confusing as names and labels can be without being the lab's own
their_names = st.sampled_from(
    ["mysql_container", "labhelpers", "labhelpers-05", "lab", "fault-web", "portainer", "cadvisor"]
)
labels = st.dictionaries(
    st.sampled_from(["labhelpers", "labhelpers.", "labhelpers.chapters", "LABHELPERS.CHAPTER", "x.labhelpers.chapter",
                     "labhelpers.kind", "labhelpers.keep", "chapter", "session",
                     # set by hand, or by a lab of another state directory
                     "labhelpers.chapter", "labhelpers.session", "labhelpers.by"]),
    st.sampled_from(["", "05", "test-engines", "doctor", "container", "reader", "00000000", "labhelpers.chapter=05"]),
    max_size=4,
)  # fmt: skip
things = st.lists(
    st.tuples(
        st.sampled_from(["container", "network", "volume", "image"]), their_names, labels, st.booleans()
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def lab_image(_machine: Any) -> str:
    """An image that a lab built: containers of it inherit the lab's labels, and are not the lab's."""
    client = _machine.engine().client
    made = client.api.import_image_from_data(
        b"\0" * 1024, repository="from-a-lab", tag="1",
        changes=["LABEL labhelpers.chapter=02", "LABEL labhelpers.session=00000000", "LABEL labhelpers.kind=image",
                 "LABEL labhelpers.keep=yes"],
    )  # fmt: skip
    client.close()
    assert made
    return "from-a-lab:1"


def make(
    client: Any, what: list[tuple[str, str, dict[str, str], bool]], lab_image: str
) -> list[tuple[str, str]]:
    made = []
    for number, (kind, name, labels, inherits) in enumerate(what):
        unique = f"{name}-{number}-{uuid.uuid4().hex[:4]}"
        if kind == "container":
            image = lab_image if inherits else P
            made.append(
                (kind, client.api.create_container(image, ["true"], name=unique, labels=labels)["Id"])
            )
        elif kind == "network":
            made.append((kind, client.networks.create(unique, labels=labels, internal=inherits).id))
        elif kind == "volume":
            made.append((kind, client.volumes.create(unique, labels=labels).name))
        else:
            changes = [f"LABEL {key}={value!r}" for key, value in labels.items() if key.strip(".")]
            client.api.import_image_from_data(uuid.uuid4().bytes.ljust(1024, b"\0")[:0] + b"\0" * 1024,
                                              repository=unique.lower(), tag="1", changes=changes)  # fmt: skip
            made.append((kind, f"{unique.lower()}:1"))
    return made


def caught(client: Any, kind: str, id: str) -> Any:
    return getattr(client.api, f"inspect_{kind}")(id)


def remove(client: Any, kind: str, id: str) -> None:
    getattr(client.api, f"remove_{kind}")(id)


NEIGHBOUR = """
import sys
from labhelpers.lab import Lab
lab = Lab("05")
lab.run("labhelpers/payload", "sleep 300", name="their-web")
lab.create_network("their-net"); lab.create_volume("their-vol")
print("ready", flush=True)
sys.stdin.read()
lab.close()
"""
THEIRS = ("their-web", "their-net", "their-vol")


@contextmanager
def neighbour(own: PrivateEngine, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A second learner on the same engine: another state directory, with a live session."""
    environment = own.environment | {"LABHELPERS_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        try:
            yield process
        finally:
            process.communicate(timeout=60)


@pytest.fixture
def two(private_engine: PrivateEngine, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The second learner."""
    with neighbour(private_engine, tmp_path / "neighbour") as process:
        yield process


def seen(own: PrivateEngine) -> list[Any]:
    """What the engine says of the second learner's things."""
    client = own.client()
    caught = [client.api.inspect_container("their-web"), client.api.inspect_network("their-net")]
    caught.append(client.api.inspect_volume("their-vol"))
    client.close()
    return caught


def typed(own: PrivateEngine, *text: str) -> subprocess.CompletedProcess[str]:
    """`./lab WORDS` of the first learner."""
    return subprocess.run(
        [sys.executable, "-m", "labhelpers", *text, "--engine", own.address],
        env=own.environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@settings(max_examples=12)
@given(what=things)
def test_not_one_of_them_is_changed(
    private_engine: PrivateEngine, two: Any, lab_image: str, what: list[Any]
) -> None:
    client = private_engine.client()
    made = make(client, what, lab_image)
    try:
        before = [caught(client, kind, id) for kind, id in made]
        live = seen(private_engine)
        engine = connect(private_engine.address)
        lab = Lab("05", engine=engine)
        lab.run(P, "true")
        lab.create_network(f"n-{lab.session}")
        lab.create_volume(f"v-{lab.session}")
        assert {thing.session for thing in owned_resources(engine)} == {lab.session}
        clean(engine)
        assert len(owned_resources(engine)) == 3, "what an open notebook made stays"
        lab.close()
        assert owned_resources(engine) == []
        assert [caught(client, kind, id) for kind, id in made] == before
        assert seen(private_engine) == live
    finally:
        for kind, id in made:
            remove(client, kind, id)
        client.close()


def test_clean_leaves_what_is_in_use_unless_it_is_confirmed(
    private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(private_engine.reader))
    before = private_engine.census()
    with (
        Lab("05", engine=connect(private_engine.address)) as reader,
        Lab(TEST_ENGINES, engine=connect(private_engine.address)) as tests,
    ):
        reader.run(P, "sleep 300", name="notebook")
        tests.run(P, "sleep 300", name="engine")
        done = typed(private_engine, "clean")
        assert done.stdout.splitlines() == [
            "container notebook: an open notebook or terminal uses it",
            "kept; `./lab clean --yes` removes it",
            "container engine kept: in use by `./lab test`",
        ]
        assert {item.name for item in tests.client.containers.list(ignore_removed=True)} == {
            "notebook",
            "engine",
        }
        assert "removed container notebook" in typed(private_engine, "clean", "--yes").stdout
        assert "in use by a running lab session" in typed(private_engine, "clean", "engine", "--yes").stderr
        assert [item.name for item in tests.client.containers.list(ignore_removed=True)] == ["engine"]
    private_engine.back_to(before)


def test_no_verb_touches_another_learners_things(private_engine: PrivateEngine, two: Any) -> None:
    live = seen(private_engine)
    client = private_engine.client()
    client.volumes.create("by-hand", labels={CHAPTER: "05"})
    left = private_engine.python(
        "from labhelpers.lab import Lab; import os; Lab('05').create_volume('left'); os._exit(0)"
    )
    assert left.returncode == 0
    try:
        for verb in (("clean",), ("clean", "--yes"), ("down",), ("down", "--purge", "--yes")):
            done = typed(private_engine, *verb)
            assert done.returncode == 0, done.stderr
            for line in ("container their-web", "volume by-hand"):
                assert f"{line} belongs to another state directory or an unknown session" in done.stdout
            assert seen(private_engine) == live
            assert {volume.name for volume in client.volumes.list()} == {"by-hand", "their-vol"}
            assert two.poll() is None
    finally:
        client.volumes.get("by-hand").remove()
        client.close()


def test_what_is_named_goes_but_not_while_its_session_is_alive(
    private_engine: PrivateEngine, two: Any
) -> None:
    client = private_engine.client()
    client.volumes.create("by-hand", labels={CHAPTER: "05"})
    assert "answer y" in typed(private_engine, "clean", "by-hand").stderr, "nobody is there to confirm it"
    assert "no lab created their" in typed(private_engine, "clean", "their", "--yes").stderr
    assert (
        "in use by a running lab session"
        in typed(private_engine, "clean", "by-hand", "their-web", "--yes").stderr
    )
    assert client.volumes.get("by-hand")
    assert "removed volume by-hand" in typed(private_engine, "clean", "by-hand", "--yes").stdout
    # a machine that was switched off: neither the session nor its reaper is there
    for process in psutil.process_iter(["cmdline"]):
        text = process.info["cmdline"] or []
        if "labhelpers.lab.reaper" in text and client.containers.get("their-web").labels[SESSION] in text:
            process.kill()
    two.kill()
    assert "removed container their-web" in typed(private_engine, "clean", "their-web", "--yes").stdout
    for name in THEIRS[1:]:
        assert typed(private_engine, "clean", name, "--yes").returncode == 0
    client.close()


def test_a_name_has_one_meaning_and_not_what_begins_with_it(private_engine: PrivateEngine) -> None:
    client = private_engine.client()
    for name in ("mysql-host-1", "mysql-host-10"):
        client.volumes.create(name, labels={CHAPTER: "05"})
    try:
        done = typed(private_engine, "clean", "mysql-host-1", "--yes")
        assert "removed volume mysql-host-1\n" in done.stdout, done.stderr
        assert [volume.name for volume in client.volumes.list()] == ["mysql-host-10"]
    finally:
        client.volumes.get("mysql-host-10").remove()
        client.close()


def test_a_damaged_record_of_a_session_stops_nobody(private_engine: PrivateEngine) -> None:
    client = private_engine.client()
    folder = private_engine.reader / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    engine_id = identity(client.info())
    records = {
        "cut": '{"engine": "',
        "list": "[1]",
        "null": json.dumps({"engine": engine_id, "chapter": None, "stages": None, "volumes": None}),
        "types": json.dumps(
            {"engine": engine_id, "stages": 5, "volumes": {"a": 1}, "registry": 5, "run": []}
        ),
        "items": json.dumps({"engine": engine_id, "stages": [5, None, "../x"], "volumes": [None]}),
    }
    for session, record in records.items():
        (folder / f"{session}.json").write_text(record, encoding="utf-8")
        client.volumes.create(f"of-{session}", labels={CHAPTER: "05", SESSION: session})
    (folder / "folder.json").mkdir()
    done = typed(private_engine, "clean")
    assert done.returncode == 0, done.stderr
    assert client.volumes.list() == [], "a session is known by the name of its record"
    assert list(folder.glob("*.json")) == [folder / "folder.json"]
    private_engine.rerun()
    (folder / "folder.json").rmdir()
    client.close()


def test_a_notebook_changes_no_container_of_another(private_engine: PrivateEngine, two: Any) -> None:
    with Lab("05", engine=connect(private_engine.address)) as lab:
        for change in (
            lab.stop,
            lambda name: lab.remove(name, force=True),
            lambda name: lab.update(name, cpus=1),
        ):
            with pytest.raises(NotOwned, match="another lab session"):
                change("their-web")
        with pytest.raises(NameTaken, match="chapter 05") as told_so:
            lab.run(P, "true", name="their-web")
        assert "./lab copy 05 --suffix b" in told_so.value.hint


def test_purge_keeps_images_that_others_made_or_use(private_engine: PrivateEngine, tmp_path: Path) -> None:
    client = private_engine.client()
    labelled = [f"LABEL {images.IMAGE}=netdata", f"LABEL {images.CONTENT_LABEL}=x"]
    client.api.import_image_from_data(
        b"\0" * 1024, repository="labhelpers/netdata", tag="latest", changes=labelled
    )
    id = client.images.get("labhelpers/netdata").id
    here = [image.tags for image in client.images.list()]

    def purge() -> str:
        note = {identity(client.info()): [id]}
        private_engine.reader.mkdir(exist_ok=True)
        (private_engine.reader / images.RECORD_FILE).write_text(json.dumps(note), encoding="utf-8")
        return typed(private_engine, "down", "--purge", "--yes").stdout

    def purge_alone() -> str:
        """After the neighbour's reaper has ended, too: it removes what its session made for some seconds more."""
        end = time.monotonic() + 60
        while "another lab is open" in (output := purge()) and time.monotonic() < end:
            time.sleep(1)
        return output

    with neighbour(private_engine, tmp_path / "neighbour"):
        assert "image labhelpers/netdata:latest kept: another lab on this engine owns" in purge()
        assert [image.tags for image in client.images.list()] == here
    container = client.api.create_container("labhelpers/netdata", ["true"])["Id"]
    assert "image labhelpers/netdata:latest kept" in purge_alone()
    client.api.remove_container(container)
    output = purge_alone()
    assert "removed image labhelpers/netdata:latest" in output
    assert "image labhelpers/payload:latest kept: it was not built from this state directory" in output
    assert client.images.get(P)
    assert not private_engine.reader.exists()
    client.close()


def test_a_volume_that_a_reader_created_stays_until_that_is_confirmed(
    private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(private_engine.reader))
    before = private_engine.census()
    client = private_engine.client()
    with Lab("07", engine=connect(private_engine.address)) as lab:
        by_reader = labels_of("volume", "07", lab.session) | {CREATED_BY: READER}
        for name in ("fault-mine", "my-appvol-1", "my-appvol-1-b"):
            client.volumes.create(name, labels=by_reader)
        anonymous = client.volumes.create(labels=by_reader).name
        client.api.create_container(
            P, ["true"], labels=labels_of("container", "07", lab.session) | {CREATED_BY: READER}
        )
        assert "volume fault-mine: created by you" in repr(lab.remaining())
    # those of the lesson go: its notebook must run again from its top
    there = {volume.name for volume in client.volumes.list()}
    assert "fault-mine" in there
    assert not there & {anonymous, "my-appvol-1", "my-appvol-1-b"}
    assert not client.containers.list(all=True, ignore_removed=True)
    # another lab, a killed one and its reaper, and `clean` without a yes leave it
    killed = "from labhelpers.lab import Lab; import os; Lab('07').create_volume('fault-mine'); os.kill(os.getpid(), 9)"
    assert private_engine.python(killed).returncode == -signal.SIGKILL
    wait_for(lambda: len(private_engine.sessions()) == 1, 40, private_engine.sessions)
    assert "volume fault-mine (created by you" in typed(private_engine, "status").stdout
    assert "kept; `./lab clean --yes`" in typed(private_engine, "clean").stdout
    assert client.volumes.get("fault-mine")
    assert "removed volume fault-mine" in typed(private_engine, "clean", "--yes").stdout
    typed(private_engine, "clean")
    client.close()
    private_engine.back_to(before)


def test_what_came_without_the_lab_is_listed_and_goes_only_by_name(
    private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(private_engine.reader))
    before = private_engine.census()
    client = private_engine.client()
    terminal = begin_session(client, TERMINAL)
    client.volumes.create("earlier", labels=labels_of("volume", TERMINAL, terminal.id))
    with Lab("05", engine=connect(private_engine.address)) as lab:
        lab.run(P, "sleep 300", name="ours")
        command = ["docker", "--host", private_engine.address]
        for name in ("typed", "typed-too"):
            subprocess.run([*command, "create", "--name", name, P, "true"], check=True, capture_output=True)
        subprocess.run([*command, "volume", "create", "typed"], check=True, capture_output=True)
        client.volumes.create("in-terminal", labels=labels_of("volume", TERMINAL, terminal.id))
        made = lab.remaining()
        assert {(item.kind, item.name) for item in made.resources} == {
            ("container", "typed"), ("container", "typed-too"), ("volume", "typed"), ("volume", "in-terminal")
        }  # fmt: skip
        assert "container typed" in repr(made)
        lab.close()
        for nothing in ((), ("ours",), ("typed", "no-such")):
            with pytest.raises(BadInput, match="nothing was removed"):
                made.remove(*nothing)
        assert made.remove("container typed-too", "in-terminal") == [
            "removed volume in-terminal", "removed container typed-too"
        ]  # fmt: skip
        assert lab.client.containers.get("typed")
        assert made.remove("typed") == ["removed container typed", "removed volume typed"]
        client.volumes.get("earlier").remove()
    terminal.end()
    client.close()
    private_engine.back_to(before)


# a name of chapter 3's cells, and the name that the exercise of 00 asks for
TAKEN = (
    NEIGHBOUR.replace("their-web", "my-first")
    .replace("their-net", "ns-net")
    .replace('lab.create_volume("their-vol")', 'lab.run("labhelpers/payload", name="ns-web")')
)


def learner(own: PrivateEngine, home: Path, code: str) -> subprocess.Popen[str]:
    """A process of another learner."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=own.environment | {"LABHELPERS_HOME": str(home)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip


def test_a_chapter_whose_names_are_taken_creates_nothing_and_says_what_to_do(
    private_engine: PrivateEngine, tmp_path: Path
) -> None:
    client = private_engine.client()
    other = client.containers.create(P, name="mysql-vtest")
    with learner(private_engine, tmp_path / "first", TAKEN) as first:
        assert first.stdout
        wait_for(lambda: client.containers.list(filters={"name": "ns-web"}, ignore_removed=True))
        before = private_engine.census()
        engine = connect(private_engine.address)
        for chapter, name, next_step in (
            ("03", "container ns-web (another learner's lab, chapter 05)", "./lab copy 03 --suffix b"),
            ("08", "container mysql-vtest (not created by a lab)", "docker rm mysql-vtest"),
        ):
            with pytest.raises(NameTaken) as refused:
                Lab(chapter, engine=engine)
            assert name in refused.value.message
            assert next_step in refused.value.hint
        assert private_engine.census() == before
        # the exercise's name is taken: the message says so at once, and the first learner's container does not count
        output = private_engine.python(EXERCISE)
        assert "note: exercises of this chapter use names that are in use" in output.stdout, output.stderr
        assert "./lab copy 00 --suffix b" in output.stdout
        assert "False" in output.stdout
        first.communicate(timeout=60)
    other.remove()
    client.close()


EXERCISE = """
from labhelpers.lab import Lab
from labhelpers import start
lab = Lab("00")
print(start.first_exercise(lab).check().passed)
lab.run("labhelpers/base", "sleep 300", name=start.exercises.NAME)
print(start.first_exercise(lab).check())
lab.close()
"""


def beginning(notebook: Path, cells: int, folder: Path) -> Path:
    """A notebook of the first cells of another one."""
    data = json.loads(notebook.read_text(encoding="utf-8"))
    data["cells"] = data["cells"][:cells]
    made = folder / notebook.name
    folder.mkdir(exist_ok=True)
    made.write_text(json.dumps(data), encoding="utf-8")
    return made


def test_two_learners_run_the_same_chapters_to_their_end(
    private_engine: PrivateEngine, tmp_path: Path
) -> None:
    """The second one from copies whose names end in a letter; both at once, on one engine."""
    before = private_engine.census()
    start, networking = (next((ROOT / "notebooks").glob(f"{number}_*.ipynb")) for number in ("00", "05"))
    copies = [learners.write_copy(path, "b", tmp_path / "copies") for path in (start, networking)]
    run = "from pathlib import Path\nfrom labhelpers.commandline import runner\n"
    run += "for path in {}: print(runner.execute(Path(path)).error or 'to its end', flush=True)"
    both = [
        run.format([str(start), str(beginning(networking, 6, tmp_path / "one"))]),
        run.format([str(copies[0]), str(beginning(copies[1], 6, tmp_path / "two"))]),
    ]
    with (
        learner(private_engine, tmp_path / "first", TAKEN.replace("ns-", "their-")) as holder,
        learner(private_engine, tmp_path / "second", both[1]) as second,
    ):
        first = private_engine.python(both[0], stdin=subprocess.DEVNULL).stdout
        assert first.count("to its end") == 2, first
        output = second.communicate(timeout=120)[0]
        assert output.count("to its end") == 2, output
        # an exercise of the second learner, while another one has a container of the original name
        asked = private_engine.python(
            f"import os; os.environ['LABHELPERS_SUFFIX'] = 'b'\n{EXERCISE}"
        ).stdout.splitlines()
        assert asked[0] == "False"
        assert any("[x] A container called my-first-b is there" in line for line in asked), asked
        holder.communicate(timeout=60)
    private_engine.back_to(before)


INCOMPLETE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
from labhelpers.commandline.cli import main
main(sys.argv[2:])
"""


def test_the_verbs_that_clean_up_work_in_an_incomplete_environment(
    private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(private_engine.reader))
    missing = "rich,psutil,pandas,numpy,matplotlib,nbformat,nbclient,nbconvert,IPython,ipywidgets,jupyterlab"
    client = private_engine.client()
    died = begin_session(client, "05")
    client.volumes.create("left", labels=labels_of("volume", "05", died.id))
    client.close()
    died._lock.release()  # and it has no reaper
    for verb, output in (
        (["status"], "volume left"),
        (["clean"], "removed volume left"),
        (["down", "--purge", "--yes"], "removed"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", INCOMPLETE, missing, *verb, "--engine", private_engine.address],
            env=private_engine.environment, capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert output in done.stdout
    assert not private_engine.reader.exists()
