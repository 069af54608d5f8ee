"""Builds: what the cache keeps, what a stage leaves behind, and where a secret stays."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pandas as pd
from docker.errors import NotFound

from labhelpers.errors import BadInput
from labhelpers.layers import recipes, trees
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.recipes import BuildContext
from labhelpers.layers.tarstream import BufferedSource, Chunks, LimitedSource, members
from labhelpers.results import Result, column, record, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from labhelpers.lab import Lab
    from labhelpers.lab.base import ProgressCallback

# a secret and what is around it are small
_MAX_TEXT_BYTES = 1 << 20


def unique_name(lab: Lab, name: str) -> str:
    """A name for an image that no other session of the lab uses."""
    return f"lab-{lab.session}/{name}"


def build(
    lab: Lab, recipe: BuildContext, tag: str, see: ProgressCallback | None = None, **buildargs: str
) -> str:
    """Build a recipe in a folder that exists for the build only; gives the tag.

    Raises:
        BuildFailed: a step failed.
        NameTaken: the tag belongs to an image that this session did not make.
    """
    with tempfile.TemporaryDirectory() as folder, lab.quiet():
        for name, text in {"Dockerfile": recipe.dockerfile, **recipe.files}.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        lab.build(folder, tag, on_progress=see, buildargs=buildargs)
    return tag


# --- the cache


@record
class Step:
    """One step of a build."""

    instruction: str = column("as the Dockerfile says it")
    cached: bool = column("whether the engine took the layer that it had")
    seconds: float = column("wall time")


@record
class BuildRun:
    """One build."""

    order: str = column("`dependencies first` or `source first`")
    when: str = column("`first build` or `one line changed`")
    steps: tuple[Step, ...] = column("in order", shown=False)

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def ran(self) -> tuple[str, ...]:
        """The instructions that were not taken from the cache; FROM names an image and does nothing."""
        return tuple(
            step.instruction for step in self.steps if not step.cached and _creates_layer(step.instruction)
        )


def _creates_layer(instruction: str) -> bool:
    return not instruction.startswith(("FROM", "ARG"))


@record
class BuildCache(Result):
    """The same image from a Dockerfile in two orders, built, and built again after one line has changed."""

    builds: tuple[BuildRun, ...] = rows("four of them", of=BuildRun)

    def of(self, order: str, when: str) -> BuildRun:
        """One of the four."""
        return next(one for one in self.builds if (one.order, one.when) == (order, when))

    @property
    def saved_s(self) -> float:
        """What the better order saves each time that a line changes, in seconds."""
        slow, quick = (self.of(order, LINE_CHANGED).seconds for order in (SOURCE_FIRST, DEPENDENCIES_FIRST))
        return slow - quick

    def frame(self) -> pd.DataFrame:
        """One row a build and step: order, when, instruction, cached, seconds."""
        rows = [(b.order, b.when, s.instruction, s.cached, s.seconds) for b in self.builds for s in b.steps]
        return pd.DataFrame(rows, columns=["order", "when", "instruction", "cached", "seconds"])


DEPENDENCIES_FIRST, SOURCE_FIRST = "dependencies first", "source first"
FIRST_BUILD, LINE_CHANGED = "first build", "one line changed"


def build_cache(lab: Lab) -> BuildCache:
    """Build a Dockerfile in two orders, change one line of the source, and build both again.

    The first builds find nothing in the cache: a file that they copy is new in each call. Steps are those that
    the engine's classic builder tells of; the cache rules are the same in BuildKit (Docker docs, "Build cache
    invalidation").

    Raises:
        BuildFailed: a step failed.
    """
    base, salt = lab.image("tools"), str(time.time_ns())
    orders = {DEPENDENCIES_FIRST: recipes.DEPENDENCIES_FIRST, SOURCE_FIRST: recipes.SOURCE_FIRST}
    built = []
    with lab.quiet(["docker build"]):
        for order, (version, when) in product(orders, enumerate((FIRST_BUILD, LINE_CHANGED), 1)):
            watch = _BuildOutputParser()
            files = {
                "deps_txt": recipes.DEPS.format(salt=salt),
                "main_py": recipes.SOURCE.format(version=version),
            }
            tag = unique_name(lab, f"{order.split()[0]}:{version}")
            build(lab, orders[order].with_files(**files), tag, watch.see, BASE=base)
            built.append(BuildRun(order, when, watch.steps()))
    return BuildCache(tuple(built))


class _BuildOutputParser:
    """Reads steps from what the classic builder says: `Step 2/7 : COPY …`, and ` ---> Using cache`."""

    def __init__(self) -> None:
        self._begun: list[tuple[str, float]] = []
        self._cached: set[int] = set()

    def see(self, said: Mapping[str, Any]) -> None:
        text = str(said.get("stream", ""))
        if found := re.match(r"Step \d+/\d+ : (.*)", text):
            self._begun.append((found[1].strip(), time.monotonic()))
        elif "Using cache" in text and self._begun:
            self._cached.add(len(self._begun) - 1)

    def steps(self) -> tuple[Step, ...]:
        ends = [at for _, at in self._begun[1:]] + [time.monotonic()]
        steps = (
            Step(instruction, place in self._cached, end - at)
            for place, ((instruction, at), end) in enumerate(zip(self._begun, ends, strict=True))
        )
        # the lab's own labels are a last step that the Dockerfile does not have
        return tuple(step for step in steps if not step.instruction.startswith("LABEL labhelpers"))


# --- stages


@record
class Built:
    """An image that was built."""

    name: str = column("`one stage` or `two stages`")
    bytes: int = column("its size, as the engine says it")
    layers: int = column("how many it has")
    page: str = column("the page that it was built for")
    has_python: bool = column("whether the tool that made the page is still in it")


@record
class Stages(Result):
    """The same page in an image of one stage and in one of two."""

    one: Built = column("the images", shown=False)
    two: Built = column("the images", shown=False)

    @property
    def ratio(self) -> float:
        """How many times as large the image of one stage is."""
        return self.one.bytes / self.two.bytes

    def frame(self) -> pd.DataFrame:
        """One row an image: name, bytes, layers, has_python."""
        rows = [(one.name, one.bytes, one.layers, one.has_python) for one in (self.one, self.two)]
        return pd.DataFrame(rows, columns=["name", "bytes", "layers", "has_python"])


def stages(lab: Lab) -> Stages:
    """Make a page with Python: in one stage, and in a stage of its own that the image does not keep.

    Raises:
        BuildFailed: a step failed.
    """
    tools, small = lab.image("tools"), lab.image("payload")
    with lab.quiet(["docker build"]):
        one = build(lab, recipes.ONE_STAGE, unique_name(lab, "page:one"), BASE=tools)
        two = build(lab, recipes.MULTI_STAGE, unique_name(lab, "page:two"), BASE=tools, SMALL=small)
        return Stages(_built(lab, "one stage", one), _built(lab, "two stages", two))


def _built(lab: Lab, name: str, ref: str) -> Built:
    image = lab.inspect_image(ref)
    page, python = files_of(lab, ref, ("/www/index.html", "/usr/bin/python3"))
    assert page is not None  # the recipe makes it
    return Built(name, int(image["Size"]), len(image["RootFS"]["Layers"]), page, python is not None)


def files_of(lab: Lab, ref: str, paths: tuple[str, ...]) -> list[str | None]:
    """How files of an image begin (at most 1 MiB, as text); None for each that it does not have.

    The image must have a `true`.
    """
    with lab.running(ref, network="none", entrypoint="true") as container:
        return [_text_of(lab, str(container.id), path) for path in paths]


def _text_of(lab: Lab, container: str, path: str) -> str | None:
    try:
        chunks, _ = lab.client.api.get_archive(container, path)
    except NotFound:
        return None
    flow = BufferedSource(Chunks(chunks), path)
    first = next(members(flow))
    return flow.take(min(first.stored_bytes, _MAX_TEXT_BYTES)).decode(errors="replace")


# --- a secret


@record
class Copy:
    """A path in one layer."""

    layer: int = column("its number, the lowest is 0")
    instruction: str = column("what made the layer")
    kind: str = column("file, directory, link, … or `whiteout`")
    text: str = column("what the file holds, at most 1 MiB; empty for the others")


@record
class Recovered(Result):
    """A path in all layers of an image that have it."""

    path: str = column("as a container says it")
    copies: tuple[Copy, ...] = rows("from the lowest layer up", of=Copy)
    visible: bool = column("whether a container sees it")

    def frame(self) -> pd.DataFrame:
        """One row a layer that has the path: layer, instruction, kind, text."""
        rows = [(copy.layer, copy.instruction, copy.kind, copy.text) for copy in self.copies]
        return pd.DataFrame(rows, columns=["layer", "instruction", "kind", "text"])


def recover(lab: Lab, ref: str, path: str) -> Recovered:
    """Look for a path in every layer of an image, in what `docker save` sends.

    Raises:
        BadInput: `path` does not begin with a slash.
        ImageMissing: the engine does not have the image.
    """
    if not path.startswith("/"):
        raise BadInput(f"{path!r} is no path in an image", hint="write it from the root, such as /etc/motd")
    wanted = path.strip("/")
    stack = read_docker_save(
        lab, ref, lambda found, part: part.read(_MAX_TEXT_BYTES) if found == wanted else None
    )
    above, slash, name = wanted.rpartition("/")
    whiteout = f"{above}{slash}{trees.WHITEOUT}{name}"
    copies = []
    for layer in stack.layers:
        if whiteout in layer.entries:
            copies.append(Copy(layer.number, layer.instruction, "whiteout", ""))
        if wanted in layer.entries:
            text = layer.seen.get(wanted, b"").decode(errors="replace")
            copies.append(Copy(layer.number, layer.instruction, layer.entries[wanted].kind, text))
    return Recovered(path, tuple(copies), any(file.path == path for file in stack.union.files))


@record
class Leak:
    """A place where a secret can be read by everybody who has the image."""

    image: str = column("which image")
    place: str = column("`layer 1: /token.txt`, or `history: RUN …`; the secret itself is not in it")


@record
class Secrets(Result):
    """Three ways to use a secret in a build, and where it stays."""

    secret: str = column("a random text")
    refs: Mapping[str, str] = column("the way → its image", shown=False)
    leaks: tuple[Leak, ...] = rows("every place where the secret was found", of=Leak)

    def places(self, way: str) -> tuple[str, ...]:
        """Where an image holds the secret."""
        return tuple(leak.place for leak in self.leaks if leak.image == way)

    def frame(self) -> pd.DataFrame:
        """One row an image and place: image, place (`nowhere` where it was not found)."""
        rows = [(way, place) for way in self.refs for place in self.places(way) or ("nowhere",)]
        return pd.DataFrame(rows, columns=["image", "place"])


SECRET_RECIPES: Mapping[str, BuildContext] = {
    "deleted": recipes.DELETED,
    "argument": recipes.ARGUMENT,
    "other stage": recipes.OTHER_STAGE,
}


def secrets(lab: Lab) -> Secrets:
    """Build with a random secret in three ways, and look for it in all layers, the history and the settings.

    Raises:
        BuildFailed: a step failed.
    """
    secret, base = f"secret-{token_hex(8)}", lab.image("payload")
    refs, leaks = {}, []
    with lab.quiet(["docker build"]):
        for way, recipe in SECRET_RECIPES.items():
            if "token.txt" in recipe.files:
                recipe = recipe.with_files(token_txt=secret)
            arguments = {"BASE": base} | ({"TOKEN": secret} if way == "argument" else {})
            refs[way] = build(lab, recipe, unique_name(lab, f"{way.replace(' ', '-')}:1"), None, **arguments)
            leaks += [Leak(way, place) for place in find_leaks(lab, refs[way], secret)]
    return Secrets(secret, refs, tuple(leaks))


def find_leaks(lab: Lab, ref: str, secret: str) -> list[str]:
    """The places of an image where `secret` can be read.

    Raises:
        ImageMissing: the engine does not have the image.
    """
    stack = read_docker_save(lab, ref, _contains(secret.encode()))
    found = [f"layer {layer.number}: /{path}" for layer in stack.layers for path in layer.seen]
    steps = [str(step["CreatedBy"]) for step in lab.history_of(ref)]
    found += [f"history: {step.replace(secret, '…')[:60]}" for step in steps if secret in step]
    if secret in str(lab.inspect_image(ref).get("Config")):
        found.append("settings")
    return found


def _contains(needle: bytes) -> Callable[[str, LimitedSource], bool | None]:
    """Whether a file holds `needle`, read in pieces."""

    def look(path: str, part: LimitedSource) -> bool | None:
        end = b""
        while piece := part.read(_MAX_TEXT_BYTES):
            if needle in end + piece:
                return True
            end = piece[-len(needle) :]
        return None

    return look
