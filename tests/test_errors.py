"""Every error of the package is in one tree, in one file, and says what to do next."""

from __future__ import annotations

import ast
import inspect
import re

from labhelpers import errors
from labhelpers.errors import LabError
from labhelpers.state import ROOT

KINDS = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LabError)
}


def test_the_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^ +[│├└─ ]*(\w+)(?: {2,}|$)", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == sorted(KINDS)


def test_no_error_is_defined_anywhere_else() -> None:
    elsewhere = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in sorted((ROOT / "labhelpers").rglob("*.py"))
        if file.name != "errors.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base).rpartition(".")[2] for base in node.bases} & {*KINDS, "Exception"}
    ]
    assert elsewhere == []


def test_an_error_shows_its_message_the_engines_and_the_next_step() -> None:
    for kind in KINDS.values():
        text = str(kind("what happened", hint="what to do", engine_message="what Docker said"))
        assert [part in text for part in ("what happened", "what Docker said", "what to do")] == [True] * 3
        assert text.index("what Docker said") < text.index("what to do")


def test_no_error_is_raised_that_says_nothing_of_its_kind() -> None:
    bare = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / "labhelpers").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LabError"
    ]
    assert bare == []
