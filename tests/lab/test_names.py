"""The table of fixed names agrees with the notebooks, and a copy with other names is one throughout."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from labhelpers.errors import BadInput, SetupFailed
from labhelpers.lab import learners, names
from labhelpers.lab.names import CHAPTERS, SUFFIX_LETTERS
from labhelpers.state import ROOT

NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
# what gives a name to something on the engine, in code and in a command
NAMING = {
    "container": (r'(?<!\w)name="([\w.-]+)"', r"--name[= ]([\w.-]+)", r'\bcontainer="([\w.-]+)"'),
    "network": (r'create_network\("([\w.-]+)"', r"docker network create (?:-\S+ \S+ )*([\w.-]+)"),
    "volume": (
        r'create_volume\("([\w.-]+)"',
        r"docker volume create (?:-\S+ \S+ )*([\w.-]+)",
        r"(?:-v |--volume[= ])([a-z][\w.-]*):/",
        r'(?:there=|host_directory\(lab, )"([\w.-]+)"',
    ),
    "image": (
        r'lab\.(?:tag|build|commit)\([^)]*"([\w.-]+:[\w.]+)"',
        r"docker (?:build|tag) .*?([\w.-]+:[\w.]+)$",
    ),
}
PORTS = r"(?:-p |--publish=)(?:127\.0\.0\.1:)?(\d+):\d+"


def source(path: Path, kind: str) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)


def without_questions(code: str) -> str:
    """A question creates nothing: its names are words."""
    return re.sub(r"predict\((?:[^()]|\([^()]*\))*\)", "", code)


def used(code: str) -> dict[str, set[str]]:
    code = without_questions(code)
    return {
        kind: {n for p in patterns for n in re.findall(p, code, re.M)} for kind, patterns in NAMING.items()
    }


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_the_table_has_the_names_of_each_notebook(chapter: str) -> None:
    listed = CHAPTERS[chapter]
    code = source(NOTEBOOKS[chapter], "code")
    for kind, found in used(code).items():
        assert found <= set(listed.cells.get(kind, ())), (
            f"add them to labhelpers.lab.names.CHAPTERS[{chapter!r}]"
        )
    assert {int(port) for port in re.findall(PORTS, without_questions(code))} <= set(listed.cell_ports)
    both = [set(kinds.get(kind, ())) for kind in NAMING for kinds in (listed.cells, listed.exercises)]
    assert len(set.union(*both)) <= sum(map(len, both))


def test_the_table_has_a_name_for_each_that_an_exercise_uses() -> None:
    """`with_suffix` refuses any other, and runs when a room is imported; here, that no room names one past it."""
    asked = {name for chapter in CHAPTERS.values() for all in chapter.exercises.values() for name in all}
    literal = re.compile(rf'^[A-Z_, ]+ = .*"({"|".join(map(re.escape, asked))})"', re.M)
    for room in sorted((ROOT / "labhelpers").glob("*/exercises.py")):
        lines = literal.finditer(room.read_text(encoding="utf-8"))
        assert [one[0] for one in lines if "with_suffix(" not in one[0]] == [], room


def test_the_ports_of_no_two_learners_meet() -> None:
    ports = [n for chapter in CHAPTERS.values() for n in (*chapter.cell_ports, *chapter.exercise_ports)]
    mine = {letter: {names.port_with(port, letter) for port in ports} for letter in ("", *SUFFIX_LETTERS)}
    assert all(not mine[a] & mine[b] for a, b in combinations(mine, 2))


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_copy_has_no_name_of_the_original(chapter: str, tmp_path: Path) -> None:
    made = learners.write_copy(NOTEBOOKS[chapter], "q", tmp_path)
    assert made.name == f"q-{NOTEBOOKS[chapter].name}"
    code, text = source(made, "code"), source(made, "markdown")
    before = used(source(NOTEBOOKS[chapter], "code"))
    assert used(code) == {kind: {names.name_with(name, "q") for name in all} for kind, all in before.items()}
    ports = {int(port) for port in re.findall(PORTS, without_questions(code))}
    assert not ports & set(CHAPTERS[chapter].cell_ports)
    code = without_questions(code)
    for all in names.names_by_kind(CHAPTERS[chapter]).values():
        for name in all:
            rest = [f"`{name}`", f"--name {name} ", f"--name={name} ", f'"{name}"']
            assert not [one for one in rest if one in text or one in code], name


def test_a_copy_changes_names_and_nothing_else(tmp_path: Path) -> None:
    made = learners.write_copy(NOTEBOOKS["05"], "b", tmp_path)
    code, text = source(made, "code"), source(made, "markdown")
    assert code.startswith("%env LABHELPERS_SUFFIX=b\n")
    assert 'name="web-b"' in code
    assert "%docker network connect bank-b both-b" in code
    assert 'endpoints["web-b", "bridge"]' in code
    assert '"rules of the firewall", "both"]' in code
    assert "$portainer\n" in source(learners.write_copy(NOTEBOOKS["09"], "b", tmp_path), "code")
    assert "One container can be on two networks" in text
    assert "`both-b` has two lines" in text
    six = source(learners.write_copy(NOTEBOOKS["06"], "b", tmp_path), "code")
    assert "-p 127.0.0.1:3338:3306" in six
    assert "--name mysql_container-b" in six
    cells = json.loads(made.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def test_a_copy_that_was_worked_on_is_not_written_again(tmp_path: Path) -> None:
    made = learners.write_copy(NOTEBOOKS["05"], "b", tmp_path)
    assert learners.write_copy(NOTEBOOKS["05"], "b", tmp_path) == made, "nobody has changed it"
    made.write_text("my answers", encoding="utf-8")
    with pytest.raises(BadInput, match="work"):
        learners.write_copy(NOTEBOOKS["05"], "b", tmp_path)
    assert made.read_text(encoding="utf-8") == "my answers"
    with pytest.raises(BadInput, match="copy already") as refused:
        learners.write_copy(made, "c", tmp_path)
    assert "./lab copy 05 --suffix c" in refused.value.hint


def test_a_suffix_is_one_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("", "a", "B", "bb", "2", "../b"):
        with pytest.raises(BadInput):
            learners.write_copy(NOTEBOOKS["00"], wrong, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SetupFailed, match="could not be written") as told:
        learners.write_copy(NOTEBOOKS["00"], "b", tmp_path / "file")
    assert "--to" in told.value.hint
    assert names.with_suffix("my-first") == "my-first"
    monkeypatch.setenv(names.SUFFIX, "b")
    assert [names.with_suffix("my-first"), names.with_suffix("price:1"), names.port(3310)] == [
        "my-first-b",
        "price-b:1",
        3340,
    ]
    with pytest.raises(KeyError):
        names.with_suffix("no-such-name")
    monkeypatch.setenv(names.SUFFIX, "bb")
    with pytest.raises(BadInput, match="one letter"):
        names.with_suffix("my-first")
