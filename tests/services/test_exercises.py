"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

import time
from typing import Any

import pytest

from labhelpers import mysql
from labhelpers.lab import Lab
from labhelpers.services import exercises, monitor

pytestmark = pytest.mark.usefixtures("own_state")
PASSWORD = {"MYSQL_ROOT_PASSWORD": exercises.SHOP_PASSWORD}


def started(lab: Lab, name: str, image: str, **options: Any) -> None:
    """A container of that name, in place of one that is there."""
    if lab.client.containers.list(all=True, filters={"name": f"^/{name}$"}):
        lab.remove(name, force=True, volumes=True)
    lab.run(lab.image(image), name=name, **options)


def passes(exercise: Any) -> bool:
    """Whether it passes within the time that a server takes for its first start."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if exercise.check().passed:
            return True
        time.sleep(0.3)
    return False


def test_repaired_and_password(quiet: Lab) -> None:
    """Two exercises in one, with one server."""
    lab = quiet
    repaired, password = exercises.repaired(lab), exercises.password(lab)
    lab.client.containers.get(exercises.MUTE).wait()
    assert "no container called shop-db" in str(repaired.check())
    assert "mute-db does not run" in str(password.check())
    assert "names what it misses" in password.hint()
    # a wrong port, open to every machine, and no server behind it
    started(lab, exercises.SHOP, "payload", ports={"3306/tcp": ("0.0.0.0", None)})
    assert "other machines may come in" in str(repaired.check())
    assert "three parts" in repaired.hint()
    started(lab, exercises.SHOP, "payload")
    assert "its port 3306 is not published" in str(repaired.check())
    started(lab, exercises.SHOP, "mysql", environment=PASSWORD, ports={"3306/tcp": exercises.SHOP_PORT})
    assert passes(repaired), repaired.check()
    assert repaired.check().passed
    assert repaired.hint().startswith("Every task")
    # the same server under the other name, so that no second one is made from nothing
    lab.remove(exercises.MUTE, force=True, volumes=True)
    lab.client.containers.get(exercises.SHOP).rename(exercises.MUTE)
    with mysql.connect(lab, exercises.MUTE, password=exercises.SHOP_PASSWORD) as connection:
        mysql.rows(connection, "alter user 'root'@'%' identified by ''")
        assert "root gets in without a password" in str(password.check())
        assert "opens the database to everybody" in password.hint()
        mysql.rows(connection, "alter user 'root'@'%%' identified by %s", exercises.SHOP_PASSWORD)
    assert password.check().passed, password.check()
    assert password.check().passed


def test_taken(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.taken(lab)
    assert "no container called late" in str(exercise.check())
    lab.client.api.create_container_from_config(  # type: ignore[no-untyped-call]
        {"Image": lab.image("payload"), "Labels": lab._labels("container")}, exercises.LATE
    )
    assert "its state is “created”" in str(exercise.check())
    assert "was made and could not be started" in exercise.hint()
    started(lab, exercises.LATE, "payload", ports={"80/tcp": ("0.0.0.0", None)})
    assert "other machines may come in" in str(exercise.check())
    started(lab, exercises.LATE, "payload", ports={"80/tcp": None})
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    # its place was made free by force
    lab.remove(exercises.DOOR, force=True)
    assert "no container called door" in str(exercise.check())
    started(lab, exercises.DOOR, "payload", ports={"80/tcp": exercises.DOOR_PORT})
    assert "another container of that name" in str(exercise.check())


def test_half_made(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.half_made(lab)
    variables = {"MYSQL_ROOT_PASSWORD": exercises.MENDED_PASSWORD}
    mount = [f"{exercises.HALF}:{exercises.DATA}"]
    assert "no container called mended-db" in str(exercise.check())
    started(lab, exercises.MENDED, "mysql", environment=variables, volumes=mount, network="none")
    lab.client.containers.get(exercises.MENDED).wait()
    assert "mended-db does not run" in str(exercise.check())
    assert "no data where files are" in exercise.hint()
    started(lab, exercises.MENDED, "payload")
    assert "is not the volume half-made" in str(exercise.check())
    lab.remove(exercises.MENDED, force=True)
    lab.client.volumes.get(exercises.HALF).remove()
    lab.create_volume(exercises.HALF)
    started(lab, exercises.MENDED, "mysql", environment=variables, volumes=mount)
    assert passes(exercise), exercise.check()
    assert exercise.check().passed
    # the cell that is run again breaks nothing
    assert exercises.half_made(lab).check().passed


def test_watcher(quiet: Lab) -> None:
    lab = quiet
    exercise = exercises.watcher(lab)
    port = {f"{monitor.PORT}/tcp": None}
    assert "no container called watcher" in str(exercise.check())
    started(lab, exercises.WATCHER, "payload", volumes=["/sys:/sys"], ports=port, cap_drop=["ALL"])
    assert "it may write to /sys" in str(exercise.check())
    started(lab, exercises.WATCHER, "netdata", ports={f"{monitor.PORT}/tcp": ("0.0.0.0", None)})
    assert "other machines may come in" in str(exercise.check())
    started(lab, exercises.WATCHER, "netdata", ports=port, cap_drop=["ALL"])
    assert "says nothing of watched" in str(exercise.check())
    assert "counters of control groups" in exercise.hint()
    started(lab, exercises.WATCHER, "netdata", ports=port, volumes=["/sys:/sys:ro"], cap_drop=["ALL"])
    assert passes(exercise), exercise.check()
    assert exercise.check().passed
