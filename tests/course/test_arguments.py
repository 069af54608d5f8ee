"""Wrong arguments of the experiments: a message that names the argument, and the engine is not asked."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from labhelpers import layers
from labhelpers.course.arguments import experiment
from labhelpers.errors import BadInput

if TYPE_CHECKING:
    from labhelpers.results import Result

ROOMS = (
    *("start", "vm", "layers", "namespaces", "cgroups", "networks"),
    *("services", "volumes", "persistence", "monitoring"),
)


def experiments() -> list[Any]:
    modules = [importlib.import_module(f"labhelpers.{room}") for room in ROOMS]
    found = [(module, name, getattr(module, name)) for module in modules for name in module.__all__]
    return [
        pytest.param(function, id=f"{module.__name__.removeprefix('labhelpers.')}.{name}")
        for module, name, function in found
        if inspect.isfunction(function)
    ]


@experiment
def example(
    count: int, *names: str, ratio: float = 1, sizes: Sequence[int] = (), made: Result | None = None
) -> str:
    """What it was called with."""
    return f"{count} {names} {ratio} {sizes} {made}"


@pytest.mark.parametrize("function", experiments())
def test_every_experiment_checks_its_arguments(function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    checked = [each for each in parameters if each.annotation not in ("Any", each.empty)]
    for odd in (object(), {1: object()}):
        positional = [
            odd for each in checked if each.kind in (each.POSITIONAL_OR_KEYWORD, each.VAR_POSITIONAL)
        ]
        named = {each.name: odd for each in checked if each.kind == each.KEYWORD_ONLY}
        with pytest.raises(BadInput) if checked else nullcontext():
            function(*positional, **named)


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        (("3",), {}, "count"),
        ((3, "a", 4), {}, "names"),
        ((3,), {"ratio": "half"}, "ratio"),
        ((3,), {"sizes": [1, 2, "x"]}, "sizes"),
        ((3,), {"made": "a result"}, "made"),
    ],
)
def test_the_message_names_the_argument_and_what_to_pass(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> None:
    with pytest.raises(BadInput, match=rf"\.example: {name} cannot be") as caught:
        example(*args, **kwargs)
    assert f"pass {inspect.signature(example).parameters[name].annotation}" in caught.value.hint


def test_a_missing_and_a_superfluous_argument_are_messages() -> None:
    with pytest.raises(BadInput, match="missing a required argument: 'count'") as caught:
        example()  # type: ignore[call-arg]
    assert "example(count, *names, ratio=1, sizes=(), made=None)" in caught.value.hint
    with pytest.raises(BadInput, match="'colour'"):
        example(1, colour="red")  # type: ignore[call-arg]


def test_right_arguments_are_passed_on_unchanged() -> None:
    assert example(3, "a", "b", ratio=2, sizes=[1]) == "3 ('a', 'b') 2 [1] None"


def test_a_block_is_checked_where_it_begins() -> None:
    @experiment
    @contextmanager
    def block(seconds: float) -> Any:
        yield seconds

    with block(1) as seconds:
        assert seconds == 1
    with pytest.raises(BadInput, match="seconds cannot be"):
        block("long")  # type: ignore[arg-type]


def test_the_documentation_is_that_of_the_function() -> None:
    assert "SHA-256" in (layers.verify.__doc__ or "")
    assert list(inspect.signature(layers.verify).parameters) == ["lab", "ref"]
