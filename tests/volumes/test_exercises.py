"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from docker.errors import NotFound

from labhelpers.exercises import Exercise
from labhelpers.lab import Lab
from labhelpers.volumes import exercises, stage

pytestmark = pytest.mark.usefixtures("own_state")

STAY = ["sleep", "300"]


@pytest.fixture
def tidy(quiet: Lab) -> Iterator[Lab]:
    """A lab whose exercises' volumes go, also those that `-v` made and that carry no label."""
    yield quiet
    names = (exercises.SHELF, exercises.COPY, "t-stays-log", "t-www", "t-used", "t-nocopy", "t-desk")
    for container in quiet.client.containers.list(
        all=True, filters={"label": f"labhelpers.session={quiet.session}"}
    ):
        if container.name in (exercises.COMMA, exercises.STAYS, exercises.SHOP, exercises.CLERK):
            container.remove(v=True, force=True)
    for name in names:
        with suppress(NotFound):
            quiet.client.volumes.get(name).remove(force=True)


def started(
    lab: Lab, name: str, command: list[str] | None = None, image: str = "payload", **options: Any
) -> None:
    """A container of that name, in place of one that is there."""
    with suppress(NotFound):
        lab.client.containers.get(name).remove(v=True, force=True)
    lab.run(lab.image(image), command, name=name, network="none", **options)


def once(lab: Lab, script: str, *volumes: str, **options: Any) -> None:
    """Run a shell script in a container that has these volumes, and wait for it."""
    with stage.running(lab, ["sh", "-c", script], volumes=list(volumes), **options) as container:
        stage.said(container)


def says(exercise: Exercise, words: str) -> None:
    """It is not reached, and the verdict says so in these words."""
    verdict = exercise.check()
    assert not verdict.passed
    assert words in str(verdict), str(verdict)


def test_bookshelf(tidy: Lab) -> None:
    lab = tidy
    exercise = exercises.bookshelf(lab)
    says(exercise, "no volume called bookshelf")
    assert "here `volume`" in exercise.hint()
    # `docker create`, with an image that is there
    made = lab.client.api.create_container(lab.image("payload"), name="bookshelf", volumes=["/data"])
    says(exercise, "no volume called bookshelf")
    assert "is a container now" in exercise.hint()
    lab.client.api.remove_container(made["Id"], v=True)
    # `docker volume create` without the name
    nameless = lab.client.volumes.create()
    says(exercise, "no volume called bookshelf")
    nameless.remove()
    for _ in range(2):
        lab.create_volume("bookshelf")
        says(exercise, "holds no file called title")
        once(lab, "mkdir /data/title", "bookshelf:/data")
        says(exercise, "it is a directory")
        once(lab, "rmdir /data/title; echo Emma > /data/title", "bookshelf:/data")
        assert exercise.check().passed, exercise.check()
        lab.client.volumes.get("bookshelf").remove()


def test_comma(tidy: Lab) -> None:
    lab = tidy
    desk = exercises.desk(lab)
    exercise = exercises.comma(lab)
    assert exercises.desk(lab) == desk
    says(exercise, "no container called bind-fix")
    assert "name of a type" in exercise.hint()
    started(lab, "bind-fix", STAY)
    says(exercise, "nothing is mounted at /var/log")
    started(lab, "bind-fix", STAY, mounts=[f"type=bind,source={desk},target=/log"])
    says(exercise, "there is something at /log")
    # a name, not a path
    started(lab, "bind-fix", STAY, volumes=["t-desk:/var/log"])
    says(exercise, "is a volume, and not a bind mount")
    # -v and a slip of the pen: below a volume of the lab, so that nothing stays
    started(lab, "bind-fix", STAY, volumes=[f"{desk}/slip:/var/log"])
    says(exercise, "another directory than $desk")
    for _ in range(2):
        started(lab, "bind-fix", STAY, mounts=[f"type=bind,source={desk},target=/var/log"])
        says(exercise, "no file called hello")
        lab.exec("bind-fix", ["touch", "/var/log/hello"])
        assert exercise.check().passed, exercise.check()
        lab.exec("bind-fix", ["rm", "/var/log/hello"])


def test_stays(tidy: Lab) -> None:
    lab = tidy
    exercise = exercises.stays(lab)
    log = ["t-stays-log:/var/log"]
    says(exercise, "no container called stays")
    started(lab, "stays", image="base", volumes=log)
    lab.client.containers.get("stays").wait()
    says(exercise, "exit code 0")
    assert "end of its input" in exercise.hint()
    started(lab, "stays", ["sh", "-c", "exit 3"], volumes=log)
    lab.client.containers.get("stays").wait()
    says(exercise, "exit code 3")
    # a policy that hides it: it runs for a moment, again and again
    started(lab, "stays", ["sleep", "0.3"], volumes=log, restart="always")
    stage.wait_for(
        "it is started again", lambda: lab.client.api.inspect_container("stays")["RestartCount"] > 0
    )
    assert not exercise.check().passed
    started(lab, "stays", ["sleep", "0.5"], volumes=log)  # it runs when it is looked at first
    assert not exercise.check().passed
    started(lab, "stays", STAY)
    says(exercise, "nothing is mounted at /var/log")
    started(lab, "stays", STAY, volumes=["/var/log"])
    says(exercise, "no volume with a name")
    started(lab, "stays", image="base", volumes=log, tty=True, stdin_open=True)
    assert exercise.check().passed, exercise.check()
    started(lab, "stays", STAY, volumes=log)
    assert exercise.check().passed, exercise.check()


def test_shop(tidy: Lab) -> None:
    lab = tidy
    serve = ["httpd", "-f", "-h", "/www"]
    desk = exercises.desk(lab)
    exercise = exercises.shop(lab)
    says(exercise, "no container called shop")
    started(lab, "shop", serve)
    says(exercise, "nothing is mounted at /www")
    started(lab, "shop", serve, volumes=[f"{desk}:/www"])
    says(exercise, "is a bind mount, and not a volume")
    started(lab, "shop", serve, volumes=["/www"])
    says(exercise, "has no name")
    started(lab, "shop", serve, mounts=["source=t-nocopy,target=/www,volume-nocopy"])
    says(exercise, "it sees nothing")
    assert "from filling it" in exercise.hint()
    once(lab, "touch /data/old", "t-used:/data")
    started(lab, "shop", serve, volumes=["t-used:/www"])
    says(exercise, "it sees old")
    assert "Only an empty one is filled" in exercise.hint()
    started(lab, "shop", STAY, image="base", volumes=["t-used:/www"])
    says(exercise, "another image")
    for _ in range(2):
        started(lab, "shop", serve, volumes=["t-www:/www"])
        assert exercise.check().passed, exercise.check()
        lab.remove("shop", force=True)
        lab.client.volumes.get("t-www").remove()
        says(exercise, "no container called shop")


def test_ledger(tidy: Lab) -> None:
    lab = tidy
    exercise = exercises.ledger(lab)
    name, user = exercises._made[lab.session, "ledger"]
    volume = [f"{name}:/ledger"]
    write = ["touch", "/ledger/entries"]
    says(exercise, "no container called clerk")
    started(lab, "clerk", STAY, volumes=volume)
    says(exercise, "belongs to user 0")
    started(lab, "clerk", STAY, user=user)
    says(exercise, "nothing is mounted at /ledger")
    started(lab, "clerk", STAY, user=user, volumes=["/ledger"])
    says(exercise, "is not the volume")
    started(lab, "clerk", STAY, user=user, volumes=volume)
    assert lab.exec("clerk", write).exit_code != 0
    says(exercise, "no file /ledger/entries")
    assert "belongs to root" in exercise.hint()
    # root writes in its place
    lab.exec("clerk", write, user=0)
    says(exercise, "/ledger/entries belongs to user 0")
    once(lab, "rm /ledger/entries; chmod 777 /ledger", *volume)
    lab.exec("clerk", write)
    says(exercise, "everybody may write into it")
    assert "and not its mode" in exercise.hint()
    for _ in range(2):
        once(lab, "rm -f /ledger/entries; chmod 755 /ledger; chown 0 /ledger", *volume)
        says(exercise, "no file /ledger/entries")
        once(lab, f"chown {user} /ledger", *volume)
        lab.exec("clerk", write)
        assert exercise.check().passed, exercise.check()
    exercises.ledger(lab)
    assert exercises._made[lab.session, "ledger"] == (name, user)


def test_archive(tidy: Lab) -> None:
    lab = tidy
    exercise = exercises.archive(lab)
    name = exercises._made[lab.session, "archive"]
    from_to = (f"{name}:/from:ro", "archive-copy:/to")
    says(exercise, "no volume called archive-copy")
    once(lab, "true", *from_to)
    says(exercise, "archive-copy has no 2024")
    # the directory, in place of what is in it
    once(lab, "cp -a /from /to/", *from_to)
    says(exercise, "archive-copy has no 2024")
    once(lab, "rm -r /to/from; cp -r /from/. /to/", *from_to)
    says(exercise, "another owner")
    once(lab, "rm -rf /to/*; cp -a /from/. /to/; touch /to/more", *from_to)
    says(exercise, "has more, which")
    once(lab, "rm /to/more; echo changed > /to/2024/January", *from_to)
    says(exercise, "another contents")
    once(
        lab, "rm /to/latest; cp -a /from/2024/January /to/2024/January; cp /from/latest /to/latest", *from_to
    )
    says(exercise, "another kind")
    for copy in ("cp -a /from/. /to/", "tar -C /from -cf - . | tar -C /to -xpf -"):
        once(lab, f"rm -rf /to/*; {copy}", *from_to)
        assert exercise.check().passed, exercise.check()
    once(lab, "echo changed > /data/key", f"{name}:/data")
    says(exercise, "is not as it was")
