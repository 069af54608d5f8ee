"""The whole package is typed strictly, linted and formatted, and names the encoding of each text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest

from labhelpers.commandline import check
from labhelpers.state import ROOT


@pytest.mark.parametrize("name", check.commands())
def test_style(name: str) -> None:
    done = check.run(check.commands()[name])
    assert done.returncode == 0, done.stdout + done.stderr


# ── encodings ─────────────────────────────────────────────────────────────────────────────────────────
# ruff has this rule (PLW1514) in preview only, and not for subprocess, nor for a path whose type it does not know.

# their `open` gives bytes, or opens no file
_NO_TEXT = {"tarfile", "zipfile", "webbrowser", "os", "gzip", "lzma", "bz2", "zstandard", "shelve"}
_COMPRESSED = {"gzip", "lzma", "bz2"}
_PROCESSES = {"run", "Popen", "check_output", "check_call", "call"}
_TEMPORARY = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}


def unnamed(tree: ast.AST) -> Iterator[ast.Call]:
    """Each call that reads or writes text and names no encoding."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_text(node) and not _has(node, "encoding"):
            yield node


def _is_text(call: ast.Call) -> bool:
    name, owner = _name(call.func)
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) < 2
    if name in _PROCESSES:
        return any(_is_true(call, word) for word in ("text", "universal_newlines"))
    if name in ("getoutput", "getstatusoutput", "TextIOWrapper", "FileHandler"):
        return True
    if name in _TEMPORARY:
        return "b" not in _mode(call, 0, "w+b")
    if name == "fdopen" or (name == "open" and owner is None):
        return "b" not in _mode(call, 1, "r")
    if name == "open" and owner in _COMPRESSED:
        return "t" in _mode(call, 1, "rb")
    if name == "open" and owner not in _NO_TEXT:
        # of a path: its first argument is a mode; anything else opens something else
        mode = _mode(call, 0, "r")
        return bool(re.fullmatch(r"[rwaxt+]+", mode))
    return False


def _name(function: ast.expr) -> tuple[str, str | None]:
    """The last name of what is called, and the name before it: ("open", "tarfile"); None where there is none."""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr, owner.id if isinstance(owner, ast.Name) else ""
    return (function.id, None) if isinstance(function, ast.Name) else ("", None)


def _has(call: ast.Call, keyword: str) -> bool:
    return any(word.arg == keyword for word in call.keywords)


def _is_true(call: ast.Call, keyword: str) -> bool:
    return any(
        word.arg == keyword and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in call.keywords
    )


def _mode(call: ast.Call, position: int, default: str) -> str:
    """The mode of a call of `open`; "b" where it is not written out."""
    given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[position : position + 1]
    if not given:
        return default
    return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else "b"


def sources() -> Iterator[tuple[str, str]]:
    """Each Python file of the checkout, and each code cell of its notebooks: (where, source)."""
    for folder in ("labhelpers", "tests", "images", "conftest.py"):
        root = ROOT / folder
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code" and not cell.source.lstrip().startswith("%%"):
                # a line of the shell's or of a magic is not Python
                yield f"{path.name}, cell {number}", re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)


def test_every_text_is_read_and_written_in_a_named_encoding() -> None:
    assert [
        f"{where}, line {call.lineno}: {ast.unparse(call)[:80]}"
        for where, source in sources()
        for call in unnamed(_parsed(source))
    ] == []


def test_lists_of_containers_ignore_those_that_go_meanwhile() -> None:
    """docker-py asks for each container of a list by itself, and fails where another test has just removed it."""
    assert [
        f"{where}, line {call.lineno}"
        for where, source in sources()
        for call in ast.walk(_parsed(source))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("containers.list")
        and not _is_true(call, "ignore_removed")
    ] == []


def _parsed(source: str) -> ast.AST:
    try:
        return ast.parse(source)
    except SyntaxError:  # a cell with more of IPython in it, such as `name = %docker …`
        return ast.Module([], [])


@pytest.mark.parametrize(
    "call",
    [
        *("path.read_text()", "path.write_text('x')", "open('f')", "open('f', mode='w')", "path.open('a')"),
        *("subprocess.run(c, text=True)", "Popen(c, universal_newlines=True)", "gzip.open('f', 'rt')"),
        *("NamedTemporaryFile('w')", "os.fdopen(3)", "subprocess.getoutput('x')", "io.TextIOWrapper(raw)"),
    ],
)
def test_a_text_without_an_encoding_is_found(call: str) -> None:
    assert list(unnamed(ast.parse(call)))
    named = call[:-1] + (", " if not call.endswith("()") else "") + "encoding='utf-8')"
    assert not list(unnamed(ast.parse(named)))


@pytest.mark.parametrize(
    "call",
    [
        "open('f', 'rb')",
        "path.open('wb')",
        "tarfile.open('f')",
        "archive.open('name')",
        "run(c)",
        "gzip.open('f')",
    ],
)
def test_bytes_need_no_encoding(call: str) -> None:
    assert not list(unnamed(ast.parse(call)))
