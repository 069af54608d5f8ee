"""The first container: made of nothing, and nothing is left of it."""

from __future__ import annotations

import time

import pytest
from docker.errors import APIError

from labhelpers.engine import Engine, smoke_test
from labhelpers.errors import EngineRefused
from labhelpers.lab import sessions


def census(engine: Engine) -> set[str]:
    """The images and containers that a first run makes, by their label; `./lab doctor` of others among them."""
    return {thing.id for thing in sessions.session_resources(engine.client) if thing.chapter == "doctor"}


def test_it_runs_and_leaves_nothing(engine: Engine) -> None:
    before = census(engine)
    with sessions.temporary_session(engine.client, "doctor") as labels:
        assert smoke_test.first_run(engine, labels).output == "a container ran here"
    # another test's doctor may run now: what it made goes within seconds, what is left over stays
    end = time.monotonic() + 20
    while census(engine) - before and time.monotonic() < end:
        time.sleep(0.2)
    assert census(engine) <= before


def test_the_word_is_read_without_a_log(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the log driver `none` a first container runs all the same; only its log cannot be read."""

    def refuse(*_: object, **__: object) -> None:
        raise APIError("configured logging driver does not support reading")

    monkeypatch.setattr(engine.client.api, "logs", refuse)
    assert smoke_test.first_run(engine).output == smoke_test.EXPECTED_OUTPUT.decode().strip()


def test_a_processor_without_a_program_is_reported() -> None:
    with pytest.raises(EngineRefused, match="riscv64"):
        smoke_test.program("riscv64")


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_program_is_an_elf_for_its_processor(machine: str, number: int) -> None:
    binary = smoke_test.program(machine)
    assert binary[:4] == b"\x7fELF"
    assert int.from_bytes(binary[18:20], "little") == number
    assert binary.endswith(smoke_test.EXPECTED_OUTPUT)
