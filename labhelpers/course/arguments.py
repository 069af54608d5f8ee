"""Checks the arguments of experiments against their annotations: a wrong argument is a message, not a traceback."""

from __future__ import annotations

import builtins
import functools
import inspect
import sys
from collections.abc import Callable
from reprlib import repr as short_repr
from typing import Any, ParamSpec, TypeVar

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from labhelpers.errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")


def experiment(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of a room one that a notebook calls: its arguments are checked before it runs.

    Raises:
        BadInput: an argument is missing, superfluous, or of another type than its annotation.
    """
    signature = inspect.signature(function)
    called = f"{function.__module__.split('.')[1]}.{function.__name__}"

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise BadInput(f"{called}: {error}", hint=f"its arguments: {called}{_shown(signature)}") from None
        types = inspect.get_annotations(function, locals=_Names(function), eval_str=True)
        for name, value in arguments.items():
            parameter = signature.parameters[name]
            for each in _values(parameter, value):
                _check(each, types.get(name, Any), called, parameter)
        return function(*args, **kwargs)

    return checked


def _values(parameter: inspect.Parameter, value: Any) -> tuple[Any, ...]:
    """What the annotation of a parameter is about: each item of `*args` and `**kwargs`."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return tuple(value)
    return tuple(value.values()) if parameter.kind is parameter.VAR_KEYWORD else (value,)


def _check(value: Any, expected: Any, called: str, parameter: inspect.Parameter) -> None:
    try:
        check_type(value, expected, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        raise BadInput(
            f"{called}: {parameter.name} cannot be {short_repr(value)}",
            hint=f"pass {parameter.annotation}; help({called}) describes the arguments",
        ) from None


def _shown(signature: inspect.Signature) -> str:
    """The names of the parameters, without annotations."""
    parameters = (
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    )
    return str(inspect.Signature(list(parameters)))


class _NotLoaded:
    """Any class of a module that is not loaded: it has no instances yet."""


class _Names(dict[str, Any]):
    """The names in the annotations of a function.

    Most classes are imported for the type checker only. They are looked up in the modules that are loaded, those of
    the function's own package first.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(vars(builtins))
        self.update(vars(inspect.getmodule(function)))
        self._package = function.__module__.rpartition(".")[0]

    def __missing__(self, name: str) -> Any:
        loaded = [module for module in list(sys.modules) if module.startswith("labhelpers.")]
        for module in sorted(loaded, key=lambda module: not module.startswith(self._package)):
            found = getattr(sys.modules[module], "__dict__", {}).get(name)
            if found is not None:
                return found
        return _NotLoaded
