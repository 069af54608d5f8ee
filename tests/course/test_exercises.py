"""Exercises on the real engine: wrong answers fail, right ones pass twice, and what is kept stays kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from labhelpers import start, state
from labhelpers.course import predictions, watcher
from labhelpers.course.containers import (
    cloned_container,
    container_named,
    file_in,
    setup_changed,
    setup_container,
)
from labhelpers.course.exercises import Exercise, Task
from labhelpers.course.predictions import predict, prediction_for, recall
from labhelpers.course.progress import PROGRESS, progress
from labhelpers.course.verdicts import Verdict
from labhelpers.engine import Engine, images
from labhelpers.errors import BadInput, LabError
from labhelpers.lab import Lab
from labhelpers.start import first_exercise
from labhelpers.start.exercises import IMAGE, NAME

STAY = "sleep 600"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of its own for what the reader did."""
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def _base(engine: Engine) -> None:
    images.ensure(engine, "base", print)


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second shows the five minutes that a container must stay."""
    monkeypatch.setattr(start.exercises, "SPEED", 600)


@pytest.fixture
def exercise(lab: Lab) -> Exercise:
    return first_exercise(lab)


def statuses(verdict: Verdict) -> dict[str, str]:
    return {task.name: task.status for task in verdict.tasks}


# --- the verdict


def test_the_untouched_engine_fails_and_later_tasks_are_not_yet(exercise: Exercise) -> None:
    verdict = exercise.check()
    assert not verdict.passed
    assert statuses(verdict) == {"made": "missing", "image": "not yet", "stays": "not yet"}


def test_the_reference_solution_passes_twice_from_a_fresh_start(lab: Lab, exercise: Exercise) -> None:
    for _ in range(2):
        assert not exercise.check().passed
        container = lab.run(IMAGE, STAY, name=NAME)
        assert exercise.check().passed
        lab.remove(container, force=True)


def test_any_way_that_gets_there_counts(lab: Lab, exercise: Exercise) -> None:
    # neither the lab nor its labels: as from a terminal
    container = lab.client.containers.run(IMAGE, STAY, detach=True, name="another-name")
    try:
        container.rename(NAME)
        assert exercise.check().passed
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(
    ("command", "missing"),
    [("true", "exit code 0"), ("false", "exit code 1"), ("sleep 0.2", "exit code 0")],
)
def test_a_container_that_ends_does_not_pass(
    lab: Lab, exercise: Exercise, command: str, missing: str
) -> None:
    container = lab.run(IMAGE, command, name=NAME)
    container.wait()
    verdict = exercise.check()
    assert statuses(verdict)["stays"] == "missing"
    assert missing in repr(verdict)


def test_a_container_about_to_die_does_not_pass(lab: Lab) -> None:
    container = lab.run(IMAGE, STAY, name=NAME)
    looks = 0

    def runs(lab: Lab) -> str | None:
        nonlocal looks
        looks += 1
        container.reload()
        running = container.status == "running"
        if looks == 1:
            assert running
            container.kill()
            container.wait()
        return None if running else "it has ended"

    verdict = Exercise(
        lab, "00", "dies", "It dies between two looks", [Task("runs", "It runs", runs)], 0.1
    ).check()
    assert looks == 2
    assert not verdict.passed
    assert progress().exercises[0][2] is False


def test_a_restart_policy_does_not_hide_a_process_that_ends(lab: Lab, exercise: Exercise) -> None:
    # longer than the exercise takes to settle: two looks see it running
    container = lab.run(IMAGE, "sleep 4", name=NAME, restart="always")
    while not container.attrs["RestartCount"] or container.status != "running":
        container.reload()
    assert not exercise.check().passed
    assert "policy" in exercise.hint()


def test_a_container_of_another_image_is_told_apart(lab: Lab, exercise: Exercise) -> None:
    container = lab.client.containers.get(lab.run(IMAGE, STAY).id)
    other = container.commit("labhelpers-test/other")
    try:
        lab.run("labhelpers-test/other", STAY, name=NAME)
        verdict = exercise.check()
        assert statuses(verdict) == {"made": "done", "image": "missing", "stays": "done"}
        lab.remove(NAME, force=True)
    finally:
        lab.client.images.remove(other.id, force=True)


def test_a_container_that_vanishes_during_the_look_is_not_there_yet(lab: Lab) -> None:
    container = lab.run(IMAGE, STAY)

    def look(lab: Lab) -> str | None:
        container.remove(force=True)
        container.reload()
        return None

    verdict = Exercise(lab, "00", "gone", "It goes", [Task("it", "It is there", look)]).check()
    assert not verdict.passed
    assert "it disappeared during the check" in repr(verdict)


def test_an_engine_that_does_not_answer_is_no_traceback(lab: Lab) -> None:
    import docker

    def look(lab: Lab) -> str | None:
        docker.DockerClient("tcp://127.0.0.1:9", version="1.41", timeout=2).containers.list(
            ignore_removed=True
        )
        return None

    verdict = Exercise(lab, "00", "mute", "Nobody answers", [Task("it", "It is there", look)]).check()
    assert "does not respond" in repr(verdict)


def test_tasks_that_cannot_be_meant_are_refused(lab: Lab) -> None:
    one = Task("one", "One", lambda lab: None)
    for tasks in ([one, one], [Task("two", "Two", lambda lab: None, needs=("one",)), one]):
        with pytest.raises(ValueError, match="duplicate name"):
            Exercise(lab, "00", "wrong", "Wrong", tasks)


def test_a_name_is_not_the_start_of_an_id(lab: Lab) -> None:
    container = lab.run(IMAGE, STAY)
    assert container.id
    assert container_named(lab, container.id[:12]) is None


# --- hints


def test_a_hint_speaks_of_no_other_notebooks_container(lab: Lab, exercise: Exercise) -> None:
    with Lab("03", engine=lab.engine) as other:
        other.run(IMAGE, STAY, name="another-notebooks")
        assert "another-notebooks" not in exercise.hint()


def test_hints_answer_the_state(lab: Lab, exercise: Exercise) -> None:
    hints = [exercise.hint()]
    lab.run(IMAGE, STAY, name="wrongly-called")
    hints.append(exercise.hint())
    assert "wrongly-called" in hints[-1]
    lab.client.api.create_container(IMAGE, STAY, name=NAME)
    hints.append(exercise.hint())
    lab.client.api.start(NAME)
    lab.client.api.pause(NAME)
    hints.append(exercise.hint())
    lab.client.api.unpause(NAME)
    lab.client.api.kill(NAME)
    lab.client.api.wait(NAME)
    hints.append(exercise.hint())
    lab.client.api.remove_container(NAME)
    lab.run(IMAGE, "true", name=NAME).wait()
    hints.append(exercise.hint())
    assert len(set(hints)) == 6
    assert "`true`" in hints[-1]
    # a hint never is the command to paste
    assert not any(f"docker run -d --name {NAME}" in hint or "sleep" in hint for hint in hints)


# --- in a page and without one


def test_without_a_page_the_text_is_the_same_whatever_the_engine_holds(lab: Lab, exercise: Exercise) -> None:
    before = exercise._repr_mimebundle_()[0]["text/plain"]
    lab.run(IMAGE, STAY, name=NAME)
    assert first_exercise(lab)._repr_mimebundle_()[0]["text/plain"] == before
    assert NAME in before


class Seen:
    """What a watch showed."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.first, self.passed = threading.Event(), threading.Event()

    def __call__(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        (self.passed if verdict.passed else self.first).set()


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]


def ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)


def test_the_engines_events_complete_an_exercise_and_the_watch_ends(
    lab: Lab, exercise: Exercise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 600)
    before = watches()
    seen = Seen()
    exercise.watch(seen)
    assert seen.first.wait(20)
    lab.run(IMAGE, STAY, name=NAME)
    assert seen.passed.wait(20)
    assert not seen.verdicts[0].passed
    assert ended([thread for thread in watches() if thread not in before])


def test_a_state_that_makes_no_event_is_seen_as_well(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 0.2)
    note = tmp_path / "note"
    task = Task("note", "A note is there", lambda lab: None if note.exists() else "no note")
    seen = Seen()
    Exercise(lab, "00", "note", "Write a note", [task], settle_s=0).watch(seen)
    assert seen.first.wait(20)
    note.touch()
    assert seen.passed.wait(20)


def test_a_check_with_a_mistake_in_it_is_said_in_the_panel(lab: Lab) -> None:
    def look(lab: Lab) -> str | None:
        raise KeyError("Networks")

    seen = Seen()
    stop = Exercise(lab, "00", "wrong", "Wrong", [Task("it", "It", look)]).watch(seen)
    assert seen.first.wait(20)
    stop()
    assert "Networks" in repr(seen.verdicts[0])


def test_the_watch_ends_when_the_lab_closes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 0.2)
    before = watches()
    with Lab("test", engine=engine) as closing:
        seen = Seen()
        first_exercise(closing).watch(seen)
        assert seen.first.wait(20)
    assert ended([thread for thread in watches() if thread not in before])


def test_a_newer_watch_of_an_exercise_ends_the_older(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = watches()
    older, newer = Seen(), Seen()
    first_exercise(lab).watch(older)
    (thread,) = [thread for thread in watches() if thread not in before]
    stop = first_exercise(lab).watch(newer)
    assert ended([thread])
    assert newer.first.wait(20)
    stop()


def test_the_panel_shows_the_verdict_and_hints_on_a_click(lab: Lab, exercise: Exercise) -> None:
    tasks, foot = exercise.panel.children
    button, hint = foot.children
    assert NAME in tasks.value
    button.click()
    assert "docker run --help" in hint.value
    html = Verdict("<b>", ())._repr_html_()
    assert "&lt;b&gt;" in html


# --- what is kept


def test_progress_survives_the_process(lab: Lab, exercise: Exercise) -> None:
    lab.run(IMAGE, STAY, name=NAME)
    exercise.check()
    line = (
        "from labhelpers.course.progress import progress; print(progress().frame().to_json(orient='records'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, encoding="utf-8", check=True
    ).stdout
    (row,) = json.loads(said)
    assert (row["chapter"], row["exercise"], row["passed"]) == ("00", "Start a container that stays", True)
    lab.remove(NAME, force=True)
    assert not exercise.check().passed
    assert progress().exercises[0][2], "what was passed once stays passed"


WRITER = """
import sys
from labhelpers.course.predictions import predict
for number in range(40):
    assert predict(f"{sys.argv[1]}-{number}", "?", ["yes", "no"]).choose("yes") is None
"""


def test_two_processes_that_write_at_once_lose_nothing(kept: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in ("a", "b")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert all(prediction_for(f"{name}-{number}") == "yes" for name in ("a", "b") for number in range(40))


@pytest.mark.parametrize("damage", [b'{"00/stays": {"pas', b"\xff\xfe\x00", b"[1, 2]", b'{"00/stays": 3}'])
def test_a_damaged_file_is_put_aside_and_said(
    lab: Lab, exercise: Exercise, kept: Path, damage: bytes
) -> None:
    (kept / PROGRESS).write_bytes(damage)
    assert progress().exercises == ()
    verdict = exercise.check()
    assert verdict.note
    assert "damaged" in verdict.note
    assert (kept / "progress.json.damaged").read_bytes() == damage
    assert len(progress().exercises) == 1
    (kept / PROGRESS).write_bytes(damage)
    exercise.check()
    assert len(list(kept.glob("progress.json.damaged*"))) == 2, "an earlier damaged file is kept as well"


def test_a_file_that_cannot_be_written_does_not_stop_the_reader(
    lab: Lab, exercise: Exercise, kept: Path
) -> None:
    (kept / PROGRESS).mkdir()
    lab.run(IMAGE, STAY, name=NAME)
    verdict = exercise.check()
    assert verdict.passed
    assert verdict.note
    assert "Could not save to" in verdict.note
    assert progress().exercises == ()


# --- predictions


def test_a_prediction_is_kept_and_recalled() -> None:
    asked = predict("size", "How much?", ["1 B", "100 MB"])
    assert prediction_for("size") is None
    assert "nothing yet" in repr(recall("size", "100 MB"))
    asked.choose("1 B")
    asked.choose("100 MB")
    assert predict("size", "How much?", ["1 B", "100 MB"]).chosen == "100 MB"
    assert "100 MB" in repr(recall("size", "3 GB"))
    assert "100 MB" in recall("size", "<3 GB>")._repr_html_()
    assert "&lt;3 GB&gt;" in recall("size", "<3 GB>")._repr_html_()


def test_a_click_keeps_the_prediction_and_the_text_never_shows_it() -> None:
    asked = predict("size", "How much?", ["1 B", "100 MB"])
    text = asked._repr_mimebundle_()[0]["text/plain"]
    asked.panel.children[1].value = "1 B"
    assert prediction_for("size") == "1 B"
    assert predict("size", "How much?", ["1 B", "100 MB"])._repr_mimebundle_()[0]["text/plain"] == text


def test_an_answer_that_was_not_offered_is_refused() -> None:
    with pytest.raises(BadInput, match="not one of the options"):
        predict("size", "How much?", ["1 B"]).choose("2 B")
    state.write_json(predictions.PREDICTIONS, {"size": {"chosen": "gone", "when": ""}})
    assert predict("size", "How much?", ["1 B"]).chosen is None


def test_a_look_that_makes_events_does_not_chase_itself(lab: Lab) -> None:
    container = lab.run(IMAGE, STAY)
    looks: list[int] = []

    def look(lab: Lab) -> str | None:
        looks.append(1)
        with lab.quiet():
            lab.exec(container, "true")
        return "never"

    seen = Seen()
    stop = Exercise(lab, "00", "chase", "Chase", [Task("it", "It", look)], settle_s=0).watch(seen)
    assert seen.first.wait(20)
    time.sleep(4)
    stop()
    assert 2 <= len(looks) <= 8, "with no pause between them there would be more than twenty"


# --- copies to try things on


def test_a_copy_can_be_stopped_and_leaves_the_other_alone(lab: Lab) -> None:
    volume = lab.create_volume(f"kept-{lab.session}").name
    made = lab.run(
        IMAGE,
        ["sh", "-c", "echo mine > /file; trap 'exit 3' TERM; while :; do sleep 1; done"],
        name=NAME,
        ports={"80/tcp": None},
        restart="always",
        volumes=[f"{volume}:/v"],
        network="bridge",
    )
    before = {row["Id"] for row in lab.client.api.images(all=True)}
    lab.exec(made, ["sh", "-c", "touch /v/kept; echo changed > /file"])
    with cloned_container(lab, made) as copy:
        copy.start()
        assert lab.exec(copy, ["ls", "/v"]).stdout == "", "no two programs write to one volume"
        copy.stop(timeout=5)
        copy.reload()
        assert (copy.status, copy.attrs["State"]["ExitCode"]) == ("exited", 3)
    assert {row["Id"] for row in lab.client.api.images(all=True)} == before
    made.reload()
    assert (made.status, made.attrs["RestartCount"]) == ("running", 0)
    assert file_in(lab, NAME, "/file") == "changed"
    assert lab.exec(made, ["ls", "/v"]).stdout == "kept\n"
    lab.close()
    with pytest.raises(LabError, match="closed"), cloned_container(lab, made):
        pass


# --- the containers that an exercise is about


def test_a_container_that_is_restarted_during_the_check_does_not_pass(lab: Lab) -> None:
    container = lab.run(IMAGE, STAY, name=NAME)
    looks = 0

    def restarts(lab: Lab) -> str | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            container.restart(timeout=0)
        return None

    tasks = [Task("runs", "It runs", restarts)]
    exercise = Exercise(lab, "00", "same", "The same container", tasks, 0.01, (NAME,))
    verdict = exercise.check()
    assert not verdict.passed
    assert "was restarted or replaced during the check" in str(verdict)
    assert exercise.check().passed


def test_a_container_in_the_place_of_the_labs_is_known(lab: Lab) -> None:
    setup_container(lab, NAME, lambda: lab.run(IMAGE, STAY, name=NAME))
    assert setup_changed(lab, NAME) is None
    lab.remove(NAME, force=True)
    assert "run the cell of this exercise again" in str(setup_changed(lab, NAME))
    lab.run(IMAGE, STAY, name=NAME)
    assert "has been replaced" in str(setup_changed(lab, NAME))
    setup_container(lab, NAME, lambda: None)  # the cell that is run again does not take it for the lab's
    assert "has been replaced" in str(setup_changed(lab, NAME))
    lab.remove(NAME, force=True)
    setup_container(lab, NAME, lambda: lab.run(IMAGE, STAY, name=NAME))
    assert setup_changed(lab, NAME) is None
