"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from labhelpers import vm
from labhelpers.course.containers import container_named
from labhelpers.engine.waiting import wait_for
from labhelpers.lab import Lab
from labhelpers.vm.exercises import guest_boot_id, one_kernel, small_guest
from labhelpers.vm.guests import facts

pytestmark = pytest.mark.usefixtures("temporary_state")


@pytest.fixture(scope="module")
def booted(shared_lab: Lab) -> Container:
    """A guest with 128 MiB: a boot is dear, and a name is changed at once."""
    return vm.start_guest(shared_lab)


@pytest.fixture
def lab(shared_lab: Lab, booted: Container) -> Iterator[Lab]:
    """The lab that started the guest: a container of another session is another learner's."""
    yield shared_lab
    for name in ("my-note", "twin-a", "twin-b", "my-guest", "small-guest"):
        if (made := container_named(shared_lab, name)) and made.id != booted.id:
            made.remove(force=True, v=True)


@pytest.fixture
def guest(booted: Container) -> Iterator[Container]:
    """That guest, with the name that a test needs while it needs it."""
    before = booted.name
    yield booted
    booted.rename(before)


def test_one_kernel(lab: Lab) -> None:
    exercise = one_kernel(lab)
    assert "no container named twin-a" in str(exercise.check())
    twin = vm.start_payload(lab, name="twin-a")
    same = vm.start_payload(lab, name="twin-b")
    assert "one and the same image" in str(exercise.check())
    lab.remove(same, force=True)
    copy = twin.commit(changes=[f"LABEL labhelpers.session={lab.session}"])
    same = lab.client.containers.get(lab.run(str(copy.id), "sleep 600", name="twin-b", network="none").id)
    assert "next to nothing added" in str(exercise.check())
    lab.remove(same, force=True)
    lab.client.images.remove(str(copy.id))
    other = lab.run(lab.image("vm"), ["3600"], name="twin-b", entrypoint="sleep")
    assert "no file /kernel" in str(exercise.check())
    for one in (twin, other):
        lab.exec(one, ["sh", "-c", "uname -r > /kernel"])
    assert "not the boot id" in str(exercise.check())
    for one in (twin, other):
        lab.exec(one, ["sh", "-c", "cat /proc/sys/kernel/random/boot_id > /kernel"])
    assert exercise.check().passed
    # a link to what the kernel says counts too
    lab.exec(twin, ["sh", "-c", "ln -sf /proc/sys/kernel/random/boot_id /kernel"])
    assert exercise.check().passed
    lab.exec(
        twin,
        ["sh", "-c", "rm /kernel /bin/cat; echo 'echo $(cat /proc/sys/kernel/random/boot_id)' > /bin/cat"],
    )
    assert "no file /kernel" in str(exercise.check())


def test_guest_boot_id(lab: Lab, guest: Container) -> None:
    exercise = guest_boot_id(lab)
    assert "no container named my-guest" in str(exercise.check())
    guest.rename("my-guest")
    note = vm.start_payload(lab, name="my-note")
    assert "no file /answer" in str(exercise.check())
    lab.exec(note, ["sh", "-c", "cat /proc/sys/kernel/random/boot_id > /answer"])
    assert "that the containers share" in str(exercise.check())
    assert "not the guest" in exercise.hint()
    boot_id = facts(guest.logs().decode())["boot_id"]
    lab.exec(note, ["sh", "-c", f"echo {boot_id[::-1]} > /answer"])
    assert "no boot id" in str(exercise.check())
    lab.exec(note, ["sh", "-c", "cat /proc/sys/kernel/random/uuid > /answer"])
    assert "not that of this guest" in str(exercise.check())
    lab.exec(note, ["sh", "-c", f"echo {boot_id} > /answer"])
    assert exercise.check().passed
    assert exercise.check().passed
    lab.exec(note, ["sh", "-c", "mv /answer /tmp/; ln -s tmp/answer /answer"])
    assert exercise.check().passed
    lab.remove(note, force=True)
    lab.run(
        lab.image("tools"),
        ["sh", "-c", f"printf {boot_id} > /answer; sleep 600"],
        name="my-note",
        tmpfs={"/t": ""},
    )
    assert exercise.check().passed


PRINTS = """echo GUEST POWER ON; echo PAYLOAD READY; echo fact memory_kib=1000
echo fact boot_id=11111111-2222-3333-4444-555555555555; exec sleep 600"""


def test_what_only_prints_the_lines_of_a_guest_is_none(lab: Lab) -> None:
    image = lab.image("vm")
    note = vm.start_payload(lab, name="my-note")
    lab.exec(note, ["sh", "-c", "echo 11111111-2222-3333-4444-555555555555 > /answer"])
    for name, exercise in (("my-guest", guest_boot_id(lab)), ("small-guest", small_guest(lab))):
        lab.run(image, ["-c", PRINTS], name=name, entrypoint="sh", network="none")
        assert f"no QEMU runs in {name}" in str(exercise.check())
        assert "the image's own command" in exercise.hint().lower()


def test_small_guest(lab: Lab, guest: Container) -> None:
    exercise = small_guest(lab)
    assert not exercise.check().passed
    guest.rename("small-guest")
    assert "its kernel says" in str(exercise.check())
    guest.rename(f"large-{lab.session}")
    payload = vm.start_payload(lab, name="small-guest")
    lab.update(payload, memory="64m", memory_swap="64m")
    assert "small-guest is made from labhelpers/payload" in str(exercise.check())
    lab.remove(payload, force=True)
    dead = lab.run(lab.image("vm"), name="small-guest", environment={"GUEST_MEMORY_MB": "32"})
    dead.wait(timeout=60)
    assert "is not running" in str(exercise.check())
    assert "32 MiB" in exercise.hint()
    lab.remove(dead)
    small = vm.start_guest(lab, name="small-guest", memory_mb=100)
    assert exercise.check().passed
    assert exercise.check().passed
    # one that has had another name, and an earlier life
    small.rename(f"first-{lab.session}")
    assert "no container named small-guest" in str(exercise.check())
    small.rename("small-guest")
    small.restart(timeout=0)
    wait_for("it to pass", lambda: exercise.check().passed, 120, details=lambda: str(exercise.check()))


def test_a_line_that_was_added_to_the_log_does_not_count(lab: Lab, guest: Container) -> None:
    # the last test of the file: the log of the guest that all of them use keeps the line
    guest.rename("my-guest")
    guest.reload()
    note = vm.start_payload(lab, name="my-note")
    id = "11111111-2222-3333-4444-555555555555"
    lab.exec(note, ["sh", "-c", f"echo {id} > /answer"])
    words = f"echo GUEST POWER ON; echo PAYLOAD READY; echo fact boot_id={id}"
    lab.exec(guest, ["sh", "-c", f"({words}) > /proc/1/fd/1"])
    assert "two boot ids" in str(guest_boot_id(lab).check())
