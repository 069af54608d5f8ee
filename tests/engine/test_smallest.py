"""The first container: made of nothing, and nothing is left of it."""

from __future__ import annotations

import pytest

from labhelpers.engine import Engine, smallest
from labhelpers.errors import EngineRefused


def census(engine: Engine) -> tuple[list[str], list[str]]:
    # others may use this engine meanwhile: only images as small as this one is are looked at
    tiny = (image for image in engine.client.images.list(all=True) if image.attrs["Size"] < 4096)
    images = sorted(str(image.id) for image in tiny)
    containers = engine.client.containers.list(all=True, filters={"label": "labhelpers.chapter=doctor"})
    return images, sorted(container.id for container in containers if container.id)


def test_it_runs_and_leaves_nothing(engine: Engine) -> None:
    before = census(engine)
    assert smallest.first_run(engine).said == "a container ran here"
    assert census(engine) == before


def test_a_processor_without_a_program_is_said() -> None:
    with pytest.raises(EngineRefused, match="riscv64"):
        smallest.program("riscv64")


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_program_is_an_elf_for_its_processor(machine: str, number: int) -> None:
    binary = smallest.program(machine)
    assert binary[:4] == b"\x7fELF"
    assert int.from_bytes(binary[18:20], "little") == number
    assert binary.endswith(smallest.WORD)
