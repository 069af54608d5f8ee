"""The exercises of the chapter on image layers: the engine's state proves them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from labhelpers import state
from labhelpers.course.exercises import (
    Exercise,
    Task,
    container_named,
    file_in,
    keep,
    kept,
    not_running,
    running,
)
from labhelpers.drawing import human_bytes
from labhelpers.errors import ImageMissing
from labhelpers.lab.names import all_with_suffix, with_suffix
from labhelpers.layers import recipes
from labhelpers.layers.archives import FileCallback, ImageStack
from labhelpers.layers.builds import build, files_of
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.overlay import changes

if TYPE_CHECKING:
    from labhelpers.lab import Lab
    from labhelpers.layers.tarstream import LimitedSource

FAT, DIET, MOST_WASTE = with_suffix("fat:1"), with_suffix("diet:1"), 64 * 1024
LEAKY, TOKEN, FINDER = with_suffix("leaky:1"), "app/token.txt", with_suffix("finder")
ORDERED = all_with_suffix("ordered:1", "ordered:2")
MAIN, INSTALLED = "app/main.py", "app/installed"
WHITEOUT = with_suffix("one-whiteout")
OLD, CURRENT, BOARD = all_with_suffix("notice:1", "notice:latest", "notice-board")
SITE, MOST_SITE = with_suffix("site:1"), 4 * 1024 * 1024
PYTHON = re.compile(r"(^|/)bin/python[0-9.]*$")
# what an engine puts into every container, and `docker export` into its archive
ENGINES_OWN = (".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")


def folder(name: str) -> str:
    """A folder with what an exercise begins with, in the state directory; files that are there are kept.

    Args:
        name: `order` or `site`.
    """
    recipe = {"order": recipes.ORDER, "site": recipes.SITE}[name]
    path = state.path("work", f"02-{name}", "Dockerfile").parent
    path.mkdir(parents=True, exist_ok=True)
    for file, text in {"Dockerfile": recipe.dockerfile, **recipe.files}.items():
        if not (path / file).exists():
            (path / file).write_text(text, encoding="utf-8")
    return str(path)


# --- the same files, less waste


def diet(lab: Lab) -> Exercise:
    """An image with the same files as another one, and at most a given waste.

    Promises: a container of it sees what one of the given image sees, no path more or less and with the same
    contents; and its layers hold next to nothing that is stored twice, covered or deleted.
    """
    if not _is_kept(lab, FAT):
        if _no_image(lab, FAT):
            _build(lab, recipes.WASTEFUL, FAT, BASE=lab.image("payload"), SALT=token_hex(8))
        keep(lab, FAT, _id(lab, FAT))
    there = Task("there", f"There is an image {DIET}", lambda lab: _no_image(lab, DIET), _diet_there_hint)
    same = Task(
        "same", f"A container of it sees the same files as one of {FAT}", _same, _same_hint, ("there",)
    )
    waste = Task(
        "waste",
        f"At most {human_bytes(MOST_WASTE)} of it are in files that are stored more than once, covered or deleted",
        _waste,
        _waste_hint,
        ("there",),
    )
    return Exercise(lab, "02", "diet", "The same files, less waste", (there, same, waste), settle_s=0.5)


def _diet_there_hint(lab: Lab) -> str:
    return (
        f"Look at {FAT} first: layers.image_layers(lab, {FAT!r}). Then write a Dockerfile whose image ends with "
        "the same files. COPY --from takes files from another image, as they are seen in it."
    )


def _same(lab: Lab) -> str | None:
    mine, given = _contents(lab, DIET), _contents(lab, kept(lab, FAT))
    if missing := sorted(given.keys() - mine.keys()):
        return f"/{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else "")
    if extra := sorted(mine.keys() - given.keys()):
        return f"/{extra[0]} is in {DIET} and not in {FAT}"
    other = sorted(path for path in given if given[path] != mine[path])
    return f"/{other[0]} is not the same in both" if other else None


def _same_hint(lab: Lab) -> str:
    if "data" in (_same(lab) or ""):
        return f"/data holds random bytes: they cannot be made again, only taken from {FAT} itself."
    return f"Compare the two: layers.image_layers(lab, IMAGE).union lists what a container sees of {DIET} and of {FAT}."


def _waste(lab: Lab) -> str | None:
    stack = _stack(lab, DIET)
    if stack.wasted_bytes > MOST_WASTE:
        return f"{human_bytes(stack.wasted_bytes)} are in files that are stored more than once"
    hidden = stack.bytes - sum(file.bytes for file in stack.union.files)
    return (
        None if hidden <= MOST_WASTE else f"{human_bytes(hidden)} are in files that no container of it sees"
    )


def _waste_hint(lab: Lab) -> str:
    if "no container of it sees" in (_waste(lab) or ""):
        return "What one layer holds and a later one deletes stays in the image. Make it and delete it in one step."
    worst = _stack(lab, DIET).wasted_files[0]
    deep = len(_stack(lab, DIET).layers) > len(_stack(lab, kept(lab, FAT)).layers)
    more = f" A layer on top of {FAT} only adds: nothing below it gets smaller." if deep else ""
    return f"The largest is {worst.path}, in {worst.count} layers: {human_bytes(worst.bytes)} together.{more}"


# --- the layer that holds the secret


def secret_layer(lab: Lab) -> Exercise:
    """Find the layer that still holds a deleted file, and what the file says.

    Promises: two files with the diff id and the secret of the given image. Its secret is random, and another image
    that gets its name changes neither.
    """
    if not _is_kept(lab, LEAKY):
        if _no_image(lab, LEAKY):
            recipe = recipes.LEAKED_SECRET.with_files(token_txt=token_hex(8))
            _build(lab, recipe, LEAKY, BASE=lab.image("payload"))
        keep(lab, LEAKY, _id(lab, LEAKY))
    runs = Task(
        "runs",
        f"A container {FINDER} runs",
        lambda lab: not_running(lab, FINDER),
        "Any image with a shell will do; labhelpers/payload has a command that stays.",
    )
    layer = Task(
        "layer",
        f"Its file /layer holds the diff id of the layer of {LEAKY} that holds /{TOKEN}",
        _layer,
        _layer_hint,
        ("runs",),
    )
    secret = Task("secret", "Its file /secret holds what that file says", _secret, _secret_hint, ("runs",))
    tasks = (runs, layer, secret)
    return Exercise(lab, "02", "secret-layer", "The layer that holds the secret", tasks, containers=(FINDER,))


def _layer(lab: Lab) -> str | None:
    written = file_in(lab, FINDER, "/layer")
    stack = _stack(lab, kept(lab, LEAKY))
    holds = next(layer for layer in stack.layers if TOKEN in layer.entries)
    if not written:
        return f"{FINDER} has no file /layer, or it is empty"
    if written == holds.diff_id:
        return None
    if written == kept(lab, LEAKY):
        return "/layer holds the image's id, which is no layer"
    if any(written == layer.diff_id for layer in stack.layers):
        return "/layer holds the diff id of another layer"
    return f"/layer holds “{written[:71]}”, which is no diff id of {LEAKY}"


def _layer_hint(lab: Lab) -> str:
    if "another layer" in (_layer(lab) or ""):
        return (
            "The layer that deletes a file holds a whiteout, not the file. Which instruction brought it? Layers "
            "and instructions stand in the same order, from the lowest."
        )
    return (
        f"layers.image_layers(lab, {LEAKY!r}) lists the layers with their diff ids and instructions; so do `docker "
        "history` and `docker image inspect`. A diff id begins with sha256:."
    )


def _secret(lab: Lab) -> str | None:
    written = file_in(lab, FINDER, "/secret")
    if not written:
        return f"{FINDER} has no file /secret, or it is empty"
    return None if written == _token(lab) else "/secret does not hold what the file says"


def _secret_hint(lab: Lab) -> str:
    return (
        f"`docker save` writes all layers, those that are covered too. layers.recover(lab, {LEAKY!r}, PATH) looks "
        "into each of them; a tar that you unpack by hand shows the same."
    )


def _token(lab: Lab) -> str:
    found = (layer.seen.get(TOKEN) for layer in _stack(lab, kept(lab, LEAKY)).layers)
    return str(next(digest for digest in found if digest)[1])


# --- the order of a Dockerfile


def order(lab: Lab) -> Exercise:
    """Order a Dockerfile so that a change of the source rebuilds one step.

    Promises: two images of the same steps, of which one was built again: it holds main.py, and nothing else of the
    image does; what install.py made lies in a layer that both share. An image that stands on the other one, with the
    new file on top, has kept no cache, and one of a single layer neither.
    """
    folder("order")
    both = Task(
        "both",
        f"There are two images, {ORDERED[0]} and {ORDERED[1]}",
        lambda lab: next((missing for ref in ORDERED if (missing := _no_image(lab, ref))), None),
        "Build the folder twice, with two tags, and change main.py between the two builds.",
    )
    work = Task(
        "work",
        "Each has /app/main.py, and /app/installed, which install.py makes",
        _has_work,
        "Every file of the folder is needed in the end; only when it is copied may change.",
        ("both",),
    )
    changed = Task(
        "changed",
        "Their main.py differ",
        _source_changed,
        "Change the line in main.py, then build again with the second tag.",
        ("work",),
    )
    one = Task("one", "They differ in one layer only", _one_layer, _one_layer_hint, ("changed",))
    return Exercise(lab, "02", "order", "The order that keeps the cache", (both, work, changed, one))


def _has_work(lab: Lab) -> str | None:
    for ref in ORDERED:
        source, installed = _files(lab, ref, "/app/main.py", "/app/installed")
        if source is None or installed is None:
            return f"{ref} has no {'/app/main.py' if source is None else '/app/installed'}"
    return None


def _source_changed(lab: Lab) -> str | None:
    old, new = (_files(lab, ref, "/app/main.py", "/app/installed")[0] for ref in ORDERED)
    return f"main.py is the same in {ORDERED[0]} and {ORDERED[1]}" if old == new else None


def _only_in(lab: Lab, ref: str, other: str) -> list[str]:
    """The layers of an image that another does not have."""
    mine, theirs = (list(lab.inspect_image(name)["RootFS"]["Layers"]) for name in (ref, other))
    return [layer for layer in mine if layer not in theirs]


def _one_layer(lab: Lab) -> str | None:
    new, old = _only_in(lab, ORDERED[1], ORDERED[0]), _only_in(lab, ORDERED[0], ORDERED[1])
    if len(new) != 1:
        return f"{len(new)} layers of {ORDERED[1]} are not in {ORDERED[0]}"
    if not old:
        return f"{ORDERED[1]} stands on {ORDERED[0]}: that is a layer more, and not one step of a build run again"
    if len(old) != 1:
        return f"{len(old)} layers of {ORDERED[0]} are not in {ORDERED[1]}"
    for ref, (changed,) in zip(ORDERED, (old, new), strict=True):
        layers = _headers(lab, ref).layers
        holders = [layer.diff_id for layer in layers if MAIN in layer.entries]
        if holders != [changed]:
            return f"{len(holders)} layers of {ref} hold main.py, and only the one that differs should"
        shared = [layer for layer in layers if layer.diff_id != changed]
        if not any(INSTALLED in layer.entries for layer in shared):
            return "the layer that differs holds /app/installed too: install.py runs again for every change"
        if not any(path.endswith(".opt-2.pyc") for layer in shared for path in layer.entries):
            return f"{ref} has /app/installed, and nothing that install.py has compiled"
    return None


def _one_layer_hint(lab: Lab) -> str:
    if "stands on" in (_one_layer(lab) or ""):
        return "Both come from one Dockerfile, in the folder, which is built twice. What differs is main.py alone."
    return (
        "A step is taken from the cache as long as its instruction, what it copies, and every step before it are "
        "the same. COPY . copies main.py too, so all after it runs again: what can stand before it?"
    )


# --- one whiteout


def one_whiteout(lab: Lab) -> Exercise:
    """A container whose upper layer has exactly one whiteout.

    Promises: the kernel's mark is in the upper directory once, by whatever made it: a file or a directory that was
    deleted or moved away. What the container made itself and deleted leaves none.
    """
    runs = Task(
        "runs",
        f"A container {WHITEOUT} runs",
        lambda lab: not_running(lab, WHITEOUT),
        "Any image with a shell will do; labhelpers/payload has a command that stays.",
    )
    one = Task("one", "Its upper layer has exactly one whiteout", _whiteouts, _whiteouts_hint, ("runs",))
    return Exercise(lab, "02", "one-whiteout", "Exactly one whiteout", (runs, one), 0.5, (WHITEOUT,))


def _whiteouts(lab: Lab) -> str | None:
    # the engine's own list costs little; only when something is deleted does a helper look at upper
    if not any(row["Kind"] == 2 for row in lab.changes_of(running(lab, WHITEOUT))):
        return "its upper layer has no whiteout"
    count = len(changes(lab, running(lab, WHITEOUT)).whiteouts)
    return None if count == 1 else f"its upper layer has {count or 'no'} whiteout{'s' if count > 1 else ''}"


def _whiteouts_hint(lab: Lab) -> str:
    said = _whiteouts(lab) or ""
    if "no whiteout" in said and (found := lab.changes_of(running(lab, WHITEOUT))):
        added = next((row["Path"] for row in found if row["Kind"] == 1), None)
        if any(row["Kind"] == 2 for row in found):
            return "A directory that is deleted and made again is marked opaque: that is no whiteout."
        if added:
            return f"{added} is new: the image does not have it, so deleting it leaves nothing. What does it have?"
    if "no whiteout" in said:
        return "A whiteout is needed where the image still has what the container deletes."
    return (
        "Each deleted name is one whiteout, also a directory with all that is in it. `docker diff` lists them as "
        "D. Deleted files can be written again; a new container begins with an empty layer."
    )


# --- going back


def go_back(lab: Lab) -> Exercise:
    """Return a name to an older image, and run it.

    Promises: the name `latest` is the image that the exercise began with under the older name, not one built again
    or a third one with both names; and a container of that very image runs.
    """
    if not _is_kept(lab, OLD):
        if _no_image(lab, OLD):
            _build(lab, recipes.NOTICE, OLD, BASE=lab.image("payload"))
            _build(lab, recipes.NOTICE_CHANGED, CURRENT, BASE=OLD)
        keep(lab, OLD, _id(lab, OLD))
    name = Task("name", f"{CURRENT} is the image that {OLD} is", _is_old, _is_old_hint)
    runs = Task(
        "runs",
        f"A container {BOARD} runs, and is made from that image",
        _board,
        _board_hint,
        ("name",),
    )
    return Exercise(lab, "02", "go-back", "Back to the older image", (name, runs), containers=(BOARD,))


def _is_old(lab: Lab) -> str | None:
    for ref in (OLD, CURRENT):
        if missing := _no_image(lab, ref):
            return missing
    old, current = (_id(lab, ref) for ref in (OLD, CURRENT))
    if "closed" in (_files(lab, OLD, "/notice")[0] or ""):
        return f"{OLD} is the changed image now"
    if old != kept(lab, OLD):
        return f"{OLD} is not the image any more that this exercise began with"
    return None if old == current else f"{CURRENT} is another image than {OLD}"


def _is_old_hint(lab: Lab) -> str:
    if "changed image now" in (_is_old(lab) or ""):
        return (
            "The name moved the wrong way. The older image may have no name now: `docker images -a` and `docker "
            "history` still know its id."
        )
    return "An image never changes; names do. Nothing has to be built: `docker tag` gives an image a name."


def _board(lab: Lab) -> str | None:
    if missing := not_running(lab, BOARD):
        return missing
    if running(lab, BOARD).attrs["Image"] == _id(lab, CURRENT):
        return None
    return f"{BOARD} is made from another image than {CURRENT} is now"


def _board_hint(lab: Lab) -> str:
    if container_named(lab, BOARD) is None:
        return f"Start one from {CURRENT}: it has a command that stays."
    return "A container keeps the image that it was made from, whatever the name means later: make a new container."


# --- two stages


def small_site(lab: Lab) -> Exercise:
    """An image with a page, and without what made the page.

    Promises: a container of it has the page, byte for byte, and no Python in any directory of programs; and all
    layers together are small, so that nothing large was deleted in a later one.
    """
    folder("site")
    there = Task(
        "there",
        f"There is an image {SITE}",
        lambda lab: _no_image(lab, SITE),
        "The folder has a Dockerfile that works; build it, and look at its size.",
    )
    page = Task(
        "page",
        "Its /www/index.html is the page that page.py prints",
        _page,
        "Run page.py in the build, and keep what it prints as /www/index.html.",
        ("there",),
    )
    small = Task(
        "small", f"It has at most {human_bytes(MOST_SITE)}, and no Python", _small, _small_hint, ("there",)
    )
    return Exercise(lab, "02", "small-site", "A page without its tools", (there, page, small))


def _page(lab: Lab) -> str | None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(recipes.PAGE, {})
    found = _contents(lab, SITE).get("www/index.html")
    if found is None:
        return f"{SITE} has no /www/index.html"
    right = hashlib.sha256(said.getvalue().encode()).hexdigest()
    return None if found[1] == right else "/www/index.html is another page"


def _small(lab: Lab) -> str | None:
    size = _stack(lab, SITE).bytes
    if any(PYTHON.search(path) for path in _contents(lab, SITE)):
        return f"it has Python in it: {human_bytes(size)}"
    return None if size <= MOST_SITE else f"its layers hold {human_bytes(size)}"


def _small_hint(lab: Lab) -> str:
    if "Python" in (_small(lab) or ""):
        return (
            "What a RUN deletes stays in the layer below. A second FROM begins anew, from a small image such as "
            "labhelpers/payload; COPY --from takes one file out of the first stage."
        )
    return "Deleted files are still in lower layers. Which image is the last FROM?"


# --- looking


def _build(lab: Lab, recipe: recipes.BuildContext, ref: str, **arguments: str) -> None:
    """Build what an exercise begins with; the command would give a part of the answer."""
    with lab.hidden():
        build(lab, recipe, ref, None, **arguments)


def _id(lab: Lab, ref: str) -> str:
    return str(lab.inspect_image(ref)["Id"])


def _no_image(lab: Lab, ref: str) -> str | None:
    try:
        lab.inspect_image(ref)
    except ImageMissing:
        return f"the engine has no image {ref}"
    return None


# an image never changes: what was found in one is right for ever
_STACKS: dict[str, ImageStack] = {}
_HEADERS: dict[str, ImageStack] = {}
_FILES: dict[tuple[str, tuple[str, ...]], list[str | None]] = {}


def _stack(lab: Lab, ref: str) -> ImageStack:
    """The layers of an image, with the digest of every file."""
    id = _id(lab, ref)
    if id not in _STACKS:
        _STACKS[id] = read_docker_save(lab, id, _hashed())
    return _STACKS[id]


def _is_kept(lab: Lab, name: str) -> bool:
    """Whether the image that an exercise began with under that name is still on the engine."""
    return bool(kept(lab, name)) and not _no_image(lab, kept(lab, name))


def _headers(lab: Lab, ref: str) -> ImageStack:
    """The layers of an image without what is in its files: a large one takes a second."""
    id = _id(lab, ref)
    if id not in _HEADERS:
        _HEADERS[id] = read_docker_save(lab, id)
    return _HEADERS[id]


def _hashed() -> FileCallback:
    def look(path: str, part: LimitedSource) -> tuple[str, str]:
        total, first = hashlib.sha256(), b""
        while piece := part.read(1 << 20):
            total.update(piece)
            first = first or piece[:100]
        return total.hexdigest(), first.decode(errors="replace").strip()

    return look


def _contents(lab: Lab, ref: str) -> Mapping[str, tuple[str, Any]]:
    """Path → kind and digest of every file that a container sees, without the engine's own."""
    stack = _stack(lab, ref)
    files = ((file.path.strip("/"), file.layer) for file in stack.union.files)
    return {
        path: (stack.layers[layer].entries[path].kind, (stack.layers[layer].seen.get(path) or ("",))[0])
        for path, layer in files
        if path not in ENGINES_OWN and not path.startswith("dev/")
    }


def _files(lab: Lab, ref: str, *paths: str) -> list[str | None]:
    key = (_id(lab, ref), paths)
    if key not in _FILES:
        with lab.hidden():
            _FILES[key] = files_of(lab, key[0], paths)
    return _FILES[key]
