"""Two learners on one engine: names that clash, and copies of a notebook with other names.

`check` looks for the names of a chapter before its first cell creates anything; `write_copy` writes a notebook whose
names end in the learner's letter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker

from labhelpers.errors import BadInput, NameTaken, SetupFailed
from labhelpers.lab import sessions
from labhelpers.lab.names import (
    CHAPTERS,
    SUFFIX,
    SUFFIX_LETTERS,
    Kinds,
    Names,
    checked_letter,
    name_with,
    names_by_kind,
    port_with,
    suffix,
)
from labhelpers.lab.sessions import Resource

SESSION_END_TIMEOUT_S = 8.0
"""How long the things of a notebook of the same state directory are waited for: its kernel may be restarting."""


def check(client: docker.DockerClient, chapter: str, session: str) -> list[str]:
    """Look for names of the chapter that belong to somebody else.

    Returns:
        A line for the reader if exercises ask for names that are taken.

    Raises:
        NameTaken: the chapter's cells need a name or a port that is taken.
    """
    if chapter not in CHAPTERS:
        return []
    names, letter = CHAPTERS[chapter], suffix()
    end = time.monotonic() + SESSION_END_TIMEOUT_S
    while True:
        there = list(_on_engine(client))
        cells = _conflicts(there, names.cells, names.cell_ports, letter, session)
        if (
            not cells
            or time.monotonic() > end
            or not all(sessions.is_alive(thing.session) for thing in cells)
        ):
            break
        time.sleep(0.2)
    free = _free_letter(there, names)
    if cells:
        raise NameTaken(
            f"chapter {chapter} needs names that are in use on this engine; nothing was created: "
            + _list_resources(cells),
            hint=resolution_hint(chapter, cells, free),
        )
    asked = _conflicts(there, names.exercises, names.exercise_ports, letter, session)
    if not asked:
        return []
    return [
        f"note: exercises of this chapter use names that are in use on this engine: {_list_resources(asked)}; "
        f"{resolution_hint(chapter, asked, free)}"
    ]


def owner(resource: Resource) -> str:
    """The creator of a resource that this notebook must not touch, as the end of "a container that …"."""
    if not resource.session:
        return "the lab did not create"
    whose = (
        "another notebook of yours created"
        if sessions.is_alive(resource.session)
        else "another lab session created"
    )
    return f"{whose} (chapter {resource.chapter})"


def resolution_hint(chapter: str, resources: Sequence[Resource], free: str | None = None) -> str:
    """What to do about names that are taken."""
    steps = []
    if any(sessions.is_alive(thing.session) for thing in resources):
        steps.append("shut down that notebook's kernel")
    foreign = next((thing for thing in resources if not thing.session and thing.kind != "port"), None)
    if foreign is not None:
        verb = "rm" if foreign.kind in ("container", "image") else f"{foreign.kind} rm"
        steps.append(f"if you do not need {foreign}, remove it: docker {verb} {foreign.name}")
    letter = free or _next_letter()
    if chapter in CHAPTERS and letter:
        steps.append(
            f"use a copy with other names: `./lab copy {chapter} --suffix {letter}` writes a notebook whose "
            f"names end in -{letter}"
        )
    return "; or ".join(steps) or "choose another name"


def _next_letter() -> str | None:
    return next((letter for letter in SUFFIX_LETTERS if letter > (suffix() or "a")), None)


def _on_engine(client: docker.DockerClient) -> Iterator[Resource]:
    """Everything on the engine that has a name, with its owner's session; a published port as the kind "port"."""
    api = client.api

    def thing(kind: str, name: str, id: str, labels: dict[str, str] | None) -> Resource:
        found = (labels or {}) if sessions.has_lab_labels(kind, labels) else {}
        readers = sessions.outlives_session(kind, name, found)
        return Resource(
            kind, name, found.get(sessions.CHAPTER, ""), found.get(sessions.SESSION, ""), id, readers
        )

    for row in api.containers(all=True):
        made = [thing("container", name.lstrip("/"), row["Id"], row["Labels"]) for name in row["Names"] or []]
        yield from made
        for published in row["Ports"] or []:
            if made and "PublicPort" in published:
                number = str(published["PublicPort"])
                yield Resource("port", number, made[0].chapter, made[0].session, row["Id"])
    for row in api.networks():
        yield thing("network", row["Name"], row["Id"], row["Labels"])
    for row in api.volumes()["Volumes"] or []:
        yield thing("volume", row["Name"], row["Name"], row["Labels"])
    for row in sessions.images_of(client, {}):
        for tag in row["RepoTags"] or []:
            yield thing("image", tag, row["Id"], row["Labels"])


def _conflicts(
    there: Sequence[Resource], kinds: Kinds, ports: Sequence[int], letter: str, session: str
) -> list[Resource]:
    wanted = {(kind, name_with(name, letter)) for kind, names in kinds.items() for name in names}
    wanted |= {("port", str(port_with(number, letter))) for number in ports}
    found = [t for t in there if (t.kind, t.name) in wanted and not _is_usable(t, session)]
    return list({(t.kind, t.name): t for t in found}.values())


def _is_usable(thing: Resource, session: str) -> bool:
    return bool(thing.session) and sessions.may_modify(thing.session, session)


def _free_letter(there: Sequence[Resource], names: Names) -> str | None:
    taken = {(thing.kind, thing.name) for thing in there}
    for letter in SUFFIX_LETTERS:
        wanted = {
            (kind, name_with(name, letter)) for kind, all in names_by_kind(names).items() for name in all
        }
        ports = (*names.cell_ports, *names.exercise_ports)
        wanted |= {("port", str(port_with(number, letter))) for number in ports}
        if not wanted & taken:
            return letter
    return None


def _list_resources(things: Sequence[Resource]) -> str:
    shown = [f"{thing} ({_owner_text(thing)})" for thing in things[:4]]
    return ", ".join(shown) + (f" and {len(things) - 4} more" if len(things) > 4 else "")


def _owner_text(thing: Resource) -> str:
    if not thing.session:
        return "not created by a lab"
    if sessions.is_alive(thing.session):
        return f"another open notebook of yours, chapter {thing.chapter}"
    return f"another learner's lab, chapter {thing.chapter}"


# --- a copy with other names


def write_copy(notebook: Path, letter: str, folder: Path) -> Path:
    """Write a copy of a chapter's notebook into `folder`, whose names end in `letter`; without outputs.

    Raises:
        BadInput: that is no letter for a suffix, the notebook is a copy itself, or there is a copy that was worked on.
        SetupFailed: it cannot be written there.
    """
    checked_letter(letter)
    if notebook.name[:2] not in CHAPTERS:
        raise BadInput(
            f"{notebook.name} is a copy already",
            hint=f"copy the chapter itself: ./lab copy {notebook.name[2:4]} --suffix {letter}",
        )
    data = json.loads(notebook.read_text(encoding="utf-8"))
    change = _changes(CHAPTERS[notebook.name[:2]], letter)
    data["metadata"].pop("widgets", None)
    for cell in data["cells"]:
        lines = "".join(cell["source"])
        cell["source"] = (change.code if cell["cell_type"] == "code" else change.text)(lines).splitlines(True)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    first = next(cell for cell in data["cells"] if cell["cell_type"] == "code")
    first["source"] = [f"%env {SUFFIX}={letter}\n", *first["source"]]
    title = next(cell for cell in data["cells"] if cell["cell_type"] == "markdown")
    title["source"] = [
        *"".join(title["source"]).rstrip("\n").splitlines(True),
        "\n\nThis is a copy for another learner on the same engine: all names, including those of the "
        f"exercises, end in `-{letter}`.",
    ]
    target = folder / f"{letter}-{notebook.name}"
    written = (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and target.read_bytes() != written:
            raise BadInput(
                f"{target} exists and contains changes, or belongs to another version; nothing was written",
                hint="open it and continue there; or use another letter, or --to DIRECTORY; or remove it first",
            )
        target.write_bytes(written)
    except OSError as error:
        raise SetupFailed(
            f"the copy could not be written to {target}",
            hint="choose a directory that you can write to: --to DIRECTORY",
            engine_message=str(error),
        ) from error
    return target


@dataclass(frozen=True)
class _Substitution:
    code: Callable[[str], str]
    text: Callable[[str], str]


def _changes(chapter: Names, letter: str) -> _Substitution:
    """How the source of a cell is changed: names in commands and code, and where the text quotes them."""
    names = sorted({name for all in names_by_kind(chapter).values() for name in all}, key=len, reverse=True)
    # a word of English is a name only where it is quoted or in a command; a compound is one everywhere
    plain = _one_of([name for name in names if re.fullmatch(r"[a-z]+", name)])
    compound = _one_of([name for name in names if not re.fullmatch(r"[a-z]+", name)])
    ports = _one_of([str(number) for number in (*chapter.cell_ports, *chapter.exercise_ports)])

    def put(pattern: str, source: str) -> str:
        return re.sub(pattern, lambda found: name_with(found[0], letter), source)

    def moved(pattern: str, source: str) -> str:
        return re.sub(pattern, lambda found: str(port_with(int(found[0]), letter)), source)

    def everywhere(source: str) -> str:
        return put(rf"(?<![\w$-]){compound}(?![\w-])", source)

    def shell(source: str) -> str:
        # `$web` is a variable
        changed = put(rf"(?:(?<=//)|(?<![\w$./{{-])){plain}(?![\w/-]|\.\w)", everywhere(source))
        return moved(rf"(?<![\d.]){ports}(?=:\d)|(?<=127\.0\.0\.1:){ports}(?![\d:])", changed)

    def python(source: str) -> str:
        whole = rf"(?<=\"){plain}(?=[\":])|(?<='){plain}(?=[':])|(?<=container:){plain}(?=[\"'])"
        return moved(rf"(?<=: ){ports}(?=[}},])", put(whole, everywhere(source)))

    def code(source: str) -> str:
        if source.startswith("%%") and not source.startswith("%%time"):
            return shell(source)
        made, in_shell, open_brackets = [], False, 0
        for line in source.splitlines(True):
            in_shell = in_shell or line.lstrip().startswith(("%docker", "!"))
            if open_brackets or line.startswith(("predict(", "recall(")):
                # the answers to a question are words, not names
                open_brackets += line.count("(") - line.count(")")
                made.append(everywhere(line))
                continue
            made.append(shell(line) if in_shell else python(line))
            in_shell = in_shell and line.rstrip("\n").endswith("\\")
        return "".join(made)

    def text(source: str) -> str:
        spans = re.split(r"(```.*?```|`[^`]+`)", source, flags=re.DOTALL)
        changed = [shell(span) if number % 2 else everywhere(span) for number, span in enumerate(spans)]
        return moved(rf"(?<=port ){ports}(?!\d)", "".join(changed))

    return _Substitution(code, text)


def _one_of(names: Sequence[str]) -> str:
    """A pattern for one of `names`; it matches nothing if there are none."""
    return f"(?:{'|'.join(map(re.escape, names))})" if names else r"(?!)"
